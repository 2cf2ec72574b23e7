"""Find the runs of a cache."""

from collections.abc import Sequence
from pathlib import Path

from featcache.base.errors import FeatcacheError, InvalidSettings, collected
from featcache.datasets.splits import natural_key
from featcache.store.cache import FeatureCache
from head.runs.run import Run, read_run, run_folders


def find_runs_of(cache: FeatureCache, runs: Path, splits: str = "all") -> tuple[list[Run], list[FeatcacheError]]:
    """Return the runs of some splits, or of 'all', in runs/CACHE or, where that is not, in runs or below it.

    Beside them the errors of runs that cannot be read. splits is as `head.training.jobs.chosen_splits` takes it.
    Unless some are unreadable, raises `InvalidSettings` if no run is finished, or none of a split that splits names.
    """
    folder = runs / cache.name if (runs / cache.name).is_dir() else runs
    readable, errors = collected(read_run, run_folders(folder))
    found = [run for run in readable if _is_of(run, cache, folder)]
    if splits != "all":
        one = any(run.split == splits for run in found)
        wanted = [splits] if one else [split.strip() for split in splits.split(",")]
        found = [run for run in found if run.split in wanted]
        missing = [split for split in wanted if not any(run.finished for run in found if run.split == split)]
    else:
        missing = [] if any(run.finished for run in found) else ["all"]
    if missing and not errors:
        unfinished = sum(not run.finished for run in found)
        raise InvalidSettings(_nothing_found(cache, folder, ",".join(missing), unfinished, readable))
    return sorted(found, key=lambda run: (run.name, natural_key(run.split))), errors


def _nothing_found(cache: FeatureCache, folder: Path, splits: str, unfinished: int, runs: Sequence[Run]) -> str:
    """Return that no run of splits, or of 'all', is finished, and the way out; runs are all that are there."""
    which = "any split" if splits == "all" else f"split {splits}"
    alike = [run for run in runs if not run.imported and run.config.fingerprint == cache.fingerprint]
    names = {run.config.cache for run in alike} - {cache.name}
    renamed = f"; runs of these features are there for {min(names)}: give the cache that name again" if names else ""
    return (
        f"{folder}: no finished run of {which} on {cache.name}, and {unfinished} unfinished; make one with "
        f"train-head --cache {cache.path} --split {splits}{renamed}"
    )


def _is_of(run: Run, cache: FeatureCache, folder: Path) -> bool:
    """Whether a run belongs to a cache: trained on it, or imported and either of its features or asked for itself."""
    if run.imported:
        return run.folder == folder or run.config.fingerprint == cache.fingerprint
    return bool(run.config.cache == cache.name)
