"""Attention maps go into files of their own, which never meet and never leave the folder."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.base.errors import InvalidSettings
from head.prediction.map_files import map_files, write_maps

OUT = Path("/elsewhere/maps")  # in no folder of images
NAMES = st.text(st.sampled_from("aAé.1-"), min_size=1, max_size=4).filter(lambda name: name.strip("."))


def names(paths: list[str], arguments: list[str]) -> list[str]:
    found = map_files(OUT, [Path(path) for path in paths], [Path(argument) for argument in arguments])
    return [file.relative_to(OUT).as_posix() for file in found]


def test_files_have_the_images_paths_below_the_folder_they_were_found_in() -> None:
    paths = ["photos/a.jpg", "photos/sub/a.jpg", "elsewhere/b.png"]
    assert names(paths, ["photos", "elsewhere/b.png"]) == ["a.jpg.npy", "sub/a.jpg.npy", "b.png.npy"]
    assert names(["a.jpg", "sub/a.jpg"], ["."]) == ["a.jpg.npy", "sub/a.jpg.npy"]
    assert names(["/x/a.jpg", "../y/z/a.jpg"], ["/x", "../y"]) == ["a.jpg.npy", "z/a.jpg.npy"]


def test_names_that_would_meet_are_numbered() -> None:
    assert names(["x/a.jpg", "y/a.jpg", "x/a.jpg"], ["x", "y", "x/a.jpg"]) == [
        "a.jpg.npy",
        "a.jpg-2.npy",
        "a.jpg-3.npy",
    ]
    assert names(["x/A.jpg", "x/a.jpg"], ["x"]) == ["A.jpg.npy", "a.jpg-2.npy"]  # one file on some file systems
    assert names(["x/a.jpg", "x/a.jpg.npy/b.jpg"], ["x"]) == ["a.jpg.npy", "b.jpg-2.npy"]  # a file and a folder
    assert names(["x/a.jpg.npy/b.jpg", "x/a.jpg"], ["x"]) == ["a.jpg.npy/b.jpg.npy", "a.jpg-2.npy"]


def test_a_number_keeps_the_folder() -> None:
    paths = ["a/s/x.jpg", "b/s/x.jpg", "b/s/x.jpg-2", "c/s/x.jpg"]
    found = names(paths, ["a", "b", "c"])
    assert found == ["s/x.jpg.npy", "s/x.jpg-2.npy", "s/x.jpg-2-2.npy", "s/x.jpg-3.npy"]


def test_many_images_take_time_in_proportion() -> None:
    folders = [f"{k}" for k in range(3000)]
    started = time.perf_counter()
    found = names([f"{folder}/s/{folder}.jpg" for folder in folders], folders)
    same = names([f"{folder}/s/x.jpg" for folder in folders], folders)
    assert time.perf_counter() - started < 20  # 1 s; two minutes and more if each looked at all before it
    assert (found[-1], same[-1]) == ("s/2999.jpg.npy", "s/x.jpg-3000.npy")


def test_maps_never_take_the_place_of_an_image(tmp_path: Path) -> None:
    def refused(folder: str, *arguments: str) -> str:
        given = [tmp_path / argument for argument in arguments]
        paths = [path for one in given for path in (sorted(one.iterdir()) if one.is_dir() else [one])]
        try:
            map_files(tmp_path / folder, paths, given)
        except InvalidSettings as error:
            return str(error)
        return ""

    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "a.jpg.png", "b.npy"):
        (tmp_path / "photos" / name).touch()
    assert "would replace an image; give another folder" in refused("photos", "photos")
    assert "would replace an image" in refused("photos", "photos/a.jpg", "photos/a.jpg.png")
    assert "would replace an image" in refused("photos/../photos", "photos")
    (tmp_path / "photos" / "a.jpg.png").unlink()
    assert "would be scored with" in refused("photos/maps", "photos")
    assert "the next time; give another" in refused("photos", "photos")
    assert not refused("photos", "photos/a.jpg")
    assert not refused("maps", "photos")


def test_nothing_leaves_the_folder() -> None:
    assert names(["../secret/a.jpg"], [".", "../secret/a.jpg"]) == ["a.jpg.npy"]
    assert names(["x/../../a.jpg"], ["x"]) == ["a.jpg.npy"]
    assert names(["/etc/a.jpg"], ["/etc/a.jpg"]) == ["a.jpg.npy"]


def test_long_names_are_cut_and_stay_different(tmp_path: Path) -> None:
    paths = [f"x/{'é' * 120}{end}.jpg" for end in "ab"]
    found = map_files(tmp_path, [Path(path) for path in paths], [Path("x")])
    for file in found:
        write_maps(file, np.zeros((1, 1, 1), np.float32))
    assert len({file.name for file in found}) == len(list(tmp_path.iterdir())) == 2


@given(st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=3), st.integers(0, 3)), max_size=8))
def test_no_two_images_share_a_file_nor_a_file_and_a_folder(found: list[tuple[list[str], int]]) -> None:
    paths = ["/".join(["root", *parts]) for parts, _ in found]
    arguments = ["root", *("/".join(["root", *parts][:depth]) for parts, depth in found if depth)]
    files = names(paths, arguments)
    assert len({file.casefold() for file in files}) == len(files)
    folders = {str(parent).casefold() for file in files for parent in Path(file).parents}
    assert not folders & {file.casefold() for file in files}
    assert not any(".." in Path(file).parts or Path(file).is_absolute() for file in files)


def test_a_map_is_written_as_float32_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 5, 3).transpose(0, 2, 1)
    write_maps(tmp_path / "sub" / "a.npy", maps)
    read = np.load(tmp_path / "sub" / "a.npy", allow_pickle=False)
    np.testing.assert_array_equal(read, maps)
    assert read.dtype == np.float32

    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_maps(tmp_path / "sub" / "a.npy", maps + 1)
    np.testing.assert_array_equal(np.load(tmp_path / "sub" / "a.npy"), maps)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.npy"]
