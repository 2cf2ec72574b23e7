"""What a cache folder holds, sealed or not, as text and as one JSON object."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.datasets.splits import each_part
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.folder import MANIFEST_NAME, shard_paths
from featcache.store.manifest import Manifest
from featcache.store.shards.opening import open_shard

_FEW = 5  # names in a line, of images that look alike


@dataclass(frozen=True)
class CacheInfo:
    """Recipe, sizes, splits and absent images of a sealed cache, or how far an unsealed one has come."""

    facts: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return self.facts

    def as_text(self) -> str:
        """Return the facts as lines, the first of which says whether the cache is complete."""
        info, recipe = self.facts, self.facts["recipe"]
        squashed = f", crops of the image squashed to {side}x{side}" if (side := recipe.get("pre_squash")) else ""
        common = [
            f"recipe       {recipe['backbone']}, weights {recipe['weights'][:16]}, {recipe['precision']}, "
            f"{recipe['image_size']} pixels, {recipe['eval_view']} view{squashed}, "
            f"seed {recipe['seed']}, {recipe['encoding']}",
            f"fingerprint  {info['fingerprint']}",
            f"stored       {info['stored_bytes'] / 1e9:,.3f} GB in {info['shards']} shards",
        ]
        if not info["complete"]:
            done = f"{info['images_done']:,} images so far"
            return "\n".join([f"{info['cache']}: not complete, {done}; run the same extract command again", *common])
        layers = [
            f"layer        {name}: {layer['height']}x{layer['width']}x{layer['channels']} (L = {layer['positions']})"
            for name, layer in info["layers"].items()
        ]
        by_target = info.get("targets") or {"": info["splits"]}
        splits = [
            line
            for target, splits in by_target.items()
            for line in (
                *([f"target       {target}"] if target else []),
                *(
                    f"split {split:6} " + ", ".join(f"{part} {count:,}" for part, count in parts.items())
                    for split, parts in splits.items()
                ),
            )
        ]
        others = (
            [f"others       scores by other people of test images of splits {', '.join(info['others'])}"]
            if "others" in info
            else []
        )
        absent = [f"absent       {name}: {reason}" for name, reason in info["absent"].items()]
        head = f"{info['cache']}: {info['images']:,} images x {info['views']} views, complete"
        same = [f"same file    {' = '.join(names)}" for names in info["duplicates"]]
        alike = [f"look alike   {_some(names)}" for names in info["near_duplicates"] or ()]
        return "\n".join([head, *common, *layers, *splits, *others, *same, *alike, *absent])


def read_info(folder: Path) -> CacheInfo:
    """Return what is known of the cache in folder; raise `CacheIncomplete` if there is neither manifest nor shard."""
    paths = shard_paths(folder)
    stored = sum(path.stat().st_size for path in paths)
    if not (folder / MANIFEST_NAME).is_file() and paths:
        shards = [open_shard(path) for path in paths]
        return CacheInfo(
            {
                "cache": str(folder),
                "complete": False,
                "images_done": sum(shard.block.shape[0] for shard in shards if shard.block.views[0] == 0),
                "shards": len(shards),
                "stored_bytes": stored,
                "fingerprint": shards[0].fingerprint,
                "recipe": shards[0].recipe.as_json(),
            }
        )
    cache = open_cache(folder)
    return CacheInfo(
        {
            "cache": str(folder),
            "complete": True,
            "images": cache.rows,
            "views": cache.views,
            "layers": {
                name: {"positions": height * width, "height": height, "width": width, "channels": channels}
                for name, height, width, channels in cache.recipe.layers
            },
            "shards": len(cache.manifest.shards),
            "stored_bytes": stored,
            "raw_bytes": cache.rows * cache.views * cache.recipe.bytes_per_view(),
            "duplicates": [[cache.images[row].name for row in group] for group in cache.same_files],
            "near_duplicates": _near_duplicates(cache),
            "absent": {image.name: image.absent for image in cache.images if image.absent},
            **_counts(cache.manifest),
            **({"others": {split: len(part.rows) for split, part in cache.others.items()}} if cache.others else {}),
            "fingerprint": cache.fingerprint,
            "recipe": cache.recipe.as_json(),
            "source": cache.manifest.source,
            "versions": cache.manifest.versions,
        }
    )


def _counts(manifest: Manifest) -> dict[str, Any]:
    """Return how many images each part of each split has, under 'splits'; where there are targets, by target."""
    counts = each_part(manifest.ratings, lambda part: len(part.rows))
    return {"splits": counts[""]} if "" in counts else {"targets": counts}


def _near_duplicates(cache: FeatureCache) -> list[list[str]] | None:
    """Return the names of images that look alike, group by group; None if nobody has looked."""
    groups = cache.manifest.near_duplicates
    return None if groups is None else [[cache.images[row].name for row in group] for group in groups]


def _some(names: Sequence[str]) -> str:
    """Return names of images that look alike, the first few of many."""
    few = " ~ ".join(names[:_FEW])
    return f"{few} ~ ... ({len(names):,} images)" if len(names) > _FEW else few
