"""Heads of several ratings of the same images: each target has runs, tables and pages of its own."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from featcache.datasets.splits import Part
from featcache.store.cache import open_cache
from featcache.store.manifest import read_manifest, write_manifest
from head.evaluation.evaluate import evaluate
from head.runs.find import find_runs_of
from head.runs.run import read_run
from tests.helpers.command_line import amnet


@pytest.fixture
def two(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny cache in cache/two of this folder, with two ratings: beauty, and its opposite."""
    shutil.copytree(tiny_cache, tmp_path / "cache" / "two")
    manifest = read_manifest(tiny_cache)
    opposite = {
        split: {part: Part(found.rows, 1 - found.scores) for part, found in parts.items()}
        for split, parts in manifest.ratings[""].items()
    }
    write_manifest(
        tmp_path / "cache" / "two", replace(manifest, ratings={"beauty": manifest.ratings[""], "opposite": opposite})
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_target_has_runs_and_a_table_of_its_own(two: Path) -> None:
    trained = json.loads(amnet("train-head", "--split", "all", "--head", "ridge", "--json").stdout)
    assert [run["run"] for run in trained] == [
        f"runs/two/{target}/ridge/split-{split}" for target in ("beauty", "opposite") for split in "12"
    ]
    assert [read_run(run["run"]).config.target for run in trained] == ["beauty", "beauty", "opposite", "opposite"]
    table = amnet("score-cache").stdout
    beauty, opposite = table.split("\n\ntarget opposite\n")
    assert beauty.startswith("target beauty\n")
    assert [line.split()[:2] for line in opposite.splitlines()[1:3]] == [["ridge", "1"], ["ridge", "2"]]
    scored = json.loads(amnet("score-cache", "--json").stdout)["targets"]
    assert {target: [run["target"] for run in found["runs"]] for target, found in scored.items()} == {
        "beauty": ["beauty", "beauty"], "opposite": ["opposite", "opposite"],
    }  # fmt: skip
    rho = {target: [run["rho"] for run in found["runs"]] for target, found in scored.items()}
    assert rho["beauty"] == pytest.approx(rho["opposite"], abs=1e-6)  # ridge is as good at the opposite
    one = json.loads(amnet("score-cache", "--target", "opposite", "--json").stdout)
    assert one["runs"] == scored["opposite"]["runs"]


def test_runs_of_another_target_are_never_scored(two: Path) -> None:
    amnet("train-head", "--split", "1", "--head", "ridge", "--target", "beauty")
    amnet("train-head", "--split", "2", "--head", "ridge", "--target", "opposite")
    cache = open_cache("cache/two")
    for target, split in (("beauty", "1"), ("opposite", "2")):
        found = evaluate(cache.of_target(target), Path("runs"))
        assert [(one.run.config.target, one.run.split) for one in found.scored] == [(target, split)]
    shutil.move("runs/two/opposite", "runs/two/beauty/other")
    assert [run.split for run in find_runs_of(cache.of_target("beauty"), Path("runs")).runs] == ["1"]


def test_a_target_without_runs_is_told_and_others_are_scored(two: Path) -> None:
    amnet("train-head", "--split", "1", "--head", "ridge", "--target", "beauty")
    result = amnet("score-cache", status=2)
    assert result.stdout.startswith("target beauty\n")
    assert "no finished run of any split on two" in result.stderr


def test_a_target_that_cannot_be_trained_is_named_with_the_way_to_the_others(two: Path) -> None:
    manifest = read_manifest(Path("cache/two"))
    del manifest.ratings["opposite"]["2"]["train"]
    write_manifest(Path("cache/two"), manifest)
    said = amnet("train-head", "--split", "all", "--head", "ridge", status=3).stderr
    assert "target opposite: split 2 has no train part; train others with --target" in said
    amnet("train-head", "--split", "all", "--head", "ridge", "--target", "beauty")


def test_a_page_and_figures_are_of_one_target(two: Path) -> None:
    amnet("train-head", "--split", "1", "--head", "ridge")
    for command in (["report"], ["figures"]):
        assert "choose one of beauty, opposite (--target)" in amnet(*command, status=2).stderr
    amnet("report", "--target", "opposite")
    assert '"name":"two, opposite"' in Path("report.html").read_text().replace('": ', '":')


def test_an_export_says_which_of_several_ratings_it_predicts(two: Path) -> None:
    amnet("train-head", "--split", "1", "--head", "ridge", "--target", "opposite")
    run = read_run("runs/two/opposite/ridge/split-1")
    assert run.data_name == "two, opposite"
    amnet("export-head", "--head", run.folder, "--out", "exported", "--no-model")
    assert "ridge, trained on two, opposite, split 1" in Path("exported/README.md").read_text()
