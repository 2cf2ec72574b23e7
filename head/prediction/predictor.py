"""Score images that are in no cache, from features made exactly as the cache's were."""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from featcache.backbones.backbone import Backbone
from featcache.backbones.of_recipe import backbone_of_views, nearest_backbone
from featcache.base.errors import BadImage, BadInput, InvalidSettings, list_problems
from featcache.base.files import write_durably
from featcache.base.progress import OnProgress, Progress, silent
from featcache.images.decode import decode_file, decode_image, image_of_array
from featcache.images.loading import load_decoded
from featcache.store.cache import FeatureCache
from head.calibration.intervals import LEVEL, check_level, mean_half_width, why_none
from head.data.inputs import on_tokens
from head.data.several import inputs_of
from head.evaluation.marks import ScoreRange, score_range
from head.explain.occlusion import occludes, occlusion
from head.models.kinds import kind_of
from head.prediction.map_files import is_occlusion, write_maps
from head.prediction.members import Features, Member, find_members, left_out, predict_each, trained_on
from head.prediction.nearest import Neighbours, RatedImages, rated_images
from head.runs.head_file import TrainedHead, float64_note, load_head
from head.runs.hub import run_folder
from head.runs.run import Run

ImageLike = str | Path | Image.Image | NDArray[np.uint8]  # a file, or pixels (H, W, 3), (H, W, 4) or (H, W)


@dataclass(frozen=True)
class Prediction:
    """An image's score and the T step scores that add up to it, or the problem that left it without.

    path is its file, if it has one. in_training says that a member was trained on this very image, so that its score
    says nothing; None that nobody knows, as for an image that is no file. attention holds its attention maps (T, H, W),
    which a head without attention does not have; occlusion, where it was asked for, is the map (1, H, W) of what its
    score hangs on. maps is the file that one or the other was written to, if that was asked for.
    on_tokens (T) is the share of attention that is on tokens, which have no place in a map, where the head reads such.
    notes say what to know of an image that was read all the same, each as 'KIND: detail'. outside_range says that the
    score is outside the range of those that members were trained on; None where they do not tell it.

    Of several members score, step scores and maps are means over them, and deviation is the sample standard deviation
    of their scores, None of one member. trained_members of them were trained on this very image. lower and upper are
    the bounds of the prediction interval, means over members as well; None where there is no interval. neighbours are
    the nearest images that members were trained on, where a cache was given.
    """

    path: Path | None
    score: float | None = None
    step_scores: tuple[float, ...] = ()
    in_training: bool | None = False
    problem: str = ""
    maps: Path | None = None
    attention: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    notes: tuple[str, ...] = ()
    deviation: float | None = None
    trained_members: int = 0
    outside_range: bool | None = None
    on_tokens: tuple[float, ...] = ()
    neighbours: Neighbours | None = None
    occlusion: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    lower: float | None = None
    upper: float | None = None

    def __float__(self) -> float:
        """Return the score; raise `BadInput` if there is none."""
        if self.score is None:
            raise BadInput(f"{self.path}: {self.problem}")
        return self.score

    def as_json(self) -> dict[str, Any]:
        """Return the prediction as a JSON object, without its maps: of these, the file under what they are."""
        occluded = self.maps is not None and is_occlusion(self.maps)
        return {
            "path": None if self.path is None else str(self.path),
            "score": self.score,
            "deviation": self.deviation,
            "lower": self.lower,
            "upper": self.upper,
            "step_scores": list(self.step_scores),
            "on_tokens": list(self.on_tokens),
            "in_training": self.in_training,
            "outside_range": self.outside_range,
            **({} if self.neighbours is None else self.neighbours.as_json()),
            "problem": self.problem,
            "maps": None if self.maps is None or occluded else str(self.maps),
            "occlusion": str(self.maps) if occluded else None,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class _Loaded:
    """An image to score: its evaluation view (S, S, 3) and its file's digest, '' for no file; or its problem."""

    result: Prediction
    pixels: NDArray[np.uint8] | None = None
    sha256: str = ""


class Predictor:
    """One head, trained on one or several splits and with one or several seeds, and the backbone that it needs.

    `Predictor.load(RUN)("photo.jpg").score` is the mean over its members, which share one pass of the backbone.
    unfinished are runs beside them that are left out. rated are the images that members were trained on, None where no
    cache of them was given. level is the share of images whose ratings the intervals of predictions are to hold. Raises
    `InvalidSettings` for a level that is not between 0 and 1.
    """

    def __init__(
        self,
        members: Sequence[Member],
        backbone: Backbone,
        *,
        unfinished: Sequence[Run] = (),
        rated: RatedImages | None = None,
        level: float = LEVEL,
    ) -> None:
        check_level(level)
        self.members, self.backbone, self.unfinished = tuple(members), backbone, tuple(unfinished)
        self.rated, self.level = rated, level

    @property
    def run(self) -> Run:
        """The first member's run; all members' have its recipe, target and settings, but not its split and seed."""
        return self.members[0].run

    @functools.cached_property
    def score_range(self) -> ScoreRange | None:
        """The range of the scores that members were trained on, over all of them; None if one does not tell it."""
        return score_range(member.run for member in self.members)

    @functools.cached_property
    def half_width(self) -> float | None:
        """How far the bounds of the interval are from a score, the mean over members; None if one has no interval."""
        return mean_half_width([member.head.residuals for member in self.members], self.level)

    @property
    def head(self) -> TrainedHead:
        """The first member's head."""
        return self.members[0].head

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        weights: str | None = None,
        device: str = "auto",
        cache: FeatureCache | None = None,
        level: float = LEVEL,
    ) -> Self:
        """Return the predictor of a finished run, a folder or hf://OWNER/NAME[@REVISION] on the Hugging Face Hub.

        Of a folder that holds several runs of one head, its splits and seeds, all that are finished are members.
        weights overrides where the backbone's weights are looked for; heads that read pixels and hold all of their
        network need none. Raises `InvalidSettings` if there is no run or
        runs are of several heads, `CacheIncomplete` if the one run is unfinished, `Mismatch` if weights are not those
        that the head's features were made with. A head that is a part of the network computes where the backbone does.
        cache is the one that it was trained on, by which predictions have neighbours; raises what `rated_images` does.
        """
        check_level(level)
        runs, unfinished = find_members(run_folder(str(folder)))
        members = [Member(one, load_head(one, weights=weights)) for one in runs]
        run, size = runs[0], runs[0].config.batch_size
        if weights is None and all(member.stands_alone for member in members):
            backbone = backbone_of_views(run.recipe, batch_size=size, device=device)
        else:
            backbone = nearest_backbone(
                run.recipe,
                weights=weights or run.weights_source,
                batch_size=size,
                device=device,
                where=str(folder),
                way_out="Import the head again."
                if run.imported and not weights
                else "Pass the weights that the cache was extracted with as --weights FILE.",
            )
        for member in members:
            if kind_of(member.head.module).is_network:
                member.head.to(backbone.device)
        rated = None if cache is None else rated_images(cache, runs, trained_on(members))
        return cls(members, backbone, unfinished=unfinished, rated=rated, level=level)

    @overload
    def __call__(self, images: ImageLike, *, occlusion: bool = False) -> Prediction: ...

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...], *, occlusion: bool = False) -> list[Prediction]: ...

    def __call__(
        self, images: ImageLike | list[Any] | tuple[Any, ...], *, occlusion: bool = False
    ) -> Prediction | list[Prediction]:
        """Return the prediction for an image, or one for each of several, attention maps included.

        With occlusion also the occlusion map of each, of a head that `occludes` says has one.

        An image is a file, a Pillow image, or an array of uint8, (H, W, 3), (H, W, 4) or (H, W), and is treated as a
        file of the same pixels would be. Raises `BadInput` that lists every image that cannot be scored.
        """
        if not isinstance(images, list | tuple):
            return self([images], occlusion=occlusion)[0]
        results = list(self.stream(images, occlusion=occlusion))
        problems = [
            f"{result.path if result.path is not None else f'image {place}'}: {result.problem}"
            for place, result in enumerate(results)
            if result.problem
        ]
        if problems:
            title, way_out = "images that cannot be scored:", "Leave them out, or mend them."
            raise BadInput(problems[0] if len(problems) == 1 else list_problems(title, problems, way_out))
        return results

    def warnings(self) -> list[str]:
        """Return which runs are left out as unfinished, and that the head is on the CPU where there is no float64.

        Of several runs that their mean is given; of a head on all images what is known of how well it does; why scores
        have no interval, where they have none.
        """
        of_all = f"{self.run.folder}: {self.run.estimate}" if self.run.estimate else ""
        splits = dict.fromkeys(member.run.split for member in self.members)
        mean = (
            f"scores are means over {len(self.members)} runs, of splits {', '.join(splits)}"
            if len(self.members) > 1
            else ""
        )
        note = float64_note(self.head, self.backbone.device)
        why = why_none([member.head.residuals for member in self.members], self.level)
        no_interval = f"scores have no prediction interval: {why}" if why else ""
        return [*left_out(self.unfinished), *filter(None, [note, mean, of_all, no_interval])]

    def trained_members(self, sha256: str) -> int:
        """Return how many members were trained on the image whose file has this sha256."""
        return sum(sha256 in member.head.train_images for member in self.members)

    def in_training(self, sha256: str) -> bool | None:
        """Return whether a member was trained on the image whose file has this sha256; None that nobody knows.

        Nobody knows of an imported head, or of an image that is no file, whose sha256 is ''.
        """
        if self.trained_members(sha256):
            return True
        return None if not sha256 or any(member.run.imported for member in self.members) else False

    def predict(
        self,
        paths: Sequence[Path],
        *,
        map_files: Sequence[Path] = (),
        draw: Callable[[Run, Prediction], Callable[[], bytes]] | None = None,
        on_progress: OnProgress = silent,
    ) -> list[Prediction]:
        """Return a prediction for each image file, in order; a bad image gets its problem instead of a score.

        The maps of each go into its own of map_files, if any: .npy, float32 (T, H, W), and the PNG that draw makes of
        them into .png beside it; what draw returns is called for it once images behind it have been scored. They are of
        attention or, of a head that has none, of occlusion (1, H, W), where names end as
        `head.prediction.map_files.map_files` has them. Raises `InvalidSettings` if the head has no maps.
        """
        if map_files:
            self.check_maps()
        results = []
        waiting: deque[tuple[Path, Callable[[], bytes]]] = deque()
        for done, result in enumerate(self.stream(paths, occlusion=bool(map_files)), start=1):
            kept = replace(result, attention=None, occlusion=None)
            maps = result.occlusion if result.attention is None else result.attention
            if map_files and maps is not None:
                write_maps(map_files[done - 1], maps)
                if draw is not None:
                    waiting.append((map_files[done - 1].with_suffix(".png"), draw(self.run, result)))
                    _write_drawings(waiting, self.backbone.batch_size)
                kept = replace(kept, maps=map_files[done - 1])
            results.append(kept)
            if done % self.backbone.batch_size == 0 and done < len(paths):
                on_progress(Progress("predict", done, len(paths), "images"))
        _write_drawings(waiting, 0)
        on_progress(Progress("predict", len(paths), len(paths), "images"))
        return results

    def check_maps(self) -> None:
        """Raise `InvalidSettings` if the head has neither attention nor occlusion maps."""
        if not (self.run.attends or self.occludes):
            raise InvalidSettings(f"{self.run.folder}: a head without attention, which has no maps; leave --maps out")

    @functools.cached_property
    def occludes(self) -> bool:
        """Whether it has occlusion maps, as a head without attention on features that have places."""
        return occludes(self.run)

    def stream(self, images: Iterable[ImageLike], *, occlusion: bool = False) -> Iterator[Prediction]:
        """Yield a prediction for each image, in order, as batches of them are scored; a bad one has its problem.

        With occlusion also the occlusion map of each, of a head that has one.
        """
        occluded = occlusion and self.occludes
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            raise InvalidSettings("stream takes several images: a list of them, or Path(FOLDER).glob('*.jpg')")
        waiting: list[_Loaded] = []
        for image in images:
            waiting.append(self._load(image))
            if sum(one.pixels is not None for one in waiting) == self.backbone.batch_size:
                yield from self._scored(waiting, occluded=occluded)
                waiting = []
        yield from self._scored(waiting, occluded=occluded)

    def _load(self, image: ImageLike) -> _Loaded:
        path = Path(image) if isinstance(image, str | Path) else None
        try:
            if path is None:
                pixels = image if isinstance(image, Image.Image) else image_of_array(np.asarray(image))
                decoded = decode_image(pixels)
            else:
                decoded = decode_file(path)
        except (BadImage, InvalidSettings) as error:
            return _Loaded(Prediction(path, problem=str(error)))
        view = load_decoded(decoded, "" if path is None else path.name, (0, 1), self.run.recipe).pixels[0]
        return _Loaded(Prediction(path, notes=decoded.notes), view, decoded.sha256)

    def _scored(self, images: Sequence[_Loaded], *, occluded: bool) -> Iterator[Prediction]:
        pixels = [image.pixels for image in images if image.pixels is not None]
        features = self.backbone(torch.from_numpy(np.stack(pixels))) if pixels else {}
        of_each = zip(*self._score(features), strict=True) if pixels else iter(())
        maps = iter(self._occlusion(features)) if pixels and occluded else itertools.repeat(None)
        neighbours = iter(self._neighbours(features)) if pixels and self.rated else itertools.repeat(None)
        for image in images:
            if image.pixels is None:
                yield image.result
            else:
                yield replace(
                    self._prediction(image, *next(of_each)), occlusion=next(maps), neighbours=next(neighbours)
                )

    def _prediction(
        self, image: _Loaded, scores: NDArray[np.float64], steps: NDArray[np.float64], maps: NDArray[np.float32]
    ) -> Prediction:
        """Return the prediction of an image from its scores (M), step scores (M, T) and maps (M, T, H, W)."""
        if not np.isfinite(scores).all():
            return replace(image.result, problem="the score is not finite")
        score, attention, half = float(scores.mean()), maps.mean(axis=0), self.half_width
        return replace(
            image.result,
            score=score,
            step_scores=tuple(steps.mean(axis=0).tolist()),
            in_training=self.in_training(image.sha256),
            attention=attention if self.run.attends else None,
            on_tokens=tuple(on_tokens(attention)) if self.run.tokens else (),
            deviation=float(scores.std(ddof=1)) if len(scores) > 1 else None,
            trained_members=self.trained_members(image.sha256),
            outside_range=None if self.score_range is None else not self.score_range.has(score),
            lower=None if half is None else score - half,
            upper=None if half is None else score + half,
        )

    def _occlusion(self, features: Mapping[str, Tensor]) -> NDArray[np.float32]:
        """Return the mean over members of occlusion maps (B, 1, H, W), from the maps (B, L, D) of each layer."""
        (source,), recipe = inputs_of(self.run.input), self.run.recipe
        stored = [source.layers_of_maps(features, one.head.constants) for one in self.members]
        maps = [occlusion(one.head, source, recipe, layers) for one, layers in zip(self.members, stored, strict=True)]
        mean: NDArray[np.float32] = np.mean(maps, axis=0)
        return mean

    def _score(
        self, features: Mapping[str, Tensor]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
        """Return scores (B, M), step scores (B, M, T) and maps (B, M, T, H, W), where the M members have such."""
        read: dict[Features, Tensor] = {}
        for member in self.members:
            if member.features not in read:
                read[member.features] = self._read(features, member)
        predicted = predict_each(self.members, read)
        scores, steps, looks = (torch.stack(column, dim=1).numpy() for column in zip(*predicted, strict=True))
        if self.run.attends:
            looks = self.run.input.places(looks, self.run.recipe)
        return scores, steps, looks

    def _neighbours(self, features: Mapping[str, Tensor]) -> Sequence[Neighbours]:
        """Return the nearest rated images of each image, none where none are known."""
        return self.rated.of_maps(features, self.members[0].head.constants, self.run.recipe) if self.rated else ()

    def _read(self, features: Mapping[str, Tensor], member: Member) -> Tensor:
        """Return what a member reads (B, L, D), from the feature maps (B, L, D) of each layer."""
        if member.run.imported:  # whoever trained it did not round them, which changes its maps by up to 1e-4
            return features[member.run.input.layers[0]].cpu()
        return member.run.input.of_maps(features, member.head.constants, member.run.recipe)


def _write_drawings(waiting: deque[tuple[Path, Callable[[], bytes]]], most: int) -> None:
    """Write the first of the drawings that are waited for, until at most so many are left."""
    while len(waiting) > most:
        path, drawn = waiting.popleft()
        write_durably(path, drawn())
