"""What of a cache is damaged or missing and can be extracted again, decided before anything is written."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from featcache.base.errors import CorruptFile, HostileFile, Mismatch
from featcache.base.files import digest_of_file
from featcache.images.identity import ImageRow, is_same_image
from featcache.maintenance.verify import Examination, Problem
from featcache.store.folder import INDEX_NAME, whole_shards
from featcache.store.index import Tables, read_tables
from featcache.store.manifest import Manifest, ShardEntry
from featcache.store.shards.encoding import Constants
from featcache.store.shards.shard import Shard
from featcache.store.writer import Committed


@dataclass(frozen=True)
class RepairJob:
    """A damaged shard: its entry, the shard if it can be opened, its images, and the rows to compute anew."""

    entry: ShardEntry
    shard: Shard | None
    images: dict[int, ImageRow]
    rows: list[int]


def plan_repair(
    folder: Path, manifest: Manifest, seen: Examination, images: Path
) -> tuple[list[RepairJob], dict[str, Committed], list[Problem]]:
    """Return what is to be repaired, what an earlier repair has repaired already, and what cannot be repaired.

    A shard cannot be repaired where its images are gone, changed or unknown.
    """
    identity = _identities(folder, seen)
    jobs, repaired, unrepairable = [], {}, []
    for entry, check in zip(manifest.shards, seen.checks, strict=True):
        if check.problem is None:
            continue
        known = {row: identity[row] for row in range(*entry.block.rows) if row in identity}
        if check.shard is not None:
            known = dict(enumerate(check.shard.images, start=entry.block.rows[0]))
        rows = check.problem.rows if check.shard else list(range(*entry.block.rows))
        if there := _repaired_before(folder, entry, manifest, known):
            repaired[entry.file] = there
            continue
        reasons = [reason for row in rows if (reason := _reason_against(known.get(row), images))]
        if reasons:
            different = list(dict.fromkeys(reasons))
            more = [f"and {len(different) - 20:,} more"] if len(different) > 20 else []
            what = "; ".join(["cannot be mended", *different[:20], *more])
            unrepairable.append(Problem(check.problem.file, what, rows))
        else:
            jobs.append(RepairJob(entry, check.shard, known, [row for row in rows if not known[row].absent]))
    return jobs, repaired, unrepairable


def _repaired_before(
    folder: Path, entry: ShardEntry, manifest: Manifest, known: dict[int, ImageRow]
) -> Committed | None:
    """Return a whole shard of the entry's block and images that waits to be listed in its place."""
    passing = (CorruptFile, Mismatch, HostileFile, OSError)  # files that no repair has left
    for shard, data in whole_shards(folder, entry.block, manifest.recipe, without=manifest.listed, passing=passing):
        images = enumerate(shard.images, start=entry.block.rows[0])
        if all(row in known and is_same_image(image, known[row]) for row, image in images):
            return Committed(shard.path.name, hashlib.sha256(data).hexdigest())
    return None


def _identities(folder: Path, seen: Examination) -> dict[int, ImageRow]:
    """Return the image of each row, from cache.h5 if it is sound, and from every shard whose tables are."""
    tables = _trusted_tables(folder, seen)
    known = dict(enumerate(tables.images)) if tables else {}
    for check in seen.checks:
        if check.shard is not None:
            for row, image in enumerate(check.shard.images, start=check.shard.block.rows[0]):
                if row not in known or known[row].absent:
                    known[row] = image
    return known


def constants_of(folder: Path, seen: Examination) -> dict[str, Constants]:
    """Return the constants of encoding uint8, which are the same in every file that is sound."""
    for check in seen.checks:
        if check.shard is not None:
            return check.shard.constants
    tables = _trusted_tables(folder, seen)
    return tables.constants if tables else {}


def _trusted_tables(folder: Path, seen: Examination) -> Tables | None:
    return read_tables(folder / INDEX_NAME, seen.manifest.index_sha256) if seen.manifest else None


def _reason_against(image: ImageRow | None, images: Path) -> str:
    """Return why a row cannot be computed anew, or ''."""
    if image is None:
        return (
            "which images it held is not known, as cache.h5 is damaged as well; delete the file and run extract again"
        )
    if image.absent:
        return ""
    path = images / image.name
    if not path.is_file():
        return f"{path} is not there; name the dataset's folder with --root"
    if digest_of_file(path) != image.sha256:
        return f"{path} is not the image whose features were lost; restore it"
    return ""
