"""MemoNet (Baveye et al., ACM MM 2016) as a head: a whole GoogLeNet from pixels on, trained with three outputs.

What of it is known, and what was chosen, stands in docs/paper.md.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from featcache.backbones.networks import auxiliary_layers, build_auxiliary
from featcache.recipe import Recipe
from head.models.amnet import HeadOutput
from head.models.tails import tail
from head.models.tails.tail import TailHead, TailShape

NETWORKS = ("googlenet",)
OUTPUTS = auxiliary_layers("googlenet")
_WIDTH = 1024  # of what the last layer of an auxiliary classifier reads


class MemoNetHead(TailHead):
    """Score views by GoogLeNet; while it is trained its two auxiliary classifiers, made regressors, score them too."""

    def __init__(self, shape: TailShape) -> None:
        self.outputs = OUTPUTS
        super().__init__(shape)
        self.auxiliary = build_auxiliary(shape.backbone, "random", seed=0)
        self.auxiliary_outputs = nn.ModuleList(nn.Linear(_WIDTH, 1) for _ in self.auxiliary)

    def new(self) -> list[nn.Parameter]:
        """Return the weights that the network did not have before."""
        return [*super().new(), *self.auxiliary_outputs.parameters()]

    def scored(self, features: Tensor) -> HeadOutput:
        """Map pixels (B, n, 3) to a `HeadOutput`, with two auxiliary scores where it is trained."""
        *maps, pooled = self.behind(features)
        output = self.output_of(pooled)
        if not self.training:
            return output
        pairs = zip(maps, self.auxiliary.values(), self.auxiliary_outputs, strict=True)
        scores = [last(classifier(one)) for one, classifier, last in pairs]  # (B, 1) each
        return output._replace(auxiliary=torch.cat(scores, dim=1).float())

    def _take(self, recipe: Recipe, weights: str, *, but: Collection[str] = ()) -> None:
        super()._take(recipe, weights, but=but)
        found = build_auxiliary(recipe.backbone, weights, seed=recipe.seed)
        self.auxiliary.load_state_dict(found.state_dict())


def started(shape: TailShape, recipe: Recipe, weights: str) -> str:
    """Return what `tail.started` does; raise `Mismatch` if the weights lack an auxiliary classifier."""
    found = tail.started(shape, recipe, weights)
    build_auxiliary(recipe.backbone, weights, seed=recipe.seed)
    return found
