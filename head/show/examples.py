"""Attention maps of a few images of low, middle and high score, over the photographs that the cache was made of."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache.cache import FeatureCache
from featcache.dataset import images_of
from featcache.errors import BadImage, printable
from featcache.originals import original

from ..data import EVAL_VIEW
from ..evaluation import Evaluation
from ..maps import has_maps
from ..metrics import Scores
from ..runs import TrainedHead, load_head
from ..score import Scored
from .figures import Drawing, Drawings
from .overlay import draw_maps, seen_box
from .style import check_matplotlib, shortened

_EACH = 2  # images of low, of middle and of high score


def draw_examples(cache: FeatureCache, evaluation: Evaluation, *, root: Path | None = None) -> Drawings:
    """Return maps over images, lowest predicted score first, and for images that were left out, why.

    root is where the dataset is now, if it has moved. The head is that of the first run of the first row that attends.
    Raises `InvalidSettings` without matplotlib.
    """
    check_matplotlib()
    scored = next((one for row in evaluation.rows for one in row.scored if one.run.attends), None)
    head = load_head(scored.run) if scored else None
    if scored is None or head is None or not has_maps(head.module):
        return Drawings([], ["attention maps: no head here has attention"])
    rows = {image.name: row for row, image in enumerate(cache.images)}
    found, absent, folder = Drawings([], []), [], images_of(cache.manifest.source, root)
    for number, place in enumerate(chosen(scored.prediction).tolist(), start=1):
        row = rows[scored.names[place]]
        try:
            picture = original(cache.images[row], folder)
        except BadImage as error:
            absent.append(f"{cache.images[row].name} ({error})")
            continue
        found.drawings.append(_drawing(cache, scored, head, picture, place=place, row=row, name=f"attention-{number}"))
    if absent:
        found.left_out.append(f"attention maps: {', '.join(absent)}; looked for in {folder}")
    return found


def chosen(prediction: Scores) -> NDArray[np.int64]:
    """Return the places of the two lowest, the two middle and the two highest predictions, in that order; each once."""
    order = np.argsort(prediction, kind="stable")
    middle = max(0, len(order) // 2 - _EACH // 2)
    ranks = np.r_[
        : min(_EACH, len(order)), middle : min(middle + _EACH, len(order)), max(0, len(order) - _EACH) : len(order)
    ]
    places: NDArray[np.int64] = order[np.unique(ranks)]
    return places


def _drawing(
    cache: FeatureCache, scored: Scored, head: TrainedHead, picture: Image.Image, *, place: int, row: int, name: str
) -> Drawing:
    run = scored.run
    score, steps, maps = head.predict(run.input.read(cache, np.array([row]), EVAL_VIEW))
    grid = run.input.grid(run.recipe)
    figure = draw_maps(
        picture,
        maps[0].numpy().reshape(-1, grid.height, grid.width),
        step_scores=steps[0].tolist(),
        score=float(score[0]),
        truth=float(scored.truth[place]),
        title=scored.names[place],
        box=seen_box(cache.recipe.view_recipe, width=picture.width, height=picture.height),
    )
    seen = (
        "which it saw whole" if cache.recipe.eval_view == "squash" else "of which it saw the middle; the rest is dark"
    )
    caption = (
        f"Attention of {shortened(run.name, 60)}, split {printable(run.split)}, over {printable(scored.names[place])} "
        f"of the {scored.part} part, {seen}. Colours are attention over uniform attention, on one "
        "scale; step scores m_t add up to the score."
    )
    return Drawing(name, "Attention maps", caption, figure)
