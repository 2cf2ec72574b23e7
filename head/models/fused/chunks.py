"""The attention's formulas on few images at a time, so that arrays of their keys' size are small: for any device."""

from collections.abc import Iterator

import torch
from torch import Tensor

from head.models.fused import attention as formulas
from head.models.fused.attention import Loops

CHUNK = 16  # images


def standardise(features: Tensor, mean: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    means = mean.new_empty(x.shape[0], x.shape[2])
    for some in _chunks(len(x)):
        x[some], means[some] = formulas.standardise(features[some], mean, scale)
    return means


def attend(keys: Tensor, x: Tensor, state: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
    alpha, z = M.new_empty(keys.shape[:2]), torch.empty_like(state)
    for some in _chunks(len(keys)):
        alpha[some], z[some] = formulas.attend(keys[some], x[some], state[some], M)
    return alpha, z


def energy_gradient(x: Tensor, alpha: Tensor, d_alpha: Tensor, dz: Tensor) -> Tensor:
    out = torch.empty_like(alpha)
    for some in _chunks(len(x)):
        out[some] = formulas.energy_gradient(x[some], alpha[some], d_alpha[some], dz[some])
    return out


def state_gradient(keys: Tensor, state: Tensor, M: Tensor, gradient: Tensor) -> Tensor:
    out = torch.empty_like(state)
    for some in _chunks(len(keys)):
        out[some] = formulas.state_gradient(keys[some], state[some], M, gradient[some])
    return out


def key_gradient_(keys: Tensor, states: Tensor, M: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    of_M, first = torch.zeros_like(M), torch.empty_like(states[0])
    for some in _chunks(len(keys)):
        found = formulas.key_gradient(keys[some], states[:, some], M, gradients[:, some])
        keys[some], own, first[some] = found
        of_M += own
    return of_M, first


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))


IN_CHUNKS = Loops(standardise, attend, energy_gradient, state_gradient, key_gradient_)
