"""What a cache folder already holds, and which blocks of rows and views are still to be computed.

A shard that is there is never computed again. Rows keep their numbers for ever: images added to a dataset get
rows behind the others, more views get shards of their own.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from featcache.base.errors import BadImage, CorruptFile, Mismatch
from featcache.images.decode import decode_file
from featcache.recipe import Recipe
from featcache.store.shards.format import Block, shard_name
from featcache.store.shards.shard import Shard

ROWS_PER_SHARD = 64  # a kill costs two shards at most: one being written, one being computed
_ROWS_MULTIPLE = 16  # so that no shard ends in a batch that is partly padding, whatever the number of views
BYTES_PER_SHARD = 200 << 20  # uncompressed; a shard is built in memory


@dataclass(frozen=True)
class Plan:
    """names[row] for all rows. kept shards stay, blocks of todo are computed, then superseded shards are removed."""

    names: list[str]
    views: int
    kept: list[Shard]
    todo: list[Block]
    superseded: list[Shard]

    @property
    def views_to_do(self) -> int:
        """Views over all blocks that are to be computed."""
        return sum(rows * views for rows, views in (block.shape for block in self.todo))


def make_plan(
    shards: Sequence[Shard],
    names: Iterable[str],
    images: Path,
    *,
    views: int,
    recipe: Recipe,
    listed: Collection[str] = (),
) -> Plan:
    """Return what is to be done so that the cache holds every one of names, and at least that many views.

    images is the folder of the image files: a shard with an absent image that can be decoded by now is
    computed anew. listed names the shards of the manifest that is there. Raises `CorruptFile` for shards that
    contradict each other, `Mismatch` when fewer images are named than an unfinished cache was planned for.
    """
    kept, superseded = _usable(shards, images, listed)
    views = max([views, *(shard.block.views[1] for shard in (*kept, *superseded))])
    all_names = _assign_rows([*kept, *superseded], names)
    todo = _missing_blocks(kept, len(all_names), views, _rows_per_shard(views, recipe))
    return Plan(all_names, views, kept, todo, superseded)


def _usable(shards: Sequence[Shard], images: Path, listed: Collection[str]) -> tuple[list[Shard], list[Shard]]:
    """Split shards into those to keep and those that a better one replaces or will replace."""
    of_block: dict[Block, list[Shard]] = defaultdict(list)
    for shard in shards:
        of_block[shard.block].append(shard)
    kept: list[Shard] = []
    superseded: list[Shard] = []
    for twins in of_block.values():
        best, *others = sorted(twins, key=lambda shard: _rank(shard, listed)) if len(twins) > 1 else twins
        superseded += others
        mendable = any(_decodes(images / image.name) for image in best.images if image.absent)
        (superseded if mendable else kept).append(best)
    return kept, superseded


def _rank(shard: Shard, listed: Collection[str]) -> tuple[bool, int, bool, str]:
    """Order shards of one block: whole files first, then fewest absent images, then the one that is in use."""
    name = shard.path.name
    whole = shard.path.is_file() and shard_name(shard.block, shard.path.read_bytes()) == name
    return not whole, sum(bool(image.absent) for image in shard.images), name not in listed, name


def _decodes(path: Path) -> bool:
    try:
        decode_file(path)
    except BadImage:
        return False
    return True


def _assign_rows(shards: Sequence[Shard], names: Iterable[str]) -> list[str]:
    """Return the name of every row: those in shards where they are, the others sorted into the rows still free."""
    name_of: dict[int, str] = {}
    for shard in shards:
        for row, image in enumerate(shard.images, shard.block.rows[0]):
            if name_of.setdefault(row, image.name) != image.name:
                raise CorruptFile(
                    f"{shard.path}: row {row} is {image.name} there and {name_of[row]} in another shard; "
                    "they are not of one cache. Move one of them away"
                )
    if len(set(name_of.values())) != len(name_of):
        raise CorruptFile("an image stands in two rows of the cache's shards; delete the cache and extract again")
    free = iter(sorted(set(names) - set(name_of.values())))
    rows = max(name_of, default=-1) + 1
    holes = [row for row in range(rows) if row not in name_of]
    filled = dict(zip(holes, free, strict=False))
    if len(filled) < len(holes):
        raise Mismatch(
            f"the dataset has {len(holes) - len(filled)} images fewer than this unfinished cache was planned for; "
            "restore them, or give another folder with --out"
        )
    return [(name_of | filled)[row] for row in range(rows)] + list(free)


def _rows_per_shard(views: int, recipe: Recipe) -> int:
    fitting = max(1, BYTES_PER_SHARD // (views * recipe.bytes_per_view()))
    whole = fitting - fitting % _ROWS_MULTIPLE if fitting > _ROWS_MULTIPLE else fitting
    return min(ROWS_PER_SHARD, whole)


def _missing_blocks(kept: Sequence[Shard], rows: int, views: int, rows_per_shard: int) -> list[Block]:
    """Return the blocks that complete the kept shards to rows x views, in order of rows."""
    covered: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for shard in kept:
        covered[shard.block.rows].append(shard.block.views)
    blocks, position = [], 0
    for (start, stop), view_ranges in sorted(covered.items()):
        if start < position:
            raise CorruptFile(f"two shards cover row {start} in different ways; delete the cache and extract again")
        blocks += _cut(position, start, views, rows_per_shard)
        blocks += [Block((start, stop), gap) for gap in _gaps(sorted(view_ranges), views)]
        position = stop
    return blocks + _cut(position, rows, views, rows_per_shard)


def _cut(start: int, stop: int, views: int, rows_per_shard: int) -> list[Block]:
    return [Block((row, min(row + rows_per_shard, stop)), (0, views)) for row in range(start, stop, rows_per_shard)]


def _gaps(covered: Sequence[tuple[int, int]], stop: int) -> list[tuple[int, int]]:
    """Return the half-open ranges of [0, stop) that sorted, disjoint ranges leave out.

    A gap is what lies between the furthest end so far and the next start.
    """
    ends = [0, *accumulate((end for _, end in covered), max)]
    starts = [*(start for start, _ in covered), stop]
    return [(end, start) for end, start in zip(ends, starts, strict=True) if end < start]
