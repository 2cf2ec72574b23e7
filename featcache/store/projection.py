"""Principal directions of features: how they are found, how features are projected on them, and their file in a cache.

Knows nothing of shards, splits or heads.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.base.errors import CorruptFile, InvalidSettings
from featcache.base.files import canonical_json, reading_errors, write_durably
from featcache.store.folder import PROJECTION_NAME
from featcache.store.shards.encoding import Constants, Encoded, decode, encode

MOST_POSITIONS = 1 << 19  # that directions are found from; of 1,024 channels they take 1.1e12 float64 operations
_AT_ONCE = 8192  # vectors in float64 at once
_NO_VARIANCE = 1e-12  # of the largest eigenvalue: rounding of float64 sums


@dataclass(frozen=True, eq=False)
class Projection:
    """Features x (..., D) become (x - mean) directions (..., C): mean (D), and C orthonormal columns (D, C), float32.

    variance is the share of the vectors' variance that the C directions keep, and vectors how many they were found
    from.
    """

    mean: NDArray[np.float32]
    directions: NDArray[np.float32]
    variance: float
    vectors: int

    @property
    def channels(self) -> tuple[int, int]:
        """D and C."""
        return self.directions.shape[0], self.directions.shape[1]

    def of(self, features: Tensor) -> Tensor:
        """Return features (B, L, D) projected, (B, L, C) float32, on the CPU.

        One image after another, so that no image's last bits depend on those beside it.
        """
        mean, directions = torch.from_numpy(self.mean), torch.from_numpy(self.directions)
        found = torch.empty(*features.shape[:2], self.channels[1])
        for image, out in zip(features.cpu(), found, strict=True):
            torch.mm(image.float() - mean, directions, out=out)
        return found

    def of_vectors(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return vectors (n, D) projected, (n, C), in float64."""
        projected: NDArray[np.float64] = (x - self.mean) @ self.directions.astype(np.float64)
        return projected

    def as_text(self) -> str:
        """Return what is kept in one phrase."""
        return kept_in_words(*self.channels, self.variance)


def kept_in_words(channels: int, kept: int, variance: float) -> str:
    """Return how many channels are kept, and which share of the variance, in one phrase."""
    return f"{kept:,} of {channels:,} channels, {variance:.1%} of the variance"


class Moments:
    """Mean and covariance of vectors (n, D) that come batch by batch, summed in float64: memory for D^2 numbers."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self._shift = torch.zeros(channels, dtype=torch.float64)  # near the mean, so that sums lose no digits
        self._sum = torch.zeros(channels, dtype=torch.float64)
        self._products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, vectors: Tensor) -> None:
        """Take in vectors (n, D) of any float type."""
        for some in torch.split(vectors, _AT_ONCE):
            x = some.double()
            if not self.count:
                self._shift = x.mean(dim=0)
            x = x - self._shift
            self.count += len(x)
            self._sum += x.sum(dim=0)
            self._products.addmm_(x.t(), x)

    def covariance(self) -> tuple[Tensor, Tensor]:
        """Return mean (D) and covariance (D, D), divisor n, float64."""
        mean = self._sum / self.count
        return mean + self._shift, self._products / self.count - torch.outer(mean, mean)

    def projection(self, channels: int) -> Projection:
        """Return the projection on the first principal directions, each with its largest entry above 0.

        Raises `InvalidSettings` where the vectors vary along fewer.
        """
        mean, covariance = self.covariance()
        values, vectors = torch.linalg.eigh(covariance)  # rising
        values, vectors = values.flip(0), vectors.flip(1)
        varied = int((values > max(float(values[0]), 0.0) * _NO_VARIANCE).sum())
        if varied < channels:
            raise InvalidSettings(
                f"--channels {channels}: these {self.count:,} training vectors of {len(mean):,} channels vary along "
                f"{varied} directions and no more; ask for {varied} at most"
            )
        kept = vectors[:, :channels]
        kept = kept * kept.gather(0, kept.abs().argmax(dim=0, keepdim=True)).sign()
        share = float(values[:channels].sum() / values.clamp(min=0).sum())
        return Projection(
            mean.numpy().astype(np.float32), kept.contiguous().numpy().astype(np.float32), share, self.count
        )


Storing = Constants | Projection  # what a layer's numbers went through before they were stored, beside float16


def as_stored(maps: Tensor, storing: Storing | None) -> Encoded:
    """Return maps (B, L, D) of a network as a cache stores them: float16, in 8 bits, or projected and then float16."""
    if not isinstance(storing, Projection):
        return encode(maps, storing)
    return encode(storing.of(decode(encode(maps, None).features, None)), None)


def decoded(stored: Encoded, storing: Storing | None) -> Tensor:
    """Return what a cache gives back of it, (B, L, D) or (B, L, C) float32."""
    return decode(stored.features, None if isinstance(storing, Projection) else storing)


def digest_of_projections(projections: Mapping[str, Projection]) -> str:
    """Return the sha256 over each layer's name, mean and directions, in order of names; '' if there are none."""
    if not projections:
        return ""
    digest = hashlib.sha256()
    for layer, one in sorted(projections.items()):
        digest.update(f"{layer}\0{one.directions.shape}\0".encode())
        digest.update(one.mean.astype("<f4").tobytes() + one.directions.astype("<f4").tobytes())
    return digest.hexdigest()


def digest_of_storing(storing: Mapping[str, Storing]) -> str:
    """Return the sha256 of all that layers went through before they were stored, '' for nothing."""
    digest = hashlib.sha256()
    for layer, one in sorted(storing.items()):
        arrays = (one.mean, one.directions) if isinstance(one, Projection) else (one,)
        for values in arrays:
            digest.update(f"{layer}\0{values.shape}\0".encode() + values.astype("<f4").tobytes())
    return digest.hexdigest() if storing else ""


def tensors_of(projections: Mapping[str, Projection]) -> dict[str, Tensor]:
    """Return projections as tensors that `projections_of` reads: LAYER.mean, LAYER.directions and LAYER.kept."""
    found = {}
    for layer, one in projections.items():
        found[f"{layer}.mean"] = torch.from_numpy(one.mean)
        found[f"{layer}.directions"] = torch.from_numpy(one.directions)
        found[f"{layer}.kept"] = torch.tensor([one.variance, one.vectors], dtype=torch.float64)
    return found


def projections_of(tensors: Mapping[str, Tensor]) -> dict[str, Projection]:
    """Return the projections of such tensors; raise `KeyError` or `ValueError` for others."""
    layers = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    found = {}
    for layer in layers:
        mean, directions = tensors[f"{layer}.mean"].numpy(), tensors[f"{layer}.directions"].numpy()
        variance, vectors = tensors[f"{layer}.kept"].tolist()
        if directions.ndim != 2 or mean.shape != directions.shape[:1] or {mean.dtype, directions.dtype} != {_FLOAT}:
            raise ValueError(f"the projection of {layer} has impossible sizes")
        found[layer] = Projection(mean, directions, float(variance), int(vectors))
    if len(tensors) != 3 * len(found):
        raise ValueError("tensors that are of no projection")
    return found


_FLOAT = np.dtype(np.float32)


def write_projections(folder: Path, projections: Mapping[str, Projection], facts: Mapping[str, Any]) -> None:
    """Write the projections of a cache's layers into its folder, durably, with facts of how they were found."""
    data = safetensors.torch.save(tensors_of(projections), {"facts": canonical_json(dict(facts))})
    write_durably(folder / PROJECTION_NAME, data)


def read_projections(folder: Path, digest: str | None = None) -> tuple[dict[str, Projection], dict[str, Any]]:
    """Return the projections in a cache's folder, and the facts beside them.

    Raises `CorruptFile` if there are none, or others than those of digest, as `digest_of_projections` has it.
    """
    path = folder / PROJECTION_NAME
    way_out = "copy it back, or make the cache anew with project-cache"
    if not path.is_file():
        raise CorruptFile(f"{path}: missing, so features cannot be made as this cache's were; {way_out}")
    try:
        with reading_errors(path), safetensors.safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            found = projections_of({name: file.get_tensor(name) for name in file.offset_keys()})
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{path}: damaged ({error}); {way_out}") from error
    if digest is not None and digest_of_projections(found) != digest:
        raise CorruptFile(f"{path}: not the projection that this cache's features went through; {way_out}")
    return found, facts
