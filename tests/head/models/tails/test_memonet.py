"""MemoNet's head: three outputs are trained, of which one scores; auxiliary weights are those of the weights file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from featcache.backbones.families.extractor import IMAGENET_MEAN, IMAGENET_STD
from featcache.base.errors import Mismatch
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.store.cache import FeatureCache, open_cache
from head.evaluation.score import score_run
from head.models.amnet import loss
from head.models.tails.memonet import MemoNetHead
from head.models.tails.tail import TailShape
from head.prediction.predictor import Predictor
from head.settings import settings_of
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.networks import pixels, with_lively_norms
from tests.helpers.tiny import QUICK_EXTRACT

S, CROP = 48, 41
OPTIONS = {"aux_logits": True, "init_weights": False, "transform_input": True}
SMALL = {"head": "memonet", "crop": CROP, "epochs": 1, "batch_size": 12, "precision": "fp32"}


def make_head(**given: Any) -> MemoNetHead:
    torch.manual_seed(7)
    shape = TailShape("googlenet", "views", S, S, S, False, IMAGENET_MEAN, IMAGENET_STD, **given)
    return MemoNetHead(shape)


def views() -> Tensor:
    return pixels(3, S).flatten(1, 2)


def cache_of(tiny_dataset: Path, out: Path, weights: str) -> FeatureCache:
    sides = replace(QUICK_EXTRACT.views, image_size=S, eval_view="squash")
    settings = replace(QUICK_EXTRACT, backbone="googlenet", layers=("views",), augs=0, views=sides, weights=weights)
    extract(open_dataset(str(tiny_dataset)), settings, out)
    return open_cache(out)


@pytest.fixture(scope="module")
def published() -> nn.Module:
    """The network of torchvision with auxiliary classifiers, as if it had been trained."""
    torch.manual_seed(2)
    return with_lively_norms(get_model("googlenet", weights=None, **OPTIONS))


def test_scores_are_those_of_torchvisions_network_with_three_regressors(published: nn.Module) -> None:
    head = make_head()
    head.rest.network.load_state_dict(published.state_dict(), strict=False)
    head.auxiliary.load_state_dict(published.state_dict(), strict=False)
    for name, last in zip(("fc", "aux1.fc2", "aux2.fc2"), (head.output, *head.auxiliary_outputs), strict=True):
        published.set_submodule(name, last)
    for module in (*head.modules(), *published.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    published.training = True  # it alone, so that it gives all its outputs
    head.train()
    x = views().reshape(3, S, S, 3)
    with torch.no_grad():
        wanted = published(((x / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).permute(0, 3, 1, 2))
        found = head(views())
    torch.testing.assert_close(found.score, wanted.logits[:, 0], rtol=1e-4, atol=1e-5)
    assert found.auxiliary is not None
    torch.testing.assert_close(found.auxiliary[:, 0], wanted.aux_logits1[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.auxiliary[:, 1], wanted.aux_logits2[:, 0], rtol=1e-4, atol=1e-5)
    assert (found.auxiliary - torch.stack([one.bias[0] for one in head.auxiliary_outputs])).abs().min() > 1e-3


def test_evaluation_ignores_the_auxiliary_regressors() -> None:
    head = make_head().eval()
    with torch.no_grad():
        before = head(views())
        for weight in (*head.auxiliary.parameters(), *head.auxiliary_outputs.parameters()):
            weight.fill_(9.0)
        after = head(views())
    assert before.auxiliary is None
    assert torch.equal(before.score, after.score)


def test_gradients_of_the_loss_reach_every_weight_of_the_auxiliary_regressors() -> None:
    head = make_head().train()
    loss(head(views()), torch.tensor([1.0, -1.0, 0.5]), attention_weight=0.0).backward()  # type: ignore[no-untyped-call]
    of = {**dict(head.auxiliary.named_parameters()), **dict(head.auxiliary_outputs.named_parameters())}
    assert len(of) == 2 * (3 + 2 + 2)  # convolution and norm, fc1, the new output; of both
    assert [name for name, weight in of.items() if weight.grad is None or not weight.grad.any()] == []


def test_statistics_of_auxiliary_norms_stay_or_move_as_the_setting_says() -> None:
    for batch_norm in ("frozen", "trained"):
        head = make_head(batch_norm=batch_norm).train()
        before = {name: values.clone() for name, values in head.auxiliary.named_buffers() if "running" in name}
        head(views())
        same = [torch.equal(dict(head.auxiliary.named_buffers())[name], values) for name, values in before.items()]
        assert len(same) == 4
        assert set(same) == {batch_norm == "frozen"}


def test_new_outputs_have_the_rate_of_new_weights() -> None:
    head = make_head()
    old, new = head.groups(settings_of(head="memonet", lr=0.5, backbone_lr=0.25))
    assert (old["lr"], new["lr"]) == (0.25, 0.5)
    assert {id(one) for one in new["params"]} == {
        id(one) for module in (head.output, head.auxiliary_outputs) for one in module.parameters()
    }
    assert len(old["params"]) + len(new["params"]) == len(list(head.parameters()))


def test_auxiliary_weights_are_those_of_the_file_and_a_file_without_them_is_refused(
    published: nn.Module, tiny_dataset: Path, tmp_path: Path
) -> None:
    state = get_model("googlenet", weights=None, **OPTIONS).state_dict()
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, file)
    cache = cache_of(tiny_dataset, tmp_path / "cache", str(file))
    head = make_head()
    head.begin(cache.recipe, str(file))
    for name, values in head.auxiliary.state_dict().items():
        assert torch.equal(values, state[name]), name
    safetensors.torch.save_file({name: of for name, of in state.items() if not name.startswith("aux2.fc1")}, file)
    with pytest.raises(Mismatch, match=r"(?s)aux2\.fc1\.weight: missing.*aux2\.fc1\.bias: missing"):
        head.begin(cache.recipe, str(file))


def test_it_is_trained_scored_and_predicts_what_it_is_scored_with(tiny_dataset: Path, tmp_path: Path) -> None:
    cache = cache_of(tiny_dataset, tmp_path / "cache", "random")
    run = train(TrainingJob(cache, "1", settings_of(**SMALL), tmp_path / "split-1", "memonet"))
    scored = score_run(run, cache)
    predictor = Predictor.load(tmp_path / "split-1")
    found = predictor.predict([tiny_dataset / "images" / name for name in scored.names])
    np.testing.assert_allclose([float(one) for one in found], scored.prediction, rtol=1e-4, atol=1e-5)
    assert np.std(scored.prediction) > 0
