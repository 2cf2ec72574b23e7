"""Heads, means of heads, and whole models from pixels on, as modules that can be traced. Knows nothing of ONNX.

A head can be while `head.models.fused.switch` is off: what training is fast by, gradients by hand, compiled loops and
memory that is used again, no exporter can follow.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from featcache.backbones.families.extractor import Extractor
from featcache.recipe import LayerShape, Recipe
from featcache.settings import VIEWS_LAYER
from featcache.store.projection import Projection, Storing
from featcache.store.shards.encoding import LEVELS
from head.data.inputs import HeadInput
from head.data.several import SeveralInputs, in_a_row, inputs_of
from head.runs.head_file import TrainedHead
from head.runs.run import Run


class HeadGraph(nn.Module):
    """Features (B, L, D) float32 to score (B), step_scores (B, T) and, where the head has them, maps (B, T, L).

    L counts tokens as well.
    """

    def __init__(self, head: TrainedHead) -> None:
        super().__init__()
        self.module = head.module
        self.share, self.scale = head.target_mean / head.steps, head.target_scale
        self.calibrated = head.calibrated

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Map features to outputs on the scale of the data, float32."""
        steps, maps = self.unrounded(features)
        scores = (steps.sum(dim=1).float(), steps.float())
        return (*scores, maps) if maps.shape[2] else scores

    def unrounded(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features to step scores (B, T) float64 and maps (B, T, L), L = 0 where there are none."""
        output = self.module(features)
        return self.calibrated(output.step_scores.double() * self.scale + self.share), output.maps


class MeanGraph(nn.Module):
    """What `HeadGraph` gives, as means over several heads that read the same; and the deviation (B) of their scores."""

    def __init__(self, heads: Sequence[TrainedHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(HeadGraph(head) for head in heads)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Map features to means over the heads, float32, and the sample standard deviation of their scores."""
        found = [head.unrounded(features) for head in self.heads]  # type: ignore[operator]
        steps = torch.stack([steps for steps, _ in found])  # (M, B, T)
        maps = torch.stack([maps for _, maps in found]).mean(dim=0)  # (B, T, L)
        scores = steps.sum(dim=2)  # (M, B)
        mean = scores.mean(dim=0)
        deviation = ((scores - mean).square().sum(dim=0) / (len(found) - 1)).sqrt()
        outputs = (mean.float(), steps.mean(dim=0).float())
        return (*outputs, *([maps] if maps.shape[2] else []), deviation.float())


def graph_of(heads: Sequence[TrainedHead]) -> nn.Module:
    """Return the graph of one head, or of the mean of several."""
    return HeadGraph(heads[0]) if len(heads) == 1 else MeanGraph(heads)


class ModelGraph(nn.Module):
    """Pixels (B, S, S, 3) uint8 of evaluation views to what `graph_of` heads gives of their features.

    Features are rounded as they are where a cache stores them, which is what the head was trained on.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, extractor: Extractor, run: Run, heads: Sequence[TrainedHead]) -> None:
        super().__init__()
        self.network, self.maps_of, self.computed = extractor.module, extractor.maps, extractor.computed
        self.register_buffer("mean", 255 * torch.tensor(extractor.mean))
        self.register_buffer("std", 255 * torch.tensor(extractor.std))
        self.reading = Reading(run, heads[0].constants)
        self.head = graph_of(heads)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Map pixels to outputs on the scale of the data, float32."""
        x = ((pixels.float() - self.mean) / self.std).permute(0, 3, 1, 2)  # (B, 3, S, S)
        maps = dict(zip(self.computed, self.maps_of(x), strict=True))
        if VIEWS_LAYER in self.reading.layers:
            maps[VIEWS_LAYER] = pixels.float().permute(0, 3, 1, 2)
        outputs: tuple[Tensor, ...] = self.head(self.reading(maps))
        return outputs


class Reading(nn.Module):
    """Maps (B, D, height, width) of each layer to what a head reads of them, as its input's `of_maps` does."""

    def __init__(self, run: Run, constants: Mapping[str, Storing]) -> None:
        super().__init__()
        self.layers = run.input.layers
        self.in_a_row = isinstance(run.input, SeveralInputs)
        rounded = not run.imported  # whoever trained an imported head did not round
        inputs = inputs_of(run.input)
        self.readings = nn.ModuleList(_ReadingOne(one, run.recipe, constants, rounded=rounded) for one in inputs)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Map each layer's map to features (B, L, D), L + n with tokens, or (B, 1, D) where they are pooled."""
        found = [one(maps) for one in self.readings]
        return in_a_row(found) if self.in_a_row else found[0]


class _ReadingOne(nn.Module):
    """The same for one input."""

    def __init__(self, one: HeadInput, recipe: Recipe, constants: Mapping[str, Storing], *, rounded: bool) -> None:
        super().__init__()
        self.input, self.rounded = one, rounded
        map_shape = one.map_shape(recipe)
        smallest = (map_shape.height, map_shape.width)
        tokens = one.token_layers(recipe)
        self.layers = (*one.bands(recipe), *tokens)  # those that are joined, then tokens
        self.joined = len(self.layers) - len(tokens)
        for k, layer in enumerate(self.layers):
            shape = recipe.layer_shape(layer)
            as_is = (shape.height, shape.width) == smallest or one.pooled or layer in tokens
            self.register_buffer(f"share{k}", None if as_is else _shares(shape, smallest))
            values = constants.get(layer)
            mean, directions = (values.mean, values.directions) if isinstance(values, Projection) else (None, None)
            for name, array in (
                ("constants", None if isinstance(values, Projection) else values),
                ("mean", mean),
                ("directions", directions),
            ):
                self.register_buffer(f"{name}{k}", None if array is None else torch.from_numpy(array))

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Map each layer's map to features (B, L, D), L + n with tokens, or (B, 1, D) where they are pooled."""
        read = [self._read(k, maps[layer]) for k, layer in enumerate(self.layers)]
        joined, tokens = torch.cat(read[: self.joined], dim=2), read[self.joined :]
        return torch.cat([joined, *tokens], dim=1) if tokens else joined

    def _read(self, k: int, fmap: Tensor) -> Tensor:
        features = fmap.flatten(2).transpose(1, 2)  # (B, L, D)
        if self.rounded:
            features = _stored(features, getattr(self, f"constants{k}"))
        if (mean := getattr(self, f"mean{k}")) is not None:
            features = _stored((features - mean) @ getattr(self, f"directions{k}"), None)
        if not self.input.pooled:
            share = getattr(self, f"share{k}")
            return features if share is None else share @ features
        mean = features.mean(dim=1, keepdim=True)  # (B, 1, D)
        if self.input.pooling == "mean":
            return mean
        return torch.cat([mean, (features - mean).square().mean(dim=1, keepdim=True).sqrt()], dim=2)


def _shares(shape: LayerShape, smallest: tuple[int, int]) -> Tensor:
    """Return how much of each position of a map is in each of the smallest one's, (L of the smallest, L)."""
    one = torch.eye(shape.positions).reshape(shape.positions, shape.height, shape.width)
    return functional.adaptive_avg_pool2d(one, smallest).flatten(1).t()


def _stored(features: Tensor, constants: Tensor | None) -> Tensor:
    """Return features (B, L, D) float32 as a cache gives them back, rounded to float16 or to 8 bits."""
    if constants is None:
        return features.to(torch.float16).float()
    scale, zero = constants[0], constants[1]
    codes: Tensor = ((features / scale).round() + zero).clamp(0, LEVELS)
    return (codes - zero) * scale
