"""Views are counted once, bad images are told, timings.csv has a line for each shard; the report as text and JSON."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from featcache.base.errors import StorageError
from featcache.base.progress import Progress, silent
from featcache.extraction.log import ExtractionLog, ExtractReport
from featcache.extraction.plan import Plan
from featcache.extraction.run import WrittenShard
from featcache.extraction.timings import STAGES, StageTimes, bottleneck
from featcache.images.identity import ImageRow
from featcache.images.loading import LoadedImage
from featcache.store.shards.format import Block

REPORT = ExtractReport(
    folder=Path("cache/lamem"),
    fingerprint="0123456789abcdef" * 4,
    images=1234,
    views=3,
    views_computed=2468,
    bytes=7_654_321_000,
    absent=[("a.jpg", "truncated"), ("b.jpg", "unidentified")],
    stale_temporaries=0,
    precision="fp32",
    runtime="torch",
    stages={"decode": 0.25, "backbone": 0.75},
    bottleneck="backbone",
)
COLUMNS = ["shard", "views", "host", "process", *(f"{stage}_seconds" for stage in STAGES)]


def plan_of(*todo: Block, rows: int = 10, views: int = 3) -> Plan:
    """Return a plan of rows x views of which only the blocks are to be computed."""
    return Plan([f"{row}.jpg" for row in range(rows)], views, [], list(todo), [])


def made(rows: tuple[int, int], *, views: int = 3, absent: Sequence[str] = (), **seconds: float) -> WrittenShard:
    """Return what is known of a shard of these rows that is on disk."""
    file = f"{rows[0]:05d}-{'0' * 16}.h5"
    reasons = tuple((name, "torn") for name in absent)
    return WrittenShard(Block(rows, (0, views)), file, "00", 1, reasons, seconds, "host", 77)


def image(*, absent: str = "") -> LoadedImage:
    return LoadedImage(ImageRow("a.jpg", absent=absent), [], np.empty((0, 0, 0, 3), np.uint8))


def lines_of(folder: Path) -> list[list[str]]:
    with (folder / "timings.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# --- timings.csv


def test_a_header_and_a_line_for_each_shard(tmp_path: Path) -> None:
    log = ExtractionLog(tmp_path, plan_of(Block((0, 10), (0, 3))), silent, by_image=False)
    shards = [made((0, 4), backbone=1.23456, decode=0.5), made((4, 10), write=0.0004)]
    assert list(log.noting(iter(shards))) == shards
    assert lines_of(tmp_path) == [
        COLUMNS,
        [shards[0].file, "12", "host", "77", "0.500", "0.000", "1.235", "0.000", "0.000"],
        [shards[1].file, "18", "host", "77", "0.000", "0.000", "0.000", "0.000", "0.000"],
    ]


def test_a_later_run_writes_behind_the_lines_that_are_there(tmp_path: Path) -> None:
    for rows in ((0, 4), (4, 10)):
        log = ExtractionLog(tmp_path, plan_of(Block(rows, (0, 3))), silent, by_image=False)
        list(log.noting(iter([made(rows)])))
    assert [line[:2] for line in lines_of(tmp_path)] == [
        ["shard", "views"],
        ["00000-0000000000000000.h5", "12"],
        ["00004-0000000000000000.h5", "18"],
    ]


def test_a_shard_is_written_down_before_it_is_given_on(tmp_path: Path) -> None:
    log = ExtractionLog(tmp_path, plan_of(Block((0, 10), (0, 3))), silent, by_image=False)
    noted = log.noting(iter([made((0, 4)), made((4, 10))]))
    next(noted)
    assert len(lines_of(tmp_path)) == 2  # of a run that is killed now, the first shard is there
    noted.close()
    assert len(lines_of(tmp_path)) == 2


def test_no_shards_leave_no_file(tmp_path: Path) -> None:
    assert list(ExtractionLog(tmp_path, plan_of(), silent, by_image=True).noting(iter([]))) == []
    assert not list(tmp_path.iterdir())


def test_a_host_with_a_comma_stays_one_column(tmp_path: Path) -> None:
    shard = WrittenShard(Block((0, 1), (0, 1)), "s.h5", "00", 1, (), {}, 'a,"b"', 1)
    list(ExtractionLog(tmp_path, plan_of(), silent, by_image=True).noting(iter([shard])))
    assert lines_of(tmp_path)[1][:4] == ["s.h5", "1", 'a,"b"', "1"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "timings.csv").mkdir()
    log = ExtractionLog(tmp_path, plan_of(), silent, by_image=True)
    with pytest.raises(StorageError, match="timings.csv: "):
        list(log.noting(iter([made((0, 4))])))


def test_an_empty_file_gets_a_header(tmp_path: Path) -> None:
    (tmp_path / "timings.csv").touch()
    list(ExtractionLog(tmp_path, plan_of(), silent, by_image=True).noting(iter([made((0, 4))])))
    assert lines_of(tmp_path)[0] == COLUMNS


# --- progress


def test_views_are_counted_by_images_behind_those_that_are_there(tmp_path: Path) -> None:
    seen: list[Progress] = []
    log = ExtractionLog(tmp_path, plan_of(Block((6, 10), (0, 3))), seen.append, by_image=True)
    for absent in ("", "torn", "", "gone"):
        log.note_image(image(absent=absent), 3)
    list(log.noting(iter([made((6, 10), absent=["7.jpg", "9.jpg"], backbone=3.0, encode=1.0)])))
    assert {(p.stage, p.total, p.unit, p.skipped) for p in seen} == {("extract", 30, "views", 18)}
    assert [(p.done, p.note) for p in seen] == [
        (21, ""),
        (24, "1 bad images"),
        (27, "1 bad images"),
        (30, "2 bad images"),
    ]  # each image once: the shard tells nothing anew


def test_views_are_counted_by_shards_where_images_are_loaded_elsewhere(tmp_path: Path) -> None:
    seen: list[Progress] = []
    log = ExtractionLog(tmp_path, plan_of(Block((0, 4), (0, 3)), Block((4, 10), (1, 3))), seen.append, by_image=False)
    shards = [made((4, 10), views=2, absent=["5.jpg"]), made((0, 4), absent=["0.jpg", "1.jpg"], backbone=3.0, encode=1)]
    list(log.noting(iter(shards)))
    assert [(p.done, p.total, p.skipped, p.note) for p in seen] == [
        (18, 30, 6, "1 bad images"),
        (30, 30, 6, "3 bad images; backbone 75%, encode 25%"),
    ]


def test_the_note_tells_where_the_time_went_so_far(tmp_path: Path) -> None:
    seen: list[Progress] = []
    log = ExtractionLog(tmp_path, plan_of(Block((0, 10), (0, 3))), seen.append, by_image=True)
    shards = iter([made((0, 4), backbone=3.0, encode=1.0), made((4, 8), decode=4.0)])
    noted = log.noting(shards)
    for _ in range(2):
        next(noted)
        log.note_image(image(), 3)
    assert [p.note for p in seen] == ["backbone 75%, encode 25%", "decode 50%, backbone 38%, encode 12%"]
    assert log.times.seconds == {"decode": 4.0, "views": 0.0, "backbone": 3.0, "encode": 1.0, "write": 0.0}


# --- the bottleneck


def backbone(*, threads: int, streams: int, cuts_views: bool = False) -> Any:
    return SimpleNamespace(execution=SimpleNamespace(threads=threads), streams=streams, cuts_views=cuts_views)


@pytest.mark.parametrize("stage", STAGES)
def test_the_only_busy_stage_is_the_bottleneck(stage: str) -> None:
    assert bottleneck(StageTimes({stage: 1.0}), backbone(threads=4, streams=4)) == stage


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        # on 8 cores: 4 threads load, 8 streams compute, 8 threads encode, 1 writes
        ({"decode": 41, "backbone": 80, "encode": 79}, "decode"),
        ({"decode": 39, "backbone": 80, "encode": 79}, "backbone"),
        ({"decode": 39, "backbone": 79, "encode": 80}, "encode"),
        ({"backbone": 80, "write": 11}, "write"),
        ({"backbone": 80, "write": 9}, "backbone"),
        ({"decode": 20, "views": 21, "backbone": 80}, "views"),  # the same threads do both: 41 s in 4
        ({"decode": 21, "views": 20, "backbone": 80}, "decode"),
    ],
)
def test_the_bottleneck_is_the_stage_whose_threads_were_busiest(seconds: dict[str, float], wanted: str) -> None:
    assert bottleneck(StageTimes(seconds), backbone(threads=8, streams=8)) == wanted


def test_beside_a_gpu_all_cores_decode() -> None:
    gpu = backbone(threads=8, streams=2, cuts_views=True)
    assert bottleneck(StageTimes({"decode": 39, "backbone": 10}), gpu) == "backbone"
    assert bottleneck(StageTimes({"decode": 41, "backbone": 10}), gpu) == "decode"


def test_views_cut_on_a_device_are_the_streams_work() -> None:
    gpu = backbone(threads=16, streams=2, cuts_views=True)
    assert bottleneck(StageTimes({"views": 30, "backbone": 10}), gpu) == "views"


# --- the report


def test_a_report_says_what_is_held_and_where_the_time_went() -> None:
    held, time = REPORT.as_text().splitlines()
    assert held == (
        "cache/lamem: 1,234 images x 3 views, 7.65 GB, 2,468 views computed now; fingerprint 0123456789abcdef"
    )
    assert time.startswith("fp32 by torch; busy time: ")
    assert time.endswith("; bottleneck: backbone")
    assert len(replace(REPORT, views_computed=0).as_text().splitlines()) == 1


def test_images_that_were_left_out_are_listed_with_the_way_out() -> None:
    (warning,) = REPORT.warnings()
    assert warning.splitlines() == [
        "2 images were left out:",
        "  a.jpg: truncated",
        "  b.jpg: unidentified",
        "They are listed in cache/lamem/failures.csv; mend them and run the same command again.",
    ]
    absent = json.loads(json.dumps(REPORT.as_json()))["absent"]
    assert absent[0] == {"name": "a.jpg", "reason": "truncated"}


def test_images_found_are_those_extracted_and_those_left_out() -> None:
    assert REPORT.count() == "1,234 images: 1,232 extracted, 2 left out: 1 truncated, 1 unidentified"
    assert replace(REPORT, absent=[]).count() == "1,234 images: 1,234 extracted"


def test_notes_are_told_by_kind_and_are_all_in_the_json() -> None:
    notes = [(f"{k}.gif", "frames: 2 frames, the first is read") for k in range(7)]
    (warning,) = replace(REPORT, absent=[], notes=notes).warnings()
    assert warning.startswith("warning: 7 images with several frames or pages: 0.gif (2 frames, the first is read), ")
    assert " and 4 more. " in warning
    found = json.loads(json.dumps(replace(REPORT, notes=notes).as_json()))["notes"]
    assert found == [{"name": name, "note": note} for name, note in notes]


def test_an_image_in_two_shards_has_its_notes_once(tmp_path: Path) -> None:
    log = ExtractionLog(tmp_path, plan_of(), silent, by_image=False)
    notes = (("b.jpg", "small: 1 x 1 pixels"), ("a.jpg", "small: 2 x 2 pixels"))
    list(log.noting(iter([replace(made((0, 4)), notes=notes), replace(made((0, 4)), notes=notes[:1])])))
    assert log.notes == sorted(notes)


def test_what_a_killed_run_had_left_is_said_before_the_images() -> None:
    stale, absent = replace(REPORT, stale_temporaries=2).warnings()
    assert stale == "removed 2 temporary files of a run that was killed"
    assert absent.startswith("2 images were left out:\n")
    assert replace(REPORT, absent=[]).warnings() == []
