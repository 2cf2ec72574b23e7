"""How figures look, and how they become files. Knows nothing of what they show.

Colours are told apart by colour-blind readers and stand out from white and from black; all ink of axes and text is one
colour, which an SVG leaves to the page it is in. matplotlib is an extra, so it is imported where it is used.
"""

import importlib.util
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from featcache.base.commands import pip_install
from featcache.base.errors import InvalidSettings, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette without its yellow and black, which one of white and black pages swallows
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
GREY = "#8c8c8c"
INK = "#1a1b1c"  # becomes currentColor in an SVG, so nothing else may have it
WIDTH = 8.0  # inches
LEAST_SCALE = 2.0  # top of a map's colours, in even shares: noise around an even share is not blown up
MOST_HEADS = 6  # panels of a figure
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is everywhere the same
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold dollars
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",  # text stays text: a third of the bytes, and it can be read aloud and searched
    "figure.dpi": 100,
}
_COMPRESSION = 4  # of PNG: 4% more bytes than Pillow's usual 6, in 40% of the time
_PLACES = re.compile(r' (?:d|x|y)="[^"]*"')
_DECIMALS = re.compile(r"(\.\d\d)\d+")
_INK = re.compile(rf"(fill|stroke): {INK}")


def check_matplotlib() -> None:
    """Raise `InvalidSettings` if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidSettings(f"figures need matplotlib: {pip_install('figures')}")


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this project's style inside the block, whatever the user's own.

    Characters that the font lacks are drawn as boxes, and not warned of. Raises `InvalidSettings` without matplotlib.
    """
    check_matplotlib()
    from matplotlib import style

    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(height: float, *, width: float = WIDTH, laid_out: bool = True) -> "Figure":
    """Return an empty figure of so many inches, which lays itself out or not; nothing of it is global."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if laid_out else None)
    FigureCanvasAgg(figure)
    return figure


def panels(count: int, *, height: float = 2.6, **shared: Any) -> "tuple[Figure, list[Axes]]":
    """Return a figure with count panels, at most three in a row; shared is as `Figure.subplots` has it."""
    columns = min(count, 3)
    rows = -(-count // columns)
    width = {1: 4.6, 2: 6.4}.get(columns, WIDTH)
    figure = new_figure(rows * height + 0.4, width=width)
    axes = figure.subplots(rows, columns, squeeze=False, **shared).ravel().tolist()
    for empty in axes[count:]:
        empty.remove()
    for lowest in axes[max(0, count - columns) : count]:
        lowest.tick_params(labelbottom=True)  # shared axes have their numbers in the last row alone
    return figure, axes[:count]


def settled(figure: "Figure") -> "Figure":
    """Return the figure with its layout as it is now, so that it gives the same bytes however often it is drawn."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    with styled():
        figure.set_layout_engine(None)  # "none" would leave one that lays nothing out, and all is drawn twice for it
    return figure


def shortened(name: str, longest: int = 34) -> str:
    """Return a name as it can be printed, its middle left out where it is long."""
    name = printable(name)
    keep = longest - 1
    return name if len(name) <= longest else f"{name[: keep // 2]}\u2026{name[-(keep - keep // 2) :]}"


def wrapped(name: str, width: int = 30) -> str:
    """Return a name in at most two lines, parted behind a comma if that does."""
    name = shortened(name, 2 * width - 4)
    if len(name) <= width:
        return name
    parting = name.rfind(",", len(name) - width - 1, width) + 1 or width
    return f"{name[:parting]}\n{name[parting:]}"


def as_png(figure: "Figure", dpi: int = 150) -> bytes:
    """Return a figure as PNG on white, dpi pixels an inch."""
    data = io.BytesIO()
    with styled():
        how: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": _COMPRESSION}}
        figure.savefig(data, format="png", dpi=dpi, facecolor="white", **how)
    return data.getvalue()


def as_svg(figure: "Figure", *, name: str, title: str, opaque: bool = False) -> str:
    """Return a figure as an SVG element, transparent and in the page's own colour and a font without serifs; or opaque.

    It may stand in a page beside others: no two of different names share an id.
    """
    import matplotlib

    data, paper = io.StringIO(), "white" if opaque else "none"
    with styled(), matplotlib.rc_context({"svg.hashsalt": name}):
        no_facts = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(data, format="svg", transparent=not opaque, facecolor=paper, metadata=no_facts)
    text = data.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing refers to those, and every figure has the same
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r">\s+<", "><", text).replace("\n", " ")
    text = text.replace("'DejaVu Sans'", "sans-serif")  # the page's own
    text = _PLACES.sub(lambda found: _DECIMALS.sub(r"\1", found[0]), text)  # a hundredth of a point is enough
    if not opaque:
        text = _INK.sub(r"\1: currentColor", text)
    label = escape(printable(title), quote=True)
    about = f'role="img" aria-label="{label}" style="stroke-linejoin: round; stroke-linecap: butt"'
    return text.replace("<svg ", f"<svg {about} ", 1) + "\n"
