"""A stack predicts new images and is exported like every head."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache.images.loading import load_image
from featcache.store.cache import FeatureCache
from head.evaluation.score import attention_of, score_run
from head.prediction.predictor import Predictor
from head.runs.run import Run
from head.settings import TrainSettings
from head.share.export import Exported, export_head
from head.share.onnx import load_graph
from tests.helpers.stacks import PAPER, fit


@pytest.fixture(scope="module")
def home(cache: FeatureCache, member_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mean of a head that attends and two baselines on two splits, and one of two heads that attend."""
    home = Path(shutil.copytree(member_runs, tmp_path_factory.mktemp("stacks") / "runs"))
    mixed, looking = ("paper", "svr", "ridge"), ("paper", "lower")
    for split in cache.splits:
        fit(cache, home, TrainSettings(head="svr", pooling="mean"), split, "svr")
        fit(cache, home, TrainSettings(head="mean", members=mixed), split, "mixed")
    fit(cache, home, replace(PAPER, lr=0.02), name="lower")
    fit(cache, home, TrainSettings(head="mean", members=looking), name="looking")
    return home


@pytest.fixture(scope="module")
def exported(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_head(
        home / "tiny" / "mixed" / "split-1", tmp_path_factory.mktemp("out") / "mixed", with_backbone=True
    )


@pytest.fixture(scope="module")
def paths(tiny_dataset: Path) -> list[Path]:
    return sorted((tiny_dataset / "images").glob("*.jpg"))[:5]


def test_it_predicts_the_mean_of_what_its_members_predict(home: Path, paths: list[Path]) -> None:
    found = Predictor.load(home / "tiny" / "mixed")
    assert len(found.members) == 2
    each = [Predictor.load(home / "tiny" / name).predict(paths) for name in ("paper", "svr", "ridge")]
    wanted = [np.mean([one.score for one in column]) for column in zip(*each, strict=True)]
    np.testing.assert_allclose([one.score for one in found.predict(paths)], wanted, atol=1e-5)
    assert [one.in_training for one in found.predict(paths)] == [one.in_training for one in each[0]]
    assert all(one.attention is None for one in found(paths))


def test_its_export_predicts_alike_and_its_graphs_agree(home: Path, exported: Exported, paths: list[Path]) -> None:
    wanted = [one.score for one in Predictor.load(home / "tiny" / "mixed" / "split-1").predict(paths)]
    found = Predictor.load(exported.folder)
    assert [one.score for one in found.predict(paths)] == wanted
    pixels = np.concatenate([load_image(path, path.name, (0, 1), exported.run.recipe).pixels for path in paths])
    score, steps = load_graph((exported.folder / "model.onnx").read_bytes())(pixels)
    np.testing.assert_allclose(score, wanted, atol=1e-5)
    np.testing.assert_allclose(steps[:, 0], wanted, atol=1e-5)
    card = (exported.folder / "README.md").read_text()
    assert "the plain mean of several heads: paper, svr, ridge" in card


def test_all_its_members_are_in_its_file(cache: FeatureCache, home: Path, exported: Exported, tmp_path: Path) -> None:
    shutil.copytree(exported.folder, tmp_path / "elsewhere")
    there = replace(exported.run, folder=tmp_path / "elsewhere")
    wanted = score_run(Run(home / "tiny" / "mixed" / "split-1", exported.run.config), cache).prediction
    np.testing.assert_array_equal(score_run(there, cache).prediction, wanted)


def test_maps_of_heads_that_all_attend_are_their_mean(cache: FeatureCache, home: Path, paths: list[Path]) -> None:
    folders = [home / "tiny" / name / "split-1" for name in ("looking", "paper", "lower")]
    found, *each = ([one.attention for one in Predictor.load(folder)(paths)] for folder in folders)
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)
    run = Predictor.load(folders[0]).run
    assert run.attends and attention_of(cache, run, np.array([0, 1]))
