"""The head against the loops of `reference_head`, and the properties its equations imply."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from head.models.amnet import AMNetHead, HeadOutput, HeadShape, loss
from head.models.fused.switch import fused_off
from tests.helpers.reference_head import Affine, Attention, Gate, Weights, image_loss, score_image

B, L, D, H, R = 7, 13, 11, 17, 19  # a different prime each, so that a swapped axis cannot pass


def make_head(*, steps: int = 3, attention: bool = True, dropout: float = 0.0) -> AMNetHead:
    """Return a head whose every weight, and feature scale, is far from its initial value."""
    head = AMNetHead(HeadShape(L, D, steps, H, R, attention, dropout))
    generator = torch.Generator().manual_seed(steps + 10 * attention)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    head.set_feature_scale(torch.randn(D, generator=generator), 0.5 + torch.rand(D, generator=generator))
    return head


def make_features(seed: int = 0) -> Tensor:
    return 2 * torch.randn(B, L, D, generator=torch.Generator().manual_seed(seed))


def reference_weights(head: AMNetHead) -> Weights:
    """Return a head's weights under the paper's names; torch stacks an LSTM's gates as i, f, g, o."""
    state = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    gates = [
        Gate(*(np.split(state[f"lstm.{name}"], 4)[k] for name in ("weight_ih", "weight_hh")),
             np.split(state["lstm.bias_ih"] + state["lstm.bias_hh"], 4)[k])
        for k in range(4)
    ]  # fmt: skip
    return Weights(
        attention=Attention(state["M"], state["U.weight"], state["K.weight"], state["K.bias"])
        if "M" in state
        else None,
        init_c=affine(state, "init_c"),
        init_h=affine(state, "init_h"),
        input_gate=gates[0],
        forget_gate=gates[1],
        cell_gate=gates[2],
        output_gate=gates[3],
        hidden_layer=affine(state, "regressor.0"),
        output_layer=affine(state, "regressor.3"),
        feature_mean=state["feature_mean"],
        feature_std=state["feature_std"],
    )


def affine(state: dict[str, NDArray[np.float64]], name: str) -> Affine:
    return Affine(state[f"{name}.weight"], state[f"{name}.bias"])


def assert_close(found: HeadOutput, wanted: HeadOutput) -> None:
    for a, b in zip(found[:3], wanted[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", [nullcontext, fused_off])
@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_scores_step_scores_and_maps_are_those_of_the_papers_equations(
    steps: int, attention: bool, way: Callable[[], AbstractContextManager[None]]
) -> None:
    head, features = make_head(steps=steps, attention=attention).eval(), make_features()
    with torch.no_grad(), way():
        output = head(features)
    assert [tuple(tensor.shape) for tensor in output[:3]] == [(B,), (B, steps), (B, steps, L)]
    for b in range(B):
        y, m, maps = score_image(reference_weights(head), features[b].double().numpy(), steps)
        np.testing.assert_allclose(output.score[b], y, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(output.step_scores[b], m, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(output.maps[b], maps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("attention_weight", [0.0, 1e-4, 1e3])
def test_loss_is_the_mean_of_equation_13(attention_weight: float, steps: int, attention: bool) -> None:
    head, features = make_head(steps=steps, attention=attention).eval(), make_features()
    target = torch.linspace(-1, 1, B)
    weights = reference_weights(head)
    wanted = []
    for b in range(B):
        y, _, maps = score_image(weights, features[b].double().numpy(), steps)
        wanted.append(image_loss(float(target[b]), y, maps, attention_weight))
    with torch.no_grad():
        found = loss(head(features), target, attention_weight=attention_weight)
    np.testing.assert_allclose(found, np.mean(wanted), rtol=1e-5, atol=1e-5)


def test_loss_of_maps_that_together_cover_every_position_once_is_the_squared_error() -> None:
    maps = torch.eye(3).unsqueeze(0)  # step t looks at position t alone
    output = HeadOutput(torch.tensor([0.25]), torch.full((1, 3), 0.25 / 3), maps)
    assert loss(output, torch.tensor([0.75]), attention_weight=1e3).item() == 0.25


@pytest.mark.parametrize(("order_penalty", "wanted"), [(0.0, 0.0), (2.0, 2 * 0.25), (-2.0, 2 * (0.01 + 0.04))])
def test_the_order_penalty_adds_the_squares_by_which_steps_fall_or_rise(order_penalty: float, wanted: float) -> None:
    steps = torch.tensor([[0.1, 0.2, 0.4, -0.1]])  # rises by 0.1 and 0.2, falls by 0.5
    output = HeadOutput(steps.sum(dim=1), steps, torch.full((1, 4, 1), 0.25))
    found = loss(output, output.score, attention_weight=0.0, order_penalty=order_penalty)
    assert found.item() == pytest.approx(wanted)


def test_squared_errors_of_auxiliary_scores_are_added_with_their_weight() -> None:
    score, maps = torch.tensor([0.5, 0.25]), torch.zeros(2, 1, 0)
    auxiliary = torch.tensor([[1.0, 0.5], [0.25, 1.25]])
    output = HeadOutput(score, score.unsqueeze(1), maps, auxiliary)
    found = loss(output, torch.tensor([0.0, 0.25]), attention_weight=0.0)
    assert found.item() == pytest.approx((0.25 + 0.3 * (1 + 0.25) + 0.3 * 1) / 2)
    assert loss(output._replace(auxiliary=None), torch.tensor([0.0, 0.25]), attention_weight=0.0).item() == 0.125


def test_the_test_heads_attend_to_some_positions_more_than_to_others() -> None:
    maps = make_head().eval()(make_features()).maps
    assert maps.max() > 5 / L  # or the comparisons above would not see a wrong Eq. 8


@pytest.mark.parametrize("attention", [True, False])
def test_maps_are_probabilities_over_positions(attention: bool) -> None:
    maps = make_head(attention=attention).eval()(make_features()).maps
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum(dim=2), torch.ones(B, 3))


def test_large_energies_do_not_overflow_the_maps() -> None:
    head = make_head().eval()
    with torch.no_grad():
        head.M.mul_(1e4)
        maps = head(make_features()).maps
    torch.testing.assert_close(maps.sum(dim=2), torch.ones(B, 3))


@pytest.mark.parametrize("way", [nullcontext, fused_off])
def test_without_attention_the_mean_feature_alone_gives_the_same(
    way: Callable[[], AbstractContextManager[None]],
) -> None:
    head, features = make_head(attention=False).eval(), make_features()
    with way():
        assert_close(head(features.mean(dim=1, keepdim=True)), head(features))


def test_without_attention_every_position_counts_the_same() -> None:
    assert (make_head(attention=False).eval()(make_features()).maps == 1 / L).all()


def test_permuting_positions_with_the_rows_of_m_permutes_the_maps_and_leaves_the_score() -> None:
    head, features = make_head().eval(), make_features()
    order = torch.randperm(L, generator=torch.Generator().manual_seed(0))
    before = head(features)
    with torch.no_grad():
        head.M.copy_(head.M[order])
    after = head(features[:, order])
    assert_close(after, HeadOutput(before.score, before.step_scores, before.maps[:, :, order]))


def test_permuting_positions_alone_changes_the_score() -> None:
    head, features = make_head().eval(), make_features()
    assert not torch.allclose(head(features.flip(1)).score, head(features).score, atol=1e-3)


def test_an_image_is_scored_the_same_in_any_batch() -> None:
    head, features = make_head().eval(), make_features()
    alone = [head(features[b : b + 1]) for b in range(B)]
    tensors = zip(*(one[:3] for one in alone), strict=True)
    assert_close(HeadOutput(*(torch.cat(of_all) for of_all in tensors)), head(features))


def test_dropout_acts_in_training_only() -> None:
    head, features = make_head(dropout=0.5), make_features()
    assert not torch.equal(head.train()(features).score, head(features).score)
    assert torch.equal(head.eval()(features).score, head(features).score)
    assert_close(head(features), make_head(dropout=0.0).eval()(features))


@pytest.mark.parametrize("attention", [True, False])
def test_gradients_reach_every_parameter(attention: bool) -> None:
    head = make_head(attention=attention, dropout=0.5).train()
    loss(head(make_features()), torch.zeros(B), attention_weight=1e-4).backward()
    without = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_attention_off_holds_no_attention_weights() -> None:
    names = {name.partition(".")[0] for name, _ in make_head(attention=False).named_parameters()}
    assert names == {"init_h", "init_c", "lstm", "regressor"}


def test_parameters_have_the_papers_shapes() -> None:
    shapes = {name: tuple(p.shape) for name, p in make_head().named_parameters()}
    assert {name: shapes[name] for name in ("M", "U.weight", "K.weight", "K.bias")} == {
        "M": (L, D),
        "U.weight": (D, H),
        "K.weight": (D, D),
        "K.bias": (D,),
    }


def test_standardised_features_do_not_depend_on_the_backbones_scale() -> None:
    head, features = make_head().eval(), make_features()
    before = head(features)
    head.set_feature_scale(head.feature_mean * 8 + 3, head.feature_std * 8)
    assert_close(head(features * 8 + 3), before)


def test_a_channel_that_never_varies_is_only_centred() -> None:
    head = make_head().eval()
    std = torch.ones(D)
    std[2] = 0
    head.set_feature_scale(torch.full((D,), 5.0), std)
    assert (head.feature_std == 1).all()
    assert head(make_features()).score.isfinite().all()


def test_the_feature_scale_is_kept_with_the_weights_but_not_trained() -> None:
    head = make_head()
    assert {"feature_mean", "feature_std"} <= set(head.state_dict())
    assert not {"feature_mean", "feature_std"} & {name for name, _ in head.named_parameters()}


def test_weights_say_how_often_an_image_counts_in_all_that_it_adds_to_loss_and_gradient() -> None:
    torch.manual_seed(3)
    target, weights = torch.tensor([0.5, -0.25, 0.75]), torch.tensor([2.0, 1.0, 0.0])
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2), (3, 2, 5), (3, 4))]

    def of(rows: list[int], counted: Tensor | None) -> Tensor:
        steps, maps, auxiliary = (one[rows] for one in inputs)
        output = HeadOutput(steps.sum(dim=1), steps, maps, auxiliary)
        return loss(output, target[rows], attention_weight=0.3, order_penalty=0.7, weights=counted)

    weighted, repeated = of([0, 1, 2], weights), of([0, 0, 1], None)
    assert weighted.item() == pytest.approx(repeated.item(), rel=1e-12)
    pairs = [torch.autograd.grad(value, inputs) for value in (weighted, repeated)]
    for found, wanted in zip(*pairs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    plain = HeadOutput(inputs[0].sum(dim=1), inputs[0], torch.full((3, 2, 5), 0.5))
    (gradient,) = torch.autograd.grad(loss(plain, target, attention_weight=0.0, weights=weights), inputs[:1])
    by_hand = (2 * weights * (plain.score - target) / 3).unsqueeze(1).expand(3, 2)
    torch.testing.assert_close(gradient, by_hand)
