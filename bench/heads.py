"""Heads against ridge regression on the same cache, splits and features: test rho per split and seed.

Ridge sees the pooled mean, or mean and deviation, of view 0, standardised; its penalty is chosen on training
images by leave-one-out. It is fitted on train, as the heads are, and on train and val together.

Example: python -m bench.heads --cache cache/complexity --seeds 3
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np


def ridge_rho(cache: Any, split: str, *, layer: str, deviation: bool, parts: tuple[str, ...]) -> float:
    """Return the test rho of ridge regression on pooled features."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from head.data import present_part
    from head.metrics import spearman

    def pooled(rows: np.ndarray) -> np.ndarray:
        vectors = cache.read_pooled(rows, 0, layer)
        return vectors.reshape(len(rows), -1) if deviation else vectors[:, 0]

    train = [present_part(cache, cache.splits[split][part]) for part in parts]
    test = present_part(cache, cache.splits[split]["test"])
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 6, 13)))
    model.fit(pooled(np.concatenate([part.rows for part in train])), np.concatenate([part.scores for part in train]))
    return spearman(model.predict(pooled(test.rows)), test.scores)


@click.command()
@click.option("--cache", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/bench"), show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A training setting; may be repeated.")
def main(folder: Path, runs: Path, seeds: int, changes: tuple[str, ...]) -> None:
    """Print mean test rho over splits, and its deviation over seeds, of heads and of ridge."""
    from featcache.cache import open_cache
    from head.score import score_run
    from head.settings import TrainSettings
    from head.train import train_split

    cache = open_cache(folder)
    extra = {name: json.loads(value) for name, _, value in (change.partition("=") for change in changes)}
    label = "-".join(changes).replace("/", "_") or "default"
    result: dict[str, Any] = {"cache": cache.name, "splits": len(cache.splits), "seeds": seeds, "settings": extra}
    for name, attention in (("attention", True), ("no_attention", False)):
        test, val = [], []
        for seed in range(seeds):
            settings = TrainSettings(**{"attention": attention, "seed": seed, **extra})
            done = [
                train_split(cache, split, settings, runs / cache.name / label / f"{name}-{seed}" / split, name=name)
                for split in cache.splits
            ]
            test.append(np.mean([score_run(run, cache).metrics.rho for run in done]))
            val.append(np.mean([run.config["result"]["val_rho"] for run in done]))
        result[name] = {
            "test_rho": round(float(np.mean(test)), 4),
            "over_seeds_sd": round(float(np.std(test, ddof=1)), 4) if seeds > 1 else None,
            "val_rho": round(float(np.mean(val)), 4),
        }
    layer = cache.layer(*extra.get("layers", []))
    for name, deviation in (("ridge_mean", False), ("ridge_mean_and_deviation", True)):
        for suffix, parts in (("train", ("train",)), ("train_and_val", ("train", "val"))):
            rhos = [ridge_rho(cache, split, layer=layer, deviation=deviation, parts=parts) for split in cache.splits]
            result[f"{name}_{suffix}"] = round(float(np.mean(rhos)), 4)
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
