"""A stack is a weighted sum of its members' outputs, each on its own part of what is read."""

import numpy as np
import pytest
import torch

from head.models.amnet import AMNetHead, HeadShape
from head.models.baselines import LinearHead, LinearShape
from head.models.kinds import filled_head, has_maps, head_as_json, kind_of, stored_of
from head.models.stack import StackHead, StackShape, equal_weights, non_negative_weights

LINEAR, LOOKING = LinearShape(5), HeadShape(positions=7, channels=3, steps=2, hidden_size=11, regressor_size=13)


def stack_of(*members: torch.nn.Module, sizes: tuple[tuple[int, int, int], ...], attends: bool = False) -> StackHead:
    shape = StackShape(tuple(map(head_as_json, members)), sizes, steps=2 if attends else 1, attends=attends)
    return StackHead(shape, members).eval()


def looking(seed: int) -> AMNetHead:
    torch.manual_seed(seed)
    return AMNetHead(LOOKING).eval()


@torch.inference_mode()
def test_each_member_reads_its_own_part_and_the_outputs_are_summed_by_weight() -> None:
    linear, other = LinearHead(LINEAR), looking(1)
    linear.weight.copy_(torch.arange(5.0))
    stack = stack_of(linear, other, sizes=((21, 1, 5), (0, 7, 3)))
    stack.weigh(np.array([0.25, 2.0]), -1.5)
    row = torch.randn(4, 1, 26)
    maps, vector = row[:, 0, :21].reshape(4, 7, 3), row[:, :, 21:]
    wanted = 0.25 * linear(vector).score + 2.0 * other(maps).score.double() - 1.5
    found = stack(row)
    torch.testing.assert_close(found.score, wanted)
    assert found.step_scores.shape == (4, 1) and found.maps.shape == (4, 1, 0) and not has_maps(stack)


@torch.inference_mode()
def test_where_all_attend_steps_and_maps_are_weighted_means() -> None:
    one, other = looking(1), looking(2)
    stack = stack_of(one, other, sizes=((0, 7, 3), (0, 7, 3)), attends=True)
    stack.weigh(np.array([0.1, 0.3]), 0.5)
    stack.share_attention(np.array([1.0, 3.0]))
    row = torch.randn(4, 1, 21)
    first, second = (member(row.reshape(4, 7, 3)) for member in (one, other))
    found = stack(row)
    torch.testing.assert_close(found.maps, 0.25 * first.maps + 0.75 * second.maps)
    steps = 0.1 * first.step_scores.double() + 0.3 * second.step_scores.double() + 0.25
    torch.testing.assert_close(found.step_scores, steps)
    torch.testing.assert_close(found.score, steps.sum(dim=1))
    assert has_maps(stack)
    stack.share_attention(np.zeros(2))
    torch.testing.assert_close(stack(row).maps, (first.maps + second.maps) / 2)


def test_it_is_stored_with_all_its_members_and_comes_back() -> None:
    stack = stack_of(LinearHead(LINEAR), looking(1), sizes=((21, 1, 5), (0, 7, 3)))
    stack.weigh(np.array([1.0, 2.0]), 3.0)
    facts = head_as_json(stack)
    assert facts["kind"] == "stack" and [one["kind"] for one in facts["shape"]["members"]] == ["linear", "paper"]
    again = filled_head(facts["kind"], facts["shape"], stored_of(stack)).eval()
    row = torch.randn(4, 1, 26)
    torch.testing.assert_close(again(row).score, stack(row).score, rtol=0, atol=0)


def test_its_scale_is_that_of_its_members_on_what_they_read() -> None:
    linear, other = LinearHead(LINEAR), looking(1)
    linear.standardise.mean.copy_(torch.arange(5.0))
    other.set_feature_scale(torch.full((3,), 2.0), torch.full((3,), 4.0))
    stack = stack_of(linear, other, sizes=((21, 1, 5), (0, 7, 3)))
    mean, deviation = kind_of(stack).scale(stack) or pytest.fail("it standardises")
    assert mean.tolist() == [2.0] * 21 + [0.0, 1.0, 2.0, 3.0, 4.0]
    assert deviation.tolist() == [4.0] * 21 + [1.0] * 5


def test_weights_are_those_of_the_least_error_that_are_not_negative() -> None:
    rng = np.random.default_rng(5)
    predictions = rng.normal([10, 20, 30], size=(97, 3))
    found = non_negative_weights(predictions, predictions @ [0.5, 0.0, 0.25] - 7.0)
    np.testing.assert_allclose([*found.values, found.intercept], [0.5, 0.0, 0.25, -7.0], atol=1e-9)
    against = non_negative_weights(predictions, -predictions @ [1.0, 1.0, 1.0])
    assert against.values == (0.0, 0.0, 0.0)
    assert equal_weights(4).values == (0.25,) * 4
