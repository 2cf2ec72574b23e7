"""The drawings of predictions: what each is made of, and processes that draw several at once.

Nothing here imports torch, so that those processes are ready before the first image is scored.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache.base.cores import usable_threads
from featcache.base.jobs import end_with
from featcache.images.decode import decode_file
from featcache.settings import ViewSettings
from head.show.overlay import draw_maps, draw_occlusion, seen_box
from head.show.style import as_png

if TYPE_CHECKING:
    from head.prediction.predictor import Prediction
    from head.runs.run import Run

Draw = Callable[["Run", "Prediction"], Callable[[], bytes]]  # what it returns gives the PNG once it is called
_FEWEST = 4  # drawings that are worth processes of their own: each is ready after a second and draws in 0.3 s
_MOST_PROCESSES = 8  # of some 100 MB each


@dataclass(frozen=True)
class Plate:
    """What the drawing of an image is made of: its file, how the head's view of it was cut, and its maps (T, H, W).

    step_scores is empty of an occlusion map (1, H, W); tokens is as `draw_maps` takes it.
    """

    path: Path
    views: ViewSettings
    maps: NDArray[np.float32]
    score: float
    step_scores: tuple[float, ...] = ()
    tokens: str = ""

    def as_png(self) -> bytes:
        """Return the drawing as PNG; raise `BadImage` if the file is gone."""
        image = decode_file(self.path).rgb
        box = seen_box(self.views, width=image.width, height=image.height)
        if not self.step_scores:
            return as_png(draw_occlusion(image, self.maps, score=self.score, title=self.path.name, box=box))
        figure = draw_maps(
            image,
            self.maps,
            step_scores=self.step_scores,
            score=self.score,
            title=self.path.name,
            box=box,
            tokens=self.tokens,
        )
        return as_png(figure)


def plate_of(run: "Run", prediction: "Prediction") -> Plate:
    """Return what is drawn of a prediction of `Predictor.stream` for a file, with its attention or occlusion."""
    path, score = prediction.path, prediction.score
    maps = prediction.attention if prediction.occlusion is None else prediction.occlusion
    if path is None or score is None or maps is None:
        raise ValueError("only an image's file with a score and maps can be drawn")
    views = run.recipe.view_settings
    if prediction.occlusion is not None:
        return Plate(path, views, maps, score)
    return Plate(path, views, maps, score, prediction.step_scores, run.tokens)


def draw_prediction(run: "Run", prediction: "Prediction") -> bytes:
    """Return a PNG of the image's file with its maps, step scores and score; raise `BadImage` if the file is gone."""
    return plate_of(run, prediction).as_png()


@contextmanager
def drawing(count: int) -> Iterator[Draw]:
    """Give what draws count predictions: several at once in processes of their own, which start now.

    Few are drawn here, and all where the system gives no processes.
    """
    processes = min(usable_threads(None), _MOST_PROCESSES, count // 2)
    if count < _FEWEST or processes < 2:
        yield _draw_here
        return
    draw: Draw = _draw_here
    with ExitStack() as stack:
        with suppress(OSError, ImportError, NotImplementedError, BrokenProcessPool):  # no more processes, no semaphores
            pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_prepare, initargs=(os.getpid(),))
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            for _ in range(processes):
                pool.submit(os.getpid)  # starts one of them
            draw = partial(_submit, pool)
        yield draw


def _draw_here(run: "Run", prediction: "Prediction") -> Callable[[], bytes]:
    return partial(draw_prediction, run, prediction)


def _prepare(parent: int) -> None:
    end_with(parent)

    import matplotlib.backends.backend_agg
    import matplotlib.style  # noqa: F401  # while the first images are scored


def _submit(pool: ProcessPoolExecutor, run: "Run", prediction: "Prediction") -> Callable[[], bytes]:
    plate = plate_of(run, prediction)
    try:
        waiting = pool.submit(plate.as_png)
    except BrokenProcessPool:
        return plate.as_png

    def drawn() -> bytes:
        try:
            return waiting.result()
        except BrokenProcessPool:  # one was killed, for memory, say
            return plate.as_png()

    return drawn
