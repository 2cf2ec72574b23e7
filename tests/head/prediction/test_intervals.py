"""Predictions have the bounds that a head's residuals give, means over members, or it is said why they have none."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from featcache.base.errors import InvalidSettings
from featcache.store.cache import open_cache
from head.calibration.intervals import half_width
from head.prediction.predictor import Predictor
from head.runs.head_file import load_head
from head.settings import TrainSettings
from head.share.export import export_head
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.command_line import amnet
from tests.helpers.tiny import ROOT, SPLITS


@pytest.fixture(scope="module")
def ridge(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrated ridge on both splits of the tiny cache without a val part: 23 residuals each."""
    home, cache = tmp_path_factory.mktemp("runs") / "ridge", open_cache(tiny_cache)
    for split in SPLITS:
        del cache.splits[split]["val"]
        settings = TrainSettings(head="ridge", calibrate="isotonic")
        train(TrainingJob(cache, split, settings, home / f"split-{split}", "ridge"))
    return home


@pytest.fixture(scope="module")
def photographs(tiny_dataset: Path) -> list[Path]:
    return sorted((tiny_dataset / "images").glob("*.jpg"))[:3]


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_bounds_are_as_far_from_the_score_as_residuals_say(ridge: Path, photographs: list[Path], level: float) -> None:
    predictor = Predictor.load(ridge / "split-1", level=level)
    width = half_width(load_head(predictor.run).residuals, level)
    for one in predictor(photographs):
        assert (one.lower, one.upper) == pytest.approx((one.score - width, one.score + width))
    assert not any("interval" in line for line in predictor.warnings())


def test_of_several_members_bounds_are_the_means_of_theirs(ridge: Path, photographs: list[Path]) -> None:
    alone = [Predictor.load(ridge / f"split-{split}")(photographs) for split in SPLITS]
    for one, *members in zip(Predictor.load(ridge)(photographs), *alone, strict=True):
        assert one.lower == pytest.approx(np.mean([member.lower for member in members]))
        assert one.upper == pytest.approx(np.mean([member.upper for member in members]))


def test_an_export_has_the_same_bounds_and_its_card_and_graph_tell_them(
    ridge: Path, photographs: list[Path], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    export_head(ridge / "split-1", tmp_path / "out", whole=False)
    wanted = Predictor.load(ridge / "split-1")
    assert Predictor.load(tmp_path / "out")(photographs) == wanted(photographs)
    widths = {level: half_width(wanted.head.residuals, float(level)) for level in ("0.8", "0.9", "0.95")}
    props = {one.key: one.value for one in onnx.load(tmp_path / "out" / "head.onnx").metadata_props}
    assert json.loads(props["interval_half_width"]) == widths
    bounds = ", ".join(f"+-{width:.4g} for {float(level):.0%}" for level, width in widths.items())
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"How far ratings are from a score: within {bounds} of images" in card
    assert "its errors on 23 images that it was not fitted to." in card
    assert ", then isotonic calibration |" in card


def test_the_table_has_columns_for_them_at_the_level_asked_for(
    ridge: Path, photographs: list[Path], tmp_path: Path
) -> None:
    arguments = ("predict", "--run", ridge / "split-1", *photographs, "--csv", tmp_path / "scores.csv")
    amnet(*arguments, "--interval", "0.8")
    with (tmp_path / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    wanted = Predictor.load(ridge / "split-1", level=0.8)(photographs)
    assert [(float(one["lower"]), float(one["upper"])) for one in lines] == [
        pytest.approx((one.lower, one.upper), abs=1e-6) for one in wanted
    ]


def test_too_few_residuals_are_told_once_and_scores_stay(ridge: Path, photographs: list[Path]) -> None:
    done = amnet("predict", "--run", ridge, *photographs, "--interval", "0.99", "--json")
    assert [one["lower"] for one in json.loads(done.stdout)] == [None] * 3
    why = "one of 0.99 takes 99 images that the head was not fitted to, and there were 23"
    assert done.stderr.count(f"scores have no prediction interval: {why}") == 1


def test_a_head_of_an_earlier_version_has_none(photographs: list[Path]) -> None:
    predictor = Predictor.load(ROOT / "tests/golden/earlier/runs/pair/paper/split-1")
    assert predictor(photographs[0]).lower is None
    assert "does not tell its residuals" in predictor.warnings()[-1]


@pytest.mark.parametrize("level", ["0", "1", "90"])
def test_a_level_that_cannot_be_is_refused_before_anything_is_scored(
    ridge: Path, photographs: list[Path], level: str
) -> None:
    done = amnet("predict", "--run", ridge, photographs[0], "--interval", level, status=2)
    assert "--interval must be above 0 and below 1" in done.stderr
    with pytest.raises(InvalidSettings, match="--interval must be above 0"):
        Predictor.load(ridge, level=float(level))
