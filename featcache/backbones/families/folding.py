"""Batch norms with fixed statistics, folded into the convolutions before them: fewer passes over every map."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(module: nn.Module) -> None:
    """Multiply each batch norm behind a convolution into its weights, in place, where the module is a traced graph.

    Networks of timm are no graph; torch.compile and OpenVINO fold theirs.
    """
    if not isinstance(module, fx.GraphModule):
        return
    for convolution, norm in _norms_behind_convolutions(module):
        both: Any = [module.get_submodule(str(node.target)).eval() for node in (convolution, norm)]
        folded = fuse_conv_bn_eval(*both)
        module.set_submodule(str(convolution.target), folded.requires_grad_(False))
        norm.replace_all_uses_with(convolution)
        module.graph.erase_node(norm)
    module.recompile()


def fold_while_training(module: fx.GraphModule) -> None:
    """Compute each convolution with the batch norm behind it as one, from the weights of both, in place.

    With fixed statistics that is the same function of the same weights, and their gradients are the same, but no map is
    passed over for the norm, nor kept for its gradient.
    """
    for convolution, norm in _norms_behind_convolutions(module):
        both: Any = [module.get_submodule(str(node.target)) for node in (convolution, norm)]
        weights, statistics = both
        if not _can_be_one(weights, statistics):
            continue
        graph = module.graph
        with graph.inserting_before(convolution):
            (x,) = convolution.args
            padding: Any = weights.padding
            if type(weights) is not nn.Conv2d:
                from timm.layers.padding import pad_same

                kernel = (weights.kernel_size, weights.stride, weights.dilation)
                x, padding = graph.call_function(pad_same, (x, *kernel)), (0, 0)
            tensors: Any = [
                graph.get_attr(f"{node.target}.{name}") if getattr(owner, name) is not None else None
                for node, owner, name in (
                    *((convolution, weights, name) for name in ("weight", "bias")),
                    *((norm, statistics, name) for name in ("weight", "bias", "running_mean", "running_var")),
                )
            ]
            how = (statistics.eps, weights.stride, padding, weights.dilation, weights.groups)
            found = graph.call_function(convolve_and_norm, (x, *tensors, *how))
            if hasattr(statistics, "act"):  # timm's norms have their activation within
                found = graph.call_module(f"{norm.target}.act", (found,))
        norm.replace_all_uses_with(found)
        graph.erase_node(norm)
        graph.erase_node(convolution)
    module.recompile()


def _can_be_one(convolution: nn.Conv2d, norm: Any) -> bool:
    """Return whether a convolution is torch's, or timm's that pads as TensorFlow does, and nothing lies between."""
    plain = type(convolution) is nn.Conv2d and convolution.padding_mode == "zeros"
    same = type(convolution).__name__ == "Conv2dSame"
    between = getattr(norm, "drop", nn.Identity())
    return (plain or same) and isinstance(between, nn.Identity) and norm.running_mean is not None


def convolve_and_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None,
    gamma: Tensor | None, beta: Tensor | None, mean: Tensor, var: Tensor, eps: float,
    stride: Any, padding: Any, dilation: Any, groups: int,
) -> Tensor:  # fmt: skip
    """Return gamma (conv(x) - mean) / sqrt(var + eps) + beta, by a convolution of weights that are multiplied so."""
    scale = torch.rsqrt(var + eps) if gamma is None else gamma * torch.rsqrt(var + eps)
    shift = -mean if bias is None else bias - mean
    shift = shift * scale if beta is None else shift * scale + beta
    return functional.conv2d(x, weight * scale.view(-1, 1, 1, 1), shift, stride, padding, dilation, groups)


def _norms_behind_convolutions(module: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield the nodes of convolutions of which a batch norm alone reads the output, with that of the norm."""
    children = dict(module.named_modules())
    called = {node: children[str(node.target)] for node in module.graph.nodes if node.op == "call_module"}
    for norm in [node for node, child in called.items() if isinstance(child, nn.BatchNorm2d)]:
        before: Any = norm.args[0]
        convolution = called.get(before)
        calls = [node for node, child in called.items() if child is convolution]
        if isinstance(convolution, nn.Conv2d) and len(before.users) == len(calls) == 1:
            yield before, norm
