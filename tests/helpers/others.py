"""Scores by other people beside a dataset's test parts: those of the test part plus noise."""

from pathlib import Path

import numpy as np


def write_others(dataset: Path, split: str, *, leave_out: int = 0, seed: int = 7) -> dict[str, float]:
    """Write others_K.txt, in another order and without the last few; return the score of each image in it."""
    lines = [line.split() for line in (dataset / "splits" / f"test_{split}.txt").read_text().splitlines()]
    rng = np.random.default_rng([seed, len(split), *split.encode()])
    kept = [lines[place] for place in rng.permutation(len(lines))[: len(lines) - leave_out]]
    scores = {name: round(float(score) + float(rng.normal(0, 0.15)), 6) for name, score in kept}
    text = "".join(f"{name} {score:.6f}\n" for name, score in scores.items())
    (dataset / "splits" / f"others_{split}.txt").write_text(text)
    return scores
