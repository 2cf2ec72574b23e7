"""Heads and baselines on the same cache, splits and seeds: mean test rho, and its deviation over seeds.

All are chosen on the selection part. --set changes those that use the setting.

Example: python -m bench.heads --cache cache/complexity --seeds 3
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

AMNET: dict[str, dict[str, Any]] = {"attention": {"attention": True}, "no_attention": {"attention": False}}
BASELINES: dict[str, dict[str, Any]] = {
    f"{head}_{pooling.replace('+', '_and_')}": {"head": head, "pooling": pooling}
    for head in ("linear", "ridge", "svr", "mlp")
    for pooling in ("mean", "mean+deviation")
}


@click.command()
@click.option("--cache", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/bench"), show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A training setting; may be repeated.")
def main(folder: Path, runs: Path, seeds: int, changes: tuple[str, ...]) -> None:
    """Print mean test rho over splits, and its deviation over seeds, of heads and of baselines."""
    from featcache.cache import open_cache
    from head.score import score_run
    from head.settings import TrainSettings, used_fields
    from head.train import train_split

    cache = open_cache(folder)
    extra = {name: json.loads(value) for name, _, value in (change.partition("=") for change in changes)}
    label = "-".join(changes).replace("/", "_") or "default"
    result: dict[str, Any] = {"cache": cache.name, "splits": len(cache.splits), "seeds": seeds, "settings": extra}
    for name, own in (AMNET | BASELINES).items():
        test, val, used = [], [], used_fields(str(own.get("head", "amnet")))
        for seed in range(seeds):
            changed = {field: value for field, value in extra.items() if field in used}
            settings = TrainSettings(**{**own, "seed": seed, **changed})
            home = runs / cache.name / label / f"{name}-{seed}"
            done = [train_split(cache, split, settings, home / split, name=name) for split in cache.splits]
            test.append(np.mean([score_run(run, cache).metrics.rho for run in done]))
            val.append(np.mean([run.config["result"]["val_rho"] for run in done]))
        result[name] = {
            "test_rho": round(float(np.mean(test)), 4),
            "over_seeds_sd": round(float(np.std(test, ddof=1)), 4) if seeds > 1 else None,
            "val_rho": round(float(np.mean(val)), 4),
        }
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
