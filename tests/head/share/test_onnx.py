"""ONNX graphs run by onnxruntime give what heads and backbones give by torch: every kind of head, any batch."""

import functools
import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from featcache.base.errors import InvalidSettings, Mismatch
from featcache.images.loading import load_image
from featcache.store.cache import open_cache
from head.calibration.calibration import Calibration, fit_calibration
from head.data.inputs import HeadInput
from head.models.amnet import AMNetHead, HeadShape
from head.models.baselines import AffineHead, LinearHead, LinearShape, PerceptronHead, PerceptronShape
from head.models.fused.switch import fused_is_on
from head.models.kernels import KernelHead, KernelProductHead, KernelProductShape, KernelShape
from head.models.probes import AttentiveProbe, AttentiveShape, EfficientProbe, EfficientShape
from head.models.published import PublishedHead, PublishedShape
from head.prediction.members import Member
from head.prediction.predictor import Predictor
from head.runs.head_file import TrainedHead, load_head
from head.runs.run import Run, read_run
from head.settings import TrainSettings
from head.share import onnx as share
from head.share.expected import Expected, expected_of
from head.share.export import networks_of
from head.share.graphs import HeadGraph, Reading
from head.share.graphs import graph_of as whole_of
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.results import RESULT, run_of
from tests.helpers.tiny import ROOT, TINY_TRAIN

PAPER = HeadShape(positions=11, channels=7, steps=2, hidden_size=13, regressor_size=5)
PUBLISHED = PublishedShape(positions=11, channels=7, steps=2, hidden_size=13, regressor_size=5)
HEADS: dict[str, Callable[[], nn.Module]] = {
    "paper": lambda: AMNetHead(PAPER),
    "paper, no attention": lambda: AMNetHead(replace(PAPER, attention=False)),
    "published": lambda: PublishedHead(PUBLISHED),
    "published, no attention": lambda: PublishedHead(replace(PUBLISHED, attention=False)),
    "ep": lambda: EfficientProbe(EfficientShape(7, 3, 5)),
    "probe": lambda: AttentiveProbe(AttentiveShape(7, 7)),
    "linear": lambda: LinearHead(LinearShape(7)),
    "lsvr": lambda: AffineHead(LinearShape(7)),
    "svr": lambda: KernelHead(KernelShape(7, 17)),
    "kernels": lambda: KernelProductHead(KernelProductShape(17, ("chi2", "rbf", "intersection"), (2, 2, 3))),
    "mlp": lambda: PerceptronHead(PerceptronShape(7, 19)),
}


def random_head(name: str) -> TrainedHead:
    """Return a head in which every parameter and buffer is random: none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(5)
    module = HEADS[name]().eval().requires_grad_(False)
    for key, values in module.state_dict().items():
        if values.is_floating_point():
            drawn = torch.randn(values.shape, generator=generator, dtype=values.dtype)
            values.copy_(drawn.abs() / 2 + 0.3 if "std" in key or "var" in key or "deviation" in key else drawn / 2)
    if isinstance(module, KernelHead | KernelProductHead):
        module.gamma.fill_(0.07)
    return TrainedHead(module, 0.4, 0.7, frozenset(), {})


def random_features(head: TrainedHead, count: int) -> NDArray[np.float32]:
    positions = getattr(head.module.shape, "positions", 1)
    return np.random.default_rng(count).normal(size=(count, positions, 7)).astype(np.float32)


def graph_of(head: TrainedHead) -> bytes:
    names = share.output_names(head)
    return share.export(HeadGraph(head), "features", random_features(head, 4), outputs=names, facts={"a": "b"})


@functools.cache
def head_and_graph(name: str) -> tuple[TrainedHead, bytes]:
    head = random_head(name)
    return head, graph_of(head)


@pytest.mark.parametrize("name", HEADS)
def test_a_heads_graph_gives_its_scores_steps_and_maps_in_any_batch(name: str) -> None:
    head, data = head_and_graph(name)
    names, graph = share.output_names(head), share.load_graph(data)
    for count in (1, 2, 9):
        features = random_features(head, count)
        found = dict(zip(names, graph(features), strict=True))
        wanted = head.predict(torch.from_numpy(features))
        assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
        assert count == 1 or found["step_scores"].std() > 0.01
        for key, values in zip(("score", "step_scores", "maps"), wanted, strict=True):
            if key in found:
                np.testing.assert_allclose(found[key], values.numpy(), atol=2e-6, rtol=2e-6)
            else:
                assert values.numel() == 0


@pytest.mark.parametrize("kind", ["linear", "isotonic"])
@pytest.mark.parametrize("name", ["paper", "svr"])
def test_a_calibrated_heads_graph_gives_calibrated_scores_and_steps(name: str, kind: str) -> None:
    rng = np.random.default_rng(7)
    predicted = rng.normal(0.4, 0.7, 40)
    calibration = fit_calibration(kind, predicted, 5 * predicted + rng.normal(0, 2, 40))
    head = replace(random_head(name), calibration=calibration)
    features = random_features(head, 9)
    score, steps, *_ = share.load_graph(graph_of(head))(features)
    wanted = head.predict(torch.from_numpy(features))
    steepest = np.max(np.diff(calibration.knots[1]) / np.diff(calibration.knots[0]))
    np.testing.assert_allclose(score, wanted[0], atol=2e-6 * steepest, rtol=2e-6)
    np.testing.assert_allclose(steps, wanted[1], atol=2e-6 * steepest, rtol=2e-6)
    plain = random_head(name).predict(torch.from_numpy(features))[0]
    np.testing.assert_allclose(wanted[0], calibration(plain.numpy()), atol=1e-9)
    assert np.abs(score - plain.numpy()).max() > 0.1


def test_heads_compute_by_plain_formulas_while_they_are_exported() -> None:
    seen = []

    class Watched(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            seen.append(fused_is_on())
            return features + 1

    share.export(Watched(), "features", np.ones((2, 3), np.float32), outputs=["next"], facts={})
    assert (set(seen), fused_is_on()) == ({False}, True)


# what a head reads of maps


@pytest.mark.parametrize("pooling", ["maps", "mean", "mean+deviation"])
@pytest.mark.parametrize("layers", [("layer2",), ("layer3",), ("layer3", "layer2")])
def test_features_are_read_rounded_and_joined_as_in_a_cache(
    layered_cache: Path, pooling: str, layers: tuple[str, ...]
) -> None:
    cache = open_cache(layered_cache)
    run = run_reading(HeadInput(layers, pooling), cache.recipe.as_json())
    generator = torch.Generator().manual_seed(3)
    shapes = {layer: cache.recipe.layer_shape(layer) for layer in cache.recipe.layer_names}
    maps = {
        layer: torch.randn(5, shape.channels, shape.height, shape.width, generator=generator).abs() * 3
        for layer, shape in shapes.items()
    }
    stored: dict[str, Any] = {layer: cache.constants(layer) for layer in layers}
    for constants in (stored, {}):
        flat = {layer: values.flatten(2).transpose(1, 2) for layer, values in maps.items()}
        wanted = run.input.of_maps(flat, constants, run.recipe)
        found = Reading(run, constants)(maps)
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-6)
        if pooling == "maps" and len(layers) == 1:
            assert torch.equal(found, wanted)  # the very rounding


def test_joined_maps_of_sizes_that_do_not_divide_are_averaged_likewise(tiny_cache: Path) -> None:
    recipe = {**open_cache(tiny_cache).recipe.as_json(), "layers": [["a", 7, 5, 3], ["b", 4, 3, 2]]}
    run = run_reading(HeadInput(("a", "b"), "maps"), recipe)
    maps = {"a": torch.randn(2, 3, 7, 5), "b": torch.randn(2, 2, 4, 3)}
    flat = {layer: values.flatten(2).transpose(1, 2) for layer, values in maps.items()}
    torch.testing.assert_close(Reading(run, {})(maps), run.input.of_maps(flat, {}, run.recipe), atol=1e-6, rtol=1e-6)


def test_features_of_an_imported_head_are_not_rounded(tiny_cache: Path) -> None:
    run = run_reading(HeadInput(("layer3",), "maps"), open_cache(tiny_cache).recipe.as_json(), imported={})
    maps = torch.randn(2, 256, 4, 4)
    assert torch.equal(Reading(run, {})({"layer3": maps}), maps.flatten(2).transpose(1, 2))


def run_reading(reads: HeadInput, recipe: dict[str, Any], **more: Any) -> Run:
    return run_of(Path("run"), input=reads.as_json(), recipe=recipe, result=RESULT, **more)


# whole models


@pytest.fixture(scope="module")
def whole(tiny_runs: Path) -> tuple[Run, TrainedHead, share.Graph]:
    """The graph from pixels to scores of a small run."""
    run = read_run(tiny_runs / "tiny" / "paper" / "split-1")
    head = load_head(run)
    return run, head, share.model_graph([Member(run, head)], *networks_of([Member(run, head)]))


def test_a_models_graph_gives_what_predict_gives(
    whole: tuple[Run, TrainedHead, share.Graph], tiny_dataset: Path, tmp_path: Path
) -> None:
    run, _, graph = whole
    paths = sorted((tiny_dataset / "images").glob("*.jpg"))[:6]
    pixels = np.concatenate([load_image(path, path.name, (0, 1), run.recipe).pixels for path in paths])
    files = [tmp_path / f"{k}.npy" for k in range(len(paths))]
    wanted = Predictor.load(run.folder).predict(paths, map_files=files)
    model = share.load_graph(graph.data)
    for chosen in ([0], [3, 1], range(6)):
        score, steps, maps = model(pixels[list(chosen)])
        np.testing.assert_allclose(score, [wanted[k].score for k in chosen], atol=1e-4)
        np.testing.assert_allclose(steps, [wanted[k].step_scores for k in chosen], atol=1e-4)
        read = np.stack([np.load(files[k]).reshape(3, 16) for k in chosen])
        np.testing.assert_allclose(maps, read, atol=1e-4)
    assert graph.difference < 1e-4


def test_a_models_graph_rounds_features_to_float16(whole: tuple[Run, TrainedHead, share.Graph]) -> None:
    run, head, graph = whole
    pixels = share.drawn_images(9, run.recipe.image_size)
    _, backbone = networks_of([Member(run, head)])
    exact = head.predict(backbone(torch.from_numpy(pixels))["layer3"])[2].numpy()
    rounded = share.torch_outputs([Member(run, head)], backbone, pixels)[2]
    found = share.load_graph(graph.data)(pixels)[2]
    assert np.abs(found - rounded).mean() < 0.2 * np.abs(found - exact).mean()


@pytest.mark.slow
def test_every_kind_of_run_has_a_graph_that_agrees(layered_cache: Path, tmp_path: Path) -> None:
    cache = open_cache(layered_cache)  # of 8 bits, two layers
    some = {
        "attention": replace(TINY_TRAIN, layers=("layer2", "layer3"), epochs=1, steps=1),
        "ep": replace(TINY_TRAIN, head="ep", layers=("layer2", "layer3"), epochs=1),
        "ridge": TrainSettings(head="ridge", layers=("layer3", "layer2")),
    }
    for name, settings in some.items():
        run = train(TrainingJob(cache, "1", settings, tmp_path / name, name))
        head = load_head(run)
        graph = share.model_graph([Member(run, head)], *networks_of([Member(run, head)]))
        pixels = share.drawn_images(3, run.recipe.image_size)
        wanted = share.torch_outputs([Member(run, head)], networks_of([Member(run, head)])[1], pixels)
        found = share.load_graph(graph.data)(pixels)
        assert share.largest_difference(found[0], wanted[0]) < 1e-4
        assert len(found) == (2 if name == "ridge" else 3)


def test_a_graph_says_what_it_is(whole: tuple[Run, TrainedHead, share.Graph]) -> None:
    run, _, graph = whole
    model = onnx.load_from_string(graph.data)
    onnx.checker.check_model(model, full_check=True)
    facts = {fact.key: fact.value for fact in model.metadata_props}
    assert facts["fingerprint"] == run.recipe.fingerprint
    assert (facts["image_size"], facts["layers"], facts["map_size"], facts["steps"]) == (
        "64",
        '["layer3"]',
        "[4,4]",
        "3",
    )
    assert '"eval_view":"center"' in facts["view"]
    (pixels,) = model.graph.input
    sides = [side.dim_param or side.dim_value for side in pixels.type.tensor_type.shape.dim]
    assert (pixels.name, pixels.type.tensor_type.elem_type, sides) == (
        "pixels",
        onnx.TensorProto.UINT8,
        ["batch", 64, 64, 3],
    )
    assert [output.name for output in model.graph.output] == ["score", "step_scores", "maps"]
    assert model.opset_import[0].version == share.OPSET


def test_a_graph_tells_nothing_of_the_machine_it_was_made_on(whole: tuple[Run, TrainedHead, share.Graph]) -> None:
    root = str(ROOT).encode()
    for tell_tale in (root, sys.prefix.encode(), b".py", b"stack_trace"):
        assert tell_tale not in whole[2].data


def test_the_same_head_gives_the_same_bytes(small: tuple[TrainedHead, bytes]) -> None:
    assert graph_of(small[0]) == small[1]


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes_in_another_process(whole: tuple[Run, TrainedHead, share.Graph]) -> None:
    code = (
        "import hashlib, sys; from pathlib import Path; from head.runs.run import read_run; "
        "from head.runs.head_file import load_head; from head.share.onnx import model_graph; "
        "from head.prediction.members import Member; "
        "from head.share.export import networks_of; run = read_run(Path(sys.argv[1])); head = load_head(run); "
        "print(hashlib.sha256(model_graph([Member(run, head)], *networks_of([Member(run, head)])).data).hexdigest())"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(whole[0].folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (hashlib.sha256(whole[2].data).hexdigest(), "")


# what is refused


@pytest.fixture(scope="module")
def small() -> tuple[TrainedHead, bytes]:
    """A head without attention, and its graph."""
    return head_and_graph("paper, no attention")


@pytest.mark.parametrize("output", [0, 1, 2])
def test_a_graph_that_differs_from_torch_in_any_output_is_refused(
    small: tuple[TrainedHead, bytes], output: int
) -> None:
    head, data = small
    features = random_features(head, 3)
    wanted = expected_of([head], features)
    assert share.check("head.onnx", data, features, wanted) < 1e-6
    wanted[output].values[-1] += 2e-4
    with pytest.raises(Mismatch, match=r"head\.onnx: differs from torch by 0\.0002 .*at most 0\.0001 may be"):
        share.check("head.onnx", data, features, wanted)


def test_scores_on_a_large_scale_are_compared_on_it(small: tuple[TrainedHead, bytes]) -> None:
    head, features = replace(small[0], target_scale=1000.0), random_features(small[0], 3)
    score, *others = expected_of([head], features)
    found = share.check("head.onnx", graph_of(head), features, [replace(score, values=score.values + 0.02), *others])
    assert found == pytest.approx(2e-5, rel=0.1)


STEEP = Calibration("isotonic", torch.tensor([[-9.0, 0.0, 1e-9, 9.0], [0.2, 0.3, 0.7, 0.8]], dtype=torch.float64))


def around(head: TrainedHead, *, last: float) -> tuple[TrainedHead, NDArray[np.float32]]:
    """Return a head with a calibration that is all but vertical where it scores the last of three images, and these.

    It is vertical at a score that is the last image's and a little more.
    """
    features = random_features(head, 3)
    score = head.uncalibrated(torch.from_numpy(features))[0].sum(dim=1)[-1]
    knots = STEEP.knots + torch.stack([(score + last).expand(4), torch.zeros(4)])
    return replace(head, calibration=Calibration("isotonic", knots)), features


@pytest.mark.parametrize("name", ["svr", "paper, no attention"])
def test_a_right_graph_is_as_good_where_calibration_is_vertical(name: str) -> None:
    """Its scores are off by rounding, which a step makes as large as the step is high."""
    head, features = around(random_head(name), last=3e-7)
    graph, moved = graph_of(head), replace(head, target_mean=head.target_mean + 1e-6)
    for right in (graph, graph_of(moved)):
        assert share.check("head.onnx", right, features, expected_of([head], features)) < share.LARGEST_DIFFERENCE
    score = [share.load_graph(one)(features)[0] for one in (graph, graph_of(moved))]
    assert name != "svr" or score[1][-1] - score[0][-1] == pytest.approx(0.4, rel=1e-3)


@pytest.mark.parametrize("output", ["score", "step_scores"])
@pytest.mark.parametrize("members", [1, 2])
def test_a_vertical_step_hides_no_wrong_graph(output: str, members: int) -> None:
    """All images but one are far from the step, and one is on it: neither may be off for that."""
    head, features = around(random_head("svr"), last=0.0)
    heads = [head, replace(head, target_mean=0.3)][:members]
    names = share.output_names(head, members)
    data = share.export(whole_of(heads), "features", features, outputs=names, facts={})
    wanted = expected_of(heads, features)
    assert share.check("head.onnx", data, features, wanted) < share.LARGEST_DIFFERENCE
    for image, off in ((0, 3e-4), (2, 0.9)):
        shifted = wanted[names.index(output)].values.copy()
        shifted[image] += off
        others = [
            replace(one, values=shifted) if name == output else one for name, one in zip(names, wanted, strict=True)
        ]
        with pytest.raises(Mismatch, match="differs from torch"):
            share.check("head.onnx", data, features, others)


def test_a_deviation_of_members_that_is_wrong_is_refused() -> None:
    heads = [random_head("svr"), replace(random_head("svr"), target_mean=0.3)]
    features = random_features(heads[0], 3)
    wanted = expected_of(heads, features)
    data = share.export(whole_of(heads), "features", features, outputs=share.output_names(heads[0], 2), facts={})
    assert share.check("head.onnx", data, features, wanted) < 1e-6
    assert wanted[-1].values == pytest.approx(0.1 / 2**0.5)
    wanted[-1].values[1] += 2e-4
    with pytest.raises(Mismatch, match="differs from torch by 0.0001"):
        share.check("head.onnx", data, features, wanted)


def test_an_output_that_is_not_finite_is_no_agreement() -> None:
    assert share.largest_difference(np.array([1.0, np.nan]), np.array([1.0, np.nan])) == np.inf
    assert share.largest_difference(np.array([1.0, 2.0]), np.array([1.0, 2.5])) == 0.5
    expected = Expected(np.array([1.0, 2.0]), np.full(2, 1e-4), np.full(2, 1e-4))
    assert expected.difference(np.array([1.0, np.nan])) == expected.difference(np.array([np.inf, 2.0])) == np.inf


class Refused(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.sum() if features.sum() > 0 else features.mean()


def test_a_network_that_cannot_be_traced_is_one_clear_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidSettings, match=r"cannot be written as ONNX \(.+\); --no-model"):
        share.export(Refused(), "features", np.ones((2, 3), np.float32), outputs=["score"], facts={})
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        InvalidSettings, match=r"onnxruntime, which is not installed: pip install 'amnet-featcache\[onnx\]'"
    ):
        share.require_onnx()
