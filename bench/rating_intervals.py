"""How often 95% intervals of split-half consistency hold the truth, in simulated tables of ratings.

Beside this project's interval stands a plain bootstrap: workers and images drawn again with replacement, copies of a
worker in one half, 2.5% and 97.5% of the consistencies. Copies of workers add nothing that is new, so its
consistencies are those of fewer people and lie too low.

Example: python -m bench.rating_intervals --experiments 40
"""

import click
import numpy as np

from featcache.ratings.consistency import split_half_consistency
from featcache.ratings.halves import spearman
from featcache.ratings.scores import Answers

CASES = {  # images, workers, share of images that a worker rates, deviation of workers' biases, and of noise
    "many workers": (80, 60, 0.4, 0.5, 2.0),
    "strong biases": (80, 40, 0.5, 2.0, 2.0),
    "few workers": (50, 12, 1.0, 0.5, 1.5),
}
HALVINGS, DRAWS = 10, 200


def draw(case: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ratings (I, W) and which of them there are."""
    images, workers, share, bias, noise = CASES[case]
    rng = np.random.default_rng(seed)
    ratings = (
        rng.normal(size=(images, 1)) + bias * rng.normal(size=workers) + noise * rng.normal(size=(images, workers))
    )
    return ratings, rng.random((images, workers)) < share


def intervals(case: str, seed: int) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Return the consistency of a table, this project's interval, and the plain bootstrap's."""
    ratings, there = draw(case, seed)
    image, worker = np.nonzero(there)
    answers = Answers(image.astype(np.int32), worker.astype(np.int32), ratings[there])
    images, workers = there.shape
    found = split_half_consistency("mean", [answers], images=images, workers=workers, halvings=HALVINGS, seed=seed)
    rng = np.random.default_rng(seed)
    drawn = [_drawn_again(np.where(there, ratings, 0), there, rng) for _ in range(DRAWS)]
    return (
        found.split_half,
        (found.low, found.high),
        (float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))),
    )


def _drawn_again(ratings: np.ndarray, there: np.ndarray, rng: np.random.Generator) -> float:
    images, workers = there.shape
    copies = np.bincount(rng.integers(workers, size=workers), minlength=workers)
    rows = rng.integers(images, size=images)
    distinct = rng.permutation(np.flatnonzero(copies))
    halves = [half[:, None] for half in np.array_split(distinct, 2)]
    with np.errstate(invalid="ignore"):
        one, other = (
            ((ratings[:, half[:, 0]] @ copies[half]) / (there[:, half[:, 0]] @ copies[half]))[:, 0] for half in halves
        )
    return spearman(one[rows], other[rows])


@click.command()
@click.option("--experiments", default=200, show_default=True, help="Tables of each case.")
def main(experiments: int) -> None:
    """Print the share of intervals that hold the mean consistency of all tables of a case."""
    click.echo(f"{'':14}  consistency  this project  plain bootstrap")
    for case in CASES:
        found = [intervals(case, seed) for seed in range(experiments)]
        truth = float(np.mean([r for r, _, _ in found]))
        held = [np.mean([one[which][0] <= truth <= one[which][1] for one in found]) for which in (1, 2)]
        click.echo(f"{case:14}  {truth:11.3f}  {held[0]:12.3f}  {held[1]:15.3f}")


if __name__ == "__main__":
    main()
