"""All runs of a cache are scored, written and compared; what fails is said, and costs the others nothing."""

import json
import shutil
from pathlib import Path

import pytest

from featcache.base.errors import InvalidSettings, StorageError
from featcache.store.cache import FeatureCache, open_cache
from head.evaluation.evaluate import evaluate


@pytest.fixture
def cache(tiny_cache: Path) -> FeatureCache:
    return open_cache(tiny_cache)


@pytest.fixture
def runs(tiny_runs: Path, tmp_path: Path) -> Path:
    """A copy of tiny/paper/split-1, tiny/paper/split-2 and tiny/plain/split-1."""
    shutil.copytree(tiny_runs, tmp_path / "runs", ignore=shutil.ignore_patterns("scores*", "predictions*"))
    return tmp_path / "runs" / "tiny"


def written(runs: Path) -> list[str]:
    return sorted(path.parent.relative_to(runs).as_posix() for path in runs.rglob("scores.json"))


def test_runs_are_scored_written_and_compared(cache: FeatureCache, runs: Path) -> None:
    found = evaluate(cache, runs.parent, against="plain")
    assert [(row.name, row.splits) for row in sorted(found.summaries, key=lambda row: row.name)] == [
        ("paper", ("1", "2")),
        ("plain", ("1",)),
    ]
    assert [(one.name, one.against, one.splits) for one in found.comparisons] == [("paper", "plain", 1)]
    assert written(runs) == ["paper/split-1", "paper/split-2", "plain/split-1"]
    assert (found.errors, found.warnings()) == ([], [f"warning: {mark}" for mark in found.marks()])
    document = found.as_json()
    assert document["runs"][0] == json.loads((runs / "paper" / "split-1" / "scores.json").read_text())
    assert [len(document[key]) for key in ("runs", "summary", "comparisons", "problems")] == [3, 2, 1, 0]


def test_a_wrong_name_to_compare_with_is_refused_before_anything_is_scored(cache: FeatureCache, runs: Path) -> None:
    with pytest.raises(InvalidSettings, match="--against papersteps=99: no such row; there are paper, plain"):
        evaluate(cache, runs.parent, against="papersteps=99")
    assert written(runs) == []


def test_scores_are_written_even_if_the_row_to_compare_with_cannot_be_scored(cache: FeatureCache, runs: Path) -> None:
    (runs / "plain" / "split-1" / "head.safetensors").write_bytes(b"")
    found = evaluate(cache, runs.parent, against="plain")
    assert written(runs) == ["paper/split-1", "paper/split-2"]
    damaged, missing = map(str, found.errors)
    assert "plain/split-1/head.safetensors: missing or damaged" in damaged
    assert missing == "--against plain: no such row; there are paper"
    assert found.comparisons == []


def test_an_unfinished_run_is_left_out_and_named(cache: FeatureCache, runs: Path) -> None:
    path = runs / "paper" / "split-2" / "config.json"
    config = json.loads(path.read_text())
    del config["result"]
    path.write_text(json.dumps(config))
    found = evaluate(cache, runs.parent)
    assert written(runs) == ["paper/split-1", "plain/split-1"]
    assert found.warnings() == [
        f"{path.parent}: not finished, left out; run the same train-head command again",
        *(f"warning: {mark}" for mark in found.marks()),
    ]


def test_a_run_whose_folder_takes_no_scores_is_scored_all_the_same_and_said(cache: FeatureCache, runs: Path) -> None:
    (runs / "plain" / "split-1" / "scores.json").mkdir()
    found = evaluate(cache, runs.parent)
    assert [result.run.name for result in found.scored] == ["paper", "paper", "plain"]
    (error,) = found.errors
    assert isinstance(error, StorageError)
    assert "plain/split-1/scores.json" in str(error)


def test_a_head_without_its_configuration_is_an_error_and_not_left_out_in_silence(
    cache: FeatureCache, runs: Path
) -> None:
    (runs / "plain" / "split-1" / "config.json").unlink()
    found = evaluate(cache, runs.parent)
    assert [result.run.name for result in found.scored] == ["paper", "paper"]
    (error,) = map(str, found.errors)
    assert error.endswith("plain/split-1: holds a head, but lacks config.json; train or import it again there")
