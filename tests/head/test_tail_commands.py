"""A tail through all commands, beside a baseline on the same cache."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from featcache.store.cache import open_cache
from head.data.batches import present_part
from tests.helpers.command_line import amnet
from tests.helpers.tails import RESNET

TAIL = (
    "--head",
    "tail",
    "--layer",
    "layer3",
    "--epochs",
    "2",
    "--batch-size",
    "9",
    "--train",
    "norms",
    "--name",
    "tail",
)


@pytest.fixture(scope="module")
def home(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, and on it runs of a tail and of ridge on both splits, and of the tail on all images."""
    folder = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        RESNET.cache(tiny_dataset, folder, layers=("layer3",))
        for split in ("all", "full"):
            amnet("train-head", "--cache", "cache", "--split", split, *TAIL)
        amnet("train-head", "--cache", "cache", "--split", "all", "--head", "ridge", "--name", "ridge")
    return folder


@pytest.fixture
def inside(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which commands run."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def test_it_is_scored_and_compared_with_the_others(inside: Path) -> None:
    found = json.loads(amnet("score-cache", "--cache", "cache", "--against", "ridge", "--json").stdout)
    assert [(run["name"], run["split"]) for run in found["runs"]] == [
        (name, k) for name in ("ridge", "tail") for k in "12"
    ]
    assert [run["name"] for run in found["summary"]] == ["ridge", "tail"]
    (compared,) = found["comparisons"]
    assert (compared["name"], compared["against"], compared["splits"]) == ("tail", "ridge", 2)
    assert (inside / "runs/cache/tail/split-1/scores.json").is_file()
    assert [one["run"] for one in found["left_out"]] == ["runs/cache/tail/split-full"]


def test_a_page_and_figures_show_it(inside: Path, tiny_dataset: Path) -> None:
    amnet("report", "--cache", "cache", "--against", "tail", "--root", tiny_dataset)
    assert '"tail"' in (inside / "report.html").read_text()
    amnet("figures", "--cache", "cache")
    assert (inside / "figures/training-curves.png").is_file()


def test_it_predicts_new_images_as_it_is_scored_and_knows_those_it_was_trained_on(
    inside: Path, tiny_dataset: Path
) -> None:
    cache = open_cache("cache")
    amnet("score-cache", "--cache", "cache")
    scored = np.genfromtxt("runs/cache/tail/split-1/predictions.csv", delimiter=",", names=True, dtype=None)
    files = [tiny_dataset / "images" / str(name) for name in scored["name"]]
    found = json.loads(amnet("predict", "--run", "runs/cache/tail/split-1", *files, "--json").stdout)
    np.testing.assert_allclose([one["score"] for one in found], scored["prediction"], atol=1e-4)
    assert not any(one["in_training"] for one in found)
    trained = cache.images[present_part(cache, cache.splits["1"]["train"]).rows[0]].name
    result = amnet("predict", "--run", "runs/cache/tail/split-1", tiny_dataset / "images" / trained)
    assert "the head was trained on 1 of these images" in result.stderr
    mean = json.loads(amnet("predict", "--run", "runs/cache/tail", files[0], "--json").stdout)[0]
    assert mean["deviation"] > 0


def test_it_is_not_scored_on_images_that_it_was_trained_on(inside: Path) -> None:
    result = amnet("score-cache", "--cache", "cache", "--part", "train", status=3)
    assert "runs/cache/tail/split-1: the head was trained on 23 of these 23 images" in result.stderr


def test_where_its_weights_have_moved_the_run_is_named_and_they_can_be_given(inside: Path, home: Path) -> None:
    weights = home / "timm-test_resnet.safetensors"
    for config in inside.glob("runs/cache/tail/*/config.json"):
        config.write_text(config.read_text().replace(str(weights), "/nowhere/weights.safetensors"))
    for command in (("score-cache",), ("figures",)):
        result = amnet(*command, "--cache", "cache", status=3)
        assert "runs/cache/tail/split-1: the weights of its network that were not trained are needed" in result.stderr
        assert "/nowhere/weights.safetensors: no such weights file" in result.stderr
        assert "say where it is with --weights FILE" in result.stderr
        assert result.stdout  # ridge is not affected
        amnet(*command, "--cache", "cache", "--weights", weights)
    amnet("report", "--cache", "cache", "--weights", weights)
    assert '"tail"' in (inside / "report.html").read_text()


def test_its_options_are_refused_of_other_heads(inside: Path) -> None:
    result = amnet("train-head", "--cache", "cache", "--split", "1", "--head", "ridge", "--train", "norms", status=2)
    assert "--train" in result.stderr
