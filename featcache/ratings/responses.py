"""Which responses count: first showings and repeats of a memory game told apart, workers left out by stated rules."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.base.errors import MOST_PROBLEMS_SHOWN, BadInput, counted, refuse
from featcache.ratings.columns import options_of, suited_scores
from featcache.ratings.reading import Table
from featcache.ratings.scores import Answers
from featcache.ratings.settings import OF_RATINGS, WITH_WORDS, RatingSettings
from featcache.ratings.words import MISSING, is_number, meanings_of

Kept = NDArray[np.bool_]


class LeftOut(NamedTuple):
    """How many workers (0 where a rule is of single responses) and responses a rule left out."""

    rule: str
    workers: int
    responses: int


class Responses(NamedTuple):
    """Ratings, or repeats of targets and first showings with 1 for yes and 0 for no; lag (n) of each repeat in trials.

    trials counts the kinds of a log's lines, words has the meaning of each word by column, notes what was guessed.
    """

    repeats: Answers
    firsts: Answers | None
    lag: NDArray[np.float64] | None
    left_out: list[LeftOut]
    trials: dict[str, int]
    words: dict[str, dict[str, str]]
    notes: list[str]


class _Log(NamedTuple):
    """n lines of a log: image and worker int32, target or not, repeat or not, 1 or 0 for yes or no and -1 for missing,
    the lag in trials or NaN, and the row of the table. Sorted by worker, image, and repeats after first showings.
    """

    image: NDArray[np.int32]
    worker: NDArray[np.int32]
    target: Kept
    repeat: Kept
    pressed: NDArray[np.int8]
    lag: NDArray[np.float64]
    row: NDArray[np.int32]

    def where(self, kept: Kept) -> "_Log":
        rows = np.flatnonzero(kept)
        return _Log(
            self.image[rows],
            self.worker[rows],
            self.target[rows],
            self.repeat[rows],
            self.pressed[rows],
            self.lag[rows],
            self.row[rows],
        )

    def answers(self, kept: Kept) -> Answers:
        return Answers(self.image[kept], self.worker[kept], self.pressed[kept].astype(np.float64))


class _Words(NamedTuple):
    """The columns of words of a table, and what each of their words means."""

    table: Table
    meanings: dict[str, list[str]]

    def are(self, what: str, *meanings: str) -> Kept:
        """Return which lines (n) have one of these meanings in a column; none where there is no such column."""
        if what not in self.meanings:
            return np.zeros(len(self.table.row), bool)
        return np.array([meaning in meanings for meaning in self.meanings[what]])[self.table.codes[what].of]

    def as_told(self) -> dict[str, dict[str, str]]:
        """Return the meaning of each word by column."""
        pairs = {
            what: zip(self.table.codes[what].texts, meanings, strict=True) for what, meanings in self.meanings.items()
        }
        return {what: {word: meaning for word, meaning in some if meaning} for what, some in pairs.items()}


def ratings_that_count(table: Table, settings: RatingSettings) -> Responses:
    """Return the ratings of a table of image, worker, rating: the first of each worker of an image, none missing."""
    rating = table.numbers["rating"]
    given = ~np.isnan(rating)
    ratings = Answers(table.codes["image"].of, table.codes["worker"].of, rating).where(given)
    pair = _pairs(ratings.image, ratings.worker)
    order = np.argsort(pair, kind="stable")
    first = _begins(pair[order])
    left_out = [
        LeftOut("the rating is missing", 0, int(np.count_nonzero(~given))),
        LeftOut("a worker rated the image before; the first rating in the table counts", 0, _count(~first)),
    ]
    kept = order[first]
    ratings = Answers(ratings.image[kept], ratings.worker[kept], ratings.value[kept])
    notes = []
    others = "rating" not in settings.columns and suited_scores(table.header.names, settings.score)
    if others and np.isin(ratings.value, (0, 1)).all():
        notes.append(f"warning: all ratings are 0 or 1. {others}")
    few = np.bincount(ratings.worker, minlength=1) < settings.fewest_responses
    if settings.fewest_responses > 1:
        rule = f"workers with fewer than {counted(settings.fewest_responses, 'rating')}"
        left_out.append(_workers_left_out(rule, few, ratings.worker))
    return Responses(ratings.where(~few[ratings.worker]), None, None, left_out, {}, {}, notes)


def trials_that_count(table: Table, settings: RatingSettings) -> Responses:
    """Return the repeats of targets and the first showings of a memory game's log. Raises `BadInput`."""
    words, notes = _meanings(table, settings)
    log, left_out, more = _read_log(table, words)
    told = (words.as_told(), [*notes, *more, *_notes_of_vigilance(log, settings)])
    log, rules = _without_workers(log, settings)
    left_out += rules
    hits = log.repeat & log.target
    backwards = hits & (log.lag <= 0)
    trials = {
        "first_showings": _count(~log.repeat),
        "target_repeats": _count(hits),
        "vigilance_repeats": _count(log.repeat & ~log.target),
    }
    if settings.score == "lag":
        known = ~np.isnan(log.lag)
        left_out.append(LeftOut("the lag of a repeat is not known", 0, _count(hits & ~known)))
        _refuse_backwards(table, np.sort(log.row[backwards]))
        return Responses(log.answers(hits & known), None, log.lag[hits & known], left_out, trials, *told)
    if backwards.any():
        number = counted(_count(backwards), "target's repeat", "targets' repeats")
        told[1].append(f"warning: {number} not after the first showing by trials or lags, counted as such all the same")
    if settings.score == "hits":
        return Responses(log.answers(hits), None, None, left_out, trials, *told)
    images = len(table.codes["image"].texts)
    complete = np.ones(images, bool)
    for some in (hits, ~log.repeat):
        complete &= np.bincount(log.image[some], minlength=images) > 0
    whole = complete[log.image]
    left_out += [
        LeftOut("repeats of images whose first showings have no response", 0, _count(hits & ~whole)),
        LeftOut("first showings of images that are no repeated target", 0, _count(~log.repeat & ~whole)),
    ]
    return Responses(log.answers(hits & whole), log.answers(~log.repeat & whole), None, left_out, trials, *told)


def _refuse_backwards(table: Table, rows: NDArray[np.int32]) -> None:
    """Raise `BadInput` that names the lines of repeats that do not come after their first showing, if there are any."""
    lines = table.lines_of(rows[:MOST_PROBLEMS_SHOWN].tolist()) if len(rows) else {}
    refuse(
        BadInput,
        f"{table.path}: lags of 0 trials or fewer:",
        [f"{table.path}:{line}: the repeat does not come after the first showing" for line in lines.values()],
        "Mend them, or name the columns of trials or lags.",
        total=len(rows),
    )


def _notes_of_vigilance(log: _Log, settings: RatingSettings) -> list[str]:
    """Return that a rule which is asked for leaves nobody out, where nothing is there to judge workers by."""
    if (log.repeat & ~log.target).any() or not settings.least_vigilance_hits:
        return []
    option = f"--least-vigilance-hits {settings.least_vigilance_hits:g}"
    return [f"no response is to a vigilance repeat, so {option} leaves nobody out"]


def _read_log(table: Table, words: _Words) -> tuple[_Log, list[LeftOut], list[str]]:
    """Return the lines that count, without repeated showings and missing responses."""
    notes = []
    ignored = words.are("condition", "ignored") | words.are("showing", "ignored") | words.are("response", "ignored")
    showing = _showings(words)
    kind = _kinds(words)
    pressed = np.where(words.are("response", "yes"), np.int8(1), np.int8(-1))
    pressed[words.are("response", "no")] = 0
    if not {"condition", "showing"} & words.meanings.keys() and table.numbers.keys() & {"lag", "first-trial"}:
        showing[:] = 1
        notes.append("there is no column of conditions, but of lags: every line is read as the repeat of a target")
    elif (kind < 0).all():
        lack = "no condition tells targets from others" if "condition" in table.codes else "there are no conditions"
        notes.append(f"{lack}: every repeat counts as that of a target")
    rows = _in_order(table, np.flatnonzero(~ignored), showing)
    order, repeat, key = _without_doubled(table, rows, showing)
    doubled = len(rows) - len(order)
    if (showing[~ignored] < 0).any():
        by = "trials" if "trial" in table.numbers else "the table's lines"
        notes.append(f"first showings and repeats are told apart by the order of {by}")
    kept = _begins(key)
    order, repeat, key = order[kept], repeat[kept], key[kept]
    follows = np.concatenate([[False], key[1:] == key[:-1] + 1]) & repeat  # its first showing is the line before
    kind = kind[order]
    kind = np.where((kind < 0) & follows, np.roll(kind, 1), kind)
    log = _Log(
        table.codes["image"].of[order],
        table.codes["worker"].of[order],
        kind != 0,
        repeat,
        pressed[order],
        _lags(table, order, follows),
        table.row[order],
    )
    if not (log.repeat & log.target).any():
        raise BadInput(f"{table.path}: no image is shown to a worker twice as a target, so there are no hits; name "
                       "--condition-column, --showing-column, --trial-column or --lag-column")  # fmt: skip
    missing = log.pressed < 0
    left_out = [
        LeftOut("the condition, showing or response is one to be ignored", 0, _count(ignored)),
        LeftOut("the same worker, image and trial as a line before; the first in the table counts", 0, doubled),
        LeftOut("the worker saw the image before, beyond one first showing and one repeat", 0, _count(~kept)),
        LeftOut("the response is missing", 0, _count(missing)),
    ]
    return log.where(~missing), left_out, notes


def _meanings(table: Table, settings: RatingSettings) -> tuple[_Words, list[str]]:
    """Return what the words of each column mean, and notes; raise `BadInput` that lists all that are not known."""
    found, notes, problems, way_out = {}, [], [], "Say what they mean with these options."
    for what in WITH_WORDS:
        if what not in table.codes:
            continue
        texts, of = table.codes[what]
        counts = np.bincount(of, minlength=len(texts)).tolist()
        words = {text: count for text, count in zip(texts, counts, strict=True) if count}
        meanings = meanings_of(what, words, settings.words.get(what, {}), column=table.columns[what])
        found[what] = [meanings.of.get(text) or "" for text in texts]
        notes += meanings.notes
        problems += meanings.problems
        if what == "response" and meanings.problems and _are_numbers(words):
            way_out += f" If the responses are ratings: {options_of(OF_RATINGS)}."
    refuse(BadInput, f"{table.path}: words whose meaning is not known:", problems, way_out)
    return _Words(table, found), notes


def _are_numbers(texts: Iterable[str]) -> bool:
    """Say whether all words but the missing are numbers, as ratings are."""
    return all(is_number(text.replace(",", ".")) for text in texts if text.lower() not in MISSING)


def _kinds(words: _Words) -> NDArray[np.int8]:
    """Return 1 (n) for targets, 0 for fillers and vigilance images, -1 for what no condition says."""
    kind = np.where(words.are("condition", "target", "target-first", "target-repeat"), np.int8(1), np.int8(-1))
    kind[words.are("condition", "filler", "filler-first", "vigilance", "vigilance-first", "vigilance-repeat")] = 0
    return kind


def _showings(words: _Words) -> NDArray[np.int8]:
    """Return 0 (n) for first showings, 1 for repeats, -1 for what no column says; one of showings goes first."""
    showing = np.full(len(words.table.row), -1, np.int8)
    showing[words.are("condition", "first", "target-first", "filler-first", "vigilance-first")] = 0
    showing[words.are("condition", "repeat", "target-repeat", "vigilance-repeat")] = 1
    showing[words.are("showing", "first")] = 0
    showing[words.are("showing", "repeat")] = 1
    return showing


def _in_order(table: Table, rows: NDArray[np.int64], showing: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return rows by worker, image and trial, of one trial by showing; without a column of trials in their order."""
    pair = _pairs(table.codes["image"].of[rows], table.codes["worker"].of[rows])
    trial = table.numbers.get("trial")
    keys = (pair,) if trial is None else (showing[rows], trial[rows], pair)
    return rows[np.lexsort(keys)]


def _without_doubled(
    table: Table, rows: NDArray[np.int64], showing: NDArray[np.int8]
) -> tuple[NDArray[np.int64], Kept, NDArray[np.int64]]:
    """Return rows by worker, image, first showing or repeat, and trial; which are repeats; and 2 * pair + repeat.

    Of lines of one worker, image and trial the first counts, unless one is said to be the first showing and the other
    the repeat. Of lines of unknown showing the first of a worker and image is the first showing, others are repeats.
    """
    pair = _pairs(table.codes["image"].of[rows], table.codes["worker"].of[rows])
    trial = table.numbers.get("trial")
    if trial is not None:
        kept = _begins(pair) | _begins(trial[rows]) | _begins(showing[rows])
        rows, pair = rows[kept], pair[kept]
    said = showing[rows]
    repeat = np.where(said < 0, ~_begins(pair), said == 1)
    key = 2 * pair + repeat
    by_showing = np.argsort(key, kind="stable")
    return rows[by_showing], repeat[by_showing], key[by_showing]


def _lags(table: Table, rows: NDArray[np.int64], follows: Kept) -> NDArray[np.float64]:
    """Return the lag of each row: said, or of the trials of both showings, in this line or in this and the last."""
    if "lag" in table.numbers:
        return table.numbers["lag"][rows]
    trial = table.numbers.get("trial")
    if trial is None:
        return np.full(len(rows), np.nan)
    if "first-trial" in table.numbers:
        return (trial - table.numbers["first-trial"])[rows]
    return np.where(follows, trial[rows] - np.roll(trial[rows], 1), np.nan)


def _without_workers(log: _Log, settings: RatingSettings) -> tuple[_Log, list[LeftOut]]:
    """Return the lines of workers that no rule leaves out; a worker counts under the first rule that does."""
    workers = int(log.worker.max(initial=-1)) + 1
    yes = log.pressed == 1
    vigilance, first, hits = log.repeat & ~log.target, ~log.repeat, log.repeat & log.target
    recognised, alarms = (_rate(log.worker, some, yes, workers) for some in (vigilance, first))
    rules = [
        (f"workers who recognised less than {settings.least_vigilance_hits:.0%} of vigilance repeats",
         recognised < settings.least_vigilance_hits),
        (f"workers with false alarms on more than {settings.most_false_alarms:.0%} of first showings",
         alarms > settings.most_false_alarms),
        (f"workers with fewer than {counted(settings.fewest_responses, 'response')} to repeats of targets",
         np.bincount(log.worker[hits], minlength=workers) < settings.fewest_responses),
    ]  # fmt: skip
    left_out = []
    for rule, out in rules:
        left_out.append(_workers_left_out(rule, out, log.worker))
        log = log.where(~out[log.worker])
    return log, left_out


def _rate(worker: NDArray[np.int32], some: Kept, yes: Kept, workers: int) -> NDArray[np.float64]:
    """Return each worker's share of yes among some lines, NaN without any, which no rule leaves out."""
    with np.errstate(invalid="ignore"):
        return np.bincount(worker[some & yes], minlength=workers) / np.bincount(worker[some], minlength=workers)


def _workers_left_out(rule: str, out: Kept, worker: NDArray[np.int32]) -> LeftOut:
    of = np.bincount(worker, minlength=len(out))
    return LeftOut(rule, _count(out & (of > 0)), int(of[out].sum()))


def _pairs(image: NDArray[np.int32], worker: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return one number for each worker and image."""
    return worker.astype(np.int64) * (int(image.max(initial=0)) + 1) + image


def _begins(key: NDArray[Any]) -> Kept:
    """Return which (n) of sorted keys differ from the one before."""
    return np.concatenate([[True], key[1:] != key[:-1]])[: len(key)]


def _count(some: Kept) -> int:
    return int(np.count_nonzero(some))
