"""Heads that are a part of the network, given away: they predict elsewhere what they did here, and graphs agree."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from featcache.backbones.families.weights import State, read_weights_file
from featcache.base.errors import BadInput, InvalidSettings, Mismatch
from featcache.store.cache import open_cache
from head.evaluation.score import score_run
from head.models.kinds import kind_of
from head.prediction import predictor as prediction
from head.prediction.predictor import Predictor
from head.runs.hub import _check_weights
from head.runs.run import read_run
from head.settings import settings_of
from head.share.export import export_head
from head.share.onnx import load_graph
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.tails import RESNET, VIT, tail_job


@pytest.fixture(scope="module")
def home(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of caches, and of runs of tails that were trained in part."""
    folder = tmp_path_factory.mktemp("tails")
    for name, network in (("vit", VIT), ("resnet", RESNET)):
        (folder / name).mkdir()
        cache = network.cache(tiny_dataset, folder / name, augs=0, encoding="uint8" if name == "resnet" else "float16")
        of = {"layers": ("blocks.2",), "train": "lora-2"} if name == "vit" else {"layers": ("views",), "train": "norms"}
        train(tail_job(cache, folder / name / "run", epochs=1, lr=0.01, backbone_lr=0.01, **of))
    train(tail_job(cache, folder / "resnet" / "quantised", layers=("layer3",), epochs=1))
    return folder


def images(dataset: Path) -> list[Path]:
    return sorted((dataset / "images").glob("*.jpg"))[:4]


def test_trained_in_part_it_takes_along_all_weights_that_it_needs(
    home: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = home / "vit" / "run" / "split-1"
    wanted = Predictor.load(run).predict(images(tiny_dataset))
    exported = export_head(run, tmp_path / "out")
    assert set(exported.differences) == {"head.onnx", "model.onnx"}
    assert max(exported.differences.values()) < 1e-4
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    with monkeypatch.context() as patch:
        patch.setattr("featcache.backbones.families.weights.read_weights_file", reading_below(tmp_path))
        found = Predictor.load(tmp_path / "elsewhere").predict(images(tiny_dataset))
    assert found == wanted
    held = safetensors.torch.load_file(tmp_path / "elsewhere" / "backbone.safetensors")
    assert {"blocks.0.attn.qkv.weight", "blocks.5.attn.qkv.weight", "norm.weight"} <= set(held)
    assert not any(name.startswith("head.") for name in held)  # the classifier, which nothing uses
    card = (tmp_path / "elsewhere" / "README.md").read_text()
    for told in (
        "by a network of which a part was trained for it.",
        "trained further, additions of rank 2 to matrices trained, all else as it was |",
        "| backbone | timm:test_vit, frozen down to its layer blocks.2 |",
        "positions of 64 channels, and the token before them, as wide, without a place |",
        "| `head.safetensors` | the weights that were trained |",
        "| `backbone.safetensors` | the backbone's weights as they were before, all that are used |",
        "| `head.onnx` | features (B, 101, 64) float32 |",
    ):
        assert told in card
    assert "frozen network" not in card
    _check_weights("hf://somebody/head", tmp_path / "elsewhere")  # as of a folder that came from the Hub


def reading_below(folder: Path) -> Callable[[Path], State]:
    def read(path: Path) -> State:
        assert folder in path.parents, path
        return read_weights_file(path)

    return read


def test_from_pixels_its_graphs_give_what_predict_gives(home: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    run = home / "resnet" / "run" / "split-1"
    exported = export_head(run, tmp_path / "out")
    assert max(exported.differences.values()) < 1e-4
    predictor = Predictor.load(tmp_path / "out")
    views = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    wanted = [float(one) for one in predictor._score(predictor.backbone(torch.from_numpy(views)))[0][:, 0]]
    for name, given in (("model.onnx", views), ("head.onnx", views.reshape(3, -1, 3).astype(np.float32))):
        found = load_graph((tmp_path / "out" / name).read_bytes())(given)[0]
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| reads | pixels of views, 64 x 64 |" in card
    assert "| backbone | timm:test_resnet, from pixels on |" in card
    assert Predictor.load(tmp_path / "out").predict(images(tiny_dataset)) == Predictor.load(run).predict(
        images(tiny_dataset)
    )


def test_all_of_it_trained_from_pixels_it_needs_no_other_weights(
    home: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    cache = open_cache(home / "resnet" / "cache")
    trained = train(tail_job(cache, tmp_path / "whole", epochs=1, crop=48, eval_view="tencrop"))
    run = without_weights(trained.folder, tmp_path / "split-1")
    exported = export_head(run, tmp_path / "out")
    assert "backbone.safetensors" not in exported.files
    assert max(exported.differences.values()) < 1e-4
    _check_weights("hf://somebody/head", tmp_path / "out")
    wanted = Predictor.load(trained.folder, weights=str(RESNET.weights(tmp_path))).predict(images(tiny_dataset))
    for folder in (trained.folder, run, tmp_path / "out"):
        assert Predictor.load(folder).predict(images(tiny_dataset)) == wanted
    with pytest.raises(Mismatch, match="weights"):
        Predictor.load(run, weights="random")


def test_without_its_model_it_is_scored_and_predicts_as_well(home: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    cache, run = open_cache(home / "resnet" / "cache"), home / "resnet" / "run" / "split-1"
    exported = export_head(run, tmp_path / "out", whole=False)
    assert "model.onnx" not in exported.files and "backbone.safetensors" in exported.files
    assert score_run(read_run(tmp_path / "out"), cache).metrics == score_run(read_run(run), cache).metrics
    assert Predictor.load(tmp_path / "out")(images(tiny_dataset)[0]) == Predictor.load(run)(images(tiny_dataset)[0])


def test_features_of_8_bits_are_rounded_in_its_graph(home: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    run = home / "resnet" / "quantised" / "split-1"
    exported = export_head(run, tmp_path / "out")
    assert max(exported.differences.values()) < 1e-4
    held = safetensors.torch.load_file(tmp_path / "out" / "backbone.safetensors")
    assert "layer3.0.conv1.weight" in held and "layer4.0.conv1.weight" not in held  # which the head has itself
    assert Predictor.load(tmp_path / "out")(images(tiny_dataset)[0]) == Predictor.load(run)(images(tiny_dataset)[0])


# weights that are elsewhere


def without_weights(run: Path, folder: Path) -> Path:
    """Return a copy of a run whose weights are not where it says."""
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "weights_source": str(folder / "gone.safetensors")}))
    return folder


def test_weights_that_have_moved_can_be_given(home: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    run = home / "resnet" / "run" / "split-1"
    moved = without_weights(run, tmp_path / "split-1")
    with pytest.raises(
        BadInput, match=r"split-1: .* not trained are needed, and cannot be had: .*gone.*--weights FILE"
    ):
        Predictor.load(moved)
    with pytest.raises(BadInput, match="cannot be had"):
        export_head(moved, tmp_path / "out", whole=False)
    file = str(RESNET.weights(tmp_path))
    wanted = Predictor.load(run).predict(images(tiny_dataset))
    assert Predictor.load(moved, weights=file).predict(images(tiny_dataset)) == wanted
    export_head(moved, tmp_path / "out", weights=file, whole=False)
    assert Predictor.load(tmp_path / "out").predict(images(tiny_dataset)) == wanted


def test_members_that_went_on_from_different_weights_are_not_one_export(home: Path, tmp_path: Path) -> None:
    cache = open_cache(home / "resnet" / "cache")
    other = safetensors.torch.load_file(home / "resnet" / "timm-test_resnet.safetensors")
    last = max(name for name in other if name.startswith("layer4") and "conv" in name and name.endswith("weight"))
    other[last] = other[last] + 0.1
    safetensors.torch.save_file(other, tmp_path / "other.safetensors")
    of = {"layers": ("layer3",), "train": "norms", "epochs": 1}
    for split, weights in (("1", None), ("2", str(tmp_path / "other.safetensors"))):
        train(replace(tail_job(cache, tmp_path / "run", split, **of), weights=weights))
    with pytest.raises(InvalidSettings, match="went on from different weights of one network, .* export one of them"):
        export_head(tmp_path / "run", tmp_path / "out", whole=False)
    assert len(Predictor.load(tmp_path / "run").members) == 2  # each with its own
    with pytest.raises(Mismatch, match=r"split-2: .* are not those that the head was trained with; pass those"):
        Predictor.load(tmp_path / "run", weights=str(home / "resnet" / "timm-test_resnet.safetensors"))


# where it computes


def test_a_part_of_the_network_computes_where_the_backbone_does_and_other_heads_on_the_cpu(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere:
        device = torch.device("meta")

    cache = open_cache(home / "resnet" / "cache")
    ridge = TrainingJob(cache, "1", settings_of(head="ridge", layers=("layer3",)), tmp_path / "ridge", "ridge")
    monkeypatch.setattr(prediction, "nearest_backbone", lambda *_, **__: Elsewhere())
    for folder, where in ((home / "resnet" / "run" / "split-1", "meta"), (train(ridge).folder, "cpu")):
        (member,) = Predictor.load(folder).members
        assert member.head.device.type == where
        assert kind_of(member.head.module).is_network == (where == "meta")


def test_what_is_computed_elsewhere_comes_back_to_the_cpu(home: Path) -> None:
    (member,) = Predictor.load(home / "resnet" / "run" / "split-1").members
    pixels = torch.randint(0, 256, (2, 64 * 64, 3), dtype=torch.uint8)
    found = member.predict({member.features: pixels})
    assert [one.device.type for one in found] == ["cpu"] * 3
    torch.testing.assert_close(found[0], member.head.predict(pixels)[0])
