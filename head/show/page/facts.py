"""What a page knows of a cache, of its runs and of their scores, as JSON objects."""

from collections.abc import Iterable
from typing import Any

from featcache.store.cache import FeatureCache
from head.evaluation.evaluate import Evaluation
from head.evaluation.statistics import OF_MEAN_RHO
from head.evaluation.summary import HeadSummary
from head.evaluation.text import ceilings_of
from head.models.kinds import kind_for
from head.runs.run import Run

_OF_RESULT = ("split", "n", "absent", "rho", "rho_low", "rho_high", "mse", "interval")


def cache_facts(cache: FeatureCache) -> dict[str, Any]:
    """Return name, fingerprint, sizes, recipe and splits of a cache."""
    return {
        "name": f"{cache.name}, {cache.target}" if cache.target else cache.name,
        "fingerprint": cache.fingerprint,
        "images": cache.rows,
        "absent": int((~cache.present).sum()),
        "views": cache.views,
        "splits": list(cache.splits),
        "recipe": cache.recipe.as_json(),
    }


def score_facts(evaluation: Evaluation, cache: FeatureCache) -> dict[str, Any]:
    """Return the table of scores, best validation rho first, its comparisons, and what was left out and why.

    Folders above those of runs and cache are left out of messages: a page is passed on.
    """
    above = {str(run.folder.parents[2]) for run in evaluation.runs if len(run.folder.parents) > 2}
    above |= {str(cache.path.parent), str(cache.path.resolve().parent)}
    compared = {one.name: one.as_json() for one in evaluation.comparisons}
    return {
        "part": evaluation.scored[0].part,
        "against": evaluation.comparisons[0].against if evaluation.comparisons else None,
        "correction": OF_MEAN_RHO,
        "ceilings": ceilings_of(evaluation.summaries),
        "rows": [_summary_facts(summary, compared.get(summary.name)) for summary in evaluation.summaries],
        "problems": [_without(above, text) for text in (*map(str, evaluation.errors), *evaluation.warnings())],
    }


def _without(folders: Iterable[str], text: str) -> str:
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(f"{folder.rstrip('/')}/", "") if folder != "." else text
    return text


def run_facts(run: Run) -> dict[str, Any]:
    """Return settings, result and fingerprint of one finished run."""
    config = run.config
    return {
        "folder": "/".join(run.folder.parts[-3:]),  # the same wherever the runs are, and tells nobody's home
        "name": run.name,
        "split": run.split,
        "trained_on": run.trained_on,
        "estimate": run.estimate,
        "look": kind_for(run.train_settings).look,
        "tokens": run.tokens,
        "seed": run.seed,
        "selected_on": config.selected_on,
        "train_images": config.train_images,
        "fingerprint": config.fingerprint,
        "input": config.input,
        "imported": run.imported is not None,
        "settings": run.used_settings,
        "chosen": run.chosen,
        "result": run.result.document,
    }


def _summary_facts(summary: HeadSummary, comparison: dict[str, Any] | None) -> dict[str, Any]:
    return {
        **summary.as_json(),
        "comparison": comparison,
        "results": [
            {key: one.as_json()[key] for key in _OF_RESULT} | {"seed": one.run.seed, "chosen": one.run.chosen}
            for one in summary.scored
        ],
        "runs": [run_facts(result.run) for result in summary.scored],
    }
