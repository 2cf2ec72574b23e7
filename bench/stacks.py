"""Ways to weigh heads that are trained: mean test rho of each over splits and seeds, beside the best single head.

Members are finished runs of `amnet train-head --split all`. Each is fitted again without every fold of train, as a
stack does it; the predictions are kept in --work, so that another run of this is quick.

Example: python -m bench.stacks --cache cache/complexity --member svr --member ridge --seeds 3
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
STRENGTHS = (0.0, *np.logspace(-2, 3, 11).tolist())


@dataclass(frozen=True)
class Part:
    """Predictions (n, M) of members for some images, and the images' scores (n)."""

    predictions: Scores
    scores: Scores


@dataclass(frozen=True)
class One:
    """A split and seed: folds of train by members that were fitted without them, and val and test by their own runs."""

    folds: list[Part]
    val: Part
    test: Part

    @property
    def train(self) -> Part:
        """All folds together."""
        return _joined(self.folds)


def _joined(parts: list[Part]) -> Part:
    return Part(np.concatenate([one.predictions for one in parts]), np.concatenate([one.scores for one in parts]))


def least_squares(part: Part, shrink: float = 0.0) -> Scores:
    """Return weights >= 0 of least squared error, pressed towards equal ones by shrink times the mean variance."""
    from scipy.optimize import nnls

    x, y = part.predictions - part.predictions.mean(axis=0), part.scores - part.scores.mean()
    members = x.shape[1]
    mean = x.mean(axis=1)
    equal = np.full(members, max(float(mean @ y / (mean @ mean)), 0.0) / members)
    pressed = np.sqrt(shrink * np.square(x).sum(axis=0).mean()) * np.eye(members)
    weights: Scores = nnls(np.vstack([x, pressed]), np.concatenate([y, pressed @ equal]))[0]
    return weights


def shrunk(parts: list[Part]) -> Scores:
    """Return such weights with the strength whose weights of all other parts have the least error on each part."""
    errors = []
    for strength in STRENGTHS:
        found = []
        for k, part in enumerate(parts):
            others = _joined([one for j, one in enumerate(parts) if j != k])
            weights = least_squares(others, strength)
            shift = others.scores.mean() - others.predictions.mean(axis=0) @ weights
            found.append(np.square(part.predictions @ weights + shift - part.scores).sum())
        errors.append(sum(found))
    return least_squares(_joined(parts), STRENGTHS[int(np.argmin(errors))])


def _fifths(part: Part) -> list[Part]:
    order = np.argsort(part.scores, kind="stable")
    return [Part(part.predictions[order[k::5]], part.scores[order[k::5]]) for k in range(5)]


def _equal(one: One) -> Scores:
    return np.full(one.val.predictions.shape[1], 1.0)


def _best_on_val(one: One) -> Scores:
    rhos = [_rho(one.val, member) for member in np.eye(one.val.predictions.shape[1])]
    return np.eye(len(rhos))[int(np.argmax(rhos))]


WAYS: dict[str, Callable[[One], Scores]] = {
    "best member on val": _best_on_val,
    "plain mean": _equal,
    "weights by folds of train": lambda one: least_squares(one.train),
    "the same, shrunk to equal": lambda one: shrunk(one.folds),
    "weights by val": lambda one: least_squares(one.val),
    "the same, shrunk to equal, by val": lambda one: shrunk(_fifths(one.val)),
}


def _rho(part: Part, weights: Scores) -> float:
    from head.evaluation.metrics import spearman

    return spearman(part.predictions @ weights, part.scores)


@click.command()
@click.option("--cache", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--member", "members", multiple=True, required=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Keeps predictions.  [default: a temporary folder]")
def main(folder: Path, runs: Path, members: tuple[str, ...], seeds: int, work: Path | None) -> None:
    """Print one JSON line: for each way mean val and test rho, its 95% interval, and paired differences with theirs."""
    from featcache.store.cache import open_cache

    cache = open_cache(folder)
    with tempfile.TemporaryDirectory() as temporary:
        found = [
            [_read(cache, runs, members, seed, split, work or Path(temporary)) for seed in range(seeds)]
            for split in cache.splits
        ]
    tested = {name: _by_split(found, lambda one, way=way: _rho(one.test, way(one))) for name, way in WAYS.items()}
    result = {
        name: {
            "val": round(float(_by_split(found, lambda one, way=way: _rho(one.val, way(one))).mean()), 4),
            "test": round(float(tested[name].mean()), 4),
            **_interval(tested[name], found),
            "less plain mean": _difference(tested[name] - tested["plain mean"], found),
            "less best member": _difference(tested[name] - tested["best member on val"], found),
        }
        for name, way in WAYS.items()
    }
    members_test = {
        name: round(float(_by_split(found, lambda one, k=k: _rho(one.test, np.eye(len(members))[k])).mean()), 4)
        for k, name in enumerate(members)
    }
    click.echo(json.dumps({"cache": cache.name, "seeds": seeds, "members": members_test, "ways": result}))


def _interval(rhos: Scores, found: list[list[One]]) -> dict[str, list[float]]:
    from head.evaluation.statistics import mean_rho_interval

    images = np.array([len(seeds[0].test.scores) for seeds in found])
    return {"interval": [round(value, 4) for value in mean_rho_interval(rhos, _share(found), images)]}


def _difference(values: Scores, found: list[list[One]]) -> list[float]:
    """Return the mean difference over splits and its 95% interval."""
    from head.evaluation.statistics import corrected_interval

    return [round(float(value), 4) for value in (values.mean(), *corrected_interval(values, _share(found)))]


def _share(found: list[list[One]]) -> float:
    return float(np.mean([len(seeds[0].test.scores) / len(seeds[0].train.scores) for seeds in found]))


def _by_split(found: list[list[One]], value: Callable[[One], float]) -> Scores:
    return np.array([np.mean([value(one) for one in seeds]) for seeds in found])


def _read(cache, runs: Path, members: tuple[str, ...], seed: int, split: str, work: Path) -> One:  # type: ignore[no-untyped-def]
    from head.data.batches import folds_of_train, split_data
    from head.evaluation.score import score_run
    from head.runs.members import find_member_runs
    from head.settings import TrainSettings
    from head.training.job import TrainingJob
    from head.training.stack import held_out_predictions
    from head.training.train import device_of

    settings = TrainSettings(head="stack", members=members, seed=seed)
    job = TrainingJob(cache, split, settings, work / f"seed-{seed}" / f"split-{split}", "stack")
    found = find_member_runs(cache, split, settings, runs / cache.name)
    data = split_data(cache, split, settings)
    held = held_out_predictions(job, found, data, device_of(job), lambda progress: None)
    folds = folds_of_train(cache, data, seed)
    parts = {}
    for part in ("val", "test"):
        scored = [score_run(run, cache, part=part) for run in found]
        parts[part] = Part(np.column_stack([one.prediction for one in scored]), scored[0].truth)
    together = [Part(one, fold.scores) for one, (_, fold) in zip(held, folds, strict=True)]
    return One(together, parts["val"], parts["test"])


if __name__ == "__main__":
    main()
