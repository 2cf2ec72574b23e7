"""Boxes and flips are a function of (seed, image name, view); pixels are torchvision's for the same box."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop, functional

from featcache.base.errors import InvalidSettings
from featcache.images.views import Box, View, render, sources_of, view_of
from featcache.settings import ViewSettings, view_settings_of

PAPER = ViewSettings()
PUBLISHED = view_settings_of("published")
SIDE = st.integers(1, 5000)
NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def fractions_and_ratios(
    recipe: ViewSettings, count: int, *, width: int, height: int
) -> tuple[list[float], list[float]]:
    """Return area fraction and aspect ratio of the boxes of `count` images."""
    boxes = [view_of(recipe, f"{i}.jpg", 1, width=width, height=height).box for i in range(count)]
    sizes = [(right - left, bottom - top) for left, top, right, bottom in boxes]
    return [w * h / (width * height) for w, h in sizes], [w / h for w, h in sizes]


@pytest.mark.parametrize(
    ("seed", "name", "view", "width", "height", "expected"),
    [
        (0, "a.jpg", 1, 640, 480, ((30, 26, 571, 436), False)),
        (0, "a.jpg", 2, 640, 480, ((17, 42, 514, 478), False)),
        (0, "b.jpg", 1, 640, 480, ((48, 0, 236, 209), True)),
        (7, "a.jpg", 1, 640, 480, ((182, 227, 384, 466), False)),
        (0, "写真/猫 2.jpg", 11, 333, 1009, ((9, 575, 290, 800), False)),
        (0, "a.jpg", 1, 1, 200, ((0, 99, 1, 100), True)),
    ],
)
def test_views_are_the_same_in_every_version(
    seed: int, name: str, view: int, width: int, height: int, expected: tuple[tuple[int, int, int, int], bool]
) -> None:
    assert view_of(ViewSettings(seed=seed), name, view, width=width, height=height) == expected


def test_seed_name_and_view_each_make_another_view() -> None:
    views = {
        view_of(ViewSettings(seed=seed), name, view, width=1009, height=1013)
        for seed in (0, 1, 10)
        for name in ("a.jpg", "b.jpg", "0")
        for view in (1, 2, 11)
    }
    assert len(views) == 27


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), name=NAME, view=st.integers(0, 99), width=SIDE, height=SIDE)
def test_a_view_does_not_depend_on_what_was_drawn_before(
    seed: int, name: str, view: int, width: int, height: int
) -> None:
    first = view_of(ViewSettings(seed=seed), name, view, width=width, height=height)
    view_of(ViewSettings(seed=seed), f"{name}'", view + 1, width=height, height=width)
    assert view_of(ViewSettings(seed=seed), name, view, width=width, height=height) == first


def central_box(recipe: ViewSettings, width: int, height: int) -> Box:
    """Return the largest central box whose ratio the recipe allows: torchvision's last resort."""
    low, high = recipe.crop_ratio
    w, h = width, height
    if width / height < low:
        h = round(width / low)
    elif width / height > high:
        w = round(height * high)
    left, top = (width - w) // 2, (height - h) // 2
    return Box(left, top, left + w, top + h)


@settings(deadline=None, max_examples=300)
@given(
    name=NAME,
    view=st.integers(1, 99),
    width=SIDE,
    height=SIDE,
    scale=st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)).map(lambda pair: (min(pair), max(pair))),
    ratio=st.tuples(st.floats(0.6, 1.7), st.floats(0.6, 1.7)).map(lambda pair: (min(pair), max(pair))),
)
@example(name="a", view=1, width=1, height=1, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
@example(name="a", view=1, width=1, height=200, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
@example(name="a", view=1, width=5000, height=2, scale=(1e-6, 1e-6), ratio=(0.6, 0.6))
def test_a_box_lies_in_the_image_and_has_the_area_and_ratio_asked_for(
    name: str, view: int, width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    recipe = ViewSettings(crop_scale=scale, crop_ratio=ratio)
    box = view_of(recipe, name, view, width=width, height=height).box
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height
    if box != central_box(recipe, width, height):
        w, h = box.right - box.left, box.bottom - box.top  # each rounded by at most a half
        near = 1e-9
        assert (w - 0.5) * (h - 0.5) <= scale[1] * width * height + near
        assert (w + 0.5) * (h + 0.5) >= scale[0] * width * height - near
        assert (w - 0.5) / (h + 0.5) <= ratio[1] + near
        assert (w + 0.5) / (h - 0.5) >= ratio[0] - near


def test_areas_and_ratios_are_distributed_as_torchvisions() -> None:
    areas, ratios = fractions_and_ratios(PAPER, 1009, width=640, height=480)
    torch_areas, torch_ratios = [], []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(1009):
            _, _, h, w = RandomResizedCrop.get_params(torch.empty(3, 480, 640), [0.08, 1.0], [3 / 4, 4 / 3])
            torch_areas.append(w * h / (640 * 480))
            torch_ratios.append(w / h)
    assert ks_2samp(areas, torch_areas).pvalue > 0.01
    assert ks_2samp(ratios, torch_ratios).pvalue > 0.01


def test_boxes_are_anywhere_with_the_same_chance() -> None:
    recipe = ViewSettings(crop_scale=(0.01, 0.01), crop_ratio=(1, 1))
    boxes = [view_of(recipe, f"{i}", 1, width=10_000, height=10_000).box for i in range(1009)]
    for starts in zip(*boxes, strict=True):
        low = 0 if min(starts) < 500 else 1000
        assert kstest([(start - low) / 9000 for start in starts], "uniform").pvalue > 0.01


def test_about_half_of_the_views_are_mirrored_whatever_their_box() -> None:
    views = [view_of(PAPER, f"{i}.jpg", 1, width=640, height=480) for i in range(2003)]
    flips = np.array([view.flip for view in views])
    lefts = np.array([view.box.left for view in views])
    assert abs(flips.mean() - 0.5) < 3 * 0.5 / math.sqrt(len(flips))
    assert abs(np.corrcoef(flips, lefts)[0, 1]) < 3 / math.sqrt(len(flips))


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (256, 256, (16, 16, 240, 240)),
        (512, 256, (144, 16, 368, 240)),
        (256, 341, (16, 58, 240, 282)),
        (640, 480, (110, 30, 530, 450)),
        (1, 1, (0, 0, 1, 1)),
        (1, 150, (0, 74, 1, 75)),
        (8, 8, (0, 0, 7, 7)),
    ],
)
def test_the_centre_view_is_seven_eighths_of_the_shorter_side(
    width: int, height: int, box: tuple[int, int, int, int]
) -> None:
    assert view_of(PAPER, "a.jpg", 0, width=width, height=height) == (box, False)


@given(width=SIDE, height=SIDE, name=NAME, seed=st.integers(0, 2**63 - 1))
def test_the_centre_view_is_a_square_in_the_middle(width: int, height: int, name: str, seed: int) -> None:
    (left, top, right, bottom), flip = view_of(ViewSettings(seed=seed), name, 0, width=width, height=height)
    assert not flip
    assert right - left == bottom - top == max(1, round(0.875 * min(width, height)))
    assert 0 <= width - right - left <= 1
    assert 0 <= height - bottom - top <= 1


@given(width=SIDE, height=SIDE)
def test_the_squash_view_is_the_whole_image(width: int, height: int) -> None:
    recipe = ViewSettings(eval_view="squash")
    assert view_of(recipe, "a.jpg", 0, width=width, height=height) == ((0, 0, width, height), False)


@settings(deadline=None, max_examples=50)
@given(
    width=st.integers(1, 97),
    height=st.integers(1, 89),
    flip=st.booleans(),
    size=st.sampled_from([16, 23]),
    data=st.data(),
)
def test_pixels_are_torchvisions(width: int, height: int, flip: bool, size: int, data: st.DataObject) -> None:
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    image = Image.fromarray(np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8))
    pixels = render(image, View(Box(left, top, right, bottom), flip), ViewSettings(image_size=size))
    wanted = functional.resized_crop(image, top, left, bottom - top, right - left, [size, size], antialias=True)
    assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
    np.testing.assert_array_equal(pixels, np.asarray(functional.hflip(wanted) if flip else wanted))


def test_a_view_of_its_own_size_is_the_pixels_themselves() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 37, 3), np.uint8))
    box = Box(3, 5, 26, 28)
    np.testing.assert_array_equal(
        render(image, View(box, False), ViewSettings(image_size=23)), np.asarray(image)[5:28, 3:26]
    )
    np.testing.assert_array_equal(
        render(image, View(box, True), ViewSettings(image_size=23)), np.asarray(image)[5:28, 3:26][:, ::-1]
    )


def test_the_recipes_are_the_papers_and_the_published_codes() -> None:
    assert view_settings_of("paper") == PAPER
    assert (PUBLISHED.eval_view, PUBLISHED.pre_squash, PUBLISHED.crop_scale) == ("squash", 264, (0.08, 1.0))
    assert view_settings_of("published", image_size=64).pre_squash == 75  # 64 * 264 / 224 is 75.4
    assert view_settings_of("published", eval_view="center").eval_view == "center"
    assert view_settings_of("paper", eval_view="squash", crop_scale=(0.5, 0.7), seed=3) == ViewSettings(
        eval_view="squash", crop_scale=(0.5, 0.7), seed=3
    )
    with pytest.raises(InvalidSettings, match="--recipe must be one of paper, published, model, found 'papre'"):
        view_settings_of("papre")


@settings(deadline=None, max_examples=50)
@given(width=st.integers(1, 499), height=st.integers(1, 491), name=NAME, view=st.integers(1, 99))
def test_published_views_are_crops_of_the_squashed_image(width: int, height: int, name: str, view: int) -> None:
    image = Image.fromarray(np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8))
    box, flip = view_of(PUBLISHED, name, view, width=width, height=height)
    assert (box, flip) == view_of(PAPER, name, view, width=264, height=264)
    (source,) = sources_of(image, range(view, view + 1), PUBLISHED)
    wanted = np.asarray(image.resize((264, 264), Image.Resampling.BILINEAR).crop(box).resize(
        (224, 224), Image.Resampling.BILINEAR))  # fmt: skip
    np.testing.assert_array_equal(
        render(source, View(box, flip), ViewSettings(image_size=224)), wanted[:, ::-1] if flip else wanted
    )


def test_published_views_are_those_of_torchvision() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (331, 487, 3), np.uint8))
    box, flip = view_of(PUBLISHED, "b.jpg", 1, width=487, height=331)
    assert flip
    left, top, right, bottom = box
    squashed = functional.resize(image, [264, 264])
    wanted = functional.hflip(functional.resized_crop(squashed, top, left, bottom - top, right - left, [224, 224]))
    (source,) = sources_of(image, range(1, 2), PUBLISHED)
    np.testing.assert_array_equal(render(source, View(box, flip), ViewSettings(image_size=224)), np.asarray(wanted))


def test_an_image_is_squashed_once_for_all_its_augmented_views_and_never_for_the_first() -> None:
    image = Image.new("RGB", (31, 37))
    first, *others = sources_of(image, range(5), PUBLISHED)
    assert first is image
    assert [other is others[0] for other in others] == [True] * 4
    assert others[0].size == (264, 264)
    assert sources_of(image, range(1), PUBLISHED) == [image]
    assert all(source is image for source in sources_of(image, range(5), PAPER))
    assert view_of(PUBLISHED, "a.jpg", 0, width=31, height=37) == ((0, 0, 31, 37), False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_size": 15}, "--image-size must be 16 to 4096 pixels, found 15"),
        ({"image_size": 4097}, "--image-size must be 16 to 4096 pixels, found 4097"),
        ({"eval_view": "centre"}, "--eval-view must be one of center, squash, squash-center, found 'centre'"),
        ({"seed": -1}, "--seed must be 0 to 2^63 - 1, found -1"),
        ({"seed": 2**63}, "--seed must be 0 to 2^63 - 1, found 9223372036854775808"),
        ({"crop_scale": (0.0, 1.0)}, "--crop-scale must be two numbers with 0 < LOW <= HIGH <= 1, found 0.0 1.0"),
        ({"crop_scale": (0.5, 0.4)}, "--crop-scale must be two numbers with 0 < LOW <= HIGH <= 1, found 0.5 0.4"),
        ({"crop_scale": (0.5, 1.1)}, "--crop-scale must be two numbers with 0 < LOW <= HIGH <= 1, found 0.5 1.1"),
        ({"crop_scale": (math.nan, 1.0)}, "--crop-scale must be two numbers with 0 < LOW <= HIGH <= 1, found nan 1.0"),
        ({"crop_ratio": (0.0, 1.0)}, "the crop ratio must be 0 < LOW <= HIGH, found (0.0, 1.0)"),
        ({"crop_ratio": (2.0, 1.0)}, "the crop ratio must be 0 < LOW <= HIGH, found (2.0, 1.0)"),
        ({"crop_ratio": (1.0, math.inf)}, "the crop ratio must be 0 < LOW <= HIGH, found (1.0, inf)"),
        ({"crop_ratio": (1.0, math.nan)}, "the crop ratio must be 0 < LOW <= HIGH, found (1.0, nan)"),
        ({"pre_squash": 15}, "pre_squash must be 0 or 16 to 8192 pixels, found 15"),
        ({"pre_squash": 8193}, "pre_squash must be 0 or 16 to 8192 pixels, found 8193"),
    ],
)
def test_settings_that_cannot_be_used_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        ViewSettings(**wrong)
    assert str(caught.value) == message
