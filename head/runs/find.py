"""Find the runs of a cache."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.base.commands import amnet
from featcache.base.errors import FeatcacheError, InvalidSettings, collected
from featcache.datasets.splits import natural_key
from featcache.store.cache import FeatureCache
from head.data.batches import is_all_images
from head.runs.ratings import difference, digests_once
from head.runs.run import Run, read_run, run_folders
from head.settings import TrainSettings, options_of


@dataclass(frozen=True)
class FoundRuns:
    """The runs of a cache by name and split; those of other data, and how they differ; errors of unreadable ones.

    Runs of other data say nothing of the cache's scores, and are not scored. on_all_images are its runs that nothing is
    left to score on, and unfinished all its others that have not finished, of whatever split.
    """

    runs: Sequence[Run]
    of_other_data: Sequence[tuple[Run, str]]
    errors: Sequence[FeatcacheError]
    on_all_images: Sequence[Run] = ()
    unfinished: Sequence[Run] = ()


def find_runs_of(cache: FeatureCache, runs: Path, splits: str = "all") -> FoundRuns:
    """Return the runs of some splits, or of 'all', in runs/CACHE or, where that is not, in runs or below it.

    splits is as `head.training.jobs.chosen_splits` takes it. Unless some are unreadable, raises `InvalidSettings` if no
    run is finished, or none of a split that splits names.
    """
    own = runs / cache.name / cache.target
    folder = own if own.is_dir() else runs
    readable, errors = collected(read_run, run_folders(folder))
    readable = [run for run in readable if run.imported or run.config.target == cache.target]
    digests = digests_once(cache)
    judged, damaged = collected(
        lambda run: (run, difference(run, cache, digests) if _has_its_features(run, cache) else ""), readable
    )
    errors += damaged
    belonging, elsewhere = _by_cache([run for run, problem in judged if not problem], cache, folder, runs)
    mine, whole = ([run for run in belonging if run.on_all_images is full] for full in (False, True))
    unfinished = [run for run in mine if not run.finished and _has_its_features(run, cache)]
    others = [(run, problem) for run, problem in judged if problem and run.config.cache == cache.name]
    if splits != "all":
        one = any(run.split == splits for run in mine)
        wanted = [splits] if one else [split.strip() for split in splits.split(",")]
        mine = [run for run in mine if run.split in wanted]
        others = [(run, problem) for run, problem in others if run.split in wanted]
        missing = [split for split in wanted if not any(run.finished for run in mine if run.split == split)]
    else:
        missing = [] if any(run.finished for run in mine) else ["all"]
    others = sorted(others, key=lambda one: _order(one[0]))
    found = FoundRuns(sorted(mine, key=_order), others, errors, sorted(whole, key=_order), unfinished)
    if missing and not errors:
        raise InvalidSettings(_nothing_found(cache, folder, ",".join(missing), found, elsewhere, runs))
    return found


def _order(run: Run) -> tuple[str, tuple[int, int, str]]:
    return run.name, natural_key(run.split)


def _has_its_features(run: Run, cache: FeatureCache) -> bool:
    """Whether a run's data can be compared; of a run of other features scoring it says how those differ."""
    return run.config.fingerprint == cache.fingerprint


def _by_cache(runs: Sequence[Run], cache: FeatureCache, folder: Path, runs_folder: Path) -> tuple[list[Run], list[str]]:
    """Return the runs that are a cache's, and the other caches that it may have been when runs were trained.

    A cache's are those trained under its name or, if there are none, under the one other name under which some were
    trained on these features and scores: it was renamed. In a folder of its own all of these features and scores are.
    Imported are those of its features, or in folder itself.
    """
    imported = [
        run for run in runs if run.imported and (run.folder == folder or run.config.fingerprint == cache.fingerprint)
    ]
    by_name = defaultdict[str, list[Run]](list)
    for run in runs:
        if not run.imported and (run.config.cache == cache.name or run.config.fingerprint == cache.fingerprint):
            by_name[run.config.cache].append(run)
    if folder.is_relative_to(runs_folder / cache.name):
        return imported + [run for found in by_name.values() for run in found], []
    if cache.name in by_name or len(by_name) == 1:
        return imported + by_name.get(cache.name, next(iter(by_name.values()))), []
    return imported, sorted(by_name)


def _nothing_found(
    cache: FeatureCache, folder: Path, splits: str, found: FoundRuns, elsewhere: Sequence[str], runs: Path
) -> str:
    """Return that no run of splits, or of 'all', is finished, and the way out; elsewhere are names of equal caches."""
    if is_all_images(cache, splits) and found.on_all_images:
        return f"{folder}: runs on all images have no test score of their own; score those on the splits: --split all"
    which = "any split" if splits == "all" else f"split {splits}"
    begun = [run for run in found.runs if not run.finished]
    reasons = "; ".join(dict.fromkeys(reason for _, reason in found.of_other_data))
    of_others = f", and {len(found.of_other_data)} of other data ({reasons})" if reasons else ""
    equal = f"; runs of the same features and scores are there for {' and '.join(elsewhere)}: name one with --runs"
    others = [run for run, _ in found.of_other_data]
    again = commands_to_train(cache, others, runs, resume=False) or commands_to_train(cache, begun, runs)
    target = ["--target", cache.target] if cache.target else []
    way_out = "; ".join(again) or amnet("train-head", "--cache", cache.path, *target, "--split", splits)
    return (
        f"{folder}: no finished run of {which} on {cache.name}, and {len(begun)} unfinished"
        f"{of_others}{equal if elsewhere else ''}; make one with: {way_out}"
    )


def train_command(
    cache: FeatureCache, split: str, settings: TrainSettings, *, name: str, runs: Path, resume: bool = True
) -> str:
    """Return the command that trains a head of these settings and of this name on splits, as `--split` takes them."""
    target = ["--target", cache.target] if cache.target and len(cache.targets) > 1 else []
    named = ["--name", name] if name != settings.default_name() else []
    home: list[str | Path] = ["--runs", runs] if runs != Path("runs") else []
    anew = [] if resume else ["--no-resume"]
    words = [*target, *options_of(settings), *named, *home, *anew]
    return amnet("train-head", "--cache", cache.path, "--split", split, *words)


def commands_to_train(cache: FeatureCache, found: Sequence[Run], runs: Path, *, resume: bool = True) -> list[str]:
    """Return the commands that train runs in their folders again, each for all that share name and settings."""
    groups: dict[tuple[str, TrainSettings], list[str]] = {}
    for run in found:
        groups.setdefault((run.folder.parent.name, run.train_settings), []).append(run.split)
    return [
        train_command(cache, one, settings, name=name, runs=runs, resume=resume)
        for (name, settings), splits in groups.items()
        for one in _together(cache, splits)
    ]


def _together(cache: FeatureCache, splits: Sequence[str]) -> list[str]:
    """Return what `--split` takes for several splits: one text, unless a name has a comma itself."""
    if set(splits) == set(cache.splits):
        return ["all"]
    return list(splits) if any("," in split for split in splits) else [",".join(splits)]
