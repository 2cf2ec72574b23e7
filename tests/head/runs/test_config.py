"""A configuration is read by attribute and written as it was read, with what this version does not know."""

import json
from pathlib import Path
from typing import Any

import pytest

from head.runs.config import Source, config_from_json
from head.runs.run import read_run, write_config
from tests.helpers.results import CONFIG, RESULT


def test_a_configuration_is_written_again_as_it_was_read(tiny_runs: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for run in [tiny_runs / "tiny" / "paper" / "split-1", tmp_path / "own"]:
        if not any(run.iterdir()):
            write_config(run, {**CONFIG, "run_format_version": 1, "later": [1], "result": {**RESULT, "more": None}})
        before = (run / "config.json").read_bytes()
        write_config(tmp_path, read_run(run).config.document)
        assert (tmp_path / "config.json").read_bytes() == before


def test_a_result_is_written_again_as_it_was_read() -> None:
    result = {**RESULT, "fitted_views_each": 3, "val_rho": None}
    found = config_from_json({**CONFIG, "result": result}).result
    assert found is not None
    assert found.document == result
    assert json.dumps(found.document) == json.dumps(result)


def test_what_an_older_run_does_not_say_has_one_default() -> None:
    found = config_from_json({**CONFIG, "imported": {}, "result": RESULT})
    assert (found.train_images, found.absent_images, found.products, found.exported) == (None, 0, "fp32", None)
    assert found.imported == Source(file="", sha256=None, steps=None)
    assert config_from_json(CONFIG).result is None


def test_a_key_that_is_called_as_a_field_of_ours_is_only_kept() -> None:
    document = {**CONFIG, "document": 1, "result": {**RESULT, "document": 2}}
    found = config_from_json(document)
    assert found.document == document
    assert found.result is not None
    assert found.result.document["document"] == 2


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"imported": []}, "what it was imported from is not an object"),
        ({"result": None}, "its result is not an object"),
        ({"result": {"best_epoch": 1}}, "lacks head_sha256, lowest_mse_epoch"),
        ({"imported": {}}, "lacks result"),
        ({"result": {**RESULT, "score_range": [0.5]}}, r"score_range must be two numbers, found \[0.5\]"),
        ({"result": {**RESULT, "score_range": ["a", 1]}}, "score_range must be two numbers"),
        ({"member_weights": ["votes"]}, r"member_weights must be some of none, n, se, found \['votes'\]"),
        ({"member_weights": 3}, "member_weights must be some of none, n, se, found 3"),
        ({"batch_size": 0}, "batch_size must be 1 to 4096, found 0"),
    ],
)
def test_what_a_configuration_cannot_say_is_refused(facts: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        config_from_json({**CONFIG, **facts})
