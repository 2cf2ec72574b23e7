"""Stage 1: fill a cache folder with the features of a dataset, shard by shard, and seal it.

A kill at any instant loses at most two shards, one being written and one being computed; the same call again goes
on behind the shards that are there.
"""

import contextlib
import hashlib
import platform
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from featcache.backbones.backbone import Backbone, load_backbone
from featcache.backbones.execution import check_computable, has_openvino, split_arithmetic
from featcache.backbones.networks import layers_that_know, source_of_weights
from featcache.base.cores import usable_threads
from featcache.base.devices import resolve_device
from featcache.base.errors import CacheIncomplete, CorruptFile, FeatcacheError, Mismatch, StorageError, refuse
from featcache.base.files import digest_of_file
from featcache.base.jobs import Workers
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.dataset import Dataset, refuse_untrainable
from featcache.datasets.splits import Others, Part, Ratings, Splits, each_part
from featcache.extraction.calibration import settle_target
from featcache.extraction.dictionary import settle_dictionary
from featcache.extraction.log import ExtractionLog, ExtractReport
from featcache.extraction.plan import Plan, make_plan
from featcache.extraction.run import ExtractionJob, run_here, run_on_workers
from featcache.extraction.timings import bottleneck
from featcache.images.decode import decoders
from featcache.settings import ExtractSettings
from featcache.store.folder import (
    DICTIONARY_DIGEST,
    as_own_dictionary,
    dictionary_path,
    existing_shards,
    refuse_other_recipes,
    refuse_unknown_files,
    shard_path,
    shard_paths,
)
from featcache.store.manifest import Groups, Manifest, read_manifest
from featcache.store.near_duplicates import find_near_duplicates
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard, cache_of, way_out
from featcache.store.writer import CacheWriter

_ALONE = Workers()
SEEN_WITHIN_SECONDS = 30.0  # a network file system shows what others wrote a little later


def extract(
    dataset: Dataset,
    settings: ExtractSettings,
    out: Path,
    *,
    workers: Workers = _ALONE,
    on_progress: OnProgress = silent,
) -> ExtractReport:
    """Bring the cache in out up to date with dataset and settings; what is there already is not computed again.

    Raises `Mismatch` if out holds features of another recipe, `Locked` if another process is writing there,
    `BadInput` for splits that cannot be trained on, for a feature that cannot be stored or, under on_bad_image='stop',
    for the first bad image.
    """
    refuse_untrainable(dataset)
    settings = follow(settings, out)
    refuse_unknown_files(out)
    settings = settle_dictionary(settings, dataset, out, on_progress)
    backbone = load_backbone(settings, views=len(dataset.names) * (1 + settings.augs))
    with CacheWriter(out) as writer:
        before: Manifest | None = None
        with contextlib.suppress(CacheIncomplete, CorruptFile):
            before = read_manifest(out)
        listed = before.listed if before else None
        shards = existing_shards(out, listed)
        images = dataset.images
        target = settle_target(backbone, settings, shards, dataset)
        refuse_other_recipes(shards, target.recipe, out)
        plan = make_plan(
            shards, dataset.names, images, views=1 + settings.augs, recipe=target.recipe, listed=listed or ()
        )
        _refuse_changed_images(plan, dataset, out, on_progress)
        job = ExtractionJob(images.resolve(), out.resolve(), settings, target, room_for=plan.views_to_do)
        work = [(block, tuple(plan.names[slice(*block.rows)])) for block in plan.todo]
        alone = workers == _ALONE
        log = ExtractionLog(out, plan, on_progress, by_image=alone)
        made = run_here(work, job, backbone, log.note_image) if alone else run_on_workers(work, job, backbone, workers)
        writer.listed |= {shard.file: shard.sha256 for shard in log.noting(made)}
        _refuse_unseen(writer.listed, out)
        if not alone:
            writer.remove_stale()  # of workers that died
        report = _seal(writer, plan, dataset, job, before, backbone, on_progress)
        if not plan.todo:
            return report
        shares = log.times.shares
        slowest = bottleneck(log.times, backbone) if alone else max(shares, key=lambda stage: shares[stage])
        return replace(report, stages=shares, bottleneck=slowest, notes=log.notes)


def follow(settings: ExtractSettings, out: Path) -> ExtractSettings:
    """Return settings whose every 'auto' is made what it is in the cache to go on with, or to be like."""
    like, where = None, Path(settings.calibrate_like)
    if settings.calibrate_like:
        like = read_manifest(where).recipe
    for path in shard_paths(out)[:1]:
        with contextlib.suppress(FeatcacheError):  # what is wrong with a shard is said later
            like, where = open_shard(path).recipe, out
    if like is None:
        return settings
    precision, runtime = split_arithmetic(like.precision)
    if settings.final_norm is None:
        settings = replace(settings, final_norm=like.final_norm)
    if settings.precision not in ("auto", precision):
        return settings  # which is said later, with all else that differs
    other = "give another folder with --out" if where == out else "leave out --calibrate-like"
    check_computable(
        like.precision, resolve_device(settings.device), where=str(where), way_out=f"do this there, or {other}"
    )
    return replace(settings, precision=precision, runtime=runtime if settings.runtime == "auto" else settings.runtime)


def _refuse_unseen(files: Iterable[str], out: Path) -> None:
    """Raise `CacheIncomplete` if shards were made in a folder of the same name on other machines."""
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while unseen := [file for file in files if not shard_path(out, file).is_file()]:
        if time.monotonic() > deadline:
            way_out = (
                "Bring the workers' folders here, join them with merge-caches, and run extract on the result; "
                "or use a folder that all machines share."
            )
            title = f"{out}: workers made {len(unseen)} shards in a folder of this name that is not seen here:"
            refuse(CacheIncomplete, title, unseen, way_out)
        time.sleep(0.5)


def _refuse_changed_images(plan: Plan, dataset: Dataset, out: Path, on_progress: OnProgress) -> None:
    """Raise `Mismatch` that lists every image that is not the file whose features the cache holds already."""
    images, named = dataset.images, set(dataset.names)
    stored = [image for shard in (*plan.kept, *plan.superseded) for image in shard.images if image.name in named]
    held = {image.name: image.sha256 for image in stored if not image.absent}
    changed = []
    with ThreadPoolExecutor(usable_threads(None), thread_name_prefix="hash") as pool:
        digests = pool.map(_digest_or_reason, [images / name for name in held])
        for done, ((name, sha256), found) in enumerate(zip(held.items(), digests, strict=True), start=1):
            if found != sha256:
                changed.append(name if len(found) == len(sha256) else f"{name}: {found}")
            on_progress(Progress("check images", done, len(held), "images"))
    title = f"{out}: holds features of other images than those now in {images}:"
    refuse(Mismatch, title, changed, "Restore these images, or give another folder with --out.")


def _digest_or_reason(path: Path) -> str:
    try:
        return digest_of_file(path) if path.is_file() else "not there, or not a file"
    except StorageError as error:
        return str(error).removeprefix(f"{path}: ")


def _seal(
    writer: CacheWriter,
    plan: Plan,
    dataset: Dataset,
    job: ExtractionJob,
    before: Manifest | None,
    backbone: Backbone,
    on_progress: OnProgress,
) -> ExtractReport:
    """Write cache.h5 and the manifest over all shards, then remove the shards that newer ones replace."""
    known = before.listed if before else {}
    for path in (shard.path for shard in plan.kept):
        writer.listed[path.name] = known.get(path.name) or _digest_of_unlisted(path)
    made_with = {
        "weights": as_own_dictionary(writer.folder, source_of_weights(job.settings)),
        "batch_size": str(job.settings.batch_size),
        "runtime": backbone.execution.runtime,
    }
    if dictionary_path(writer.folder).is_file():
        made_with[DICTIONARY_DIGEST] = digest_of_file(dictionary_path(writer.folder))
    made_by = versions()
    if before and not plan.todo:  # then nothing was computed with these settings
        made_with, made_by = before.source, before.versions
    shards = writer.listed_shards(job.target.recipe, plan.kept)
    alike = before.near_duplicates if before and not plan.todo and before.rows == len(plan.names) else None
    if alike is None:
        alike = _near_duplicates(shards, job, on_progress)
    named = [[plan.names[row] for row in group] for group in alike or ()]
    apart = _with_near_duplicates(dataset, named)
    manifest, tables = writer.seal(
        job.target.recipe,
        rows=len(plan.names),
        views=plan.views,
        ratings=_ratings_by_row(apart, plan.names),
        source=made_with | dataset.source,
        versions=made_by,
        groups=_with_rows_of(plan.names, dataset),
        near_duplicates=alike,
        others=_others_by_row(dataset, plan.names),
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


def _near_duplicates(shards: Sequence[Shard], job: ExtractionJob, on_progress: OnProgress) -> Groups | None:
    recipe = job.target.recipe
    layers = layers_that_know(recipe.backbone, recipe.layer_names, job.settings.weights)
    return find_near_duplicates(shards, layers=layers, on_progress=on_progress)


def _rescored(before: Manifest | None, now: Manifest) -> list[str]:
    """Return of how many images a target that the cache had before has no score any more that it had."""
    notes = []
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


def _with_rows_of(names: Sequence[str], dataset: Dataset) -> Groups:
    """Return the dataset's groups with its rows turned into the cache's."""
    row_of = {name: row for row, name in enumerate(names)}
    return tuple(tuple(row_of[dataset.names[row]] for row in group) for group in dataset.groups)


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


def _ratings_by_row(dataset: Dataset, names: list[str]) -> Ratings:
    """Return the dataset's ratings with its rows turned into the cache's."""
    new_row = _rows_by_row(dataset, names)
    return each_part(dataset.ratings, lambda part: Part(new_row[part.rows], part.scores))


def _others_by_row(dataset: Dataset, names: list[str]) -> Others:
    """Return the dataset's scores by other people with its rows turned into the cache's."""
    new_row = _rows_by_row(dataset, names)
    return {split: Part(new_row[part.rows], part.scores) for split, part in dataset.others.items()}


def _rows_by_row(dataset: Dataset, names: list[str]) -> NDArray[np.int64]:
    row_of = {name: row for row, name in enumerate(names)}
    return np.array([row_of[name] for name in dataset.names], np.int64)


def versions() -> dict[str, str]:
    """Return the versions of what a feature may depend on, to be stored beside it."""
    packages = ["torch", "torchvision", "timm", "pillow", "h5py", "numpy", *(["openvino"] if has_openvino() else [])]
    heic = ["pillow-heif"] if find_spec("pillow_heif") else []
    found = {name: metadata.version(name) for name in (*packages, *heic)}
    return {"python": platform.python_version(), **found, **decoders()}
