"""Checking a whole cache, at the speed of the disk: every file against the manifest, every chunk against its digest."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from featcache.base.cores import usable_threads
from featcache.base.errors import CacheIncomplete, CorruptFile, FeatcacheError, HostileFile, StorageError, counted
from featcache.base.files import digest_of_file
from featcache.base.progress import OnProgress, Progress, silent
from featcache.store.cache import open_listed_shard
from featcache.store.folder import (
    DICTIONARY_DIGEST,
    DICTIONARY_NAME,
    INDEX_NAME,
    MANIFEST_NAME,
    PROJECTION_NAME,
    dictionary_path,
    shard_path,
    shard_paths,
    shard_place,
    shards_folder,
    unknown_files,
)
from featcache.store.manifest import Manifest, ShardEntry, read_manifest, refuse_changed
from featcache.store.projection import read_projections
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard, opened

_READ_SIZE = 4 << 20


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file of the cache, named relative to it, and the rows whose features it takes away."""

    file: str
    what: str
    rows: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        rows = f" (rows {', '.join(map(str, self.rows[:8]))}{', ...' if len(self.rows) > 8 else ''})"
        return f"{self.file}: {self.what}{rows if self.rows else ''}"


@dataclass(frozen=True)
class VerifyReport:
    """What a check found: problems, and files that are unknown here, and why. complete: a manifest seals the cache."""

    cache: str
    complete: bool
    shards: int
    chunks: int
    bytes: int
    problems: list[Problem]
    unknown: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        fields = asdict(self)
        fields["warnings"] = fields.pop("unknown")
        return {**fields, "ok": self.ok}

    def as_text(self) -> str:
        """Return what was checked as a line, and a line for each problem."""
        state = "complete" if self.complete else "not complete"
        found = "sound" if self.ok else counted(len(self.problems), "problem")
        sizes = f"{self.shards:,} shards, {self.chunks:,} chunks, {self.bytes / 1e9:,.2f} GB"
        return "\n".join([f"{self.cache}: {sizes}, {state}: {found}", *(f"damaged  {one}" for one in self.problems)])

    def warnings(self) -> list[str]:
        """Return what is unknown and, of a sound cache, how to complete it."""
        found = [f"warning: {unknown}" for unknown in self.unknown]
        if self.ok and not self.complete:
            found.append("the cache is not complete; run the same extract or merge-caches command again")
        return found


@dataclass(frozen=True)
class ShardCheck:
    """One shard, checked: the shard if it can be opened, how many chunks it has, and what is wrong with it.

    damaged says that its bytes are not what they were; without it, a problem may be one of the disk, of the
    version of this program, or of someone else's file.
    """

    shard: Shard | None
    chunks: int
    bytes: int
    problem: Problem | None
    damaged: bool = False


@dataclass(frozen=True)
class Examination:
    """All that a check found. manifest is None if there is none to trust; checks are in its order."""

    manifest: Manifest | None
    checks: list[ShardCheck]
    index_problem: str
    report: VerifyReport


def verify_cache(folder: Path, *, threads: int | None = None, on_progress: OnProgress = silent) -> VerifyReport:
    """Read everything in a cache and check it; raise `CacheIncomplete` if there is no cache at all.

    A cache without a manifest is checked shard by shard: a shard's name holds the digest of its file.
    """
    return examine(folder, threads=threads, on_progress=on_progress).report


def examine(folder: Path, *, threads: int | None = None, on_progress: OnProgress = silent) -> Examination:
    """Do what `verify_cache` does, and return what was found on the way too.

    Raises `Mismatch` if another manifest sealed the cache meanwhile: then what is missing is no damage.
    """
    problems = []
    manifest = None
    try:
        manifest = read_manifest(folder)
    except CacheIncomplete:
        if not shards_folder(folder).is_dir():
            raise
    except (CorruptFile, HostileFile) as error:
        problems.append(Problem(MANIFEST_NAME, _without_path(error, folder / MANIFEST_NAME)))
    checks = list(check_shards(folder, manifest, threads=threads, on_progress=on_progress))
    problems += [check.problem for check in checks if check.problem]
    index_problem = _index_problem(folder, manifest) if manifest is not None else ""
    if index_problem:
        problems.append(Problem(INDEX_NAME, index_problem))
    if manifest is not None and (changed := _dictionary_problem(folder, manifest)):
        problems.append(Problem(DICTIONARY_NAME, changed))
    if manifest is not None and (lost := _projection_problem(folder, manifest)):
        problems.append(Problem(PROJECTION_NAME, lost))
    if manifest is not None and problems:
        refuse_changed(folder, manifest)
    report = VerifyReport(
        cache=str(folder),
        complete=manifest is not None,
        shards=len(checks),
        chunks=sum(check.chunks for check in checks),
        bytes=sum(check.bytes for check in checks),
        problems=problems,
        unknown=list(unknown_files(folder, manifest.listed if manifest else None)),
    )
    return Examination(manifest, checks, index_problem, report)


def _dictionary_problem(folder: Path, manifest: Manifest) -> str:
    """Return what is wrong with the visual words that the features were counted with, '' if nothing is."""
    path, digest = dictionary_path(folder), manifest.source.get(DICTIONARY_DIGEST)
    if digest is None or (path.is_file() and digest_of_file(path) == digest):
        return ""
    what = "not the file" if path.is_file() else "missing"
    return (
        f"{what} whose words these features count. Heads can be trained and scored without it, but no image added and "
        f"none predicted; copy it back from a cache of the same recipe (its sha256 is {digest})"
    )


def _projection_problem(folder: Path, manifest: Manifest) -> str:
    """Return what is wrong with the directions that the features were projected on, '' if nothing is."""
    if not manifest.recipe.projection:
        return ""
    try:
        read_projections(folder, manifest.recipe.projection)
    except (CorruptFile, StorageError) as error:
        return _without_path(error, folder / PROJECTION_NAME)
    return ""


def check_shards(
    folder: Path, manifest: Manifest | None, *, threads: int | None = None, on_progress: OnProgress = silent
) -> Iterator[ShardCheck]:
    """Check the shards that the manifest lists, in its order, or without one every shard in the folder."""
    work: Sequence[tuple[Path, ShardEntry | None]] = [(path, None) for path in shard_paths(folder)]
    if manifest is not None:
        work = [(shard_path(folder, entry.file), entry) for entry in manifest.shards]
    with ThreadPoolExecutor(usable_threads(threads), thread_name_prefix="verify") as pool:
        checked = pool.map(lambda item: check_shard(folder, item[0], item[1], manifest), work)
        for done, check in enumerate(checked, start=1):
            on_progress(Progress("verify", done, len(work), "shards"))
            yield check


def check_shard(folder: Path, path: Path, entry: ShardEntry | None, manifest: Manifest | None) -> ShardCheck:
    """Check one shard: its whole file against the manifest or its name, its tables, and each chunk's digest."""
    rows = list(range(*entry.block.rows)) if entry else []
    name = shard_place(path.name)
    try:
        whole = _file_is_whole(path, entry)
        shard = open_listed_shard(folder, entry, manifest.recipe) if entry and manifest else open_shard(path)
    except StorageError as error:
        return ShardCheck(None, 0, 0, Problem(name, f"cannot be read: {error}", rows))
    except FeatcacheError as error:
        size = path.stat().st_size if path.is_file() else 0
        damaged = isinstance(error, CorruptFile)
        return ShardCheck(None, 0, size, Problem(name, _without_path(error, path), rows), damaged)
    chunks = sum(int((index.offsets >= 0).sum()) for index in shard.arrays.values())
    bad = bad_rows(shard)
    problem = None
    if bad:
        problem = Problem(name, f"{len(bad)} of {len(shard.images)} rows have damaged chunks", bad)
    elif not whole:
        problem = Problem(name, "its bytes are not those that were committed; all its chunks are whole")
    return ShardCheck(shard, chunks, path.stat().st_size, problem, damaged=problem is not None)


def bad_rows(shard: Shard) -> list[int]:
    """Return the rows of the cache of which the shard holds a chunk that is damaged or cannot be read."""
    bad = set()
    with opened(shard) as descriptor:
        for array, index in shard.arrays.items():
            for i, j in np.argwhere(index.offsets >= 0).tolist():
                try:
                    shard.read_stored(descriptor, array, i, j)
                except CorruptFile:
                    bad.add(shard.block.rows[0] + i)
    return sorted(bad)


def _file_is_whole(path: Path, entry: ShardEntry | None) -> bool:
    """Whether the file has the sha256 of its entry or, without one, the xxh3_64 of its name."""
    sha256, xxh3 = hashlib.sha256(), xxhash.xxh3_64()
    buffer = memoryview(bytearray(_READ_SIZE))
    try:
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                sha256.update(buffer[:size])
                xxh3.update(buffer[:size])
    except FileNotFoundError as error:
        raise CorruptFile(f"{path}: the shard is missing") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    named = path.stem.partition("-")[2]
    return xxh3.hexdigest() == named and (entry is None or sha256.hexdigest() == entry.sha256)


def _index_problem(folder: Path, manifest: Manifest) -> str:
    """Return '' or what is wrong with cache.h5."""
    path = folder / INDEX_NAME
    try:
        if not path.is_file():
            return "missing; the tables are read from the shards meanwhile"
        if digest_of_file(path) != manifest.index_sha256:
            return "not what the manifest says; the tables are read from the shards meanwhile"
    except StorageError as error:
        return str(error)
    return ""


def _without_path(error: FeatcacheError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
