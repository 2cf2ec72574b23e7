"""Joining caches of one recipe: the same images extracted in parts, or different images, on different machines.

Chunks are copied as they are, their digests checked. Rows stay where they are if the inputs agree about them, as
the parts of one extraction do; else the inputs' images follow one another. Inputs are only read.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .builder import ShardBuilder
from .cache import open_listed_shard
from .dataset import PARTS, Part, natural_key
from .errors import BadInput, CacheIncomplete, InvalidSettings, Mismatch, list_problems
from .files import make_folder, remove_temporaries, write_durably
from .layout import Block, ImageRow, shard_name
from .lock import writer_lock
from .manifest import FILE_NAME as MANIFEST_NAME
from .manifest import Manifest, Splits, read_manifest
from .plan import existing_shards, refuse_foreign_folder
from .progress import OnProgress, Progress, silent
from .rebuild import copy_row, opened
from .recipe import check_same
from .seal import seal
from .shard import Shard, open_shard


@dataclass(frozen=True)
class MergeReport:
    """What the merged cache holds. complete is False where inputs were unfinished: extract goes on with it."""

    folder: str
    images: int
    views: int
    shards: int
    complete: bool

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class _Source:
    """An input: its shards, and its manifest if it is sealed."""

    folder: Path
    shards: list[Shard]
    manifest: Manifest | None


@dataclass(frozen=True)
class _Held:
    """An image's place in one shard: row k of it."""

    shard: Shard
    k: int

    @property
    def image(self) -> ImageRow:
        """Who it is."""
        return self.shard.images[self.k]

    @property
    def row(self) -> int:
        """Its row in the input."""
        return self.shard.block.rows[0] + self.k


@dataclass(frozen=True)
class _Planned:
    """A shard to write: its block, and for each row where it is copied from."""

    block: Block
    rows: list[_Held]


def merge_caches(out: Path, inputs: Sequence[Path], *, on_progress: OnProgress = silent) -> MergeReport:
    """Write the cache that holds every image of inputs into out; run again, it goes on where it was stopped.

    Raises `Mismatch` if recipes, views or images of the same name differ, `BadInput` if their splits contradict
    each other, `CorruptFile` for damage in an input, `InvalidSettings` if out is an input or a sealed cache.
    """
    _refuse_out(out, inputs)
    sources = [_open_source(folder) for folder in inputs]
    for source in sources[1:]:
        check_same(
            source.shards[0].recipe,
            sources[0].shards[0].recipe,
            where=str(source.folder),
            way_out=f"Only caches of the recipe of {sources[0].folder} can be merged with it.",
        )
    held = _held_images(sources)
    views = max(shard.block.views[1] for source in sources for shard in source.shards)
    pieces = _choose_pieces(held, views)
    row_of = _assign_rows(sources, held)
    splits = _merge_splits(sources, row_of)
    planned = list(_plan(pieces, row_of))
    make_folder(out)
    with writer_lock(out):
        make_folder(out / "shards")
        remove_temporaries(out / "shards")
        remove_temporaries(out)
        written = {}
        for done, item in enumerate(planned, start=1):
            path, sha256 = _write(out / "shards", item)
            written[path] = sha256
            on_progress(Progress("merge", done, len(planned), "shards"))
        manifests = [source.manifest for source in sources if source.manifest]
        complete = len(manifests) == len(sources)
        if complete:
            _seal(out, written, manifests, splits, rows=len(row_of), views=views)
    return MergeReport(str(out), len(row_of), views, len(planned), complete)


def _refuse_out(out: Path, inputs: Sequence[Path]) -> None:
    if len({path.resolve() for path in inputs}) < len(inputs):
        raise InvalidSettings("an input is named twice")
    if out.resolve() in {path.resolve() for path in inputs}:
        raise InvalidSettings(f"{out} is an input as well; give a new folder")
    if (out / MANIFEST_NAME).exists():
        raise InvalidSettings(f"{out} is a finished cache already; give a new folder")
    refuse_foreign_folder(out)


def _open_source(folder: Path) -> _Source:
    if (folder / MANIFEST_NAME).is_file():
        manifest = read_manifest(folder)
        return _Source(folder, [open_listed_shard(folder, e, manifest.recipe) for e in manifest.shards], manifest)
    shards = sorted(existing_shards(folder), key=lambda shard: (shard.block.rows, shard.block.views))
    if not shards:
        raise CacheIncomplete(f"{folder}: no cache there, and no shard of one")
    return _Source(folder, shards, None)


def _held_images(sources: Sequence[_Source]) -> dict[str, list[_Held]]:
    """Return every place where each image is held, images and places in order of inputs and rows."""
    held: dict[str, list[_Held]] = defaultdict(list)
    for source in sources:
        for shard in source.shards:
            for k, image in enumerate(shard.images):
                held[image.name].append(_Held(shard, k))
    different = [
        name
        for name, places in held.items()
        if len({place.image.sha256 for place in places if not place.image.absent}) > 1
    ]
    if different:
        raise Mismatch(
            list_problems(
                "these names are different images in different inputs:", different, "Rename them before extracting."
            )
        )
    return held


def _choose_pieces(held: dict[str, list[_Held]], views: int) -> dict[str, list[_Held]]:
    """Return for each image the places that together hold every view once, those with features first."""
    pieces: dict[str, list[_Held]] = {}
    short = []
    for name, places in held.items():
        chosen: list[_Held] = []
        position = 0
        while position < views:
            fitting = [place for place in places if place.shard.block.views[0] == position]
            if not fitting:
                short.append(f"{name}: {position} of {views} views")
                break
            chosen.append(min(fitting, key=lambda place: bool(place.image.absent)))
            position = chosen[-1].shard.block.views[1]
        pieces[name] = chosen
    if short:
        raise Mismatch(
            list_problems(
                "the inputs do not hold the same views of every image:",
                short,
                f"Bring each to {views} views first: extract --augs {views - 1}.",
            )
        )
    return pieces


def _assign_rows(sources: Sequence[_Source], held: dict[str, list[_Held]]) -> dict[str, int]:
    """Return each image's row: where it is in the inputs if they agree, else in order of inputs and rows."""
    rows = {name: {place.row for place in places} for name, places in held.items()}
    taken = set().union(*rows.values())
    if all(len(found) == 1 for found in rows.values()) and len(taken) == len(rows):
        return {name: found.pop() for name, found in rows.items()}
    for source in sources:
        if source.manifest is None:
            raise CacheIncomplete(
                f"{source.folder}: not complete, and its rows are not those of the other inputs; "
                "finish it with the same extract command first"
            )
    return {name: row for row, name in enumerate(held)}


def _merge_splits(sources: Sequence[_Source], row_of: dict[str, int]) -> Splits:
    """Return the union of the inputs' splits; raise `BadInput` that lists every contradiction."""
    scores: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    problems = []
    for source in sources:
        if source.manifest is None:
            continue
        names = {row: i.name for shard in source.shards for row, i in enumerate(shard.images, shard.block.rows[0])}
        for split, parts in source.manifest.splits.items():
            for part, values in parts.items():
                for row, score in zip(values.rows.tolist(), values.scores.tolist(), strict=True):
                    name = names[row]
                    if scores[split][part].setdefault(name, score) != score:
                        problems.append(f"{part}_{split}: {name} has two scores")
    for split, by_part in scores.items():
        seen: set[str] = set()
        for part in PARTS:
            problems += [
                f"split {split}: {name} is in {part} and in another part" for name in by_part[part] if name in seen
            ]
            seen |= set(by_part[part])
    if problems:
        raise BadInput(
            list_problems("the splits of the inputs contradict each other:", problems, "Mend the split files.")
        )
    return {
        split: {
            part: Part(np.array([row_of[name] for name in found], np.int64), np.array(list(found.values()), np.float64))
            for part in PARTS
            if (found := scores[split][part])
        }
        for split in sorted(scores, key=natural_key)
    }


def _plan(pieces: dict[str, list[_Held]], row_of: dict[str, int]) -> Iterator[_Planned]:
    """Yield the shards to write: as long as rows follow one another here and in the shards they come from."""
    ordered = sorted(pieces, key=lambda name: row_of[name])
    start = 0
    for stop in range(1, len(ordered) + 1):
        if stop < len(ordered) and _follows(ordered[stop - 1], ordered[stop], pieces, row_of):
            continue
        run = ordered[start:stop]
        rows = (row_of[run[0]], row_of[run[-1]] + 1)
        for number, first in enumerate(pieces[run[0]]):
            yield _Planned(Block(rows, first.shard.block.views), [pieces[name][number] for name in run])
        start = stop


def _follows(before: str, after: str, pieces: dict[str, list[_Held]], row_of: dict[str, int]) -> bool:
    """Whether after stands right behind before, in the merged cache and in the same shards."""
    pairs = list(zip(pieces[before], pieces[after], strict=False))
    return (
        row_of[after] == row_of[before] + 1
        and len(pieces[before]) == len(pieces[after])
        and all(a.shard is b.shard and b.k == a.k + 1 for a, b in pairs)
    )


def _write(folder: Path, planned: _Planned) -> tuple[Path, str]:
    """Write one shard of the merged cache; return its path and sha256."""
    shard = planned.rows[0].shard
    builder = ShardBuilder(shard.recipe, planned.block, shard.constants)
    try:
        with opened(shard) as descriptor:
            for i, place in enumerate(planned.rows):
                copy_row(builder, i, shard, place.k, descriptor)
        data = builder.finish()
    finally:
        builder.close()
    path = folder / shard_name(planned.block, data)
    return path, write_durably(path, data)


def _seal(
    out: Path, written: dict[Path, str], manifests: list[Manifest], splits: Splits, *, rows: int, views: int
) -> None:
    first = manifests[0]
    seal(
        out,
        first.recipe,
        [open_shard(path, first.recipe) for path in written],
        rows=rows,
        views=views,
        sha256={path.name: sha256 for path, sha256 in written.items()},
        splits=splits,
        source={**first.source, "dataset": "+".join(dict.fromkeys(m.source["dataset"] for m in manifests))},
        versions=first.versions,
    )
