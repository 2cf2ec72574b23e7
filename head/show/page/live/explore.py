"""What explore serves: a page about one head, and about a cache and its runs if one is given, and its predictions."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featcache.base.errors import BadInput, InvalidSettings, Mismatch
from featcache.base.progress import OnProgress, silent
from featcache.images.decode import decode_bytes
from featcache.images.notes import in_full
from featcache.store.cache import FeatureCache
from head.evaluation.evaluate import Evaluation
from head.evaluation.marks import mark_outside
from head.evaluation.summary import without_seed
from head.prediction.members import trained_on
from head.prediction.nearest import rated_images
from head.prediction.predictor import Prediction, Predictor
from head.runs.run import Run
from head.show.overlay import seen_box
from head.show.page.document import page_of
from head.show.page.facts import run_facts
from head.show.page.gallery import pack_maps, pack_occlusion
from head.show.page.live.app import MOST_BYTES, explore_app
from head.show.page.report import ReportSettings, build_report, evaluate_for
from head.show.page.thumbnails import Pictures, images_folder, make_thumbnail

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
    pictures: Pictures | None = None
    if cache is not None:
        warnings += _give_rated(predictor, cache)
        pictures = Pictures(cache, images_folder(cache, root))
        settings = ReportSettings(root=root)
        found = evaluate_for(cache, runs, settings, weights=weights)
        settings = replace(settings, head=_name_of_summary(run, found))
        about = build_report(cache, found, settings, on_progress=on_progress)
        data |= about.data
        left_out = dict.fromkeys(f"warning: not in the page: {error}" for error in found.errors)
        warnings += [*left_out, *found.warnings(), *about.warnings()]
    page = page_of(data, title=f"{name}: explore")
    answer = partial(predict_bytes, predictor, pictures=pictures)
    return explore_app(page, answer, host=host, allowed=allowed), warnings


def _give_rated(predictor: Predictor, cache: FeatureCache) -> list[str]:
    """Let a predictor find the nearest of its training images in a cache; return why it cannot, if so."""
    try:
        runs = [member.run for member in predictor.members]
        predictor.rated = rated_images(cache, runs, trained_on(predictor.members))
    except (BadInput, InvalidSettings, Mismatch) as error:
        return [f"the nearest training images are not shown: {error}"]
    return []


def predict_bytes(predictor: Predictor, data: bytes, *, pictures: Pictures | None = None) -> dict[str, Any]:
    """Return what `Predictor.predict` says of a file with these bytes; nothing of them is written anywhere.

    A JSON object: the score, its steps (T) and maps, of attention or else of occlusion, the size of the upright image
    in pixels and the box of it that the head saw, a small picture of it, and notes: what to know of an image that was
    read all the same, and that its score is outside the range of those that the head was trained on. in_training says
    that the head was trained on this very file, as trained_members of its runs were; None that nobody knows. Of several
    runs score, steps and maps are means, and deviation is that of their scores, None of one. lower and upper are the
    bounds of its interval of level, None without one. nearest and far are as `Neighbours` has them, with small pictures
    besides. Raises `BadImage` if the bytes are no image, or one whose declared size is too large to decode, and
    `BadInput` if the backbone makes nothing of it.
    """
    decoded = decode_bytes(data, most_pixels=MOST_PIXELS)
    found = predictor(np.asarray(decoded.rgb), occlusion=True)
    width, height = decoded.rgb.size
    maps = None
    if found.attention is not None:
        maps = pack_maps(found.attention)
    elif found.occlusion is not None:
        maps = pack_occlusion(found.occlusion)
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
        **_neighbours(found, pictures),
        "size": [width, height],
        "box": list(seen_box(predictor.run.recipe.view_settings, width=width, height=height)),
        "picture": make_thumbnail(decoded.rgb, SIDE).as_text(),
    }


def _neighbours(found: Prediction, pictures: Pictures | None) -> dict[str, Any]:
    """Return neighbours as a JSON object, with their pictures; nothing where none are known."""
    if found.neighbours is None or pictures is None:
        return {}
    known = found.neighbours.as_json()
    rows = [one.row for one in found.neighbours.nearest]
    near = [{**one, "picture": pictures.of(row)} for one, row in zip(known["nearest"], rows, strict=True)]
    return {**known, "nearest": near}


def _name_of_summary(run: Run, found: Evaluation) -> str | None:
    """Return the name of the summary that a run is in, None if it was not scored."""
    home = run.folder.resolve()
    return next((head.name for head in found.summaries for one in head.runs if one.folder.resolve() == home), None)
