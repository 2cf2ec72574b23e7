"""Joining caches of one recipe: the same images extracted in parts, or different images, on different machines.

Chunks are copied as they are, their digests checked. Rows stay where they are if the inputs agree about them, as
the parts of one extraction do; else the inputs' images follow one another. Inputs are only read.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .builder import ShardBuilder
from .cache import open_cache, open_listed_shard
from .errors import CacheIncomplete, InvalidSettings, Mismatch, list_problems
from .files import make_folder, refuse_full_disk, remove_temporaries, write_durably
from .layout import Block, ImageRow, shard_name
from .lock import writer_lock
from .manifest import FILE_NAME as MANIFEST_NAME
from .manifest import Manifest, Splits, read_manifest
from .plan import existing_shards, refuse_foreign_folder
from .progress import OnProgress, Progress, silent
from .rebuild import copy_row, stored_row
from .recipe import check_same
from .seal import seal
from .shard import Shard, open_shard, opened
from .splits import merge_splits
from .tables import is_same_image

_SAME_CONSTANTS = " Parts in uint8 need the same constants: extract them with --calibrate-like."


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

    @property
    def names(self) -> dict[int, str]:
        """The image in each row."""
        return {row: i.name for shard in self.shards for row, i in enumerate(shard.images, shard.block.rows[0])}


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

    @property
    def images(self) -> list[ImageRow]:
        """Who they are."""
        return [place.image for place in self.rows]


def merge_caches(out: Path, inputs: Sequence[Path], *, on_progress: OnProgress = silent) -> MergeReport:
    """Write the cache that holds every image of inputs into out; run again, it goes on where it was stopped.

    Raises `Mismatch` if recipes, views or images of the same name differ, `BadInput` if their splits contradict
    each other, `CorruptFile` for damage in an input, `InvalidSettings` if out is an input or a sealed cache.
    """
    _refuse_out(out, inputs)
    sources = [_open_source(folder) for folder in inputs]
    _refuse_other_recipes(sources)
    held = _held_images(sources)
    views = max(shard.block.views[1] for source in sources for shard in source.shards)
    pieces = _choose_pieces(held, views)
    row_of = _assign_rows(sources, held)
    splits = merge_splits([(source.manifest.splits, source.names) for source in sources if source.manifest], row_of)
    planned = list(_plan(pieces, row_of))
    if (out / MANIFEST_NAME).exists():
        _refuse_another(out, planned, splits)
        return MergeReport(str(out), len(row_of), views, len(planned), True)
    make_folder(out)
    with writer_lock(out):
        make_folder(out / "shards")
        _refuse_strangers(out, planned)
        refuse_full_disk(out, sum(shard.path.stat().st_size for source in sources for shard in source.shards))
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
    if not inputs:
        raise InvalidSettings("name at least one cache to merge")
    if len({path.resolve() for path in inputs}) < len(inputs):
        raise InvalidSettings(f"an input is named twice: {', '.join(map(str, inputs))}")
    if out.resolve() in {path.resolve() for path in inputs}:
        raise InvalidSettings(f"{out} is an input as well; give a new folder")
    for folder in inputs:
        if out.resolve().is_relative_to(folder.resolve()):
            raise InvalidSettings(f"{out} lies in the input {folder}; give another folder")
    refuse_foreign_folder(out)


def _refuse_another(out: Path, planned: Sequence[_Planned], splits: Splits) -> None:
    """Raise `InvalidSettings` unless out is the finished result of this very merge."""
    there = open_cache(out)
    wanted = {row: image for item in planned for row, image in enumerate(item.images, start=item.block.rows[0])}
    blocks = {entry.block for entry in there.manifest.shards}
    same = (
        there.recipe == planned[0].rows[0].shard.recipe
        and blocks == {item.block for item in planned}
        and all(is_same_image(image, wanted[row]) for row, image in enumerate(there.images))
        and {split: set(parts) for split, parts in there.splits.items()}
        == {split: set(parts) for split, parts in splits.items()}
    )
    if not same:
        raise InvalidSettings(f"{out} is a finished cache of something else; give a new folder")


def _refuse_strangers(out: Path, planned: Sequence[_Planned]) -> None:
    """Raise `InvalidSettings` if out holds shards that this merge would not write: extract would take them all."""
    expected = {item.block: item.images for item in planned}
    recipe = planned[0].rows[0].shard.recipe
    foreign = [
        shard.path.name
        for shard in existing_shards(out)
        if shard.recipe != recipe or expected.get(shard.block) != shard.images
    ]
    if foreign:
        way_out = "Give a new folder."
        raise InvalidSettings(list_problems(f"{out}: holds shards that are no part of this merge:", foreign, way_out))


def _refuse_other_recipes(sources: Sequence[_Source]) -> None:
    """Raise `Mismatch`, naming the fields, if two shards have different recipes."""
    first = sources[0].shards[0]
    for source in sources:
        for shard in source.shards:
            if shard.fingerprint != first.fingerprint:
                check_same(
                    shard.recipe,
                    first.recipe,
                    where=str(source.folder),
                    way_out=f"Only caches of the recipe of {sources[0].folder} can be merged with it."
                    + (_SAME_CONSTANTS if first.recipe.encoding == "uint8" else ""),
                )


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
    """Return for each image the places that together hold every view once."""
    pieces = {name: _cover(places) for name, places in held.items()}
    reached = {name: chosen[-1].shard.block.views[1] if chosen else 0 for name, chosen in pieces.items()}
    short = [f"{name}: {stop} of {views} views" for name, stop in reached.items() if stop < views]
    if short:
        raise Mismatch(
            list_problems(
                "the inputs do not hold the same views of every image:",
                short,
                f"Bring each to {views} views first: extract --augs {views - 1}.",
            )
        )
    return pieces


def _cover(places: Sequence[_Held]) -> list[_Held]:
    """Return places that follow one another from view 0 as far as they go, with features and few if possible."""
    best: dict[int, list[_Held]] = {0: []}
    for place in sorted(places, key=lambda place: place.shard.block.views[0]):
        start, stop = place.shard.block.views
        if start in best:
            found = [*best[start], place]
            if stop not in best or _cost(found) < _cost(best[stop]):
                best[stop] = found
    return best[max(best)]


def _cost(pieces: Sequence[_Held]) -> tuple[int, int]:
    return sum(bool(piece.image.absent) for piece in pieces), len(pieces)


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
                copy_row(builder, i, stored_row(shard, place.k, descriptor))
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
