"""Archives from strangers: every member is judged before any is written. Knows nothing of formats or of datasets.

Two passes: `list_members` reads the whole archive and writes nothing, `unpack` writes what it listed.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from featcache.base.errors import CorruptFile, HostileFile, refuse
from featcache.base.files import make_folder, reading_errors, refuse_full_disk, storage_errors
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.fetch.archive_formats import opened_archive
from featcache.datasets.fetch.archive_members import FILE, Limits, Member, clashes, member_problem, shown, size_problem

_BLOCK = 4096  # bytes, in which most file systems give space to files


def list_members(
    archive: Path, *, limits: Limits | None = None, on_progress: OnProgress = silent
) -> tuple[Member, ...]:
    """Return every member of an archive, all of them harmless; nothing is written.

    Raises `HostileFile` that lists every member that is none, and `CorruptFile` for an archive that is damaged, cut
    short, or none of tar, tar.gz and zip.
    """
    limits = limits or Limits()
    with reading_errors(archive):
        size = archive.stat().st_size
    found: list[Member] = []
    plain: list[Member] = []
    problems: list[str] = []
    unpacked = 0
    with opened_archive(archive, limits) as entries:
        for member, _, position in entries:
            found.append(member)
            unpacked += max(0, member.size)
            if problem := member_problem(member):
                problems.append(f"{shown(member.name)}: {problem}")
            else:
                plain.append(member)
            if problem := size_problem(len(found), unpacked, size, limits):
                problems.append(problem)
                break
            on_progress(Progress("check the archive", min(position, size - 1), size, "bytes"))
    problems += clashes(plain)
    way_out = "Nothing was unpacked. Get the archive from a source that can be trusted."
    refuse(HostileFile, f"{archive}: {len(problems):,} reasons not to unpack it:", problems, way_out)
    on_progress(Progress("check the archive", size, size, "bytes"))
    return tuple(found)


def unpack(
    archive: Path,
    wanted: Mapping[Member, str],
    folder: Path,
    *,
    limits: Limits | None = None,
    on_progress: OnProgress = silent,
) -> None:
    """Write the members that `list_members` found into a new folder, each under the relative name given for it.

    Raises `StorageError` before writing if they do not fit, and `CorruptFile` if the archive turns out to be damaged.
    Files are not synced one by one; the caller syncs before it relies on them.
    """
    make_folder(folder.parent)
    refuse_full_disk(
        folder.parent, sum(-(-member.size // _BLOCK) * _BLOCK for member in wanted), way_out=" with --root."
    )
    with storage_errors(folder):
        folder.mkdir()
    waiting = {member.name: member for member in wanted if member.kind == FILE}
    total, made = len(waiting), set[Path]()
    with opened_archive(archive, limits or Limits()) as entries:
        for member, data, _ in entries:
            if waiting.get(member.name) == member:
                del waiting[member.name]
                _write(folder, wanted[member], data, made)
                on_progress(Progress("unpack", total - len(waiting), total, "files"))
    if waiting:
        raise CorruptFile(f"{archive}: changed while it was unpacked; {len(waiting):,} members are gone")


def _write(folder: Path, name: str, data: Iterator[bytes], made: set[Path]) -> None:
    path = folder / name
    with storage_errors(path):
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            # a second net: no name that gets here leaves
            if not path.parent.resolve().is_relative_to(folder.resolve()):
                raise HostileFile(f"{shown(name)}: leaves {folder}")
            made.add(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        file = os.fdopen(descriptor, "wb")
    with file:
        for piece in data:
            with storage_errors(path, needed=len(piece)):
                file.write(piece)
        with storage_errors(path):
            file.flush()
