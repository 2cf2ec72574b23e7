"""A convolution computed together with the batch norm behind it is the same function of the same weights."""

import pytest
import timm
import torch
from torch import Tensor, fx, nn

from featcache.backbones.families.folding import convolve_and_norm, fold_while_training
from featcache.backbones.families.rest import Cut
from featcache.backbones.networks import build_rest


def network_of(name: str, layer: str) -> fx.GraphModule:
    network = build_rest(Cut(name, layer, 8, 8, 64, False, (0.5,) * 3, (0.2,) * 3), "random", seed=0).network.eval()
    torch.manual_seed(1)
    for norm in [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]:
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            tensor.data.add_(0.3 * torch.rand_like(tensor))
    return network


def output_and_gradients(network: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    network.zero_grad()
    (found,) = network(x)
    found.square().mean().backward()
    return found.detach(), {name: one.grad for name, one in network.named_parameters() if one.grad is not None}


@pytest.mark.parametrize(
    ("name", "layer", "channels"),
    [("resnet18", "layer2", 128), ("efficientnet_lite0", "blocks.2", 40), ("timm:test_resnet", "layer3", 0)],
)
def test_output_and_gradients_are_those_of_both_one_after_the_other(name: str, layer: str, channels: int) -> None:
    network = network_of(name, layer)
    x = torch.randn(2, channels or timm.create_model("test_resnet").feature_info[3]["num_chs"], 8, 8)
    wanted, of_weights = output_and_gradients(network, x)
    norms = [node for node in network.graph.nodes if "norm" in str(node.target) or "bn" in str(node.target)]
    fold_while_training(network)
    folded = [node for node in network.graph.nodes if node.target is convolve_and_norm]
    assert norms and folded
    found, gradients = output_and_gradients(network, x)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert set(gradients) == set(of_weights)
    for weight, gradient in of_weights.items():
        assert (gradients[weight] - gradient).abs().max() <= 1e-4 * gradient.abs().max() + 1e-9, weight


def test_less_is_kept_for_the_gradient() -> None:
    def kept(network: nn.Module) -> int:
        storages: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = network(torch.randn(4, 40, 40, 40))
        del output
        return sum(storages.values())

    network = network_of("efficientnet_lite0", "blocks.2")
    before = kept(network)
    fold_while_training(network)
    assert kept(network) < 0.8 * before


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_without_weights_is_folded_too(affine: bool) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4, affine=affine))
    network = fx.symbolic_trace(layers).eval()
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        wanted = network(x)
        fold_while_training(network)
        torch.testing.assert_close(network(x), wanted)


def test_a_norm_whose_input_others_read_as_well_stays() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.convolution(x)
            return y + self.norm(y)

    network = fx.symbolic_trace(Both()).eval()
    fold_while_training(network)
    assert [node.target for node in network.graph.nodes if node.op == "call_module"] == ["convolution", "norm"]
