"""Public datasets: downloaded, unpacked, checked, and put in place as extract wants them, or not at all.

Knows nothing of HTTP or of archive formats. Everything on the way lies in ROOT/.fetch; a kill leaves nothing else.
"""

import hashlib
import os
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from featcache.base.commands import amnet, command
from featcache.base.errors import BadInput, InvalidSettings, Mismatch
from featcache.base.files import digest_of_file, make_folder, reading_errors, storage_errors, sync_folder
from featcache.base.lock import writer_lock
from featcache.base.progress import OnProgress, silent
from featcache.datasets.dataset import Dataset, open_dataset
from featcache.datasets.fetch.archive_members import Limits
from featcache.datasets.fetch.download import Downloaded, Patience, download
from featcache.datasets.fetch.request import check_url
from featcache.datasets.fetch.sources import FOLDERS, SOURCES, unpack_dataset
from featcache.datasets.fetch.unpack import list_members

WORK = ".fetch"
_KEPT = "kept"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Fetched:
    """A dataset that is in place; source, size and sha256 are those of its archive, empty if it was there before."""

    name: str
    root: Path
    images: int
    splits: int
    source: str = ""
    size: int = 0
    sha256: str = ""
    received: int = 0
    already: bool = False
    archive: Path | None = None

    @property
    def difference(self) -> str:
        """What is not as it was published; '' if all is."""
        source = SOURCES[self.name]
        if (self.images, self.splits) == (source.images, source.splits):
            return ""
        published = f"{self.name} was published with {source.images:,} images and {source.splits} splits"
        return f"{published}; here are {self.images:,} and {self.splits}"

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        places = {"root": str(self.root), "archive": str(self.archive) if self.archive else None}
        return asdict(self) | places | {"warnings": [self.difference] if self.difference else []}

    def as_text(self) -> str:
        """Return what a person wants to know of it."""
        lines = [f"{self.root}: {self.images:,} images, {self.splits} splits"]
        if self.already:
            lines[0] += ", there already; nothing was done"
        else:
            lines.append(f"sha256 {self.sha256}, {self.size:,} bytes, {self.source}")
        if self.archive:
            lines.append(f"archive kept: {self.archive}")
        where: list[str | Path] = [] if self.root == Path("data", self.name) else ["--root", self.root]
        return "\n".join([*lines, f"next: {amnet('extract', '--dataset', self.name, *where)}"])

    def warnings(self) -> list[str]:
        """Return what differs from the dataset as it was published."""
        return [f"warning: {self.difference}"] if self.difference else []


def fetch(
    name: str,
    root: str | Path | None = None,
    *,
    url: str = "",
    file: Path | None = None,
    sha256: str = "",
    keep: bool = False,
    patience: Patience | None = None,
    limits: Limits | None = None,
    on_progress: OnProgress = silent,
) -> Fetched:
    """Make root/images and root/splits of a public dataset, from its own URL, from url, or from an archive file.

    The same call goes on after a kill. A dataset that is there already is checked and left as it is. Raises
    `InvalidSettings` for options, `BadInput` for a dataset that open_dataset refuses or a URL that is refused,
    `Mismatch` for another digest than sha256, `CorruptFile`, `HostileFile`, `StorageError` and `ResourceError`.
    """
    sha256 = sha256.strip().lower()
    _check_options(name, url=url, file=file, sha256=sha256, keep=keep)
    url = "" if file else url or SOURCES[name].url
    root = Path("data", name) if root is None else Path(root)
    work = root / WORK
    if _is_there(root) and not work.exists():
        return _already(name, root)
    kept = root / _file_name(url).partition("-")[2] if keep else None
    if kept is not None and (_is_taken(kept, work) or kept.name in (*FOLDERS, WORK)):
        raise InvalidSettings(f"--keep: the archive would be {kept}, which is taken; move that away, or omit --keep")
    if not work.exists():
        _refuse_half(root)
    make_folder(work)
    with writer_lock(work):
        if _is_there(root):
            found = _already(name, root)
        elif (work / "ready").is_dir():  # killed while it was put in place
            _put_in_place(work / "ready", root)
            found = _already(name, root)
        else:
            _refuse_half(root)
            _remove_leftovers(work)
            got = _archive(url, file, sha256, work, patience, on_progress)
            found = replace(_make(name, root, got, limits, on_progress), source=url or str(file))
        archive = _tidy(work, work / _file_name(url), kept)
    return replace(found, archive=archive)


def _remove_leftovers(work: Path) -> None:
    for leftover in ("raw", "unpacked"):
        if (work / leftover).exists():
            with storage_errors(work / leftover):
                shutil.rmtree(work / leftover)


def _make(name: str, root: Path, archive: Downloaded, limits: Limits | None, on_progress: OnProgress) -> Fetched:
    """Unpack an archive, check and put in place; the caller holds the lock."""
    work = root / WORK
    members = list_members(archive.path, limits=limits, on_progress=on_progress)
    unpack_dataset(name, archive.path, members, work, limits, on_progress)
    dataset = _checked(name, work / "unpacked", archive.path)
    os.sync()  # once for all files: an fsync each would take minutes for LaMem's 58,741
    with storage_errors(work):
        (work / "unpacked").rename(work / "ready")
        sync_folder(work)
    _put_in_place(work / "ready", root)
    counts = len(dataset.names), len(dataset.splits)
    return Fetched(name, root, *counts, size=archive.size, sha256=archive.sha256, received=archive.received)


def _archive(
    url: str, file: Path | None, sha256: str, work: Path, patience: Patience | None, on_progress: OnProgress
) -> Downloaded:
    """Return the archive, downloaded into work if it is not a file already; raise `Mismatch` if it is another."""
    if file is not None:
        with reading_errors(file):
            found = Downloaded(file, file.stat().st_size, digest_of_file(file), received=0, requests=0)
    else:
        found = download(url, work / _file_name(url), patience=patience, copies=2, on_progress=on_progress)
    if sha256 and found.sha256 != sha256:
        other = f"If --sha256 is right, the server has another file: remove {work}"
        raise Mismatch(
            f"{found.path}: expected sha256 {sha256}, found {found.sha256}; nothing was unpacked. "
            f"{'Get the right one' if file else other}, then run the command again."
        )
    return found


def _check_options(name: str, *, url: str, file: Path | None, sha256: str, keep: bool) -> None:
    problems = []
    if name not in SOURCES:
        problems.append(f"--dataset {name!r}: expected {' or '.join(SOURCES)}")
    if url and file is not None:
        problems.append("--url and --file: give one of them")
    if keep and file is not None:
        problems.append("--keep is for a download; a file given with --file is never touched")
    if sha256 and not _DIGEST.fullmatch(sha256):
        problems.append("--sha256: expected 64 hexadecimal digits")
    if file is not None and not file.is_file():
        problems.append(f"{command('--file', file)}: no such file")
    if problems:
        raise InvalidSettings("; ".join(problems))
    if url:
        check_url(url)


def _is_there(root: Path) -> bool:
    return all((root / part).is_dir() for part in FOLDERS)


def _refuse_half(root: Path) -> None:
    there = [part for part in FOLDERS if os.path.lexists(root / part)]
    if there:
        raise BadInput(
            f"{root}: holds {' and '.join(f'{part}/' for part in there)} that no fetch has left unfinished. "
            "Move what is there away, or choose another folder with --root."
        )


def _already(name: str, root: Path) -> Fetched:
    dataset = open_dataset(name, root=root)
    return Fetched(name, root, len(dataset.names), len(dataset.splits), already=True)


def _file_name(url: str) -> str:
    """Return the name of url's archive in the work folder: its own, after what tells it from that of another URL."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(unquote(urlsplit(url).path)).name)[-80:]
    return f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{plain or 'archive'}"


def _checked(name: str, folder: Path, archive: Path) -> Dataset:
    try:
        return open_dataset(name, root=folder)
    except BadInput as error:
        problems = "\n".join(str(error).splitlines()[:-1] or [str(error)])
        raise BadInput(
            f"{archive}: is not a dataset that can be used; nothing was put in place.\n{problems}\n"
            "Get another archive, or unpack this one by hand, mend it, and give its folder to extract with --root."
        ) from error


def _put_in_place(ready: Path, root: Path) -> None:
    """Move images/ and splits/ to root, splits last: a dataset without them is refused by all that read one."""
    for part in FOLDERS:
        if (ready / part).is_dir():
            with storage_errors(root / part):
                (ready / part).rename(root / part)
                sync_folder(root)


def _is_taken(kept: Path, work: Path) -> bool:
    """Whether there is a file where the archive is to be kept: not one that a killed call had moved there."""
    return os.path.lexists(kept) and not (work / _KEPT).exists()


def _tidy(work: Path, archive: Path, kept: Path | None) -> Path | None:
    """Remove the work folder; the archive is first moved to kept, if it is to be, and its place returned."""
    if kept is not None and archive.is_file():
        if _is_taken(kept, work):
            raise InvalidSettings(f"--keep: the archive would be {kept}, which is taken; move that away")
        with storage_errors(kept):
            (work / _KEPT).touch()  # from here on a file there is the archive
            sync_folder(work)
            archive.rename(kept)
    elif not (work / _KEPT).exists():
        kept = None
    with storage_errors(work):
        shutil.rmtree(work)
        sync_folder(work.parent)
    return kept
