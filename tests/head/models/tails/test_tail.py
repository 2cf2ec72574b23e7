"""A tail is trained as a plain loop fine-tunes the network, and keeps still what is to stay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from featcache.base.errors import Mismatch
from featcache.store.cache import FeatureCache
from head.data.batches import epoch_batches
from head.models.kinds import stored_of
from head.models.tails.tail import TailHead
from head.training.gradients.trainer import Trainer
from tests.helpers.tails import RESNET, RESNET18, VIT, Network, tail_of, tail_trainer

NETWORKS = {"resnet18": RESNET18, "timm:test_resnet": RESNET, "timm:test_vit": VIT}
CLASSIFIERS = {"resnet18": "fc", "timm:test_resnet": "fc", "timm:test_vit": "head"}
EPSILON = 1e-2  # of Adam in both loops: its own makes gradients that are nothing but rounding as large as any other
RATES = {"lr": 1e-3, "backbone_lr": 1e-4, "weight_decay": 1e-3}


@pytest.fixture(scope="module")
def caches(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureCache]:
    """For each network a cache of the pixels that it sees, and of layers."""
    return {name: one.cache(tiny_dataset, tmp_path_factory.mktemp(name[:4])) for name, one in NETWORKS.items()}


class Plain:
    """Fine-tuning as it is written everywhere: the library's network, its classifier replaced, and Adam."""

    def __init__(self, network: Network, output: nn.Linear, *, frozen_statistics: bool) -> None:
        self.model = network.drawn().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        classifier = nn.Linear(output.in_features, 1)
        classifier.load_state_dict(output.state_dict())
        setattr(self.model, CLASSIFIERS[network.name], classifier)
        self.model.train()
        if frozen_statistics:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        new = {id(weight) for weight in classifier.parameters()}
        old = [weight for weight in self.model.parameters() if id(weight) not in new]
        groups = [{"params": classifier.parameters(), "lr": RATES["lr"]}, {"params": old, "lr": RATES["backbone_lr"]}]
        self.adam = torch.optim.Adam(groups, weight_decay=RATES["weight_decay"], eps=EPSILON, fused=True)

    def step(self, images: Tensor, targets: Tensor) -> float:
        loss = (self.model(images).squeeze(1) - targets).square().mean()
        self.adam.zero_grad()
        torch.autograd.backward(loss)
        self.adam.step()
        return loss.item()


def images_of(cache: FeatureCache, rows: Any, views: Any, size: int) -> Tensor:
    pixels = torch.from_numpy(cache.read(rows, views, "views")).reshape(len(rows), size, size, 3)
    mean, std = torch.tensor(cache.recipe.mean), torch.tensor(cache.recipe.std)
    return ((pixels - 255 * mean) / (255 * std)).permute(0, 3, 1, 2)


def batches_of(trainer: Trainer, epochs: int = 2) -> Iterator[tuple[Any, Any, Any]]:
    of = trainer.settings
    for epoch in range(1, epochs + 1):
        size, views = of.batch_size, trainer.cache.views
        yield from epoch_batches(trainer.data.train, views=views, seed=of.seed, epoch=epoch, batch_size=size)


def tail(trainer: Trainer) -> TailHead:
    assert isinstance(trainer.model, TailHead)
    return trainer.model


@pytest.mark.parametrize(
    ("name", "batch_norm"),
    [(name, one) for name in NETWORKS for one in ("frozen", "trained") if (name, one) != ("timm:test_vit", "trained")],
)
def test_it_is_trained_step_by_step_as_a_plain_loop_fine_tunes_the_network(
    caches: dict[str, FeatureCache], tmp_path: Path, name: str, batch_norm: str
) -> None:
    cache, network = caches[name], NETWORKS[name]
    trainer = tail_trainer(cache, tmp_path, batch_norm=batch_norm, **RATES)
    head = tail(trainer)
    for group in trainer.optimizer.param_groups:
        group["eps"] = EPSILON
    plain = Plain(network, head.output, frozen_statistics=batch_norm == "frozen")
    before = [weight.detach().clone() for weight in head.rest.network.parameters()]
    mean, scale = trainer.data.train.scores.mean(), trainer.data.train.scores.std()
    head.train()
    seen = 0
    for rows, views, scores in batches_of(trainer):
        targets = torch.from_numpy((scores - mean) / scale).float()
        wanted = plain.step(images_of(cache, rows, views, network.size), targets)
        [target] = trainer.targets([(rows, views, scores)])
        found = trainer.step(torch.from_numpy(cache.read(rows, views, "views")), *target)
        assert found.item() == pytest.approx(wanted, abs=1e-5)
        for own, values in head.rest.network.state_dict().items():
            torch.testing.assert_close(values, plain.model.state_dict()[own], rtol=0, atol=1e-5)
        seen += 1
    assert seen == 6
    moved = [(now - then).abs().max() for now, then in zip(head.rest.network.parameters(), before, strict=True)]
    assert min(moved) > 0 and max(moved) > 1e-4
    rows = trainer.data.select.rows
    plain.model.eval()
    with torch.no_grad():
        predicted = (
            plain.model(images_of(cache, rows, np.zeros(len(rows), int), network.size)).squeeze(1) * scale + mean
        )
    np.testing.assert_allclose(trainer.predict_selection(), predicted, atol=1e-5)


@pytest.mark.parametrize(("layer", "name"), [("layer3", "timm:test_resnet"), ("blocks.2", "timm:test_vit")])
def test_from_a_layer_it_begins_with_what_the_network_itself_makes_of_the_image(
    caches: dict[str, FeatureCache], tmp_path: Path, layer: str, name: str
) -> None:
    trainer = tail_trainer(caches[name], tmp_path, layers=(layer,))
    head, rows = tail(trainer), trainer.data.train.rows[:5]
    plain = Plain(NETWORKS[name], head.output, frozen_statistics=True).model.eval()
    with torch.no_grad():
        found = head.eval()(trainer.input.read(caches[name], rows, np.zeros(5, int))).score
        wanted = plain(images_of(caches[name], rows, np.zeros(5, int), NETWORKS[name].size)).squeeze(1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)  # features are stored as float16


def test_with_rates_of_0_weights_and_outputs_stay_what_they_were(
    caches: dict[str, FeatureCache], tmp_path: Path
) -> None:
    trainer = tail_trainer(caches["timm:test_resnet"], tmp_path, lr=0.0, backbone_lr=0.0, dropout=0.0)
    before = {name: values.clone() for name, values in trainer.model.state_dict().items()}
    scores = trainer.predict_selection()
    trainer.train_epoch(1)
    for name, values in trainer.model.state_dict().items():
        assert torch.equal(values, before[name]), name
    np.testing.assert_array_equal(trainer.predict_selection(), scores)


def test_with_a_backbone_rate_of_0_the_output_alone_learns(caches: dict[str, FeatureCache], tmp_path: Path) -> None:
    trainer = tail_trainer(caches["timm:test_resnet"], tmp_path, backbone_lr=0.0)
    before = {name: values.clone() for name, values in trainer.model.state_dict().items()}
    trainer.train_epoch(1)
    changed = {name for name, values in trainer.model.state_dict().items() if not torch.equal(values, before[name])}
    assert changed == {"output.weight", "output.bias"}


@pytest.mark.parametrize("parts", [3, 5, 9])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    caches: dict[str, FeatureCache], tmp_path: Path, parts: int
) -> None:
    cache, found = caches["timm:test_resnet"], []
    for accumulate in (1, parts):
        trainer = tail_trainer(cache, tmp_path, layers=("layer2",), accumulate=accumulate)
        rows, views, scores = next(batches_of(trainer))
        features = trainer.input.read(cache, rows, views)
        trainer.model.train()
        [target] = trainer.targets([(rows, views, scores)])
        loss = trainer.step(features, *target)
        found.append((loss, {name: weight.grad for name, weight in trainer.model.named_parameters()}))
    (loss, whole), (summed, added) = found
    torch.testing.assert_close(summed, loss)
    for name, gradient in whole.items():
        assert gradient is not None and gradient.abs().max() > 0, name
        torch.testing.assert_close(added[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()) + 1e-7)


def test_an_image_alone_in_its_batch_takes_the_statistics_that_are_there(
    caches: dict[str, FeatureCache], tmp_path: Path
) -> None:
    trainer = tail_trainer(caches["timm:test_resnet"], tmp_path, batch_norm="trained", crop=16, batch_size=1)
    before = {name: values.clone() for name, values in trainer.model.named_buffers() if "running" in name}
    trainer.train_epoch(1)
    after = {name: values for name, values in trainer.model.named_buffers() if "running" in name}
    assert before and all(torch.equal(values, after[name]) for name, values in before.items())
    assert not trainer.model.eval()(torch.zeros(2, 64 * 64, 3)).score.isnan().any()


@pytest.mark.parametrize("batch_norm", ["frozen", "trained"])
def test_frozen_statistics_stay_and_trained_ones_move_and_are_stored(
    caches: dict[str, FeatureCache], tmp_path: Path, batch_norm: str
) -> None:
    trainer = tail_trainer(caches["timm:test_resnet"], tmp_path, batch_norm=batch_norm, train="norms")
    norms = {path: one for path, one in trainer.model.named_modules() if isinstance(one, _BatchNorm)}
    names = {f"{path}.{name}" for path in norms for name in ("running_mean", "running_var")}
    before = {name: trainer.model.state_dict()[name].clone() for name in names}
    trainer.train_epoch(1)
    after = trainer.model.state_dict()
    moved = {name for name in names if not torch.equal(before[name], after[name])}
    assert moved == (names if batch_norm == "trained" else set())
    assert names & set(stored_of(trainer.model)) == moved
    weights = {f"{path}.weight" for path in norms}
    assert weights <= set(stored_of(trainer.model))


def test_weights_that_are_not_those_of_the_cache_are_refused(caches: dict[str, FeatureCache], tmp_path: Path) -> None:
    cache = caches["timm:test_resnet"]
    trainer = tail_trainer(cache, tmp_path)
    with pytest.raises(Mismatch, match=r"the weights random are not those that the features were made with, .* pass"):
        tail(trainer).begin(cache.recipe, "random")


# crops


def cropped(**changes: Any) -> tuple[TailHead, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        head = tail_of("timm:test_resnet", 48, "views", crop=32, **changes)
    pixels = torch.randint(0, 256, (3, 48, 48, 3), generator=torch.manual_seed(1), dtype=torch.uint8)
    return head, pixels


def scored(head: TailHead, pixels: Tensor) -> Tensor:
    """Return what the network gives of pixels (B, 32, 32, 3), which are all that it sees."""
    with torch.no_grad():
        return head.scored(pixels.flatten(1, 2)).score


def test_the_central_crop_is_evaluated() -> None:
    head, pixels = cropped()
    with torch.no_grad():
        found = head.eval()(pixels.flatten(1, 2)).score
    torch.testing.assert_close(found, scored(head, pixels[:, 8:40, 8:40]))


def test_or_the_mean_of_ten_crops_corners_centre_and_mirror_images() -> None:
    head, pixels = cropped(eval_view="tencrop")
    with torch.no_grad():
        found = head.eval()(pixels.flatten(1, 2)).score
    places = [(0, 0), (0, 16), (16, 0), (16, 16), (8, 8)]
    each = [pixels[:, y : y + 32, x : x + 32] for y, x in places]
    wanted = torch.stack([scored(head, one) for crop in each for one in (crop, crop.flip(2))]).mean(dim=0)
    torch.testing.assert_close(found, wanted)


def test_training_sees_crops_that_are_drawn_and_the_same_of_the_same_generator() -> None:
    head, pixels = cropped()
    head.train()
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        with torch.no_grad():
            found.append(head(pixels.flatten(1, 2)).score)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
