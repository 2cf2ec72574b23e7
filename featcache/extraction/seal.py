"""The end of an extraction: the whole cache sealed, with its ratings by row, and what is reported of it."""

import hashlib
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xxhash

from featcache.backbones.backbone import Backbone
from featcache.backbones.execution import has_openvino
from featcache.backbones.networks import layers_that_know, source_of_weights
from featcache.base.errors import CorruptFile
from featcache.base.files import digest_of_file
from featcache.base.progress import OnProgress
from featcache.datasets.dataset import Dataset
from featcache.datasets.splits import Part, Splits, each_part
from featcache.extraction.log import ExtractReport
from featcache.extraction.plan import Plan
from featcache.extraction.run import ExtractionJob
from featcache.images.decode import decoders
from featcache.store.folder import DICTIONARY_DIGEST, as_own_dictionary, dictionary_path
from featcache.store.manifest import Groups, Manifest
from featcache.store.near_duplicates import find_near_duplicates
from featcache.store.shards.shard import Shard, cache_of, way_out
from featcache.store.writer import CacheWriter


def seal(
    writer: CacheWriter,
    plan: Plan,
    dataset: Dataset,
    job: ExtractionJob,
    before: Manifest | None,
    backbone: Backbone,
    on_progress: OnProgress,
) -> ExtractReport:
    """Write cache.h5 and the manifest over all shards, then remove the shards that newer ones replace.

    before is the manifest that is replaced. Raises `CorruptFile` for a shard that is damaged.
    """
    known = before.listed if before else {}
    for path in (shard.path for shard in plan.kept):
        writer.listed[path.name] = known.get(path.name) or _digest_of_unlisted(path)
    made_with, made_by = _made_with(writer.folder, job, backbone), versions()
    if before and not plan.todo:  # then nothing was computed with these settings
        made_with, made_by = before.source, before.versions
    shards = writer.listed_shards(job.target.recipe, plan.kept)
    alike = before.near_duplicates if before and not plan.todo and before.rows == len(plan.names) else None
    if alike is None:
        alike = _near_duplicates(shards, job, on_progress)
    named = [[plan.names[row] for row in group] for group in alike or ()]
    apart = _with_near_duplicates(dataset, named)
    row_of = {name: row for row, name in enumerate(plan.names)}
    new_row = np.array([row_of[name] for name in dataset.names], np.int64)  # of each row of the dataset

    def moved(part: Part) -> Part:
        return Part(new_row[part.rows], part.scores)

    manifest, tables = writer.seal(
        job.target.recipe,
        rows=len(plan.names),
        views=plan.views,
        ratings=each_part(apart.ratings, moved),
        source=made_with | dataset.source,
        versions=made_by,
        groups=tuple(tuple(new_row[list(group)].tolist()) for group in dataset.groups),
        near_duplicates=alike,
        others={split: moved(part) for split, part in dataset.others.items()},
        raters={target: replace(one, rows=new_row[one.rows]) for target, one in dataset.raters.items()},
        reliability=dataset.reliability,
        opened=shards,
    )
    for shard in plan.superseded:
        if shard.path.name not in writer.listed:
            shard.path.unlink(missing_ok=True)
    return ExtractReport(
        folder=writer.folder,
        fingerprint=manifest.recipe.fingerprint,
        images=len(plan.names),
        views=plan.views,
        views_computed=plan.views_to_do,
        bytes=sum(entry.bytes for entry in manifest.shards),
        absent=[(image.name, image.absent) for image in tables.images if image.absent],
        stale_temporaries=writer.stale,
        precision=backbone.precision,
        runtime=backbone.execution.runtime,
        dataset_notes=dataset.notes,
        near_duplicates=named,
        notes_of_ratings=(*apart.notes, *_rescored(before, manifest)),
    )


def _made_with(folder: Path, job: ExtractionJob, backbone: Backbone) -> dict[str, str]:
    """Return what the features are made with that is in no recipe, for the manifest's source."""
    weights = source_of_weights(job.settings)
    found = {
        "weights": as_own_dictionary(folder, weights),
        "batch_size": str(backbone.batch_size),
        "runtime": backbone.execution.runtime,
    }
    if found["weights"] != weights:  # they are in the cache itself
        found[DICTIONARY_DIGEST] = digest_of_file(dictionary_path(folder))
    return found


def _near_duplicates(shards: Sequence[Shard], job: ExtractionJob, on_progress: OnProgress) -> Groups | None:
    recipe = job.target.recipe
    layers = layers_that_know(recipe.backbone, recipe.layer_names, job.settings.weights)
    return find_near_duplicates(shards, layers=layers, on_progress=on_progress)


def _rescored(before: Manifest | None, now: Manifest) -> list[str]:
    """Return which targets the cache has no more, and of how many images others lack every score they had."""
    gone = [target for target in before.targets if target not in now.ratings] if before else []
    notes = [
        f"warning: no ratings {target} any more, so its heads are not found; extract with its column brings them back"
        for target in gone
    ]
    for target in now.ratings if before else ():
        then, found = (_scores_by_row(one.ratings.get(target, {})) for one in (before, now) if one)
        changed = sum(row in found and scores.isdisjoint(found[row]) for row, scores in then.items())
        if changed:
            of = f" of target {target}" if target else ""
            notes.append(
                f"warning: {changed:,} images have other scores{of} than before; heads trained on those are not scored"
            )
    return notes


def _scores_by_row(splits: Splits) -> dict[int, set[float]]:
    scores = defaultdict[int, set[float]](set)
    for parts in splits.values():
        for part in parts.values():
            for row, score in zip(part.rows.tolist(), part.scores.tolist(), strict=True):
                scores[row].add(score)
    return scores


def _with_near_duplicates(dataset: Dataset, named: Sequence[Sequence[str]]) -> Dataset:
    """Return the dataset with groups of its images that look alike treated as such."""
    row_of = {name: row for row, name in enumerate(dataset.names)}
    groups = [[row_of[name] for name in names if name in row_of] for names in named]  # others are of earlier tables
    return dataset.with_near_duplicates([group for group in groups if len(group) > 1])


def _digest_of_unlisted(path: Path) -> str:
    """Return the sha256 of a shard that no manifest lists; raise `CorruptFile` if its name is not its content's."""
    data = path.read_bytes()
    if xxhash.xxh3_64_hexdigest(data) != path.stem.partition("-")[2]:
        raise CorruptFile(f"{path}: the file is damaged. {way_out(cache_of(path))}")
    return hashlib.sha256(data).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of what a feature may depend on, to be stored beside it."""
    packages = ["torch", "torchvision", "timm", "pillow", "h5py", "numpy", *(["openvino"] if has_openvino() else [])]
    heic = ["pillow-heif"] if find_spec("pillow_heif") else []
    found = {name: metadata.version(name) for name in (*packages, *heic)}
    return {"python": platform.python_version(), **found, **decoders()}
