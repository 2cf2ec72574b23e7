"""What storing features as uint8 costs: their error against float16, and test rho of heads on both, paired.

The two caches hold the same views of the same images. A head of one seed is trained on both for every split; the
difference of a seed is that of its mean test rho over splits. The interval is Student's t over seeds.

Example: python -m bench.encodings --float16 cache/complexity --uint8 cache/complexity-uint8 --seeds 8
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np


def error_of(reference: Any, other: Any) -> dict[str, float]:
    """Return how far features of the second cache are from those of the first, over view 0 of every image.

    The largest relative error is that of features at least as large as their root mean square.
    """
    import torch

    from featcache.store.shards.encoding import decode

    if reference.images != other.images or not np.array_equal(reference.box[:, 0], other.box[:, 0]):
        raise click.UsageError("the caches do not hold the same views of the same images")
    rows = np.flatnonzero(reference.present)
    squares = errors = largest = span = relative = 0.0
    cosines = []
    for start in range(0, len(rows), 64):
        batch = rows[start : start + 64]
        exact = decode(torch.from_numpy(reference.read(batch, 0)), reference.constants())
        coded = decode(torch.from_numpy(other.read(batch, 0)), other.constants())
        squares += float((exact**2).sum())
        errors += float(((exact - coded) ** 2).sum())
        largest = max(largest, float((exact - coded).abs().max()))
        span = max(span, float(exact.abs().max()))
        sizable = exact.abs() >= exact.square().mean().sqrt()  # near 0 a relative error says nothing
        relative = max(relative, float(((exact - coded).abs() / exact.abs())[sizable].max()))
        cosines.append(torch.nn.functional.cosine_similarity(exact.flatten(1), coded.flatten(1)).numpy())
    cosine = np.concatenate(cosines)
    return {
        "relative_rms_error": round((errors / squares) ** 0.5, 5),
        "largest_relative_error": round(relative, 5),
        "largest_error_of_largest_value": round(largest / span, 5),
        "mean_cosine": round(float(cosine.mean()), 6),
        "least_cosine": round(float(cosine.min()), 6),
    }


def mean_rho(cache: Any, home: Path, **settings: Any) -> float:
    """Return the mean test rho over splits of heads with such settings; their runs are in home/NAME/split-K."""
    from head.evaluation.score import score_run
    from head.settings import TrainSettings
    from head.training.job import TrainingJob
    from head.training.train import train

    wanted = TrainSettings(**settings)
    name = wanted.default_name()
    runs = [train(TrainingJob(cache, split, wanted, home / name / f"split-{split}", name)) for split in cache.splits]
    return float(np.mean([score_run(run, cache).metrics.rho for run in runs]))


def paired(differences: list[float]) -> dict[str, Any]:
    """Return mean and the half width of its 95% interval (Student's t)."""
    from scipy import stats

    n = len(differences)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / n**0.5) if n > 1 else None
    return {
        "mean_difference": round(float(np.mean(differences)), 5),
        "half_width_95": None if half is None else round(half, 5),
        "seeds": n,
        "differences": [round(value, 5) for value in differences],
    }


@click.command()
@click.option("--float16", "exact", required=True, type=click.Path(path_type=Path))
@click.option("--uint8", "coded", required=True, type=click.Path(path_type=Path))
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/encodings"), show_default=True)
@click.option("--seeds", default=8, show_default=True)
@click.option("--first-seed", default=0, show_default=True)
def main(exact: Path, coded: Path, runs: Path, seeds: int, first_seed: int) -> None:
    """Print one JSON line: bytes, error, and the paired difference (uint8 - float16) of test rho."""
    from featcache.store.cache import open_cache

    float16, uint8 = open_cache(exact), open_cache(coded)
    result: dict[str, Any] = {
        "cache": float16.name,
        "images": float16.rows,
        "splits": len(float16.splits),
        "bytes": {"float16": _bytes(float16), "uint8": _bytes(uint8)},
        "error": error_of(float16, uint8),
    }
    for name, attention in (("attention", True), ("no_attention", False)):
        rho = {
            encoding: [
                mean_rho(cache, runs / encoding, seed=seed, attention=attention)
                for seed in range(first_seed, first_seed + seeds)
            ]
            for encoding, cache in (("float16", float16), ("uint8", uint8))
        }
        differences = [b - a for a, b in zip(rho["float16"], rho["uint8"], strict=True)]
        means = {f"test_rho_{encoding}": round(float(np.mean(values)), 4) for encoding, values in rho.items()}
        result[name] = {**means, **paired(differences)}
    click.echo(json.dumps(result))


def _bytes(cache: Any) -> int:
    return sum(entry.bytes for entry in cache.manifest.shards)


if __name__ == "__main__":
    main()
