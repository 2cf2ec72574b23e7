"""The shards of a plan: built, written, and accounted for, in this process or by workers elsewhere.

A shard is the same bytes wherever it is made, so one that is made twice, after a worker died, does no harm.
"""

import contextlib
import functools
import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from featcache.backbones.backbone import Backbone, load_backbone
from featcache.backbones.networks import source_of_weights
from featcache.backbones.of_recipe import recipe_of
from featcache.base.devices import claimed, devices_for, resolve_device
from featcache.base.errors import BadInput, StorageError
from featcache.base.files import digest_of_file, make_folder, refuse_full_disk
from featcache.base.jobs import Workers, run_jobs, threads_per_job
from featcache.extraction.pipeline import BuiltShard, build_shards, load_for
from featcache.images.decode import decode_file
from featcache.images.identity import ImageRow
from featcache.images.loading import LoadedImage, Loader
from featcache.recipe import check_same
from featcache.settings import ExtractSettings
from featcache.store.folder import shards_folder, whole_shards
from featcache.store.shards.format import Block, Target
from featcache.store.writer import Committed, commit

OnImage = Callable[[LoadedImage, int], None]  # an image, and how many views of it are to be made
Work = Sequence[tuple[Block, Sequence[str]]]  # blocks, and the names of the images in their rows


@dataclass(frozen=True)
class ExtractionJob:
    """What shards are made from, and where they go: all that a worker needs to know; it can be pickled.

    Before the first shard is written the disk must have room for room_for views like its own; 0 asks for none.
    """

    images: Path
    out: Path
    settings: ExtractSettings
    target: Target
    room_for: int


@dataclass(frozen=True)
class WrittenShard:
    """A shard that is on disk: its block, file name, sha256 and size; absent is (name, reason) of images left out.

    notes are (name, note) of images that it holds. seconds are the busy seconds of each stage, spent by that process of
    that host.
    """

    block: Block
    file: str
    sha256: str
    bytes: int
    absent: tuple[tuple[str, str], ...]
    seconds: dict[str, float]
    host: str
    process: int
    notes: tuple[tuple[str, str], ...] = ()


def run_here(
    work: Work, job: ExtractionJob, backbone: Backbone, on_image: OnImage, *, load: Loader | None = None
) -> Iterator[WrittenShard]:
    """Make shards in this process; one is written while the next is computed.

    on_image is called with each image as its views are about to enter the backbone; load is as `load_ahead` has it.
    """
    rows = _rows(work, job, backbone, on_image, load)
    with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        writing: Future[WrittenShard] | None = None
        for built in build_shards(rows, [block for block, _ in work], backbone, job.target):
            if writing is not None:  # at most one waits, for the sake of memory
                yield writing.result()
            _refuse_small_disk(job, built.block, len(built.data))
            job = replace(job, room_for=0)
            writing = writer.submit(_write, built, job)
        if writing is not None:
            yield writing.result()


def run_on_workers(work: Work, job: ExtractionJob, backbone: Backbone, workers: Workers) -> Iterator[WrittenShard]:
    """Make shards by workers, in any order; what is 'auto' is for each of them what it is for backbone here."""
    asked = job.settings
    settings = replace(
        asked,
        weights=source_of_weights(asked),
        device=backbone.device.type if asked.device == "auto" else asked.device,
        precision=backbone.precision,
        runtime=backbone.execution.runtime,
        batch_size=backbone.batch_size,
    )
    threads = threads_per_job(workers)
    away = replace(job, settings=settings, room_for=0)
    jobs = [ShardJob(away, *item, threads) for item in work]
    with contextlib.closing(run_jobs(_run_shard, jobs, workers)) as finished:
        for number, (_, made) in enumerate(finished):
            if not number:
                _refuse_small_disk(job, made.block, made.bytes, way_out=" (what was made is kept)")
            yield made


@dataclass(frozen=True)
class ShardJob:
    """One shard for a worker to make, with so many threads."""

    job: ExtractionJob
    block: Block
    names: Sequence[str]
    threads: int


def _run_shard(shard_job: ShardJob) -> WrittenShard:
    """Make one shard in a worker process, unless a job that was lost with its answer has made it before."""
    job = shard_job.job
    if not job.images.is_dir():
        raise StorageError(f"{job.images}: not there on {socket.gethostname()}; workers need the images at this path")
    make_folder(shards_folder(job.out))
    before = _written_before(shard_job)
    if before is not None:
        return before
    device = claimed(devices_for(resolve_device(job.settings.device)))
    backbone = _loaded_once(replace(job.settings, device=device), threads=shard_job.threads)
    check_same(
        recipe_of(backbone, job.settings.views, job.target.recipe.encoding, job.target.recipe.calibration),
        job.target.recipe,
        where=f"the worker on {socket.gethostname()}",
        way_out="Give every worker the same weights file, and the same versions of this program's packages.",
    )
    return next(run_here([(shard_job.block, shard_job.names)], job, backbone, lambda image, views: None))


_loaded_once = functools.lru_cache(maxsize=8)(load_backbone)  # by each worker process


def _written_before(shard_job: ShardJob) -> WrittenShard | None:
    """Return the shard of a job if it is there, whole."""
    job = shard_job.job
    for shard, data in whole_shards(job.out, shard_job.block, job.target.recipe):
        same = [image.name for image in shard.images] == list(shard_job.names)
        if same and all(_is_current(image, job.images) for image in shard.images):
            found = Committed(shard.path.name, hashlib.sha256(data).hexdigest())
            paths = {image.name: job.images / image.name for image in shard.images}
            notes = [(name, note) for name, path in paths.items() for note in decode_file(path).notes]
            return _account(shard_job.block, found, len(data), shard.images, {}, notes)
    return None


def _is_current(image: ImageRow, images: Path) -> bool:
    """Whether an image is there with features, and its file is still the one that they were made of."""
    path = images / image.name
    return not image.absent and path.is_file() and digest_of_file(path) == image.sha256


def _rows(
    work: Work, job: ExtractionJob, backbone: Backbone, on_image: OnImage, load: Loader | None
) -> Iterator[LoadedImage]:
    """Yield the loaded image of each row; raise `BadInput` for a bad one if that is to stop the run."""
    wanted = [(name, block.views) for block, names in work for name in names]
    loaded = load_for(backbone, job.images, wanted, job.target.recipe, load=load)
    for image, (_, (start, stop)) in zip(loaded, wanted, strict=True):
        if image.row.absent and job.settings.on_bad_image == "stop":
            path = job.images / image.row.name
            raise BadInput(f"{path}: {image.row.absent}; mend it, or use --on-bad-image skip")
        on_image(image, stop - start)
        yield image


def _refuse_small_disk(job: ExtractionJob, block: Block, size: int, *, way_out: str = "") -> None:
    """Raise `StorageError` if the disk has no room for all that is to come, judged by the first shard's size."""
    if job.room_for and not job.settings.force:
        rows, views = block.shape
        needed = size * job.room_for // (rows * views)
        refuse_full_disk(job.out, needed, way_out=f", or start nevertheless with --force{way_out}")


def _write(built: BuiltShard, job: ExtractionJob) -> WrittenShard:
    with built.times.timed("write"):
        written = commit(job.out, built.block, built.data)
    return _account(built.block, written, len(built.data), built.rows, built.times.seconds, built.notes)


def _account(
    block: Block,
    written: Committed,
    size: int,
    rows: Sequence[ImageRow],
    seconds: dict[str, float],
    notes: Sequence[tuple[str, str]],
) -> WrittenShard:
    return WrittenShard(
        block,
        *written,
        size,
        tuple((image.name, image.absent) for image in rows if image.absent),
        seconds,
        socket.gethostname(),
        os.getpid(),
        tuple(notes),
    )
