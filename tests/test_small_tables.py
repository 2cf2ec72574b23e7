"""Tables as small as people have: from extract to the table of scores without a dead end, or one true refusal first."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from tests.helpers.command_line import amnet

WEIGHTS = "in/w.safetensors"
QUICK = ("--backbone", "timm:test_resnet", "--weights", WEIGHTS, "--image-size", "64", "--precision", "fp32")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 small pictures, each another, and weights, with which pictures that look alike are looked for."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    for k in range(60):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((80, 64), Image.Resampling.BICUBIC).save(folder / f"{k}.jpg")
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), folder / Path(WEIGHTS).name)
    return folder


def write_table(folder: Path, seed: int) -> bool:
    """Write mine.csv of 12 to 60 images rated 1 to 5, yes or no, or with ties; return whether scores differ.

    In every other table some images are copies of others, of the same bytes or encoded anew.
    """
    rng = np.random.default_rng(seed)
    n = int(rng.integers(12, 61))
    share = rng.uniform(0.02, 0.5)
    kind = seed % 4
    scores = (
        rng.integers(1, 6, n), (rng.uniform(size=n) < share).astype(int), np.round(rng.normal(3, 1, n), 1),
        np.full(n, 3) + (np.arange(n) == 0) * int(rng.integers(0, 2)),
    )[kind]  # fmt: skip
    with (folder / "mine.csv").open("w", newline="") as file:
        table = csv.writer(file)
        groups = rng.integers(0, max(3, n // 4), n)
        table.writerow(["path", "score", *(["group"] if seed % 3 == 0 else [])])
        table.writerows(
            [f"{k}.jpg", scores[k], *([f"g{groups[k]}"] if seed % 3 == 0 else [])] for k in rng.permutation(n)
        )
    for copy, of in rng.permutation(n)[: n // 4 * 2].reshape(-1, 2).tolist() if seed % 2 else []:
        if rng.integers(2):
            shutil.copy(folder / f"{of}.jpg", folder / f"{copy}.jpg")
        else:
            with Image.open(folder / f"{of}.jpg") as picture:
                picture.save(folder / f"{copy}.jpg", quality=60)
    return len(set(scores.tolist())) > 1


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 200))])
def test_a_small_table_goes_all_the_way_or_is_refused_at_extract(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    shutil.copytree(photos, tmp_path / "in")
    differ = write_table(tmp_path / "in", seed)
    monkeypatch.chdir(tmp_path)
    extract = ("extract", "--dataset", "in/mine.csv", *QUICK)
    if not differ:
        assert "needs different scores" in amnet(*extract, status=3).stderr
        assert not Path("cache").exists()
        return
    assert re.search(r"\d splits? (was|were) drawn, stratified by score", amnet(*extract).stderr)
    amnet("train-head", "--split", "all", "--head", "ridge")
    assert "mean over splits" in amnet("score-cache").stdout
