"""Heads on devices without float64: those that need it stay on the CPU, and say so."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import head.runs.head_file as head_file
from cli import main
from featcache.base.devices import has_float64
from featcache.store.cache import open_cache
from head.data.batches import EVAL_VIEW
from head.prediction.predictor import Predictor
from head.runs.head_file import load_head
from head.runs.run import Run, read_run
from head.settings import TrainSettings
from head.training.job import TrainingJob
from head.training.train import train

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
    assert done.stderr.startswith(SAYS.format("mps") + "\n")
    assert json.loads(done.stdout)[0]["score"] == pytest.approx(wanted.score, abs=1e-6)
