"""What the words in a log's columns mean: target or filler, first or repeat, yes or no. Said aloud, never silently."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from featcache.base.commands import command
from featcache.base.errors import InvalidSettings, counted
from featcache.ratings.columns import shown

MEANINGS = {
    "condition": (
        *("target", "target-first", "target-repeat", "filler", "filler-first"),
        *("vigilance", "vigilance-first", "vigilance-repeat", "first", "repeat", "ignored"),
    ),
    "showing": ("first", "repeat", "ignored"),
    "response": ("yes", "no", "missing", "ignored"),
}
MISSING = ("", "na", "n/a", "nan", "null", "missing")  # spelt small
_MOST_WORDS = 50  # that a column of words has; more are something else
_KINDS = {
    "filler": "nontarget|filler|foil|distractor|lure|distracter",
    "vigilance": "vigilance|vigil|vig|catch",
    "target": "target|tgt|critical",
}
_SHOWINGS = {
    "first": "first|1st|new|initial|novel|presentation1|showing1",
    "repeat": "repetition|repeated|repeats?|rep|second|2nd|old|presentation2|showing2",
}
_FILL = "trial|image|stimulus|presentation|showing|item|the|of|is"
_IGNORED = "practi[cs]e(?:trial)?|warmup|demo"
_YES = {"1", "1.0", "true", "t", "yes", "y", "hit", "fa", "falsealarm", "old", "seen", "repeat", "repeated", "space",
        "spacebar", "press", "pressed", "clicked", "responded"}  # fmt: skip
_NO = {"0", "0.0", "false", "f", "no", "n", "miss", "cr", "correctrejection", "new", "unseen", "none", "noresponse",
       "nopress", "notpressed"}  # fmt: skip


_NUMBER = re.compile(r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


class Meanings(NamedTuple):
    """The meaning of each word of a column, None where it is not known; what was taken as what; what is wrong."""

    of: dict[str, str | None]
    notes: list[str]
    problems: list[str]


def is_number(text: str) -> bool:
    """Say whether a text is written as a number with a decimal point, however large; infinity and NaN are none."""
    return _NUMBER.fullmatch(text) is not None


def parse_words(what: str, given: Sequence[str]) -> dict[str, str]:
    """Return meanings by word from texts WORD=MEANING; raise `InvalidSettings` for others."""
    found = {}
    for text in given:
        word, equals, meaning = text.rpartition("=")
        if not equals or meaning not in MEANINGS[what]:
            raise InvalidSettings(f"--{what}-word {shown(text)}: expected WORD=MEANING with one of the meanings "
                                  f"{', '.join(MEANINGS[what])}")  # fmt: skip
        found[word.strip()] = meaning
    return found


def meanings_of(what: str, words: Mapping[str, int], given: Mapping[str, str], *, column: str) -> Meanings:
    """Return what the words of a column mean, from how often each is there; given ones are not guessed."""
    if len(words) > _MOST_WORDS:
        some = ", ".join(shown(word) for word in sorted(words)[:3])
        problem = f"column {shown(column)} has {len(words):,} different words ({some}, ...), so it is no {what}"
        return Meanings({}, [], [f"{problem}; name another with --{what}-column NAME"])
    guess: Callable[[str], str | None] = {
        "condition": _condition,
        "showing": lambda word: _showing(word, words),
        "response": lambda word: _response(word, words, given),
    }[what]
    guessed = {word: guess(word) for word in words if word not in given}
    of = _firsts_where_repeats_are_named({**guessed, **{word: given[word] for word in given if word in words}}, given)
    notes = [f"{what} {shown(word)} is taken as {meaning} ({counted(words[word], 'line')})"
             for word, meaning in sorted(of.items(), key=lambda item: -words[item[0]])
             if meaning and word not in given and meaning != word.lower()]  # fmt: skip
    notes += [f"{what} {shown(word)}, named by --{what}-word, is not in the table" for word in given if word not in of]
    problems = [
        f"{what} {shown(word)} ({counted(words[word], 'line')}) is not known: "
        f"{command(f'--{what}-word', f'{word}=')}MEANING, one of {', '.join(MEANINGS[what])}"
        for word, meaning in of.items()
        if meaning is None
    ]
    return Meanings(of, notes, problems)


def _firsts_where_repeats_are_named(of: dict[str, str | None], given: Mapping[str, str]) -> dict[str, str | None]:
    """Return meanings in which target is a first showing where another word means its repeat, and so on."""
    firsts = {"target": "target-repeat", "vigilance": "vigilance-repeat", "filler": "vigilance-repeat"}
    return {
        word: f"{meaning}-first"
        if word not in given and meaning in firsts and firsts[meaning] in of.values()
        else meaning
        for word, meaning in of.items()
    }


def _condition(word: str) -> str | None:
    """Return the meaning of words such as `target_repeat`, `Filler` or `vigilance (first)`."""
    text = _spelt(word)
    if re.fullmatch(_IGNORED, text):
        return "ignored"
    every = {name: words for names in (_KINDS, _SHOWINGS) for name, words in names.items()}
    pattern = "|".join(f"(?P<{name}>{words})" for name, words in every.items()) + f"|(?:{_FILL})"
    found, place = set(), 0
    while place < len(text):
        match = re.compile(pattern).match(text, place)
        if not match:
            return None
        found |= {name for name, part in match.groupdict().items() if part}
        place = match.end()
    meaning = "-".join(name for name in every if name in found)
    meaning = {"filler-repeat": "vigilance-repeat"}.get(meaning, meaning)
    return meaning if meaning in MEANINGS["condition"] else None


def _showing(word: str, words: Mapping[str, int]) -> str | None:
    """Return the meaning of first and repeat, of 0 and 1, or of 1, 2 and more, whichever the column has."""
    text = _spelt(word)
    if text.isdecimal():
        others = {int(other) for other in map(_spelt, words) if other.isdecimal()}
        lowest = 0 if 0 in others else 1
        return None if len(others) < 2 else "first" if int(text) == lowest else "repeat"
    if text in ("true", "yes", "false", "no"):
        return "repeat" if text in ("true", "yes") else "first"
    meaning = _condition(word)
    return meaning if meaning in ("first", "repeat") else None


def _response(word: str, words: Mapping[str, int], given: Mapping[str, str]) -> str | None:
    """Return yes, no or missing; a word that means missing is no where the others are all yes: no key was pressed."""
    text = _spelt(word)
    if text in _YES or text in _NO:
        return "yes" if text in _YES else "no"
    if word.lower() not in MISSING:
        return None
    others = [
        given.get(other, "yes" if _spelt(other) in _YES else "") for other in words if other.lower() not in MISSING
    ]
    return "no" if others and all(other == "yes" for other in others) else "missing"


def _spelt(word: str) -> str:
    return re.sub(r"[^\w.]+|_", "", word.casefold())
