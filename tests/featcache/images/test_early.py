"""What is begun early is what would be computed later, is given once, and is dropped where nobody came to it."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache.images.early
from featcache.images.early import EarlyImages
from featcache.images.loading import LoadedImage, load_or_absent
from featcache.settings import ViewSettings

HOW, VIEWS = ViewSettings(image_size=32), (0, 3)


@pytest.fixture
def images(tiny_dataset: Path) -> Path:
    return tiny_dataset / "images"


@pytest.fixture
def names(images: Path) -> list[str]:
    return sorted(path.name for path in images.glob("*.jpg"))[:7]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The name of each image that is loaded, and the kind of thread that did it."""
    found: list[tuple[str, str]] = []

    def noting(path: Path, name: str, *args: Any, **kwargs: Any) -> LoadedImage:
        found.append((name, threading.current_thread().name.partition("_")[0]))
        return load_or_absent(path, name, *args, **kwargs)

    monkeypatch.setattr(featcache.images.early, "load_or_absent", noting)
    return found


@pytest.fixture
def early(images: Path) -> Iterator[EarlyImages]:
    with EarlyImages(images) as started:
        yield started


def finish(early: EarlyImages) -> None:
    """Wait until all is done that was begun."""
    early._pool.shutdown(wait=True)


def test_an_image_that_was_begun_is_not_loaded_again(
    early: EarlyImages, images: Path, names: list[str], loads: list[tuple[str, str]]
) -> None:
    early.load(names, VIEWS, HOW, cut=True)
    finish(early)
    for name in names:
        found, expected = (
            early.loaded(name, VIEWS, HOW, cut=True),
            load_or_absent(images / name, name, VIEWS, HOW, cut=True),
        )
        assert (found.row, found.views) == (expected.row, expected.views)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert loads == [(name, "early") for name, _ in sorted(loads)] and len(loads) == len(names)


def test_nothing_is_at_work_on_a_file_once_it_has_ended(
    images: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, begun, ended = threading.Event(), list[str](), list[str]()

    def slowly(path: Path, name: str, *args: Any, **kwargs: Any) -> LoadedImage:
        begun.append(name)
        at_work.set()
        time.sleep(0.2)
        found = load_or_absent(path, name, *args, **kwargs)
        ended.append(name)
        return found

    monkeypatch.setattr(featcache.images.early, "load_or_absent", slowly)
    with pytest.raises(KeyError, match="asked"), EarlyImages(images) as early:
        early.load(names, VIEWS, HOW, cut=True)
        at_work.wait(10)
        raise KeyError("asked")
    assert sorted(ended) == sorted(begun) != []


@pytest.mark.parametrize(
    ("views", "how", "cut"), [((0, 2), HOW, True), (VIEWS, ViewSettings(image_size=33), True), (VIEWS, HOW, False)]
)
def test_what_was_begun_otherwise_is_not_taken(
    early: EarlyImages, names: list[str], loads: list[tuple[str, str]], views: Any, how: ViewSettings, cut: bool
) -> None:
    early.load(names[:1], VIEWS, HOW, cut=True)
    finish(early)
    found = early.loaded(names[0], views, how, cut=cut)
    assert len(found.views) == views[1]
    assert found.pixels.shape[1:3] == ((how.image_size,) * 2 if cut else (0, 0))
    assert [thread for _, thread in loads] == ["early", "MainThread"]


def test_what_nobody_has_begun_with_is_done_by_who_asks(
    images: Path, names: list[str], loads: list[tuple[str, str]]
) -> None:
    held = threading.Event()
    with EarlyImages(images) as early:
        for _ in range(early._pool._max_workers):
            early._pool.submit(held.wait)
        early.load(names[:2], VIEWS, HOW, cut=True)
        early.hash(names[:1])
        assert early.loaded(names[1], VIEWS, HOW, cut=True).row.name == names[1]
        assert early.digest(names[0]) == hashlib.sha256((images / names[0]).read_bytes()).hexdigest()
        assert loads == [(names[1], "MainThread")]
        held.set()


def test_no_more_images_wait_than_memory_is_meant_for_them(
    early: EarlyImages, names: list[str], loads: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(featcache.images.early, "EARLY_BYTES", 2 * 3 * 32 * 32 * 3 + 1)
    early.load(names, VIEWS, HOW, cut=True)
    finish(early)
    assert sorted(name for name, _ in loads) == names[:2]


def test_a_bad_image_is_absent_with_the_reason_and_has_a_digest_or_a_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with EarlyImages(tmp_path) as early:
        early.load(["bad.jpg"], VIEWS, HOW, cut=True)
        early.hash(["bad.jpg", "gone.jpg"])
        assert early.loaded("bad.jpg", VIEWS, HOW, cut=True).row.absent.startswith("unidentified")
        assert early.digest("bad.jpg") == hashlib.sha256(b"no image").hexdigest()
        assert early.digest("gone.jpg") == "not there, or not a file"
