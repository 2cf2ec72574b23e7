"""Training curves: the numbers of history.csv, the kept epoch, and heads that have no epochs."""

from dataclasses import replace
from pathlib import Path

import pytest

from head.show.figures.curves import QUANTITIES, draw_curves, without_curves
from head.show.style import styled
from tests.helpers.predictions import HISTORY, predicted, random_steps, row
from tests.helpers.results import changed

TRUTH, STEPS = random_steps(11, 3)


def test_curves_are_the_history_and_marks_are_the_kept_and_the_lowest_epoch(tmp_path: Path) -> None:
    results = [predicted("paper", split, TRUTH, STEPS, home=tmp_path) for split in ("1", "2")]
    with styled():
        figure, caption = draw_curves([row(*results)])
    assert caption.endswith("Runs of splits 1, 2.")
    assert [axes.get_title() for axes in figure.axes] == list(QUANTITIES.values())
    for axes, field in zip(figure.axes, QUANTITIES, strict=True):
        lines = axes.get_lines()
        marks = 3 if field == "val_mse" else 2
        assert len(lines) == 2 * marks
        for curve, kept, *low in (lines[:marks], lines[marks:]):
            assert curve.get_xydata().tolist() == [[epoch["epoch"], epoch[field]] for epoch in HISTORY]
            assert kept.get_xydata().tolist() == [[3, HISTORY[2][field]]]
            assert [one.get_xydata().tolist() for one in low] == [[[2, 0.02]]] * len(low)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["split 1", "split 2"]


def test_a_split_has_one_colour_whatever_the_seed_and_the_head(tmp_path: Path) -> None:
    first = [predicted(f"a,seed={seed}", "1", TRUTH, STEPS, home=tmp_path, seed=seed) for seed in (0, 1)]
    other = [predicted("b", split, TRUTH, STEPS, home=tmp_path, lr=0.5) for split in ("2", "1")]
    with styled():
        figure, caption = draw_curves([row(*first), row(*other)])
    (one, two), (three, four) = ([line.get_color() for line in figure.axes[place].get_lines()[::2]] for place in (0, 3))
    assert one == two == four != three
    assert "Runs of splits 1, 2, up to 2 seeds each." in caption


def test_an_undefined_rho_is_a_gap(tmp_path: Path) -> None:
    history = [{**epoch, "val_rho": float("nan")} for epoch in HISTORY]
    with styled():
        figure, _ = draw_curves([row(predicted("a", "1", TRUTH, STEPS, home=tmp_path, history=history))])
        figure.draw_without_rendering()
    assert len(figure.axes) == 3


def test_the_first_epochs_do_not_flatten_the_others(tmp_path: Path) -> None:
    history = [{**HISTORY[0], "val_mse": 9.0, "train_loss": 40.0}, *HISTORY[1:]]
    with styled():
        figure, _ = draw_curves([row(predicted("a", "1", TRUTH, STEPS, home=tmp_path, history=history))])
    assert figure.axes[1].get_ylim() == (0, pytest.approx(1.3 * 0.3))
    assert figure.axes[2].get_ylim() == (0, pytest.approx(1.3 * 0.04))


def test_heads_without_epochs_say_why(tmp_path: Path) -> None:
    ridge = predicted("ridge", "1", TRUTH, STEPS, home=tmp_path, head="ridge")
    assert without_curves(row(ridge)) == "fitted in one go, without epochs"
    alien = predicted("imported", "1", TRUTH, STEPS)
    alien = replace(alien, run=changed(alien.run, imported={"steps": 3}))
    assert without_curves(row(alien)) == "imported, so its training is not known"
    paper = predicted("paper", "1", TRUTH, STEPS, home=tmp_path)
    assert without_curves(row(paper)) == ""
    for damage in (
        "epoch,val_rho\n1,x\n",
        "val_rho\n0.5\n",
        "epoch,val_rho\n1\n",
        "epoch,val_rho\n1,2,3\n",
        "",
        "\xff",
    ):
        (paper.run.folder / "history.csv").write_text(damage, encoding="latin-1")
        assert without_curves(row(paper)) == "history.csv of split-1 is missing or damaged"
