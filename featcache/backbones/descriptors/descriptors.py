"""Every hand-made descriptor by name: what computes it, and how many numbers it has."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.descriptors import histograms
from featcache.backbones.descriptors.gist import gist
from featcache.backbones.descriptors.hog import hog2x2
from featcache.backbones.descriptors.pixels import Pixels
from featcache.backbones.descriptors.saliency import saliency
from featcache.backbones.descriptors.self_similarity import self_similarity
from featcache.backbones.descriptors.sift import dense_sift
from featcache.backbones.descriptors.words import PARTS, WORDS

VERSION = 1  # raised whenever any number of any descriptor changes


@dataclass(frozen=True)
class Descriptor:
    """One descriptor of an image (S, S, 3) uint8.

    describe returns float32: where word_channels is None the vector (channels,) itself, else a grid
    (h, w, word_channels) of which `words.bag_of_words` makes it.
    """

    name: str
    describe: Callable[[Pixels], NDArray[np.float32]]
    channels: int
    word_channels: int | None = None


_ALL = (  # docs/descriptors.md says what each is, and where it is from
    Descriptor("pixels", histograms.pixel_histogram, 63),
    Descriptor("gist", gist, 512),
    Descriptor("hog2x2", hog2x2, PARTS * WORDS, 124),
    Descriptor("sift", dense_sift, PARTS * WORDS, 128),
    Descriptor("ssim", self_similarity, PARTS * WORDS, 30),
    Descriptor("saliency", saliency, 8),
    Descriptor("lbp", histograms.local_binary_patterns, 1239),
    Descriptor("color", histograms.colour_histogram, 500),
)
DESCRIPTORS = {descriptor.name: descriptor for descriptor in _ALL}
