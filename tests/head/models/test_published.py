"""The published head against the loops of `reference_published`, and how recipe 'published' trains."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from featcache.store.cache import FeatureCache, open_cache
from head.data.batches import epoch_batches
from head.evaluation.score import score_run
from head.models.amnet import HeadOutput, loss
from head.models.kinds import KINDS, head_as_json, head_from_json, input_of, untrained_head
from head.models.published import PublishedHead, PublishedShape
from head.runs.head_file import load_head
from head.settings import settings_of
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.reference_published import as_arrays, batch_statistics, image_loss, random_checkpoint, score_features

B, L, D, H, R = 5, 13, 11, 17, 19  # a different prime each, so that a swapped axis cannot pass
SETTINGS = settings_of("published", hidden_size=H, regressor_size=R, lr=0.01, batch_size=11, epochs=12)


@dataclass(frozen=True)
class Undropped(PublishedShape):
    input_dropout: float = 0.0


def make_head(*, steps: int = 3, attention: bool = True, dropout: float = 0.0, positions: int = L) -> PublishedHead:
    """Return a head whose every weight and running statistic is far from its initial value."""
    head = PublishedHead(PublishedShape(positions, D, steps, H, R, attention, dropout, dropout))
    generator = torch.Generator().manual_seed(steps + 10 * attention)
    with torch.no_grad():
        for tensor in (*head.parameters(), head.bn1.running_mean):
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
        head.bn1.running_var.copy_(0.5 + torch.rand(D, generator=generator))
    return head


def make_features(positions: int = L) -> Tensor:
    return 2 * torch.randn(B, positions, D, generator=torch.Generator().manual_seed(0)).relu()


def assert_close(found: HeadOutput, wanted: HeadOutput) -> None:
    for a, b in zip(found[:3], wanted[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("training", [True, False])
def test_scores_step_scores_and_maps_are_those_of_the_loops(steps: int, attention: bool, training: bool) -> None:
    head, features = make_head(steps=steps, attention=attention), make_features()
    state = as_arrays(head.state_dict())
    if training:  # without dropout, training differs in the statistics of batch norm alone
        state = batch_statistics(state, features.double().numpy())
    with torch.no_grad():
        output = head.train(training)(features)
    assert [tuple(tensor.shape) for tensor in output[:3]] == [(B,), (B, steps), (B, steps, L)]
    for b in range(B):
        wanted = score_features(state, features[b].double().numpy(), steps)
        np.testing.assert_allclose(output.score[b] * 0.5 + 0.754, wanted.y, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(output.step_scores[b], wanted.outputs / steps, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(output.maps[b], wanted.maps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("attention_weight", [0.0, 1e-5, 1e3])
def test_the_loss_is_that_of_the_published_code(attention_weight: float, steps: int) -> None:
    head, features = make_head(steps=steps).eval(), make_features()
    target, state = torch.linspace(-1, 1, B), as_arrays(head.state_dict())
    wanted = []
    for b in range(B):
        scored = score_features(state, features[b].double().numpy(), steps)
        wanted.append(image_loss(float(target[b]), scored.outputs.mean(), scored.maps, attention_weight))
    coverage = KINDS["published"].coverage(steps)
    with torch.no_grad():
        found = loss(head(features), target, attention_weight=attention_weight, coverage=coverage)
    np.testing.assert_allclose(found, np.mean(wanted), rtol=1e-5, atol=1e-5)


def test_the_constant_of_equation_15_changes_the_loss_but_not_its_gradient() -> None:
    gradients, losses = [], []
    for coverage in (0.6, 1.0):
        head = make_head().eval()
        value = loss(head(make_features()), torch.zeros(B), attention_weight=1.0, coverage=coverage)
        value.backward()
        losses.append(value.item())
        gradients.append(torch.cat([p.grad.flatten() for p in head.parameters()]))
    assert abs(losses[0] - losses[1]) > 0.1
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_the_test_heads_attend_to_some_positions_more_than_to_others() -> None:
    maps = make_head().eval()(make_features()).maps
    assert maps.max() > 5 / L  # or the comparisons above would not see a wrong energy


@pytest.mark.parametrize("training", [True, False])
def test_maps_are_probabilities_over_positions(training: bool) -> None:
    maps = make_head(dropout=0.5).train(training)(make_features()).maps
    torch.testing.assert_close(maps.sum(dim=2), torch.ones(B, 3))


def test_without_attention_every_position_counts_the_same_and_no_weights_are_held_for_it() -> None:
    head = make_head(attention=False).eval()
    assert (head(make_features()).maps == 1 / L).all()
    names = {name.partition(".")[0] for name, _ in head.named_parameters()}
    assert names == {"inconv", "bn1", "hs1", "hc1", "rnn", "regnet1", "regnet4"}


def test_without_attention_the_mean_feature_alone_does_not_do() -> None:
    head, features = make_head(attention=False).eval(), make_features()
    assert not torch.allclose(head(features.mean(dim=1, keepdim=True)).score, head(features).score, atol=1e-2)


def test_dropout_acts_in_training_only() -> None:
    head, features = make_head(dropout=0.5), make_features()
    assert torch.equal(head.eval()(features).score, head(features).score)
    assert_close(head(features), make_head().eval()(features))
    assert not torch.equal(head.train()(features).score, head(features).score)


@pytest.mark.parametrize("place", ["dropout", "input_dropout"])
def test_both_dropouts_act(place: str) -> None:
    head = make_head().train()
    getattr(head, place).p = 0.5
    torch.manual_seed(0)
    assert not torch.equal(head(make_features()).score, head(make_features()).score)


@pytest.mark.parametrize("attention", [True, False])
def test_gradients_reach_every_parameter(attention: bool) -> None:
    torch.manual_seed(0)
    head = make_head(attention=attention, dropout=0.2).train()
    loss(head(make_features()), torch.zeros(B), attention_weight=1e-2).backward()
    without = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize(("images", "positions"), [(1, L), (2, 1), (1, 1)])
def test_a_last_batch_of_one_image_can_be_trained_on(images: int, positions: int) -> None:
    head = make_head(positions=positions, dropout=0.5).train()
    output = head(make_features(positions)[:images])
    assert output.score.isfinite().all()
    output.score.sum().backward()


def test_running_statistics_move_in_training_alone() -> None:
    head, features = make_head(), make_features()
    before = head.bn1.running_mean.clone()
    head.eval()(features)
    assert torch.equal(head.bn1.running_mean, before)
    head.train()(features)
    assert not torch.equal(head.bn1.running_mean, before)


def test_weights_have_names_and_shapes_of_the_authors_checkpoints() -> None:
    checkpoint = {name: tensor for name, tensor in random_checkpoint().items() if not name.startswith("core_cnn")}
    own = PublishedHead(PublishedShape(196, 1024)).state_dict()
    assert {name: tensor.shape for name, tensor in own.items()} == {
        name: tensor.shape for name, tensor in checkpoint.items()
    }


def test_a_published_head_is_stored_by_kind_and_shape() -> None:
    stored = head_as_json(make_head(steps=2))
    assert stored["kind"] == "published"
    assert head_from_json(**stored).shape == PublishedShape(L, D, 2, H, R, True, 0.0, 0.0)


# training


@pytest.fixture
def cache(tiny_cache: Path) -> FeatureCache:
    return open_cache(tiny_cache)


def test_targets_have_the_published_scale_whatever_the_scores() -> None:
    for scores in (np.array([0.1, 0.9]), np.array([3.0, 7.0])):
        scale = KINDS["published"].target(scores)
        np.testing.assert_allclose((scores - scale.mean) / scale.scale, (scores - 0.754) * 2.0)


def test_the_recipes_settings_are_those_of_the_published_code() -> None:
    found = settings_of("published")
    assert (found.lr, found.attention_weight, found.weight_decay, found.dropout) == (1e-4, 1e-5, 1e-6, 0.5)
    assert (found.batch_size, found.epochs, found.patience) == (222, 54, 54)
    assert KINDS["published"].coverage(found.steps) == pytest.approx(0.6)
    assert KINDS["paper"].coverage(3) == 1


@pytest.mark.parametrize("attention", [True, False])
def test_a_published_head_reads_maps_with_and_without_attention(cache: FeatureCache, attention: bool) -> None:
    settings = replace(SETTINGS, attention=attention)
    assert input_of(cache, settings).pooling == "maps"
    assert untrained_head(cache, settings).shape == PublishedShape(16, 256, 3, H, R, attention, 0.5, 0.8)


@pytest.mark.parametrize("attention", [True, False])
def test_training_learns_what_can_be_learnt(cache: FeatureCache, tmp_path: Path, attention: bool) -> None:
    run = train(TrainingJob(cache, "1", replace(SETTINGS, attention=attention), tmp_path, "published"))  # 11 + 11 + 1
    head = load_head(run)
    assert (head.target_mean, head.target_scale, run.result.epochs) == (0.754, 0.5, 12)
    assert isinstance(head.module, PublishedHead)
    assert score_run(run, cache).metrics.rho_low > 0.5


def test_training_is_a_plain_loop_of_the_published_recipe(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "published", replace(KINDS["published"], shape=Undropped))
    settings = replace(SETTINGS, epochs=1, dropout=0.0, attention_weight=0.1, weight_decay=1e-3, precision="fp32")
    run = train(TrainingJob(cache, "1", settings, tmp_path, "published"))
    torch.manual_seed(settings.seed)
    head = untrained_head(cache, settings).train()
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    total = 0.0
    for rows, views, scores in epoch_batches(
        cache.splits["1"]["train"], views=cache.views, seed=settings.seed, epoch=1, batch_size=settings.batch_size
    ):
        output = head(torch.from_numpy(cache.read(rows, views)).float())
        penalty = sum(0.2 - output.maps[:, t] for t in range(3)).square().sum(dim=1)
        targets = torch.from_numpy((scores - 0.754) * 2.0).float()
        value = ((targets - output.score) ** 2 + settings.attention_weight * penalty).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total += value.item() * len(rows)
    history = (tmp_path / "history.csv").read_text().splitlines()
    assert float(history[1].split(",")[1]) == pytest.approx(total / 23, rel=1e-4)
    state = load_head(run).module.state_dict()
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=5e-4, msg=name)


def test_paper_heads_are_trained_as_before(cache: FeatureCache) -> None:
    scores = cache.splits["1"]["train"].scores
    scale = KINDS["paper"].target(scores)
    assert scale.mean == pytest.approx(scores.mean())
    assert np.abs((scores - scale.mean) / scale.scale).max() == pytest.approx(1)


def test_under_autocast_products_are_bfloat16_and_all_else_is_not() -> None:
    torch.manual_seed(3)
    head = PublishedHead(PublishedShape(7, 11, hidden_size=5, regressor_size=3)).eval()
    features = torch.randn(4, 7, 11).half()
    exact = head(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(features)
    assert {value.dtype for value in output[:3]} == {torch.float32}
    assert not torch.equal(output.maps, exact.maps)
    torch.testing.assert_close(output.maps.sum(dim=2), torch.ones(4, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(output.score, exact.score, rtol=0, atol=0.01)
