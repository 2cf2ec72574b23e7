"""Heads beside each other and beside the paper's numbers."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from head.evaluation.compare import compare
from head.evaluation.people import Ceiling
from head.evaluation.summary import summaries_of
from head.show.figures.comparison import MOST_LINES, draw_comparison, draw_differences, lines_of
from head.show.figures.paper_tables import TABLES, table_of
from head.show.style import BLUE, GREY, RED, styled
from tests.helpers.results import THREE_SPLITS, scored
from tests.helpers.tiny import ROOT

ROWS = summaries_of([*THREE_SPLITS, *(scored("other", split, 0.65, 0.02, val_rho=0.4, lr=0.5) for split in "123")])


def test_dots_are_means_over_splits_lines_their_intervals_and_ticks_single_splits() -> None:
    with styled():
        figure, caption = draw_comparison(ROWS, None, "mydata")
    left, right = figure.axes
    found = {row.name: row.as_json() for row in ROWS}
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names == ["other", "paper"]
    for place, name in enumerate(names):
        ticks, interval, dot = left.get_lines()[3 * place : 3 * place + 3]
        row = found[name]
        assert dot.get_xydata().tolist() == [[row["rho_mean"], place]]
        assert interval.get_xdata().tolist() == [row["rho_low"], row["rho_high"]]
        assert ticks.get_xdata().tolist() == ([0.5, 0.6, 0.7] if name == "paper" else [0.65] * 3)
        assert right.get_lines()[place].get_xydata().tolist() == [[row["mse_mean"], place]]
    assert "The paper has no numbers for mydata: heads beside each other alone." in caption
    assert "n = 300 images." in caption


def test_the_papers_numbers_stand_among_them_for_its_datasets_and_the_test_part_alone() -> None:
    with styled():
        figure, caption = draw_comparison(ROWS, table_of("lamem", "test"), "lamem")
        _, val_caption = draw_comparison(ROWS, table_of("lamem", "val"), "lamem")
    left, right = figure.axes
    dots = {
        label.get_text(): (line.get_xdata()[0], line.get_color(), line.get_marker())
        for label, line in zip(left.get_yticklabels(), left.get_lines()[2::3], strict=False)
    }
    assert dots["AMNet [paper]"] == (0.677, RED, "D")
    assert dots["paper"] == (pytest.approx(0.6), BLUE, "o")
    assert list(dots) == sorted(dots, key=lambda name: -dots[name][0])
    people = left.get_lines()[-1]
    assert people.get_xdata() == [0.68, 0.68]
    assert [text.get_text() for text in left.texts] == ["people"]
    assert np.isnan([line.get_xdata()[0] for line in right.get_lines()]).sum() == 2  # MSE that the table does not give
    assert "Table 1, 5 test splits of Fajtl et al." in caption
    assert "The paper's numbers are of test parts, so none are shown." in val_caption


def test_networks_are_red_and_others_grey_as_in_the_papers_figure() -> None:
    colours = {line.name: line.colour for line in lines_of([], table_of("sun", "test"))}
    assert {name for name, colour in colours.items() if colour == GREY} == {"Isola [paper]", "Mancas & Le Meur [paper]"}
    assert set(colours.values()) == {GREY, RED}


def test_other_datasets_have_no_published_numbers() -> None:
    assert table_of("mydata", "test") is None
    assert table_of("lamem+sun", "test") is None


def test_published_numbers_are_those_that_the_documents_state() -> None:
    text = (ROOT / "docs" / "figures.md").read_text()
    lines = re.findall(r"^\| (LaMem|SUN) \| ([^|]+) \| ([\d.]+) \| ([\d.]+|-) \|$", text, flags=re.MULTILINE)
    stated = [
        (dataset.lower(), method, float(rho), None if mse == "-" else float(mse)) for dataset, method, rho, mse in lines
    ]
    held = [(key, one.method, one.rho, one.mse) for key, table in TABLES.items() for one in table.results]
    assert stated == held


def test_undefined_rho_is_said_and_comes_last() -> None:
    rows = summaries_of([scored("flat", "1", math.nan), scored("b", "1", 0.5, lr=0.5)])
    with styled():
        figure, _ = draw_comparison(rows, None, "mydata")
        figure.draw_without_rendering()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "flat (undefined)"]


def test_more_heads_than_can_be_read_are_cut_and_said() -> None:
    rows = summaries_of([scored(f"head{k}", "1", 0.5, val_rho=k / 100, lr=k / 100) for k in range(1, 48)])
    with styled():
        figure, caption = draw_comparison(rows, None, "mydata")
        figure.draw_without_rendering()
        difference, said = draw_differences(compare(rows))
    labels = figure.axes[0].get_yticklabels()
    assert {label.get_text() for label in labels} == {f"head{k}" for k in range(8, 48)}
    heights = [label.get_window_extent() for label in labels]
    assert all(low.y1 <= high.y0 for high, low in itertools.pairwise(heights))
    assert caption.endswith("The first 40 of 47 heads by validation rho.")
    assert len(difference.axes[0].get_yticklabels()) == MOST_LINES
    assert said.endswith("The first 40 of 46 heads by validation rho.")


def test_differences_are_the_comparisons_filled_where_they_are_sure() -> None:
    sure = [
        scored("sure", split, rho - 0.2, val_rho=0.4, lr=0.5)
        for split, rho in zip("123", (0.5, 0.601, 0.7), strict=True)
    ]
    unsure = [
        scored("unsure", split, rho, val_rho=0.3, lr=0.25) for split, rho in zip("123", (0.7, 0.5, 0.7), strict=True)
    ]
    comparisons = compare(summaries_of([*THREE_SPLITS, *sure, *unsure]))
    with styled():
        figure, caption = draw_differences(comparisons)
    (axes,) = figure.axes
    for place, one in enumerate(comparisons):
        interval, dot = axes.get_lines()[2 * place : 2 * place + 2]
        assert dot.get_xydata().tolist() == [[one.difference, place]]
        assert interval.get_xdata().tolist() == [one.low, one.high]
    assert [line.get_fillstyle() for line in axes.get_lines()[1:4:2]] == ["full", "none"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sure", "unsure"]
    assert caption.startswith("Mean difference in rho from paper, paired by split")


@pytest.mark.parametrize("bounds", [(0.75, 0.85), (None, None)])
def test_a_ceiling_that_all_heads_have_is_a_line_in_the_band_of_its_interval(
    bounds: tuple[float, float] | tuple[None, None],
) -> None:
    ceiling = Ceiling(0.8, *bounds, "it")
    known = [replace(one, ceiling=ceiling) for one in THREE_SPLITS]
    with styled():
        figure, caption = draw_comparison(summaries_of(known), None, "mydata")
        other, _ = draw_comparison(summaries_of([*known, scored("other", "1", 0.6, lr=0.5)]), None, "mydata")
    left = figure.axes[0]
    assert left.get_lines()[-1].get_xdata() == [0.8, 0.8]
    assert [text.get_text() for text in left.texts] == ["ceiling"]
    assert len(left.patches) == (bounds[0] is not None)
    assert f"Dashed: {ceiling.as_text()}." in caption
    assert [text.get_text() for text in other.axes[0].texts] == []
