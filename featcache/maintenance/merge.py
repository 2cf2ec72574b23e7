"""Joining caches of one recipe: the same images extracted in parts, or different images, on different machines.

Chunks are copied as they are, their digests checked. Rows stay where they are if the inputs agree about them, as
the parts of one extraction do; else the inputs' images follow one another. Inputs are only read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.families.descriptor_networks import (
    Parts,
    described_layers,
    joined_weights,
    parts_of_weights,
    with_words,
)
from featcache.backbones.networks import layers_that_know
from featcache.base.commands import amnet, command
from featcache.base.errors import CacheIncomplete, InvalidSettings, refuse
from featcache.base.files import digest_of_file, refuse_full_disk, write_durably
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.duplicates import LOOK_ALIKE, joined, of_parts
from featcache.datasets.reliability import Raters, Reliability, merge_raters, merge_reliability
from featcache.datasets.splits import Others, Part, Ratings, merge_others, merge_ratings
from featcache.images.decode import DECODED
from featcache.images.identity import is_same_image
from featcache.maintenance.merge_plan import Planned, Source, assign_rows, choose_pieces, held_images, plan_merge
from featcache.maintenance.project import refuse_projected
from featcache.store.cache import open_cache, open_listed_shard
from featcache.store.folder import (
    DICTIONARY_DIGEST,
    DICTIONARY_NAME,
    MANIFEST_NAME,
    dictionary_path,
    existing_shards,
    refuse_other_recipes,
    refuse_unknown_files,
)
from featcache.store.index import Tables
from featcache.store.manifest import Manifest, read_manifest
from featcache.store.near_duplicates import find_near_duplicates
from featcache.store.shards.format import Target
from featcache.store.shards.shard import opened
from featcache.store.shards.writer import copied_shard
from featcache.store.writer import CacheWriter


@dataclass(frozen=True)
class MergeReport:
    """What the merged cache holds. complete is False where inputs were unfinished: extract goes on with it.

    decoders has a line for each kind of image file that inputs decoded with different libraries, alike what there is to
    say of images that look alike, and of raters whose reliability is not that of all.
    """

    folder: str
    images: int
    views: int
    shards: int
    complete: bool
    decoders: Sequence[str] = ()
    alike: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object; decoders and alike are in it where there is something to say."""
        return {key: value for key, value in asdict(self).items() if key not in ("decoders", "alike") or value}

    def as_text(self) -> str:
        """Return what the cache holds as a line."""
        return f"{self.folder}: {self.images:,} images x {self.views} views in {self.shards} shards"

    def warnings(self) -> list[str]:
        """Return how to go on where inputs were unfinished, and where they may have seen different pixels."""
        other = [
            f"warning: the inputs decoded {line}; such images have slightly other pixels in one than in the other"
            for line in self.decoders
        ]
        go_on = amnet("extract", "--dataset", "NAME_OR_PATH", "--out", Path(self.folder))
        other += self.alike
        return other if self.complete else [*other, f"inputs were not complete; go on with: {go_on}"]


def merge_caches(out: Path, inputs: Sequence[Path], *, on_progress: OnProgress = silent) -> MergeReport:
    """Write the cache that holds every image of inputs into out; run again, it goes on where it was stopped.

    Raises `Mismatch` if recipes, views or images of the same name differ, `BadInput` if their splits contradict
    each other, `CorruptFile` for damage in an input, `InvalidSettings` if out is an input or a sealed cache.
    """
    _refuse_out(out, inputs)
    sources = [_open_source(folder) for folder in inputs]
    for one in sources:
        way_out = "merge the caches that such were made of, then project what that gives"
        refuse_projected(one.shards[0].recipe, one.folder, way_out)
    _refuse_other_recipes(sources)
    held = held_images(sources)
    views = max(shard.block.views[1] for source in sources for shard in source.shards)
    pieces = choose_pieces(held, views)
    row_of = assign_rows(sources, held)
    ratings = merge_ratings([(source.manifest.ratings, source.names) for source in sources if source.manifest], row_of)
    others = merge_others([(source.manifest.others, source.names) for source in sources if source.manifest], row_of)
    raters = merge_raters([(source.manifest.raters, source.names) for source in sources if source.manifest], row_of)
    of_people: list[str] = []
    reliability = merge_reliability([one.manifest.reliability for one in sources if one.manifest], of_people)
    planned = list(plan_merge(pieces, row_of))
    decoded = _decoders_that_differ(sources)
    said = [f"{kind} with {' and '.join(found)}" for kind, found in decoded.items()]
    if (out / MANIFEST_NAME).exists():
        _refuse_another(out, planned, ratings, others, raters, reliability)
        return MergeReport(str(out), len(row_of), views, len(planned), True, said)
    _refuse_unknown_shards(out, planned)
    with CacheWriter(out) as writer:
        _refuse_unknown_shards(out, planned)  # again: nobody writes there now
        refuse_full_disk(out, sum(shard.path.stat().st_size for source in sources for shard in source.shards))
        for done, item in enumerate(planned, start=1):
            shard = item.rows[0].shard
            with opened(shard) as descriptor:
                rows = (shard.read_row(descriptor, place.k) for place in item.rows)
                data = copied_shard(Target(shard.recipe, shard.codecs, shard.constants), item.block, rows)
            writer.commit(item.block, data)
            on_progress(Progress("merge", done, len(planned), "shards"))
        dictionary = _copy_dictionary(sources, out)
        manifests = [source.manifest for source in sources if source.manifest]
        complete = len(manifests) == len(sources)
        alike: Sequence[str] = ()
        if complete:
            first = manifests[0]
            shards = writer.listed_shards(first.recipe)
            known = layers_that_know(first.recipe.backbone, first.recipe.layer_names, first.source["weights"])
            groups = find_near_duplicates(shards, layers=known, on_progress=on_progress)
            _, tables = writer.seal(
                first.recipe,
                rows=len(row_of),
                views=views,
                ratings=ratings,
                source=_joined_source(manifests, dictionary),
                versions=first.versions | {kind: " + ".join(found) for kind, found in decoded.items()},
                groups=tuple(
                    joined(
                        [row_of[source.names[row]] for row in group]
                        for source in sources
                        for group in (source.manifest.groups if source.manifest else ())
                    )
                ),
                near_duplicates=groups,
                others=others,
                raters=raters,
                reliability=reliability,
                opened=shards,
            )
            alike = (*_said_of(tables, ratings, groups or ()), *of_people)
    return MergeReport(str(out), len(row_of), views, len(planned), complete, said, alike)


def _copy_dictionary(sources: Sequence[Source], out: Path) -> str:
    """Copy the visual words that all count, as their recipe says, from the first that has them; return their digest.

    It is '' where none has them.
    """
    paths = [dictionary_path(source.folder) for source in sources if not _lost_dictionary(source)]
    return write_durably(dictionary_path(out), paths[0].read_bytes()) if paths else ""


def _joined_source(manifests: Sequence[Manifest], dictionary: str) -> dict[str, str]:
    """Return what the features were made with; words by the digest of the dictionary that is in the cache itself."""
    first, names = manifests[0], dict.fromkeys(manifest.source["dataset"] for manifest in manifests)
    found = {**first.source, "dataset": "+".join(names)}
    if dictionary:
        network = parts_of_weights(first.recipe.backbone, first.source["weights"]).network
        found |= {"weights": joined_weights(Parts(network, DICTIONARY_NAME)), DICTIONARY_DIGEST: dictionary}
    return found


def _lost_dictionary(source: Source) -> bool:
    """Whether a source has no visual words of its own, or others than its manifest says."""
    path = dictionary_path(source.folder)
    if not path.is_file():
        return True
    return source.manifest is not None and digest_of_file(path) != source.manifest.source.get(DICTIONARY_DIGEST)


def _said_of(tables: Tables, ratings: Ratings, groups: Sequence[Sequence[int]]) -> list[str]:
    """Return which images look alike, and which of them are in several parts of a split."""
    names = [image.name for image in tables.images]
    across = [line for splits in ratings.values() for line in of_parts(names, splits, groups, LOOK_ALIKE)]
    return [*LOOK_ALIKE.notes(names, groups), *across]


def _decoders_that_differ(sources: Sequence[Source]) -> dict[str, list[str]]:
    """Return the libraries of each kind of file that sealed inputs decoded with different ones, as far as is known."""
    versions = [source.manifest.versions for source in sources if source.manifest]
    found = {kind: list(dict.fromkeys(each[kind] for each in versions if kind in each)) for kind in DECODED}
    return {kind: libraries for kind, libraries in found.items() if len(libraries) > 1}


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
    refuse_unknown_files(out)


def _refuse_another(
    out: Path,
    planned: Sequence[Planned],
    ratings: Ratings,
    others: Others,
    raters: Mapping[str, Raters],
    reliability: Mapping[str, Reliability],
) -> None:
    """Raise `InvalidSettings` unless out is the finished result of this very merge."""
    there = open_cache(out)
    wanted = {row: image for item in planned for row, image in enumerate(item.images, start=item.block.rows[0])}
    blocks = {entry.block for entry in there.manifest.shards}
    same = (
        there.recipe == planned[0].rows[0].shard.recipe
        and blocks == {item.block for item in planned}
        and all(is_same_image(image, wanted[row]) for row, image in enumerate(there.images))
        and _parts_of(there.manifest.ratings) == _parts_of(ratings)
        and _same(there.others, others)
        and _same(there.manifest.raters, raters)
        and there.manifest.reliability == reliability
    )
    if not same:
        raise InvalidSettings(f"{out} is a finished cache of something else; give a new folder")


def _same(these: Mapping[str, Part] | Mapping[str, Raters], those: Mapping[str, Part] | Mapping[str, Raters]) -> bool:
    """Whether the numbers of each target or split are the same."""
    if these.keys() != those.keys():
        return False
    pairs = [(vars(these[name]), vars(those[name])) for name in these]
    return all(_equal(one[field], other[field]) for one, other in pairs for field in one)


def _equal(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other, equal_nan=True)


def _parts_of(ratings: Ratings) -> set[tuple[str, str, str]]:
    """Return the name of each part with its target and split."""
    return {(target, split, part) for target, splits in ratings.items() for split in splits for part in splits[split]}


def _refuse_unknown_shards(out: Path, planned: Sequence[Planned]) -> None:
    """Raise `InvalidSettings` if out holds shards that this merge would not write: extract would take them all."""
    expected = {item.block: item.images for item in planned}
    recipe = planned[0].rows[0].shard.recipe
    unknown = [
        shard.path.name
        for shard in existing_shards(out)
        if shard.recipe != recipe or expected.get(shard.block) != shard.images
    ]
    refuse(InvalidSettings, f"{out}: holds shards that are no part of this merge:", unknown, "Give a new folder.")


def _refuse_other_recipes(sources: Sequence[Source]) -> None:
    """Raise `Mismatch`, naming the fields, if two shards have different recipes."""
    first = sources[0].shards[0]
    way_out = f"Only caches of the recipe of {sources[0].folder} can be merged with it."
    if first.recipe.calibrated_layers:
        way_out += f" Parts in {first.recipe.encoding} need the same constants: extract them with --calibrate-like."
    if with_words(described_layers(first.recipe.backbone, first.recipe.layer_names)):
        way_out += f" Parts that count visual words need one dictionary: see {command('--weights')} of extract."
    for source in sources:
        refuse_other_recipes(source.shards, first.recipe, source.folder, way_out)


def _open_source(folder: Path) -> Source:
    if (folder / MANIFEST_NAME).is_file():
        manifest = read_manifest(folder)
        return Source(folder, [open_listed_shard(folder, e, manifest.recipe) for e in manifest.shards], manifest)
    shards = sorted(existing_shards(folder), key=lambda shard: (shard.block.rows, shard.block.views))
    if not shards:
        raise CacheIncomplete(f"{folder}: no cache there, and no shard of one")
    return Source(folder, shards, None)
