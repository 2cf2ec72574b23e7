"""What several heads read of one image, as one tensor. Knows nothing of heads."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.recipe import LayerShape, Recipe
from featcache.store.cache import FeatureCache
from featcache.store.projection import Storing
from featcache.store.reading import ahead
from head.data.inputs import AHEAD, HeadInput, Pairs, input_from_json


@dataclass(frozen=True)
class SeveralInputs:
    """inputs, each once, are read side by side as (B, 1, D): each one's (L, D) in a row, position by position.

    attends is whether all of them are maps on one grid that the heads' attention is shown on.
    """

    inputs: tuple[HeadInput, ...]
    attends: bool = False
    pooling = "several"
    pooled = True

    @property
    def reads_pixels(self) -> bool:
        """Whether all of them are the pixels of views alone."""
        return all(one.reads_pixels for one in self.inputs)

    @property
    def layers(self) -> tuple[str, ...]:
        """Every layer that is read, once."""
        return tuple(dict.fromkeys(layer for one in self.inputs for layer in one.layers))

    def sizes(self, recipe: Recipe) -> list[tuple[int, int]]:
        """Return for each input positions L, tokens among them, and channels D."""
        return [(one.positions(recipe), one.map_shape(recipe).channels) for one in self.inputs]

    def slices(self, recipe: Recipe) -> list[slice]:
        """Return where each input lies among the channels of what is read."""
        stops = itertools.accumulate(positions * channels for positions, channels in self.sizes(recipe))
        return [slice(*pair) for pair in itertools.pairwise([0, *stops])]

    def positions(self, recipe: Recipe) -> int:
        """Return 1: all is in one row."""
        return 1

    def token_layers(self, recipe: Recipe) -> tuple[str, ...]:
        """Return none: attention that is shown has places alone."""
        return ()

    def tokens_in_words(self, recipe: Recipe) -> str:
        """Return '' likewise."""
        return ""

    def tokens(self, recipe: Recipe) -> int:
        """Return 0 likewise."""
        return 0

    def map_shape(self, recipe: Recipe) -> LayerShape:
        """Return height and width of the maps of attention, those of the first input, and D."""
        first = self.inputs[0].map_shape(recipe)
        return LayerShape(first.height, first.width, self.slices(recipe)[-1].stop)

    def places(self, maps: NDArray[np.float32], recipe: Recipe) -> NDArray[np.float32]:
        """Return attention (..., L) as (..., H, W)."""
        return self.inputs[0].places(maps, recipe)

    def read(self, cache: FeatureCache, rows: NDArray[np.int64], views: NDArray[np.int64] | int) -> Tensor:
        """Return features (B, 1, D) of (row, view) pairs, float32."""
        return in_a_row([one.read(cache, rows, views) for one in self.inputs])

    def batches(self, cache: FeatureCache, pairs: Pairs) -> Iterator[Tensor]:
        """Yield what `read` returns for each (rows, views), made ahead in threads."""
        yield from ahead(pairs, lambda _, pair: self.read(cache, *pair), prefetch=AHEAD)

    def of_maps(self, maps: Mapping[str, Tensor], constants: Mapping[str, Storing], recipe: Recipe) -> Tensor:
        """Return what `read` would, had the maps (B, L, D) of each layer been stored with these constants."""
        return in_a_row([one.of_maps(maps, constants, recipe) for one in self.inputs])

    def constants(self, cache: FeatureCache) -> dict[str, Storing]:
        """Return what each layer went through before it was stored, as `HeadInput.constants` does."""
        return {layer: values for one in self.inputs for layer, values in one.constants(cache).items()}

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object that `read_input` takes."""
        return {"inputs": [one.as_json() for one in self.inputs], "attends": self.attends}


AnyInput = HeadInput | SeveralInputs


def inputs_of(one: AnyInput) -> tuple[HeadInput, ...]:
    """Return each input that is read, of a head that has one that."""
    return one.inputs if isinstance(one, SeveralInputs) else (one,)


def in_a_row(features: Iterable[Tensor]) -> Tensor:
    """Return features (B, L, D) of several inputs as one tensor (B, 1, sum of L D), float32."""
    return torch.cat([one.flatten(1).float() for one in features], dim=1).unsqueeze(1)


def read_input(value: Any) -> AnyInput:
    """Return the input stored in a run; raise `ValueError` for anything that is none."""
    if isinstance(value, dict) and set(value) == {"inputs", "attends"}:
        if not value["inputs"]:
            raise ValueError("reads nothing")
        return SeveralInputs(tuple(map(input_from_json, value["inputs"])), bool(value["attends"]))
    return input_from_json(value)
