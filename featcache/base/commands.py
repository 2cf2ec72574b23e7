"""Commands and options as messages print them: quoted, so that a shell takes each word as it is."""

import shlex
from pathlib import Path

PACKAGE = "amnet-featcache"


def command(*words: str | Path) -> str:
    """Return a command, or options of one, to be pasted into a shell; a path that begins with a dash gets ./ in front.

    A word that is to be filled in, such as NAME, stands as it is.
    """
    return shlex.join(
        f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words
    )


def amnet(*words: str | Path) -> str:
    """Return one of this program's commands, as `command` does."""
    return command("amnet", *words)


def pip_install(extra: str) -> str:
    """Return how this package is installed with one of its extras."""
    return command("pip", "install", f"{PACKAGE}[{extra}]")
