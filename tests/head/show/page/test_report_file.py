"""The report as a file: what it holds, what it refuses, and the maps that lie beside it."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache.store.cache import FeatureCache
from head.evaluation.evaluate import Evaluation
from head.runs.head_file import load_head
from head.show.page import report
from head.show.page.document import json_block, policy_of
from tests.helpers.command_line import amnet
from tests.helpers.hostile import MARKUP


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a page's figures out, which take longer to draw than all the rest."""
    monkeypatch.setattr(report, "_figures", lambda cache, evaluation, told: {"drawings": [], "left_out": []})


def test_the_same_files_give_the_same_bytes(cache: FeatureCache, runs: Path, tmp_path: Path) -> None:
    written = tmp_path / "deep" / "report.html"
    amnet("report", "--cache", cache.path, "--runs", runs, "--head", "paper", "--out", written)
    again = tmp_path / "again.html"
    done = amnet("report", "--cache", cache.path, "--runs", runs, "--head", "paper", "--out", again, "--json")
    assert again.read_bytes() == written.read_bytes()
    assert json.loads(done.stdout) == {
        "path": str(again),
        "bytes": again.stat().st_size,
        "head": "paper",
        "images": len({name for split in "12" for name in names_in(cache, split)}),
        "without_picture": 0,
        "maps": [],
    }


def test_a_page_is_no_larger_than_allowed_with_smaller_pictures(
    cache: FeatureCache, evaluation: Evaluation, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = len(report.page_text(report.build_report(cache, evaluation, report.ReportSettings())))
    monkeypatch.setattr(report, "_PAGE_ITSELF", 60_000)
    monkeypatch.setattr(report, "LARGEST_PAGE", whole - 5_000)
    page = report.page_text(report.build_report(cache, evaluation, report.ReportSettings()))
    assert whole // 2 < len(page) <= whole - 5_000
    assert page.count('"problem":""') == len({*names_in(cache, "1"), *names_in(cache, "2")})


def names_in(cache: FeatureCache, split: str) -> list[str]:
    return [cache.images[row].name for row in cache.splits[split]["test"].rows]


def test_a_moved_dataset_is_found_by_its_root(
    cache: FeatureCache, runs: Path, tiny_dataset: Path, tmp_path: Path, no_figures: None
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tiny_dataset, moved)
    name = names_in(cache, "1")[0]
    (moved / "images" / name).unlink()
    arguments = ["report", "--cache", cache.path, "--runs", runs, "--split", "1", "--root", moved]
    done = amnet(*arguments, "--out", tmp_path / "page.html", "--json")
    assert json.loads(done.stdout)["without_picture"] == 1
    assert f"{name}: unreadable: No such file or directory" in done.stderr


def test_what_names_nothing_is_refused_before_anything_is_scored(
    cache: FeatureCache, tiny_runs: Path, tmp_path: Path
) -> None:
    runs = Path(shutil.copytree(tiny_runs, tmp_path / "runs"))
    arguments = ["report", "--cache", cache.path, "--runs", runs, "--out", tmp_path / "page.html"]
    for options, message in (
        (["--root", tmp_path], "images is no folder; name the one that the dataset is in"),
        (["--head", "ridge"], "--head ridge: no such row; name one of paper, plain"),
        (["--against", "ridge"], "--against ridge: no such row"),
        (["--images", "0"], "--images must be 1 to 10,000, found 0"),
        (["--split", "9"], "no finished run of split 9"),
    ):
        assert message in amnet(*arguments, *options, status=2).stderr
    assert not list(runs.rglob("scores*.json"))
    assert not (tmp_path / "page.html").exists()


def test_a_run_that_cannot_be_scored_is_told_and_the_page_has_the_others(
    cache: FeatureCache, tiny_runs: Path, tmp_path: Path
) -> None:
    runs = Path(shutil.copytree(tiny_runs, tmp_path / "runs"))
    (runs / "tiny" / "plain" / "split-1" / "head.safetensors").write_bytes(b"damaged")
    page = tmp_path / "page.html"
    done = amnet("report", "--cache", cache.path, "--runs", runs, "--out", page, status=5)
    assert "missing or damaged" in done.stderr
    assert "missing or damaged" in page.read_text()
    assert str(tmp_path) not in page.read_text()  # a page is passed on
    assert str(cache.path.parent) not in page.read_text()
    shutil.rmtree(runs / "tiny" / "paper")
    page.unlink()
    amnet("report", "--cache", cache.path, "--runs", runs, "--out", page, status=5)
    assert not page.exists()


def test_json_in_a_page_cannot_end_its_element() -> None:
    value = {"name": list(MARKUP), "&": "<!--"}
    block = json_block(value)
    assert json.loads(block) == value
    assert not set(block) & {"<", ">", "&", "\u2028"}
    assert block.isascii()


def test_the_policy_lets_nothing_be_fetched_but_by_explore() -> None:
    assert "connect-src 'none'" in policy_of("", "", live=False)
    assert "connect-src 'self'" in policy_of("", "", live=True)
    assert "default-src 'none'" in policy_of("", "", live=False)
    assert "unsafe" not in policy_of("", "", live=False).partition("script-src")[2].partition(";")[0]


def test_raw_maps_of_the_shown_row_lie_beside_the_page(
    cache: FeatureCache, runs: Path, evaluation: Evaluation, tmp_path: Path, no_figures: None
) -> None:
    given = ("report", "--cache", cache.path, "--runs", runs, "--out", tmp_path / "page.html")
    done = amnet(*given, "--head", "paper", "--maps", tmp_path / "maps")
    assert done.stdout.splitlines()[1:] == [str(tmp_path / "maps" / f"split-{split}.npy") for split in "12"]
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "split-1.csv", "split-1.npy", "split-2.csv", "split-2.npy"]  # fmt: skip
    rows = {image.name: row for row, image in enumerate(cache.images)}
    for scored in next(row for row in evaluation.summaries if row.name == "paper").scored:
        maps = np.load(tmp_path / "maps" / f"split-{scored.run.split}.npy")
        lines = list(csv.DictReader(io.StringIO((tmp_path / "maps" / f"split-{scored.run.split}.csv").read_text())))
        assert [line["name"] for line in lines] == scored.names
        features = scored.run.input.read(cache, np.array([rows[line["name"]] for line in lines]), 0)
        _, steps, wanted = load_head(scored.run).predict(features)
        np.testing.assert_array_equal(maps, wanted.numpy().reshape(len(lines), 3, 4, 4))
        assert maps.dtype == np.float32
        np.testing.assert_allclose([float(line["m_2"]) for line in lines], steps[:, 1], atol=1e-6)


def test_raw_maps_of_a_head_without_attention_are_of_occlusion(
    cache: FeatureCache, runs: Path, tmp_path: Path, no_figures: None
) -> None:
    given = ("report", "--cache", cache.path, "--runs", runs, "--out", tmp_path / "page.html")
    amnet(*given, "--head", "plain", "--maps", tmp_path / "maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["split-1.csv", "split-1.occlusion.npy"]
    assert np.load(tmp_path / "maps" / "split-1.occlusion.npy").shape == (11, 1, 4, 4)


def test_raw_maps_of_a_head_on_vectors_are_refused(
    cache: FeatureCache, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "occludes", lambda run: False)
    given = ("report", "--cache", cache.path, "--runs", runs, "--out", tmp_path / "page.html")
    refused = amnet(*given, "--head", "plain", "--maps", tmp_path / "maps", status=2)
    assert "--maps: plain has no attention, nor features with places; leave --maps out" in refused.stderr
    plain = shutil.copytree(runs / "tiny" / "plain", tmp_path / "runs" / "plain")
    given = ("report", "--cache", cache.path, "--runs", plain, "--out", tmp_path / "new" / "page.html")
    assert "--maps: no head here has attention" in amnet(*given, "--maps", tmp_path / "maps", status=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_head_that_gives_no_number_is_shown_without(
    cache: FeatureCache, evaluation: Evaluation, tmp_path: Path
) -> None:
    paper = next(number for number, row in enumerate(evaluation.summaries) if row.name == "paper")
    broken = [replace(one, prediction=one.prediction * np.nan, step_scores=one.step_scores * np.nan)
              for one in evaluation.summaries[paper].scored]  # fmt: skip
    summaries = [replace(row, scored=tuple(broken)) if row.name == "paper" else row for row in evaluation.summaries]
    made = report.build_report(cache, replace(evaluation, summaries=summaries), report.ReportSettings(head="paper"))
    report.write_report(tmp_path / "page.html", made)
    assert all(entry["predictions"][paper] is None for entry in made.data["gallery"]["entries"])


def test_a_page_that_is_larger_than_allowed_is_told(
    cache: FeatureCache, evaluation: Evaluation, tmp_path: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LARGEST_PAGE", 1000)
    made = report.build_report(cache, evaluation, report.ReportSettings())
    written = report.write_report(tmp_path / "page.html", made)
    assert "MB, which opens slowly; --images takes fewer" in written.warnings()[0]
