"""Which weights of a tail are trained: all, the last ones, those of norms, or low-rank additions to matrices."""

import math
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from featcache.backbones.families.rest import is_norm
from featcache.base.errors import InvalidSettings
from head.settings import trained_part

_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ADDED = "_lora"  # behind the name of a matrix, what is added to it


class LowRank(nn.Module):
    """What is added to a matrix W (out, in) that stays as it is: B A x, of rank R (Hu et al., 2022).

    down is A (R, in), drawn, up is B (out, R), at first 0.
    """

    def __init__(self, matrix: Tensor, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, matrix.shape[1]))
        self.up = nn.Parameter(torch.zeros(matrix.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return functional.linear(functional.linear(x, self.down), self.up)


def choose_trained(network: fx.GraphModule, train: str, name: str) -> None:
    """Let those weights of a network have gradients that train says, as `TrainSettings` has it, and no others.

    Raises `InvalidSettings` if it has none of them, or fewer than are named. name is what the network is called.
    """
    kind, number = trained_part(train)
    network.requires_grad_(kind == "all")
    if kind == "norms":
        norms = [module for module in network.modules() if is_norm(module)]
        chosen = [weight for norm in norms for weight in norm.parameters(recurse=False)]
        if not chosen:
            raise InvalidSettings(f"--train norms: {name} has no norms behind this layer; use --train all or last-N")
        _let(chosen)
    elif kind == "last":
        used, called = _in_order(network), [matrix for _, _, matrix in _calls_of_matrices(network)]
        weighted = [
            place
            for place, one in enumerate(used)
            if isinstance(one, _MATRICES) or any(one is matrix for matrix in called)
        ]
        if number > len(weighted):
            raise InvalidSettings(
                f"--train {train}: {name} has {len(weighted)} matrices and convolutions behind this layer; take no "
                "more, or --train all"
            )
        for one in used[weighted[-number] :]:
            _let([one] if isinstance(one, nn.Parameter) else list(one.parameters(recurse=False)))
    elif kind == "lora":
        calls = _calls_of_matrices(network)
        if not calls:
            raise InvalidSettings(
                f"--train {train}: {name} has no matrices of attention or perceptrons behind this layer, as "
                "transformers have; use --train all, norms or last-N"
            )
        for call, path, matrix in calls:
            if f"{path}{_ADDED}" not in dict(network.named_modules()):
                network.add_submodule(f"{path}{_ADDED}", LowRank(matrix, number))
            with network.graph.inserting_after(call):
                addition = network.graph.call_module(f"{path}{_ADDED}", (call.args[0],))
            with network.graph.inserting_after(addition):
                total = network.graph.call_function(torch.add, (call, addition))
            call.replace_all_uses_with(total, lambda user, total=total: user is not total)  # type: ignore[misc]
        network.recompile()


def moving_norms(network: nn.Module) -> list[nn.Module]:
    """Return the batch norms whose statistics can be trained: those whose weights are."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if any(weight.requires_grad for weight in norm.parameters(recurse=False))]


def check_statistics(network: nn.Module, batch_norm: str, train: str, name: str) -> None:
    """Raise `InvalidSettings` if statistics of batch norms are to be trained and none can be."""
    if batch_norm == "trained" and not moving_norms(network):
        raise InvalidSettings(
            f"--batch-norm trained: behind this layer of {name} no batch norm is trained with --train {train}; leave "
            "it out"
        )


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


def _calls_of_matrices(network: fx.GraphModule) -> list[tuple[fx.Node, str, Tensor]]:
    """Return each node that multiplies by a matrix, with the path of what holds the matrix, and the matrix.

    That is a module, or the function by which some transformers multiply by a module's weight.
    """
    found = list[tuple[fx.Node, str, Tensor]]()
    for node in network.graph.nodes:
        if node.op == "call_module" and isinstance(one := network.get_submodule(str(node.target)), nn.Linear):
            found.append((node, str(node.target), one.weight))
        elif node.op == "call_function" and node.target is functional.linear and len(node.args) > 1:
            weight: Any = node.args[1]
            path, _, name = str(weight.target).rpartition(".")
            if weight.op == "get_attr":
                found.append((node, path, getattr(network.get_submodule(path), name)))
    return found


def _let(weights: list[nn.Parameter]) -> None:
    for weight in weights:
        weight.requires_grad_(True)
