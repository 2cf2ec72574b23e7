"""What products of matrices in bfloat16 cost a head: test rho against float32, paired by seed.

A head of one seed is trained in both for every split; the difference of a seed is that of mean test rho over splits.
The interval is Student's t over seeds. Runs are those of `amnet train-head --precision fp32,bf16`: what is there is
not trained again, so `--jobs` can share the work out beforehand.

Example: python -m bench.products --cache cache/complexity --seeds 6
"""

import json
from pathlib import Path

import click
import numpy as np

from bench.encodings import mean_rho, paired


@click.command()
@click.option("--cache", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--seeds", default=6, show_default=True)
@click.option("--epochs", default=60, show_default=True, help="At most so many.")
@click.option("--no-attention", is_flag=True)
def main(folder: Path, runs: Path, seeds: int, epochs: int, no_attention: bool) -> None:
    """Print one JSON line: mean test rho of both, and the paired difference (bf16 - fp32)."""
    from featcache.store.cache import open_cache

    cache = open_cache(folder)
    settings = {"epochs": epochs, "attention": not no_attention}
    rho = {
        precision: [
            mean_rho(cache, runs / cache.name, seed=seed, precision=precision, **settings) for seed in range(seeds)
        ]
        for precision in ("fp32", "bf16")
    }
    means = {f"test_rho_{precision}": round(float(np.mean(values)), 4) for precision, values in rho.items()}
    differences = [b - a for a, b in zip(rho["fp32"], rho["bf16"], strict=True)]
    result = {"cache": cache.name, "splits": len(cache.splits), **settings, **means}
    click.echo(json.dumps(result | paired(differences)))


if __name__ == "__main__":
    main()
