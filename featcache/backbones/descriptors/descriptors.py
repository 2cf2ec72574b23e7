"""Every hand-made descriptor by name: what computes it, how many numbers it has, and where it comes from."""

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
    title: str
    source: str
    describe: Callable[[Pixels], NDArray[np.float32]]
    channels: int
    word_channels: int | None = None


_ISOLA = "Isola and others, CVPR 2011"
_ALL = (
    Descriptor("pixels", "histograms of red, green and blue", _ISOLA, histograms.pixel_histogram, 63),
    Descriptor("gist", "GIST", "Oliva and Torralba, IJCV 2001", gist, 512),
    Descriptor("hog2x2", "words of HOG2x2", "Felzenszwalb and others, PAMI 2010", hog2x2, PARTS * WORDS, 124),
    Descriptor("sift", "words of dense SIFT", "Lowe, IJCV 2004", dense_sift, PARTS * WORDS, 128),
    Descriptor(
        "ssim", "words of self-similarity", "Shechtman and Irani, CVPR 2007", self_similarity, PARTS * WORDS, 30
    ),
    Descriptor("saliency", "saliency and structure", "after Mancas and Le Meur, ICIP 2013", saliency, 8),
    Descriptor("lbp", "local binary patterns", "Ojala and others, PAMI 2002", histograms.local_binary_patterns, 1239),
    Descriptor("color", "histograms of colour", "ours", histograms.colour_histogram, 500),
)
DESCRIPTORS = {descriptor.name: descriptor for descriptor in _ALL}
