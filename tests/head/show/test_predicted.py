"""The maps of an image that is in no cache are drawn over it, as those of a cache are."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from head.prediction.predictor import Prediction, Predictor
from head.show.overlay import draw_prediction


def test_an_image_is_drawn_with_its_maps_and_scores(tiny_runs: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(tiny_runs / "tiny" / "paper" / "split-1")
    path = sorted((tiny_dataset / "images").glob("*.jpg"))[0]
    drawn: list[bytes] = []

    def draw(prediction: Prediction) -> bytes:
        drawn.append(draw_prediction(predictor.run, prediction))
        return drawn[-1]

    (found,) = predictor.predict([path], map_files=[tmp_path / "a.jpg.npy"], draw=draw)
    assert found.maps == tmp_path / "a.jpg.npy"
    assert (tmp_path / "a.jpg.png").read_bytes() == drawn[0]
    with Image.open(BytesIO(drawn[0])) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 100  # the image and three maps in a row


def test_only_the_file_of_an_image_with_maps_can_be_drawn(tiny_runs: Path) -> None:
    predictor = Predictor.load(tiny_runs / "tiny" / "paper" / "split-1")
    with pytest.raises(ValueError, match="with a score and maps"):
        draw_prediction(predictor.run, Prediction(Path("a.jpg"), problem="gone"))
