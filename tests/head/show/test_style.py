"""How figures look and become files: colours, ink, names, and the page that an SVG stands in."""

import itertools
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from featcache.base.errors import InvalidSettings, printable
from head.show.style import PALETTE, as_png, as_svg, check_matplotlib, new_figure, settled, shortened, styled, wrapped
from tests.helpers.tiny import ROOT

# linear RGB as people without one kind of cone see it, at full severity: Machado, Oliveira and Fernandes 2009
VISIONS = {
    "all cones": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.052]],
    "deuteranopia": [[0.3673, 0.8606, -0.228], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def linear(colour: str) -> NDArray[np.float64]:
    values = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    light, dark = sorted((float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def drawn(name: str = "a") -> Figure:
    with styled():
        figure = new_figure(2.0, width=3.0)
        figure.subplots().plot([1, 2], [3, 5], label="line")
        figure.axes[0].set_title(name)
        return settled(figure)


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_are_told_apart_by_every_kind_of_vision(vision: str) -> None:
    seen = [lab(np.array(VISIONS[vision]) @ linear(colour)) for colour in PALETTE]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 14


@pytest.mark.parametrize("page", ["#ffffff", "#14161a"])
def test_colours_stand_out_from_light_and_dark_pages(page: str) -> None:
    assert min(contrast(colour, page) for colour in PALETTE) > 2.2


def test_an_svg_takes_the_ink_of_its_page_and_is_transparent() -> None:
    svg = as_svg(drawn(), name="one", title="Two <lines>")
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "Two <lines>"
    assert "currentColor" in svg
    assert "#1a1b1c" not in svg
    assert "#ffffff" not in svg
    assert "<style" not in svg  # it would hold for the whole page
    assert "DejaVu" not in svg
    assert "sans-serif" in svg
    assert ">line<" not in svg
    assert ">a</text>" in svg


def test_a_file_is_opaque_and_its_ink_is_dark() -> None:
    svg = as_svg(drawn(), name="one", title="", opaque=True)
    ElementTree.fromstring(svg)
    assert "#ffffff" in svg
    assert "#1a1b1c" in svg
    assert "currentColor" not in svg


def test_svgs_of_one_page_share_no_id() -> None:
    ids = []
    for name in ("one", "two"):
        root = ElementTree.fromstring(as_svg(drawn(), name=name, title=""))
        ids.append({element.get("id") for element in root.iter()} - {None})
    assert ids[0]
    assert ids[0] & ids[1] == set()


def test_the_users_own_style_changes_nothing_and_is_left_as_it_was() -> None:
    before = as_png(drawn(), 80), as_svg(drawn(), name="x", title="")
    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "red", "svg.fonttype": "path", "text.usetex": True}):
        mine = dict(matplotlib.rcParams)
        assert (as_png(drawn(), 80), as_svg(drawn(), name="x", title="")) == before
        assert dict(matplotlib.rcParams) == mine


def test_a_figure_gives_the_same_bytes_however_often_it_is_drawn() -> None:
    figure = drawn()
    first = as_png(figure, 80), as_svg(figure, name="x", title="")
    assert (as_png(figure, 80), as_svg(figure, name="x", title="")) == first


def test_pyplot_and_its_global_figures_are_not_used() -> None:
    files = sorted((ROOT / "head" / "show").rglob("*.py"))
    assert files
    assert not any("pyplot" in file.read_text() for file in files)


@pytest.mark.parametrize("name", ["$x_1$ \\frac", "\u6771\u4eac \U0001f600", "a\x1b[31m"])
def test_any_name_can_be_drawn(name: str) -> None:
    figure = drawn(shortened(name))
    as_png(figure, 50)
    drawing = ElementTree.fromstring(as_svg(figure, name="x", title=name))
    assert drawing.get("aria-label") == printable(name)
    assert shortened(name) in "".join(drawing.itertext())


def test_long_names_lose_their_middle_and_break_behind_a_comma() -> None:
    assert shortened("paper") == "paper"
    assert shortened("a" * 30 + "b" * 30, 11) == "aaaaa\u2026bbbbb"
    assert wrapped("paper,steps=2", 20) == "paper,steps=2"
    assert wrapped("paper,epochs=12,precision=bf16", 20) == "paper,epochs=12,\nprecision=bf16"
    assert all(len(line) <= 20 for line in wrapped("x" * 300, 20).split("\n"))


def test_without_matplotlib_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (check_matplotlib, drawn):
        with pytest.raises(InvalidSettings, match=r"figures need matplotlib: pip install 'amnet-featcache\[figures\]'"):
            draw()
