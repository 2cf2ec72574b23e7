"""The rest of a network as a head: from a layer of a cache to its pooled output, and from there to a score.

docs/finetuning.md has what it is for, and what it reached.
"""

import functools
import hashlib
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from featcache.backbones.families.descriptor_networks import parts_of_weights
from featcache.backbones.families.folding import fold_while_training
from featcache.backbones.families.rest import Cut
from featcache.backbones.families.weights import digest_of_weights
from featcache.backbones.networks import build_extractor, build_rest
from featcache.base.errors import Mismatch
from featcache.recipe import Recipe
from head.models.amnet import HeadOutput
from head.models.baselines import output_of
from head.models.fused.depthwise import QuickDepthwise
from head.models.fused.dropout import Dropout
from head.models.fused.switch import fused_is_on
from head.models.tails.crops import center_crop, random_crops, ten_crops
from head.models.tails.cuts import cut_of
from head.models.tails.trained import added, check_statistics, choose_trained, moving_norms, part_in_words
from head.settings import TrainSettings

EVAL_BATCH = 32  # images at once where nothing is trained: of ResNet50 from pixels about 1 GB
_COUNTER = "num_batches_tracked"
_Stamp = tuple[int, int] | None


@dataclass(frozen=True)
class TailShape:
    """Which part of which network it is, what of it is trained, and how pixels are cut.

    backbone, layer, height, width, image_size, final_norm, mean and std are those of the cache's recipe; train,
    batch_norm, crop and eval_view are as `TrainSettings` has them, dropout acts on the pooled output. crop 0 takes
    whole views.
    """

    backbone: str
    layer: str
    height: int
    width: int
    image_size: int
    final_norm: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: str = "all"
    batch_norm: str = "frozen"
    dropout: float = 0.0
    crop: int = 0
    eval_view: str = "center"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # lists, where they come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def steps(self) -> int:
        """T, one look."""
        return 1

    @property
    def cut(self) -> Cut:
        """Where the network is cut."""
        height, width = (self.crop, self.crop) if self.crop else (self.height, self.width)
        size = self.crop or self.image_size
        return Cut(self.backbone, self.layer, height, width, size, self.final_norm, self.mean, self.std)


class TailHead(nn.Module):
    """Score a layer's features by the network behind it and one linear output on what its classifier would read.

    It is built with weights that are still to be given: `begin` gives those of a cache's network.
    """

    frozen_sha256: Tensor
    outputs: tuple[str, ...] = ()  # modules of the network whose outputs are scored beside the pooled one

    def __init__(self, shape: TailShape) -> None:
        super().__init__()
        self.shape = shape
        self.rest = build_rest(replace(shape.cut, outputs=self.outputs), "random", seed=0)
        self.rest.to(memory_format=torch.channels_last)
        choose_trained(self.rest.network, shape.train, shape.backbone)
        kept = [name for name, weight in self.rest.network.named_parameters() if not weight.requires_grad]
        check_statistics(self.rest.network, shape.batch_norm, shape.train, shape.backbone)
        self._moving = [] if shape.batch_norm == "frozen" else moving_norms(self.rest.network)
        moving = {id(values) for norm in self._moving for values in norm.buffers(recurse=False)}
        kept += [name for name, values in self.rest.network.named_buffers() if id(values) not in moving]
        self._kept = frozenset(f"rest.network.{name}" for name in kept)
        if shape.batch_norm == "frozen":
            fold_while_training(self.rest.network)
        self.dropout = Dropout(shape.dropout)
        self.output = nn.Linear(self.rest.channels, 1)
        self.register_buffer("frozen_sha256", torch.zeros(32, dtype=torch.uint8))

    def begin(self, recipe: Recipe, weights: str) -> None:
        """Take the weights that a cache's features were made with; raise `Mismatch` if weights are others."""
        check_weights(recipe, weights)
        self._take(recipe, weights)
        if not self.stands_alone:
            self.frozen_sha256.copy_(torch.from_numpy(np.frombuffer(self._digest(), np.uint8).copy()))

    def complete(self, recipe: Recipe, weights: str) -> None:
        """Take the weights that were not trained, which no run stores; raise `Mismatch` if weights are others."""
        if self.stands_alone:
            return
        self._take(recipe, weights, but=self.stored())
        if self._digest() != bytes(self.frozen_sha256.tolist()):
            raise Mismatch(f"the weights {weights} are not those that the head was trained with; pass those")

    @property
    def stands_alone(self) -> bool:
        """Whether all weights are stored, as all were trained."""
        return self.shape.train == "all"

    def stored(self) -> dict[str, Tensor]:
        """Return what a run stores: all weights, or of a network that is trained in part that part, and the output."""
        state = self.state_dict()
        if self.stands_alone:
            return state
        return {name: values for name, values in state.items() if name not in self._kept}

    def new(self) -> list[nn.Parameter]:
        """Return the weights that the network did not have before."""
        return [*self.output.parameters(), *added(self.rest.network)]

    def groups(self, settings: TrainSettings) -> list[dict[str, Any]]:
        """Return the weights with their learning rates: lr for new ones, backbone_lr for those of the network."""
        new = self.new()
        ids = {id(one) for one in new}
        old = [one for one in self.parameters() if one.requires_grad and id(one) not in ids]
        pairs = [(old, settings.backbone_lr), (new, settings.lr)]
        return [{"params": weights, "lr": rate} for weights, rate in pairs if weights]

    def train(self, mode: bool = True) -> "TailHead":
        """Set the mode; statistics that are frozen stay, and so do those of norms that are not trained."""
        super().train(mode)
        self._move(mode)
        return self

    def _move(self, mode: bool) -> None:
        """Let batch norms take the statistics of a batch, those whose statistics are trained, or none."""
        moving = moving_norms(self) if mode and self.shape.batch_norm == "trained" else []
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.training = any(module is one for one in moving)

    def forward(self, features: Tensor) -> HeadOutput:
        """Map features (B, n, D) of the layer, of any real type, to a `HeadOutput` of one step without maps.

        An image that is alone in its batch has no deviation: norms whose statistics are trained take those they have.
        Of `views` they are pixels (B, S * S, 3) from 0 to 255. Where they are cut, training draws a crop of each from
        torch's generator.
        """
        if self.training and self.shape.batch_norm == "trained":
            self._move(features.shape[0] > 1)
        if not self.shape.crop:
            return self.scored(features)
        size = self.shape.image_size
        pixels = features.reshape(features.shape[0], size, size, 3)
        if self.training:
            return self.scored(random_crops(pixels, self.shape.crop).flatten(1, 2))
        if self.shape.eval_view == "center":
            return self.scored(center_crop(pixels, self.shape.crop).flatten(1, 2))
        crops = [crop.flatten(1, 2) for crop in ten_crops(pixels, self.shape.crop)]
        if fused_is_on():
            scores = torch.stack([self.scored(crop).score for crop in crops])  # in a tenth of the memory
        else:  # a graph that is exported has the network once, not ten times
            scores = self.scored(torch.cat(crops)).score.reshape(len(crops), features.shape[0])
        return output_of(scores.mean(dim=0))

    def scored(self, features: Tensor) -> HeadOutput:
        """Map features (B, n, D) of what the network sees to a `HeadOutput`."""
        return self.output_of(self.behind(features)[-1])

    def behind(self, features: Tensor) -> tuple[Tensor, ...]:
        """Map features (B, n, D) of what the network sees to its outputs, and last the pooled one (B, C)."""
        with QuickDepthwise() if fused_is_on() else nullcontext():
            found: tuple[Tensor, ...] = self.rest(features.float())
        return found

    def output_of(self, pooled: Tensor) -> HeadOutput:
        """Map pooled output (B, C) to a `HeadOutput`."""
        return output_of(self.output(self.dropout(pooled)).squeeze(1).float())

    def _take(self, recipe: Recipe, weights: str, *, but: Collection[str] = ()) -> None:
        """Take weights for all of the network but what was added to it, which has none there, and those named."""
        found, _ = _network_of(self.rest.cut, weights, recipe.seed, _stamp(recipe, weights))
        others = {name: values for name, values in found.items() if f"rest.{name}" not in but}
        self.rest.load_state_dict(others, strict=False)

    def _digest(self) -> bytes:
        """Return the sha256 of the weights that are not stored."""
        digest, own = hashlib.sha256(), self.stored()
        for name, values in sorted(self.state_dict().items()):
            if name not in own and not name.endswith(_COUNTER):
                digest.update(name.encode() + values.cpu().contiguous().numpy().tobytes())
        return digest.digest()


def started(shape: TailShape, recipe: Recipe, weights: str) -> str:
    """Return the sha256 of the network as it begins; raise `Mismatch` if a cache's features are of other weights."""
    check_weights(recipe, weights)
    return _network_of(shape.cut, weights, recipe.seed, _stamp(recipe, weights))[1]


def check_weights(recipe: Recipe, weights: str) -> None:
    """Raise `Mismatch` unless weights are those that a recipe's features were made with."""
    if _digest_of(recipe, weights, _stamp(recipe, weights)) != recipe.weights:
        raise Mismatch(
            f"the weights {weights} are not those that the features were made with, {recipe.weights[:16]}; pass "
            "those as --weights FILE"
        )


def _stamp(recipe: Recipe, weights: str) -> _Stamp:
    """Return what tells a weights file from another that stood there before, None for weights that are no file."""
    path = Path(parts_of_weights(recipe.backbone, weights).network)
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None


@functools.lru_cache(maxsize=2)
def _network_of(cut: Cut, weights: str, seed: int, stamp: _Stamp) -> tuple[dict[str, Tensor], str]:
    """Return the weights of a network behind a cut, and their sha256; runs of one cache ask for the same."""
    rest = build_rest(cut, weights, seed=seed)
    return rest.state_dict(), digest_of_weights(rest)


@functools.lru_cache(maxsize=8)
def _digest_of(recipe: Recipe, weights: str, stamp: _Stamp) -> str:
    """Return the digest of weights down to the layers of a recipe."""
    network = build_extractor(
        recipe.backbone,
        recipe.layer_names,
        weights,
        seed=recipe.seed,
        image_size=recipe.image_size,
        final_norm=recipe.final_norm,
    )
    return digest_of_weights(network.module)


def in_words(shape: TailShape) -> str:
    """Return in words which part of a network is trained, and of which crops it takes the score."""
    crops = f"ten crops of {shape.crop} pixels" if shape.eval_view == "tencrop" else f"the central {shape.crop} pixels"
    return f"{part_in_words(shape.train)}{f', scores of {crops}' if shape.crop else ''}"


def sizes_of(recipe: Recipe, layers: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the fields of a `TailShape` that a cache decides."""
    cut = cut_of(recipe, layers[0])
    return {
        "backbone": cut.name,
        "layer": cut.layer,
        "height": cut.height,
        "width": cut.width,
        "image_size": cut.image_size,
        "final_norm": cut.final_norm,
        "mean": cut.mean,
        "std": cut.std,
    }
