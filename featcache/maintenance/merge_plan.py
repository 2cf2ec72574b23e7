"""Which rows of which caches a merged cache takes, decided before anything is written."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.base.commands import amnet
from featcache.base.errors import CacheIncomplete, Mismatch, refuse
from featcache.images.identity import ImageRow
from featcache.store.manifest import Manifest
from featcache.store.shards.format import Block
from featcache.store.shards.shard import Shard


@dataclass(frozen=True)
class Source:
    """An input: its shards, and its manifest if it is sealed."""

    folder: Path
    shards: list[Shard]
    manifest: Manifest | None

    @property
    def names(self) -> dict[int, str]:
        """The image in each row."""
        return {row: i.name for shard in self.shards for row, i in enumerate(shard.images, shard.block.rows[0])}


@dataclass(frozen=True)
class Held:
    """An image's place in one shard: row k of it."""

    shard: Shard
    k: int

    @property
    def image(self) -> ImageRow:
        """The image in that row."""
        return self.shard.images[self.k]

    @property
    def row(self) -> int:
        """Its row in the input."""
        return self.shard.block.rows[0] + self.k


@dataclass(frozen=True)
class Planned:
    """A shard to write: its block, and for each row where it is copied from."""

    block: Block
    rows: list[Held]

    @property
    def images(self) -> list[ImageRow]:
        """The image of each row."""
        return [place.image for place in self.rows]


def held_images(sources: Sequence[Source]) -> dict[str, list[Held]]:
    """Return every place where each image is held, images and places in order of inputs and rows."""
    held: dict[str, list[Held]] = defaultdict(list)
    for source in sources:
        for shard in source.shards:
            for k, image in enumerate(shard.images):
                held[image.name].append(Held(shard, k))
    different = [
        name
        for name, places in held.items()
        if len({place.image.sha256 for place in places if not place.image.absent}) > 1
    ]
    title = "these names are different images in different inputs:"
    refuse(Mismatch, title, different, "Rename them before extracting.")
    return held


def choose_pieces(held: dict[str, list[Held]], views: int) -> dict[str, list[Held]]:
    """Return for each image the places that together hold every view once."""
    pieces = {name: _cover(places) for name, places in held.items()}
    reached = {name: chosen[-1].shard.block.views[1] if chosen else 0 for name, chosen in pieces.items()}
    short = [f"{name}: {stop} of {views} views" for name, stop in reached.items() if stop < views]
    more = amnet("extract", "--augs", str(views - 1), "--dataset", "NAME_OR_PATH", "--out", "DIR")
    way_out = f"Bring each to {views} views first: {more}"
    refuse(Mismatch, "the inputs do not hold the same views of every image:", short, way_out)
    return pieces


def _cover(places: Sequence[Held]) -> list[Held]:
    """Return places that follow one another from view 0 as far as they go, with features and few if possible."""
    best: dict[int, list[Held]] = {0: []}
    for place in sorted(places, key=lambda place: place.shard.block.views[0]):
        start, stop = place.shard.block.views
        if start in best:
            found = [*best[start], place]
            if stop not in best or _cost(found) < _cost(best[stop]):
                best[stop] = found
    return best[max(best)]


def _cost(pieces: Sequence[Held]) -> tuple[int, int]:
    return sum(bool(piece.image.absent) for piece in pieces), len(pieces)


def assign_rows(sources: Sequence[Source], held: dict[str, list[Held]]) -> dict[str, int]:
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


def plan_merge(pieces: dict[str, list[Held]], row_of: dict[str, int]) -> Iterator[Planned]:
    """Yield the shards to write: as long as rows follow one another here and in the shards they come from."""
    ordered = sorted(pieces, key=lambda name: row_of[name])
    start = 0
    for stop in range(1, len(ordered) + 1):
        if stop < len(ordered) and _follows(ordered[stop - 1], ordered[stop], pieces, row_of):
            continue
        run = ordered[start:stop]
        rows = (row_of[run[0]], row_of[run[-1]] + 1)
        for number, first in enumerate(pieces[run[0]]):
            yield Planned(Block(rows, first.shard.block.views), [pieces[name][number] for name in run])
        start = stop


def _follows(before: str, after: str, pieces: dict[str, list[Held]], row_of: dict[str, int]) -> bool:
    """Whether after stands right behind before, in the merged cache and in the same shards."""
    pairs = list(zip(pieces[before], pieces[after], strict=False))
    return (
        row_of[after] == row_of[before] + 1
        and len(pieces[before]) == len(pieces[after])
        and all(a.shard is b.shard and b.k == a.k + 1 for a, b in pairs)
    )
