"""Whether maps are faithful: closed forms of what is measured, what is never emptied, and a score that was planted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.faithfulness import planted_cache, trained
from featcache.recipe import LayerShape
from head.data.inputs import HeadInput
from head.evaluation.evaluate import evaluate
from head.explain.faithfulness import centre_order, correlation_of, emptied_places, entropy_of, faithfulness
from head.models.amnet import AMNetHead, HeadShape
from head.models.probes import EfficientProbe, EfficientShape
from head.models.published import PublishedHead, PublishedShape
from head.runs.head_file import TrainedHead
from tests.helpers.faithful import faithful
from tests.helpers.synthetic import RECIPE


def test_the_attention_of_a_trained_head_finds_a_planted_score(tmp_path: Path) -> None:
    cache, _ = planted_cache(tmp_path / "planted", images=400)
    trained(
        cache, tmp_path / "runs", "attention", epochs=40, hidden_size=32, regressor_size=16, batch_size=16, dropout=0.1,
        precision="fp32",
    )  # fmt: skip
    found = faithfulness(cache, evaluate(cache, tmp_path / "runs").summaries[0])
    assert (found.images, found.says) == (100, "where")
    assert all(one.low > 0 for one in found.differences)
    assert {(one.test, one.against) for one in found.differences} == {
        (test, other) for test in ("deletion", "insertion") for other in ("random", "centre")
    }
    for test, curves in found.curves.items():
        assert curves["attention"][1] > 2 * curves["random"][1], test
        assert {round(curve[-1], 6) for curve in curves.values()} == {round(curves["random"][-1], 6)}
        assert {curve[0] for curve in curves.values()} == {0}


def test_entropy_is_1_of_even_maps_and_0_of_one_place_whatever_is_on_tokens() -> None:
    maps = np.array([[1, 1, 1, 1], [0, 1, 0, 0], [0.5, 0.5, 0, 0], [0.1, 0.1, 0.1, 0.1]])
    np.testing.assert_allclose(entropy_of(maps), [1, 0, 0.5, 1], atol=1e-12)
    assert entropy_of(np.ones((3, 1))).tolist() == [1, 1, 1]


def test_correlation_is_the_mean_over_pairs_of_steps() -> None:
    up, down = np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1])
    assert correlation_of(np.stack([up, up, down])[None]) == pytest.approx((1 - 1 - 1) / 3)
    assert np.isnan(correlation_of(up[None, None])).all()
    assert np.isnan(correlation_of(np.stack([up, np.full(3, 1 / 3)])[None])).all()


def test_the_centre_comes_first() -> None:
    assert centre_order(LayerShape(3, 5, 1)).tolist()[:3] == [7, 2, 6]
    assert centre_order(LayerShape(3, 5, 1)).tolist()[-4:] == [0, 4, 10, 14]


def test_tokens_and_joined_vectors_are_never_emptied() -> None:
    recipe = replace(RECIPE, layers=(("cls", 1, 1, 5), ("map", 2, 3, 5)))
    features, mean = torch.rand(2, 7, 5), torch.arange(5.0)
    probe = EfficientProbe(EfficientShape(5))
    probe.set_feature_scale(mean, torch.ones(5))
    emptied = emptied_places(
        TrainedHead(probe, 0, 1, frozenset(), {}), HeadInput(("cls", "map"), "tokens"), recipe, features
    )
    torch.testing.assert_close(emptied[:, :6], mean.expand(2, 6, 5))
    torch.testing.assert_close(emptied[:, 6], features[:, 6])
    joined, mean = torch.rand(2, 6, 10), torch.arange(10.0)
    head = AMNetHead(HeadShape(6, 10, hidden_size=3, regressor_size=2))
    head.set_feature_scale(mean, torch.ones(10))
    emptied = emptied_places(
        TrainedHead(head, 0, 1, frozenset(), {}), HeadInput(("cls", "map"), "maps"), recipe, joined
    )
    torch.testing.assert_close(emptied[:, :, :5], joined[:, :, :5])
    torch.testing.assert_close(emptied[:, :, 5:], mean[5:].expand(2, 6, 5))


def test_a_published_head_has_its_mean_feature_from_its_batch_norm() -> None:
    torch.manual_seed(0)
    head = PublishedHead(PublishedShape(6, 7, hidden_size=3, regressor_size=2)).eval()
    mean = torch.rand(7)
    head.bn1.running_mean = head.inconv(mean.view(1, 7, 1, 1)).flatten().detach()
    torch.testing.assert_close(head.mean_feature().float(), mean, atol=1e-4, rtol=1e-4)


def test_the_verdict_says_in_words_what_maps_tell() -> None:
    nothing = faithful(random=(-0.001, 0.002), centre=(0.001, 0.002)).verdict()
    assert nothing.startswith(
        "Its maps say nothing of what the score hangs on: attention is 99.0% as even as one to all"
    )
    assert "the 3 maps of an image are almost the same (correlation 1.00)" in nothing
    assert nothing.endswith("Emptying places in its order changes the score no sooner than in random order.")
    little = faithful(random=(0.001, 0.003), centre=(-0.001, 0.002)).verdict()
    assert little.startswith("Its maps say little")
    assert little.endswith(
        "sooner than in random order by 10% (deletion) and 10% (insertion); no sooner than from the centre outwards."
    )
    where = faithful(random=(0.1, 0.3), centre=(0.1, 0.3), share=0.8)
    assert where.says == "where"
    assert where.verdict().startswith("Its maps show places that the score hangs on")


def test_what_is_not_defined_is_null_in_json() -> None:
    found = replace(faithful(random=(0.1, 0.3), centre=(0.1, 0.3)), correlation=float("nan")).as_json()
    assert found["correlation_of_steps"] is None
    assert found["differences_of_areas"][0]["attention_minus"] == "random"
