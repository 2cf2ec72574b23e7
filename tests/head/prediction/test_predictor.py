"""Images scored from files get what the cache gives them; what cannot be scored is reported, and ends nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from featcache.backbones.backbone import load_backbone
from featcache.base.errors import BadInput, CacheIncomplete, CorruptFile, InvalidSettings, Mismatch
from featcache.base.progress import Progress
from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.store.cache import open_cache
from head.evaluation.score import score_run
from head.explain.occlusion import occlusion_of
from head.prediction.map_files import map_files
from head.prediction.predictor import Prediction, Predictor
from head.runs.head_file import load_head
from head.runs.run import read_run
from head.settings import TrainSettings
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.tiny import TINY_EXTRACT, TINY_TRAIN


@pytest.fixture(scope="module")
def predictor(tiny_runs: Path) -> Predictor:
    return Predictor.load(tiny_runs / "tiny" / "paper" / "split-1")


@pytest.fixture(scope="module")
def images(tiny_dataset: Path) -> Path:
    return tiny_dataset / "images"


@pytest.mark.parametrize("name", ["paper", "plain"])
def test_an_image_gets_the_score_it_has_in_the_cache(
    tiny_runs: Path, tiny_cache: Path, images: Path, name: str
) -> None:
    folder, cache = tiny_runs / "tiny" / name / "split-1", open_cache(tiny_cache)
    test, val = (score_run(read_run(folder), cache, part=part) for part in ("test", "val"))
    names = (test.names + val.names)[:16]  # the batch of extract: another may round a feature differently
    found = Predictor.load(folder).predict([images / name for name in names])
    wanted = np.concatenate([test.step_scores, val.step_scores])[:16]
    np.testing.assert_allclose([image.step_scores for image in found], wanted, atol=1e-6)
    np.testing.assert_allclose([image.score for image in found], wanted.sum(axis=1), atol=1e-6)
    assert [image.path for image in found] == [images / name for name in names]
    assert not any(image.in_training or image.problem for image in found)


def test_a_score_depends_neither_on_the_files_name_nor_on_the_images_beside_it(
    predictor: Predictor, images: Path, tmp_path: Path
) -> None:
    paths = sorted(images.glob("*.jpg"))
    together = predictor.predict(paths)
    shutil.copy(paths[20], tmp_path / "other name.jpeg")
    (alone,) = predictor.predict([tmp_path / "other name.jpeg"])
    assert alone.score == pytest.approx(together[20].score, abs=1e-3)
    assert alone.in_training == together[20].in_training


def test_images_the_head_was_trained_on_are_flagged(predictor: Predictor, tiny_cache: Path, images: Path) -> None:
    cache = open_cache(tiny_cache)
    trained = {cache.images[row].name for row in cache.splits["1"]["train"].rows}
    found = predictor.predict([images / image.name for image in cache.images])
    assert [p.in_training for p in found] == [image.name in trained for image in cache.images]


def test_a_bad_image_gets_its_problem_and_the_others_their_scores(
    predictor: Predictor, images: Path, tmp_path: Path
) -> None:
    good = sorted(images.glob("*.jpg"))[:2]
    torn, text, gone = tmp_path / "torn.jpg", tmp_path / "text.jpg", tmp_path / "gone.jpg"
    torn.write_bytes(good[0].read_bytes()[:-500])
    text.write_text("not an image")
    found = predictor.predict([torn, good[0], text, good[1], gone])
    assert [bool(image.problem) for image in found] == [True, False, True, False, True]
    assert [image.score is None for image in found] == [True, False, True, False, True]
    assert [image.problem.partition(":")[0] for image in found] == ["truncated", "", "unidentified", "", "unreadable"]
    alone = predictor.predict(good)
    assert [found[1].score, found[3].score] == pytest.approx([image.score for image in alone], abs=1e-3)


def test_more_images_than_one_batch_keep_their_order(
    predictor: Predictor, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(images.glob("*.jpg"))[:7]
    whole = predictor.predict(paths)
    monkeypatch.setattr(predictor.backbone, "batch_size", 2)
    parts = predictor.predict(paths)
    assert [image.path for image in parts] == paths
    assert [image.score for image in parts] == pytest.approx([image.score for image in whole], abs=1e-3)


def test_progress_reaches_the_total_even_if_the_last_image_is_bad(
    predictor: Predictor, images: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    paths = [*sorted(images.glob("*.jpg"))[:3], tmp_path / "gone.jpg"]
    predictor.predict(paths, on_progress=seen.append)
    assert (seen[-1].done, seen[-1].total) == (4, 4)


def test_no_images_give_no_predictions(predictor: Predictor) -> None:
    assert predictor.predict([]) == []


def test_a_prediction_is_json(tmp_path: Path) -> None:
    found = Prediction(tmp_path / "a.jpg", 0.5, (0.25, 0.25), in_training=True).as_json()
    assert json.loads(json.dumps(found)) == {
        "path": str(tmp_path / "a.jpg"),
        "score": 0.5,
        "deviation": None,
        "lower": None,
        "upper": None,
        "step_scores": [0.25, 0.25],
        "in_training": True,
        "on_tokens": [],
        "outside_range": None,
        "problem": "",
        "maps": None,
        "occlusion": None,
        "notes": [],
    }
    assert Prediction(tmp_path / "a.jpg", maps=tmp_path / "a.npy").as_json()["maps"] == str(tmp_path / "a.npy")


def test_maps_are_those_of_the_head_on_the_cache_in_rows_and_columns(
    tiny_runs: Path, tiny_cache: Path, images: Path, tmp_path: Path
) -> None:
    folder, cache = tiny_runs / "tiny" / "paper" / "split-1", open_cache(tiny_cache)
    rows = [0, 7, 12]
    files = [tmp_path / f"{row}.npy" for row in rows]
    found = Predictor.load(folder).predict([images / cache.images[row].name for row in rows], map_files=files)
    assert [image.maps for image in found] == files
    run = read_run(folder)
    wanted = load_head(run).predict(run.input.read(cache, np.array(rows), 0))[2].numpy()  # (3, T, L)
    for file, maps in zip(files, wanted, strict=True):
        read = np.load(file)
        assert (read.shape, read.dtype) == ((3, 4, 4), np.float32)
        np.testing.assert_allclose(read, maps.reshape(3, 4, 4), atol=1e-6)
        np.testing.assert_allclose(read.sum(axis=(1, 2)), 1, atol=1e-5)
        assert np.ptp(read) > 1e-6


def test_a_bad_image_has_no_map(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    good, files = sorted(images.glob("*.jpg"))[0], [tmp_path / "gone.npy", tmp_path / "good.npy"]
    found = predictor.predict([tmp_path / "gone.jpg", good], map_files=files)
    assert [image.maps for image in found] == [None, files[1]]
    assert [path.name for path in tmp_path.iterdir()] == ["good.npy"]


def test_a_head_without_attention_writes_occlusion_as_of_the_cache(
    tiny_cache: Path, tiny_runs: Path, tmp_path: Path
) -> None:
    cache, run = open_cache(tiny_cache), read_run(tiny_runs / "tiny" / "plain" / "split-1")
    rows = cache.splits["1"]["test"].rows[:3]
    paths = [Path(cache.manifest.source["root"]) / "images" / cache.images[row].name for row in rows]
    files = map_files(tmp_path, paths, paths, occlusion=True)
    found = Predictor.load(run.folder).predict(paths, map_files=files)
    assert [one.maps for one in found] == files
    assert {file.name.removeprefix(path.name) for file, path in zip(files, paths, strict=True)} == {".occlusion.npy"}
    assert found[0].as_json()["occlusion"] == str(files[0])
    assert found[0].as_json()["maps"] is None
    (wanted,) = occlusion_of(cache, run, rows)
    np.testing.assert_allclose([np.load(file) for file in files], wanted, atol=1e-5)
    assert np.abs(wanted).max() > 1e-3
    plain = Predictor.load(run.folder)(paths[0])
    assert plain.occlusion is None  # it was not asked for


def test_of_several_runs_occlusion_is_the_mean(tiny_cache: Path, images: Path, tmp_path: Path) -> None:
    cache, path = open_cache(tiny_cache), sorted(images.glob("*.jpg"))[0]
    for split in ("1", "2"):
        job = TrainingJob(cache, split, TrainSettings(head="ridge"), tmp_path / f"split-{split}", "ridge")
        train(job)
    singles = [Predictor.load(tmp_path / f"split-{split}")(path, occlusion=True).occlusion for split in ("1", "2")]
    np.testing.assert_allclose(
        Predictor.load(tmp_path)(path, occlusion=True).occlusion, np.mean(np.array(singles), axis=0), atol=1e-6
    )


def test_a_head_on_vectors_has_no_maps_and_nothing_is_written(
    tiny_runs: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("head.prediction.predictor.occludes", lambda run: False)
    files = [tmp_path / "maps" / "a.npy"]
    predictor = Predictor.load(tiny_runs / "tiny" / "plain" / "split-1")
    with pytest.raises(InvalidSettings, match="a head without attention, which has no maps; leave --maps out"):
        predictor.predict([next(images.glob("*.jpg"))], map_files=files)
    assert not (tmp_path / "maps").exists()


# the backbone and the head


@pytest.fixture(scope="module")
def weights_run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on features made with a weights file, and that file."""
    home = tmp_path_factory.mktemp("weights")
    own = load_backbone(replace(TINY_EXTRACT, views=replace(TINY_EXTRACT.views, seed=5))).module.state_dict()
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in own.items()}, home / "own.safetensors")
    settings = replace(TINY_EXTRACT, augs=0, weights=str(home / "own.safetensors"))
    extract(open_dataset(str(tiny_dataset)), settings, home / "tiny")
    train(TrainingJob(open_cache(home / "tiny"), "1", replace(TINY_TRAIN, epochs=1), home / "run", "paper"))
    return home / "run", home / "own.safetensors"


def test_weights_are_looked_for_where_extract_found_them_or_where_told(
    weights_run: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    run, weights = weights_run
    path = sorted(images.glob("*.jpg"))[:1]
    shutil.copy(weights, tmp_path / "moved.safetensors")
    found = Predictor.load(run).predict(path)
    assert Predictor.load(run, weights=str(tmp_path / "moved.safetensors")).predict(path) == found


def test_weights_that_are_not_those_of_the_features_are_refused(weights_run: tuple[Path, Path]) -> None:
    with pytest.raises(Mismatch, match=r'weights: "\w{64}" there, "\w{64}" asked for') as caught:
        Predictor.load(weights_run[0], weights="random")
    assert "--weights FILE" in str(caught.value)


def test_weights_that_are_gone_are_named(weights_run: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.safetensors: no such weights file"):
        Predictor.load(weights_run[0], weights=str(tmp_path / "gone.safetensors"))


def test_a_run_that_is_unfinished_damaged_or_not_there_cannot_predict(tiny_runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no run there"):
        Predictor.load(tmp_path)
    folder = tmp_path / "run"
    shutil.copytree(tiny_runs / "tiny" / "paper" / "split-1", folder)
    (folder / "head.safetensors").write_bytes(b"")
    with pytest.raises(CorruptFile, match="missing or damaged"):
        Predictor.load(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["result"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CacheIncomplete, match="has not finished"):
        Predictor.load(folder)


# images that are no files


def test_an_image_may_be_a_file_a_pillow_image_or_an_array(predictor: Predictor, images: Path) -> None:
    path = sorted(images.glob("*.jpg"))[3]
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
        found = [predictor(str(path)), predictor(path), predictor(opened), predictor(pixels)]
    (wanted,) = predictor.predict([path])
    assert [one.score for one in found] == [wanted.score] * 4
    assert float(found[3]) == wanted.score
    assert [one.path for one in found] == [path, path, None, None]
    assert [one.in_training for one in found] == [wanted.in_training, wanted.in_training, None, None]
    assert json.loads(json.dumps(found[3].as_json()))["path"] is None


def test_several_images_are_a_list_in_order_with_their_maps(predictor: Predictor, images: Path) -> None:
    paths = sorted(images.glob("*.jpg"))[:3]
    mixed = [paths[0], np.asarray(Image.open(paths[1]).convert("RGB")), Image.open(paths[2])]
    found = predictor(mixed)
    assert [one.score for one in found] == pytest.approx([one.score for one in predictor.predict(paths)], abs=1e-6)
    for one in found:
        assert one.attention is not None
        assert (one.attention.shape, one.attention.dtype) == ((3, 4, 4), np.float32)
        assert one.attention.sum(axis=(1, 2)) == pytest.approx(1, abs=1e-5)
    assert predictor([]) == []


def test_a_pillow_image_is_turned_and_flattened_as_its_file_would_be(predictor: Predictor, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (40, 60, 4), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        assert predictor(opened).score == predictor(tmp_path / "turned.png").score
    assert predictor(np.asarray(image)).score != predictor(tmp_path / "turned.png").score
    grey = rng.integers(0, 256, (50, 50), np.uint8)
    assert predictor(grey).score == predictor(np.repeat(grey[:, :, None], 3, axis=2)).score


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((3, 20, 20), np.uint8), r"uint8 \(3, 20, 20\)"),
        (np.zeros((20, 20, 3), np.float32), r"float32 \(20, 20, 3\)"),
        (np.zeros(20, np.uint8), r"uint8 \(20,\)"),
    ],
)
def test_an_array_that_is_no_image_is_refused(predictor: Predictor, array: Any, found: str) -> None:
    with pytest.raises(BadInput, match=f"image 0: .* must be uint8 .*, found {found}"):
        predictor(array)


def test_every_image_that_cannot_be_scored_is_listed(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("text")
    good = next(images.glob("*.jpg"))
    with pytest.raises(BadInput) as raised:
        predictor([good, tmp_path / "text.jpg", np.zeros((1, 500, 3), np.uint8), np.zeros((9, 9))])
    assert str(raised.value).splitlines()[1:4] == [
        f"  {tmp_path / 'text.jpg'}: unidentified: not one of JPEG, PNG, WEBP, BMP, GIF, TIFF, AVIF, HEIC",
        "  image 2: degenerate: 500 x 1 pixels",
        "  image 3: an image's array must be uint8 (H, W, 3), (H, W, 4) or (H, W), found float64 (9, 9); channels go "
        "last, floats have to be scaled to 0 to 255",
    ]
    with pytest.raises(BadInput, match=r"gone\.jpg: unreadable"):
        predictor(tmp_path / "gone.jpg")
    with pytest.raises(BadInput, match="torn: unidentified"):
        float(Prediction(Path("torn"), problem="unidentified"))


def test_nothing_is_printed(predictor: Predictor, images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    predictor(list(images.glob("*.jpg")))
    assert capfd.readouterr() == ("", "")


def test_a_single_image_is_no_stream_of_images(predictor: Predictor) -> None:
    with pytest.raises(InvalidSettings, match="stream takes several images"):
        list(predictor.stream("photos"))


def test_a_name_that_no_file_has_is_a_bad_image(predictor: Predictor) -> None:
    with pytest.raises(BadInput, match="unreadable: .*embedded null"):
        predictor("a\0b")
