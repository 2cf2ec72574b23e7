"""Attentive probes against slow loops written from their equations, and as heads like every other."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.base.errors import InvalidSettings
from featcache.base.progress import Progress
from featcache.store.cache import FeatureCache, open_cache
from head.evaluation.score import attention_of, score_run
from head.models.amnet import HeadOutput
from head.models.kinds import head_as_json, head_from_json, untrained_head
from head.models.probes import AttentiveProbe, AttentiveShape, EfficientProbe, EfficientShape
from head.runs.head_file import load_head
from head.runs.run import Run, read_run
from head.settings import TrainSettings, options_of, settings_of
from head.show.figures.steps import without_steps
from head.training.job import TrainingJob
from head.training.train import check_start, train
from tests.helpers.predictions import predicted, row

B, L, D, M, V, A = 7, 13, 11, 3, 5, 2  # a different prime each, so that a swapped axis cannot pass
WIDE = 2 * D  # what heads divide
Array = NDArray[np.float64]
QUICK = {"lr": 0.01, "batch_size": 10, "epochs": 4, "precision": "fp32", "dropout": 0.3}


def randomised(head: nn.Module) -> nn.Module:
    """Return a head in evaluation mode whose every weight and constant is far from its initial value."""
    generator = torch.Generator().manual_seed(1)
    for name, values in head.state_dict().items():
        if values.is_floating_point():
            drawn = torch.randn(values.shape, generator=generator)
            values.copy_(drawn.abs() + 0.5 if "var" in name or "deviation" in name else 0.5 * drawn)
    return head.eval()


def efficient() -> nn.Module:
    return randomised(EfficientProbe(EfficientShape(D, M, V)))


def attentive() -> nn.Module:
    return randomised(AttentiveProbe(AttentiveShape(WIDE, A)))


def features_for(head: nn.Module, batch: int = B) -> Tensor:
    channels = head.shape.channels  # type: ignore[union-attr]
    return 2 * torch.randn(batch, L, int(channels), generator=torch.Generator().manual_seed(2))  # type: ignore[arg-type]


def arrays_of(head: nn.Module) -> dict[str, Array]:
    return {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}


def softmax(energies: list[float]) -> Array:
    weights = np.exp(np.array(energies) - max(energies))
    found: Array = weights / weights.sum()
    return found


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    found: Array = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias
    return found


def score_by_efficient_probing(w: dict[str, Array], image: Array) -> tuple[float, list[float], list[Array]]:
    """Return score, parts and maps of one image (L, D), a position and a query at a time, weightiest first."""
    x = [(position - w["standardise.mean"]) / w["standardise.deviation"] for position in image]
    parts, maps = [], []
    weights = w["output.weight"].reshape(M, V)
    for j in sorted(range(M), key=lambda j: -float(weights[j] @ weights[j])):
        a = softmax([float(one @ w["queries"][j]) / math.sqrt(D) for one in x])
        own = slice(j * V, (j + 1) * V)
        values = [w["values.weight"][own] @ one for one in x]
        y = sum((share * value for share, value in zip(a, values, strict=True)), np.zeros(V))
        y = (y - w["norm.running_mean"][own]) / np.sqrt(w["norm.running_var"][own] + 1e-6)
        parts.append(float(w["output.weight"][0, own] @ y) + float(w["output.bias"][0]) / M)
        maps.append(a)
    return sum(parts), parts, maps


def score_by_cross_attention(w: dict[str, Array], image: Array) -> tuple[float, list[float], list[Array]]:
    """Return score, it again and the map of one image (L, D), with keys and values of every position."""
    x = [(position - w["standardise.mean"]) / w["standardise.deviation"] for position in image]
    x = [layer_norm(one, w["norm1.weight"], w["norm1.bias"]) for one in x]
    query = w["to_query.weight"] @ w["query"] + w["to_query.bias"]
    keys = [w["to_keys.weight"] @ one for one in x]
    values = [w["to_values.weight"] @ one + w["to_values.bias"] for one in x]
    pooled, maps = [], []
    for head in np.split(np.arange(WIDE), A):
        a = softmax([float(query[head] @ key[head]) / math.sqrt(WIDE // A) for key in keys])
        pooled.append(sum((share * value[head] for share, value in zip(a, values, strict=True)), np.zeros(WIDE // A)))
        maps.append(a)
    y = w["query"] + w["projection.weight"] @ np.concatenate(pooled) + w["projection.bias"]
    hidden = w["perceptron.0.weight"] @ layer_norm(y, w["norm2.weight"], w["norm2.bias"]) + w["perceptron.0.bias"]
    gelu = np.array([0.5 * one * (1 + math.erf(one / math.sqrt(2))) for one in hidden])
    y = y + w["perceptron.2.weight"] @ gelu + w["perceptron.2.bias"]
    score = float(w["output.weight"][0] @ y) + float(w["output.bias"][0])
    return score, [score], [np.mean(maps, axis=0)]


# the equations


@pytest.mark.parametrize(
    ("head", "reference"), [(efficient(), score_by_efficient_probing), (attentive(), score_by_cross_attention)]
)
def test_scores_parts_and_maps_are_those_of_the_equations(head: nn.Module, reference: type[object]) -> None:
    features, weights = features_for(head), arrays_of(head)
    with torch.no_grad():
        output = head(features)
    for b in range(B):
        for found, wanted in zip(output[:3], reference(weights, features[b].double().numpy()), strict=True):  # type: ignore[call-overload]
            np.testing.assert_allclose(found[b], np.array(wanted), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("head", [efficient(), attentive()])
def test_maps_sum_to_one_and_differ_from_even_ones_and_parts_sum_to_the_score(head: nn.Module) -> None:
    output: HeadOutput = head(features_for(head))
    torch.testing.assert_close(output.maps.sum(dim=2), torch.ones(output.maps.shape[:2]))
    assert output.maps.max() > 2 / L
    torch.testing.assert_close(output.step_scores.sum(dim=1), output.score)


@pytest.mark.parametrize("head", [efficient(), attentive()])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_the_scores(head: nn.Module, training: bool) -> None:
    exact = head_from_json(**head_as_json(head)).double().train(training)
    exact.load_state_dict(head.state_dict())
    features = features_for(head, batch=3).double()
    names = [name for name, _ in exact.named_parameters()]

    def scores(*values: Tensor) -> Tensor:
        output: HeadOutput = torch.func.functional_call(exact, dict(zip(names, values, strict=True)), (features,))
        return output.score

    with torch.no_grad():
        state = {name: values.clone() for name, values in exact.state_dict().items()}
    parameters = tuple(values.detach().clone().requires_grad_() for values in exact.parameters())
    assert torch.autograd.gradcheck(scores, parameters, fast_mode=True)
    exact.load_state_dict(state)


def test_a_head_of_queries_learns_from_a_batch_of_one_image() -> None:
    head = efficient().train()
    before = head.state_dict()["norm.running_mean"].clone()
    torch.autograd.backward(head(features_for(head, batch=1)).score)
    assert torch.isfinite(head.queries.grad).all()  # type: ignore[union-attr, arg-type]
    assert torch.equal(head.state_dict()["norm.running_mean"], before)


def test_products_in_bf16_are_near_those_in_fp32() -> None:
    for head in (efficient(), attentive()):
        features = features_for(head)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            narrow = head(features)
            with torch.autocast("cpu", enabled=False):
                wanted = head(features)
        assert narrow.score.dtype == torch.float32
        assert 0 < (narrow.score - wanted.score).abs().max() < 0.1 * wanted.score.std()


# heads like every other


@pytest.fixture
def cache(tiny_cache: Path) -> FeatureCache:
    return open_cache(tiny_cache)


def settings_for(name: str, **changes: object) -> TrainSettings:
    return settings_of(head=name, **{**QUICK, **changes})


def fit(cache: FeatureCache, folder: Path, settings: TrainSettings) -> Run:
    return train(TrainingJob(cache, "1", settings, folder, "probe"))


def files_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("head.safetensors", "history.csv")]


@pytest.mark.parametrize("name", ["ep", "probe"])
def test_a_run_is_trained_stored_scored_and_shows_where_it_looks(
    cache: FeatureCache, tmp_path: Path, name: str
) -> None:
    run = fit(cache, tmp_path, settings_for(name, epochs=12))
    scored = score_run(run, cache)
    steps = 4 if name == "ep" else 1
    assert (run.attends, run.input.pooling, load_head(run).steps) == (True, "maps", steps)
    assert scored.step_scores.shape == (11, steps)
    np.testing.assert_allclose(scored.step_scores.sum(axis=1), scored.prediction)
    assert scored.metrics.rho > 0.5  # the scores are how bright the images are
    (maps,) = attention_of(cache, run, np.arange(3))  # type: ignore[misc]
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), np.ones((3, steps)), rtol=1e-5)


@pytest.mark.parametrize("name", ["ep", "probe"])
def test_a_run_interrupted_after_an_epoch_ends_as_if_it_had_not_been(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("head.training.gradients.checkpoint.CHECKPOINT_SECONDS", 0)

    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainingJob(cache, "1", settings_for(name), tmp_path / "cut", "probe"), interrupt)
    for folder in ("cut", "whole"):
        fit(cache, tmp_path / folder, settings_for(name))
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_lambda_weighs_nothing_in_a_probe(cache: FeatureCache, tmp_path: Path) -> None:
    for weight in (0.0, 1.0):
        fit(cache, tmp_path / str(weight), replace(settings_for("ep"), attention_weight=weight))
    assert files_of(tmp_path / "0.0")[0] == files_of(tmp_path / "1.0")[0]


@pytest.mark.parametrize(("given", "name"), [
    ({"head": "ep"}, "ep"), ({"head": "ep", "queries": 8}, "ep,queries=8"),
    ({"head": "probe", "attention_heads": 4}, "probe,attention-heads=4"),
])  # fmt: skip
def test_names_and_options_are_those_of_what_is_not_the_heads_default(given: dict[str, object], name: str) -> None:
    settings = settings_of(**given)  # type: ignore[arg-type]
    assert settings.default_name() == name
    assert options_of(settings) == [
        word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))
    ]


def test_heads_of_attention_that_do_not_divide_the_channels_are_refused_before_anything_is_written(
    cache: FeatureCache, tmp_path: Path
) -> None:
    job = TrainingJob(cache, "1", settings_for("probe", attention_heads=7), tmp_path / "run", "probe")
    for refused in (check_start, train):
        with pytest.raises(
            InvalidSettings, match=r"--attention-heads must divide the 256 .* found 7; take 1 or 2 or 4"
        ):
            refused(job)
    assert not (tmp_path / "run").exists()


def test_the_same_seed_draws_the_same_weights_in_every_probe(cache: FeatureCache) -> None:
    for name in ("ep", "probe"):
        drawn = []
        for _ in range(2):
            torch.manual_seed(3)
            drawn.append(untrained_head(cache, settings_of(head=name)).state_dict())
        assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])


def test_queries_have_no_order_so_nothing_changes_over_them() -> None:
    found = predicted("ep", "1", np.arange(5.0), np.ones((5, 4)), head="ep")
    assert without_steps(row(found)) == "looks once, so nothing changes over steps"


def test_a_run_says_that_it_attends_by_its_settings_alone(cache: FeatureCache, tmp_path: Path) -> None:
    run = fit(cache, tmp_path, settings_for("probe", epochs=1))
    assert read_run(run.folder).used_settings["attention_heads"] == 8
    assert "lambda" not in run.used_settings
