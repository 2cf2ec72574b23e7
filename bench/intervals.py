"""How many ratings prediction intervals hold, on images that had no part in them: over many random splits, by ridge.

Each split deals a cache's images out anew by a seed of its own: 20% test, 10% selection or as many images as asked for,
the others train. Intervals are those of `train-head`, and beside them those that it could have given: from images that
selected nothing, where test has enough of them, and from residuals of the very scores that a calibration was fitted to.
In cross-validation 150 images are train.

Example: python -m bench.intervals --cache cache/complexity --layer blocks.4
"""

import json
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from featcache.base.progress import silent
from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache, open_cache
from head.calibration.calibration import Calibration
from head.calibration.intervals import LEVEL, Coverage, coverage, pooled
from head.data.batches import EVAL_VIEW, FULL, SplitData, cross_validation_folds, parts_of
from head.evaluation.metrics import Scores
from head.settings import CALIBRATIONS, settings_of
from head.training.baselines import fit_baseline
from head.training.fitted import Fitted, unseen
from head.training.job import TrainingJob

FEW = 150  # images of train that are cross-validated
Held = tuple[Coverage, float]  # and the deviation of residuals on test


class Split:
    """Ridge on one random split, by a seed: what it predicts, and how many ratings its intervals hold."""

    def __init__(
        self, cache: FeatureCache, layers: tuple[str, ...], seed: int, *, selection: int | None = None
    ) -> None:
        self.job = TrainingJob(cache, "1", settings_of(head="ridge", layers=layers), Path("nowhere"), "ridge")
        self.all = parts_of(cache, FULL)["train"]
        self.order = np.random.default_rng([seed, 1]).permutation(len(self.all.rows))
        n = len(self.order)
        self.selection = round(0.8 * n) - round(0.7 * n) if selection is None else selection

    def held_out(self) -> dict[str, Held]:
        """Return what intervals hold, each kind of calibration and each way to its residuals."""
        before_test = round(0.8 * len(self.order))
        train, select, test = np.split(self.order, [before_test - self.selection, before_test])
        data = SplitData("1", self._part(train), self._part(select), "the selection part", 0)
        fitted = self._fit(data)
        found = {}
        for kind in CALIBRATIONS:
            of_run = unseen(fitted.predicted, data.select.scores, kind)
            found[kind] = self._held(fitted, test, of_run.calibration, of_run.residuals)
            if of_run.calibration and fitted.predicted is not None:
                fitted_to = np.abs(of_run.calibration(fitted.predicted) - data.select.scores)
                found[f"{kind}, residuals it was fitted to"] = self._held(fitted, test, of_run.calibration, fitted_to)
        if len(test) > len(select):
            fresh, others = np.split(test, [len(select)])
            residuals = np.abs(self._predict(fitted, fresh) - self._part(fresh).scores)
            found["none, images that selected nothing"] = self._held(fitted, others, None, residuals)
        return found

    def cross_validated(self) -> dict[str, Held]:
        """Return what intervals hold, by calibration, where so few images are train that it is cross-validated."""
        train, test = np.split(self.order, [FEW])
        part = self._part(train)
        folds = tuple(cross_validation_folds(part, seed=0))
        held = [held for _, held in folds]
        select = Part(*(np.concatenate([getattr(one, name) for one in held]) for name in ("rows", "scores")))
        fitted = self._fit(SplitData("1", part, select, "cross-validation", 0, folds))
        of_run = {kind: unseen(fitted.predicted, select.scores, kind) for kind in CALIBRATIONS}
        return {
            f"{kind}, {FEW} images cross-validated": self._held(fitted, test, one.calibration, one.residuals)
            for kind, one in of_run.items()
        }

    def _part(self, places: NDArray[np.int64]) -> Part:
        return Part(self.all.rows[places], self.all.scores[places])

    def _fit(self, data: SplitData) -> Fitted:
        return fit_baseline(self.job, data, on_progress=silent, on_history=lambda history: None)

    def _held(
        self, fitted: Fitted, places: NDArray[np.int64], calibration: Calibration | None, residuals: Scores
    ) -> Held:
        predicted, part = self._predict(fitted, places), self._part(places)
        scores = calibration(predicted) if calibration else predicted
        found = coverage(scores, part.scores, residuals, LEVEL, rows=part.rows)
        assert found, "too few images"
        return found, float(np.std(scores - part.scores))

    @torch.inference_mode()
    def _predict(self, fitted: Fitted, places: NDArray[np.int64]) -> Scores:
        features = self.job.input.read(self.job.cache, self.all.rows[places], EVAL_VIEW)
        found: Scores = fitted.module(features).score.numpy() * fitted.target.scale + fitted.target.mean
        return found


def summed_up(held: list[Held]) -> dict[str, object]:
    """Return coverage and half-width over splits, and that in deviations of residuals, 1.64 if those are normal."""
    shares = [one.share for one, _ in held]
    together = pooled([one for one, _ in held])
    assert together
    thirds = {name: round(share, 3) for name, (share, _) in together.of_thirds().items()}
    deviation = float(np.mean([deviation for _, deviation in held]))
    return {
        "coverage": round(float(np.mean(shares)), 4),
        "coverage_sd": round(float(np.std(shares)), 4),
        "of_thirds": thirds,
        "half_width": round(together.half_width, 4),
        "residual_sd": round(deviation, 4),
        "half_width_over_sd": round(together.half_width / deviation, 3),
    }


@click.command()
@click.option("--cache", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--layer", "layers", multiple=True, help="Layers that ridge reads.  [default: the cache's last]")
@click.option("--splits", default=500, show_default=True, help="Random splits, of seeds 0, 1, ...")
@click.option("--selection", type=click.IntRange(1), help="Images that select and calibrate.  [default: a tenth]")
def main(folder: Path, layers: tuple[str, ...], splits: int, selection: int | None) -> None:
    """Print one JSON line: coverage of 90% intervals on test, mean and deviation over splits, and their half-widths."""
    cache = open_cache(folder)
    images = len(parts_of(cache, FULL)["train"].rows)
    most = round(0.8 * images) - 2
    if selection is not None and selection > most:
        raise click.UsageError(
            f"--selection may be {most:,} at most, as {images:,} images are there, found {selection:,}"
        )
    found: dict[str, list[Held]] = {}
    for seed in range(splits):
        split = Split(cache, layers, seed, selection=selection)
        for name, held in {**split.held_out(), **split.cross_validated()}.items():
            found.setdefault(name, []).append(held)
    figures = {name: summed_up(held) for name, held in found.items()}
    click.echo(
        json.dumps({"cache": cache.name, "level": LEVEL, "splits": splits, "selection": split.selection, **figures})
    )


if __name__ == "__main__":
    main()
