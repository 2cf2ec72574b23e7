"""Exactly those weights are trained that --train names; additions of low rank are W + BA, and begin as W."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from featcache.base.errors import InvalidSettings
from featcache.store.cache import FeatureCache
from head.models.kinds import stored_of
from head.models.tails.trained import added, choose_trained, part_in_words
from tests.helpers.tails import RESNET, VIT, tail_of, tail_settings, tail_trainer

OUTPUT = {"output.weight", "output.bias"}
BLOCKS = ("blocks.3", "blocks.4", "blocks.5")
MATRICES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@pytest.fixture(scope="module")
def caches(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureCache]:
    return {one.name: one.cache(tiny_dataset, tmp_path_factory.mktemp("trained")) for one in (RESNET, VIT)}


def changed(cache: FeatureCache, folder: Path, **settings: Any) -> tuple[set[str], set[str]]:
    """Return which weights an epoch changes, and which it could have, without what stands before all their names."""
    trainer = tail_trainer(cache, folder, **settings)
    before = {name: values.clone() for name, values in trainer.model.state_dict().items()}
    trainer.train_epoch(1)
    found = {name for name, values in trainer.model.state_dict().items() if not torch.equal(values, before[name])}
    assert (
        set(stored_of(trainer.model)) == set(before) if trainer.settings.train == "all" else found | {"frozen_sha256"}
    )
    names = {name for name, _ in trainer.model.named_parameters()}
    short = [{name.removeprefix("rest.network.") for name in one} for one in (found, names)]
    return short[0], short[1]


def both(*modules: str) -> set[str]:
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


def test_all_of_a_transformers_rest_is_trained_or_its_norms_alone(
    caches: dict[str, FeatureCache], tmp_path: Path
) -> None:
    cache, layer = caches["timm:test_vit"], ("blocks.2",)
    found, names = changed(cache, tmp_path, layers=layer)
    assert found == names >= both("blocks.3.norm1", "blocks.5.mlp.fc2", "norm") | OUTPUT
    assert not any(name.startswith(("blocks.0", "blocks.1", "blocks.2", "pos_embed", "patch")) for name in names)
    found, _ = changed(cache, tmp_path, layers=layer, train="norms")
    norms = [f"{block}.{norm}" for block in BLOCKS for norm in ("norm1", "norm2")]
    assert found == both(*norms, "norm") | OUTPUT


def test_of_a_convolutional_network_norms_are_those_of_batches(caches: dict[str, FeatureCache], tmp_path: Path) -> None:
    found, names = changed(caches["timm:test_resnet"], tmp_path, layers=("layer3",), train="norms")
    norms = {name.rpartition(".")[0] for name in found - OUTPUT}
    assert found == both(*norms) | OUTPUT and len(names) > len(found)
    model = RESNET.drawn()
    assert norms == {
        path for path, one in model.named_modules() if path.startswith("layer4") and isinstance(one, nn.BatchNorm2d)
    }


@pytest.mark.parametrize(
    ("number", "modules"),
    [
        (1, ["blocks.5.mlp.fc2", "norm"]),
        (2, ["blocks.5.mlp.fc1", "blocks.5.mlp.fc2", "norm"]),
        (4, [*(f"blocks.5.{one}" for one in ("attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")), "norm"]),
    ],
)  # fmt: skip
def test_the_last_weights_are_counted_in_matrices_from_the_end(
    caches: dict[str, FeatureCache], tmp_path: Path, number: int, modules: list[str]
) -> None:
    found, _ = changed(caches["timm:test_vit"], tmp_path, layers=("blocks.2",), train=f"last-{number}")
    assert found == both(*modules) | OUTPUT


def test_more_than_there_are_is_refused_with_how_many_there_are(
    caches: dict[str, FeatureCache], tmp_path: Path
) -> None:
    with pytest.raises(InvalidSettings, match=r"--train last-13: timm:test_vit has 12 matrices and convolutions"):
        tail_trainer(caches["timm:test_vit"], tmp_path, layers=("blocks.2",), train="last-13")
    found, names = changed(caches["timm:test_vit"], tmp_path, layers=("blocks.2",), train="last-12")
    assert found == names - both("blocks.3.norm1")


def test_the_order_is_that_in_which_they_are_used() -> None:
    class Crossed(nn.Module):
        """A network that goes back and forth between its parts, and begins with a parameter of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.late = nn.ModuleDict({"second": nn.Linear(3, 3), "last": nn.Linear(3, 3)})
            self.early = nn.ModuleDict({"third": nn.Linear(3, 3), "first": nn.Linear(3, 3)})
            self.token = nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.early["first"](x + self.token)
            found: torch.Tensor = self.late["last"](self.early["third"](self.late["second"](x)))
            return found

    def trained(train: str) -> set[str]:
        network = torch.fx.symbolic_trace(Crossed())
        choose_trained(network, train, "crossed")
        return {name for name, weight in network.named_parameters() if weight.requires_grad}

    assert trained("last-1") == both("late.last")
    assert trained("last-2") == both("late.last", "early.third")
    assert trained("last-3") == both("late.last", "early.third", "late.second")
    assert trained("last-4") == both("late.last", "early.third", "late.second", "early.first")
    with pytest.raises(InvalidSettings, match="crossed has 4 matrices"):
        trained("last-5")


def test_additions_alone_are_trained_and_stored(caches: dict[str, FeatureCache], tmp_path: Path) -> None:
    cache = caches["timm:test_vit"]
    found, _ = changed(cache, tmp_path, layers=("blocks.2",), train="lora-3")
    matrices = [f"{block}.{matrix}" for block in BLOCKS for matrix in MATRICES]
    assert found == {f"{matrix}_lora.{one}" for matrix in matrices for one in ("down", "up")} | OUTPUT
    head = tail_trainer(cache, tmp_path, layers=("blocks.2",), train="lora-3").model
    assert {name.removeprefix("rest.network.") for name in stored_of(head)} == found | {"frozen_sha256"}


def test_with_additions_it_begins_as_the_network_itself() -> None:
    x = torch.randn(2, 101, 64, generator=torch.manual_seed(2))
    with torch.no_grad():
        (plain,), (adapted,) = (
            tail_of("timm:test_vit", 160, "blocks.2", train=train).eval().rest(x) for train in ("all", "lora-4")
        )
    torch.testing.assert_close(adapted, plain)


def test_an_addition_is_the_product_of_its_matrices() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        matrix = nn.Linear(7, 5)
        network = torch.fx.symbolic_trace(nn.Sequential(matrix))
        choose_trained(network, "lora-3", "one matrix")
        down, up = added(network)
        x, y = torch.randn(11, 7), torch.randn(11, 5)
        assert torch.equal(network(x), matrix(x))
        assert down.std() > 0.1  # or B would never have a gradient
        nn.init.normal_(up)
    torch.testing.assert_close(network(x), x @ (matrix.weight + up @ down).T + matrix.bias)
    torch.autograd.backward((network(x) * y).sum())
    torch.testing.assert_close(up.grad, y.T @ (x @ down.T))
    torch.testing.assert_close(down.grad, up.T @ y.T @ x)
    assert [weight.requires_grad for weight in (matrix.weight, matrix.bias, down, up)] == [False, False, True, True]


def test_a_matrix_that_a_function_multiplies_by_is_one_too() -> None:
    class Biased(nn.Module):
        """A matrix whose bias comes from elsewhere, as some transformers have it."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.qkv = nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
            self.bias = nn.Parameter(torch.randn(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.first(x), self.qkv.weight, self.bias)

    x = torch.randn(3, 4)
    adapted, last = torch.fx.symbolic_trace(Biased()), torch.fx.symbolic_trace(Biased())
    plain = adapted(x)
    choose_trained(adapted, "lora-2", "biased")
    assert torch.equal(adapted(x), plain)
    assert {name for name, weight in adapted.named_parameters() if weight.requires_grad} == {
        f"{matrix}_lora.{one}" for matrix in ("first", "qkv") for one in ("down", "up")
    }
    nn.init.normal_(added(adapted)[-1])
    assert (adapted(x) - plain).abs().max() > 1e-3
    choose_trained(last, "last-1", "biased")
    assert {name for name, weight in last.named_parameters() if weight.requires_grad} == {"qkv.weight", "bias"}


def test_statistics_are_trained_where_norms_are_and_only_there(caches: dict[str, FeatureCache], tmp_path: Path) -> None:
    cache, layer = caches["timm:test_resnet"], ("layer3",)
    trainer = tail_trainer(cache, tmp_path, layers=layer, train="last-1", batch_norm="trained")
    before = {name: values.clone() for name, values in trainer.model.named_buffers()}
    trainer.train_epoch(1)
    moved = {
        name.rpartition(".")[0]
        for name, values in trainer.model.named_buffers()
        if not torch.equal(values, before[name])
    }
    trained = {name.rpartition(".")[0] for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert moved and moved < trained
    assert {name for name in stored_of(trainer.model) if "running_mean" in name} == {
        f"{norm}.running_mean" for norm in moved
    }


@pytest.mark.parametrize(
    ("name", "layer", "train"), [("timm:test_vit", "blocks.2", "all"), ("resnet18", "layer3", "lora-1")]
)
def test_statistics_that_nothing_would_train_are_refused(name: str, layer: str, train: str) -> None:
    with pytest.raises(InvalidSettings, match=r"--batch-norm trained: behind|has no matrices"):
        tail_of(name, 160 if "vit" in name else 64, layer, train=train, batch_norm="trained")


def test_additions_have_the_rate_of_new_weights() -> None:
    head = tail_of("timm:test_vit", 160, "blocks.2", train="lora-2")
    (group,) = head.groups(tail_settings(lr=0.3, backbone_lr=0.2))
    assert group["lr"] == 0.3
    assert len(group["params"]) == len(added(head.rest.network)) + 2 == 2 * 12 + 2
    old, new = tail_of("timm:test_resnet", 64, "layer3").groups(tail_settings(lr=0.3, backbone_lr=0.2))
    assert (old["lr"], new["lr"], len(new["params"])) == (0.2, 0.3, 2)


@pytest.mark.parametrize(
    ("name", "layer", "train", "message"),
    [
        (
            "resnet18",
            "layer2",
            "lora-4",
            "--train lora-4: resnet18 has no matrices .* use --train all, norms or last-N",
        ),
        ("alexnet", "features.5", "norms", "--train norms: alexnet has no norms .* use --train all or last-N"),
    ],
)
def test_what_a_network_does_not_have_is_refused(name: str, layer: str, train: str, message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        tail_of(name, 96, layer, train=train)


@pytest.mark.parametrize("train", ["all", "norms", "last-2", "lora-8"])
def test_each_part_has_words_of_its_own(train: str) -> None:
    assert part_in_words(train) != part_in_words("last-1")
    assert train.partition("-")[2] in part_in_words(train)
