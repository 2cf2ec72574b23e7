"""Depthwise convolutions whose gradients are as quick on a CPU in bfloat16 as the convolutions themselves.

oneDNN computes some of their gradients in bfloat16 many times as slowly as in float32. Measured on two cores of a Xeon
with AMX, 32 images, in ms: of the input at stride 2, 96 channels of 112 x 112, 142 against 36 in float32; of 5 x 5
weights, 240 channels of 28 x 28, 108 against 23. Of the input at stride 1 a convolution with turned weights takes 2,
where the library's gradient takes 5.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_WIDEST = 3  # kernels whose weights' gradient is quick in bfloat16


class QuickDepthwise(TorchFunctionMode):
    """Within it depthwise convolutions that autocast computes in bfloat16 on a CPU have the gradients of this module.

    All other functions are what they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.conv2d and torch.is_grad_enabled() and _is_bfloat16_on_cpu(args[0]):
            found = _arguments(*args, **kwargs)
            if found is not None:
                x, weight, bias, stride, padding = found
                with torch.autocast("cpu", enabled=False):
                    y: Tensor = _Depthwise.apply(x.bfloat16(), weight.bfloat16(), stride, padding)
                    return y if bias is None else y + bias.bfloat16().view(1, -1, 1, 1)
        return func(*args, **kwargs)


def _is_bfloat16_on_cpu(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _arguments(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, int], tuple[int, int]] | None:  # fmt: skip
    """Return the arguments of a convolution of one channel each, undilated; None of any other."""
    if not groups == x.shape[1] == weight.shape[0] > 1 or isinstance(padding, str) or _pair(dilation) != (1, 1):
        return None
    return x, weight, bias, _pair(stride), _pair(padding)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, None, stride, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        of_x, of_weight = ctx.needs_input_grad[:2]
        return (
            _of_input(grad, x, weight, ctx.stride, ctx.padding) if of_x else None,
            _of_weight(grad, x, weight, ctx.stride, ctx.padding) if of_weight else None,
            None,
            None,
        )


def _of_input(grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    turned = tuple(size - 1 - side for size, side in zip(weight.shape[2:], padding, strict=True))
    if stride == (1, 1) and min(turned) >= 0:
        return functional.conv2d(grad, weight.flip(2, 3), None, 1, turned, 1, x.shape[1])
    return _gradient(grad.float(), x, weight.float(), stride, padding, (True, False, False)).bfloat16()


def _of_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    if max(weight.shape[2:]) > _WIDEST:
        grad, x, weight = grad.float(), x.float(), weight.float()
    return _gradient(grad, x, weight, stride, padding, (False, True, False)).bfloat16()


def _gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int],
    wanted: tuple[bool, bool, bool],
) -> Tensor:  # fmt: skip
    found = torch.ops.aten.convolution_backward(
        grad, x.to(grad.dtype), weight, None, stride, padding, (1, 1), False, (0, 0), x.shape[1], wanted
    )
    gradient: Tensor = found[0] if wanted[0] else found[1]
    return gradient
