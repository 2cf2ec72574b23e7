"""A head's file: residuals and calibration come back; where there is no float64 heads that need it stay on the CPU."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import head.runs.head_file as head_file
from cli import main
from featcache.base.devices import has_float64
from featcache.base.errors import CorruptFile
from featcache.store.cache import open_cache
from head.calibration.calibration import Calibration
from head.data.batches import EVAL_VIEW
from head.models.baselines import LinearHead, LinearShape
from head.models.kinds import filled_head
from head.prediction.predictor import Predictor
from head.runs.head_file import load_head, save_head
from head.runs.run import Run, read_run, write_config
from head.settings import TrainSettings
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.command_line import told
from tests.helpers.results import CONFIG, RESULT

SAYS = "the head computes in float64, which {} does not have, so it runs on the CPU"


@pytest.fixture(scope="module", params=["ridge", "svr", "linear", "lsvr", "mlp"])
def fitted(request: pytest.FixtureRequest, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of each head that scikit-learn fits."""
    folder = tmp_path_factory.mktemp("fitted") / "split-1"
    return train(TrainingJob(open_cache(tiny_cache), "1", TrainSettings(head=request.param), folder, request.param))


@pytest.fixture
def no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the device 'meta' stand for one without float64: what is moved there in it fails the test."""
    monkeypatch.setattr(head_file, "has_float64", lambda device: torch.device(device).type != "meta")
    real = torch.nn.Module.to

    def to(module: torch.nn.Module, *arguments: Any, **given: Any) -> torch.nn.Module:
        moved = real(module, *arguments, **given)
        assert not any(tensor.is_meta and tensor.dtype == torch.float64 for tensor in moved.state_dict().values())
        return moved

    monkeypatch.setattr(torch.nn.Module, "to", to)


def test_apples_gpus_have_no_float64() -> None:
    assert [has_float64(torch.device(name)) for name in ("mps", "cpu", "cuda:1")] == [False, True, True]


@pytest.mark.usefixtures("no_float64")
def test_a_head_in_float64_stays_on_the_cpu_and_says_so(fitted: Run, tiny_cache: Path) -> None:
    with pytest.warns(UserWarning, match=f"^{SAYS.format('meta')}$") as said:
        found = load_head(fitted, "meta")
    assert len(said) == 1
    assert {tensor.device.type for tensor in found.module.state_dict().values()} == {"cpu"}
    features = fitted.input.read(open_cache(tiny_cache), [0, 3, 5], EVAL_VIEW)
    assert found.predict(features)[0].equal(load_head(fitted).predict(features)[0])


@pytest.mark.usefixtures("no_float64")
def test_a_head_in_float32_goes_to_the_device(tiny_runs: Path) -> None:
    found = load_head(read_run(tiny_runs / "tiny/paper/split-1"), torch.device("meta"))
    assert {tensor.device.type for tensor in found.module.state_dict().values()} == {"meta"}


def test_predict_says_once_that_the_head_is_on_the_cpu(
    fitted: Run, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Predictor.load.__func__  # type: ignore[attr-defined]
    wanted = Predictor.load(fitted.folder)(tiny_dataset / "images/00.jpg")

    def load(kind: type[Predictor], folder: str, **network: Any) -> Predictor:
        predictor: Predictor = real(kind, folder, **network)
        predictor.backbone.device = torch.device("mps")  # computed on the CPU all the same
        return predictor

    monkeypatch.setattr(Predictor, "load", classmethod(load))
    arguments = ["predict", "--head", fitted.folder, *2 * [tiny_dataset / "images/00.jpg"], "--json"]
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert (done.exit_code, done.stderr.count("float64")) == (0, 1)
    assert told(done).startswith(SAYS.format("mps") + "\n")
    assert json.loads(done.stdout)[0]["score"] == pytest.approx(wanted.score, abs=1e-6)


def test_residuals_and_calibration_come_back_and_damage_is_told(tmp_path: Path) -> None:
    calibration = Calibration("isotonic", torch.tensor([[0.1, 0.25, 0.7], [0.2, 0.2, 0.9]], dtype=torch.float64))
    scale: dict[str, Any] = {"target_mean": 0.5, "target_scale": 0.25, "train_images": [], "constants": {}}

    def written(residuals: list[float]) -> Run:
        digest = save_head(
            tmp_path, LinearHead(LinearShape(3)), **scale, calibration=calibration, residuals=np.array(residuals)
        )
        return write_config(tmp_path, {**CONFIG, "result": {**RESULT, "head_sha256": digest}})

    found = load_head(written([0.3, 0.1 + 0.2, 1 / 3]))
    assert found.residuals.tolist() == [0.3, 0.1 + 0.2, 1 / 3]
    assert found.calibration is not None
    assert (found.calibration.kind, found.calibration.knots.tolist()) == ("isotonic", calibration.knots.tolist())
    with pytest.raises(CorruptFile, match="residuals are not rising numbers"):
        load_head(written([-0.5, 0.5]))


def test_a_program_without_calibration_refuses_a_calibrated_head(tmp_path: Path) -> None:
    module = LinearHead(LinearShape(3))
    calibration = Calibration("linear", torch.tensor([[0.0, 1.0], [0.5, 2.5]], dtype=torch.float64))
    save_head(tmp_path, module, target_mean=0, target_scale=1, train_images=[], constants={}, calibration=calibration)
    tensors = load_file(tmp_path / "head.safetensors")
    del tensors["train_images_sha256"]
    with pytest.raises(RuntimeError, match=r"others than those of such a head: calibration\.linear"):
        filled_head("linear", {"channels": 3, "steps": 1}, tensors)
