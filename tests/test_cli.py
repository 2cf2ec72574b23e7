"""The command line: exit status, what goes to stdout and what to stderr, and what is stored."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from cli import main
from featcache.base.lock import writer_lock
from featcache.images.decode import decoders
from tests.helpers.command_line import amnet, told
from tests.helpers.processes import COMMAND_LINE, Forked, run_forked
from tests.helpers.tiny import ROOT

EXTRACT = ["extract", "--backbone", "resnet18", "--weights", "random", "--image-size", "64"]
TRAIN = ["train-head", "--name", "paper", "--hidden-size", "16", "--epochs", "3", "--batch-size", "8", "--lr", "0.01"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with cache/tiny and trained runs of both splits."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(tiny_cache, folder / "cache" / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        amnet(*TRAIN, "--split", "all")
        yield folder


def test_the_papers_table_tells_of_images_that_were_left_out_and_of_columns_that_were_not_read(
    here: Path, tiny_dataset: Path
) -> None:
    shutil.copytree(tiny_dataset / "images", here / "images")
    names = sorted(path.name for path in (here / "images").iterdir() if path.is_file())
    parts = ("train", "train", "val", "test")
    lines = [f"images/{name},{k % 7 / 7},{k % 5 / 5},{k % 3 / 3},{parts[k % 4]}" for k, name in enumerate(names)]
    (here / "rated.csv").write_text("\n".join(["path,calm,odd,fear,split", *lines]))
    (here / "images" / names[0]).write_bytes(b"no image")
    made = ["--rows", "no-attention", "--backbone", "timm:test_resnet", "--weights", "random", "--augs", "0"]
    columns = ["--score-column", "calm", "--score-column", "odd"]
    done = amnet("paper-table", "--dataset", "rated.csv", *columns, *made, status=3)
    assert f"images/{names[0]}: " in done.stderr
    assert f"{len(names)} images: {len(names) - 1} extracted, 1 left out" in done.stderr
    assert "columns, ignored: fear" in done.stderr
    assert "rho on rated, calm" in done.stdout
    assert "rho on rated, odd" in done.stdout
    assert "test part, 1 split, seed 0" in done.stdout


def test_the_whole_way_from_images_to_a_table(here: Path, tiny_dataset: Path) -> None:
    done = amnet(*EXTRACT, "--dataset", tiny_dataset, "--augs", "1")
    assert done.stdout.startswith("cache/tiny: 41 images x 2 views, 0.00 GB, 82 views computed now; fingerprint ")
    assert "extract: 82 of 82 views" in done.stderr
    trained = amnet(*TRAIN, "--split", "2")
    assert trained.stdout.startswith("runs/tiny/paper/split-2: rho ")
    assert "on the val part; lowest MSE " in trained.stdout
    table = amnet("score-cache").stdout.splitlines()
    assert table[0].split() == [
        "run",
        "split",
        "rho",
        "95%",
        "interval",
        "MSE",
        "n",
        "pred.",
        "sd",
        "pred.",
        "range",
        "chosen",
    ]
    assert table[1].split()[:2] == ["paper", "2"]
    assert " ".join(table[3].split()) == "mean over splits val rho test rho 95% interval seed sd MSE splits seeds"
    assert table[4].split()[0] == "paper"
    assert table[5].startswith("test part, eval views; 95%: Fisher's z, t over splits")
    assert table[6] == "chosen on the val part"
    assert table[7].startswith("11 images of a split tell rho to about +-")
    assert table[8] == ""
    assert table[9].startswith("the best, fitted to all images: amnet train-head --cache ")
    assert table[10:] == ["best by validation: amnet predict --run runs/tiny/paper/split-2 IMAGES/"]
    assert sorted(path.name for path in (here / "runs/tiny/paper/split-2").iterdir()) == [
        "config.json", "head.safetensors", "history.csv", "lock", "other_ratings.safetensors",
        "predictions.csv", "scores.json",
    ]  # fmt: skip


def test_every_command_prints_one_json_document(trained: Path, tiny_dataset: Path) -> None:
    run = trained / "runs/tiny/paper/split-1"
    documents: dict[str, Any] = {
        "train": json.loads(amnet(*TRAIN, "--split", "all", "--json").stdout),
        "score": json.loads(amnet("score-cache", "--json").stdout),
        "info": json.loads(amnet("cache-info", "--json").stdout),
        "predict": json.loads(amnet("predict", "--head", run, tiny_dataset / "images" / "00.jpg", "--json").stdout),
        "forecast": json.loads(amnet(*EXTRACT, "--dataset", tiny_dataset, "--dry-run", "--json").stdout),
        "extract": json.loads(amnet(*EXTRACT, "--dataset", tiny_dataset, "--augs", "2", "--json").stdout),
    }
    assert documents["info"]["versions"].items() >= decoders().items()
    assert [run["split"] for run in documents["train"]] == ["1", "2"]
    assert [run["n"] for run in documents["score"]["runs"]] == [11, 11]
    assert documents["score"]["summary"][0]["splits"] == 2
    layer = documents["info"]["layers"]["layer3"]
    assert [layer[key] for key in ("positions", "height", "width", "channels")] == [16, 4, 4, 256]
    assert (layer["raw_bytes"], layer["codecs"], layer["pooled_bytes"]) == (
        41 * 3 * 16 * 256 * 2,
        ["zstd 1, shuffled"],
        0,
    )
    assert documents["info"]["splits"]["2"] == {"train": 23, "val": 7, "test": 11}
    assert documents["predict"][0]["path"].endswith("00.jpg")
    assert documents["forecast"]["raw_bytes"] == 41 * 3 * 16 * 256 * 2  # the cache has 3 views
    assert (documents["extract"]["views_computed"], documents["extract"]["absent"]) == (0, [])


def test_a_dry_run_writes_nothing_and_says_what_is_there_already(
    here: Path, tiny_dataset: Path, tiny_cache: Path
) -> None:
    found = amnet(*EXTRACT, "--dataset", tiny_dataset, "--augs", "10", "--dry-run").stdout
    assert "images  41\n" in found
    assert "views   451: 11 per image\n" in found
    assert f"bytes   {451 * 8192:,} raw" in found
    assert "views/s, timed here just now" in found
    assert not list(here.iterdir())
    shutil.copytree(tiny_cache, here / "cache" / "tiny")
    assert "(123 are there already)" in amnet(*EXTRACT, "--dataset", tiny_dataset, "--augs", "10", "--dry-run").stdout


def test_a_dry_run_of_training_writes_nothing_and_says_what_it_takes(here: Path, tiny_cache: Path) -> None:
    asked = [*TRAIN, "--cache", tiny_cache, "--split", "all", "--head", "amnet,ridge", "--dry-run"]
    found = amnet(*asked).stdout
    assert found.startswith("paper,head=amnet: 2 runs\nweights  ")
    assert "images/s, timed here just now on 3 batches of 8 (cpu)\n" in found
    assert "one after another, each of at most 3 epochs\n\npaper,head=ridge: 2 runs\nreads    46 vectors" in found
    paper, ridge = json.loads(amnet(*asked, "--json").stdout)
    assert (paper["runs"], paper["trained"], ridge["candidates"]) == (2, paper["parameters"], 13)
    assert "has no split 9" in amnet(*TRAIN, "--cache", tiny_cache, "--split", "9", "--dry-run", status=2).stderr
    assert not list(here.iterdir())


def test_cache_info_of_a_finished_and_of_an_unfinished_cache(here: Path, tiny_cache: Path) -> None:
    shutil.copytree(tiny_cache, here / "cache" / "tiny")
    text = amnet("cache-info").stdout
    assert text.startswith("cache/tiny: 41 images x 3 views, complete\n")
    assert "layer        layer3: 4x4x256 (L = 16)" in text
    assert "split 1      train 23, val 7, test 11" in text
    (here / "cache" / "tiny" / "manifest.json").unlink()
    assert "not complete, 41 images so far; run the same extract command again" in amnet("cache-info").stdout


def test_predict_gives_the_numbers_of_score_cache(trained: Path, tiny_dataset: Path) -> None:
    amnet("score-cache")
    run = trained / "runs/tiny/paper/split-1"
    scored = dict(line.split(",")[::2][:2] for line in (run / "predictions.csv").read_text().splitlines()[1:])
    amnet("predict", "--head", run, tiny_dataset / "images", "--csv", trained / "all.csv")
    lines = (trained / "all.csv").read_text().splitlines()
    assert lines[0] == "path,score,m_1,m_2,m_3,in_training,outside_range,problem"
    assert len(lines) == 42
    found = {
        str(Path(line.split(",")[0]).relative_to(tiny_dataset / "images")): line.split(",")[1] for line in lines[1:]
    }
    assert {name: found[name] for name in scored} == scored


def test_a_bad_image_ends_extract_with_status_3_and_is_listed(here: Path, tiny_dataset: Path) -> None:
    shutil.copytree(tiny_dataset, here / "own")
    (here / "own" / "images" / "07.jpg").write_bytes(b"<html>")
    done = amnet(*EXTRACT, "--dataset", "own", status=3)
    assert "1 images were left out:\n  07.jpg: unidentified: not one of JPEG, PNG" in done.stderr
    assert "cache/own/failures.csv; mend them and run the same command again" in done.stderr
    assert "cache/own: 41 images x 1 views" in done.stdout
    assert "41 images: 40 extracted, 1 left out: 1 unidentified\n" in done.stderr
    assert "images without features were left out" in amnet(*TRAIN, "--split", "all").stderr
    assert "images of a part have no features and were left out" in amnet("score-cache").stdout
    assert "07.jpg: unidentified" in amnet("cache-info").stdout


def test_a_bad_image_ends_predict_with_status_3_and_the_others_are_scored(trained: Path, tiny_dataset: Path) -> None:
    (trained / "bad.jpg").write_bytes(b"")
    run = trained / "runs/tiny/paper/split-1"
    done = amnet("predict", "--head", run, "bad.jpg", tiny_dataset / "images" / "00.jpg", status=3)
    assert "unidentified: the file is empty" in done.stdout
    assert "1 of 2 images could not be read" in done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_predict_says_which_file_of_a_table_is_broken_and_where_the_table_went(
    trained: Path, tiny_dataset: Path
) -> None:
    shutil.copytree(tiny_dataset / "images" / "sub", trained / "some")
    (trained / "some" / "broken.jpg").write_bytes(b"<html>")
    outputs = ("--csv", "some.csv", "--maps", "some-maps")
    error = amnet("predict", "--head", "runs/tiny/paper/split-1", "some", *outputs, status=3).stderr
    assert "1 of 5 images could not be read:\n  some/broken.jpg: unidentified: not one of JPEG" in error
    assert "some/: 5 files: 4 scored, 1 could not be read (broken.jpg)\n" in error
    assert error.endswith(
        "some.csv: the table, 5 lines, the last column the problem of what was not scored\n"
        "some-maps/: maps of 4 images\n"
    )


def test_predict_accounts_for_every_file_of_a_folder(trained: Path) -> None:
    folder = trained / "photos"
    folder.mkdir()
    picture = Image.new("RGB", (80, 80), "red")
    for name in ("a.jpg", ".hidden.jpg", "photo"):
        picture.save(folder / name, "JPEG")
    picture.save(folder / "b.avif")
    (folder / "._a.jpg").write_bytes(b"\0\5\x16\7")
    (folder / "notes.txt").write_text("not a picture")
    command = ("predict", "--head", "runs/tiny/paper/split-1", "photos", "--json")
    done = amnet(*command)
    assert [item["path"] for item in json.loads(done.stdout)] == ["photos/a.jpg", "photos/b.avif", "photos/photo"]
    told = (
        "3 left out: 1 hidden (.hidden.jpg), 1 macOS companion (._a.jpg), "
        "1 not an image by its name or content (notes.txt)\n"
    )
    assert f"photos/: 6 files: 3 scored, {told}" in done.stderr
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    done = amnet(*command, status=3)
    assert "  photos/gone.jpg: unreadable: No such file or directory\n" in done.stderr
    assert f"photos/: 7 files: 3 scored, 1 could not be read (gone.jpg), {told}" in done.stderr
    assert {item["found_in"]["found"] for item in json.loads(done.stdout)} == {7}


def test_images_to_be_looked_at_are_named_by_extract_and_predict(trained: Path, here: Path) -> None:
    lines = ["path,score,split"]
    for k in range(6):
        name, size = f"{k}.png", (40, 40) if k else (9, 12)
        pixels = np.random.default_rng(k).integers(0, 4096, size[::-1]).astype(np.uint16)
        Image.fromarray(pixels if k < 2 else (pixels >> 4).astype(np.uint8)).save(name)
        lines.append(f"{name},0.{k},{('train', 'val', 'test')[k % 3]}")
    Path("table.csv").write_text("\n".join(lines))
    extracted = amnet(*EXTRACT, "--dataset", "table.csv", "--json")
    predicted = amnet("predict", "--head", trained / "runs/tiny/paper/split-1", "0.png", "1.png", "2.png", "--json")
    for error in (extracted.stderr, predicted.stderr):
        assert (
            "warning: 2 images with data of fewer bits than their 16-bit files have room for: 0.png (no value" in error
        )
        assert "warning: 1 image of fewer than 16 pixels on the shorter side: 0.png (9 x 12 pixels). Views of" in error
    kinds = [[note.partition(":")[0] for note in item["notes"]] for item in json.loads(predicted.stdout)]
    assert kinds == [["few-bits", "small"], ["few-bits"], []]
    notes = json.loads(extracted.stdout)["notes"]
    assert [note["name"] for note in notes] == ["0.png", "0.png", "1.png"]


def test_bad_split_files_end_with_status_3_before_any_work(here: Path, tiny_dataset: Path) -> None:
    shutil.copytree(tiny_dataset, here / "own")
    (here / "own" / "splits" / "val_1.txt").write_text("00.jpg\n../x.jpg 0.5\nnone.jpg 0.5\n")
    error = amnet(*EXTRACT, "--dataset", "own", status=3).stderr
    assert "own/splits/val_1.txt:1: expected `NAME SCORE`, found '00.jpg'" in error
    assert "own/splits/val_1.txt:2: '../x.jpg' leaves the images/ folder" in error
    assert "own/splits/val_1.txt:3: no such image: own/images/none.jpg" in error
    assert not (here / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["extract"], 2, "Missing option '--dataset'"),
        (["extract", "--dataset", "nowhere"], 3, "nowhere: no images/ and no splits/ folder"),
        (["extract", "--dataset", "sun"], 3, "Pass --root DIR, the folder that holds sun's images/ and splits/"),
        (["extract", "--dataset", "x", "--augs", "-1"], 2, "--augs must be 0 to 1000"),
        (["extract", "--dataset", "x", "--crop-scale", "0.9", "0.1"], 2, "--crop-scale must be two numbers"),
        (["train-head", "--split", "1"], 2, "exactly one cache; found none"),
        (["train-head", "--split", "1", "--cache", "gone"], 4, "gone: no cache there; make one with: amnet extract"),
        (["train-head", "--split", "1", "--lr", "nan"], 2, "--lr must be a number from 0 to 10"),
        (["score-cache", "--cache", "gone"], 4, "gone: no cache there"),
        (["cache-info", "--cache", "gone"], 4, "gone: no cache there"),
        (["predict", "--head", "gone", "a.jpg"], 2, "a.jpg does not exist"),
        (["demo", "--images", "1"], 2, "--images must be 60 to 100,000"),
    ],
)
def test_what_cannot_be_is_said_in_one_message(here: Path, arguments: list[str], status: int, message: str) -> None:
    result = amnet(*arguments, status=status)
    assert message in result.stderr
    assert not result.stdout
    assert "Traceback" not in result.stderr


def test_missing_weights_name_the_file_its_digest_and_the_way_out(
    here: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.hub, "_hub_dir", str(here))
    monkeypatch.setattr("featcache.backbones.families.weights.torch.hub.load_state_dict_from_url", _unreachable)
    error = amnet("extract", "--dataset", tiny_dataset, status=3).stderr
    assert "resnet50-0676ba61.pth (its sha256 starts with 0676ba61) cannot be downloaded" in error
    assert f"put it into {here / 'checkpoints'} or pass --weights FILE" in error
    dry = amnet("extract", "--dataset", tiny_dataset, "--image-size", "64", "--dry-run")
    assert "warning: extract itself would stop: the weights resnet50-0676ba61.pth" in dry.stderr
    assert "images  41" in dry.stdout


def _unreachable(*arguments: object, **options: object) -> None:
    raise OSError("no route to host")


def test_another_recipe_ends_with_status_6(trained: Path, tiny_dataset: Path) -> None:
    error = amnet(*EXTRACT, "--dataset", tiny_dataset, "--eval-view", "squash", status=6).stderr
    assert 'eval_view: "center" there, "squash" asked for' in error


def test_the_published_recipe_squashes_unless_told_otherwise(here: Path, tiny_dataset: Path) -> None:
    published = [*EXTRACT, "--dataset", tiny_dataset, "--recipe", "published"]
    amnet(*published)
    assert "64 pixels, squash view, crops of the image squashed to 75x75, seed 0" in amnet("cache-info").stdout
    error = amnet(*EXTRACT, "--dataset", tiny_dataset, status=6).stderr
    assert 'eval_view: "squash" there, "center" asked for' in error
    assert "pre_squash: 75 there, 0 asked for" in error
    assert 'eval_view: "squash" there, "center"' in amnet(*published, "--eval-view", "center", status=6).stderr
    assert "82 views computed now" in amnet(*published, "--augs", "2").stdout
    amnet(*published, "--eval-view", "center", "--out", "central")
    recipe = json.loads(amnet("cache-info", "--cache", "central", "--json").stdout)["recipe"]
    assert (recipe["eval_view"], recipe["pre_squash"]) == ("center", 75)


def test_a_damaged_cache_ends_with_status_5(here: Path, tiny_cache: Path) -> None:
    shutil.copytree(tiny_cache, here / "cache" / "tiny")
    shard = next((here / "cache" / "tiny" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    for position in range(len(data) // 5, 4 * len(data) // 5, 1000):  # whatever views the epochs draw
        data[position] ^= 1
    shard.write_bytes(data)
    assert "do not have their digest" in amnet(*TRAIN, "--split", "all", status=5).stderr


def test_a_held_lock_ends_with_status_7(trained: Path, tiny_dataset: Path) -> None:
    with writer_lock(trained / "cache" / "tiny"):
        error = amnet(*EXTRACT, "--dataset", tiny_dataset, "--augs", "2", status=7).stderr
    assert f"being written by process {os.getpid()}" in error


def test_a_full_disk_ends_with_status_8_and_nothing_is_left_behind(here: Path, tiny_dataset: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); import cli; cli.main()"
    done = run_forked(limit, *EXTRACT, "--dataset", tiny_dataset)
    assert done.returncode == 8, done.stderr
    assert "bytes needed): File too large." in done.stderr
    assert not list((here / "cache" / "tiny" / "shards").iterdir())


def test_an_address_space_too_small_for_the_libraries_ends_with_status_9(tiny_dataset: Path, tmp_path: Path) -> None:
    arguments = ["extract", "--dataset", str(tiny_dataset), "--out", str(tmp_path / "cache"), "--weights", "random"]
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29)); from cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 9, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith(f"extract: {tiny_dataset} with resnet50\nerror: out of memory (lib")
    assert "raise a limit of the address space (ulimit -v)" in ended.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_in_good_order(here: Path, tiny_dataset: Path, number: int, status: int) -> None:
    process = Forked(COMMAND_LINE, *EXTRACT, "--image-size=224", "--augs=100", "--dataset", tiny_dataset)
    while not (here / "cache" / "tiny" / "lock").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=60)
    process.send_signal(number)  # if it has not ended: Python drops an exception that is raised in a finalizer
    _, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    assert "Traceback" not in error
    assert not (here / "cache" / "tiny" / "manifest.json").exists()


def test_train_images_are_refused_and_other_parts_are_scored(trained: Path) -> None:
    error = amnet("score-cache", "--split", "1", "--part", "train", status=3).stderr
    assert "the head was trained on 23 of these 23 images (" in error
    assert "val part" in amnet("score-cache", "--split", "1", "--part", "val").stdout
    assert "all views" in amnet("score-cache", "--split", "1", "--views", "all").stdout


def test_other_settings_in_the_same_place_end_with_status_6(trained: Path) -> None:
    error = amnet(*TRAIN, "--split", "1", "--steps", "2", status=6).stderr
    assert "steps: 3 there, 2 asked for" in error
    assert "--name" in error


def test_a_grid_is_one_table_with_a_summary_and_comparisons(trained: Path) -> None:
    grid = ["--name", "two", "--split", "1,2", "--steps", "1,2", "--seed", "0,1", "--no-attention", "--runs", "grids"]
    amnet(*TRAIN, *grid)
    lines = amnet("score-cache", "--runs", "grids").stdout.splitlines()
    names = [f"two,steps={steps},seed={seed}" for steps in (1, 2) for seed in (0, 1)]
    assert [line.split()[:2] for line in lines[1:9]] == [[name, split] for name in names for split in "12"]
    assert " ".join(lines[10].split()) == "mean over splits val rho test rho 95% interval seed sd MSE splits seeds"
    assert sorted(line.split()[0] for line in lines[11:13]) == ["two,steps=1", "two,steps=2"]
    assert all(line.split()[-2:] == ["2", "2"] for line in lines[11:13])
    assert lines[13].startswith("test part, eval views; 95%: Fisher's z, t over splits")
    assert lines[14] == "chosen on the val part"
    assert lines[16] == ""
    best, other = (line.split()[0] for line in lines[11:13])
    assert " ".join(lines[17].split()) == f"compared with {best} difference 95% interval p Holm p splits seeds"
    assert lines[18].split()[0] == other
    assert lines[19].startswith("paired by split; 95% and p: t over splits")
    assert lines[21].startswith("the best, fitted to all images: amnet train-head --cache ")
    assert lines[22].startswith("best by validation: amnet predict --run ")
    found = json.loads(amnet("score-cache", "--runs", "grids", "--against", other, "--json").stdout)
    assert list(found) == ["runs", "summary", "comparisons", "to_fit_all", "marks", "left_out", "problems"]
    assert [row["name"] for row in found["summary"]] == [best, other]
    ours, theirs = (row["rho_mean"] for row in found["summary"])
    (comparison,) = found["comparisons"]
    assert (comparison["name"], comparison["against"], comparison["splits"], comparison["seeds"]) == (best, other, 2, 2)
    assert comparison["difference"] == pytest.approx(ours - theirs)
    for score in Path("grids").rglob("scores.json"):
        score.unlink()
    error = amnet("score-cache", "--runs", "grids", "--against", f"{other}9", status=2).stderr
    assert f"--against {other}9: no such row; there are two,steps=1, two,steps=2" in error
    assert not list(Path("grids").rglob("scores.json"))


def test_a_head_that_fails_to_load_does_not_hide_the_others(trained: Path) -> None:
    shutil.copytree("runs", "damaged")
    head = Path("damaged/tiny/paper/split-1/head.safetensors")
    head.write_bytes(head.read_bytes()[:-1])
    failed = amnet("score-cache", "--runs", "damaged", status=5)
    assert failed.stdout.splitlines()[1].split()[:2] == ["paper", "2"]
    assert told(failed).startswith("error: damaged/tiny/paper/split-1/head.safetensors: missing or damaged")
    found = json.loads(amnet("score-cache", "--runs", "damaged", "--json", status=5).stdout)
    assert ([run["split"] for run in found["runs"]], len(found["problems"])) == (["2"], 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--head", "ridge", "--steps", "2", "--lr", "1"],
            "--steps, --lr: of no effect on --head ridge; leave them out",
        ),
        (["--pooling", "mean"], "--pooling: of no effect on --head amnet; leave it out"),
        (["--no-attention", "--attention", "on"], "--no-attention is --attention off; leave one out"),
        (["--steps", "2,x"], "'x' is not a valid integer"),
        (["--attention", "on,"], "'on,' has a comma with nothing before or after it"),
        (
            ["--head", "amnet,rigde"],
            "'rigde' is not one of "
            "'amnet', 'ep', 'probe', 'tail', 'memnet', 'memonet', "
            "'linear', 'ridge', 'banded-ridge', 'lsvr', 'svr', 'mlp'",
        ),
        (["--steps", "0,30"], "  --steps must be 1 to 20, found 0\n  --steps must be 1 to 20, found 30\n"),
        (["--layer", "a", "--layer", "layer3"], "has no layer a; it has layer3"),
        (["--layer", "layer3,a"], "has no layer a; it has layer3"),
        (["--layer", "all,layer3"], "--layer all names every layer"),
        (["--layer", "layer3, layer3"], "--layer layer3: named twice"),
        (["--layer", "layer3,"], "Invalid value for '--layer': 'layer3,' has a comma with nothing before or after it"),
        (["--layer", "layer3", "--layer", " "], "Invalid value for '--layer': nothing is named"),
        (["--name", "a/b"], "--name must be letters, digits and"),
    ],
)
def test_options_of_training_that_cannot_be_are_refused_before_any(
    trained: Path, arguments: list[str], message: str
) -> None:
    assert message in amnet("train-head", "--split", "all", "--runs", "refused", *arguments, status=2).stderr
    assert not Path("refused").exists()


def test_runs_are_named_for_what_is_not_the_default(trained: Path) -> None:
    for name, *arguments in (
        ("paper,steps=1,hidden-size=8,epochs=1", "--steps", "1", "--hidden-size", "8", "--epochs", "1"),
        ("paper-no-attention,hidden-size=8,epochs=1", "--no-attention", "--hidden-size", "8", "--epochs", "1"),
        ("ridge,pooling=mean", "--head", "ridge", "--pooling", "mean"),
    ):
        done = amnet("train-head", "--split", "2", "--runs", "named", *arguments)
        assert done.stdout.startswith(f"named/tiny/{name}/split-2: rho ")


def test_the_documented_help_is_the_real_one() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from commands import commands_markdown
    finally:
        sys.path.pop(0)
    written = (ROOT / "docs" / "commands.md").read_text()
    assert written == commands_markdown(), "run: python docs/commands.py > docs/commands.md"


def test_every_command_has_an_example_and_a_json_form() -> None:
    for name, command in main.commands.items():
        assert f"Example: amnet {name}" in (command.help or ""), name
        assert any("--json" in option.opts for option in command.params if isinstance(option, click.Option)), name


def test_the_installed_command_is_the_same(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("amnet")
    if not script.exists():
        pytest.skip("the package is not installed beside this interpreter")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("amnet, version ")


def test_a_picture_in_a_folder_is_found_by_its_suffix(trained: Path) -> None:
    (trained / "mixed").mkdir()
    Image.new("RGB", (80, 80), "red").save(trained / "mixed" / "a.PNG")
    (trained / "mixed" / "notes.txt").write_text("not a picture")
    found = json.loads(amnet("predict", "--head", "runs/tiny/paper/split-2", "mixed", "--json").stdout)
    assert [Path(item["path"]).name for item in found] == ["a.PNG"]


def test_verify_says_what_is_damaged_and_repair_mends_it(here: Path, tiny_cache: Path) -> None:
    shutil.copytree(tiny_cache, "cache/tiny")
    sound = amnet("verify-cache")
    assert sound.stdout.endswith("complete: sound\n")
    (shard,) = Path("cache/tiny/shards").iterdir()
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2] + b"\xff" + whole[len(whole) // 2 + 1 :])
    damaged = amnet("verify-cache", status=5)
    assert "complete: 1 problem\n" in damaged.stdout
    assert f"damaged  shards/{shard.name}: 1 of 41 rows have damaged chunks (rows " in damaged.stdout
    found = json.loads(amnet("verify-cache", "--json", status=5).stdout)
    assert (found["ok"], found["complete"], len(found["problems"][0]["rows"])) == (False, True, 1)
    mended = amnet("verify-cache", "--repair")
    assert f"repaired shards/{shard.name}\n1 rows were computed anew\n" in mended.stdout
    assert shard.read_bytes() == whole
    (Path("cache/tiny") / "notes.txt").write_text("mine")
    assert "warning: notes.txt: not part of the cache" in amnet("verify-cache").stderr


def test_what_cannot_be_repaired_ends_with_status_5_and_an_unfinished_cache_with_4(
    here: Path, tiny_cache: Path
) -> None:
    shutil.copytree(tiny_cache, "cache/tiny")
    (shard,) = Path("cache/tiny/shards").iterdir()
    shard.write_bytes(b"")
    Path("elsewhere").mkdir()
    left = amnet("verify-cache", "--repair", "--root", "elsewhere", status=5)
    assert f"left     shards/{shard.name}: cannot be mended; " in left.stdout
    assert "is not there; name the dataset's folder with --root" in left.stdout
    amnet("verify-cache", "--repair")
    Path("cache/tiny/manifest.json").unlink()
    assert "the cache is not complete; run the same extract or merge-caches" in amnet("verify-cache", status=4).stderr


def test_caches_are_merged_by_name(here: Path, tiny_dataset: Path) -> None:
    for half, keep in (("a", slice(0, 4)), ("b", slice(4, 9))):
        shutil.copytree(tiny_dataset, half)
        for path in Path(half, "splits").iterdir():
            path.write_text("".join(path.read_text().splitlines(keepends=True)[keep]))
        amnet(*EXTRACT, "--dataset", half)
    done = amnet("merge-caches", "cache/all", "cache/a", "cache/b", "--json")
    merged = json.loads(done.stdout)
    parts = [json.loads(amnet("cache-info", "--cache", f"cache/{name}", "--json").stdout) for name in ("a", "b")]
    info = json.loads(amnet("cache-info", "--cache", "cache/all", "--json").stdout)
    assert merged["complete"]
    assert merged["images"] == info["images"] <= sum(part["images"] for part in parts)
    assert info["fingerprint"] == parts[0]["fingerprint"]
    assert "is an input as well" in amnet("merge-caches", "cache/a", "cache/a", "cache/b", status=2).stderr
