"""Maps of a few images of low, middle and high score, over the photographs that the cache was made of.

They are of attention or, where no head has that, of occlusion.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache.base.errors import BadInput, printable
from featcache.datasets.dataset import images_of
from featcache.images.identity import original
from featcache.store.cache import FeatureCache
from head.data.batches import present_part
from head.evaluation.evaluate import Evaluation
from head.evaluation.metrics import Scores
from head.evaluation.score import Scored, attention_of
from head.explain.occlusion import occludes, occlusion_of
from head.show.figures.figures import Drawing, Drawings
from head.show.overlay import draw_maps, draw_occlusion, seen_box
from head.show.style import check_matplotlib, shortened

_EACH = 2  # images of low, of middle and of high score


def draw_examples(cache: FeatureCache, evaluation: Evaluation, *, root: Path | None = None) -> Drawings:
    """Return maps over images, lowest predicted score first, and for images that were left out, why.

    root is where the dataset is now, if it has moved. The head is that of the first run of the first row that attends,
    or else of the first that has occlusion maps. Raises `InvalidSettings` without matplotlib.
    """
    check_matplotlib()
    every = [one for summary in evaluation.summaries for one in summary.scored]
    with_maps = [one for one in every if one.run.attends] or [one for one in every if occludes(one.run)]
    if not with_maps:
        return Drawings([], ["attention maps: no head here has attention, or features with places"])
    scored = with_maps[0]
    places = chosen(scored.prediction)
    rows = present_part(cache, cache.splits[scored.run.split][scored.part]).rows[places]
    batches = attention_of(cache, scored.run, rows) or occlusion_of(cache, scored.run, rows)
    maps, kind = [one for batch in batches for one in batch], "attention" if scored.run.attends else "occlusion"
    found, absent, folder = Drawings([], []), [], images_of(cache.manifest.source, root)
    for number, (place, row, one) in enumerate(zip(places.tolist(), rows, maps, strict=True), start=1):
        image = cache.images[row]
        try:
            drawing = _drawing(cache, scored, original(image, folder), one, place=place, name=f"{kind}-{number}")
            found.drawings.append(drawing)
        except BadInput as error:
            absent.append(f"{image.name} ({error})")
    if absent:
        found.left_out.append(f"{kind} maps: {', '.join(absent)}; looked for in {folder}")
    return found


def chosen(prediction: Scores) -> NDArray[np.int64]:
    """Return the places of the two lowest, middle and highest predictions that are finite, in that order; each once."""
    order = np.argsort(prediction, kind="stable")
    order = order[np.isfinite(prediction[order])]
    middle = max(0, len(order) // 2 - _EACH // 2)
    ranks = np.r_[
        : min(_EACH, len(order)), middle : min(middle + _EACH, len(order)), max(0, len(order) - _EACH) : len(order)
    ]
    places: NDArray[np.int64] = order[np.unique(ranks)]
    return places


def _drawing(
    cache: FeatureCache, scored: Scored, picture: Image.Image, maps: NDArray[np.float32], *, place: int, name: str
) -> Drawing:
    run = scored.run
    shown: dict[str, Any] = {
        "score": float(scored.prediction[place]),
        "truth": float(scored.truth[place]),
        "title": scored.names[place],
        "box": seen_box(cache.recipe.view_settings, width=picture.width, height=picture.height),
    }
    seen = (
        "which it saw whole" if cache.recipe.eval_view == "squash" else "of which it saw the middle; the rest is dark"
    )
    of = f"{shortened(run.name, 60)}, split {printable(run.split)}, over {printable(scored.names[place])}"
    where = f"of the {scored.part} part, {seen}"
    if not run.attends:
        figure = draw_occlusion(picture, maps, **shown)
        caption = (
            f"Occlusion of {of} {where}: by how much the score is higher than with a place emptied, its features "
            "replaced by the mean training feature."
        )
        return Drawing(name, "Occlusion maps", figure, caption)
    steps = scored.step_scores[place].tolist()
    figure = draw_maps(picture, maps, step_scores=steps, tokens=run.tokens, **shown)
    lacks = f" What is on {run.tokens}, which has no place, is told in percent." if run.tokens else ""
    caption = (
        f"Attention of {of} {where}. Colours are attention over uniform attention, on one scale; step scores m_t add "
        f"up to the score.{lacks}"
    )
    return Drawing(name, "Attention maps", figure, caption)
