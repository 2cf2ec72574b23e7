"""Depthwise convolutions whose gradients take no longer on a CPU than they should.

PyTorch's, by oneDNN, are as quick as the convolution itself in some cases and many times slower in others. In ms, for
32 images on two cores of a Xeon with AMX: of the input at stride 2, of 96 channels of 112 x 112 in bfloat16, 142 there
and 14 here; of 5 x 5 weights, of 240 channels of 28 x 28, 102 there and 7 here, in float32 19 and 6. Others are left to
it.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from head.models.fused.cpu.threads import in_threads

_QUICK_KERNEL = 3  # of which oneDNN's gradient of weights is quick


class Geometry(NamedTuple):
    """Where a depthwise convolution reads: equal strides and paddings in both directions, no dilation."""

    stride: int
    padding: int


class QuickDepthwise(TorchFunctionMode):
    """Within it depthwise convolutions that are trained on a CPU have the gradients of this module.

    All other functions, and the convolutions themselves, are what they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.conv2d and torch.is_grad_enabled():
            x, weight, bias, geometry = _arguments(*args, **kwargs)
            if geometry is not None:
                kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
                with torch.autocast("cpu", enabled=False):
                    return _Depthwise.apply(
                        x.to(kind), weight.to(kind), None if bias is None else bias.to(kind), geometry
                    )
        return func(*args, **kwargs)


def _arguments(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, Geometry | None]:  # fmt: skip
    """Return the arguments of a convolution, and the geometry of one that this module is for, else None."""
    depthwise = groups == x.shape[1] == weight.shape[0] > 1 and weight.shape[2] == weight.shape[3]
    even = not isinstance(padding, str) and len({*_pair(stride)}) == len({*_pair(padding)}) == 1
    kinds = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    if not (depthwise and even and kinds and _pair(dilation) == (1, 1)):
        return x, weight, bias, None
    return x, weight, bias, Geometry(_pair(stride)[0], _pair(padding)[0])


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return functional.conv2d(x, weight, bias, *geometry, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        return (
            input_gradient(grad, x, weight, ctx.geometry) if of_x else None,
            weight_gradient(grad, x, weight, ctx.geometry) if of_weight else None,
            grad.sum(dim=(0, 2, 3)) if of_bias else None,
            None,
        )


def input_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Return the gradient (B, C, H, W) of the input x, from that of the output and weight (C, 1, k, k)."""
    if x.dtype == torch.float32:
        return _by_torch(grad, x, weight, geometry)[0]
    turned = weight.shape[2] - 1 - geometry.padding
    if geometry.stride == 1 and turned >= 0:
        return functional.conv2d(grad, weight.flip(2, 3), padding=turned, groups=x.shape[1])
    of_x = torch.empty_like(x, memory_format=torch.channels_last)
    taps = weight.float().squeeze(1).permute(1, 2, 0).contiguous().numpy()
    _in_ranges("input_gradient", x, _array(grad), taps, _array(of_x), *geometry)
    return of_x


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Return the gradient (C, 1, k, k) of the weight, from that of the output and the input x (B, C, H, W)."""
    k = weight.shape[2]
    if k <= _QUICK_KERNEL:
        return _by_torch(grad, x, weight, geometry, of_input=False)[1]
    of_each = torch.empty(len(x), k, k, x.shape[1])
    _in_ranges("weight_gradient", x, _array(x), _array(grad), of_each.numpy(), *geometry)
    return of_each.sum(dim=0).permute(2, 0, 1).unsqueeze(1).to(weight.dtype)


def _by_torch(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, *, of_input: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the gradients of input and weight, of which one alone is computed."""
    stride, padding = geometry
    sides = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0])
    wanted = (of_input, not of_input, False)
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(grad, x, weight, None, *sides, x.shape[1], wanted)
    return of_x, of_weight


def _in_ranges(loop: str, like: Tensor, *arguments: Any) -> None:
    """Run a loop over the images of a batch, of the type that they have."""
    from head.models.fused.cpu import depthwise as loops

    kind = "bfloat16" if like.dtype == torch.bfloat16 else "float32"
    in_threads(getattr(loops, f"{loop}_{kind}"), len(like), *arguments)


def _array(maps: Tensor) -> NDArray[Any]:
    """Return maps (B, C, H, W) as an array (B, H, W, C), of bfloat16 as uint16; in the same memory if they allow it."""
    last = maps.detach().contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return last.view(torch.int16).numpy().view(np.uint16) if maps.dtype == torch.bfloat16 else last.numpy()
