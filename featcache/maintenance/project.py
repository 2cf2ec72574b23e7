"""A cache made of another: the same images and views, features projected on their first principal directions.

The directions are found first and written into the new cache; shards follow one by one, then the seal. A killed run
goes on; one on a finished cache makes what is damaged anew. The cache that it is made of is only read.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.base.commands import amnet, command
from featcache.base.errors import BadInput, CorruptFile, InvalidSettings, Mismatch, refuse
from featcache.base.files import digest_of_file, refuse_full_disk, write_durably
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.splits import Ratings
from featcache.images.identity import is_same_image
from featcache.images.views import Box, View
from featcache.recipe import Recipe, version_of_layers
from featcache.settings import PREFIX, VIEWS_LAYER
from featcache.store.cache import FeatureCache, open_cache, open_listed_shard
from featcache.store.folder import (
    DICTIONARY_DIGEST,
    PROJECTION_NAME,
    dictionary_path,
    existing_shards,
    refuse_other_recipes,
    refuse_unknown_files,
    whole_shards,
)
from featcache.store.manifest import Manifest, ShardEntry
from featcache.store.projection import (
    MOST_POSITIONS,
    Moments,
    Projection,
    as_stored,
    digest_of_projections,
    read_projections,
    write_projections,
)
from featcache.store.reading import ahead
from featcache.store.shards.codec import Codec
from featcache.store.shards.format import Target, codecs_of
from featcache.store.shards.writer import ShardWriter
from featcache.store.writer import CacheWriter, Committed

_AT_ONCE = 64  # views with all their channels in memory


@dataclass(frozen=True)
class ProjectReport:
    """What the new cache holds, how much of the variance each layer keeps, and what directions were found from."""

    folder: str
    images: int
    views: int
    shards: int
    shards_made: int
    bytes: int
    fingerprint: str
    layers: dict[str, dict[str, Any]]
    fitted_on: str
    warning: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return asdict(self)

    def as_text(self) -> str:
        """Return a line for the cache, and one for each layer."""
        sizes = f"{self.images:,} images x {self.views} views in {self.shards} shards, {self.bytes / 1e9:,.2f} GB"
        kept = [f"{layer}: {one['text']}; {self.fitted_on}" for layer, one in self.layers.items()]
        made = f"{self.shards_made} made now; fingerprint {self.fingerprint[:16]}"
        return "\n".join([f"{self.folder}: {sizes}, {made}", *kept])

    def warnings(self) -> list[str]:
        """Return of which test images the directions know."""
        return [f"warning: {self.warning}"] if self.warning else []


@dataclass(frozen=True)
class _Fit:
    """What directions are found from: rows, the split whose train part they are or '', and both in words."""

    rows: NDArray[np.int64]
    split: str
    text: str


def project_cache(
    folder: Path,
    out: Path,
    *,
    channels: int,
    split: str = "",
    layers: Sequence[str] = (),
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> ProjectReport:
    """Write the cache in folder, its layers projected on so many directions each, into out; run again, it goes on.

    Directions are found from the train part of a split or, where none is named, from images that are in no test part
    of any. layers are by default the last. Raises `InvalidSettings` for what cannot be projected, or an out that holds
    something else, `BadInput` for features that float16 cannot hold.
    """
    cache = open_cache(folder)
    wanted = {cache.layer(layer) for layer in layers} or set(_usual(cache))
    chosen = tuple(name for name in cache.recipe.layer_names if name in wanted)  # in whatever order they are named
    _check(cache, chosen, channels)
    _check_place(cache, out)
    fit = _fit_of(cache, split)
    facts = {
        "of": cache.manifest.digest,
        "channels": channels,
        "layers": list(chosen),
        "split": fit.split,
        "seed": seed,
        "images": len(fit.rows),
    }
    with CacheWriter(out) as writer:
        projections = _projections(cache, out, chosen, fit, facts, on_progress)
        recipe = _projected_recipe(cache.recipe, projections)
        codecs = codecs_of(recipe, dict.fromkeys(chosen, Codec("none")))  # no zeros are left for a codec to find
        target, made = Target(recipe, codecs), 0
        refuse_other_recipes(existing_shards(out, ()), recipe, out)
        refuse_full_disk(out, cache.rows * cache.views * recipe.bytes_per_view() - _bytes_there(out))
        for done, entry in enumerate(cache.manifest.shards, start=1):
            there = _there(cache, out, entry, recipe)
            if there is None:
                writer.commit(entry.block, _shard(cache, entry, target, projections))
                made += 1
            else:
                writer.listed[there.file] = there.sha256
            on_progress(Progress("project", done, len(cache.manifest.shards), "shards"))
        manifest = _seal(writer, cache, out, recipe, fit, seed)
    return _report(out, manifest, made, projections, fit)


def _report(out: Path, manifest: Manifest, made: int, projections: dict[str, Projection], fit: _Fit) -> ProjectReport:
    sizes = {layer: one.channels for layer, one in projections.items()}
    layers = {
        layer: {"of": sizes[layer][0], "kept": sizes[layer][1], "variance": one.variance, "text": one.as_text()}
        for layer, one in projections.items()
    }
    return ProjectReport(
        folder=str(out),
        images=manifest.rows,
        views=manifest.views,
        shards=len(manifest.shards),
        shards_made=made,
        bytes=sum(entry.bytes for entry in manifest.shards),
        fingerprint=manifest.recipe.fingerprint,
        layers=layers,
        fitted_on=fit.text,
        warning=" ".join(known_of_tests(manifest.ratings, fit.split)),
    )


def _usual(cache: FeatureCache) -> tuple[str, ...]:
    """Return the last layer that can be projected, which heads read by default."""
    return tuple(name for name in cache.recipe.layer_names if not name.endswith(PREFIX))[-1:]


def _check(cache: FeatureCache, layers: Sequence[str], channels: int) -> None:
    """Raise `InvalidSettings` unless layers are features as a network gave them, of more channels each."""
    if cache.recipe.projection:
        raise InvalidSettings(f"{cache.path}: made by project-cache itself; project the cache that it was made of")
    if cache.recipe.encoding != "float16":
        raise InvalidSettings(
            f"{cache.path}: features of {cache.recipe.encoding}, whose projections would be less exact than those of "
            f"float16; extract it with {command('--encoding', 'float16')}, or train heads on it with --channels"
        )
    if channels < 1:
        raise InvalidSettings(f"--channels must be 1 or more, found {channels}")
    for layer in layers:
        there = cache.recipe.layer_shape(layer).channels
        if layer == VIEWS_LAYER or layer.endswith(PREFIX):
            what = "pixels" if layer == VIEWS_LAYER else "tokens before the positions of another layer"
            raise InvalidSettings(f"{cache.path}: {layer} is {what}, which are not projected alone; name other layers")
        if channels >= there:
            raise InvalidSettings(
                f"--channels {channels}: {layer} of {cache.path} has {there:,} anyhow; ask for fewer, or name other "
                "layers"
            )


def _check_place(cache: FeatureCache, out: Path) -> None:
    source, place = cache.path.resolve(), out.resolve()
    if place == source or place.is_relative_to(source):
        raise InvalidSettings(f"{out}: is {cache.path} or in it; give a new folder")
    refuse_unknown_files(out)


def _fit_of(cache: FeatureCache, split: str) -> _Fit:
    """Return what directions are found from; raise `InvalidSettings` for no such split, or if there is nothing."""
    found = rows_known(cache.manifest.ratings, split, cache.rows)
    known = sorted({one for splits in cache.manifest.ratings.values() for one in splits})
    if split and split not in known:
        raise InvalidSettings(f"{cache.path} has no split {split}; it has {', '.join(known)}")
    rows = found[cache.present[found]]
    if not len(rows):
        where = f"the train part of split {split}" if split else "no test part of any split"
        raise InvalidSettings(
            f"{cache.path}: no image with features is in {where}, so directions cannot be found from such; name "
            f"{'another' if split else 'a'} --split, and train heads on that split alone"
        )
    where = f"the train part of split {split}" if split else "no test part of any split"
    return _Fit(rows, split, f"directions found from {len(rows):,} images in {where}")


def rows_known(ratings: Ratings, split: str, rows: int) -> NDArray[np.int64]:
    """Return the rows that directions are found from: of a split its train part, of '' those in no test part of any."""
    parts = [(name, by_part) for splits in ratings.values() for name, by_part in splits.items()]
    tests = [by_part["test"].rows for name, by_part in parts if "test" in by_part and name == (split or name)]
    trains = [by_part["train"].rows for name, by_part in parts if "train" in by_part and name == split]
    found = np.concatenate([np.zeros(0, np.int64), *trains]) if split else np.arange(rows)
    return np.setdiff1d(found, np.concatenate([np.zeros(0, np.int64), *tests]))


def known_of_tests(ratings: Ratings, split: str) -> list[str]:
    """Return of how many test images of other splits directions know that were found from a split's train part."""
    known = rows_known(ratings, split, 0) if split else np.zeros(0, np.int64)
    counts: dict[str, int] = {}
    for splits in ratings.values():
        for name, parts in splits.items():
            if "test" in parts and (seen := int(np.isin(parts["test"].rows, known).sum())):
                counts[name] = max(seen, counts.get(name, 0))
    if not counts:
        return []
    listed = ", ".join(f"{seen:,} of split {name}" for name, seen in counts.items())
    return [
        f"the channels of this cache were found from the train part of split {split}, which has test images of other "
        f"splits ({listed}; their features, not their scores): heads of those splits may look better than they are"
    ]


def _projections(
    cache: FeatureCache, out: Path, layers: Sequence[str], fit: _Fit, facts: dict[str, Any], on_progress: OnProgress
) -> dict[str, Projection]:
    """Return the projection of each layer, as it is in out already, or found now and written there."""
    if (out / PROJECTION_NAME).is_file():
        found, known = read_projections(out)
        if known != facts:
            pairs = {key: (known.get(key), wanted) for key, wanted in facts.items()}
            other = [f"{key}: {a!r} there, {b!r} asked for" for key, (a, b) in pairs.items() if a != b]
            refuse(Mismatch, f"{out}: begun with other settings, or of another cache:", other, "Give a new folder.")
        return found
    if existing_shards(out, ()):
        raise CorruptFile(f"{out / PROJECTION_NAME}: missing, and shards are there; copy it back, or give a new folder")
    found = {}
    for done, layer in enumerate(layers):
        on_progress(Progress("directions", done, len(layers), "layers", layer))
        found[layer] = _fitted(cache, layer, fit.rows, channels=facts["channels"], seed=facts["seed"])
    write_projections(out, found, facts)
    return found


def _fitted(cache: FeatureCache, layer: str, rows: NDArray[np.int64], *, channels: int, seed: int) -> Projection:
    """Return the projection on directions of all views of rows, or of as many as fit, drawn by the seed."""
    shape = cache.recipe.layer_shape(layer)
    pairs, most = np.arange(len(rows) * cache.views), max(1, MOST_POSITIONS // shape.positions)
    if len(pairs) > most:
        pairs = np.sort(np.random.default_rng(seed).choice(pairs, most, replace=False))
    moments = Moments(shape.channels)
    taken = (pairs[start : start + _AT_ONCE] for start in range(0, len(pairs), _AT_ONCE))
    wanted = ((rows[some // cache.views], some % cache.views) for some in taken)
    for stored in ahead(wanted, lambda _, pair: cache.read(*pair, layer), prefetch=1):
        moments.add(torch.from_numpy(stored).flatten(0, 1))
    return moments.projection(channels)


def _projected_recipe(recipe: Recipe, projections: dict[str, Projection]) -> Recipe:
    kept = [(*layer[:3], projections[layer[0]].channels[1]) for layer in recipe.layers if layer[0] in projections]
    return replace(
        recipe,
        layers=tuple(kept),
        projection=digest_of_projections(projections),
        network_layers=recipe.layers,
        format_version=version_of_layers(list(projections)),
    )


def _bytes_there(out: Path) -> int:
    return sum(shard.path.stat().st_size for shard in existing_shards(out, ()))


def _there(cache: FeatureCache, out: Path, entry: ShardEntry, recipe: Recipe) -> Committed | None:
    """Return the shard of a block that was made before, if it is whole and of the same images."""
    start, stop = entry.block.rows
    for shard, data in whole_shards(out, entry.block, recipe):
        if all(map(is_same_image, shard.images, cache.images[start:stop])):
            return Committed(shard.path.name, hashlib.sha256(data).hexdigest())
    return None


def _shard(cache: FeatureCache, entry: ShardEntry, target: Target, projections: dict[str, Projection]) -> bytes:
    """Return the bytes of a shard with the rows, views and order of one of the cache's."""
    source = open_listed_shard(cache.path, entry, cache.recipe)
    (start, _), (first, stop) = entry.block.rows, entry.block.views
    present = [i for i, image in enumerate(source.images) if not image.absent]
    with contextlib.closing(ShardWriter(target, entry.block)) as writer:
        for i, image in enumerate(source.images):
            cut = zip(source.box[i].tolist(), source.flip[i].tolist(), strict=True)
            writer.set_image(i, image, [] if image.absent else [View(Box(*box), bool(flip)) for box, flip in cut])
        places = [(i, j) for i in present for j in range(stop - first)]
        for some, chunks in _chunks(cache, start, first, places, projections):
            for k, (i, j) in enumerate(some):
                for array in writer.codecs:
                    writer.set_stored(array, i, j, writer.encode(array, chunks[array][k]))
        return writer.finish()


def _chunks(
    cache: FeatureCache, row: int, view: int, places: list[tuple[int, int]], projections: dict[str, Projection]
) -> Iterator[tuple[list[tuple[int, int]], dict[str, NDArray[Any]]]]:
    """Yield some (i, j) of a block that begins at row and view, and of each array what is stored of them."""
    parts = [places[start : start + _AT_ONCE] for start in range(0, len(places), _AT_ONCE)]

    def read(_: int, some: list[tuple[int, int]]) -> dict[str, NDArray[Any]]:
        i, j = np.array(some).T
        return {layer: cache.read(row + i, view + j, layer) for layer in projections}

    for some, stored in zip(parts, ahead(parts, read, prefetch=1), strict=True):
        chunks: dict[str, NDArray[Any]] = {}
        for layer, projection in projections.items():
            encoded = as_stored(torch.from_numpy(stored[layer]), projection)
            if not encoded.storable.all():
                place = some[int(np.argmin(encoded.storable))]
                name = cache.images[row + place[0]].name
                raise BadInput(f"{cache.path}: {name}: projected features of {layer} are too large for float16")
            chunks |= {f"features/{layer}": encoded.features, f"pooled/{layer}": encoded.pooled}
        yield some, chunks


def _seal(writer: CacheWriter, cache: FeatureCache, out: Path, recipe: Recipe, fit: _Fit, seed: int) -> Manifest:
    """Seal the new cache with all that the other says of its images."""
    of = cache.manifest
    source = {
        **of.source,
        "projected_from": str(cache.path),
        "projected_fingerprint": cache.fingerprint,
        "projection": fit.text,
        "projection_split": fit.split,
        "projection_seed": str(seed),
    }
    if dictionary_path(cache.path).is_file() and DICTIONARY_DIGEST in of.source:
        if digest_of_file(dictionary_path(cache.path)) != of.source[DICTIONARY_DIGEST]:
            raise CorruptFile(f"{dictionary_path(cache.path)}: not the words that these features count; copy it back")
        write_durably(dictionary_path(out), dictionary_path(cache.path).read_bytes())
    manifest, _ = writer.seal_like(of, recipe, source=source)
    return manifest


def refuse_projected(recipe: Recipe, folder: Path, way_out: str) -> None:
    """Raise `InvalidSettings` for a cache that project-cache made, of which there is no such thing to do."""
    if recipe.projection:
        raise InvalidSettings(f"{folder}: made by project-cache; {way_out}")


def command_of(manifest: Manifest, folder: Path) -> str:
    """Return the command that made a projected cache, which makes what is damaged there anew."""
    source, layers = manifest.source, manifest.recipe.layers
    split, seed = source["projection_split"], source.get("projection_seed", "0")
    return amnet(
        *("project-cache", source["projected_from"], "--channels", str(layers[0][3])),
        *(["--split", split] if split else []),
        *(["--seed", seed] if seed != "0" else []),
        *("--layer", ",".join(name for name, *_ in layers), "--out", folder),
    )
