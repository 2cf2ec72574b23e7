"""One image that is in no cache and no file: its bytes in, score, looks and a small picture of it out."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.images.decode import decode_bytes
from featcache.images.views import Box
from head.prediction.predictor import Predictor
from head.show.overlay import seen_box
from head.show.page.packed import PackedMaps, Thumbnail, make_thumbnail, pack_maps

SIDE = 640  # pixels of the picture that is sent back
MOST_PIXELS = 40_000_000  # of an upload: a small file may declare far more, and each takes up to 50 bytes of memory


@dataclass(frozen=True)
class LiveResult:
    """An image's score, its steps (T) and maps, the box of the upright image that the head saw, and a picture of it.

    in_training says that the head was trained on this very file; None that nobody knows. size is in pixels.
    """

    score: float
    steps: tuple[float, ...]
    maps: PackedMaps | None
    in_training: bool | None
    size: tuple[int, int]
    box: Box
    picture: Thumbnail

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "score": self.score,
            "steps": list(self.steps),
            "maps": self.maps.as_json() if self.maps else None,
            "in_training": self.in_training,
            "size": list(self.size),
            "box": list(self.box),
            "picture": self.picture.as_text(),
        }


def predict_bytes(predictor: Predictor, data: bytes) -> LiveResult:
    """Return what `Predictor.predict` says of a file with these bytes; nothing of them is written anywhere.

    Raises `BadImage` if they are no image, or one whose declared size is too large to be decoded, and `BadInput` if
    the backbone makes nothing of it.
    """
    decoded = decode_bytes(data, most_pixels=MOST_PIXELS)
    run, found = predictor.run, predictor(np.asarray(decoded.rgb))
    width, height = decoded.rgb.size
    return LiveResult(
        score=float(found),
        steps=found.step_scores,
        maps=pack_maps(found.attention) if found.attention is not None else None,
        in_training=None if run.imported else decoded.sha256 in predictor.head.train_images,
        size=(width, height),
        box=seen_box(run.recipe.view_settings, width=width, height=height),
        picture=make_thumbnail(decoded.rgb, SIDE),
    )
