"""What a cache folder holds, sealed or not, as text and as one JSON object."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.base.errors import FeatcacheError
from featcache.datasets.splits import each_part
from featcache.maintenance.project import known_of_tests
from featcache.store.cache import FeatureCache, open_cache, open_listed_shard
from featcache.store.folder import MANIFEST_NAME, shard_paths
from featcache.store.manifest import Manifest
from featcache.store.shards.format import array_specs
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard

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
        if recipe.get("projection"):
            source = info["source"]
            before = {name: of for name, _, _, of in recipe["network_layers"]}
            kept = ", ".join(f"{name} {one['channels']:,} of {before[name]:,}" for name, one in info["layers"].items())
            common.append(f"projected    {kept} channels; {source['projection']}; made of {source['projected_from']}")
            common += [f"             {line}" for line in info["projection_warnings"]]
        layers = [
            f"layer        {name}: {layer['height']}x{layer['width']}x{layer['channels']} (L = {layer['positions']}), "
            f"{_stored(layer)}"
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
        people = [
            *(f"raters       {line}" for line in info.get("raters", {}).values()),
            *(f"ceiling      {line}" for line in info.get("ceiling", {}).values()),
        ]
        absent = [f"absent       {name}: {reason}" for name, reason in info["absent"].items()]
        head = f"{info['cache']}: {info['images']:,} images x {info['views']} views, complete"
        same = [f"same file    {' = '.join(names)}" for names in info["duplicates"]]
        alike = [f"look alike   {_some(names)}" for names in info["near_duplicates"] or ()]
        return "\n".join([head, *common, *layers, *splits, *others, *people, *same, *alike, *absent])


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
    stored_as = _bytes_of_layers(cache)
    return CacheInfo(
        {
            "cache": str(folder),
            "complete": True,
            "images": cache.rows,
            "views": cache.views,
            "layers": {
                name: {"positions": height * width, "height": height, "width": width, "channels": channels}
                | stored_as[name]
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
            **_people(cache),
            **(
                {"projection_warnings": known_of_tests(cache.manifest.ratings, split)}
                if (split := cache.manifest.source.get("projection_split")) is not None
                else {}
            ),
            "fingerprint": cache.fingerprint,
            "recipe": cache.recipe.as_json(),
            "source": cache.manifest.source,
            "versions": cache.manifest.versions,
        }
    )


def _bytes_of_layers(cache: FeatureCache) -> dict[str, dict[str, Any]]:
    """Return how each layer is stored: codecs of its features, bytes of their chunks, raw_bytes that these decode to.

    pooled_bytes are those of its pooled vectors, 0 where they are computed on reading. Shards that cannot be opened
    are left out: what is wrong with them is for verify-cache to say.
    """
    opened: list[Shard] = []
    for entry in cache.manifest.shards:
        with contextlib.suppress(FeatcacheError):
            opened.append(open_listed_shard(cache.path, entry, cache.recipe))
    found, specs = {}, array_specs(cache.recipe)
    for layer in cache.recipe.layer_names:
        features = [shard.arrays[f"features/{layer}"] for shard in opened]
        pooled = [shard.arrays[f"pooled/{layer}"] for shard in opened if f"pooled/{layer}" in shard.arrays]
        spec = specs[f"features/{layer}"]
        found[layer] = {
            "codecs": sorted({str(index.codec or "filters of HDF5") for index in features}),
            "bytes": sum(int(index.sizes.sum()) for index in features),
            "raw_bytes": sum(int((index.offsets >= 0).sum()) for index in features)
            * math.prod(spec.chunk_shape)
            * spec.dtype.itemsize,
            "pooled_bytes": sum(int(index.sizes.sum()) for index in pooled),
        }
    return found


def _stored(layer: dict[str, Any]) -> str:
    """Return how a layer is stored, in words."""
    share = f" ({layer['bytes'] / layer['raw_bytes']:.2f} of its raw bytes)" if layer["raw_bytes"] else ""
    vectors = f", pooled vectors {layer['pooled_bytes'] / 1e6:,.1f} MB" if layer["pooled_bytes"] else ""
    return f"{' and '.join(layer['codecs'])}, {layer['bytes'] / 1e6:,.1f} MB{share}{vectors}"


def _counts(manifest: Manifest) -> dict[str, Any]:
    """Return how many images each part of each split has, under 'splits'; where there are targets, by target."""
    counts = each_part(manifest.ratings, lambda part: len(part.rows))
    return {"splits": counts[""]} if "" in counts else {"targets": counts}


def _people(cache: FeatureCache) -> dict[str, Any]:
    """Return in words, by target, what is known of raters and the ceiling that they set; nothing where nothing is."""
    found: dict[str, dict[str, str]] = {"raters": {}, "ceiling": {}}
    for target in cache.manifest.ratings:
        one = cache.of_target(target)
        of = f" of {target}" if target else ""
        if one.raters:
            known = {"numbers of ratings": one.raters.counts, "standard errors": one.raters.errors}
            what = " and ".join(name for name, column in known.items() if column is not None)
            found["raters"][target] = f"{what} of {len(one.raters.rows):,} scores{of}"
        if one.reliability:
            found["ceiling"][target] = f"{one.reliability.as_text()}{of}"
    return {key: lines for key, lines in found.items() if lines}


def _near_duplicates(cache: FeatureCache) -> list[list[str]] | None:
    """Return the names of images that look alike, group by group; None if nobody has looked."""
    groups = cache.manifest.near_duplicates
    return None if groups is None else [[cache.images[row].name for row in group] for group in groups]


def _some(names: Sequence[str]) -> str:
    """Return names of images that look alike, the first few of many."""
    few = " ~ ".join(names[:_FEW])
    return f"{few} ~ ... ({len(names):,} images)" if len(names) > _FEW else few
