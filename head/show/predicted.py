"""The attention maps of an image that is in no cache, drawn over it."""

from featcache.images import decode_file

from ..predict import Prediction
from ..runs import Run
from .overlay import draw_maps, seen_box
from .style import as_png

_DPI = 150


def draw_prediction(run: Run, prediction: Prediction) -> bytes:
    """Return a PNG of the image's file with its maps, step scores and score; raise `BadImage` if the file is gone.

    prediction is one of `head.predict.Predictor.stream` for a file, with its attention.
    """
    if prediction.path is None or prediction.attention is None or prediction.score is None:
        raise ValueError("only an image's file with a score and maps can be drawn")
    image = decode_file(prediction.path).rgb
    figure = draw_maps(
        image,
        prediction.attention,
        step_scores=prediction.step_scores,
        score=prediction.score,
        title=prediction.path.name,
        box=seen_box(run.recipe.view_recipe, width=image.width, height=image.height),
    )
    return as_png(figure, _DPI)
