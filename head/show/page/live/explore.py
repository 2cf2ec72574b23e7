"""What explore serves: a page about one head, and about a cache and its runs if one is given, and its predictions."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache.base.progress import OnProgress, silent
from featcache.images.decode import decode_bytes
from featcache.images.notes import in_full
from featcache.store.cache import FeatureCache
from head.evaluation.evaluate import Evaluation
from head.evaluation.marks import mark_outside
from head.evaluation.summary import without_seed
from head.prediction.predictor import Predictor
from head.runs.run import Run
from head.show.overlay import seen_box
from head.show.page.document import page_of
from head.show.page.facts import run_facts
from head.show.page.gallery import pack_maps
from head.show.page.live.app import MOST_BYTES, explore_app
from head.show.page.report import ReportSettings, build_report, evaluate_for
from head.show.page.thumbnails import make_thumbnail

SIDE = 640  # pixels of the picture that is sent back
MOST_PIXELS = 40_000_000  # of an upload: a small file may declare far more, and each takes up to 50 bytes of memory


def exploration(
    predictor: Predictor,
    *,
    host: str,
    allowed: Collection[str] = (),
    cache: FeatureCache | None = None,
    runs: Path = Path("runs"),
    root: Path | None = None,
    weights: str | None = None,
    on_progress: OnProgress = silent,
) -> tuple[Any, list[str]]:
    """Return the web application of a predictor, and what to know of runs and images that its page could not show.

    With a cache the page holds the report of runs as well. host is the address that it will be served on, and
    allowed are names of proxies to it, weights as `evaluate` takes them. Raises what `evaluate_for` raises.
    """
    run = predictor.run
    name = run.name if len(predictor.members) == 1 else without_seed(run.name)
    live = {
        "name": name,
        "recipe": run.config.recipe,
        "runs": [run_facts(member.run) for member in predictor.members],
        "most_bytes": MOST_BYTES,
    }
    data: dict[str, Any] = {"live": live}
    warnings: list[str] = []
    if cache is not None:
        settings = ReportSettings(root=root)
        found = evaluate_for(cache, runs, settings, weights=weights)
        settings = replace(settings, head=_name_of_summary(run, found))
        about = build_report(cache, found, settings, on_progress=on_progress)
        data |= about.data
        left_out = dict.fromkeys(f"warning: not in the page: {error}" for error in found.errors)
        warnings += [*left_out, *found.warnings(), *about.warnings()]
    page = page_of(data, title=f"{name}: explore")
    return explore_app(page, lambda image: predict_bytes(predictor, image), host=host, allowed=allowed), warnings


def predict_bytes(predictor: Predictor, data: bytes) -> dict[str, Any]:
    """Return what `Predictor.predict` says of a file with these bytes; nothing of them is written anywhere.

    A JSON object: the score, its steps (T) and maps, the size of the upright image in pixels and the box of it that the
    head saw, a small picture of it, and notes: what to know of an image that was read all the same, and that its score
    is outside the range of those that the head was trained on. in_training says that the head was trained on this very
    file, as trained_members of its runs were; None that nobody knows. Of several runs score, steps and maps are means,
    and deviation is that of their scores, None of one. lower and upper are the bounds of its interval of level, None
    without one. Raises `BadImage` if the
    bytes are no image, or one whose declared size is too large to be decoded, and `BadInput` if the backbone makes
    nothing of it.
    """
    decoded = decode_bytes(data, most_pixels=MOST_PIXELS)
    found = predictor(np.asarray(decoded.rgb))
    width, height = decoded.rgb.size
    maps = pack_maps(found.attention) if found.attention is not None else None
    mark = mark_outside([float(found)], predictor.score_range)
    return {
        "score": float(found),
        "deviation": found.deviation,
        "lower": found.lower,
        "upper": found.upper,
        "level": predictor.level,
        "steps": list(found.step_scores),
        "maps": maps.as_json() if maps else None,
        "in_training": predictor.in_training(decoded.sha256),
        "trained_members": predictor.trained_members(decoded.sha256),
        "notes": [*map(in_full, decoded.notes), *([f"{mark[0].upper()}{mark[1:]}."] if mark else [])],
        "size": [width, height],
        "box": list(seen_box(predictor.run.recipe.view_settings, width=width, height=height)),
        "picture": make_thumbnail(decoded.rgb, SIDE).as_text(),
    }


def _name_of_summary(run: Run, found: Evaluation) -> str | None:
    """Return the name of the summary that a run is in, None if it was not scored."""
    home = run.folder.resolve()
    return next((head.name for head in found.summaries for one in head.runs if one.folder.resolve() == home), None)
