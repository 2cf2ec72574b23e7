"""Images count by their numbers of ratings or standard errors, and only where a cache has these."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache.base.errors import BadInput
from featcache.datasets.reliability import Raters
from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache, open_cache
from head.data.weights import FLOOR_QUANTILE, image_weights


@pytest.fixture
def part(tiny_cache: Path) -> Part:
    return open_cache(tiny_cache).splits["1"]["train"]


def rated(tiny_cache: Path, counts: np.ndarray | None, errors: np.ndarray | None) -> FeatureCache:
    """The tiny cache with these numbers and errors of all its rows, the last row first."""
    cache = open_cache(tiny_cache)
    rows = np.arange(cache.rows)[::-1]
    columns = [None if one is None else one[rows] for one in (counts, errors)]
    cache.manifest = replace(cache.manifest, raters={"": Raters(rows, *columns)})
    return cache


def test_by_number_they_are_proportional_to_it_with_mean_1(tiny_cache: Path, part: Part) -> None:
    counts = np.arange(1, 42)
    found = image_weights(rated(tiny_cache, counts, None), part, "n")
    assert found is not None
    np.testing.assert_allclose(found.of_images, counts[part.rows] / counts[part.rows].mean())
    weights = found.of_images
    assert found.as_json() == {"effective_images": pytest.approx(weights.sum() ** 2 / (weights**2).sum())}


def test_by_error_they_are_inverse_squares_above_a_floor(tiny_cache: Path, part: Part) -> None:
    errors = np.linspace(0.1, 0.9, 41)
    errors[part.rows[:2]] = 0, 1e-9
    cache = rated(tiny_cache, None, errors)
    found = image_weights(cache, part, "se")
    assert found is not None
    own = errors[part.rows]
    floor = np.quantile(own[own > 0], FLOOR_QUANTILE)
    wanted = np.maximum(own, floor) ** -2.0
    np.testing.assert_allclose(found.of_images, wanted / wanted.mean())
    assert found.of_images[0] == found.of_images[1] == found.of_images.max()
    assert (found.at_least, found.floored) == (floor, (own < floor).sum())


def test_without_weights_nothing_is_asked_of_a_cache(tiny_cache: Path, part: Part) -> None:
    assert image_weights(open_cache(tiny_cache), part, "none") is None


def test_what_a_cache_lacks_is_said_with_the_way_out(tiny_cache: Path, part: Part) -> None:
    for weight, what in (("n", "numbers of ratings"), ("se", "standard errors")):
        message = f"--weight {weight} needs {what}, which 23 of 23 training images lack; extract again.*column {weight}"
        with pytest.raises(BadInput, match=message):
            image_weights(open_cache(tiny_cache), part, weight)
    errors = np.full(41, 0.5)
    errors[part.rows[3]] = np.nan
    with pytest.raises(BadInput, match="standard errors, which 1 of 23 training images lack"):
        image_weights(rated(tiny_cache, None, errors), part, "se")
    with pytest.raises(BadInput, match="all standard errors are 0; use --weight n"):
        image_weights(rated(tiny_cache, None, np.zeros(41)), part, "se")
