"""What lies in the folder of a cache and what each thing is called. Reads names alone, never what files hold."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from featcache.base.errors import CorruptFile, InvalidSettings
from featcache.recipe import Recipe, check_same
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard

NAME_PATTERN = re.compile(r"\d{5,}-[0-9a-f]{16}\.h5")
TIMINGS_NAME = "timings.csv"  # a log beside the cache
FAILURES_NAME = "failures.csv"


def refuse_foreign_folder(out: Path) -> None:
    """Raise `InvalidSettings` if out holds other things than a cache: they must not be mixed."""
    if out.is_dir() and not (out / "shards").is_dir():
        foreign = sorted(path.name for path in out.iterdir() if path.name not in ("lock", ".gitkeep"))
        if foreign:
            raise InvalidSettings(f"{out}: holds {', '.join(foreign[:3])} but no cache; give another folder with --out")


def existing_shards(folder: Path, listed: Collection[str] | None = None) -> list[Shard]:
    """Open every complete shard in folder/shards.

    Where a manifest lists the shards of a sealed cache, another file that is no shard is left alone. Raises
    `CorruptFile` for a damaged one otherwise.
    """
    shards = []
    for path in sorted((folder / "shards").glob("*.h5")):
        if NAME_PATTERN.fullmatch(path.name):
            try:
                shards.append(open_shard(path))
            except CorruptFile:
                if listed is None or path.name in listed:
                    raise
    return shards


def refuse_other_recipes(shards: Iterable[Shard], recipe: Recipe, folder: Path) -> None:
    """Raise `Mismatch`, naming the fields, if one of the shards has another recipe."""
    for shard in shards:
        if shard.fingerprint != recipe.fingerprint:
            check_same(
                shard.recipe,
                recipe,
                where=str(folder),
                way_out="Ask for the same recipe, or give another folder with --out.",
            )
