"""Views cut in tensors are Pillow's, value for value; what runs on the CPU here is what runs on a GPU."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from featcache.images import views_on_device
from featcache.images.views import Box, View, render, view_of
from featcache.images.views_on_device import render_on_device
from featcache.settings import INTERPOLATIONS, ViewSettings
from head.demo import draw

Pixels = NDArray[np.uint8]


def noise(width: int, height: int, *, steps: int = 255) -> Pixels:
    """Return an image of random values; two steps make only black and white, the largest differences there are."""
    values = np.random.default_rng([width, height]).integers(0, steps + 1, (height, width, 3))
    return (values * (255 // steps)).astype(np.uint8)


def expected(image: Pixels, views: list[View], how: int | ViewSettings) -> Pixels:
    how = sized(how)
    return np.stack([render(Image.fromarray(image), view, how) for view in views])


def sized(how: int | ViewSettings) -> ViewSettings:
    return ViewSettings(image_size=how) if isinstance(how, int) else how


def random_views(image: Pixels, count: int, eval_view: str = "squash") -> list[View]:
    height, width, _ = image.shape
    recipe = ViewSettings(eval_view=eval_view)
    return [view_of(recipe, "a.jpg", view, width=width, height=height) for view in range(count)]


@settings(deadline=None, max_examples=200)
@given(
    width=st.integers(1, 331),
    height=st.integers(1, 337),
    size=st.sampled_from([16, 23, 64]),
    steps=st.sampled_from([1, 3, 255]),
    flip=st.booleans(),
    interpolation=st.sampled_from(INTERPOLATIONS),
    data=st.data(),
)
def test_every_box_gives_pillows_pixels(
    width: int, height: int, size: int, steps: int, flip: bool, interpolation: str, data: st.DataObject
) -> None:
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    image, view = noise(width, height, steps=steps), View(Box(left, top, right, bottom), flip)
    how = ViewSettings(image_size=size, interpolation=interpolation)
    found = render_on_device(torch.from_numpy(image), [view], how)
    np.testing.assert_array_equal(found.numpy(), expected(image, [view], how))


@pytest.mark.parametrize("eval_view", ["squash", "center"])
@pytest.mark.parametrize("seed", range(3))
def test_all_views_of_a_picture_are_pillows_pixels(seed: int, eval_view: str) -> None:
    picture, _ = draw(np.random.default_rng(seed))
    image = np.array(picture.resize((487, 397), Image.Resampling.BICUBIC))
    views = random_views(image, 11, eval_view)
    assert {view.flip for view in views} == {False, True}
    found = render_on_device(torch.from_numpy(image), views, sized(224))
    assert (found.shape, found.dtype) == ((11, 224, 224, 3), torch.uint8)
    np.testing.assert_array_equal(found.numpy(), expected(image, views, 224))


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (1, 1),
        (2, 1),
        (1, 2),
        (4001, 1),
        (1, 4001),
        (4001, 20),
        (20, 4001),
        (2003, 1499),
        (64, 64),
        (64, 131),
        (131, 64),
    ],
)
def test_sizes_at_the_edges_are_pillows_pixels(width: int, height: int) -> None:
    image = noise(width, height, steps=1)
    views = random_views(image, 3)
    found = render_on_device(torch.from_numpy(image), views, sized(64))
    np.testing.assert_array_equal(found.numpy(), expected(image, views, 64))


# with size 64, the columns go first where the height loses more than twice what the width does
@settings(deadline=None)
@given(width=st.integers(1, 90), height=st.integers(60, 180))
@example(width=80, height=64 + 32)
@example(width=80, height=64 + 33)
@example(width=40, height=64)
@example(width=40, height=65)
def test_the_axis_that_goes_first_is_pillows(width: int, height: int) -> None:
    image = noise(width, height)
    view = View(Box(0, 0, width, height), flip=False)
    found = render_on_device(torch.from_numpy(image), [view], sized(64))
    np.testing.assert_array_equal(found.numpy(), expected(image, [view], 64))


def test_a_box_of_one_pixel_is_that_pixel_everywhere() -> None:
    image = noise(13, 11)
    found = render_on_device(torch.from_numpy(image), [View(Box(7, 5, 8, 6), flip=True)], sized(17))
    assert bool((found == torch.from_numpy(image[5, 7])).all())


def test_a_mirrored_view_is_the_view_mirrored() -> None:
    image, box = torch.from_numpy(noise(61, 53)), Box(3, 5, 47, 43)
    plain, mirrored = render_on_device(image, [View(box, False), View(box, True)], sized(29))
    torch.testing.assert_close(mirrored, plain.flip(1), rtol=0, atol=0)


def test_a_view_of_its_own_size_is_the_pixels_themselves() -> None:
    image = noise(37, 31)
    found = render_on_device(torch.from_numpy(image), [View(Box(3, 5, 26, 28), flip=False)], sized(23))
    np.testing.assert_array_equal(found[0].numpy(), image[5:28, 3:26])


def test_one_colour_stays_that_colour() -> None:
    for value in (0, 1, 127, 254, 255):
        image = torch.full((97, 389, 3), value, dtype=torch.uint8)
        found = render_on_device(image, [View(Box(1, 2, 380, 90), flip=False)], sized(61))
        assert bool((found == value).all())


def test_an_image_need_not_be_contiguous() -> None:
    planes = noise(43, 41).transpose(2, 0, 1).copy()
    image = torch.from_numpy(planes).permute(1, 2, 0)[::2]  # (H, W, 3), channels first in memory, every other row
    views = random_views(image.numpy(), 5)
    assert not image.is_contiguous()
    found = render_on_device(image, views, sized(19))
    np.testing.assert_array_equal(found.numpy(), expected(np.ascontiguousarray(image), views, 19))


def test_the_result_is_where_the_image_is_and_the_image_is_left_alone() -> None:
    image = torch.from_numpy(noise(31, 37))
    before = image.clone()
    found = render_on_device(image, random_views(image.numpy(), 2), sized(16))
    assert found.device == image.device
    assert found.is_contiguous()
    assert torch.equal(image, before)


def test_no_views_are_none() -> None:
    assert render_on_device(torch.from_numpy(noise(5, 7)), [], sized(16)).shape == (0, 16, 16, 3)


def test_rows_are_resized_in_parts_that_bound_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(211, 103)
    views = random_views(image, 4)
    monkeypatch.setattr(views_on_device, "_MOST_PRODUCTS", 1)
    found = render_on_device(torch.from_numpy(image), views, sized(16))
    np.testing.assert_array_equal(found.numpy(), expected(image, views, 16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_pillows_pixels() -> None:
    image = noise(487, 397)
    views = random_views(image, 11)
    found = render_on_device(torch.from_numpy(image).cuda(), views, sized(224))
    assert found.is_cuda
    np.testing.assert_array_equal(found.cpu().numpy(), expected(image, views, 224))
