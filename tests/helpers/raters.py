"""Simulated people whose true scores are known: raters with biases, and players of a memory game."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def draw_ratings(
    true: Floats, *, workers: int, share: float, bias: float, noise: float, seed: int
) -> list[tuple[int, int, float]]:
    """Return lines of image, worker, rating: true scores (I), each worker's bias, noise."""
    rng = np.random.default_rng(seed)
    images = len(true)
    rated = rng.random((images, workers)) < share
    ratings = true[:, None] + bias * rng.normal(size=workers) + noise * rng.normal(size=(images, workers))
    return [(int(i), int(w), float(ratings[i, w])) for i, w in np.argwhere(rated)]


class Game(NamedTuple):
    """Chances of a yes for each target at its repeat at T = 75 and at its first showing, and how hits fall with lag."""

    hit: Floats
    false_alarm: Floats
    slope: float = 0.0


def play(game: Game, *, workers: int, seed: int, careless: int = 0, targets: int = 20) -> list[tuple[object, ...]]:
    """Return a log: image, worker, condition, response, trial. Careless workers, the last, answer no always.

    Each player sees some targets twice, 5 to 150 trials apart, and between them fillers, some of which come again soon.
    """
    rng = np.random.default_rng(seed)
    lines: list[tuple[object, ...]] = []
    for worker in range(workers):
        for k, image in enumerate(rng.choice(len(game.hit), min(targets, len(game.hit)), replace=False)):
            first, lag = 200 * k, int(rng.integers(5, 150))
            chance = game.hit[image] + game.slope * np.log(lag / 75)
            lines.append((f"t{image}.jpg", worker, "target", rng.random() < game.false_alarm[image], first))
            lines.append((f"t{image}.jpg", worker, "target repeat", rng.random() < chance, first + lag))
            lines.append((f"f{worker}-{k}.jpg", worker, "filler", rng.random() < 0.1, first + 1))
            lines.append((f"f{worker}-{k}.jpg", worker, "vigilance repeat", rng.random() < 0.95, first + 3))
    return [
        (image, f"w{worker:03}", condition, int(bool(yes) and worker < workers - careless), trial)
        for image, worker, condition, yes, trial in lines
    ]


def write_table(path: Path, header: str, lines: list[tuple[object, ...]]) -> Path:
    """Write lines as CSV below a header."""
    path.write_text(header + "\n" + "".join(",".join(map(str, line)) + "\n" for line in lines))
    return path
