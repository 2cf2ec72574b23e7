"""The maps of an image that is in no cache are drawn over it, as those of a cache are."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cli import main
from head.prediction.predictor import Prediction, Predictor
from head.runs.run import Run
from head.show.plates import draw_prediction


def test_an_image_is_drawn_with_its_maps_and_scores(tiny_runs: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(tiny_runs / "tiny" / "paper" / "split-1")
    path = sorted((tiny_dataset / "images").glob("*.jpg"))[0]
    drawn: list[bytes] = []

    def draw(run: Run, prediction: Prediction) -> Callable[[], bytes]:
        drawn.append(draw_prediction(run, prediction))
        return lambda: drawn[-1]

    (found,) = predictor.predict([path], map_files=[tmp_path / "a.jpg.npy"], draw=draw)
    assert found.maps == tmp_path / "a.jpg.npy"
    assert (tmp_path / "a.jpg.png").read_bytes() == drawn[0]
    with Image.open(BytesIO(drawn[0])) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 100  # the image and three maps in a row


def test_of_several_runs_the_mean_maps_are_written_and_drawn(
    tiny_runs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    paper, path = tiny_runs / "tiny" / "paper", sorted((tiny_dataset / "images").glob("*.jpg"))[0]
    done = CliRunner().invoke(main, ["predict", "--run", str(paper), str(path), "--maps", str(tmp_path)])
    assert done.exit_code == 0, done.output
    singles = [Predictor.load(paper / split)(path).attention for split in ("split-1", "split-2")]
    written = np.load(tmp_path / f"{path.name}.npy")
    np.testing.assert_allclose(written, np.mean(np.array(singles), axis=0), atol=1e-6)
    assert written.dtype == np.float32
    members = Predictor.load(paper)
    assert (tmp_path / f"{path.name}.png").read_bytes() == draw_prediction(members.run, members(path))


def test_only_the_file_of_an_image_with_maps_can_be_drawn(tiny_runs: Path) -> None:
    predictor = Predictor.load(tiny_runs / "tiny" / "paper" / "split-1")
    with pytest.raises(ValueError, match="with a score and maps"):
        draw_prediction(predictor.run, Prediction(Path("a.jpg"), problem="gone"))
