"""The figure of faithfulness: curves and intervals as they were measured, numbers beside it, and heads without maps."""

import json
from pathlib import Path

from head.explain.faithfulness import SHARES, TESTS
from head.show.figures.faithfulness import COLOURS, draw_faithfulness
from head.show.figures.figures import save
from tests.helpers.faithful import faithful
from tests.helpers.predictions import evaluated, predicted, random_steps

EVALUATION = evaluated(
    predicted("paper", "1", *random_steps(11, 3)), predicted("other", "1", *random_steps(11, 3), lr=0.5)
)


def test_curves_and_differences_are_those_that_were_measured() -> None:
    found = [
        faithful(random=(0.1, 0.3), centre=(0.1, 0.3), share=0.5),
        faithful("other", random=(-0.1, 0.3), centre=(0, 0)),
    ]
    (drawing,) = draw_faithfulness(found, EVALUATION).drawings
    assert len(drawing.figure.axes) == 4
    for place, axes in enumerate(drawing.figure.axes):
        one, test = found[place // 2], TESTS[place % 2]
        for line, (order, colour) in zip(axes.get_lines(), COLOURS.items(), strict=True):
            assert line.get_xydata()[:, 0].tolist() == SHARES.tolist()
            assert line.get_xydata()[:, 1].tolist() == one.curves[test][order]
            assert line.get_color() == colour
    assert drawing.figure.axes[0].get_title().endswith("attention \u2212 random +0.2000 (+0.1000 to +0.3000)")
    assert f"paper: {found[0].verdict()} other: {found[1].verdict()}" in drawing.caption


def test_numbers_lie_beside_the_figure(tmp_path: Path) -> None:
    found = faithful(random=(0.1, 0.3), centre=(0.1, 0.3))
    files = save(draw_faithfulness([found], EVALUATION).drawings, tmp_path)
    assert [path.name for path in files] == [f"faithfulness.{end}" for end in ("png", "svg", "json")]
    assert json.loads(files[-1].read_text()) == {"heads": [found.as_json()]}


def test_without_attention_there_is_no_figure() -> None:
    found = draw_faithfulness([], EVALUATION)
    assert (found.drawings, found.left_out) == ([], ["faithfulness: no head here has attention"])
