"""From a table of responses to a table of scores, and what it rests on in a JSON file beside it."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.base.agreement import FORMAT_VERSION, LARGEST_FILE
from featcache.base.commands import amnet, command
from featcache.base.errors import BadInput, CorruptFile, InvalidSettings
from featcache.base.files import check_output, csv_bytes, digest_of_file, read_json, write_output
from featcache.base.jobs import installed_version
from featcache.ratings.consistency import INTERVAL, Icc, icc, split_half_consistency
from featcache.ratings.reading import read_responses
from featcache.ratings.report import RatingsReport, reliability
from featcache.ratings.responses import LeftOut, Responses, ratings_that_count, trials_that_count
from featcache.ratings.scores import Answers, correct_for_lag, errors_of, scores_of, sums_of, z_scored
from featcache.ratings.settings import RatingSettings

_HOW = {
    "hits": ("HR = hits / repeats", "binomial, of the log-linear rate"),
    "hr-fa": ("HR - FAR, hits / repeats - false alarms / first showings", "binomial of both log-linear rates"),
    "dprime": ("z(HR) - z(FAR), log-linear: (x + 0.5) / (n + 1)", "delta method of both log-linear rates"),
    "lag": ("mean of x - a ln(lag / T), a within images", "sample deviation / sqrt(n)"),
    "mean": ("mean over workers", "sample deviation / sqrt(n)"),
    "zmean": ("mean over workers of (x - the worker's mean) / the worker's sample deviation",
              "sample deviation / sqrt(n)"),
}  # fmt: skip


def rate(responses: Path, settings: RatingSettings, out: Path) -> RatingsReport:
    """Write the table of scores, lines `image,score,n,se`, and its facts into the JSON file of the same stem.

    Raises `InvalidSettings` for an out that would replace something else, `BadInput` for a table that cannot be used.
    """
    facts_path = _check_outputs(responses, out)
    table = read_responses(responses, settings)
    found = (trials_that_count if settings.of_log else ratings_that_count)(table, settings)
    images, columns, notes = table.codes["image"].texts, table.columns, [*table.notes, *found.notes]
    del table
    told = {} if settings.of_log else _range(found.repeats.value)
    found, facts = _prepared(found, settings, len(images))
    if not len(found.repeats.image):
        rules = "; ".join(f"{one.responses:,}: {one.rule}" for one in found.left_out if one.responses)
        raise BadInput(f"{responses}: no response is left to make scores of. Left out are {rules}")
    names, compact, workers = _compact(found, images)
    scored, lines = _scored(settings.score, compact, names)
    data = csv_bytes([("image", "score", "n", "se"), *lines])
    consistency = split_half_consistency(
        settings.score, compact, images=len(names), workers=workers, halvings=settings.halvings, seed=settings.seed
    )
    one_way = icc(compact[0], len(names)) if len(compact) == 1 else Icc(math.nan, math.nan)
    document = {
        "ratings_format_version": FORMAT_VERSION,
        "table_sha256": hashlib.sha256(data).hexdigest(),
        "score": settings.score,
        "images": len(names),
        "workers": workers,
        "responses": sum(len(one.image) for one in compact),
        "ratings_an_image": {"mean": float(scored.mean()), "least": int(scored.min()), "most": int(scored.max())},
        "left_out": [one._asdict() for one in found.left_out],
        "recipe": _recipe(settings, columns, found.words, notes),
        "reliability": reliability(consistency, one_way),
        **({"trials": found.trials} if found.trials else {}),
        **told,
        **facts,
    }
    return _written(RatingsReport(out, document, tuple(notes)), data, facts_path)


def _range(ratings: NDArray[np.float64]) -> dict[str, Any]:
    """Return the smallest and the largest of the ratings that count, before they are z-scores."""
    return {"rating_range": {"least": float(ratings.min()), "most": float(ratings.max())}} if len(ratings) else {}


def _check_outputs(responses: Path, out: Path) -> Path:
    """Return where the JSON file will be; raise `InvalidSettings` where something else would be replaced."""
    named = command("--out", str(out))
    if out.suffix != ".csv":
        raise InvalidSettings(f"{named}: the table's name ends with .csv; beside it comes a .json")
    place, facts = check_output(out), check_output(out.with_suffix(".json"))
    way_out = "name another with --out"
    for path in (place, facts):
        if path == Path(os.path.realpath(responses)):
            raise InvalidSettings(f"{named}: {path} holds the responses, and would be replaced; {way_out}")
    if (place.exists() or facts.exists()) and not _written_by_this(place, facts):
        raise InvalidSettings(
            f"{named}: {place.name} or {facts.name} is there, and is not as `{amnet('ratings')}` wrote it; "
            f"{way_out}, or move it away"
        )
    return out.with_suffix(".json")


def _written_by_this(table: Path, facts: Path) -> bool:
    try:
        found = read_json(facts, largest=LARGEST_FILE) if facts.is_file() else {}
    except CorruptFile:
        return False
    if "ratings_format_version" not in found:
        return False
    return not table.exists() or digest_of_file(table) in (found.get("table_sha256"), found.get("replaces"))


def _prepared(found: Responses, settings: RatingSettings, images: int) -> tuple[Responses, dict[str, Any]]:
    """Return responses whose means are scores: corrected for lags, or z-scored; and what to tell of that."""
    if settings.score == "lag" and found.lag is not None:
        corrected, slope = correct_for_lag(found.repeats, found.lag, images=images, T=settings.reference_lag)
        told = {name: value if math.isfinite(value) else None for name, value in slope._asdict().items()}
        return found._replace(repeats=corrected), {"lag_slope": told}
    if settings.score == "zmean":
        before = found.repeats
        workers = int(before.worker.max(initial=-1)) + 1
        scored, kept = z_scored(before, workers)
        n = np.bincount(before.worker, minlength=workers)
        left = np.bincount(before.worker[~kept], minlength=workers) > 0
        rules = [("workers with a single rating have no z-score", left & (n == 1)),
                 ("workers whose ratings are all equal have no z-score", left & (n > 1))]  # fmt: skip
        left_out = [LeftOut(rule, int(out.sum()), int(n[out].sum())) for rule, out in rules]
        return found._replace(repeats=scored, left_out=[*found.left_out, *left_out]), {}
    return found, {}


def _compact(found: Responses, images: list[str]) -> tuple[list[str], list[Answers], int]:
    """Return the names of images that have a score, responses in codes of these, and how many workers they are of."""
    answers = [one for one in (found.repeats, found.firsts) if one is not None]
    rated = np.flatnonzero(np.bincount(found.repeats.image, minlength=len(images)))
    image = np.full(len(images), -1, np.int32)
    image[rated] = np.arange(len(rated))
    there = np.unique(np.concatenate([np.unique(one.worker) for one in answers]))
    worker = np.full(int(there[-1]) + 1, -1, np.int32)
    worker[there] = np.arange(len(there))
    compact = [Answers(image[one.image], worker[one.worker], one.value) for one in answers]
    return [images[code] for code in rated], compact, len(there)


def _scored(
    score: str, compact: Sequence[Answers], names: Sequence[str]
) -> tuple[NDArray[np.float64], list[tuple[str, float, int, str]]]:
    """Return how many ratings each image has, and the table's lines."""
    sums = sums_of(compact[0], compact[1] if len(compact) > 1 else None, len(names))
    columns = zip(names, scores_of(score, sums), sums.n, errors_of(score, sums, compact[0]), strict=True)
    lines = [(name, float(value), int(n), "" if math.isnan(se) else repr(float(se))) for name, value, n, se in columns]
    return sums.n, lines


def _recipe(
    settings: RatingSettings, columns: dict[str, str], words: dict[str, dict[str, str]], notes: Sequence[str]
) -> dict[str, Any]:
    """Return all that a table depends on beside the responses: options, columns, words, formulas, version."""
    formula, error = _HOW[settings.score]
    options = asdict(settings)
    return {
        **{name: options[name] for name in ("halvings", "seed", "fewest_responses")},
        **({name: options[name] for name in ("least_vigilance_hits", "most_false_alarms")} if settings.of_log else {}),
        **({"reference_lag": settings.reference_lag} if settings.score == "lag" else {}),
        "columns": columns,
        "words": words,
        "guessed": list(notes),
        "formula": formula,
        "se": error,
        "interval": INTERVAL,
        "version": installed_version(),
    }


def _written(report: RatingsReport, data: bytes, facts_path: Path) -> RatingsReport:
    """Write what is told first: it names the table to come and the one that it replaces, so a kill locks nobody out."""
    before = digest_of_file(report.table) if report.table.is_file() else report.facts["table_sha256"]
    replaced = {"replaces": before} if before != report.facts["table_sha256"] else {}
    write_output(facts_path, (json.dumps({**report.facts, **replaced}, indent=1, allow_nan=False) + "\n").encode())
    write_output(report.table, data)
    return report
