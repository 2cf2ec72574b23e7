"""What an extraction came to, as text and as JSON."""

import json
from dataclasses import replace
from pathlib import Path

from featcache.extraction.report import ExtractReport

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


def test_what_a_killed_run_had_left_is_said_before_the_images() -> None:
    stale, absent = replace(REPORT, stale_temporaries=2).warnings()
    assert stale == "removed 2 temporary files of a run that was killed"
    assert absent.startswith("2 images were left out:\n")
    assert replace(REPORT, absent=[]).warnings() == []
