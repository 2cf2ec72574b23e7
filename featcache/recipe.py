"""What a feature depends on, and the fingerprint that stands for it.

Everything that changes a feature is in a `Recipe`, but for what changes no more than the last bit of some: device,
number of threads, batch size, library versions. How many views and which images a cache
holds is not, so a cache can grow; neither is how chunks are compressed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from featcache.base.errors import CorruptFile, Mismatch, refuse
from featcache.base.files import canonical_json
from featcache.settings import (
    CENTER_FRACTION,
    ENCODINGS,
    FLIP_PROBABILITY,
    INTERPOLATION,
    PIXELS,
    VIEWS_LAYER,
    Encoding,
    ViewSettings,
)

FORMAT_VERSION = 2  # of features and their recipe; how shards store them has versions of its own
_LEFT_OUT = {
    "calibration": "",
    "pre_squash": 0,
    "final_norm": False,
    "projection": "",
    "network_layers": (),
}  # of the JSON where they have this value, so older fingerprints stay


@dataclass(frozen=True)
class LayerShape:
    """A feature map of height x width positions and channels D; L = height * width, row-major.

    A vector of an image is one of 1 x 1, and several vectors of one layer are one of n x 1.
    """

    height: int
    width: int
    channels: int

    @property
    def positions(self) -> int:
        """L."""
        return self.height * self.width

    @property
    def is_map(self) -> bool:
        """Whether positions are places in the image, which those of vectors are not."""
        return self.width > 1


@dataclass(frozen=True)
class Recipe:
    """Flat and JSON-able. layers holds (name, height, width, D) of each map; mean and std normalise pixels in [0, 1].

    The layer `views`, where there is one, is (S, S, 3): the pixels of the views themselves.
    weights is the sha256 of the parameters and buffers that are used; flip_probability is a constant of
    `featcache.settings`, here so that a later change of it shows. calibration is
    the digest of the constants of encoding uint8, '' for float16. pre_squash is the side of the square that augmented
    views are cut from, 0 if that is the image itself. final_norm is whether the last map is as the network's own last
    norm leaves it. projection is the digest of the principal directions that features were projected on, '' for none,
    and network_layers then the layers that the network was asked for, as it gave them. format_version is the one that
    `version_of_layers` says.
    """

    backbone: str
    weights: str
    layers: tuple[tuple[str, int, int, int], ...]
    precision: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    eval_view: str
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    seed: int
    encoding: str = "float16"
    calibration: str = ""
    pre_squash: int = 0
    final_norm: bool = False
    interpolation: str = INTERPOLATION
    center_fraction: float = CENTER_FRACTION
    flip_probability: float = FLIP_PROBABILITY
    projection: str = ""
    network_layers: tuple[tuple[str, int, int, int], ...] = ()
    format_version: int = 1

    def __post_init__(self) -> None:
        """Raise `ValueError` for a value of another type or range than such a field ever has."""
        texts = (
            self.backbone,
            self.weights,
            self.precision,
            self.eval_view,
            self.encoding,
            self.calibration,
            self.projection,
        )
        numbers = (*self.mean, *self.std, *self.crop_scale, *self.crop_ratio, self.center_fraction)
        pixels = [self.image_size, self.image_size, 3]
        sizes = (self.image_size, self.format_version, *(side for layer in self.layers for side in layer[1:]))
        sound = (
            all(isinstance(text, str) for text in (*texts, self.interpolation, *self.layer_names))
            and all(isinstance(number, int | float) for number in (*numbers, self.flip_probability))
            and all(type(size) is int and 0 < size < 2**31 for size in sizes)
            and type(self.seed) is int
            and type(self.pre_squash) is int
            and self.pre_squash >= 0
            and type(self.final_norm) is bool
            and (len(self.mean), len(self.std), len(self.crop_scale), len(self.crop_ratio)) == (3, 3, 2, 2)
            and {len(layer) for layer in self.layers} == {4}
            and len(set(self.layer_names)) == len(self.layers)
            and self.encoding in ENCODINGS
            and all(shape == pixels for name, *shape in self.layers if name == VIEWS_LAYER)
            and bool(self.projection) == bool(self.network_layers)
            and all(self._is_projected(layer) for layer in self.layers if self.projection)
        )
        if not sound:
            raise ValueError(f"a recipe with impossible values: {self}")

    @property
    def fingerprint(self) -> str:
        """The sha256 of the recipe's canonical JSON, 64 hex digits."""
        return hashlib.sha256(canonical_json(self.as_json()).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Return the recipe as a JSON object; tuples become lists, and what older versions did not know is left out."""
        return {name: _plain(value) for name, value in asdict(self).items() if _LEFT_OUT.get(name) != value}

    @property
    def of_network(self) -> "Recipe":
        """The recipe of the features as the backbone gives them, before any projection; itself where there is none."""
        if not self.projection:
            return self
        layers = self.network_layers
        version = version_of_layers([name for name, *_ in layers])
        return replace(self, layers=layers, projection="", network_layers=(), format_version=version)

    def _is_projected(self, layer: tuple[str, int, int, int]) -> bool:
        """Return whether a layer is one of the network's with fewer channels."""
        return any(layer[:3] == of[:3] and layer[3] < of[3] for of in self.network_layers)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers in the order they were asked for."""
        return tuple(layer[0] for layer in self.layers)

    def layer_shape(self, layer: str) -> LayerShape:
        """Return the shape of a layer's map; raise `KeyError` if the recipe has no such layer."""
        return {name: LayerShape(height, width, channels) for name, height, width, channels in self.layers}[layer]

    def encoding_of(self, layer: str) -> Encoding:
        """Return how a layer is stored: `views` as the pixels that they are, features in the recipe's encoding."""
        return PIXELS if layer == VIEWS_LAYER else ENCODINGS[self.encoding]

    def dtype_of(self, layer: str) -> np.dtype[Any]:
        """Return the type of a layer's stored numbers."""
        return np.dtype(self.encoding_of(layer).dtype)

    @property
    def calibrated_layers(self) -> tuple[str, ...]:
        """The layers that are stored with constants."""
        return tuple(layer for layer in self.layer_names if self.encoding_of(layer).calibrated)

    @property
    def view_settings(self) -> ViewSettings:
        """How views are cut."""
        return ViewSettings(**{one.name: getattr(self, one.name) for one in fields(ViewSettings)})

    def bytes_per_view(self) -> int:
        """Return the uncompressed bytes of one view's features, all layers together."""
        return sum(
            height * width * channels * self.dtype_of(layer).itemsize for layer, height, width, channels in self.layers
        )


def version_of_layers(layers: Sequence[str]) -> int:
    """Return the format version of a recipe of these layers: 2 where `views` is one, which others took for features."""
    return 2 if VIEWS_LAYER in layers else 1


def recipe_from_json(value: Any, place: str) -> Recipe:
    """Return the recipe stored in a file at place; raise `Mismatch` for a newer version, `CorruptFile` for nonsense."""
    if not isinstance(value, dict):
        raise CorruptFile(f"{place}: the recipe is not a JSON object")
    version = value.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise Mismatch(f"{place}: format version {version}, this program reads up to {FORMAT_VERSION}; upgrade it")
    expected = {field.name for field in fields(Recipe)}
    if set(value) - expected:
        raise Mismatch(f"{place}: the recipe has fields this version does not know: {sorted(set(value) - expected)}")
    missing = expected - set(value) - set(_LEFT_OUT)
    if missing:
        raise CorruptFile(f"{place}: the recipe lacks fields: {sorted(missing)}")
    if not isinstance(value["encoding"], str) or value["encoding"] not in ENCODINGS:
        raise Mismatch(f"{place}: encoding {value['encoding']!r} is not one this version reads; upgrade it")
    try:
        recipe = Recipe(**{name: _frozen(item) for name, item in value.items()})
        recipe.fingerprint  # noqa: B018  text that is not UTF-8 and numbers that are not JSON show here
    except (TypeError, ValueError, IndexError) as error:
        raise CorruptFile(f"{place}: {error}") from error
    if version != version_of_layers(recipe.layer_names):
        raise CorruptFile(f"{place}: format version {version} of a recipe with layers {', '.join(recipe.layer_names)}")
    if bool(recipe.calibrated_layers) != bool(recipe.calibration):
        raise CorruptFile(f"{place}: a recipe of encoding {recipe.encoding} with calibration {recipe.calibration!r}")
    return recipe


def check_same(found: Recipe, wanted: Recipe, *, where: str, way_out: str) -> None:
    """Raise `Mismatch` that names each field in which two recipes differ, with both values."""
    a, b = (_LEFT_OUT | recipe.as_json() for recipe in (found, wanted))
    different = [f"{name}: {_short(a[name])} there, {_short(b[name])} asked for" for name in a if a[name] != b[name]]
    if found.encoding != wanted.encoding:  # then constants differ as a matter of course
        different = [line for line in different if not line.startswith("calibration")]
    refuse(Mismatch, f"{where}: made with another recipe:", different, way_out)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _short(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= 80 else text[:77] + "..."
