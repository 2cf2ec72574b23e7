"""What tests share: one small dataset, the cache of its features, and heads trained on it.

All of it is read-only: copy before changing.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from featcache.datasets.dataset import open_dataset
from featcache.extraction.extract import extract
from featcache.store.cache import FeatureCache, open_cache
from head.evaluation.evaluate import Evaluation, evaluate
from head.settings import TrainSettings
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.stacks import MEAN, PAPER, RIDGE, fit
from tests.helpers.tiny import IMAGES, PART_SIZES, SPLITS, TINY_EXTRACT, TINY_TRAIN

CAPABILITIES = torch.cpu.get_capabilities

torch.set_num_threads(1)  # the sizes are tiny, and two threads wait for each other on a busy machine
threadpool_limits(1, user_api="blas")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("early") is None)


@pytest.fixture(scope="session", autouse=True)
def no_bfloat16() -> Iterator[None]:
    """Let 'auto' be fp32 on every CPU, so that a test means the same everywhere; tests of bf16 ask for it.

    A test whose commands start processes asks for fp32 itself, or takes `real_cpu`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict)
        yield


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep no network that OpenVINO compiled from one test to the next, nor in the user's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache-home")))


@pytest.fixture
def real_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 'auto' be what this CPU has in hardware, as it is in processes that a test starts."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", CAPABILITIES)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the LaMem layout: 41 JPEGs of varied sizes, splits 1 and 2 with train, val and test.

    An image's score is how bright it is (0.1 to 0.9), a little less in split 2, as LaMem's scores differ
    between splits. Every image is in exactly one part of each split; the parts of the two splits overlap.
    """
    folder = tmp_path_factory.mktemp("data") / "tiny"
    (folder / "images" / "sub").mkdir(parents=True)
    (folder / "splits").mkdir()
    rng = np.random.default_rng(20180618)
    names = [f"sub/{i:02d}.jpg" if i % 10 == 3 else f"{i:02d}.jpg" for i in range(IMAGES)]
    scores = rng.permutation(np.linspace(0.1, 0.9, IMAGES))
    for name, score in zip(names, scores, strict=True):
        width, height = (int(side) for side in rng.integers(48, 120, size=2))
        noise = rng.normal(0, 25, size=(height, width, 3))
        tint = rng.normal(0, 10, size=3)
        pixels = np.clip(20 + 215 * score + noise + tint, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name, "JPEG", quality=90)
    for number, split in enumerate(SPLITS):
        order = rng.permutation(IMAGES)
        start = 0
        for part, size in PART_SIZES.items():
            lines = [f"{names[i]} {scores[i] - 0.02 * number:.6f}\n" for i in order[start : start + size]]
            (folder / "splits" / f"{part}_{split}.txt").write_text("".join(lines))
            start += size
    return folder


@pytest.fixture(scope="session")
def tiny_cache(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sealed cache of `tiny_dataset`: 41 images x 3 views of layer3, 4x4x256, of an untrained ResNet18."""
    out = tmp_path_factory.mktemp("cache") / "tiny"
    extract(open_dataset(str(tiny_dataset)), TINY_EXTRACT, out)
    return out


@pytest.fixture(scope="session")
def torn_dataset(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_dataset` with the first image of train_1 and of test_1 cut in half."""
    folder = tmp_path_factory.mktemp("data") / "torn"
    shutil.copytree(tiny_dataset, folder)
    for part in ("train", "test"):
        name = (folder / "splits" / f"{part}_1.txt").read_text().split()[0]
        whole = (folder / "images" / name).read_bytes()
        (folder / "images" / name).write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="session")
def torn_cache(torn_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sealed cache of `torn_dataset`, of the same recipe as `tiny_cache`; two rows are absent."""
    out = tmp_path_factory.mktemp("cache") / "torn"
    extract(open_dataset(str(torn_dataset)), TINY_EXTRACT, out)
    return out


@pytest.fixture(scope="session")
def tiny_runs(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of runs on `tiny_cache`: tiny/paper/split-1, tiny/paper/split-2, tiny/plain/split-1 (no attention)."""
    home = tmp_path_factory.mktemp("runs")
    cache = open_cache(tiny_cache)
    plain = TrainSettings(**{**TINY_TRAIN.as_json(), "attention": False})
    for name, settings, split in (("paper", TINY_TRAIN, "1"), ("paper", TINY_TRAIN, "2"), ("plain", plain, "1")):
        train(TrainingJob(cache, split, settings, home / cache.name / name / f"split-{split}", name))
    return home


@pytest.fixture(scope="session")
def member_runs(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of runs of `MEMBERS` on both splits of `tiny_cache`, to be copied before anything is added."""
    home, cache = tmp_path_factory.mktemp("members"), open_cache(tiny_cache)
    for settings in (RIDGE, MEAN, PAPER):
        for split in SPLITS:
            fit(cache, home, settings, split)
    return home


@pytest.fixture(scope="module")
def cache(tiny_cache: Path) -> FeatureCache:
    return open_cache(tiny_cache)


@pytest.fixture(scope="module")
def runs(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `tiny_runs`, which scoring writes into."""
    return Path(shutil.copytree(tiny_runs, tmp_path_factory.mktemp("scored") / "runs"))


@pytest.fixture(scope="module")
def evaluation(cache: FeatureCache, runs: Path) -> Evaluation:
    """The scores of `runs` on `cache`."""
    return evaluate(cache, runs)


@pytest.fixture(scope="session")
def layered_cache(torn_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of `torn_dataset`: two layers, 8x8x128 and 4x4x256, as uint8, no augmented views, two images absent."""
    out = tmp_path_factory.mktemp("cache") / "layered"
    settings = replace(TINY_EXTRACT, augs=0, layers=("layer2", "layer3"), encoding="uint8")
    extract(open_dataset(str(torn_dataset)), settings, out)
    return out
