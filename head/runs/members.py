"""The finished runs of the heads that a stack or a mean is of, on one split. Knows nothing of weights."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from featcache.base.commands import command
from featcache.base.errors import CorruptFile, FeatcacheError, InvalidSettings, list_problems
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


@dataclass
class _Missing:
    """What is wrong with members of heads of some kinds: problems and the commands against them, a line each.

    there has for each home and split, where a name is of no run that is known, the names of those that are.
    """

    heads: tuple[str, ...]
    problems: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    there: dict[tuple[Path, str], list[str]] = field(default_factory=dict)

    def as_text(self) -> str:
        kinds = " and ".join(command("--head", head) for head in self.heads)
        are = "is" if len(self.heads) == 1 else "are"
        title = f"{kinds} {are} made of finished runs of members on the same split:"
        ways = [f"Train them with: {one}" for one in dict.fromkeys(self.commands)]
        alike = dict[tuple[Path, str], list[str]]()
        for (home, split), names in self.there.items():
            there = f"these runs: {', '.join(names)}" if names else "no run"
            alike.setdefault((home, there), []).append(split)
        for (home, there), splits in alike.items():
            ways.append(f"{home} has on split {', '.join(splits)} {there}.")
        return list_problems(title, dict.fromkeys(self.problems), "\n".join(ways)).rstrip("\n")


class MembersMissing(InvalidSettings):
    """Members of a head are not there, or cannot be its members; missing says what is wrong with each."""

    missing: _Missing

    @classmethod
    def of(cls, missing: _Missing) -> "MembersMissing":
        """Return the error that says it all."""
        error = cls(missing.as_text())
        error.missing = missing
        return error


def as_one(errors: Sequence[FeatcacheError]) -> list[FeatcacheError]:
    """Return errors of several trainings, those of missing members as one, which says what is alike once."""
    others = [error for error in errors if not isinstance(error, MembersMissing)]
    every = [error.missing for error in errors if isinstance(error, MembersMissing)]
    if not every:
        return others
    together = _Missing(tuple(dict.fromkeys(head for one in every for head in one.heads)))
    for one in every:
        together.problems += one.problems
        together.commands += one.commands
        together.there |= one.there
    return [MembersMissing.of(together), *others]


def find_member_runs(cache: FeatureCache, split: str, settings: TrainSettings, home: Path) -> list[Run]:
    """Return the finished run of each member of settings on a split, in home/NAME/split-K.

    Of a head of several seeds, NAME,seed=1 beside NAME, it is the run of the seed of settings, unless NAME has a seed
    itself; a baseline that is not fitted by epochs may be of another seed. Raises `InvalidSettings` that lists each
    that is missing, unfinished or of another kind, features, data or held-out images, with the commands that train it.
    """
    wanted = _Wanted(cache, split, settings, home)
    digests, found, missing = digests_once(cache), [], _Missing((settings.head,))
    problems, commands = missing.problems, missing.commands
    if len(settings.members) < 2:
        two = f"{command('--head', settings.head)} takes two heads or more: --member NAME --member NAME"
        problems.append(two)
    for name in settings.members:
        run = _run_of(name, wanted)
        if run is None:
            problems.append(f"{_place(name, wanted)}: no run there")
            known = _to_train(name, wanted)
            commands += known
            if not known:
                missing.there[wanted.home, split] = _there(wanted)
        elif unfit := _unfit(name, run, wanted):
            problems += [f"{run.folder}: {problem}" for problem in unfit]
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
        raise MembersMissing.of(missing)
    return found


def commands_on_all_images(cache: FeatureCache, settings: TrainSettings, home: Path) -> list[str] | None:
    """Return what trains on all images the members of a head that are not there, where settings are of one.

    Members are as `find_member_runs` takes them. None where it would refuse one nevertheless, as one that is
    calibrated, or where a member has no finished run on a split by which it could be trained.
    """
    wanted, digests, commands = _Wanted(cache, FULL, settings, home), digests_once(cache), list[str]()
    for name in settings.members:
        whole = _run_of(name, wanted)
        there = [run for split in cache.splits if (run := _run_of(name, replace(wanted, split=split)))]
        runs = [whole] if whole and whole.finished else there
        if not runs or any(_unfit(name, run, wanted) or difference(run, cache, digests) for run in runs):
            return None
        if not all(run.finished and not _damaged(run) for run in runs):
            return None
        if runs == there:
            commands.append(train_command(cache, FULL, runs[0].train_settings, name=runs[0].name, runs=wanted.runs))
    return list(dict.fromkeys(commands))


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


def _unfit(name: str, run: Run, wanted: _Wanted) -> list[str]:
    """Return all for which a run cannot be one of several, nothing if it can; of other data `difference` says more."""
    settings, head = wanted.settings, str(run.settings["head"])
    if run.imported:
        return ["imported, so which images it was trained on is unknown"]
    kind, problems = kind_for(run.train_settings), list[str]()
    if kind.of_others:
        problems.append(f"it is a {head} itself; name its members")
    if run.settings["calibrate"] != "none":
        calibrate = command("--calibrate", str(run.settings["calibrate"]))
        problems.append(
            f"it is calibrated; name a run without that, and give {calibrate} to the {settings.head} itself"
        )
    if kind.is_network:
        problems.append(f"a {head} computes a part of the backbone anew, which is not done for several heads at once")
    if (run.config.fingerprint, run.config.document.get("views")) != (wanted.cache.fingerprint, wanted.cache.views):
        return [*problems, "it was trained on other features or views"]
    others = [f"{name} {run.settings[name]}" for name in _ALIKE if run.settings[name] != getattr(settings, name)]
    if others:
        problems.append(f"it was trained with {', '.join(others)}; use the same here")
    return problems or [problem for problem in [_of_other_seed(name, run, wanted)] if problem]


def _of_other_seed(name: str, run: Run, wanted: _Wanted) -> str:
    """Return why a run of another seed cannot be one of several, '' if it can or is of the same."""
    settings, kind = wanted.settings, kind_for(run.train_settings)
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
    """Return the command that trains a head on the split, where its settings are known by another of its runs.

    There is none where what it trains could not be one of several.
    """
    if is_all_images(wanted.cache, wanted.split):
        splits = list(wanted.cache.splits)
    else:
        splits = [split for split in (*wanted.cache.splits, FULL) if split != wanted.split]
    for split in splits:
        run = _run_of(name, replace(wanted, split=split))
        if run is not None and not run.imported and not _unfit(name, run, wanted):
            return [train_command(wanted.cache, wanted.split, run.train_settings, name=run.name, runs=wanted.runs)]
    return []


def _there(wanted: _Wanted) -> list[str]:
    """Return which heads there are on the split."""
    return sorted(path.parent.parent.name for path in wanted.home.glob(f"*/split-{wanted.split}/{CONFIG_NAME}"))
