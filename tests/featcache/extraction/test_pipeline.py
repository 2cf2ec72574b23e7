"""A shard is the same bytes whatever it is made beside, and nothing is left running when one cannot be made."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from featcache.backbones.backbone import Backbone
from featcache.backbones.of_recipe import recipe_of
from featcache.base.errors import BadInput
from featcache.extraction import pipeline
from featcache.extraction.pipeline import BuiltShard, build_shards
from featcache.extraction.timings import STAGES
from featcache.images.identity import ImageRow
from featcache.images.loading import LoadedImage, load_ahead
from featcache.images.views import Box, View
from featcache.settings import view_settings_of
from featcache.store.shards.encoding import calibrate, decode, digest_of_constants
from featcache.store.shards.format import Block, Target, codecs_of_version_1
from featcache.store.shards.opening import open_shard
from featcache.store.shards.shard import Shard, StoredRow, opened
from featcache.store.shards.writer import ShardWriter
from tests.helpers.networks import build

SIZE, VIEWS, LAYERS = 32, 3, ("layer2", "layer1")
Rows = list[LoadedImage | StoredRow]
Maps = Callable[[Tensor], dict[str, Tensor]]

pytestmark = pytest.mark.timeout(60)  # a thread that waits for ever fails here


@cache
def backbone(batch_size: int = 4, threads: int = 2) -> Backbone:
    return build("resnet18", *LAYERS, image_size=SIZE, batch_size=batch_size, threads=threads, runtime="torch")


def target_of(made_by: Backbone, recipe: str = "paper") -> Target:
    found = recipe_of(made_by, view_settings_of(recipe, image_size=SIZE))
    return Target(found, codecs_of_version_1(found))


def image(row: int, views: int = VIEWS) -> LoadedImage:
    """Return an image of coarse noise, its views cut."""
    rng = np.random.default_rng(row)
    pixels = np.kron(rng.integers(0, 256, (views, 4, 4, 3), np.uint8), np.ones((1, SIZE // 4, SIZE // 4, 1), np.uint8))
    places = [View(Box(row, view, 50 + row, 60 + view), bool((row + view) % 2)) for view in range(views)]
    return LoadedImage(ImageRow(f"{row}.jpg", f"{row:064d}", 80, 90), places, pixels, [], {"decode": 0.25})


def absent(row: int) -> LoadedImage:
    return LoadedImage(ImageRow(f"{row}.jpg", absent="torn: no"), [], np.empty((0, 0, 0, 3), np.uint8))


def rows_of(blocks: Sequence[Block], *, without: Sequence[int] = ()) -> Rows:
    """Return the loaded images of all rows of blocks, some absent."""
    return [absent(row) if row in without else image(row) for block in blocks for row in range(*block.rows)]


def blocks_of(*sizes: int, views: int = VIEWS) -> list[Block]:
    """Return blocks of so many rows, one behind the other."""
    stops = np.cumsum(sizes).tolist()
    return [Block((stop - size, stop), (0, views)) for size, stop in zip(sizes, stops, strict=True)]


def made(rows: Rows, blocks: Sequence[Block], by: Backbone, target: Target | None = None) -> list[BuiltShard]:
    return list(build_shards(iter(rows), blocks, by, target or target_of(by)))


def alone(rows: Rows, blocks: Sequence[Block], by: Backbone) -> list[bytes]:
    """Return the bytes of each shard made by itself."""
    start, found = 0, []
    for block in blocks:
        (shard,) = made(rows[start : start + block.shape[0]], [block], by)
        start += block.shape[0]
        found.append(shard.data)
    return found


def opened_shard(built: BuiltShard, folder: Path) -> Shard:
    path = folder / f"{built.block.rows[0]:05d}.h5"
    path.write_bytes(built.data)
    return open_shard(path)


def array_in(shard: Shard, array: str, i: int, j: int) -> NDArray[Any]:
    """Return a chunk as any HDF5 program reads it."""
    with h5py.File(shard.path) as file:
        return file[array][i, j]


def threads_left() -> list[str]:
    prefixes = ("backbone", "codec")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(prefixes)]


def files_in_memory() -> int:
    return int(h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Check that a test leaves no thread and no HDF5 file in memory, however it ended."""
    before = files_in_memory()
    yield
    assert threads_left() == []
    assert files_in_memory() == before


# --- the same bytes


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_shards_made_together_are_the_bytes_of_each_made_alone(batch_size: int) -> None:
    blocks = blocks_of(5, 1, 4, 3)
    rows = rows_of(blocks, without=[0, 3, 5, 9, 12])  # the first, the last, and all rows of a shard
    by = backbone(batch_size)
    found = made(rows, blocks, by)
    assert [shard.block for shard in found] == blocks
    assert [shard.data for shard in found] == alone(rows, blocks, by)
    assert [shard.rows for shard in found] == [[row.row for row in rows[slice(*block.rows)]] for block in blocks]


@pytest.mark.parametrize("threads", [1, 3, 5])
def test_the_bytes_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    blocks = blocks_of(5, 4)
    wanted = made(rows_of(blocks), blocks, backbone(threads=2))
    found = made(rows_of(blocks), blocks, backbone(threads=threads))
    assert [shard.data for shard in found] == [shard.data for shard in wanted]


def test_the_bytes_do_not_depend_on_which_batch_is_ready_first(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, by = blocks_of(4, 2, 3), backbone(threads=3)
    wanted = [shard.data for shard in made(rows_of(blocks), blocks, by)]
    maps, compress, delays = by.maps, ShardWriter.encode, iter([0.3, 0, 0.2, 0, 0.1, 0, 0, 0.1, 0])
    delay = iter(np.random.default_rng(0).uniform(0, 0.01, 1000))

    def late(pixels: Tensor) -> dict[str, Tensor]:
        time.sleep(next(delays))
        return maps(pixels)

    def late_too(writer: ShardWriter, array: str, values: NDArray[np.generic]) -> bytes:
        time.sleep(next(delay))
        return compress(writer, array, values)

    monkeypatch.setattr(by, "maps", late)
    monkeypatch.setattr(ShardWriter, "encode", late_too)
    assert [shard.data for shard in made(rows_of(blocks), blocks, by)] == wanted


def test_a_shard_holds_the_backbones_own_features_of_each_view(tmp_path: Path) -> None:
    blocks, by = blocks_of(7, 4), backbone()
    rows = rows_of(blocks, without=[2])
    for built in made(rows, blocks, by):
        shard = opened_shard(built, tmp_path)
        for i, loaded in enumerate(rows[slice(*built.block.rows)]):
            assert isinstance(loaded, LoadedImage)
            assert shard.images[i] == loaded.row
            if loaded.row.absent:
                continue
            assert [View(Box(*box), bool(flip)) for box, flip in zip(shard.box[i], shard.flip[i], strict=True)] == (
                loaded.views
            )
            for layer, features in by(torch.from_numpy(loaded.pixels)).items():
                for j, wanted in enumerate(features):
                    found = array_in(shard, f"features/{layer}", i, j)
                    np.testing.assert_array_equal(found, wanted.half().numpy())
                    pooled = np.stack([found.astype("f8").mean(0), found.astype("f8").std(0)])
                    np.testing.assert_allclose(array_in(shard, f"pooled/{layer}", i, j), pooled, rtol=1e-4, atol=1e-6)


def test_a_shard_outlives_features_that_the_next_batch_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, by = blocks_of(9, 7), backbone()
    wanted = [shard.data for shard in made(rows_of(blocks), blocks, by)]
    maps, own = by.maps, threading.local()

    def overwritten(pixels: Tensor) -> dict[str, Tensor]:
        found = maps(pixels)
        if not hasattr(own, "buffers"):
            own.buffers = {layer: torch.empty_like(values) for layer, values in found.items()}
        return {layer: own.buffers[layer].copy_(values) for layer, values in found.items()}

    monkeypatch.setattr(by, "maps", overwritten)
    assert [shard.data for shard in made(rows_of(blocks), blocks, by)] == wanted


def test_uint8_shards_hold_the_features_to_half_a_step(tmp_path: Path) -> None:
    blocks, by = blocks_of(3), backbone()
    rows = rows_of(blocks)
    features = by(torch.from_numpy(np.concatenate([row.pixels for row in rows if isinstance(row, LoadedImage)])))
    constants = {layer: calibrate([values]) for layer, values in features.items()}
    recipe = replace(target_of(by).recipe, encoding="uint8", calibration=digest_of_constants(constants))
    (built,) = made(rows, blocks, by, Target(recipe, codecs_of_version_1(recipe), constants))
    shard = opened_shard(built, tmp_path)
    for layer, values in features.items():
        for k, wanted in enumerate(values):
            stored = array_in(shard, f"features/{layer}", k // VIEWS, k % VIEWS)
            off = (decode(stored, constants[layer]) - wanted).abs()
            assert bool((off <= 0.501 * torch.from_numpy(constants[layer][0])).all())


@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("copied", [[0], [2, 3], [8], [1, 4, 5, 6], [0, 2, 4, 6, 8]], ids=str)
def test_rows_copied_between_computed_ones_give_the_same_file(
    tmp_path: Path, batch_size: int, copied: list[int]
) -> None:
    (block,), by = blocks_of(9), backbone(batch_size)
    rows = rows_of([block], without=[3, 8])
    (built,) = made(rows, [block], by)
    shard = opened_shard(built, tmp_path)
    with opened(shard) as descriptor:
        mixed = [shard.read_row(descriptor, i) if i in copied else row for i, row in enumerate(rows)]
        blocks = [block, replace(block, views=(0, VIEWS))]
        again = made([*mixed, *mixed], blocks, by)
    assert [one.data for one in again] == [built.data] * 2
    assert again[0].rows == built.rows


def test_a_shard_of_which_nothing_is_computed_is_the_same_file(tmp_path: Path) -> None:
    (block,), by = blocks_of(3), backbone()
    (built,) = made(rows_of([block]), [block], by)
    shard = opened_shard(built, tmp_path)
    with opened(shard) as descriptor:
        (again,) = made([shard.read_row(descriptor, i) for i in range(3)], [block], by)
    assert again.data == built.data


def test_a_shard_of_absent_images_alone_is_a_shard(tmp_path: Path) -> None:
    blocks = blocks_of(2, 2)
    first, second = made(rows_of(blocks, without=[0, 1]), blocks, backbone())
    shard = opened_shard(first, tmp_path)
    assert [row.absent for row in shard.images] == ["torn: no"] * 2
    assert (shard.arrays["features/layer1"].offsets == -1).all()
    assert second.rows[1].name == "3.jpg"


def test_a_shard_whose_last_image_is_bad_and_late_is_a_shard() -> None:
    (block,) = blocks_of(5, views=VIEWS)  # 12 views of 4 images are three whole batches

    def rows() -> Iterator[LoadedImage | StoredRow]:
        yield from rows_of([block])[:4]
        time.sleep(1)  # all that there is to compute is computed
        yield absent(4)

    (built,) = build_shards(rows(), [block], backbone(), target_of(backbone()))
    assert built.rows[4].absent == "torn: no"


def test_views_of_a_later_range_are_bound_to_their_numbers(tmp_path: Path) -> None:
    by, (first,) = backbone(), blocks_of(2)
    later = replace(first, views=(3, 3 + VIEWS))
    a, b = (opened_shard(made(rows_of([first]), [block], by)[0], tmp_path) for block in (first, later))
    assert b.block == later
    assert (a.arrays["features/layer1"].digests != b.arrays["features/layer1"].digests).all()


def test_no_blocks_are_no_shards_and_take_no_row() -> None:
    rows = iter(rows_of(blocks_of(2)))
    assert list(build_shards(rows, [], backbone(), target_of(backbone()))) == []
    assert len(list(rows)) == 2


def test_rows_behind_the_last_block_are_not_taken() -> None:
    rows = iter(rows_of(blocks_of(5)))
    list(build_shards(rows, blocks_of(3), backbone(), target_of(backbone())))
    left = next(rows)
    assert isinstance(left, LoadedImage)
    assert left.row.name == "3.jpg"


def test_the_time_of_each_shard_is_its_own() -> None:
    blocks = blocks_of(4, 2)
    started = time.perf_counter()
    found = made(rows_of(blocks), blocks, backbone())
    elapsed = time.perf_counter() - started
    assert [shard.times.seconds["decode"] for shard in found] == [1.0, 0.5]
    for shard in found:
        seconds = shard.times.seconds
        assert all(seconds[stage] > 0 for stage in STAGES)
        assert seconds["backbone"] < 3 * elapsed


# --- how far ahead


class Counted:
    """Rows that count how many were taken."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.taken = iter(rows), 0

    def __iter__(self) -> "Counted":
        return self

    def __next__(self) -> LoadedImage | StoredRow:
        row = next(self._rows)
        self.taken += 1
        return row


@pytest.mark.parametrize(
    ("batch_size", "views", "threads", "rows_per_shard"),
    [(1, 1, 1, 40), (4, 1, 2, 40), (4, 2, 2, 5), (3, 1, 3, 5)],
)
def test_rows_are_taken_no_more_than_a_few_batches_ahead(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, views: int, threads: int, rows_per_shard: int
) -> None:
    by, go, count = backbone(batch_size, threads), threading.Event(), 40
    rows = Counted([image(row, views) for row in range(count)])
    blocks = blocks_of(*[rows_per_shard] * (count // rows_per_shard), views=views)
    maps = by.maps

    def held(pixels: Tensor) -> dict[str, Tensor]:
        assert go.wait(30)
        return maps(pixels)

    monkeypatch.setattr(by, "maps", held)
    shards: list[BuiltShard] = []
    maker = threading.Thread(target=lambda: shards.extend(build_shards(rows, blocks, by, target_of(by))))
    maker.start()
    try:
        before = -1
        while rows.taken != before:
            before = rows.taken
            time.sleep(0.15)
        batches = by.streams + 2  # computed or queued; one more is being filled
        assert 0 < rows.taken <= (batches + 1) * batch_size // views
        if rows_per_shard == count:
            assert rows.taken == (batches + 1) * batch_size // views
    finally:
        go.set()
        maker.join()
    assert (rows.taken, len(shards)) == (count, len(blocks))


def test_images_that_are_done_with_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most = 0, 0

    class Pixels(np.ndarray[Any, Any]):  # tells when it goes
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def rows() -> Iterator[LoadedImage]:
        nonlocal alive, most
        for row in range(120):
            loaded = image(row, 1)
            alive += 1
            most = max(most, alive)
            yield replace(loaded, pixels=loaded.pixels.copy().view(Pixels))

    by = backbone()
    for _ in build_shards(rows(), blocks_of(60, 60, views=1), by, target_of(by)):
        pass
    assert alive <= 2  # the last ones, held by this frame
    assert most <= (by.streams + 4) * by.batch_size


def test_a_consumer_that_takes_its_time_is_waited_for() -> None:
    rows = Counted(rows_of(blocks_of(*[2] * 20)))
    shards = build_shards(rows, blocks_of(*[2] * 20), backbone(), target_of(backbone()))
    next(shards)
    taken = rows.taken
    time.sleep(0.2)
    assert rows.taken == taken < 40
    shards.close()


# --- what goes wrong


class Lost(Exception):
    """Raised where the machinery must pass it on."""


def failing_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return function, which raises `Lost` from its call number `call` on."""
    count, lock = 0, threading.Lock()

    def checked(*arguments: Any) -> Any:
        nonlocal count
        with lock:
            count += 1
            mine = count
        if mine >= call:
            raise Lost(f"call {call}")
        return function(*arguments)

    return checked


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("call", [1, 2, 5, 9])
def test_an_error_of_the_backbone_ends_the_shards(monkeypatch: pytest.MonkeyPatch, call: int, threads: int) -> None:
    blocks, by = blocks_of(4, 4, 4), backbone(threads=threads)
    monkeypatch.setattr(by, "maps", failing_at(call, by.maps))
    with pytest.raises(Lost, match=f"call {call}"):
        made(rows_of(blocks), blocks, by)
    assert threads_left() == []


@pytest.mark.parametrize("call", [1, 7, 40, 141])
def test_an_error_of_the_codec_ends_the_shards(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    blocks = blocks_of(4, 4, 4)  # 12 rows of 3 views, 4 chunks each
    monkeypatch.setattr(ShardWriter, "encode", failing_at(call, ShardWriter.encode))
    with pytest.raises(Lost, match=f"call {call}"):
        made(rows_of(blocks), blocks, backbone())
    assert threads_left() == []


@pytest.mark.parametrize("before", [0, 1, 5, 11])
def test_an_error_of_the_rows_ends_the_shards(before: int) -> None:
    blocks = blocks_of(4, 4, 4)

    def rows() -> Iterator[LoadedImage | StoredRow]:
        yield from rows_of(blocks)[:before]
        raise Lost("no more")

    with pytest.raises(Lost, match="no more"):
        list(build_shards(rows(), blocks, backbone(), target_of(backbone())))
    assert threads_left() == []


@pytest.mark.parametrize("rows", [0, 3])
def test_too_few_rows_are_an_error_and_no_short_shard(rows: int) -> None:
    blocks = blocks_of(4)
    with pytest.raises(RuntimeError, match="StopIteration"):
        made(rows_of(blocks)[:rows], blocks, backbone())


def test_an_error_while_the_file_is_finished_ends_the_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = ShardWriter.finish

    def fail(writer: ShardWriter) -> bytes:
        finish(writer)
        raise Lost("finish")

    monkeypatch.setattr(ShardWriter, "finish", fail)
    with pytest.raises(Lost, match="finish"):
        made(rows_of(blocks_of(4, 4)), blocks_of(4, 4), backbone())
    assert threads_left() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 65_520.0])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_feature_that_cannot_be_stored_names_its_image_and_view(
    monkeypatch: pytest.MonkeyPatch, layer: str, value: float
) -> None:
    (block,), by = blocks_of(3), backbone(threads=1)
    maps, calls = by.maps, iter(range(10))

    def spoilt(pixels: Tensor) -> dict[str, Tensor]:
        found = {name: values.clone() for name, values in maps(pixels).items()}
        if next(calls) == 1:  # views 4 to 7: view 1 of the second image is the first of them
            found[layer][1, 3, 5] = value
        return found

    monkeypatch.setattr(by, "maps", spoilt)
    message = (
        rf"^1\.jpg, view 12: layer {layer} gave a value that is NaN or that float16 cannot hold .* Nothing of this "
        "shard was kept; use other --weights or another --layer"
    )
    with pytest.raises(BadInput, match=message):
        made(rows_of([block]), [replace(block, views=(10, 10 + VIEWS))], by)


def test_what_lies_behind_the_last_view_of_a_batch_may_be_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,), by = blocks_of(3), backbone(threads=1)  # 9 views, so the last batch has one
    wanted = made(rows_of([block]), [block], by)[0].data
    maps = by.maps

    def spoilt(pixels: Tensor) -> dict[str, Tensor]:
        found = {name: values.clone() for name, values in maps(pixels).items()}
        if not pixels[1:].any():
            for values in found.values():
                values[1:] = torch.nan
        return found

    monkeypatch.setattr(by, "maps", spoilt)
    assert made(rows_of([block]), [block], by)[0].data == wanted


def test_the_shards_before_the_one_that_fails_are_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, by = blocks_of(1, 8, views=4), backbone(threads=2)
    rows: Rows = [image(row, 4) for row in range(9)]
    maps, failed = by.maps, threading.Event()
    first = torch.from_numpy(rows[0].pixels)  # type: ignore[union-attr]

    def late(pixels: Tensor) -> dict[str, Tensor]:
        if not torch.equal(pixels, first):
            failed.set()
            raise Lost("the second shard")
        assert failed.wait(20)
        time.sleep(0.3)
        return maps(pixels)

    monkeypatch.setattr(by, "maps", late)
    found = []
    with pytest.raises(Lost, match="the second shard"):
        for shard in build_shards(iter(rows), blocks, by, target_of(by)):
            found.append(shard.block)
    assert found == blocks[:1]


# --- ended early


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_shards_that_are_closed_leave_no_thread(shards: int) -> None:
    blocks, rows = blocks_of(*[2] * 10), Counted(rows_of(blocks_of(20)))
    before = torch.get_num_threads()
    making = build_shards(rows, blocks, backbone(), target_of(backbone()))
    for _ in range(shards):
        next(making)
    assert bool(threads_left()) == bool(shards)
    making.close()
    assert threads_left() == []
    assert rows.taken < 20
    assert torch.get_num_threads() == before
    assert next(making, None) is None


def test_closing_waits_for_what_is_computed_at_that_moment_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, by = blocks_of(*[4] * 4, views=1), backbone(1)
    maps, calls = by.maps, []

    def slow(pixels: Tensor) -> dict[str, Tensor]:
        calls.append(time.sleep(0.1))
        return maps(pixels)

    monkeypatch.setattr(by, "maps", slow)
    making = build_shards(iter([image(row, 1) for row in range(16)]), blocks, by, target_of(by))
    next(making)
    making.close()
    assert len(calls) <= 4 + by.streams + 2


def test_dropped_shards_leave_no_thread() -> None:
    next(build_shards(iter(rows_of(blocks_of(4, 4))), blocks_of(4, 4), backbone(), target_of(backbone())))
    assert threads_left() == []


def test_the_same_backbone_makes_shards_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, by = blocks_of(4, 2), backbone()
    wanted = [shard.data for shard in made(rows_of(blocks), blocks, by)]
    with monkeypatch.context() as spoilt, pytest.raises(Lost):
        spoilt.setattr(ShardWriter, "encode", failing_at(9, ShardWriter.encode))
        made(rows_of(blocks), blocks, by)
    assert [shard.data for shard in made(rows_of(blocks), blocks, by)] == wanted


def test_two_makers_at_once_do_not_disturb_each_other() -> None:
    blocks, by = blocks_of(4, 3), backbone()
    wanted = [shard.data for shard in made(rows_of(blocks), blocks, by)]
    found = []
    makings = [build_shards(iter(rows_of(blocks)), blocks, by, target_of(by)) for _ in range(2)]
    for pair in zip(*makings, strict=True):
        found += [shard.data for shard in pair]
    assert found == [data for data in wanted for _ in range(2)]


# --- views cut on a device


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of varied sizes; the third is torn."""
    rng = np.random.default_rng(0)
    for row, (width, height) in enumerate([(60, 45), (33, 90), (50, 50), (120, 40), (32, 32)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(tmp_path / f"{row}.png")
    torn = tmp_path / "2.png"
    os.truncate(torn, torn.stat().st_size // 2)
    return tmp_path


@pytest.mark.parametrize("recipe", ["paper", "published"])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("views", [(0, 3), (2, 9)])
def test_views_cut_on_the_device_give_the_same_shards(
    monkeypatch: pytest.MonkeyPatch, folder: Path, batch_size: int, views: tuple[int, int], recipe: str
) -> None:
    by, blocks = backbone(batch_size), [Block((0, 3), views), Block((3, 5), views)]
    target = target_of(by, recipe)

    def built(*, on_device: bool) -> list[BuiltShard]:
        monkeypatch.setattr(Backbone, "cuts_views", property(lambda self: on_device))
        work = [(f"{row}.png", views) for row in range(5)]
        rows = load_ahead(folder, work, target.recipe, cut=not on_device)
        return list(build_shards(rows, blocks, by, target))

    by_pillow, by_device = built(on_device=False), built(on_device=True)
    for a, b in zip(by_pillow, by_device, strict=True):
        first, second = opened_shard(a, folder), opened_shard(b, folder)
        assert a.rows == b.rows
        np.testing.assert_array_equal(first.box, second.box)
        np.testing.assert_array_equal(first.flip, second.flip)
        assert a.data == b.data
    assert [bool(row.absent) for shard in by_device for row in shard.rows] == [False, False, True, False, False]


def test_images_loaded_as_views_are_refused_where_the_device_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backbone, "cuts_views", property(lambda self: True))
    with pytest.raises(ValueError, match="0.jpg: loaded as views"):
        made(rows_of(blocks_of(2)), blocks_of(2), backbone())
    assert threads_left() == []


def test_each_image_goes_to_the_device_once_for_a_batch(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(Backbone, "cuts_views", property(lambda self: True))
    by, shapes, to_device = backbone(16), [], pipeline.to_device

    def noted(values: NDArray[Any], device: torch.device) -> Tensor:
        shapes.append(values.shape)
        return to_device(values, device)

    monkeypatch.setattr(pipeline, "to_device", noted)
    target = target_of(by)
    rows = load_ahead(folder, [(f"{row}.png", (0, 3)) for row in range(5)], target.recipe, cut=False)
    list(build_shards(rows, blocks_of(5), by, target))
    assert shapes == [(45, 60, 3), (90, 33, 3), (40, 120, 3), (32, 32, 3)]


@pytest.mark.parametrize(("views", "expected"), [((0, 3), [(45, 60, 3), (38, 38, 3)]), ((1, 3), [(38, 38, 3)])])
def test_a_squashed_image_goes_to_the_device_in_place_of_the_whole_one(
    monkeypatch: pytest.MonkeyPatch, folder: Path, views: tuple[int, int], expected: list[tuple[int, ...]]
) -> None:
    monkeypatch.setattr(Backbone, "cuts_views", property(lambda self: True))
    by, shapes, to_device = backbone(16), [], pipeline.to_device

    def noted(values: NDArray[Any], device: torch.device) -> Tensor:
        shapes.append(values.shape)
        return to_device(values, device)

    monkeypatch.setattr(pipeline, "to_device", noted)
    target = target_of(by, "published")
    rows = load_ahead(folder, [("0.png", views)], target.recipe, cut=False)
    list(build_shards(rows, [Block((0, 1), views)], by, target))
    assert shapes == expected
