"""Which weights of a tail are trained: all, the last ones, those of norms, or low-rank additions to matrices."""

import math

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from featcache.backbones.families.rest import NORMS
from featcache.base.errors import InvalidSettings
from head.settings import trained_part

_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Linear):
    """A matrix that stays as it is, and an addition of rank R that is trained: W x + b + B A x (Hu et al., 2022).

    weight W and bias b are those of the matrix it replaces; down is A (R, in), drawn, up is B (out, R), at first 0.
    """

    def __init__(self, matrix: nn.Linear, rank: int) -> None:
        super().__init__(matrix.in_features, matrix.out_features, matrix.bias is not None, device="meta")
        self.weight, self.bias = matrix.weight, matrix.bias
        self.down = nn.Parameter(torch.empty(rank, matrix.in_features))
        self.up = nn.Parameter(torch.zeros(matrix.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return super().forward(x) + functional.linear(functional.linear(x, self.down), self.up)


def choose_trained(network: fx.GraphModule, train: str, name: str) -> None:
    """Let those weights of a network have gradients that train says, as `TrainSettings` has it, and no others.

    Raises `InvalidSettings` if it has none of them. name is what the network is called.
    """
    kind, number = trained_part(train)
    network.requires_grad_(kind == "all")
    if kind == "norms":
        norms = [module for module in network.modules() if isinstance(module, NORMS)]
        chosen = [weight for norm in norms for weight in norm.parameters(recurse=False)]
        if not chosen:
            raise InvalidSettings(f"--train norms: {name} has no norms behind this layer; use --train all or last-N")
        _let(chosen)
    elif kind == "last":
        used = _in_order(network)
        weighted = [place for place, one in enumerate(used) if isinstance(one, _MATRICES)]
        first = weighted[-number] if number <= len(weighted) else 0
        for one in used[first:]:
            _let([one] if isinstance(one, nn.Parameter) else list(one.parameters(recurse=False)))
    elif kind == "lora":
        matrices = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)]
        if not matrices:
            raise InvalidSettings(
                f"--train {train}: {name} has no matrices of attention or perceptrons behind this layer, as "
                "transformers have; use --train all, norms or last-N"
            )
        for path, matrix in matrices:
            adapted = LowRank(matrix, number)
            network.set_submodule(path, adapted)
            _let([adapted.down, adapted.up])


def part_in_words(train: str) -> str:
    """Return in words which weights are trained."""
    kind, number = trained_part(train)
    words = {
        "all": "all weights trained",
        "norms": "weights of norms trained, others as they were",
        "last": f"the last {number} matrices or convolutions and their norms trained, others as they were",
        "lora": f"additions of rank {number} to matrices trained, all else as it was",
    }
    return words[kind]


def added(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights that a network did not have before it was adapted."""
    return [one for module in network.modules() if isinstance(module, LowRank) for one in (module.down, module.up)]


def _in_order(network: fx.GraphModule) -> list[nn.Module | nn.Parameter]:
    """Return what holds the weights of a network in the order in which it is used first, each once."""
    found = dict[nn.Module | nn.Parameter, None]()
    for node in network.graph.nodes:
        owner, _, name = str(node.target).rpartition(".")
        if node.op == "call_module":
            found |= dict.fromkeys(network.get_submodule(str(node.target)).modules())
        elif node.op == "get_attr" and isinstance(one := getattr(network.get_submodule(owner), name), nn.Parameter):
            found[one] = None
    return list(found)


def _let(weights: list[nn.Parameter]) -> None:
    for weight in weights:
        weight.requires_grad_(True)
