"""Stage 1: fill a cache folder with the features of a dataset, shard by shard, and seal it.

A kill at any instant loses at most two shards, one being written and one being computed; the same call again goes
on behind the shards that are there.
"""

import contextlib
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from featcache.backbones.backbone import Backbone, load_backbone
from featcache.backbones.execution import check_computable, split_arithmetic
from featcache.base.cores import usable_threads
from featcache.base.devices import resolve_device
from featcache.base.errors import CacheIncomplete, CorruptFile, FeatcacheError, Mismatch, refuse
from featcache.base.jobs import Workers
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.dataset import Dataset, refuse_untrainable
from featcache.extraction.calibration import settle_target
from featcache.extraction.dictionary import settle_dictionary
from featcache.extraction.log import ExtractionLog, ExtractReport
from featcache.extraction.plan import Plan, make_plan
from featcache.extraction.run import ExtractionJob, run_here, run_on_workers
from featcache.extraction.seal import seal
from featcache.extraction.timings import bottleneck
from featcache.images.early import EarlyImages
from featcache.settings import ExtractSettings
from featcache.store.folder import (
    existing_shards,
    refuse_other_recipes,
    refuse_unknown_files,
    shard_path,
    shard_paths,
)
from featcache.store.manifest import Manifest, read_manifest
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard
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
    alone = workers == _ALONE
    with EarlyImages(dataset.images) as early:
        seen = _begin_early(early, dataset, settings, out, alone=alone)
        backbone = load_backbone(settings, views=len(dataset.names) * (1 + settings.augs))
        return _extract(dataset, settings, out, backbone, workers, early=early, seen=seen, on_progress=on_progress)


def _extract(
    dataset: Dataset,
    settings: ExtractSettings,
    out: Path,
    backbone: Backbone,
    workers: Workers,
    *,
    early: EarlyImages,
    seen: Sequence[Shard],
    on_progress: OnProgress,
) -> ExtractReport:
    """Do what `extract` does once the network is there; seen are shards that were opened before that."""
    with CacheWriter(out) as writer:
        before: Manifest | None = None
        with contextlib.suppress(CacheIncomplete, CorruptFile):
            before = read_manifest(out)
        listed = before.listed if before else None
        same = [shard.path for shard in seen] == shard_paths(out)  # the name of a shard says what is in it
        shards = list(seen) if same else existing_shards(out, listed)
        images = dataset.images
        target = settle_target(backbone, settings, shards, dataset)
        refuse_other_recipes(shards, target.recipe, out)
        plan = make_plan(
            shards, dataset.names, images, views=1 + settings.augs, recipe=target.recipe, listed=listed or ()
        )
        _refuse_changed_images(plan, dataset, out, early, on_progress)
        job = ExtractionJob(images.resolve(), out.resolve(), settings, target, room_for=plan.views_to_do)
        work = [(block, tuple(plan.names[slice(*block.rows)])) for block in plan.todo]
        alone = workers == _ALONE
        log = ExtractionLog(out, plan, on_progress, by_image=alone)
        if alone:
            made = run_here(work, job, backbone, log.note_image, load=early.loaded)
        else:
            made = run_on_workers(work, job, backbone, workers)
        writer.listed |= {shard.file: shard.sha256 for shard in log.noting(made)}
        _refuse_unseen(writer.listed, out)
        if not alone:
            writer.remove_stale()  # of workers that died
        report = seal(writer, plan, dataset, job, before, backbone, on_progress)
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


def _begin_early(
    early: EarlyImages, dataset: Dataset, settings: ExtractSettings, out: Path, *, alone: bool
) -> list[Shard]:
    """Begin with what can be done without the network; return the shards that are there, none if one is damaged.

    Images that they hold are hashed, and the first of the others, which come next, decoded where that is for this
    process to do. What is wrong with a shard is said later.
    """
    shards: list[Shard] = []
    with contextlib.suppress(FeatcacheError):
        shards = existing_shards(out)
    held = {image.name: image.absent for shard in shards for image in shard.images}
    named = set(dataset.names)
    if alone:
        stop = max([1 + settings.augs, *(shard.block.views[1] for shard in shards)])
        cut = resolve_device(settings.device).type != "cuda"
        early.load(sorted(named - set(held)), (0, stop), settings.views, cut=cut)
    early.hash(name for name, absent in held.items() if not absent and name in named)
    return shards


def _refuse_changed_images(
    plan: Plan, dataset: Dataset, out: Path, early: EarlyImages, on_progress: OnProgress
) -> None:
    """Raise `Mismatch` that lists every image that is not the file whose features the cache holds already."""
    images, named = dataset.images, set(dataset.names)
    stored = [image for shard in (*plan.kept, *plan.superseded) for image in shard.images if image.name in named]
    held = {image.name: image.sha256 for image in stored if not image.absent}
    changed = []
    with ThreadPoolExecutor(usable_threads(None), thread_name_prefix="hash") as pool:
        digests = pool.map(early.digest, held)
        for done, ((name, sha256), found) in enumerate(zip(held.items(), digests, strict=True), start=1):
            if found != sha256:
                changed.append(name if len(found) == len(sha256) else f"{name}: {found}")
            on_progress(Progress("check images", done, len(held), "images"))
    title = f"{out}: holds features of other images than those now in {images}:"
    refuse(Mismatch, title, changed, "Restore these images, or give another folder with --out.")
