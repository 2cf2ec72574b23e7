"""What every descriptor of the registry promises, whatever it computes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from featcache.backbones.descriptors.descriptors import DESCRIPTORS, Descriptor
from featcache.backbones.descriptors.words import bag_of_words, learn_words
from featcache.base.errors import InvalidSettings
from tests.helpers.pictures import picture, plain_pictures

EACH = pytest.mark.parametrize("descriptor", DESCRIPTORS.values(), ids=DESCRIPTORS.keys())


@EACH
@pytest.mark.parametrize("side", [64, 97, 224, 256])
def test_shapes_are_those_of_the_registry_at_any_size_and_pixels_stay(descriptor: Descriptor, side: int) -> None:
    pixels = picture(side)
    before = pixels.copy()
    found = descriptor.describe(pixels)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (pixels == before).all()
    if descriptor.word_channels is None:
        assert found.shape == (descriptor.channels,)
    else:
        assert found.ndim == 3
        assert found.shape[0] == found.shape[1] > 0
        assert found.shape[2] == descriptor.word_channels
        words = learn_words(found.reshape(-1, found.shape[2])[:300], 5)
        assert bag_of_words(found, words).shape == (descriptor.channels // 40,)


@EACH
@pytest.mark.parametrize("side", [64, 81])
def test_plain_pictures_and_noise_give_finite_numbers(descriptor: Descriptor, side: int) -> None:
    for name, pixels in plain_pictures(side).items():
        assert np.isfinite(descriptor.describe(pixels)).all(), name


@EACH
def test_every_thread_and_every_run_gives_the_same_bits(descriptor: Descriptor) -> None:
    pictures = [picture(96, seed) for seed in range(4)]
    alone = [descriptor.describe(pixels) for pixels in pictures]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            for one, other in zip(alone, threads.map(descriptor.describe, pictures), strict=True):
                np.testing.assert_array_equal(one, other)


@EACH
def test_a_view_of_a_larger_image_is_described_as_its_copy(descriptor: Descriptor) -> None:
    view = picture(128)[16:112, 32:128]
    np.testing.assert_array_equal(descriptor.describe(view), descriptor.describe(view.copy()))
    mirrored = view[:, ::-1]
    np.testing.assert_array_equal(descriptor.describe(mirrored), descriptor.describe(mirrored.copy()))


@pytest.mark.parametrize("name", ["pixels", "hog2x2", "ssim", "color"])
def test_colours_of_equal_brightness_are_told_apart(name: str) -> None:
    pixels = np.full((96, 96, 3), 90, np.uint8)
    gray = DESCRIPTORS[name].describe(pixels)
    pixels[32:64, 32:64] = (150, 63, 73)  # the mean and, to a level, the brightness of the rest
    assert np.abs(DESCRIPTORS[name].describe(pixels) - gray).max() > 0.03


@EACH
def test_pixels_that_cannot_be_described_are_refused(descriptor: Descriptor) -> None:
    with pytest.raises(
        InvalidSettings, match=r"dtype: expected uint8, found float64\n.*square of 64 .* found \(70, 60\)"
    ):
        descriptor.describe(np.zeros((70, 60, 3)))
    with pytest.raises(InvalidSettings, match=r"expected \(S, S, 3\), found \(64, 64\)"):
        descriptor.describe(np.zeros((64, 64), np.uint8))
    with pytest.raises(InvalidSettings, match=r"found \(63, 63\)"):
        descriptor.describe(np.zeros((63, 63, 3), np.uint8))


def test_names_are_those_of_the_records() -> None:
    assert list(DESCRIPTORS) == ["pixels", "gist", "hog2x2", "sift", "ssim", "saliency", "lbp", "color"]
    assert all(name == descriptor.name for name, descriptor in DESCRIPTORS.items())
