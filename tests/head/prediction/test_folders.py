"""Which files of a folder are scored, and that all others are named with the reason."""

import os
from pathlib import Path

import pytest
from PIL import Image

from featcache.base.errors import InvalidSettings
from head.prediction.folders import Folder, find_images


def image(path: Path, kind: str = "JPEG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), "teal").save(path, kind)
    return path


def look_into(folder: Path) -> Folder:
    (found,) = find_images([folder]).folders
    return found


def test_files_and_folders_are_listed_in_order_of_argument_and_path(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/1.PNG", "b/deep/0.webp", "b/notes.txt", "b/3.tiff", "a.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "folder.jpg").mkdir()
    found = find_images([tmp_path / "b", tmp_path / "a.dat", tmp_path / "b" / "2.jpg"]).paths
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "b/1.PNG",
        "b/2.jpg",
        "b/3.tiff",
        "b/deep/0.webp",
        "a.dat",  # named on its own, so whatever its suffix
        "b/2.jpg",
    ]


def test_every_argument_that_is_not_there_or_holds_no_image_is_listed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").touch()
    with pytest.raises(InvalidSettings) as caught:
        find_images([tmp_path / name for name in ("gone.jpg", "a.jpg", "empty", "also gone", "texts")])
    for part in (f"{tmp_path / 'gone.jpg'} does not exist", f"{tmp_path / 'also gone'} does not exist"):
        assert part in str(caught.value)
    assert f"{tmp_path / 'empty'} holds no .jpg, " in str(caught.value)
    assert "files; 1 left out: 1 not an image by its name or content (notes.txt)" in str(caught.value)


def test_all_that_is_in_a_folder_is_either_an_image_or_left_out_for_a_reason(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    named = [image(photos / name) for name in ("a.jpg", "deep/b.JPEG", "photo", "old.jpg.bak", "scan.dat")]
    named += [image(photos / "c.avif", "AVIF")]
    (photos / "d.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (photos / "gone").symlink_to("nowhere")
    image(tmp_path / "elsewhere" / "x.jpg")
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(photos / "pipe.jpg")
    left_out = {
        "._a.jpg": "macOS companion",
        ".DS_Store": "macOS companion",
        "__MACOSX/deep/c.jpg": "macOS companion",
        "deep/Thumbs.db": "Windows companion",
        "desktop.ini": "Windows companion",
        "@eaDir/a.jpg/thumbnail.jpg": "Synology companion",
        ".hidden.jpg": "hidden",
        ".cache/x.png": "hidden",
        "link": "link to a folder",
        "pipe.jpg": "not a regular file",
        "raw.NEF": "camera's raw file",
        "notes.txt": "not an image by its name or content",
        "README": "not an image by its name or content",
    }
    for name, reason in left_out.items():
        if reason == "hidden" or "companion" in reason:
            image(photos / name, "PNG")
    image(photos / "raw.NEF", "TIFF")
    (photos / "notes.txt").write_text("GIF is a format\n")
    (photos / "README").write_text("Read me.\n")
    found = look_into(photos)
    assert found.images == sorted([*named, photos / "d.heic", photos / "gone"])
    assert {path.relative_to(photos).as_posix(): reason for path, reason in found.left_out} == left_out
    assert found.found == len(found.images) + len(left_out) == 21


def test_a_name_tells_nothing_of_an_argument(tmp_path: Path) -> None:
    home = tmp_path / ".hidden" / "__MACOSX"
    paths = [image(home / "a.jpg"), image(home / ".b.jpg")]
    assert look_into(home).images == paths[:1]
    assert find_images([paths[1]]).paths == paths[1:]


def test_left_out_files_are_told_by_reason_with_the_first_names(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    for k in range(7):
        (tmp_path / f"{k}.txt").touch()
    (tmp_path / "._\x1b.jpg").touch()
    found = look_into(tmp_path)
    assert found.describe_left_out() == (
        "8 left out: 1 macOS companion (._\\x1b.jpg), "
        "7 not an image by its name or content (0.txt, 1.txt, 2.txt and 4 more)"
    )
    assert "5.txt, 6.txt)" in found.describe_left_out(every=True)
    assert found.reasons() == {"macOS companion": 1, "not an image by its name or content": 7}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_listed_as_an_image_is(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    (tmp_path / "closed").mkdir(mode=0)
    assert look_into(tmp_path).images == [tmp_path / "a.jpg", tmp_path / "closed"]
