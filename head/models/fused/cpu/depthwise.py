"""The loops of gradients of depthwise convolutions, compiled for the CPU.

Maps are (B, height, width, C), channels innermost. bfloat16 comes as uint16, the upper half of a float32, and is
widened an image at a time, while that is in the processor's cache. No result depends on how the images are cut into
ranges.
"""

import numpy as np

from head.models.fused.cpu.numbers import Array, compiled


@compiled
def weight_gradient_float32(
    x: Array, gradient: Array, out: Array, stride: int, padding: int, start: int, stop: int
) -> None:
    """Fill out (B, k, k, C) from x (B, H, W, C) and gradient (B, h, w, C), for the images [start, stop)."""
    for b in range(start, stop):
        _of_weights(x[b], gradient[b], out[b], stride, padding)


@compiled
def weight_gradient_bfloat16(
    x: Array, gradient: Array, out: Array, stride: int, padding: int, start: int, stop: int
) -> None:
    """Do the same from bfloat16."""
    image, slope = np.empty(x.shape[1:], np.uint32), np.empty(gradient.shape[1:], np.uint32)
    for b in range(start, stop):
        _widen(x[b], image)
        _widen(gradient[b], slope)
        _of_weights(image.view(np.float32), slope.view(np.float32), out[b], stride, padding)


@compiled
def input_gradient_float32(
    gradient: Array, weight: Array, out: Array, stride: int, padding: int, start: int, stop: int
) -> None:
    """Fill out (B, H, W, C) from gradient (B, h, w, C) and weight (k, k, C), for the images [start, stop)."""
    for b in range(start, stop):
        _of_input(gradient[b], weight, out[b], stride, padding)


@compiled
def input_gradient_bfloat16(
    gradient: Array, weight: Array, out: Array, stride: int, padding: int, start: int, stop: int
) -> None:
    """Do the same from bfloat16 to bfloat16; weight is float32 all the same."""
    slope, image = np.empty(gradient.shape[1:], np.uint32), np.empty(out.shape[1:], np.uint32)
    for b in range(start, stop):
        _widen(gradient[b], slope)
        _of_input(slope.view(np.float32), weight, image.view(np.float32), stride, padding)
        _narrow(image, out[b])


@compiled
def _of_weights(image: Array, slope: Array, out: Array, stride: int, padding: int) -> None:
    H, W, C = image.shape
    h, w, _ = slope.shape
    k = out.shape[0]
    out[:] = 0
    for y in range(h):
        for i in range(k):
            row = y * stride + i - padding
            if 0 <= row < H:
                for j in range(k):
                    for x in range(w):
                        column = x * stride + j - padding
                        if 0 <= column < W:
                            for d in range(C):
                                out[i, j, d] += image[row, column, d] * slope[y, x, d]


@compiled
def _of_input(slope: Array, weight: Array, image: Array, stride: int, padding: int) -> None:
    H, W, C = image.shape
    h, w, _ = slope.shape
    k = weight.shape[0]
    image[:] = 0
    for y in range(h):
        for i in range(k):
            row = y * stride + i - padding
            if 0 <= row < H:
                for x in range(w):
                    for j in range(k):
                        column = x * stride + j - padding
                        if 0 <= column < W:
                            for d in range(C):
                                image[row, column, d] += slope[y, x, d] * weight[i, j, d]


@compiled
def _widen(values: Array, bits: Array) -> None:
    """Fill bits, of uint32, with the float32 numbers of bfloat16 values."""
    H, W, C = values.shape
    for y in range(H):
        for x in range(W):
            for d in range(C):
                bits[y, x, d] = np.uint32(values[y, x, d]) << np.uint32(16)


@compiled
def _narrow(bits: Array, values: Array) -> None:
    """Fill bfloat16 values with float32 numbers, given as bits, rounded to the nearest, of two the even one."""
    H, W, C = values.shape
    for y in range(H):
        for x in range(W):
            for d in range(C):
                one = bits[y, x, d]
                values[y, x, d] = (one + np.uint32(0x7FFF) + ((one >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
