"""A run keeps how far its scores were from ratings it was not fitted to, and a calibration to them, for every head."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache, open_cache
from head.calibration.calibration import cross_fitted, fit_calibration, mean_calibration
from head.calibration.intervals import half_width
from head.evaluation.evaluate import evaluate
from head.evaluation.metrics import Scores, mean_squared_error
from head.evaluation.score import predict_rows, score_run
from head.runs.head_file import load_head
from head.runs.run import Run
from head.settings import TrainSettings
from head.training.fitted import Trained
from head.training.gradients import checkpoint
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.command_line import amnet
from tests.helpers.tiny import SPLITS, TINY_TRAIN

RIDGE = TrainSettings(head="ridge")
SHORT = replace(TINY_TRAIN, epochs=4)


@pytest.fixture
def own(tiny_cache: Path) -> FeatureCache:
    """The tiny cache, opened for each test: 23 images to train on, 7 that select, 11 to test."""
    return open_cache(tiny_cache)


def fit(cache: FeatureCache, folder: Path, settings: TrainSettings, split: str = "1") -> Run:
    return train(TrainingJob(cache, split, settings, folder / f"split-{split}", folder.name))


def predicted(cache: FeatureCache, run: Run, part: Part, **changes: Any) -> Scores:
    """Return what a run's head, with changes, predicts for a part."""
    head = replace(load_head(run), **changes)
    return predict_rows(head, cache, part.rows, run, views=[0])[0].sum(axis=1)


@pytest.mark.parametrize("settings", [RIDGE, replace(RIDGE, head="svr"), SHORT], ids=["ridge", "svr", "amnet"])
def test_residuals_are_those_of_the_part_that_selects(
    own: FeatureCache, tmp_path: Path, settings: TrainSettings
) -> None:
    run = fit(own, tmp_path, settings)
    part = own.splits["1"]["val"]
    wanted = np.sort(np.abs(predicted(own, run, part) - part.scores))
    np.testing.assert_allclose(load_head(run).residuals, wanted, atol=1e-6)
    assert run.result.document["interval"] == {"level": 0.9, "half_width": None, "images": 7}
    assert run.result.calibration is None


@pytest.mark.parametrize("kind", ["linear", "isotonic"])
@pytest.mark.parametrize("settings", [RIDGE, SHORT], ids=["ridge", "amnet"])
def test_a_calibration_is_fitted_to_that_part_and_its_residuals_are_cross_fitted(
    own: FeatureCache, tmp_path: Path, settings: TrainSettings, kind: str
) -> None:
    run = fit(own, tmp_path, replace(settings, calibrate=kind))
    part, test = own.splits["1"]["val"], own.splits["1"]["test"]
    before = predicted(own, run, part, calibration=None)
    head = load_head(run)
    plain = load_head(fit(own, tmp_path / "plain", settings)).module.state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in head.module.state_dict().items())
    assert head.calibration is not None
    np.testing.assert_allclose(head.calibration.knots, fit_calibration(kind, before, part.scores).knots, atol=1e-5)
    wanted = np.abs(cross_fitted(kind, before, part.scores) - part.scores)
    np.testing.assert_allclose(head.residuals, np.sort(wanted), atol=1e-5)
    found = run.result.calibration
    assert found is not None
    assert found.uncalibrated_val_mse == pytest.approx(mean_squared_error(before, part.scores), abs=1e-6)
    assert found.val_mse == pytest.approx(np.mean(wanted**2), abs=1e-5)
    before, after = f"{found.uncalibrated_val_mse:.5f}", f"{found.val_mse:.5f}"
    said = f"; MSE on the val part {before} before {kind} calibration and {after} after it, of each image by a "
    assert Trained([run], []).as_text().endswith(f"{said}calibration without it")
    scored = score_run(run, own)
    raw = predicted(own, run, test, calibration=None)
    np.testing.assert_allclose(scored.prediction, head.calibration(raw), atol=1e-9)
    assert scored.uncalibrated_mse == pytest.approx(mean_squared_error(raw, test.scores))
    assert scored.metrics.mse == pytest.approx(mean_squared_error(scored.prediction, test.scores))


@pytest.mark.parametrize("settings", [RIDGE, SHORT], ids=["ridge", "amnet"])
def test_a_calibration_that_falls_is_left_out_with_a_warning(
    own: FeatureCache, tmp_path: Path, settings: TrainSettings
) -> None:
    part = own.splits["1"]["val"]
    own.splits["1"]["val"] = replace(part, scores=1 - part.scores)
    run = fit(own, tmp_path, replace(settings, calibrate="linear", epochs=1))
    assert load_head(run).calibration is None
    (said,) = [line for line in Trained([run], []).warnings() if "--calibrate" in line]
    assert said.startswith(
        f"warning: {run.folder}: --calibrate linear: scores are left as they are, the line that fits"
    )
    after = own.splits["1"]["val"].scores
    np.testing.assert_allclose(load_head(run).residuals, np.sort(np.abs(predicted(own, run, part) - after)), atol=1e-6)


@pytest.fixture
def small(own: FeatureCache) -> FeatureCache:
    """The tiny cache without a val part, so that train is cross-validated."""
    for parts in own.splits.values():
        del parts["val"]
    return own


@pytest.mark.parametrize("settings", [RIDGE, SHORT], ids=["ridge", "amnet"])
def test_in_cross_validation_they_are_those_of_held_out_images(
    small: FeatureCache, tmp_path: Path, settings: TrainSettings
) -> None:
    run = fit(small, tmp_path, settings)
    residuals = load_head(run).residuals
    assert len(residuals) == 23
    assert np.mean(residuals**2) == pytest.approx(run.result.val_mse)  # of the same predictions, of the best epoch
    assert run.result.document["interval"]["half_width"] == half_width(residuals, 0.9)


def test_a_killed_cross_validation_goes_on_with_the_held_out_predictions_it_had(
    small: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", -1.0)
    wanted = fit(small, tmp_path / "whole", SHORT)

    class Killed(Exception):
        pass

    def stop(progress: Any) -> None:
        if "on all of train" in progress.stage:
            raise Killed

    with pytest.raises(Killed):
        train(TrainingJob(small, "1", SHORT, tmp_path / "killed" / "split-1", "killed"), stop)
    found = fit(small, tmp_path / "killed", SHORT)
    assert load_head(found).residuals.tolist() == load_head(wanted).residuals.tolist()
    assert found.result.head_sha256 == wanted.result.head_sha256


@pytest.mark.parametrize("kind", ["none", "linear", "isotonic"])
def test_a_head_on_all_images_takes_over_what_its_runs_on_the_splits_found(
    own: FeatureCache, tmp_path: Path, kind: str
) -> None:
    settings = replace(RIDGE, calibrate=kind)
    runs = [fit(own, tmp_path / "ridge", settings, split) for split in SPLITS]
    whole = load_head(fit(own, tmp_path / "ridge", settings, "full"))
    first: dict[str, float] = {}
    for scored in [score_run(run, own) for run in runs]:
        for name, truth, score in zip(scored.names, scored.truth, scored.prediction, strict=True):
            first.setdefault(name, abs(truth - score))
    np.testing.assert_allclose(whole.residuals, sorted(first.values()), atol=1e-12)
    calibrations = [one for run in runs if (one := load_head(run).calibration)]
    assert len(calibrations) == (0 if kind == "none" else 2)
    if calibrations:
        assert whole.calibration is not None
        assert torch.equal(whole.calibration.knots, mean_calibration(calibrations).knots)


def test_score_cache_says_what_intervals_hold_and_what_calibration_did(small: FeatureCache, tmp_path: Path) -> None:
    for split in SPLITS:
        fit(small, tmp_path / "tiny" / "ridge", replace(RIDGE, calibrate="linear"), split)
    found = evaluate(small, tmp_path)
    (summary,) = found.as_json()["summary"]
    assert summary["interval"]["n"] == 22
    assert summary["interval"]["n_of_thirds"] is None
    images = len({name for one in found.scored for name in one.names})  # several are of both splits' test parts
    assert images < 22 and f"of the rating, of {images // 3} images each" in summary["interval"]["why_no_thirds"]
    held = [one.coverage.share for one in found.scored if one.coverage]
    assert summary["interval"]["coverage"] == pytest.approx(np.mean(held))
    text = found.as_text()
    assert f"ridge: 90% interval {found.summaries[0].coverage.as_text()}" in text  # type: ignore[union-attr]
    before, after = f"{summary['uncalibrated_mse_mean']:.5f}", f"{summary['mse_mean']:.5f}"
    assert f"ridge: MSE on the test part {before} before linear calibration and {after} after it" in text


def test_the_part_that_selected_says_nothing_of_intervals(own: FeatureCache, tmp_path: Path) -> None:
    part = own.splits["1"]["train"]
    own.splits["1"] |= {"train": own.splits["1"]["val"], "val": part}
    run = fit(own, tmp_path, RIDGE)
    assert score_run(run, own, part="val").coverage is None
    found = score_run(run, own, part="test").coverage
    assert found is not None
    assert (len(found.truth), found.half_width) == (11, half_width(load_head(run).residuals, 0.9))


def test_train_head_takes_calibrations_as_a_grid(tiny_cache: Path, tmp_path: Path) -> None:
    arguments = ("train-head", "--cache", tiny_cache, "--split", "1", "--head", "ridge", "--runs", tmp_path)
    done = amnet(*arguments, "--calibrate", "none,isotonic", "--json")
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert list(found) == ["ridge", "ridge,calibrate=isotonic"]
    assert found["ridge,calibrate=isotonic"]["calibration"]["kind"] == "isotonic"
    assert "calibration" not in found["ridge"]
