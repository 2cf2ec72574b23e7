"""Features are extracted on every device: the same views, about the same features, and the same bytes again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache.base.devices import to_device, to_host
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.images.views import view_of
from featcache.images.views_on_device import render_on_device
from featcache.settings import ViewSettings
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.shards.encoding import calibrate, decode, encode, quantize
from tests.helpers.gpu import EACH_DEVICE
from tests.helpers.tiny import QUICK_EXTRACT, TINY_EXTRACT


def cache_of(dataset: Path, out: Path, device: str, **changes: object) -> FeatureCache:
    extract(open_dataset(str(dataset)), replace(TINY_EXTRACT, device=device, **changes), out)  # type: ignore[arg-type]
    return open_cache(out)


@EACH_DEVICE
@pytest.mark.parametrize("encoding", ["float16", "uint8"])
def test_features_are_about_those_of_the_cpu(encoding: str, device: str, tiny_dataset: Path, tmp_path: Path) -> None:
    there, here = (
        cache_of(tiny_dataset, tmp_path / name, where, encoding=encoding)
        for name, where in (("a", device), ("b", "cpu"))
    )
    rows = np.arange(there.rows)
    for view in range(there.views):
        found, wanted = (decode(one.read(rows, view), one.constants()).numpy() for one in (there, here))
        cosines = (found * wanted).sum(axis=(1, 2)) / np.sqrt(
            (found**2).sum(axis=(1, 2)) * (wanted**2).sum(axis=(1, 2))
        )
        assert cosines.min() > 0.9999
    assert [image.sha256 for image in there.images] == [image.sha256 for image in here.images]


@EACH_DEVICE
def test_views_as_a_layer_are_the_same_pixels(device: str, tiny_dataset: Path, tmp_path: Path) -> None:
    settings = replace(QUICK_EXTRACT, layers=("views",))
    found = []
    for name, where in (("a", device), ("b", "cpu")):
        extract(open_dataset(str(tiny_dataset)), replace(settings, device=where), tmp_path / name)
        cache = open_cache(tmp_path / name)
        found.append(np.stack([cache.read(np.arange(cache.rows), view) for view in range(cache.views)]))
    np.testing.assert_array_equal(*found)


@EACH_DEVICE
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_the_device_computes_in_its_own_precisions(
    precision: str, device: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    cache = cache_of(tiny_dataset, tmp_path / "cache", device, precision=precision, augs=0)
    wanted = {"auto": {"cpu": "fp32", "cuda": "fp16"}[device], "bf16": "bf16"}[precision]
    assert cache.recipe.precision == wanted
    assert np.isfinite(cache.read(np.arange(cache.rows), 0).astype(float)).all()


@EACH_DEVICE
def test_views_are_cut_there_to_the_last_bit(device: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (211, 157, 3), np.uint8)
    how = ViewSettings(image_size=61)
    views = [view_of(how, "a.jpg", view, width=157, height=211) for view in range(7)]
    there, here = (render_on_device(to_device(image, torch.device(one)), views, how) for one in (device, "cpu"))
    assert there.device.type == device
    assert torch.equal(there.cpu(), here)


@EACH_DEVICE
def test_copies_and_8_bits_are_exact(device: str) -> None:
    features = torch.randn(5, 7, 11, generator=torch.Generator().manual_seed(0))
    constants = calibrate([features.to(device)])
    np.testing.assert_array_equal(constants, calibrate([features]))
    assert torch.equal(quantize(features.to(device), constants).cpu(), quantize(features, constants))
    there, here = (encode(features.to(one), constants) for one in (device, "cpu"))
    np.testing.assert_array_equal(there.features, here.features)
    np.testing.assert_allclose(there.pooled, here.pooled, rtol=1e-5, atol=1e-6)
    moved = to_device(features.numpy(), torch.device(device))
    [back, twice] = to_host([moved, 2 * moved])
    np.testing.assert_array_equal(back, features.numpy())
    np.testing.assert_array_equal(twice, 2 * features.numpy())


@pytest.mark.parametrize("what", ["encode", "decode"])
def test_constants_go_to_the_device_once_for_a_batch(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(5, 7, 11, generator=torch.Generator().manual_seed(0))
    constants, copied = calibrate([features]), []
    own = torch.as_tensor
    monkeypatch.setattr(
        torch, "as_tensor", lambda values, **how: (copied.append(isinstance(values, np.ndarray)), own(values, **how))[1]
    )
    monkeypatch.setattr(torch, "from_numpy", lambda values: pytest.fail("copied for each view"))
    if what == "encode":
        encode(features, constants)
        assert copied.count(True) == 1
    else:
        decode(quantize(features, own(constants)), own(constants))
        assert copied.count(True) == 0
