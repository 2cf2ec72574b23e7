"""Images are scored on every device about as on the CPU."""

from pathlib import Path

import numpy as np
import pytest

from head.prediction.predictor import Predictor
from head.training.train import train
from tests.helpers.gpu import EACH_DEVICE
from tests.helpers.tails import RESNET, tail_job


@EACH_DEVICE
@pytest.mark.parametrize("name", ["paper", "plain"])
def test_a_head_on_a_backbone_scores_images_there(name: str, device: str, tiny_runs: Path, tiny_dataset: Path) -> None:
    folder, images = tiny_runs / "tiny" / name / "split-1", sorted((tiny_dataset / "images").glob("*.jpg"))[:5]
    there, here = (Predictor.load(folder, device=one)(images) for one in (device, "cpu"))
    np.testing.assert_allclose([one.score for one in there], [one.score for one in here], atol=1e-2)
    assert [one.attention is None for one in there] == [name == "plain"] * 5


@EACH_DEVICE
def test_a_network_of_its_own_scores_images_there(device: str, tiny_dataset: Path, tmp_path: Path) -> None:
    run = train(tail_job(RESNET.cache(tiny_dataset, tmp_path), tmp_path / "tail"))
    images = sorted((tiny_dataset / "images").glob("*.jpg"))[:5]
    predictor = Predictor.load(run.folder, device=device)
    assert predictor.head.device.type == device
    found = [one.score for one in predictor.predict(images)]
    wanted = [one.score for one in Predictor.load(run.folder, device="cpu").predict(images)]
    np.testing.assert_allclose(found, wanted, atol=1e-3)
