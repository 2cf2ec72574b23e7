"""Tables of ratings with numbers, standard errors and a reliability beside them, made by hand."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

RELIABILITY = {
    "halvings": 50,
    "split_half": 0.6,
    "split_half_low": 0.5,
    "split_half_high": 0.7,
    "full": 0.75,
    "full_low": 0.65,
    "full_high": 0.82,
    "ceiling": 0.8660254,
    "ceiling_low": 0.81,
    "ceiling_high": 0.91,
    "curve": [{"ratings": 3, "consistency": 0.4}],
}


def write_facts(table: Path, reliability: dict[str, Any] | None = None, **more: Any) -> Path:
    """Write the .json file beside a table, as it belongs to the table's bytes now."""
    facts = {
        "ratings_format_version": 1,
        "table_sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
        "score": "mean",
        "reliability": RELIABILITY if reliability is None else reliability,
    }
    path = table.with_suffix(".json")
    path.write_text(json.dumps({**facts, **more}))
    return path


def write_rated(dataset: Path, table: Path, *, seed: int = 3) -> dict[str, tuple[int, float]]:
    """Write the first two splits of a dataset of split files as a table with n and se, and the .json beside it.

    Scores are those of split 1. Return n and se of each image.
    """
    parts: dict[str, dict[str, str]] = {}
    scores: dict[str, str] = {}
    for split in ("2", "1"):
        for part in ("train", "val", "test"):
            for line in (dataset / "splits" / f"{part}_{split}.txt").read_text().splitlines():
                name, score = line.split()
                parts.setdefault(name, {})[split], scores[name] = part, score
    rng = np.random.default_rng(seed)
    known = {name: (int(rng.integers(2, 20)), round(float(rng.uniform(0.02, 0.3)), 4)) for name in sorted(scores)}
    lines = [f"{name},{scores[name]},{n},{se},{parts[name]['1']},{parts[name]['2']}" for name, (n, se) in known.items()]
    table.write_text("\n".join(["image,score,n,se,split_1,split_2", *lines]) + "\n")
    write_facts(table)
    return known
