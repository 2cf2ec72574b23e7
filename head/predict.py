"""Score images that are in no cache, from features made exactly as the cache's were."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.backbones import Backbone
from featcache.errors import BadImage, InvalidSettings
from featcache.images import SUFFIXES
from featcache.loading import load_image
from featcache.progress import OnProgress, Progress, silent
from featcache.recipe import backbone_of

from .maps import has_maps, write_map
from .runs import Run, TrainedHead, load_head, read_run


@dataclass(frozen=True)
class Prediction:
    """An image's score and the T step scores that add up to it, or the problem that left it without.

    in_training says that the head was trained on this very image, so that its score says nothing; None that nobody
    knows. maps is the file of its attention maps (T, H, W), if such were asked for.
    """

    path: Path
    score: float | None = None
    step_scores: tuple[float, ...] = ()
    in_training: bool | None = False
    problem: str = ""
    maps: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the prediction as a JSON object."""
        return {**asdict(self), "path": str(self.path), "maps": None if self.maps is None else str(self.maps)}


@dataclass(frozen=True)
class _Batch:
    places: list[int]
    pixels: list[NDArray[np.uint8]]
    digests: list[str]


class Predictor:
    """A run's head with its own backbone; made by `load_predictor`."""

    def __init__(self, run: Run, head: TrainedHead, backbone: Backbone) -> None:
        self.run, self.head, self.backbone = run, head, backbone

    def predict(
        self, paths: Sequence[Path], *, map_files: Sequence[Path] = (), on_progress: OnProgress = silent
    ) -> list[Prediction]:
        """Return a prediction for each image file, in order; a bad image gets its problem instead of a score.

        The attention maps of each go into its own of map_files, if any: .npy, float32 (T, H, W). Raises
        `InvalidSettings` if the head has no maps.
        """
        if map_files and not has_maps(self.head.module):
            raise InvalidSettings(f"{self.run.folder}: a baseline, which has no attention maps; leave --maps out")
        results = [Prediction(path) for path in paths]
        for batch in self._batches(results):
            scores, steps, maps = self._score(batch.pixels)
            for k, place in enumerate(batch.places):
                if not np.isfinite(scores[k]):
                    results[place] = Prediction(paths[place], problem="the backbone gave a feature that is not finite")
                    continue
                file = map_files[place] if map_files else None
                if file is not None:
                    write_map(file, maps[k])
                seen = None if self.run.imported else batch.digests[k] in self.head.train_images
                steps_of_one = tuple(steps[k].tolist())
                results[place] = Prediction(paths[place], float(scores[k]), steps_of_one, seen, maps=file)
            if batch.places[-1] + 1 < len(paths):
                on_progress(Progress("predict", batch.places[-1] + 1, len(paths), "images"))
        on_progress(Progress("predict", len(paths), len(paths), "images"))
        return results

    def _batches(self, results: list[Prediction]) -> Iterator[_Batch]:
        """Yield batches of evaluation views; write the problem of each bad image into results."""
        batch = _Batch([], [], [])
        for place, result in enumerate(results):
            try:
                image = load_image(result.path, result.path.name, (0, 1), self.run.recipe)
            except BadImage as error:
                results[place] = Prediction(result.path, problem=str(error))
                continue
            batch.places.append(place)
            batch.pixels.append(image.pixels[0])
            batch.digests.append(image.row.sha256)
            if len(batch.places) == self.backbone.batch_size:
                yield batch
                batch = _Batch([], [], [])
        if batch.places:
            yield batch

    def _score(
        self, pixels: list[NDArray[np.uint8]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
        """Return scores (B), step scores (B, T) and attention maps (B, T, H, W), where the head has such."""
        features = self.backbone(torch.from_numpy(np.stack(pixels)))
        if self.run.imported:  # whoever trained it did not round them, which changes its maps by up to 1e-4
            read = features[self.run.input.layers[0]].cpu()
        else:
            read = self.run.input.of_maps(features, self.head.constants, self.run.recipe)
        score, steps, looks = self.head.predict(read)
        maps = looks.numpy()  # (B, T, L)
        if has_maps(self.head.module):
            shape = self.run.input.grid(self.run.recipe)
            maps = maps.reshape(*maps.shape[:2], shape.height, shape.width)
        return score.numpy(), steps.numpy(), maps


def load_predictor(folder: Path, *, weights: str | None = None, device: str = "auto") -> Predictor:
    """Return the predictor of a finished run; weights overrides where the backbone's weights are looked for.

    Raises `Mismatch` if the weights are not those that the head's features were made with.
    """
    run = read_run(folder)
    head = load_head(run)
    backbone = backbone_of(
        run.recipe,
        weights=weights or run.weights_source,
        batch_size=run.config["batch_size"],
        device=device,
        nearest=True,
        where=str(folder),
        way_out="Import the head again."
        if run.imported and not weights
        else "Pass the weights that the cache was extracted with as --weights FILE.",
    )
    return Predictor(run, head, backbone)


def list_images(arguments: Sequence[Path]) -> list[Path]:
    """Return the image files among arguments and in the folders among them, recursively, in order of path.

    Raises `InvalidSettings` that lists every argument that is not there, or a folder without images.
    """
    paths: list[Path] = []
    problems = []
    for argument in arguments:
        if argument.is_dir():
            found = sorted(path for path in argument.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            paths += found
            problems += [] if found else [f"{argument} holds no {', '.join(SUFFIXES)} files"]
        elif argument.exists():
            paths.append(argument)
        else:
            problems.append(f"{argument} does not exist")
    if problems:
        raise InvalidSettings("; ".join(problems))
    return paths
