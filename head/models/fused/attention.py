"""The attention of Eq. 4 to 8 and its gradients as plain formulas, and what loops that compute them have to offer.

tanh(k + s) = 1 - 2r with r = 1 / (1 + E F), E = exp(2k) and F = exp(2s). With the keys k = K x, the features x, the
state's share s = U h + b and primes for gradients,

    e_i  = sum_d M_id (1 - 2r)                                energies, Eq. 8
    a_i  = exp(e_i) / sum_j exp(e_j),  z = sum_i a_i x_i      the map and what is seen, Eq. 6 and 4
    e'_i = a_i (v_i - sum_j a_j v_j),  v_i = a'_i + x_i z'    gradient with respect to the energies
    s'_d = sum_i e'_i M_id 4 (r - r^2)                        with respect to s
    k'_d = M_id sum_t e'_ti 4 (r_t - r_t^2)                   with respect to the keys, of all steps t
    M'_id = sum_b sum_t e'_ti (1 - 2 r_t)                     with respect to M

k and s are held to +-40: exp stays finite, and a tanh whose share is beyond that is 1 to the last bit unless the other
share is as large with the opposite sign. Keys and features may be bfloat16; all else is in the type of M.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST = 40.0


class Loops(NamedTuple):
    """The functions below for a kind of device, which make no array of the keys' size.

    standardise takes x (B, L, D) last, which it fills, and returns the means (B, D) alone. key_gradient_ puts k' in the
    place of the keys and returns M' and s'.
    """

    standardise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    attend: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    energy_gradient: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    state_gradient: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    key_gradient_: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def exponential(k: Tensor) -> Tensor:
    """Return exp(2k), k held to +-40."""
    return (2 * k.clamp(-LARGEST, LARGEST)).exp_()


def standardise(features: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (B, L, D), which is (features - mean) scale, and its mean over positions (B, D)."""
    x = (features.to(mean.dtype) - mean) * scale
    return x, x.mean(dim=1)


def attend(keys: Tensor, x: Tensor, state: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map (B, L) and z (B, D) from k and x (B, L, D), F (B, D) and M (L, D)."""
    r = _r(keys, state)
    alpha = torch.softmax((M * (1 - 2 * r)).sum(dim=2), dim=1)
    return alpha, (alpha.unsqueeze(1) @ x.to(M.dtype)).squeeze(1)


def energy_gradient(x: Tensor, alpha: Tensor, d_alpha: Tensor, dz: Tensor) -> Tensor:
    """Return e' (B, L) from x (B, L, D), the map and the gradients of the map alone (B, L) and of z (B, D)."""
    v = d_alpha + (x.to(dz.dtype) @ dz.unsqueeze(2)).squeeze(2)
    return alpha * (v - (alpha * v).sum(dim=1, keepdim=True))


def state_gradient(keys: Tensor, state: Tensor, M: Tensor, gradient: Tensor) -> Tensor:
    """Return s' (B, D) from k (B, L, D), F (B, D), M (L, D) and e' (B, L)."""
    r = _r(keys, state)
    return (gradient.unsqueeze(2) * M * (4 * (r - r * r))).sum(dim=1)


def key_gradient(keys: Tensor, states: Tensor, M: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return k' (B, L, D), M' (L, D) and s' (B, D) of the first step, from F (T, B, D) and e' (T, B, L) of all."""
    slopes, values = M.new_zeros(keys.shape), M.new_zeros(keys.shape)
    for state, gradient in zip(states, gradients, strict=True):
        r = _r(keys, state)
        slopes = slopes + gradient.unsqueeze(2) * (r - r * r)
        values = values + gradient.unsqueeze(2) * (1 - 2 * r)
    first = state_gradient(keys, states[0], M, gradients[0])
    return (4 * slopes * M).to(keys.dtype), values.sum(dim=0), first


def _r(keys: Tensor, state: Tensor) -> Tensor:
    """Return r (B, L, D), in the type of F (B, D)."""
    return 1 / (1 + exponential(keys.to(state.dtype)) * state.unsqueeze(1))
