"""Members of an archive, and which of them may be unpacked: plain files and folders inside it, within the limits.

Knows nothing of formats and touches no disk.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from featcache.base.errors import printable

FILE, FOLDER = "file", "folder"


@dataclass(frozen=True)
class Limits:
    """What an archive may hold: members and bytes unpacked; beyond `free` bytes, `ratio` for each of its own."""

    members: int = 200_000
    unpacked: int = 64 << 30
    ratio: int = 100
    free: int = 1 << 30

    def most(self, archived: int) -> int:
        """Return how many bytes may come out of an archive of so many."""
        return min(self.unpacked, max(self.free, self.ratio * archived))


@dataclass(frozen=True)
class Member:
    """One entry: its name without ./ before and / behind, FILE, FOLDER or what else it is, and its bytes unpacked."""

    name: str
    kind: str
    size: int


def member_problem(member: Member) -> str | None:
    """Return what is wrong with one member, whatever the others are."""
    name = member.name
    steps = name.split("/")
    if member.kind not in (FILE, FOLDER):
        return f"is a {member.kind}"
    if member.size < 0:
        return f"has a size of {member.size}"
    if name.startswith("/"):
        return "is an absolute path"
    if ".." in steps:
        return "leaves the folder through .."
    if "\\" in name or re.match(r"[A-Za-z]:", name):
        return "is a path of another system, with \\ or a drive letter"
    if not name.isprintable():
        return "has control characters, or characters that are no text, in its name"
    if "" in steps or "." in steps:
        return "is not a plain path"
    if len(name.encode()) > 1024 or any(len(step.encode()) > 255 for step in steps):
        return "has a name too long for a file system"
    return None


def size_problem(members: int, unpacked: int, archived: int, limits: Limits) -> str | None:
    """Return what is wrong with so many members of so many bytes in an archive of so many."""
    if members > limits.members:
        return f"more than {limits.members:,} members; the rest was not looked at"
    if unpacked > limits.most(archived):
        return (
            f"its {archived:,} bytes declare {unpacked:,} and more, beyond {limits.most(archived):,}; "
            "the rest was not looked at"
        )
    return None


def clashes(members: Sequence[Member]) -> list[str]:
    """List names that stand twice, differ by case or accents' encoding alone, or are a file and a folder at once."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    problems = []
    for member in members:
        parent, is_file = member.name, member.kind != FOLDER
        if is_file:
            key = _key(member.name)
            if key in files:
                problems.append(_clash(member.name, files[key]))
            files.setdefault(key, member.name)
            parent = parent.rpartition("/")[0]
        while parent and folders.get(key := _key(parent)) != parent:
            if key in folders:
                problems.append(_clash(parent, folders[key]))
            folders.setdefault(key, parent)
            parent = parent.rpartition("/")[0]
    problems += [f"{shown(files[key])}: is a file and a folder" for key in files if key in folders]
    return list(dict.fromkeys(problems))


def _clash(name: str, other: str) -> str:
    if name == other:
        return f"{shown(name)}: stands twice"
    return f"{shown(name)}: is the same name as {shown(other)} where case and accents' encoding do not count"


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def shown(name: str) -> str:
    """Return a name from an archive as a message may hold it."""
    return f"'{printable(name if len(name) <= 100 else name[:60] + '...' + name[-37:])}'"
