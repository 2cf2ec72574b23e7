"""The first line of every command: what it is about to do, on stderr, before anything heavy is imported."""

import contextlib
import functools
from typing import Any

import click

from commandline.options import tell
from featcache.base.errors import printable

_ABOUT = {  # what each command works on, in names of its own parameters
    "fetch": "dataset {name}",
    "extract": "{dataset} with {backbone}",
    "cache-info": "{cache}",
    "merge-caches": "{inputs} into {out}",
    "project-cache": "{cache} into {out}",
    "verify-cache": "{cache}",
    "ratings": "{responses}",
    "train-head": "split {split} of {cache}",
    "score-cache": "heads in {runs} on {cache}",
    "predict": "{images} with {run}",
    "import-head": "{file}",
    "export-head": "{run} to {out}",
    "demo": "{images} images in {out}",
    "figures": "heads in {runs} on {cache}",
    "report": "heads in {runs} on {cache}",
    "explore": "{run}",
    "paper-table": "{dataset}",
}


def announced(command: click.Command) -> click.Command:
    """Have a command say on stderr what it begins with, as soon as its options are read; return it."""
    about, run = _ABOUT[str(command.name)], command.callback
    if run is None:
        raise TypeError(f"{command.name} does nothing")

    @functools.wraps(run)
    def callback(**given: Any) -> Any:
        with contextlib.suppress(OSError):  # a full or closed terminal must not end the work
            words = {name: _in_words(name, value) for name, value in given.items()}
            tell(printable(f"{command.name}: {about.format(**words)}"))
        return run(**given)

    command.callback = callback
    return command


def _in_words(name: str, value: Any) -> str:
    if name == "cache" and value is None:
        return "the only cache in cache/"
    if isinstance(value, tuple):
        more = f" and {len(value) - 1:,} more" if len(value) > 1 else ""
        return f"{value[0]}{more}" if value else ""
    return str(value)
