"""Eq. 3-15 of the AMNet paper in float64 loops, written from the paper alone: the oracle of `head.models.amnet`.

Where the paper names no formula: the LSTM of Eq. 3 is the usual one (Hochreiter and Schmidhuber with forget
gates), and the hidden layer of the regressor f_m is rectified.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """weight (out, in) and bias (out)."""

    weight: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        return self.weight @ x + self.bias


@dataclass(frozen=True)
class Attention:
    """M (L, D), U (D, H), K (D, D) and b (D) of Eq. 8."""

    M: Array
    U: Array
    K: Array
    b: Array


@dataclass(frozen=True)
class Gate:
    """An LSTM gate: W (H, D) acts on the input, V (H, H) on the state, b (H)."""

    W: Array
    V: Array
    b: Array

    def __call__(self, z: Array, h: Array) -> Array:
        return self.W @ z + self.V @ h + self.b


@dataclass(frozen=True)
class Weights:
    """All weights of a head, and the mean and deviation (D) by which features are standardised."""

    attention: Attention | None
    init_c: Affine
    init_h: Affine
    input_gate: Gate
    forget_gate: Gate
    cell_gate: Gate
    output_gate: Gate
    hidden_layer: Affine
    output_layer: Affine
    feature_mean: Array
    feature_std: Array


def score_image(weights: Weights, features: Array, steps: int) -> tuple[float, Array, Array]:
    """Map the features (L, D) of one image to y, the m_t (T) and the attention maps (T, L)."""
    x = [(x_i - weights.feature_mean) / weights.feature_std for x_i in features]
    L = len(x)
    mean = sum(x) / L
    c, h = np.tanh(weights.init_c(mean)), np.tanh(weights.init_h(mean))  # Eq. 12
    m, maps = [], []
    for _ in range(steps):
        e = [energy(weights.attention, x, i, h) for i in range(L)]  # Eq. 7
        alpha = [np.exp(e_i) / sum(np.exp(e_k) for e_k in e) for e_i in e]  # Eq. 6
        z = np.zeros_like(mean)
        for i in range(L):
            z = z + alpha[i] * x[i]  # Eq. 4
        h, c = lstm_step(weights, z, h, c)  # Eq. 3
        hidden = np.maximum(weights.hidden_layer(h), 0)
        m.append(float(weights.output_layer(hidden)[0]))  # Eq. 10
        maps.append(alpha)
    return sum(m), np.array(m), np.array(maps)  # Eq. 11


def energy(attention: Attention | None, x: list[Array], i: int, h: Array) -> float:
    """Return e_i: Eq. 8, or 1 without attention (Eq. 9)."""
    if attention is None:
        return 1.0
    return float(attention.M[i] @ np.tanh(attention.U @ h + attention.K @ x[i] + attention.b))


def lstm_step(weights: Weights, z: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Return the next h and c (H)."""
    i, f, o = (sigmoid(gate(z, h)) for gate in (weights.input_gate, weights.forget_gate, weights.output_gate))
    c = f * c + i * np.tanh(weights.cell_gate(z, h))
    return o * np.tanh(c), c


def sigmoid(x: Array) -> Array:
    """Return the logistic function."""
    return 1 / (1 + np.exp(-x))


def image_loss(truth: float, y: float, maps: Array, attention_weight: float) -> float:
    """Return Eq. 13 of one image, from its maps (T, L)."""
    penalty = 0.0
    for i in range(maps.shape[1]):
        s_i = 1 - sum(maps[t, i] for t in range(len(maps)))  # Eq. 15
        penalty += s_i**2  # Eq. 14
    return (truth - y) ** 2 + attention_weight * penalty
