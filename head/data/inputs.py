"""What a head reads of an image: feature maps, with or without tokens that have no place, or pooled vectors."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from featcache.base.errors import InvalidSettings
from featcache.recipe import LayerShape, Recipe
from featcache.settings import PREFIX, VIEWS_LAYER
from featcache.store.cache import FeatureCache
from featcache.store.projection import Storing, as_stored, decoded
from featcache.store.reading import ahead
from featcache.store.shards.encoding import Constants, decode

POOLINGS = ("maps", "tokens", "mean", "mean+deviation")
AHEAD = 2  # batches that are read before they are asked for
Pairs = Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]  # rows and views of batches
_IN_WORDS = {"cls": "the class token"}


@dataclass(frozen=True)
class HeadInput:
    """layers in order, and how each is seen: as 'maps' (B, L, D), as 'tokens', or pooled over its positions (B, 1, D).

    Several layers are joined, D the sum of theirs (twice that with deviation); maps in the shape of the smallest of
    them, the others averaged down to it, and layers of one vector repeated at every position. As 'tokens' vectors are
    not joined: in the order of their layers they are n more positions behind the L places of the maps, (B, L + n, D),
    each as wide as the joined maps.
    """

    layers: tuple[str, ...]
    pooling: str

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise InvalidSettings(f"pooling must be {', '.join(POOLINGS)}, found {self.pooling!r}")
        if not self.layers:
            raise InvalidSettings("a head reads at least one layer")

    @property
    def reads_pixels(self) -> bool:
        """Whether it is the pixels of views alone, which no network computes."""
        return self.layers == (VIEWS_LAYER,)

    @property
    def pooled(self) -> bool:
        """Whether it is vectors pooled over positions, and no positions."""
        return self.pooling not in ("maps", "tokens")

    @property
    def stored_pooled(self) -> bool:
        """Whether mean and deviation of its channels follow from the pooled vectors of a cache."""
        return self.pooled or len(self.layers) == 1

    def token_layers(self, recipe: Recipe) -> tuple[str, ...]:
        """Return the layers whose vectors are tokens, and not joined."""
        vectors = tuple(layer for layer in self.layers if not recipe.layer_shape(layer).is_map)
        return vectors if self.pooling == "tokens" else ()

    def tokens_in_words(self, recipe: Recipe) -> str:
        """Return what attention can go to that has no place: 'the class token and 4 registers'; '' for nothing."""
        counts = {layer: recipe.layer_shape(layer).positions for layer in self.token_layers(recipe)}
        return " and ".join(_named(name, n) for name, n in counts.items())

    def tokens(self, recipe: Recipe) -> int:
        """Return n, how many tokens are read."""
        return sum(recipe.layer_shape(layer).positions for layer in self.token_layers(recipe))

    def positions(self, recipe: Recipe) -> int:
        """Return how many positions a head reads: L, or L + n with tokens, or 1 of pooled vectors."""
        return 1 if self.pooled else self.map_shape(recipe).positions + self.tokens(recipe)

    def places(self, maps: NDArray[np.float32], recipe: Recipe) -> NDArray[np.float32]:
        """Return attention (..., L) or (..., L + n) on the places alone (..., H, W); see `on_tokens` for the rest."""
        shape = self.map_shape(recipe)
        return maps[..., : shape.positions].reshape(*maps.shape[:-1], shape.height, shape.width)

    def map_shape(self, recipe: Recipe) -> LayerShape:
        """Return the shape of the maps, all channels together; of pooled vectors, that of the smallest map."""
        bands = self.bands(recipe)
        shapes = [recipe.layer_shape(layer) for layer in bands]
        maps = [shape for shape in shapes if shape.positions > 1] or shapes
        smallest = min(maps, key=lambda shape: shape.positions)
        return LayerShape(smallest.height, smallest.width, max(band.stop for band in bands.values()))

    def bands(self, recipe: Recipe) -> dict[str, slice]:
        """Return which of the joined channels are those of each layer that is joined."""
        each = 2 if self.pooling == "mean+deviation" else 1
        tokens = self.token_layers(recipe)
        joined = [layer for layer in self.layers if layer not in tokens]
        stops = itertools.accumulate(each * recipe.layer_shape(layer).channels for layer in joined)
        return {layer: slice(*pair) for layer, pair in zip(joined, itertools.pairwise([0, *stops]), strict=True)}

    def read(self, cache: FeatureCache, rows: NDArray[np.int64], views: NDArray[np.int64] | int) -> Tensor:
        """Return features of (row, view) pairs, float32: (B, L, D), with tokens (B, L + n, D), or pooled (B, 1, D)."""
        if not self.pooled:
            return self._join_maps(self.read_layers(cache, rows, views), cache.recipe)
        return self._join([torch.from_numpy(cache.read_pooled(rows, views, layer)) for layer in self.layers])

    def read_layers(
        self, cache: FeatureCache, rows: NDArray[np.int64], views: NDArray[np.int64] | int
    ) -> dict[str, Tensor]:
        """Return the features (B, L, D) float32 of each layer, neither pooled nor joined."""
        return {layer: decode(cache.read(rows, views, layer), cache.constants(layer)) for layer in self.layers}

    def yields_stored(self, constants: Mapping[str, Any]) -> bool:
        """Whether `batches` gives maps as they are stored: those of one layer without constants."""
        return self.pooling == "maps" and len(self.layers) == 1 and not constants

    def batches(self, cache: FeatureCache, pairs: Pairs) -> Iterator[Tensor]:
        """Yield what `read` returns for each (rows, views), made ahead in threads; maps stored as float16 stay that.

        A batch is valid until the next is asked for.
        """
        if not self.yields_stored(self.codes(cache)):
            yield from ahead(pairs, lambda _, pair: self.read(cache, *pair), prefetch=AHEAD)
            return
        for stored in cache.batches(pairs, self.layers[0], prefetch=AHEAD):
            yield torch.from_numpy(stored)

    def stored(self, cache: FeatureCache, rows: NDArray[np.int64], views: NDArray[np.int64] | int) -> dict[str, Tensor]:
        """Return of each layer what the cache stores, float16 or uint8 (B, L, D), or pooled float32 (B, 2, D)."""
        read = cache.read_pooled if self.pooled else cache.read
        return {layer: torch.from_numpy(read(rows, views, layer)) for layer in self.layers}

    def stored_batches(
        self, cache: FeatureCache, pairs: Pairs, allocate: Callable[[tuple[int, ...], np.dtype[Any]], NDArray[Any]]
    ) -> Iterator[dict[str, Tensor]]:
        """Yield for each (rows, views) each layer's maps (B, L, D) as they are stored, in arrays that allocate makes.

        They are what `of_stored` takes, not of pooled vectors, made ahead in threads, and valid until the next are
        asked for.
        """
        listed = list(pairs)
        readers = [cache.batches(listed, layer, prefetch=AHEAD, allocate=allocate) for layer in self.layers]
        for stored in zip(*readers, strict=True):
            yield {layer: torch.from_numpy(codes) for layer, codes in zip(self.layers, stored, strict=True)}

    def of_stored(
        self, stored: Mapping[str, Tensor], constants: Mapping[str, Constants | Tensor], recipe: Recipe
    ) -> Tensor:
        """Return what `batches` gives of what `stored` or `stored_batches` gives, on the device where that is.

        uint8 codes, half the bytes of float16, are decoded there.
        """
        if self.pooled:
            return self._join([stored[layer] for layer in self.layers])
        if self.yields_stored(constants):
            return stored[self.layers[0]]
        return self._join_maps({layer: decode(stored[layer], constants.get(layer)) for layer in self.layers}, recipe)

    def of_maps(self, maps: Mapping[str, Tensor], constants: Mapping[str, Storing], recipe: Recipe) -> Tensor:
        """Return what `read` would, had the maps (B, L, D) of each layer been stored with these constants."""
        if not self.pooled:
            return self._join_maps(self.layers_of_maps(maps, constants), recipe)
        stored = {layer: as_stored(maps[layer], constants.get(layer)) for layer in self.layers}
        return self._join([torch.from_numpy(stored[layer].pooled) for layer in self.layers])

    def layers_of_maps(self, maps: Mapping[str, Tensor], constants: Mapping[str, Storing]) -> dict[str, Tensor]:
        """Return what `read_layers` would, had the maps (B, L, D) of each layer been stored with these constants."""
        how = {layer: constants.get(layer) for layer in self.layers}
        return {layer: decoded(as_stored(maps[layer], storing), storing) for layer, storing in how.items()}

    def _join_maps(self, maps: Mapping[str, Tensor], recipe: Recipe) -> Tensor:
        """Join maps (B, L, D) of each layer in one shape, tokens behind them."""
        if len(self.layers) == 1:
            return maps[self.layers[0]]
        side = (self.map_shape(recipe).height, self.map_shape(recipe).width)
        joined = [_averaged(maps[layer], recipe.layer_shape(layer), side) for layer in self.bands(recipe)]
        places, tokens = torch.cat(joined, dim=2), [maps[layer] for layer in self.token_layers(recipe)]
        return torch.cat([places, *tokens], dim=1) if tokens else places

    def _join(self, pooled: list[Tensor]) -> Tensor:
        """Join mean and deviation (B, 2, D) of each layer."""
        kept = pooled if self.pooling == "mean+deviation" else [vectors[:, :1] for vectors in pooled]
        return torch.cat([vectors.flatten(1) for vectors in kept], dim=1).unsqueeze(1)

    def constants(self, cache: FeatureCache) -> dict[str, Storing]:
        """Return the constants of each layer that is stored as uint8, and the projection of each that went through one.

        Raises `CorruptFile` where the cache has lost its projections.
        """
        projections = {layer: one for layer, one in cache.projections.items() if layer in self.layers}
        return {**self.codes(cache), **projections}

    def codes(self, cache: FeatureCache) -> dict[str, Constants]:
        """Return the constants (2, D) of each layer that is stored as uint8, with which those codes are decoded."""
        found = {layer: cache.constants(layer) for layer in self.layers}
        return {layer: values for layer, values in found.items() if values is not None}

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object that `input_from_json` takes."""
        return {"layers": list(self.layers), "pooling": self.pooling}


def _named(layer: str, count: int) -> str:
    """Return what tokens of a layer are called, and how many there are if it is not one."""
    if layer.endswith(PREFIX):
        return f"the {f'{count} tokens' if count > 1 else 'token'} before them"
    return _IN_WORDS.get(layer, layer) if count == 1 else f"{count} {layer}"


def on_tokens(places: NDArray[np.float32]) -> list[float]:
    """Return the share of attention (T) that is on tokens: what that on the places (T, H, W) lacks of 1."""
    shares: list[float] = np.clip(1 - places.sum(axis=(1, 2), dtype=np.float64), 0, 1).tolist()
    return shares


def _averaged(features: Tensor, shape: LayerShape, side: tuple[int, int]) -> Tensor:
    """Return features (B, L, D) of a map as those of a map of another (height, width), averaged over areas."""
    if (shape.height, shape.width) == side:
        return features
    images = features.transpose(1, 2).reshape(len(features), shape.channels, shape.height, shape.width)
    return functional.adaptive_avg_pool2d(images, side).flatten(2).transpose(1, 2)


def input_from_json(value: Any) -> HeadInput:
    """Return the input stored in a run; raise `ValueError` for anything that is none."""
    if not isinstance(value, dict) or set(value) != {"layers", "pooling"}:
        raise ValueError(f"not what a head reads: {value!r}")
    return HeadInput(tuple(map(str, value["layers"])), str(value["pooling"]))
