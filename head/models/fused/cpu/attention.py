"""The loops over (image, position, channel) of the attention, compiled for the CPU.

Each goes over the keys, or the features, of an image once, a row of channels at a time, and makes no array of their
size; what they compute is written as plain formulas in `head.models.fused.attention`. Keys and features are in the
type of the products of matrices, all else is float32 (float64 in tests). Work is cut between images, or groups of
them, so no result depends on the number of threads.
"""

import numpy as np

from head.models.fused.cpu.numbers import Array, compiled, exponential, loaded, rounded, widened

GROUP = 8  # images whose gradients of M are added up before those of others


@compiled
def standardise(features: Array, mean: Array, scale: Array, x: Array, means: Array, start: int, stop: int) -> None:
    """Fill x (B, L, D) with (features - mean) scale and means (B, D) with its mean over positions.

    Features of float16 come as uint16. The means are of x before it is rounded.
    """
    L, D = x.shape[1:]
    for b in range(start, stop):
        means[b, :] = 0
        for i in range(L):
            for d in range(D):
                value = (loaded(features[b, i, d]) - mean[d]) * scale[d]
                means[b, d] += value
                x[b, i, d] = rounded(value, x)
        for d in range(D):
            means[b, d] /= L


@compiled
def attend(keys: Array, x: Array, state: Array, M: Array, alpha: Array, z: Array, start: int, stop: int) -> None:
    """Fill alpha (B, L) and z (B, D) from k, x (B, L, D), F (B, D) and M (L, D): Eq. 8, 6 and 4."""
    L, D = M.shape
    one, two = M.dtype.type(1), M.dtype.type(2)
    for b in range(start, stop):
        for i in range(L):
            total = M.dtype.type(0)
            for d in range(D):
                E = exponential(widened(keys[b, i, d]))
                total += M[i, d] * (one - two / (one + E * state[b, d]))
            alpha[b, i] = total
        _softmax(alpha[b])
        z[b, :] = 0
        for i in range(L):
            for d in range(D):
                z[b, d] += alpha[b, i] * widened(x[b, i, d])


@compiled
def energy_gradient(x: Array, alpha: Array, d_alpha: Array, dz: Array, out: Array, start: int, stop: int) -> None:
    """Fill e' (B, L) from x (B, L, D), alpha (B, L), the maps' own gradient (B, L) and that of z (B, D)."""
    L, D = x.shape[1:]
    for b in range(start, stop):
        shared = dz.dtype.type(0)
        for i in range(L):
            total = d_alpha[b, i]
            for d in range(D):
                total += widened(x[b, i, d]) * dz[b, d]
            out[b, i] = total
            shared += total * alpha[b, i]
        for i in range(L):
            out[b, i] = alpha[b, i] * (out[b, i] - shared)


@compiled
def state_gradient(keys: Array, state: Array, M: Array, gradient: Array, out: Array, start: int, stop: int) -> None:
    """Fill s' (B, D) from k (B, L, D), F (B, D), M (L, D) and e' (B, L)."""
    L, D = M.shape
    one, four = M.dtype.type(1), M.dtype.type(4)
    for b in range(start, stop):
        out[b, :] = 0
        for i in range(L):
            weight = four * gradient[b, i]
            for d in range(D):
                r = one / (one + exponential(widened(keys[b, i, d])) * state[b, d])
                out[b, d] += weight * M[i, d] * (r - r * r)


@compiled
def key_gradient(
    keys: Array, states: Array, M: Array, gradients: Array, first: Array, out: Array, start: int, stop: int
) -> None:
    """Replace k (B, L, D) by k', fill s' (B, D) of the first step, and out (G, L, D) with M' of groups [start, stop).

    F (T, B, D) and e' (T, B, L) are those of all steps; a group is `GROUP` images.
    """
    T, B, D = states.shape
    L = len(M)
    one, two, four = M.dtype.type(1), M.dtype.type(2), M.dtype.type(4)
    E, slope = np.empty(D, M.dtype), np.empty(D, M.dtype)
    for group in range(start, stop):
        out[group, :, :] = 0
        for b in range(group * GROUP, min(B, (group + 1) * GROUP)):
            first[b, :] = 0
            for i in range(L):
                for d in range(D):
                    E[d] = exponential(widened(keys[b, i, d]))
                weight = gradients[0, b, i]
                for d in range(D):
                    r = one / (one + E[d] * states[0, b, d])
                    slope[d] = weight * (r - r * r)
                    first[b, d] += four * slope[d] * M[i, d]
                    out[group, i, d] += weight * (one - two * r)
                for t in range(1, T):
                    weight = gradients[t, b, i]
                    for d in range(D):
                        r = one / (one + E[d] * states[t, b, d])
                        slope[d] += weight * (r - r * r)
                        out[group, i, d] += weight * (one - two * r)
                for d in range(D):
                    keys[b, i, d] = rounded(four * slope[d] * M[i, d], keys)


@compiled
def _softmax(values: Array) -> None:
    """Replace values (L) by their softmax."""
    largest, total = values.max(), values.dtype.type(0)
    for i in range(len(values)):
        values[i] = np.exp(values[i] - largest)
        total += values[i]
    for i in range(len(values)):
        values[i] /= total
