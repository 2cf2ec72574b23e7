"""The published forward pass in float64, written from the facts in docs/paper.md alone.

One image and one position at a time, from the state dict of a checkpoint; and the authors' backbone: torchvision's
ResNet50 up to the end of layer3, on the whole image squashed to a square.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor
from torchvision.models import ResNet, resnet50

Array = NDArray[np.float64]
State = Mapping[str, Array]
Network = Callable[..., ResNet]
BACKBONE = "core_cnn.core_cnn."


@dataclass(frozen=True)
class Scored:
    """y, the outputs of the steps (T), what is displayed of them (T), and the attention maps (T, L)."""

    y: float
    outputs: Array
    displayed: Array
    maps: Array


def batch_statistics(state: State, features: Array) -> dict[str, Array]:
    """Return state with the statistics that batch norm takes in training from features (B, L, D)."""
    rows = np.array([linear(state, "inconv", x) for image in features for x in image])
    return {**state, "bn1.running_mean": rows.mean(axis=0), "bn1.running_var": rows.var(axis=0)}


@threadpool_limits.wrap(limits=1, user_api="blas")  # two threads take 12 times the CPU seconds of one
def score_features(state: State, features: Array, steps: int = 3) -> Scored:
    """Score one image from its features (L, D)."""
    x = [input_block(state, position) for position in features]
    L = len(x)
    mean = sum(x) / L
    h, c = np.tanh(linear(state, "hs1", mean)), np.tanh(linear(state, "hc1", mean))
    outputs, maps = [], []
    for _ in range(steps):
        alpha = softmax([energy(state, x[i], h, i) for i in range(L)]) if "e1.weight" in state else np.full(L, 1 / L)
        z = sum(alpha[i] * x[i] for i in range(L))
        h, c = lstm(state, z, h, c)
        outputs.append(linear(state, "regnet4", np.maximum(linear(state, "regnet1", h), 0))[0])
        maps.append(alpha)
    return Scored(
        y=float(np.mean(outputs) / 2.0 + 0.754),
        outputs=np.array(outputs),
        displayed=np.array([output / (2 * steps) + 0.754 / steps for output in outputs]),
        maps=np.array(maps),
    )


def input_block(state: State, x: Array) -> Array:
    """1x1 convolution, batch norm with running statistics, ReLU; x is one position (D)."""
    x = linear(state, "inconv", x)
    x = (x - state["bn1.running_mean"]) / np.sqrt(state["bn1.running_var"] + 1e-5)
    return np.maximum(x * state["bn1.weight"] + state["bn1.bias"], 0)


def energy(state: State, x: Array, h: Array, i: int) -> float:
    """Return what the attention thinks of position i."""
    key = np.maximum(linear(state, "e1", x), 0)
    number = state["eh1.weight"][i] @ h + state["eh1.bias"][i]
    return float(state["eh3.weight"][0] @ np.maximum(key + number, 0))


def lstm(state: State, z: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Return the next h and c; gates i, f, g, o."""
    gates = state["rnn.weight_ih_l0"] @ z + state["rnn.bias_ih_l0"]
    gates = gates + state["rnn.weight_hh_l0"] @ h + state["rnn.bias_hh_l0"]
    i, f, g, o = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def linear(state: State, name: str, x: Array) -> Array:
    """Apply the layer called name, with or without a bias, to a vector."""
    weight = state[f"{name}.weight"]
    return weight.reshape(weight.shape[:2]) @ x + state.get(f"{name}.bias", 0)


def softmax(energies: list[float]) -> Array:
    """Return probabilities."""
    e = np.exp(np.array(energies) - max(energies))
    return e / e.sum()


def sigmoid(x: Array) -> Array:
    """Return the logistic function."""
    return 1 / (1 + np.exp(-x))


def image_loss(target: float, y: float, maps: Array, attention_weight: float) -> float:
    """Return the loss of one image, from its maps (T, L); target and y are on the scale of the raw outputs' mean."""
    penalty = 0.0
    for i in range(maps.shape[1]):
        penalty += sum(0.2 - maps[t, i] for t in range(len(maps))) ** 2
    return (target - y) ** 2 + attention_weight * penalty


def score_file(
    checkpoint: Mapping[str, Tensor], path: Path, *, size: int = 224, steps: int = 3, network: Network = resnet50
) -> Scored:
    """Score an image file with the state dict of a checkpoint."""
    with Image.open(path) as file:
        squashed = file.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(squashed).astype(np.float64) / 255
    normalised = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    features = backbone_features(checkpoint, torch.from_numpy(normalised).permute(2, 0, 1), network)
    head = {name: value for name, value in checkpoint.items() if not name.startswith(BACKBONE)}
    return score_features(as_arrays(head), features, steps)


def backbone_features(checkpoint: Mapping[str, Tensor], image: Tensor, network: Network = resnet50) -> Array:
    """Map a normalised image (3, S, S) to features (L, D), row by row, with running statistics."""
    with torch.device("meta"):  # values for what is replaced take longer to draw than to use
        net = network(weights=None).eval()
    own = {name.removeprefix(BACKBONE): value for name, value in checkpoint.items() if name.startswith(BACKBONE)}
    doubles = {name: value.double() if value.is_floating_point() else value for name, value in own.items()}
    net.load_state_dict(doubles, strict=False, assign=True)
    with torch.no_grad():
        x = net.maxpool(net.relu(net.bn1(net.conv1(image.double().unsqueeze(0)))))
        fmap = net.layer3(net.layer2(net.layer1(x)))[0]  # (D, H, W)
    features: Array = fmap.flatten(1).T.numpy()
    return features


def as_arrays(state: Mapping[str, Tensor]) -> dict[str, Array]:
    """Return a state dict in float64."""
    return {name: value.double().numpy() for name, value in state.items()}


def random_checkpoint(
    *,
    positions: int = 196,
    hidden_size: int = 1024,
    regressor_size: int = 512,
    seed: int = 0,
    network: Network = resnet50,
) -> dict[str, Tensor]:
    """Return a state dict in the authors' layout; nothing in it is at its initial value, and features are of size 1.

    The energies of attention differ by about 1 between positions, so that no wrong step of it stays unseen.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        net = network(weights=None)
    shapes, D = net.state_dict(), net.layer3[-1].conv3.out_channels
    H, R = hidden_size, regressor_size

    def normal(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    state: dict[str, Tensor] = {}
    for name, tensor in shapes.items():
        key, last = BACKBONE + name, name.rpartition(".")[2]
        if last == "num_batches_tracked":
            state[key] = torch.tensor(7)
        elif tensor.ndim == 4:
            state[key] = normal(*tensor.shape, scale=(2 / tensor[0].numel()) ** 0.5)
        elif last == "running_var":
            state[key] = between(0.5, 2.0, *tensor.shape)
        elif last == "weight" and tensor.ndim == 1:
            state[key] = between(0.2, 0.6, *tensor.shape) if ".bn3" in name else between(0.5, 1.5, *tensor.shape)
        else:
            state[key] = normal(*tensor.shape, scale=0.1)
    layers = {  # name: (shape, gain)
        "inconv.weight": ((D, D, 1, 1), 1.0),
        "hs1.weight": ((H, D), 1.0),
        "hc1.weight": ((H, D), 1.0),
        "e1.weight": ((D, D), 1.5),
        "eh1.weight": ((positions, H), 1.5),
        "eh3.weight": ((1, D), 1.5),
        "rnn.weight_ih_l0": ((4 * H, D), 1.5),
        "rnn.weight_hh_l0": ((4 * H, H), 1.5),
        "regnet1.weight": ((R, H), 1.5),
        "regnet4.weight": ((1, R), 1.5),
    }
    for name, (shape, gain) in layers.items():
        state[name] = normal(*shape, scale=gain / shape[1] ** 0.5)
    for name, size in (("inconv", D), ("hs1", H), ("hc1", H), ("eh1", positions), ("regnet1", R), ("regnet4", 1)):
        state[f"{name}.bias"] = normal(size, scale=0.2)
    state["rnn.bias_ih_l0"], state["rnn.bias_hh_l0"] = normal(4 * H, scale=0.2), normal(4 * H, scale=0.2)
    state["bn1.weight"], state["bn1.bias"] = between(0.5, 1.5, D), normal(D, scale=0.3)
    state["bn1.running_mean"], state["bn1.running_var"] = normal(D, scale=0.3), between(0.5, 2.0, D)
    state["bn1.num_batches_tracked"] = torch.tensor(7)
    return state
