"""Maps over the image that they are of: of attention, each with its step score (Fig. 5 of the paper), or of occlusion.

A map covers what the head saw of the image, its evaluation view, and no more; the rest of the image is dimmed. Nothing
here needs torch, so that processes that draw start quickly.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache.base.errors import BadInput, InvalidSettings
from featcache.images.views import Box, view_of
from featcache.settings import ViewSettings
from head.show.style import GREY, INK, LEAST_SCALE, WIDTH, new_figure, shortened, styled, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Map = NDArray[np.float64]
COLOURS = "viridis"  # perceptually uniform, and as good to colour-blind readers
SIGNED = "PuOr_r"  # of occlusion: what lowers the score is purple, what raises it orange
OPACITY = 0.65  # of a map over the image in grey
CONTRAST = 0.6  # of that grey, so that colours keep their lightness
DIMMED = 0.3  # how much is left of what the head did not see
_BAR, _LABELS, _TITLE, _GAP = 1.0, 0.42, 0.32, 0.06  # inches beside, below, above and between images
_LINE, _LONGEST_LINE = 0.15, 20  # inches of one more line of a label, and characters of it
_LEAST_SIDE = 0.9  # inches, of a panel: as its labels need
_LONGEST_SIDE = 512  # pixels of the image as it is drawn
_COLUMNS = 5
_EVAL_VIEW = 0  # as head.data.batches has it, which needs torch
_LOWERED = {ord("0") + digit: 0x2080 + digit for digit in range(10)}  # subscripts


def draw_maps(
    image: Image.Image | NDArray[np.uint8],
    maps: NDArray[np.float32],
    *,
    step_scores: Sequence[float],
    score: float,
    truth: float | None = None,
    title: str = "",
    box: Box | None = None,
    tokens: str = "",
) -> "Figure":
    """Return a figure of an image and beside it its maps (T, H, W), step score m_t under each.

    tokens says in words what else attention can go to: then the share of it that a map lacks is written under it.

    image is upright, RGB or grey, (height, width, 3) or (height, width) uint8 as an array. box is what the head saw of
    it, in its pixels, as `seen_box` gives it; by default all of it. Colours are attention over uniform attention,
    maps * H * W, smoothed by `upsampled`; one scale holds for all T. Raises `InvalidSettings` for other shapes or a box
    outside the image, `BadInput` for maps that are not finite, InvalidSettings without matplotlib.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    box = box or Box(0, 0, *picture.size)
    _check(picture, maps, step_scores, box)
    drawn, place = _reduced(picture.convert("RGB"), box)
    seen = (place.bottom - place.top, place.right - place.left)
    relative = maps.astype(np.float64) * maps.shape[1] * maps.shape[2]
    smooth = [upsampled(one, *seen) for one in relative]
    top = max(LEAST_SCALE, *(float(one.max()) for one in smooth))
    with styled():
        labels = _LABELS + (_LINE * (1 + len(wrapped(tokens, _LONGEST_LINE).splitlines())) if tokens else 0)
        figure, panels, bar = _panels(1 + len(maps), drawn.width / drawn.height, titled=bool(title), labels=labels)
        known = f"\ntrue {truth:.3f}" if truth is not None and math.isfinite(truth) else ""
        _show(panels[0], dimmed(np.asarray(drawn), place), place, f"score {score:.3f}{known}")
        shares = np.clip(1 - maps.sum(axis=(1, 2), dtype=np.float64), 0, 1)  # of attention, on tokens
        panels_of = zip(panels[1:], smooth, step_scores, shares, strict=True)
        for number, (axes, one, step, share) in enumerate(panels_of, start=1):
            label = f"m{str(number).translate(_LOWERED)} {step:.3f}"
            label += f"\n{share:.0%} on\n{wrapped(tokens, _LONGEST_LINE)}" if tokens else ""
            _show(axes, overlaid(np.asarray(drawn), one, place, top=top), place, label)
        _add_scale(bar, top)
        if title:
            figure.suptitle(shortened(title, 16 * round(figure.get_figwidth())), fontsize=10)
        return figure


def draw_occlusion(
    image: Image.Image | NDArray[np.uint8],
    maps: NDArray[np.float32],
    *,
    score: float,
    truth: float | None = None,
    title: str = "",
    box: Box | None = None,
) -> "Figure":
    """Return a figure of an image and beside it its occlusion map (1, H, W), in units of the score.

    Image, truth, box and errors are as in `draw_maps`. Colours reach from the largest change, downwards, to the same
    upwards; what emptying a place does not change has the one between.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    box = box or Box(0, 0, *picture.size)
    _check(picture, maps, [score], box)
    drawn, place = _reduced(picture.convert("RGB"), box)
    smooth = upsampled(maps[0].astype(np.float64), place.bottom - place.top, place.right - place.left)
    top = float(np.abs(smooth).max()) or 1.0
    with styled():
        figure, panels, bar = _panels(2, drawn.width / drawn.height, titled=bool(title), labels=_LABELS)
        known = f"\ntrue {truth:.3f}" if truth is not None and math.isfinite(truth) else ""
        _show(panels[0], dimmed(np.asarray(drawn), place), place, f"score {score:.3f}{known}")
        _show(panels[1], overlaid(np.asarray(drawn), smooth, place, top=top, signed=True), place, "occlusion")
        _add_scale(bar, top, signed=True)
        if title:
            figure.suptitle(shortened(title, 16 * round(figure.get_figwidth())), fontsize=10)
        return figure


def seen_box(how: ViewSettings, *, width: int, height: int) -> Box:
    """Return what a head sees of an image width x height pixels, in its pixels: all that the evaluation view shows."""
    return view_of(how, "", _EVAL_VIEW, width=width, height=height).box


def upsampled(one: Map, height: int, width: int) -> Map:
    """Return a map (H, W) as pixels (height, width) of the same area, each the mean over it of a smooth surface.

    The surface is a sum of quadratic B-splines, one at the middle of each cell with the cell's value as its weight,
    mirrored at the edges: it is smooth, is nowhere above or below the cells, has the same mean, and a cell's peak is
    where the cell is. A peak one cell wide comes out at 9/16 of its height.
    """
    rows, columns = _spline_means(one.shape[0], height), _spline_means(one.shape[1], width)
    surface: Map = rows @ one @ columns.T
    return surface


def overlaid(rgb: NDArray[np.uint8], smooth: Map, box: Box, *, top: float, signed: bool = False) -> NDArray[np.uint8]:
    """Return an image (height, width, 3) in grey, under the colours of a map from 0 to top in box, dimmed outside.

    Signed, colours are from -top to top.
    """
    import matplotlib

    grey = np.repeat(np.asarray(Image.fromarray(rgb).convert("L"))[:, :, None], 3, axis=2)
    found = dimmed(grey, box)
    inside = np.s_[box.top : box.bottom, box.left : box.right]
    level = (smooth / top + 1) / 2 if signed else smooth / top
    colours = matplotlib.colormaps[SIGNED if signed else COLOURS](level)[:, :, :3] * 255
    below = 127.5 + CONTRAST * (grey[inside] - 127.5)
    found[inside] = np.rint(OPACITY * colours + (1 - OPACITY) * below).astype(np.uint8)
    return found


def dimmed(rgb: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Return an image (height, width, 3) with what is outside box made dark."""
    found: NDArray[np.uint8] = np.rint(rgb * DIMMED).astype(np.uint8)
    inside = np.s_[box.top : box.bottom, box.left : box.right]
    found[inside] = rgb[inside]
    return found


def _check(picture: Image.Image, maps: NDArray[np.float32], step_scores: Sequence[float], box: Box) -> None:
    problems = []
    if maps.ndim != 3 or 0 in maps.shape:
        problems.append(f"maps must be (T, H, W), found {maps.shape}")
    elif len(step_scores) != len(maps):
        problems.append(f"each map needs its step score, found {len(step_scores)} of {len(maps)}")
    if not (0 <= box.left < box.right <= picture.width and 0 <= box.top < box.bottom <= picture.height):
        problems.append(f"the box {tuple(box)} must lie in the image of {picture.width} x {picture.height} pixels")
    if problems:
        raise InvalidSettings("; ".join(problems))
    if not np.isfinite(maps).all():
        raise BadInput("maps that are not finite cannot be drawn; predict the image again")


def _reduced(picture: Image.Image, box: Box) -> tuple[Image.Image, Box]:
    """Return the image at the size that it is drawn in, and the box in that; not larger than it is."""
    share = min(1.0, _LONGEST_SIDE / max(picture.size))
    size = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    left, right = _reduced_range(box.left, box.right, picture.width, size[0])
    top, bottom = _reduced_range(box.top, box.bottom, picture.height, size[1])
    return picture.resize(size, Image.Resampling.LANCZOS), Box(left, top, right, bottom)


def _reduced_range(start: int, stop: int, before: int, now: int) -> tuple[int, int]:
    """Return pixels [start, stop) of a side as they are when it has another length, at least one."""
    first = min(round(start * now / before), now - 1)
    return first, max(first + 1, round(stop * now / before))


def _spline_means(cells: int, pixels: int) -> Map:
    """Return weights (pixels, cells) that give each pixel's mean of a side's B-splines; each row sums to 1."""
    edges = np.linspace(0, cells, pixels + 1)
    middles = np.arange(cells) + 0.5
    below = sum(_spline_integral(edges[:, None] - place) for place in (middles, -middles, 2 * cells - middles))
    return np.diff(np.asarray(below), axis=0) * pixels / cells


def _spline_integral(x: Map) -> Map:
    """Return the integral up to x of the quadratic B-spline around 0, which is that from -3/2 to 3/2 and 1 in all."""
    inside = np.clip(np.asarray(x), -1.5, 1.5)  # beyond, cubes would grow that cancel
    powers = np.clip(inside[None] + np.array([1.5, 0.5, -0.5, -1.5]).reshape(-1, *[1] * np.ndim(x)), 0, None) ** 3
    found: Map = np.tensordot([1 / 6, -1 / 2, 1 / 2, -1 / 6], powers, axes=1)
    return found


def _panels(count: int, aspect: float, *, titled: bool, labels: float) -> "tuple[Figure, list[Axes], Axes]":
    """Return a figure, count panels for images of an aspect, width over height, and the axes of the bar of colours.

    labels are the inches below each panel.
    """
    most = max(1, min(_COLUMNS, int(2 * WIDTH / (_LEAST_SIDE * aspect))))  # of a wide image they stand above each other
    rows = -(-count // most)
    columns = -(-count // rows)
    height = min(max(min((WIDTH - _BAR) / columns - _GAP, 1.9) / aspect, _LEAST_SIDE), 2.8)
    width = min(max(height * aspect, _LEAST_SIDE), WIDTH) + _GAP
    line = height + labels  # of panels, in inches
    tall, wide = rows * line + (_TITLE if titled else _GAP), columns * width + _BAR
    figure = new_figure(tall, width=wide, laid_out=False)
    axes = []
    for number in range(count):
        row, column = divmod(number, columns)
        left, bottom = column * width + _GAP, line * (rows - 1 - row) + labels
        axes.append(figure.add_axes((left / wide, bottom / tall, (width - _GAP) / wide, height / tall)))
    bar = (columns * width + 0.12) / wide, labels / tall, 0.13 / wide, (rows * line - labels) / tall
    return figure, axes, figure.add_axes(bar)


def _show(axes: "Axes", rgb: NDArray[np.uint8], box: Box, label: str) -> None:
    """Show pixels, the outline of the box if it is not all of them, and a label below."""
    from matplotlib.patches import Rectangle

    axes.imshow(rgb, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_xlabel(label)
    if (box.right - box.left, box.bottom - box.top) != rgb.shape[1::-1]:
        corner, width, height = (box.left - 0.5, box.top - 0.5), box.right - box.left, box.bottom - box.top
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=GREY, linewidth=0.8))


def _add_scale(axes: "Axes", top: float, *, signed: bool = False) -> None:
    """Draw the bar of colours, as they look over a middle grey, with a line at uniform attention or at no change."""
    import matplotlib

    shades = matplotlib.colormaps[SIGNED if signed else COLOURS](np.linspace(1, 0, 256))[:, None, :3]
    axes.imshow(OPACITY * shades + (1 - OPACITY) * 0.5, extent=(0, 1, -top if signed else 0, top), aspect="auto")
    axes.grid(visible=False)
    axes.set(xticks=[], ylim=(-top if signed else 0, top))
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_ylabel("change of the score" if signed else "attention,\n1 = uniform")
    axes.axhline(0 if signed else 1, color=INK, linewidth=1)
