"""The finished runs of the heads that a stack or a mean is of, on one split. Knows nothing of weights."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from featcache.base.commands import command
from featcache.base.errors import CorruptFile, InvalidSettings, list_problems
from featcache.store.cache import FeatureCache
from head.data.batches import FULL, is_all_images, split_data
from head.data.several import SeveralInputs
from head.models.kinds import kind_for
from head.runs.find import commands_to_train, train_command
from head.runs.head_file import check_head
from head.runs.ratings import difference, digests_once
from head.runs.run import CONFIG_NAME, Run, read_run
from head.settings import TrainSettings

_ALIKE = ("select_on", "val_fraction")  # settings by which images are held out
_SEED = re.compile(r",seed=[0-9]+(,|$)")


@dataclass(frozen=True)
class _Wanted:
    """Where runs of heads are, home/NAME/split-K, and what is to be made of them; runs is the folder of all caches'."""

    cache: FeatureCache
    split: str
    settings: TrainSettings
    home: Path

    @property
    def runs(self) -> Path:
        return self.home.parents[1 if self.cache.target else 0]


def find_member_runs(cache: FeatureCache, split: str, settings: TrainSettings, home: Path) -> list[Run]:
    """Return the finished run of each member of settings on a split, in home/NAME/split-K.

    Of a head of several seeds, NAME,seed=1 beside NAME, it is the run of the seed of settings, unless NAME has a seed
    itself; a baseline that is not fitted by epochs may be of another seed. Raises `InvalidSettings` that lists each
    that is missing, unfinished or of another kind, features, data or held-out images, with the commands that train it.
    """
    wanted = _Wanted(cache, split, settings, home)
    if len(settings.members) < 2:
        raise InvalidSettings(
            f"{command('--head', settings.head)} takes two heads or more: --member NAME --member NAME"
        )
    digests, found = digests_once(cache), []
    problems, commands = list[str](), list[str]()
    for name in settings.members:
        run = _run_of(name, wanted)
        if run is None:
            problems.append(f"{_place(name, wanted)}: no run there")
            commands += _to_train(name, wanted)
        elif problem := _unfit(name, run, wanted):
            problems.append(f"{run.folder}: {problem}")
        elif problem := difference(run, cache, digests):
            problems.append(f"{run.folder}: {problem}")
            commands += commands_to_train(cache, [run], wanted.runs, resume=False)
        elif not run.finished:
            problems.append(f"{run.folder}: its training has not finished")
            commands += commands_to_train(cache, [run], wanted.runs)
        elif problem := _damaged(run):
            problems.append(problem)
            commands += commands_to_train(cache, [run], wanted.runs, resume=False)
        else:
            found.append(run)
    if problems:
        title = f"{command('--head', settings.head)} is made of finished runs of its members on the same split:"
        ways = [f"Train them with: {one}" for one in dict.fromkeys(commands)]
        raise InvalidSettings(list_problems(title, problems, "\n".join(ways) or _known(wanted)))
    return found


def _damaged(run: Run) -> str:
    """Return that a finished run's head is missing or damaged, '' if it is there."""
    try:
        check_head(run)
    except CorruptFile as error:
        return str(error).partition(";")[0]
    return ""


def several_inputs(runs: Sequence[Run]) -> SeveralInputs:
    """Return what runs' heads read, each input once.

    Attention is shown where every head attends, to the places of one grid without tokens, in as many steps.
    """
    inputs = tuple(dict.fromkeys(run.input for run in runs))
    shapes = [one.map_shape(run.recipe) for run in runs for one in [run.input]]
    grids = {(shape.height, shape.width) for shape in shapes}
    looks = {_looks(run) for run in runs}
    shown = all(run.attends and not run.tokens for run in runs) and len(grids) == 1 and len(looks) == 1
    return SeveralInputs(inputs, attends=shown)  # type: ignore[arg-type]  # of no run of several itself


def _looks(run: Run) -> int:
    """Return T of a head that attends."""
    of = {"amnet": "steps", "ep": "queries"}.get(str(run.settings["head"]))
    return int(run.settings[of]) if of else 1


def _run_of(name: str, wanted: _Wanted) -> Run | None:
    """Return the run of a head on the split, of the seed that is wanted where there are several."""
    seeded = [] if _SEED.search(name) else [f"{name},seed={wanted.settings.seed}"]
    for home in (*seeded, name):
        folder = wanted.home / home / f"split-{wanted.split}"
        if (folder / CONFIG_NAME).is_file():
            return read_run(folder)
    return None


def _place(name: str, wanted: _Wanted) -> Path:
    return wanted.home / name / f"split-{wanted.split}"


def _unfit(name: str, run: Run, wanted: _Wanted) -> str:
    """Return why a run cannot be one of several, '' if it can; of other data `difference` says more."""
    settings, head = wanted.settings, str(run.settings["head"])
    if run.imported:
        return "imported, so which images it was trained on is unknown"
    kind = kind_for(run.train_settings)
    if kind.of_others:
        return f"it is a {head} itself; name its members"
    if run.settings["calibrate"] != "none":
        calibrate = command("--calibrate", str(run.settings["calibrate"]))
        return f"it is calibrated; name a run without that, and give {calibrate} to this one itself"
    if kind.is_network:
        return f"a {head} computes a part of the backbone anew, which is not done for several heads at once"
    if (run.config.fingerprint, run.config.document.get("views")) != (wanted.cache.fingerprint, wanted.cache.views):
        return "it was trained on other features or views"
    others = [f"{name} {run.settings[name]}" for name in _ALIKE if run.settings[name] != getattr(settings, name)]
    if others:
        return f"it was trained with {', '.join(others)}; use the same here"
    if run.seed == settings.seed or is_all_images(wanted.cache, wanted.split):
        return ""
    seeds = f"it was trained with seed {run.seed}, and this is of seed {settings.seed}"
    by_chance = kind.baseline is None or kind.baseline.by_epochs  # else any seed gives the same head of the same data
    if by_chance and not _SEED.search(name):
        return f"{seeds}; train it with {command('--seed', str(settings.seed))}, or give this one its seed"
    learnt = [
        split_data(wanted.cache, wanted.split, one).digest(wanted.cache) for one in (run.train_settings, settings)
    ]
    return "" if learnt[0] == learnt[1] else f"{seeds}, by which other images of train are held out"


def _to_train(name: str, wanted: _Wanted) -> list[str]:
    """Return the command that trains a head on the split, where its settings are known by another of its runs."""
    if is_all_images(wanted.cache, wanted.split):
        splits = list(wanted.cache.splits)
    else:
        splits = [split for split in (*wanted.cache.splits, FULL) if split != wanted.split]
    for split in splits:
        run = _run_of(name, replace(wanted, split=split))
        if run is not None and not run.imported:
            return [train_command(wanted.cache, wanted.split, run.train_settings, name=run.name, runs=wanted.runs)]
    return []


def _known(wanted: _Wanted) -> str:
    """Return which heads there are on the split."""
    folder = f"split-{wanted.split}"
    names = sorted(path.parent.parent.name for path in wanted.home.glob(f"*/{folder}/{CONFIG_NAME}"))
    return f"On that split there are: {', '.join(names)}." if names else f"{wanted.home} has no run on that split."
