"""manifest.json: what a sealed cache consists of. Its rename seals the cache; without it there is no cache yet."""

import functools
import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featcache.base.commands import amnet
from featcache.base.errors import CacheIncomplete, CorruptFile, FeatcacheError, HostileFile, Mismatch
from featcache.base.files import canonical_json, read_json, write_durably
from featcache.datasets.reliability import Raters, Reliability, reliability_of
from featcache.datasets.splits import PARTS, Others, Part, Ratings, each_part, natural_key
from featcache.recipe import Recipe, recipe_from_json
from featcache.settings import LARGEST_BATCH
from featcache.store.folder import MANIFEST_NAME, NAME_PATTERN, shard_paths, shards_folder
from featcache.store.shards.codec import Codec
from featcache.store.shards.format import NEWEST_VERSION, Block, Codecs, array_specs

Groups = tuple[tuple[int, ...], ...]  # of rows
_FEWEST_BYTES = 17  # a box of four int32 and a flip, for each view
_LARGEST = 256 << 20  # the splits of LaMem take 5 MB


@dataclass(frozen=True)
class ShardEntry:
    """One shard file as it was committed: its name in shards/, what it covers, size in bytes, sha256."""

    file: str
    block: Block
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A sealed cache of rows x views. index_sha256 is that of cache.h5, which is derived from the rest.

    source holds facts that change no feature: dataset and its folder, and where the weights came from. groups are rows
    of the same group of a table; near_duplicates are rows whose images look alike, None where nobody has looked.
    others[split] are rows of the split's test part with their scores by other people. raters and reliability are by
    target, as a dataset has them. format_version is the newest of
    its shards; codecs are those that its shards have, each set once, none where the version is 1. digest is that of the
    manifest's own text, '' before it is written.
    """

    recipe: Recipe
    rows: int
    views: int
    ratings: Ratings
    shards: tuple[ShardEntry, ...]
    index_sha256: str
    source: dict[str, str]
    versions: dict[str, str]
    groups: Groups = ()
    near_duplicates: Groups | None = None
    others: Others = field(default_factory=dict)
    raters: Mapping[str, Raters] = field(default_factory=dict)
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    format_version: int = 1
    codecs: tuple[Codecs, ...] = ()
    digest: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """What was rated, where that is several things or has a name; of a cache of one rating there are none."""
        return tuple(filter(None, self.ratings))

    @functools.cached_property
    def listed(self) -> dict[str, str]:
        """The sha256 of each shard's file, by the file's name."""
        return {entry.file: entry.sha256 for entry in self.shards}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Seal the cache in folder: replace its manifest at once, durably."""
    body = {
        "format_version": manifest.format_version,
        "recipe": manifest.recipe.as_json(),
        "fingerprint": manifest.recipe.fingerprint,
        "rows": manifest.rows,
        "views": manifest.views,
        **_ratings_as_json(manifest.ratings),
        "shards": [
            {"file": entry.file, "bytes": entry.bytes, "sha256": entry.sha256, **asdict(entry.block)}
            for entry in manifest.shards
        ],
        "index_sha256": manifest.index_sha256,
        "source": manifest.source,
        "versions": manifest.versions,
        **({"codecs": list(map(_codecs_as_json, manifest.codecs))} if manifest.codecs else {}),
        **({"groups": manifest.groups} if manifest.groups else {}),
        **({"others": {one: _part_as_json(part) for one, part in manifest.others.items()}} if manifest.others else {}),
        **({"raters": {of: _raters_as_json(one) for of, one in manifest.raters.items()}} if manifest.raters else {}),
        **(
            {"reliability": {of: one.as_json() for of, one in known.items()}} if (known := manifest.reliability) else {}
        ),
        **({} if manifest.near_duplicates is None else {"near_duplicates": manifest.near_duplicates}),
    }
    write_durably(folder / MANIFEST_NAME, canonical_json({**body, "digest": _digest(body)}).encode())


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a sealed cache.

    Raises `CacheIncomplete` when there is none, `Mismatch` when it is of a newer version, `CorruptFile`
    when it does not have its digest, `HostileFile` when it names a file outside shards/ or a split as none is named.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise CacheIncomplete(_incomplete(folder))
    try:
        body = read_json(path, largest=_LARGEST)
    except CorruptFile as error:
        raise CorruptFile(f"{error}; run extract again to make it anew") from error
    try:
        digest = body.pop("digest", None)
        if digest != _digest(body):
            raise CorruptFile(f"{path}: it does not have its digest; run extract again to make it anew")
        version = body["format_version"]
        if type(version) is int and version > NEWEST_VERSION:
            raise Mismatch(f"{path}: format version {version}, this program reads up to {NEWEST_VERSION}; upgrade it")
        recipe = recipe_from_json(body["recipe"], str(path))
        manifest = Manifest(
            recipe=recipe,
            rows=body["rows"],
            views=body["views"],
            ratings=_ratings_from_json(body),
            shards=tuple(_entry(path, entry) for entry in body["shards"]),
            index_sha256=body["index_sha256"],
            source=body["source"],
            versions=body["versions"],
            groups=_groups(body.get("groups", [])) or (),
            near_duplicates=_groups(body.get("near_duplicates")),
            others=_parts(body.get("others", {}), sorted(body.get("others", {}), key=natural_key)),
            raters={of: _raters_from_json(one) for of, one in body.get("raters", {}).items()},
            reliability={of: _reliability_from_json(one) for of, one in body.get("reliability", {}).items()},
            format_version=version,
            codecs=tuple(_codecs_from_json(codecs, recipe) for codecs in body.get("codecs", [])),
            digest=digest,
        )
        _check(manifest)
        for what, names in (
            ("target", manifest.targets),
            ("split", [one for s in manifest.ratings.values() for one in s]),
        ):
            if odd := [name for name in names if not re.fullmatch(r"\w+", name)]:  # runs and maps are files named so
                raise HostileFile(f"{path}: {odd[0]!r} is not the name of a {what}")
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, FeatcacheError):
            raise
        raise CorruptFile(f"{path}: not a manifest of this version: {error!r}") from error
    return manifest


def _check(manifest: Manifest) -> None:
    """Raise `ValueError` unless every value is of its type and the shards tile rows x views exactly."""
    texts = [manifest.index_sha256, *manifest.source.values(), *manifest.versions.values()]
    if not all(isinstance(text, str) for text in (*texts, *(entry.sha256 for entry in manifest.shards))):
        raise ValueError("text that is none")
    if {"root", "weights", "batch_size"} - set(manifest.source):
        raise ValueError("source lacks root, weights or batch_size")
    if not 1 <= int(manifest.source["batch_size"]) <= LARGEST_BATCH:
        raise ValueError("a batch size that cannot be")
    if type(manifest.rows) is not int or type(manifest.views) is not int:
        raise ValueError("rows or views that are no whole numbers")
    views_of: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for entry in manifest.shards:
        n, m = entry.block.shape
        if n * m * _FEWEST_BYTES > entry.bytes:
            raise ValueError(f"{entry.file} of {entry.bytes:,} bytes cannot hold {n} rows x {m} views")
        views_of[entry.block.rows].append(entry.block.views)
    if not _tiles(views_of, manifest.rows) or not all(_tiles(views, manifest.views) for views in views_of.values()):
        raise ValueError("its shards do not cover every row and view once")
    for groups in (manifest.groups, manifest.near_duplicates or ()):
        rows = [row for group in groups for row in group]
        if len(set(rows)) < len(rows) or not all(type(row) is int and 0 <= row < manifest.rows for row in rows):
            raise ValueError("groups of rows that are not there, or that are named twice")
    if not manifest.ratings or ("" in manifest.ratings and len(manifest.ratings) > 1):
        raise ValueError("ratings of no target, or with and without one")
    parts = [part for splits in manifest.ratings.values() for parts in splits.values() for part in parts.values()]
    for part in [*parts, *manifest.others.values()]:
        if part.rows.shape != part.scores.shape or part.rows.ndim != 1 or not np.isfinite(part.scores).all():
            raise ValueError("a split without a score for each row")
        if len(part.rows) and not 0 <= part.rows.min() <= part.rows.max() < manifest.rows:
            raise ValueError("a split of rows that are not there")
    for split, part in manifest.others.items():
        if not np.isin(part.rows, manifest.ratings[""][split]["test"].rows).all():
            raise ValueError("scores by other people of images that are not in the test part")
    if (manifest.raters.keys() | manifest.reliability.keys()) - manifest.ratings.keys():
        raise ValueError("raters of what was not rated")
    for raters in manifest.raters.values():
        _check_raters(raters, manifest.rows)


def _check_raters(raters: Raters, rows: int) -> None:
    """Raise `ValueError` unless each row is there, once, with numbers of ratings and standard errors that can be."""
    known = [column for column in (raters.counts, raters.errors) if column is not None]
    if not known or any(column.shape != raters.rows.shape for column in known) or raters.rows.ndim != 1:
        raise ValueError("raters without a number for each row")
    if len(set(raters.rows.tolist())) < len(raters.rows) or not all(0 <= row < rows for row in raters.rows.tolist()):
        raise ValueError("raters of rows that are not there, or that are named twice")
    if (raters.counts is not None and (raters.counts < 1).any()) or (
        raters.errors is not None and ((raters.errors < 0) | np.isinf(raters.errors)).any()
    ):
        raise ValueError("numbers of ratings, or standard errors, that cannot be")


def _tiles(ranges: Iterable[tuple[int, int]], stop: int) -> bool:
    """Whether half-open ranges follow one another from 0 to stop."""
    ordered = sorted(ranges)
    starts, ends = [start for start, _ in ordered], [end for _, end in ordered]
    return [*starts, stop] == [0, *ends] and all(start < end for start, end in ordered)


def refuse_changed(folder: Path, manifest: Manifest) -> None:
    """Raise `Mismatch` if folder is sealed by another manifest by now: then what it lacks is no damage."""
    try:
        digest = read_manifest(folder).digest
    except FeatcacheError:
        return
    if digest != manifest.digest:
        raise Mismatch(f"{folder}: the cache was changed while it was read; open it again")


def _incomplete(folder: Path) -> str:
    if not shards_folder(folder).is_dir():
        return (
            f"{folder}: no cache there; make one with: {amnet('extract', '--dataset', 'NAME_OR_PATH', '--out', folder)}"
        )
    shards = len(shard_paths(folder))
    return f"{folder}: the cache is not complete ({shards} shards so far); run the same extract command again"


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _ratings_as_json(ratings: Ratings) -> dict[str, Any]:
    """Return the one rating as 'splits'; several, each with the name of its target, as 'targets' besides."""
    found = each_part(ratings, _part_as_json)
    return {"splits": found[""]} if "" in found else {"splits": {}, "targets": found}


def _ratings_from_json(body: dict[str, Any]) -> Ratings:
    found = body.get("targets") or {"": body["splits"]}
    return {
        target: {split: _parts(splits[split], PARTS) for split in sorted(splits, key=natural_key)}
        for target, splits in found.items()
    }


def _part_as_json(part: Part) -> dict[str, list[float]]:
    return {"row": part.rows.tolist(), "score": part.scores.tolist()}


def _parts(found: dict[str, dict[str, list[float]]], order: Iterable[str]) -> dict[str, Part]:
    return {
        name: Part(np.array(found[name]["row"], np.int64), np.array(found[name]["score"], np.float64))
        for name in order
        if name in found
    }


def _raters_as_json(raters: Raters) -> dict[str, Any]:
    found: dict[str, Any] = {"row": raters.rows.tolist()}
    if raters.counts is not None:
        found["n"] = raters.counts.tolist()
    if raters.errors is not None:
        found["se"] = [None if math.isnan(error) else error for error in raters.errors.tolist()]
    return found


def _raters_from_json(found: dict[str, Any]) -> Raters:
    return Raters(
        np.array(found["row"], np.int64),
        np.array(found["n"], np.int64) if "n" in found else None,
        np.array(found["se"], np.float64) if "se" in found else None,  # null becomes NaN
    )


def _reliability_from_json(found: dict[str, Any]) -> Reliability:
    known = reliability_of(found, str(found["source"]))
    if known is None:
        raise ValueError("a reliability without a ceiling")
    return known


def _groups(found: list[list[int]] | None) -> Groups | None:
    return None if found is None else tuple(map(tuple, found))


def _codecs_as_json(codecs: Codecs) -> dict[str, list[Any]]:
    return {array: list(astuple(codec)) for array, codec in codecs.items()}


def _codecs_from_json(found: dict[str, list[Any]], recipe: Recipe) -> Codecs:
    arrays = array_specs(recipe)
    if not {array for array in arrays if array.startswith("features/")} <= found.keys() <= arrays.keys():
        raise ValueError("codecs of other arrays than the recipe's")
    return {array: Codec(*found[array]) for array in arrays if array in found}


def _entry(path: Path, entry: dict[str, Any]) -> ShardEntry:
    if not NAME_PATTERN.fullmatch(entry["file"]):
        raise HostileFile(f"{path}: {entry['file']!r} is not the name of a shard")
    (r0, r1), (v0, v1) = entry["rows"], entry["views"]
    if not all(type(number) is int for number in (r0, r1, v0, v1, entry["bytes"])):
        raise ValueError(f"{entry['file']} with numbers that are none")
    block = Block((r0, r1), (v0, v1))
    return ShardEntry(entry["file"], block, entry["bytes"], entry["sha256"])
