"""Occlusion maps: what the score of a head without attention hangs on, place by place.

A place is emptied: in every layer the features of the positions in it are replaced by the mean training feature, which
says nothing known. What that takes from the score is the map. Vectors, which have no place, stay as they are.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.recipe import LayerShape, Recipe
from featcache.store.cache import FeatureCache
from head.data.batches import EVAL_VIEW
from head.data.inputs import HeadInput
from head.data.several import SeveralInputs, inputs_of
from head.models.kinds import kind_for, kind_of
from head.runs.head_file import TrainedHead, load_head
from head.runs.run import Run

MOST_PLACES = 16  # a side; a larger map is cut into patches
_AT_ONCE = 1 << 23  # numbers of pooled vectors in memory
_IMAGES = 64


def occludes(run: Run) -> bool:
    """Return whether a run's head has occlusion maps: it pools features, and some of them have places.

    Heads that attend have maps of their own. Others that read whole maps are computed anew for every place, and hold
    no mean training feature: networks that are trained further, and published heads without attention.
    """
    several = isinstance(run.input, SeveralInputs)  # a head made of others, each of which has its own
    if several or run.attends or not run.input.pooled or kind_for(run.train_settings).mean_feature is None:
        return False
    return any(run.recipe.layer_shape(layer).is_map for layer in run.input.layers)


def places_of(source: HeadInput, recipe: Recipe) -> tuple[int, int]:
    """Return height and width of occlusion maps: of the smallest map that is read, or of patches of it."""
    shapes = [recipe.layer_shape(layer) for layer in source.layers]
    smallest = min((shape for shape in shapes if shape.is_map), key=lambda shape: shape.positions)
    return _patches(smallest.height), _patches(smallest.width)


def occlusion(head: TrainedHead, source: HeadInput, recipe: Recipe, maps: Mapping[str, Tensor]) -> NDArray[np.float32]:
    """Return occlusion maps (B, 1, H, W), in units of the score, of the maps (B, L, D) of each layer.

    A value is the score less that with the place emptied: above 0 where the place raises the score.
    """
    kind = kind_of(head.module)
    if kind.mean_feature is None:
        raise ValueError("a head that holds no mean training feature")
    height, width = places_of(source, recipe)
    mean = kind.mean_feature(head.module).double().cpu()
    each = max(1, _AT_ONCE // ((1 + height * width) * source.map_shape(recipe).channels))
    found = []
    for start in range(0, len(next(iter(maps.values()))), each):
        vectors = []
        for layer, band in source.bands(recipe).items():
            features, shape = maps[layer][start : start + each].cpu().double(), recipe.layer_shape(layer)
            place = _place_of_positions(shape, height, width) if shape.is_map else None
            vectors.append(
                _emptied(features, mean[band][: shape.channels], place, height * width, source.pooling == "mean")
            )
        read = torch.cat(vectors, dim=2)  # (B, 1 + H * W, D)
        scores = head.predict(read.flatten(0, 1).unsqueeze(1))[0].cpu().view(len(read), -1)
        found.append((scores[:, :1] - scores[:, 1:]).view(-1, 1, height, width))
    return torch.cat(found).float().numpy()


def occlusion_of(cache: FeatureCache, run: Run, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Yield occlusion maps of the evaluation view of rows, in batches (B, 1, H, W)."""
    head, (source,) = load_head(run), inputs_of(run.input)
    for start in range(0, len(rows), _IMAGES):
        maps = source.read_layers(cache, rows[start : start + _IMAGES], EVAL_VIEW)
        yield occlusion(head, source, run.recipe, maps)


def _patches(side: int) -> int:
    """Return how many places a side has: a position each, or as few positions each as `MOST_PLACES` allows."""
    return -(-side // -(-side // MOST_PLACES))


def _place_of_positions(shape: LayerShape, height: int, width: int) -> Tensor:
    """Return for each position (L) of a map the number of the place, of height x width, that its middle is in."""
    rows = (2 * torch.arange(shape.height) + 1) * height // (2 * shape.height)
    columns = (2 * torch.arange(shape.width) + 1) * width // (2 * shape.width)
    return (rows.unsqueeze(1) * width + columns).flatten()


def _emptied(features: Tensor, mean: Tensor, place: Tensor | None, places: int, mean_alone: bool) -> Tensor:
    """Return features (B, L, D) pooled as they are and with each place emptied (B, 1 + places, D or 2 D).

    Less the mean training feature an emptied position is 0, so sums over positions lack those of the place. place (L)
    is that of each position, None where positions have none.
    """
    B, L, D = features.shape
    x = features - mean
    moments = []
    for values in (x, x.square()):
        left_out = values.new_zeros(B, 1 + places, D)
        if place is not None:
            left_out.index_add_(1, 1 + place, values)
        moments.append((values.sum(dim=1, keepdim=True) - left_out) / L)
    first, second = moments
    if mean_alone:
        return first + mean
    return torch.cat([first + mean, (second - first.square()).clamp(min=0).sqrt()], dim=2)
