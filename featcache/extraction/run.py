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
from featcache.backbones.of_recipe import recipe_of
from featcache.backbones.weights import source_of_weights
from featcache.base.devices import claimed, devices_for, resolve_device
from featcache.base.errors import BadInput, StorageError
from featcache.base.files import digest_of_file, make_folder, refuse_full_disk
from featcache.base.jobs import Workers, run_jobs, threads_per_job
from featcache.extraction.pipeline import BuiltShard, build_shards, load_for
from featcache.extraction.plan import Plan
from featcache.images.identity import ImageRow
from featcache.images.loading import LoadedImage
from featcache.recipe import check_same
from featcache.settings import ExtractSettings
from featcache.store.folder import shards_folder, whole_shards
from featcache.store.shards.format import Block, Target
from featcache.store.writer import Committed, commit

OnImage = Callable[[LoadedImage, int], None]  # an image, and how many views of it are to be made
Work = Sequence[tuple[Block, Sequence[str]]]  # blocks, and the names of the images in their rows


@dataclass(frozen=True)
class Order:
    """What shards are made from, and where they go: all that a worker needs to know; it can be pickled.

    Before the first shard is written the disk must have room for room_for views like its own; 0 asks for none.
    """

    images: Path
    out: Path
    settings: ExtractSettings
    target: Target
    room_for: int


@dataclass(frozen=True)
class MadeShard:
    """A shard that is on disk: its block, file name, sha256 and size; absent is (name, reason) of images left out.

    seconds are the busy seconds of each stage, spent by that process of that host.
    """

    block: Block
    file: str
    sha256: str
    bytes: int
    absent: tuple[tuple[str, str], ...]
    seconds: dict[str, float]
    host: str
    process: int


def work_of(plan: Plan) -> Work:
    """Return what is to be done."""
    return [(block, tuple(plan.names[slice(*block.rows)])) for block in plan.todo]


def make_here(work: Work, order: Order, backbone: Backbone, on_image: OnImage) -> Iterator[MadeShard]:
    """Make shards in this process; one is written while the next is computed.

    on_image is called with each image as its views are about to enter the backbone.
    """
    rows = _rows(work, order, backbone, on_image)
    with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        writing: Future[MadeShard] | None = None
        for built in build_shards(rows, [block for block, _ in work], backbone, order.target):
            if writing is not None:  # at most one waits, for the sake of memory
                yield writing.result()
            _refuse_small_disk(order, built.block, len(built.data))
            order = replace(order, room_for=0)
            writing = writer.submit(_write, built, order)
        if writing is not None:
            yield writing.result()


def make_with_workers(work: Work, order: Order, backbone: Backbone, workers: Workers) -> Iterator[MadeShard]:
    """Make shards by workers, in any order; what is 'auto' is for each of them what it is for backbone here."""
    asked = order.settings
    settings = replace(
        asked,
        weights=source_of_weights(asked),
        device=backbone.device.type if asked.device == "auto" else asked.device,
        precision=backbone.precision,
        runtime=backbone.execution.runtime,
    )
    threads = threads_per_job(workers)
    away = replace(order, settings=settings, room_for=0)
    tasks = [_Task(away, *item, threads) for item in work]
    with contextlib.closing(run_jobs(_make_one, tasks, workers)) as finished:
        for number, (_, made) in enumerate(finished):
            if not number:
                _refuse_small_disk(order, made.block, made.bytes, way_out=" (what was made is kept)")
            yield made


@dataclass(frozen=True)
class _Task:
    """One shard for a worker to make, with so many threads."""

    order: Order
    block: Block
    names: Sequence[str]
    threads: int


def _make_one(task: _Task) -> MadeShard:
    """Make one shard in a worker process, unless a task that was lost with its answer has made it before."""
    order = task.order
    if not order.images.is_dir():
        raise StorageError(f"{order.images}: not there on {socket.gethostname()}; workers need the images at this path")
    make_folder(shards_folder(order.out))
    before = _made_before(task)
    if before is not None:
        return before
    device = claimed(devices_for(resolve_device(order.settings.device)))
    backbone = _backbone(replace(order.settings, device=device), task.threads)
    check_same(
        recipe_of(backbone, order.settings.views, order.target.recipe.encoding, order.target.recipe.calibration),
        order.target.recipe,
        where=f"the worker on {socket.gethostname()}",
        way_out="Give every worker the same weights file, and the same versions of this program's packages.",
    )
    return next(make_here([(task.block, task.names)], order, backbone, lambda image, views: None))


@functools.lru_cache(maxsize=8)
def _backbone(settings: ExtractSettings, threads: int) -> Backbone:
    """Return the backbone of this worker process, loaded once."""
    return load_backbone(settings, threads=threads)


def _made_before(task: _Task) -> MadeShard | None:
    """Return the task's shard if it is there, whole."""
    order = task.order
    for shard, data in whole_shards(order.out, task.block, order.target.recipe):
        same = [image.name for image in shard.images] == list(task.names)
        if same and all(_is_current(image, order.images) for image in shard.images):
            found = Committed(shard.path.name, hashlib.sha256(data).hexdigest())
            return _account(task.block, found, len(data), shard.images, {})
    return None


def _is_current(image: ImageRow, images: Path) -> bool:
    """Whether an image is there with features, and its file is still the one that they were made of."""
    path = images / image.name
    return not image.absent and path.is_file() and digest_of_file(path) == image.sha256


def _rows(work: Work, order: Order, backbone: Backbone, on_image: OnImage) -> Iterator[LoadedImage]:
    """Yield the loaded image of each row; raise `BadInput` for a bad one if that is to stop the run."""
    wanted = [(name, block.views) for block, names in work for name in names]
    loaded = load_for(backbone, order.images, wanted, order.target.recipe)
    for image, (_, (start, stop)) in zip(loaded, wanted, strict=True):
        if image.row.absent and order.settings.on_bad_image == "stop":
            path = order.images / image.row.name
            raise BadInput(f"{path}: {image.row.absent}; mend it, or use --on-bad-image skip")
        on_image(image, stop - start)
        yield image


def _refuse_small_disk(order: Order, block: Block, size: int, *, way_out: str = "") -> None:
    """Raise `StorageError` if the disk has no room for all that is to come, judged by the first shard's size."""
    if order.room_for and not order.settings.force:
        rows, views = block.shape
        needed = size * order.room_for // (rows * views)
        refuse_full_disk(order.out, needed, way_out=f", or start nevertheless with --force{way_out}")


def _write(built: BuiltShard, order: Order) -> MadeShard:
    """Write a shard."""
    with built.times.timed("write"):
        written = commit(order.out, built.block, built.data)
    return _account(built.block, written, len(built.data), built.rows, built.times.seconds)


def _account(
    block: Block, written: Committed, size: int, rows: Sequence[ImageRow], seconds: dict[str, float]
) -> MadeShard:
    return MadeShard(
        block,
        *written,
        size,
        tuple((image.name, image.absent) for image in rows if image.absent),
        seconds,
        socket.gethostname(),
        os.getpid(),
    )
