"""What an earlier version of this program wrote (tests/golden/earlier) is read, resumed, scored and extended.

The version is that before the modules were put into folders. Its cache holds 16 pictures x 2 views; beside it are
finished runs, a run that was killed after two epochs of four, and what that run became when it was not killed.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from featcache.store.cache import open_cache
from tests.helpers.command_line import amnet
from tests.helpers.tiny import ROOT

EARLIER = ROOT / "tests" / "golden" / "earlier"
EXTRACT = (
    *("extract", "--dataset", "data", "--backbone", "resnet18", "--layer", "layer1", "--weights", "random"),
    *("--image-size", "32", "--precision", "fp32", "--runtime", "torch", "--device", "cpu"),
)
FINGERPRINT = "b64f327f16d4230f9c4e888b9637f3fae57481cd0217672fa6d3622515bad189"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the earlier version left, as the working folder."""
    folder = Path(shutil.copytree(EARLIER, tmp_path / "desk"))
    monkeypatch.chdir(folder)
    return folder


def shards(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((cache / "shards").glob("*.h5"))}


def test_its_cache_has_the_fingerprint_that_it_had_and_verifies(desk: Path) -> None:
    assert open_cache(desk / "cache" / "pair").recipe.fingerprint == FINGERPRINT
    for name in ("pair", "small"):
        amnet("verify-cache", "--cache", f"cache/{name}")


def test_its_runs_score_as_they_did(desk: Path) -> None:
    result = amnet("score-cache", "--cache", "cache/pair", "--json")
    found, before = json.loads(result.stdout), json.loads((EARLIER / "scores.json").read_text())
    assert [run["run"] for run in found["runs"]] == [run["run"] for run in before["runs"]]
    for run, expected in zip(found["runs"], before["runs"], strict=True):
        assert run.keys() == expected.keys() | {"hyperparameters", "interval", "uncalibrated_mse"}
        for name, value in expected.items():
            assert run[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name


def test_its_unfinished_run_goes_on_to_what_it_would_have_become(desk: Path) -> None:
    options = ("--hidden-size", "4", "--epochs", "4", "--batch-size", "6", "--lr", "0.01", "--precision", "fp32")
    amnet("train-head", "--split", "2", "--cache", "cache/pair", "--name", "unfinished", *options)
    found = load_file(desk / "runs" / "pair" / "unfinished" / "split-2" / "head.safetensors")
    wanted = load_file(EARLIER / "finished" / "head.safetensors")
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_its_unsealed_cache_is_sealed_from_the_shards_it_has(desk: Path) -> None:
    before = shards(desk / "cache" / "pair")
    for name in ("manifest.json", "cache.h5"):
        (desk / "cache" / "pair" / name).unlink()
    amnet(*EXTRACT, "--augs", "1", "--out", "cache/pair")
    assert shards(desk / "cache" / "pair") == before
    assert (desk / "cache" / "pair" / "manifest.json").is_file()


def test_its_cache_grows_by_views_and_keeps_the_features_it_had(desk: Path) -> None:
    before = open_cache(EARLIER / "cache" / "pair")
    rows = list(range(16))
    kept = shards(desk / "cache" / "pair")
    amnet(*EXTRACT, "--augs", "2", "--out", "cache/pair")
    grown = open_cache(desk / "cache" / "pair")
    assert grown.views == 3
    assert kept.items() <= shards(desk / "cache" / "pair").items()
    for view in (0, 1):
        assert np.array_equal(grown.read(rows, view), before.read(rows, view))
    amnet(*EXTRACT, "--augs", "2", "--out", "cache/fresh")
    for view in range(3):  # another CPU may differ in the last bit of a float16
        again = open_cache(desk / "cache" / "fresh").read(rows, view).astype(np.float32)
        np.testing.assert_allclose(again, grown.read(rows, view).astype(np.float32), rtol=2e-3, atol=1e-3)
