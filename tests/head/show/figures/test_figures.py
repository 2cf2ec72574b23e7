"""The list of figures, their files, and the command."""

import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from featcache.base.errors import StorageError
from head.evaluation.evaluate import Evaluation
from head.show.figures.figures import Drawing, draw_all, save, svg_of
from head.show.style import as_png, styled
from tests.helpers.command_line import amnet, told
from tests.helpers.predictions import cache_of, evaluated, predicted, random_steps
from tests.helpers.processes import run_forked

TRUTH, STEPS = random_steps(41, 3)
ALL = [
    "comparison", "differences", "training-curves", "predicted-against-true", "score-histograms", "residuals",
    "step-gradients",
]  # fmt: skip


def names(drawings: list[Drawing]) -> list[str]:
    return [drawing.name for drawing in drawings]


def two_heads(home: Path) -> Evaluation:
    """Return the scores of a head on two splits and of a baseline on one."""
    return evaluated(
        predicted("paper", "1", TRUTH, STEPS, home=home),
        predicted("paper", "2", TRUTH[::-1], STEPS[::-1], home=home),
        predicted("ridge", "1", TRUTH, STEPS.sum(axis=1, keepdims=True), home=home, head="ridge"),
    )


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return two_heads(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def drawings(evaluation: Evaluation) -> list[Drawing]:
    """The figures of `evaluation`."""
    return draw_all(cache_of(), evaluation).drawings


@pytest.fixture(scope="module")
def svgs(drawings: list[Drawing]) -> list[str]:
    return [svg_of(one) for one in drawings]


@pytest.fixture
def no_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only those figures be drawn in which all heads are side by side."""
    monkeypatch.setattr("head.show.figures.figures._FAMILIES", ())


def test_every_figure_is_drawn_with_a_caption_and_the_size_that_it_says(
    drawings: list[Drawing], svgs: list[str]
) -> None:
    assert names(drawings) == ALL
    for one, svg in zip(drawings, svgs, strict=True):
        assert one.caption.endswith(".")
        assert len(one.caption) < 600
        assert re.search(r"[Ss]plits? 1|by split", one.caption), one.caption
        width, height = Image.open(io.BytesIO(as_png(one.figure, dpi=60))).size
        assert (width, height) == tuple(int(60 * inches) for inches in one.figure.get_size_inches())
        assert ElementTree.fromstring(svg).get("aria-label") == one.title


def test_the_same_results_give_the_same_bytes(tmp_path: Path, svgs: list[str]) -> None:
    assert [svg_of(one) for one in draw_all(cache_of(), two_heads(tmp_path)).drawings] == svgs


def test_text_stays_on_the_page(evaluation: Evaluation, drawings: list[Drawing], no_panels: None) -> None:
    for one in [*drawings, *draw_all(cache_of("lamem"), evaluation).drawings]:
        with styled():
            box, (width, height) = one.figure.get_tightbbox(), one.figure.get_size_inches()
        assert 0 <= box.x0 < box.x1 <= width, one.name
        assert 0 <= box.y0 < box.y1 <= height, one.name


def test_heads_that_cannot_be_in_a_figure_are_named_with_the_reason(tmp_path: Path) -> None:
    ridge = predicted("ridge", "1", TRUTH, STEPS[:, :1], home=tmp_path, head="ridge")
    found = draw_all(cache_of(), evaluated(ridge))
    assert names(found.drawings) == ["comparison", "predicted-against-true", "score-histograms", "residuals"]
    assert found.left_out == [
        "differences: there is one head alone",
        "training-curves: without ridge: fitted in one go, without epochs",
        "step-gradients: without ridge: looks once, so nothing changes over steps",
    ]


def test_the_first_heads_are_drawn_and_the_caption_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("head.show.figures.figures.MOST_HEADS", 1)
    results = [predicted(f"head{k}", "1", TRUTH, STEPS, home=tmp_path, lr=k / 10) for k in range(1, 4)]
    drawings = {one.name: one for one in draw_all(cache_of(), evaluated(*results)).drawings}
    for name in ALL[2:]:
        assert drawings[name].caption.endswith("The first 1 of 3 heads by validation rho."), name
    assert len(drawings["residuals"].figure.axes) == 1
    assert "first" not in drawings["comparison"].caption


def test_results_that_say_little_are_drawn_all_the_same() -> None:
    cases: dict[str, tuple[Any, Any]] = {
        "one-image": ([0.5], [[0.1, 0.2]]),
        "constant": ([0.2, 0.4, 0.9], [[0.1, 0.1, 0.1]] * 3),
        "constant-truth": ([0.5, 0.5, 0.5], [[0.1], [0.2], [0.3]]),
        "some-NaN": ([0.2, 0.4, 0.9], [[0.1, 0.1], [np.nan, 0.1], [np.inf, 0.3]]),
        "nearly-constant": (TRUTH, np.full((41, 2), 0.5) + np.linspace(0, 1e-16, 41)[:, None]),
        "huge": (TRUTH, 1e9 * STEPS),
    }
    with np.errstate(invalid="ignore"):  # of the metrics
        results = [predicted(name, "1", *case, lr=k / 10) for k, (name, case) in enumerate(cases.items(), start=1)]
    drawings = draw_all(cache_of(), evaluated(*results)).drawings
    panels = {one.name: len(one.figure.axes) for one in drawings}
    assert panels == {
        "comparison": 2, "differences": 1, "predicted-against-true": 6, "score-histograms": 6, "residuals": 6,
        "step-gradients": 10,
    }  # fmt: skip
    for one in drawings:
        ElementTree.fromstring(svg_of(one))


def test_a_single_image_and_step_are_drawn_alone() -> None:
    found = draw_all(cache_of(), evaluated(predicted("one", "1", [0.5], [[0.3]])))
    assert names(found.drawings) == ["comparison", "predicted-against-true", "score-histograms", "residuals"]


def test_a_head_without_a_finite_prediction_is_compared_and_no_more(tmp_path: Path) -> None:
    with np.errstate(invalid="ignore"):
        broken = predicted("broken", "1", [0.2, 0.4, 0.9], [[np.nan, 0.1]] * 3, home=tmp_path, lr=0.5)
    found = draw_all(cache_of(), evaluated(broken))
    assert names(found.drawings) == ["comparison", "training-curves"]
    assert "residuals: without broken: no prediction is finite" in found.left_out


def test_nothing_scored_gives_no_figure() -> None:
    found = draw_all(cache_of(), Evaluation([], [], [], [], []))
    assert (found.drawings, found.left_out) == ([], ["figures: no run could be scored"])


def test_files_are_written_in_both_formats_and_replaced(tmp_path: Path, drawings: list[Drawing]) -> None:
    for _ in range(2):
        paths = save(drawings[:2], tmp_path / "new" / "figures")
        assert [path.name for path in paths] == [
            "comparison.png", "comparison.svg", "differences.png", "differences.svg",
        ]  # fmt: skip
    assert sorted(paths) == sorted((tmp_path / "new" / "figures").iterdir())
    assert paths[0].read_bytes() == as_png(drawings[0].figure)
    assert 'role="img"' in paths[1].read_text()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, drawings: list[Drawing]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        save(drawings[:1], tmp_path / "file" / "figures")


def test_importing_the_figures_does_not_import_matplotlib() -> None:
    code = "import sys, head.show.figures, head.show.figures.examples; sys.exit('matplotlib' in sys.modules)"
    assert run_forked(code).returncode == 0


@pytest.fixture
def runs(tiny_runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_runs, tmp_path / "runs")
    return tmp_path / "runs"


def test_the_command_writes_both_files_of_every_figure_and_says_what_each_shows(
    tiny_cache: Path, runs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "figures"
    done = amnet("figures", "--cache", tiny_cache, "--runs", runs / "tiny" / "paper" / "split-1", "--out", out)
    expected = [*ALL[:1], *ALL[2:], "faithfulness", *(f"attention-{k}" for k in range(1, 7))]
    assert [line.partition(".png, .svg")[0] for line in done.stdout.splitlines()] == [
        f"{out}/{name}" for name in expected
    ]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["faithfulness.json", *(f"{name}{suffix}" for name in expected for suffix in (".png", ".svg"))]
    )
    assert told(done) == "left out: differences: there is one head alone\n"


def test_the_command_prints_one_json_document_and_a_damaged_run_costs_others_nothing(
    tiny_cache: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("head.show.figures.examples._EACH", 1)
    (runs / "tiny" / "paper" / "split-2" / "head.safetensors").write_bytes(b"")
    arguments = ("--against", "plain", "--json", "--out", tmp_path / "out")
    done = amnet("figures", "--cache", tiny_cache, "--runs", runs, *arguments, status=5)
    document = json.loads(done.stdout)
    assert document["left_out"] == []
    assert "paper/split-2/head.safetensors: missing or damaged" in done.stderr
    assert told(done).removeprefix("error: ").strip() == document["problems"][0]
    assert all(Path(file).is_file() for one in document["figures"] for file in one["files"])
    assert "from plain" in next(one["caption"] for one in document["figures"] if one["name"] == "differences")


def test_the_command_says_what_it_needs_before_it_scores(
    tiny_cache: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scores in runs.rglob("scores*.json"):
        scores.unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = amnet("figures", "--cache", tiny_cache, "--runs", runs, "--out", tmp_path / "out", status=2)
    assert "error: figures need matplotlib: pip install 'amnet-featcache[figures]'" in done.stderr
    assert list(runs.rglob("scores*.json")) == []
    assert not (tmp_path / "out").exists()


def test_a_table_of_ones_own_is_not_compared_with_the_papers_whatever_its_name(
    evaluation: Evaluation, no_panels: None
) -> None:
    cache = cache_of("lamem")
    assert "Table 1" in draw_all(cache, evaluation).drawings[0].caption
    cache.manifest.source["images"] = "/photos"  # as a CSV's has
    assert "Table 1" not in draw_all(cache, evaluation).drawings[0].caption
