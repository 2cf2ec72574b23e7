"""The written-out gradient of attention and LSTM against float64 autograd of the head's own plain formulas."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from head.models.amnet import AMNetHead, HeadOutput, HeadShape, loss
from head.models.fused.switch import fused_off
from head.models.fused.workspace import Workspace

B, L, D, H = 5, 7, 11, 13


def make_head(*, steps: int = 3, attention: bool = True) -> AMNetHead:
    torch.manual_seed(steps)
    head = AMNetHead(HeadShape(L, D, steps=steps, hidden_size=H, regressor_size=3, attention=attention)).double().eval()
    head.set_feature_scale(torch.linspace(-1, 1, D), torch.linspace(0.5, 2, D))
    return head


def plain_output(head: AMNetHead, features: Tensor) -> HeadOutput:
    with fused_off():
        output: HeadOutput = head(features)
    return output


def gradients(head: AMNetHead, output: HeadOutput, target: Tensor) -> dict[str, Tensor]:
    head.zero_grad()
    torch.autograd.backward(loss(output, target, attention_weight=0.3))
    return {name: parameter.grad for name, parameter in head.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_outputs_and_gradients_are_those_of_autograd_in_float64(steps: int, attention: bool) -> None:
    head, features, target = make_head(steps=steps, attention=attention), torch.randn(B, L, D).double(), torch.randn(B)
    wanted, found = plain_output(head, features), head(features)
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    expected, own = gradients(head, wanted, target.double()), gradients(head, found, target.double())
    assert set(own) == {name for name, _ in head.named_parameters()} == set(expected)
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-13, msg=name)


def test_each_output_alone_has_the_gradient_of_autograd() -> None:
    head, features = make_head(), torch.randn(B, L, D).double()
    for part in range(3):
        weights = torch.randn_like(plain_output(head, features)[part])
        results = []
        for output in (plain_output(head, features), head(features)):
            head.zero_grad()
            torch.autograd.backward((output[part] * weights).sum())
            results.append({name: p.grad.clone() for name, p in head.named_parameters() if p.grad is not None})
        wanted, found = results
        assert set(found) == set(wanted)
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-13, msg=name)


def test_float32_gradients_are_near_those_of_float64() -> None:
    head, features, target = make_head(), torch.randn(B, L, D), torch.randn(B)
    expected = gradients(head, plain_output(head, features.double()), target.double())
    expected = {name: gradient.clone() for name, gradient in expected.items()}
    narrow = copy.deepcopy(head).float()
    for name, gradient in gradients(narrow, narrow(features), target).items():
        error = (gradient.double() - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, name


@pytest.mark.parametrize("attention", [True, False])
def test_under_autocast_products_are_bfloat16_and_all_else_is_not(attention: bool) -> None:
    head, features, target = make_head(attention=attention).float(), torch.randn(B, L, D), torch.randn(B)
    exact = {name: gradient.clone() for name, gradient in gradients(head, head(features), target).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(features)
    assert {value.dtype for value in output[:3]} == {torch.float32}
    assert 0 < (output.score - head(features).score).abs().max() < 0.01
    for name, gradient in gradients(head, output, target).items():
        assert gradient.dtype == torch.float32
        assert (gradient - exact[name]).norm() < 0.02 * exact[name].norm(), name


@pytest.mark.parametrize("attention", [True, False])
def test_without_what_is_fused_autocast_changes_nothing(attention: bool) -> None:
    head, features = make_head(attention=attention).float(), torch.randn(B, L, D).half()
    exact = plain_output(head, features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for found, wanted in zip(plain_output(head, features)[:3], exact[:3], strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("run", [AMNetHead.__call__, plain_output])
def test_no_gradient_reaches_the_features(run: Callable[[AMNetHead, Tensor], HeadOutput]) -> None:
    features = torch.randn(B, L, D).double().requires_grad_()
    torch.autograd.backward(run(make_head(), features).score.sum())
    assert features.grad is None


def test_gradients_are_computed_once() -> None:
    output = make_head()(torch.randn(B, L, D).double())
    torch.autograd.backward(output.score.sum(), retain_graph=True)
    with pytest.raises(RuntimeError, match="can be computed once"):
        torch.autograd.backward(output.score.sum())


def test_two_batches_under_way_at_once_do_not_disturb_each_other() -> None:
    head = make_head()
    first, second = torch.randn(B, L, D).double(), torch.randn(B - 2, L, D).double()
    alone = gradients(head, head(first), torch.zeros(B).double())
    alone = {name: gradient.clone() for name, gradient in alone.items()}
    output = head(first)
    head(second)
    for name, gradient in gradients(head, output, torch.zeros(B).double()).items():
        assert torch.equal(gradient, alone[name])


def test_arrays_of_a_batch_are_used_again_by_the_next() -> None:
    workspace = Workspace()
    large = workspace.take((3, 5), torch.float32, torch.device("cpu"))
    place = large.data_ptr()
    other = workspace.take((3, 5), torch.float32, torch.device("cpu"))
    assert other.data_ptr() != place
    workspace.give(large)
    assert workspace.take((7,), torch.float64, torch.device("cpu")).data_ptr() != place
    small = workspace.take((2, 5), torch.float32, torch.device("cpu"))
    assert (small.data_ptr(), small.shape) == (place, (2, 5))
    workspace.give(small)
    assert workspace.take((3, 5), torch.float32, torch.device("cpu")).data_ptr() == place


def test_what_evaluation_leaves_can_be_used_in_training() -> None:
    head, features = make_head(), torch.randn(B, L, D).double()
    with torch.inference_mode():
        kept = head(features).score
    output = head(features).score
    torch.autograd.backward(output.sum())
    assert torch.equal(output.detach(), kept.clone())


def test_smaller_arrays_make_room_for_larger_ones() -> None:
    workspace, kept = Workspace(), []
    for size in (1, 2, 3, 7, 5, 4):
        array = workspace.take((size,), torch.float32, torch.device("cpu"))
        workspace.give(array)
        kept = workspace._free
    assert [flat.numel() for flat in kept] == [7]


def test_a_head_is_pickled_without_its_arrays() -> None:
    head = make_head()
    small = len(pickle.dumps(head))
    torch.autograd.backward(head(torch.randn(64, L, D).double()).score.sum())
    head.zero_grad(set_to_none=True)
    data = pickle.dumps(head)
    assert len(data) == small
    features = torch.randn(B, L, D).double()
    assert torch.equal(pickle.loads(data)(features).score, head(features).score)


@pytest.mark.parametrize("attention", [True, False])
def test_no_images_give_no_scores(attention: bool) -> None:
    output = make_head(attention=attention)(torch.empty(0, L, D).double())
    assert (output.score.shape, output.maps.shape) == ((0,), (0, 3, L))
