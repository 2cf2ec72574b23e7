"""Which columns of a table of responses hold what: those that the user named, others by their usual names."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from featcache.base.commands import command
from featcache.base.errors import BadInput, InvalidSettings, printable, refuse
from featcache.ratings.settings import REQUIRED, USED_BY

_OF_ONE = r"(?:name|id|path|file|code|number|nr|no|the|of)"
_IMAGE = "image|img|picture|pic|photograph|photo|stimulus|stimuli|stim|video|scene|frame|file"
_WORKER = "worker|subject|subj|participant|rater|user|observer|annotator|person|player|evaluator|assessor"


def _of(words: str, others: str = _OF_ONE) -> str:
    return f"{others}*(?:{words})s?(?:{words}|{others})*"


_NAMES = {  # earlier ones are preferred
    "image": (_of(_IMAGE), "item|item?id|name|filename"),
    "worker": (_of(_WORKER), "sub|ppt|pid|sid|uid"),
    "rating": ("ratings?|scores?|judge?ments?", "(?:image|user|beauty|aesthetic|quality)?(?:rating|score)",
               "response|answer|value|label|vote"),
    "condition": ("conditions?|cond", "(?:trial|image|stim|stimulus|item|picture)(?:type|condition|role)",
                  "type|role|kind"),
    "showing": ("showings?|presentations?|occurrences?|exposures?|appearances?",
                "(?:presentation|showing|occurrence|exposure|repetition)(?:number|nr|no|index)",
                "(?:is|was)?(?:a)?(?:repeat|repeated|repetition|old)s?"),
    "response": ("responses?|resp|answers?", "keypress|keypressed|pressed|press|pressedkey|clicked|responded",
                 "key|hit"),
    "trial": ("trials?", "(?:trial|slot|stimulus)?(?:index|number|nr|no|num|position|order)|trial(?:id|count)",
              "(?:image|video|item)?position(?:second|repeat|2)"),
    "first-trial": ("firsttrial|trialfirst|(?:image|video|item)?(?:position(?:first|1)|firstposition)",),
    "lag": ("lags?|lagtrials?|lagintrials|repeatlag",),
}  # fmt: skip


class Columns(NamedTuple):
    """The place in the header of each column by what it holds, the names of those not read, what was guessed."""

    place: dict[str, int]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def find_columns(header: Sequence[str], score: str, given: dict[str, str], *, place: str) -> Columns:
    """Return where the columns are that a score is made of; given are the names that the user said.

    Raises `InvalidSettings` for names that the header lacks, and `BadInput` for columns that are missing or could be
    any of several, each with all of them.
    """
    named = {what: _named(header, name) for what, name in given.items()}
    there = f"there are {', '.join(map(shown, header))}"
    problems = [
        f"--{what}-column {shown(given[what])}: {'several columns are' if len(found) > 1 else 'no column is'} called so"
        for what, found in named.items()
        if len(found) != 1
    ]
    refuse(InvalidSettings, f"{place}: columns that were named:", problems, there[0].upper() + there[1:] + ".")
    found = {what: places[0] for what, places in named.items()}
    guessed = []
    for what in USED_BY[score]:
        if what in found:
            continue
        free = [column for column in range(len(header)) if column not in found.values()]
        places = _known(header, free, what)
        if len(places) > 1:
            ways = " or ".join(command(f"--{what}-column", header[column].strip()) for column in places)
            problems.append(f"the {what} could be any of {', '.join(shown(header[k]) for k in places)}: {ways}")
        elif not places and what in REQUIRED:
            problems.append(f"no column is called as a {what} is: --{what}-column NAME")
        elif places:
            found[what] = places[0]
            if _spelt(header[places[0]]) != what.replace("-", ""):
                guessed.append(f"column {shown(header[places[0]])} is read as the {what}")
    if score == "lag" and not {"trial", "lag"} & found.keys():
        problems.append("no column is called as a trial or a lag is: --trial-column NAME or --lag-column NAME")
    refuse(BadInput, f"{place}: columns of --score {score}:", problems, f"Say which; {there}.")
    ignored = tuple(name.strip() for column, name in enumerate(header) if column not in found.values())
    return Columns(found, tuple(filter(None, ignored)), tuple(guessed))


def shown(text: str) -> str:
    """Return a name or word from a file in quotation marks, shortened."""
    return f"'{printable(text[:80])}{'...' if len(text) > 80 else ''}'"


def count_known(header: Sequence[str], score: str, given: dict[str, str]) -> int:
    """Return how many columns a score is made of are found in a header."""
    names = {name.strip() for name in given.values()}
    every = range(len(header))
    return sum(name.strip() in names for name in header) + sum(bool(_known(header, every, w)) for w in USED_BY[score])


def _named(header: Sequence[str], name: str) -> list[int]:
    exact = [column for column, one in enumerate(header) if one.strip() == name.strip()]
    return exact or [column for column, one in enumerate(header) if _spelt(one) == _spelt(name) != ""]


def _known(header: Sequence[str], free: Sequence[int], what: str) -> list[int]:
    for names in (re.escape(what.replace("-", "")), *_NAMES[what]):
        found = [column for column in free if re.fullmatch(names, _spelt(header[column]))]
        if found:
            return found
    return []


def _spelt(name: str) -> str:
    return re.sub(r"[\W_]+", "", name[:200].casefold())
