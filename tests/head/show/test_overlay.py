"""Attention maps over images: where a map lies, what colours mean, and what smoothing does to a map."""

import io
import math
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.interpolate import BSpline

from featcache.base.errors import BadInput, InvalidSettings
from featcache.images.views import Box
from featcache.settings import ViewSettings
from featcache.store.cache import open_cache
from head.show.overlay import CONTRAST, DIMMED, LEAST_SCALE, OPACITY, draw_maps, seen_box, upsampled
from head.show.style import as_png, as_svg

GREY = np.full((90, 120, 3), 100, np.uint8)


def maps_with_peak(steps: int, height: int, width: int, at: tuple[int, int]) -> NDArray[np.float32]:
    """Return maps whose first has half of its weight in one cell, and whose others are uniform."""
    maps = np.full((steps, height, width), 1 / (height * width), np.float32)
    maps[0] = 0.5 / (height * width - 1)
    maps[0][at] = 0.5
    return maps


def shown(figure: Figure, panel: int) -> NDArray[np.float64]:
    """Return the pixels that a panel shows."""
    return np.asarray(figure.axes[panel].get_images()[0].get_array(), float)


def labels(figure: Figure) -> list[str]:
    return [axes.get_xlabel() for axes in figure.axes[:-1]]  # the last is the bar of colours


@pytest.mark.parametrize(("height", "width"), [(35, 77), (23, 101), (5, 7), (3, 2)])
def test_smoothing_keeps_the_mean_and_stays_within_the_cells(height: int, width: int) -> None:
    one = np.random.default_rng(0).dirichlet(np.ones(35)).reshape(5, 7)
    smooth = upsampled(one, height, width)
    assert smooth.shape == (height, width)
    assert smooth.mean() == pytest.approx(one.mean(), rel=1e-12)
    assert one.min() <= smooth.min() <= smooth.max() <= one.max()


def test_a_uniform_map_stays_uniform() -> None:
    np.testing.assert_allclose(upsampled(np.full((5, 7), 0.25), 31, 29), 0.25, rtol=1e-12)


def test_smoothing_is_the_mean_of_mirrored_quadratic_splines_over_each_pixel() -> None:
    one = np.random.default_rng(1).uniform(size=(3, 5))
    mirrored = np.pad(one, 2, mode="symmetric")
    spline = BSpline.basis_element([-1.5, -0.5, 0.5, 1.5], extrapolate=False)

    def weights(cells: int, pixels: int) -> NDArray[np.float64]:
        places = (np.arange(pixels * 400) + 0.5) / 400 * cells / pixels
        values = np.nan_to_num(spline(places[:, None] - (np.arange(-2, cells + 2) + 0.5)))
        return values.reshape(pixels, 400, -1).mean(axis=1)

    np.testing.assert_allclose(upsampled(one, 11, 13), weights(3, 11) @ mirrored @ weights(5, 13).T, atol=1e-5)


@pytest.mark.parametrize("at", [(0, 0), (1, 5), (2, 3), (4, 6)])
def test_the_highest_pixel_is_in_the_highest_cell(at: tuple[int, int]) -> None:
    smooth = upsampled(maps_with_peak(1, 5, 7, at)[0].astype(float), 55, 91)
    place = np.unravel_index(smooth.argmax(), smooth.shape)
    assert (place[0] // 11, place[1] // 13) == at
    if at == (2, 3):
        assert place == (27, 45)  # the middle of the middle cell


def test_a_peak_of_one_cell_is_as_high_as_documented() -> None:
    one = np.zeros((5, 7))
    one[2, 3] = 1
    assert upsampled(one, 5 * 301, 7 * 301).max() == pytest.approx(9 / 16, rel=1e-4)


def test_the_brightest_colour_of_a_map_lies_where_the_head_looked_in_the_box() -> None:
    box = Box(30, 10, 100, 60)
    figure = draw_maps(GREY, maps_with_peak(3, 5, 7, (1, 5)), step_scores=[0.1, 0.2, 0.3], score=0.6, box=box)
    green = shown(figure, 1)[:, :, 1]  # grows along the colours
    top, left = np.unravel_index(green.argmax(), green.shape)
    assert (top - box.top) // 10 == 1
    assert (left - box.left) // 10 == 5


def test_what_the_head_did_not_see_is_dark_and_has_no_colours() -> None:
    box = Box(30, 10, 100, 60)
    figure = draw_maps(GREY, maps_with_peak(2, 5, 7, (1, 5)), step_scores=[0.1, 0.2], score=0.3, box=box)
    outside = np.ones((90, 120), bool)
    outside[10:60, 30:100] = False
    assert all((shown(figure, panel)[outside] == round(100 * DIMMED)).all() for panel in range(3))
    assert (shown(figure, 0)[~outside] == 100).all()
    outline = figure.axes[1].patches[0]
    assert outline.get_bbox().bounds == (29.5, 9.5, 70, 50)


def test_a_colour_is_the_map_over_uniform_on_one_scale_for_all_steps() -> None:
    maps = maps_with_peak(2, 5, 7, (2, 3))
    figure = draw_maps(GREY, maps, step_scores=[0.1, 0.2], score=0.3)
    top = upsampled(maps[0].astype(float) * 35, 90, 120).max()
    assert top > LEAST_SCALE
    bar = figure.axes[-1]
    assert bar.get_ylim() == (0, pytest.approx(top))
    assert [line.get_ydata()[0] for line in bar.get_lines()] == [1]
    assert bar.get_ylabel() == "attention,\n1 = uniform"
    uniform = np.array(matplotlib.colormaps["viridis"](1 / top)[:3]) * 255
    expected = np.rint(OPACITY * uniform + (1 - OPACITY) * (127.5 + CONTRAST * (100 - 127.5)))
    assert (shown(figure, 2) == expected).all()
    assert shown(figure, 1).max(axis=(0, 1))[1] > expected[1]


def test_uniform_attention_is_one_even_colour_in_the_middle_of_the_scale() -> None:
    figure = draw_maps(GREY, np.full((1, 5, 7), 1 / 35, np.float32), step_scores=[0.4], score=0.4)
    assert figure.axes[-1].get_ylim() == (0, LEAST_SCALE)
    assert len(np.unique(shown(figure, 1).reshape(-1, 3), axis=0)) == 1


def test_step_scores_score_and_truth_are_written_below() -> None:
    maps = maps_with_peak(2, 5, 7, (1, 1))
    figure = draw_maps(GREY, maps, step_scores=[0.25, 0.125], score=0.375, truth=0.5, title="a$b$.jpg")
    assert labels(figure) == ["score 0.375\ntrue 0.500", "m\u2081 0.250", "m\u2082 0.125"]
    assert figure.get_suptitle() == "a$b$.jpg"
    assert "a$b$.jpg" in as_svg(figure, name="x", title="")
    for unknown in (None, math.nan):
        assert labels(draw_maps(GREY, maps, step_scores=[0.25, 0.125], score=0.375, truth=unknown))[0] == "score 0.375"


def test_attention_on_tokens_is_told_in_percent_and_drawn_nowhere() -> None:
    maps = maps_with_peak(2, 5, 7, (1, 1)) * np.array([1, 0.875], np.float32).reshape(2, 1, 1)
    figure = draw_maps(GREY, maps, step_scores=[0.25, 0.125], score=0.375, tokens="the class token")
    assert labels(figure) == [
        "score 0.375", "m\u2081 0.250\n0% on\nthe class token", "m\u2082 0.125\n12% on\nthe class token",
    ]  # fmt: skip
    nothing = draw_maps(GREY, np.zeros((1, 5, 7), np.float32), step_scores=[0.4], score=0.4, tokens="pooled")
    assert labels(nothing)[1].endswith("100% on\npooled")
    assert len(np.unique(shown(nothing, 1).reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("steps", [1, 4, 12])
@pytest.mark.parametrize("size", [(1, 1), (5, 200), (200, 5)])
def test_any_number_of_steps_and_any_shape_can_be_drawn(steps: int, size: tuple[int, int]) -> None:
    figure = draw_maps(
        Image.new("L", size, 90), maps_with_peak(steps, 5, 7, (1, 1)), step_scores=[0.1] * steps, score=math.nan
    )
    assert len(labels(figure)) == steps + 1
    assert as_png(figure, 50).startswith(b"\x89PNG")


@pytest.mark.parametrize("tokens", ["", "pooled", "the class token and 4 registers"])
def test_nothing_overlaps_and_nothing_is_cut_off(tokens: str) -> None:
    for steps in (1, 3, 4, 7):
        maps = maps_with_peak(steps, 5, 7, (1, 1))
        figure = draw_maps(GREY, maps, step_scores=[-0.125] * steps, score=0.5, truth=0.5, tokens=tokens)
        figure.draw_without_rendering()
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        width, height = figure.bbox.size
        for k, one in enumerate(boxes):
            assert -1 <= one.x0 < one.x1 <= width + 1
            assert -1 <= one.y0 < one.y1 <= height + 1
            assert not any(one.overlaps(other) for other in boxes[:k])


def test_a_large_image_is_drawn_smaller_and_its_box_with_it() -> None:
    image = Image.new("RGB", (2048, 1024), "white")
    figure = draw_maps(
        image, maps_with_peak(1, 5, 7, (2, 3)), step_scores=[0.1], score=0.1, box=Box(512, 0, 1536, 1024)
    )
    pixels = shown(figure, 0)
    assert pixels.shape == (256, 512, 3)
    assert (pixels[:, 128:384] == 255).all()
    assert (pixels[:, :128] < 255).all()


def test_all_that_is_wrong_is_said_at_once() -> None:
    maps = maps_with_peak(2, 5, 7, (1, 1))
    message = (
        r"each map needs its step score, found 3 of 2; the box \(0, 0, 121, 90\) must lie in the image of 120 x 90"
    )
    with pytest.raises(InvalidSettings, match=message):
        draw_maps(GREY, maps, step_scores=[1, 2, 3], score=1, box=Box(0, 0, 121, 90))
    with pytest.raises(InvalidSettings, match=r"maps must be \(T, H, W\), found \(5, 7\)"):
        draw_maps(GREY, maps[0], step_scores=[1], score=1)
    maps[1, 2, 3] = np.nan
    with pytest.raises(BadInput, match="maps that are not finite"):
        draw_maps(GREY, maps, step_scores=[1, 2], score=1)


def test_files_are_the_same_for_the_same_input_and_well_formed() -> None:
    def files() -> tuple[bytes, str, bytes]:
        figure = draw_maps(GREY, maps_with_peak(3, 5, 7, (1, 1)), step_scores=[1, 2, 3], score=6, title="photo <1>.jpg")
        return as_png(figure, 100), as_svg(figure, name="x", title="t"), as_png(figure, 100)

    first, svg, again = files()
    assert (first, svg, again) == files()
    assert first == again
    ElementTree.fromstring(svg)
    width, height = Image.open(io.BytesIO(first)).size
    figure = draw_maps(GREY, maps_with_peak(3, 5, 7, (1, 1)), step_scores=[1, 2, 3], score=6)
    assert (width, height) == (int(100 * figure.get_figwidth()), int(100 * (figure.get_figheight() + 0.26)))


def test_the_box_is_the_one_that_the_cache_was_cut_by(tiny_cache: object) -> None:
    cache = open_cache(tiny_cache)  # type: ignore[arg-type]
    assert cache.recipe.eval_view == "center"
    for row, image in enumerate(cache.images):
        box = seen_box(cache.recipe.view_settings, width=image.width, height=image.height)
        assert tuple(box) == tuple(cache.box[row, 0].tolist())
    assert seen_box(ViewSettings(eval_view="squash"), width=120, height=90) == (0, 0, 120, 90)


@pytest.mark.parametrize("size", [(4000, 400), (3000, 31), (400, 4000)])
def test_drawings_of_long_images_stay_small(size: tuple[int, int]) -> None:
    maps = np.full((3, 4, 4), 1 / 16, np.float32)
    figure = draw_maps(Image.new("RGB", size), maps, step_scores=[0.1] * 3, score=0.3)
    assert max(figure.get_size_inches()) < 20
