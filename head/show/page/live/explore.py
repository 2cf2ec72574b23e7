"""What explore serves: a page about one run, and about a cache and its runs where one is given, and its predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featcache.base.progress import OnProgress, silent
from featcache.store.cache import FeatureCache
from head.evaluation.evaluate import Evaluation
from head.prediction.predictor import Predictor
from head.runs.run import Run
from head.show.page.document import page_of
from head.show.page.facts import run_facts
from head.show.page.live.app import MOST_BYTES, explore_app
from head.show.page.live.uploads import predict_bytes
from head.show.page.report import ReportSettings, build_report, evaluate_for


@dataclass(frozen=True)
class Exploration:
    """A web application that predicts with one run, and what to know of runs and images it could not show."""

    app: Any
    warnings: Sequence[str]


def exploration(
    predictor: Predictor,
    *,
    host: str,
    cache: FeatureCache | None = None,
    runs: Path = Path("runs"),
    root: Path | None = None,
    on_progress: OnProgress = silent,
) -> Exploration:
    """Return the application of a predictor; with a cache its page holds the report of runs as well.

    host is the address that it will be served on. Raises what `evaluate_for` raises.
    """
    run = predictor.run
    data: dict[str, Any] = {"live": {"run": {**run_facts(run), "recipe": run.config.recipe}, "most_bytes": MOST_BYTES}}
    warnings: list[str] = []
    if cache is not None:
        settings = ReportSettings(root=root)
        found = evaluate_for(cache, runs, settings)
        settings = replace(settings, head=_row_of(run, found))
        about = build_report(cache, found, settings, on_progress=on_progress)
        data |= about.data
        left_out = dict.fromkeys(f"warning: not in the page: {error}" for error in found.errors)
        warnings += [*left_out, *found.warnings(), *about.warnings()]
    page = page_of(data, title=f"{run.name}: explore")
    return Exploration(explore_app(page, lambda image: predict_bytes(predictor, image).as_json(), host=host), warnings)


def _row_of(run: Run, found: Evaluation) -> str | None:
    """Return the name of the row that a run is in, None if it was not scored."""
    home = run.folder.resolve()
    return next((row.name for row in found.summaries for one in row.scored if one.run.folder.resolve() == home), None)
