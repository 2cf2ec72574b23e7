"""An exported folder is a run that needs nothing else, is whole or no run, and takes no other folder's place."""

import contextlib
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

import head.share.export as share
from featcache.backbones.networks import build_extractor
from featcache.base.errors import CacheIncomplete, CorruptFile, InvalidSettings, Mismatch, StorageError
from featcache.store.cache import open_cache
from head.evaluation.score import score_run
from head.prediction.predictor import Predictor
from head.runs.run import read_run
from head.share.card import onnx_example
from head.share.export import Exported, export_head
from head.share.import_head import import_head
from head.share.onnx import Graph
from tests.helpers.command_line import amnet, told
from tests.helpers.reference_published import random_checkpoint
from tests.helpers.results import changed
from tests.helpers.small_resnet import small_resnet, small_resnet_for_resnet50

Bytes = dict[str, bytes]


@pytest.fixture(scope="module")
def run(tiny_runs: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose backbone's weights are in a file elsewhere."""
    folder = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(tiny_runs / "tiny" / "paper" / "split-1", folder)
    recipe = read_run(folder).recipe
    extractor = build_extractor(recipe.backbone, recipe.layer_names, "random", seed=recipe.seed)
    state = extractor.module.state_dict()
    file = folder.parent / "weights.safetensors"
    safetensors.torch.save_file({f"net.{name}": tensor.contiguous() for name, tensor in state.items()}, file)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "weights_source": str(file)}))
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Its export, which knows nothing of that file."""
    return export_head(run, tmp_path_factory.mktemp("out") / "head", license_id="mit")


@pytest.fixture(scope="module")
def predictor(exported: Exported) -> Predictor:
    """The predictor of that export."""
    return Predictor.load(exported.run.folder)


@contextlib.contextmanager
def stand_ins_for_graphs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(share, "head_graph", lambda *_: Graph(b"features to scores", 1e-8))
        patch.setattr(share, "model_graph", lambda *_: Graph(b"pixels to scores", 1e-7))
        yield


@pytest.fixture
def no_graphs() -> Iterator[None]:
    """Exports in which other bytes stand for the graphs, which take seconds each and are tested on their own."""
    with stand_ins_for_graphs():
        yield


@pytest.fixture(scope="module")
def carried(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Such an export of a run whose backbone has random weights, with them."""
    out = tmp_path_factory.mktemp("out") / "carried"
    with stand_ins_for_graphs():
        return export_head(tiny_runs / "tiny" / "plain" / "split-1", out, whole=False, with_backbone=True)


def bytes_in(folder: Path) -> Bytes:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_export_predicts_as_the_run_does_wherever_it_is(
    run: Path, exported: Exported, tiny_dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported.run.folder, tmp_path / "elsewhere")
    images = sorted((tiny_dataset / "images").glob("*.jpg"))[:4]
    assert read_run(tmp_path / "elsewhere").weights_source == str(tmp_path / "elsewhere" / "backbone.safetensors")
    assert Predictor.load(tmp_path / "elsewhere").predict(images) == Predictor.load(run).predict(images)


def test_it_is_scored_on_the_cache_as_the_run_is(run: Path, exported: Exported, tiny_cache: Path) -> None:
    cache = open_cache(tiny_cache)
    assert score_run(exported.run, cache).metrics == score_run(read_run(run), cache).metrics


def test_it_holds_these_files_and_their_digests(run: Path, exported: Exported) -> None:
    found = bytes_in(exported.run.folder)
    names = {"README.md", "backbone.safetensors", "config.json", "head.onnx", "head.safetensors", "model.onnx"}
    assert set(found) == set(exported.files) == names
    assert exported.files == {name: len(data) for name, data in found.items()}
    digests = exported.run.config.document["exported"]["sha256"]
    assert digests == {name: hashlib.sha256(found[name]).hexdigest() for name in names - {"config.json"}}
    assert found["head.safetensors"] == (run / "head.safetensors").read_bytes()
    assert str(run.parent).encode() not in b"".join(found.values())
    assert all(0 <= difference < 1e-4 for difference in exported.differences.values())


def test_the_cards_examples_run_and_agree(
    exported: Exported, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported.run.folder, tmp_path / "head")
    shutil.copy(tiny_dataset / "images" / "01.jpg", tmp_path / "head" / "photo.jpg")
    monkeypatch.chdir(tmp_path / "head")
    examples = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    printed = []
    for example in examples:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(example, {})
        printed.append(float(out.getvalue().strip().strip("[]")))
    wanted = Predictor.load(".").predict([Path("photo.jpg")])[0].score
    assert printed == pytest.approx([wanted, wanted], abs=1e-4)


def test_a_head_of_other_arithmetic_than_the_graphs_is_warned_of(exported: Exported) -> None:
    assert exported.warnings() == []
    runs = [changed(exported.run, recipe={**exported.run.config.recipe, "precision": "bf16-openvino"})]
    (warning,) = replace(exported, runs=runs).warnings()
    assert warning.startswith(
        "warning: this head's features are bf16, in which predict computes; model.onnx computes in"
    )
    assert "extract with --precision fp32" in warning
    assert replace(exported, runs=runs, files={"head.onnx": 1}).warnings() == []


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1", "CMYK"])
def test_the_cards_example_sees_every_kind_of_image_as_predict_does(
    exported: Exported, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 4), np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert(mode)
    options = {"transparency": 3} if mode == "P" else {}
    image.save(tmp_path / "photo.jpg", "TIFF" if mode == "CMYK" else "PNG", **options)
    monkeypatch.chdir(tmp_path)
    example = onnx_example(exported.run.recipe).replace("model.onnx", str(exported.run.folder / "model.onnx"))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(example, {})
    wanted = predictor.predict([Path("photo.jpg")])[0].score
    assert float(out.getvalue().strip().strip("[]")) == pytest.approx(wanted, abs=1e-4)


def test_the_cards_example_takes_no_image_of_16_bits(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "photo.jpg", "PNG")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="16 bits a channel: divide by 257 first"):
        exec(onnx_example(exported.run.recipe), {})


@pytest.mark.usefixtures("no_graphs")
def test_random_or_imagenet_weights_go_along_only_if_asked_for(
    tiny_runs: Path, carried: Exported, tmp_path: Path
) -> None:
    run = tiny_runs / "tiny" / "plain" / "split-1"
    without = export_head(run, tmp_path / "without", whole=False)
    assert sorted(without.files) == ["README.md", "config.json", "head.onnx", "head.safetensors"]
    assert without.run.config.weights_source == "random"
    assert carried.run.config.weights_source == "backbone.safetensors"
    assert Predictor.load(carried.run.folder).backbone.weights_sha256 == read_run(run).recipe.weights


@pytest.mark.usefixtures("no_graphs")
def test_the_same_export_again_gives_the_same_bytes(tiny_runs: Path, carried: Exported, tmp_path: Path) -> None:
    run, first = tiny_runs / "tiny" / "plain" / "split-1", bytes_in(carried.run.folder)
    export_head(run, tmp_path / "a", whole=False, with_backbone=True)
    assert bytes_in(tmp_path / "a") == first
    (tmp_path / "a" / ".tmp-README.md-host-1").write_text("left by a killed export")
    (tmp_path / "a" / ".gitattributes").write_text("of a clone")
    export_head(run, tmp_path / "a", whole=False)
    assert set(bytes_in(tmp_path / "a")) == {".gitattributes", *first} - {"backbone.safetensors"}


# what is refused


def refused(run: Path, out: Path, error: type[Exception], message: str, **options: Any) -> None:
    """Check that an export is refused, and that it changed nothing."""
    before = bytes_in(out) if out.is_dir() else None
    with pytest.raises(error, match=message):
        export_head(run, out, whole=False, **options)
    assert (bytes_in(out) if out.is_dir() else None) == before


@pytest.mark.usefixtures("no_graphs")
def test_a_place_that_holds_something_else_is_refused_by_name(tiny_runs: Path, tmp_path: Path) -> None:
    run, other = (tiny_runs / "tiny" / name / "split-1" for name in ("plain", "paper"))
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSettings, match="file: is a file; give --out a folder"):
        export_head(run, tmp_path / "file")
    for name in ("thesis.tex", "README.md"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        refused(run, tmp_path / name, Mismatch, f"holds {name}, so no place for an export; give it a new --out")
    shutil.copytree(run, tmp_path / "copy")
    refused(run, run, InvalidSettings, "is the run itself")
    (tmp_path / "copy" / "history.csv").unlink()
    refused(run, tmp_path / "copy", Mismatch, "holds a run, plain, which is no export")
    export_head(other, tmp_path / "other", whole=False)
    refused(run, tmp_path / "other", Mismatch, "holds the export of another head, paper")


@pytest.mark.usefixtures("no_graphs")
def test_what_cannot_be_exported_is_said_before_anything_is_written(tiny_runs: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(tmp_path, out, InvalidSettings, "no run there")
    refused(run, out, InvalidSettings, "--license must be a license's name", license_id="MIT License")
    own = run.parent / "weights.safetensors"
    state = safetensors.torch.load_file(own)
    state["net.conv1.weight"] = state["net.conv1.weight"] + 1
    safetensors.torch.save_file(state, tmp_path / "other.safetensors")
    refused(run, out, Mismatch, "--weights FILE", weights=str(tmp_path / "other.safetensors"))
    shutil.copytree(tiny_runs / "tiny" / "plain" / "split-1", tmp_path / "unfinished")
    config = json.loads((tmp_path / "unfinished" / "config.json").read_text())
    del config["result"]
    (tmp_path / "unfinished" / "config.json").write_text(json.dumps(config))
    refused(tmp_path / "unfinished", out, CacheIncomplete, "training has not finished")
    assert not out.exists()


@pytest.mark.usefixtures("no_graphs")
def test_weights_that_moved_are_found_by_option(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.copy(run.parent / "weights.safetensors", tmp_path / "moved.safetensors")
    config = json.loads((run / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "weights_source": str(tmp_path / "gone.pt")}))
    export_head(tmp_path / "run", tmp_path / "out", whole=False, weights=str(tmp_path / "moved.safetensors"))
    assert Predictor.load(tmp_path / "out").backbone.weights_sha256 == config["recipe"]["weights"]


@pytest.mark.usefixtures("no_graphs")
@pytest.mark.parametrize("before", [False, True])
def test_an_export_that_breaks_off_leaves_no_run_and_can_be_made_again(
    tiny_runs: Path, carried: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    run, out = tiny_runs / "tiny" / "plain" / "split-1", tmp_path / "out"
    if before:
        shutil.copytree(carried.run.folder, out)
    write: Callable[..., str] = share.write_durably

    def failing(path: Path, data: bytes) -> str:
        if path.name == "README.md":
            raise StorageError("the disk is full")
        return write(path, data)

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="the disk is full"):
        patch.setattr(share, "write_durably", failing)
        export_head(run, out, whole=False)
    assert not (out / "config.json").exists()
    assert not (out / "lock").exists()
    with pytest.raises(CorruptFile, match=r"lacks config\.json"):
        read_run(out)
    export_head(run, out, whole=False)
    export_head(run, tmp_path / "fresh", whole=False)
    assert bytes_in(out) == bytes_in(tmp_path / "fresh")


# every way in


@pytest.mark.usefixtures("no_graphs")
def test_the_command_prints_each_file_or_json(tiny_runs: Path, tmp_path: Path) -> None:
    arguments = ["--head", str(tiny_runs / "tiny" / "plain" / "split-1"), "--out", str(tmp_path / "out"), "--no-model"]
    done = amnet("export-head", *arguments)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'out'}: plain, fingerprint ")
    assert re.search(r"head\.onnx +[\d,]+ bytes  differs from torch by .*e-\d\d at most", done.stdout)
    assert told(done) == "export: 1 of 1 graphs\n"
    found = json.loads(amnet("export-head", *arguments, "--json").stdout)
    assert set(found["files"]) == {"README.md", "config.json", "head.onnx", "head.safetensors"}
    assert found["differences"]["head.onnx"] < 1e-4


@pytest.mark.slow
def test_an_imported_head_is_exported_with_its_backbone_and_features_as_they_are(tmp_path: Path) -> None:
    import torch

    checkpoint = random_checkpoint(positions=16, hidden_size=17, regressor_size=19, network=small_resnet)
    torch.save({"model": checkpoint}, tmp_path / "split1.pkl")
    with small_resnet_for_resnet50():
        import_head(tmp_path / "split1.pkl", tmp_path / "run", split="1")
        exported = export_head(tmp_path / "run", tmp_path / "out")
    assert exported.differences["model.onnx"] < 1e-4
    assert exported.run.imported
    state = safetensors.torch.load_file(tmp_path / "out" / "backbone.safetensors")
    wanted = safetensors.torch.load_file(tmp_path / "run" / "backbone.safetensors")
    assert {name: tensor.tolist() for name, tensor in state.items() if tensor.ndim == 1} == {
        name: tensor.tolist() for name, tensor in wanted.items() if tensor.ndim == 1
    }
