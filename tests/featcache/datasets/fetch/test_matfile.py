"""Arrays come out of MATLAB files as scipy, which wrote them, reads them; damage is an error and nothing worse."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from featcache.base.errors import CorruptFile
from featcache.datasets.fetch.matfile import read_array

KINDS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
MOST = 1 << 20


def saved(folder: Path, *, compress: bool = True, **values: object) -> Path:
    """Return a MATLAB file with these variables."""
    savemat(folder / "x.mat", values, do_compression=compress)
    return folder / "x.mat"


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 7, 3, 11), (0, 3), (1, 4)])
def test_an_array_is_what_was_written(tmp_path: Path, kind: str, shape: tuple[int, ...], compress: bool) -> None:
    values = np.random.default_rng(5).integers(0, 120, shape).astype(kind)
    path = saved(tmp_path, compress=compress, first=np.ones((3, 3)), x=values, last="text")
    found = read_array(path, "x", most=MOST)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)
    assert np.array_equal(found, loadmat(path)["x"])


def test_doubles_that_matlab_stores_as_bytes_are_doubles(tmp_path: Path) -> None:
    path = saved(tmp_path, compress=False, x=np.arange(8.0).reshape(1, 8))
    data = path.read_bytes()
    tag = data.rindex(struct.pack("<II", 9, 64))
    packed = data[:tag] + struct.pack("<II", 2, 8) + bytes(range(8))
    path.write_bytes(packed[:132] + struct.pack("<I", len(packed) - 136) + packed[136:])
    found = read_array(path, "x", most=MOST)
    assert found.dtype == np.float64
    assert found.tolist() == [list(range(8))]


def test_more_than_allowed_is_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path, x=np.zeros((1000, 1000)))
    with pytest.raises(CorruptFile, match=r"more than 7,999,999 bytes, of shape \(1000, 1000\)"):
        read_array(path, "x", most=7_999_999)
    assert read_array(path, "x", most=8_000_000).shape == (1000, 1000)


@pytest.mark.parametrize(
    "value", ["text", np.array([["a"]], dtype=object), {"field": 1.0}, np.ones((2, 2)) * 1j], ids=str
)
def test_what_is_no_array_of_real_numbers_is_told(tmp_path: Path, value: object) -> None:
    with pytest.raises(CorruptFile, match="holds something else under this name; expected x"):
        read_array(saved(tmp_path, x=value), "x", most=MOST)


def test_a_name_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="holds no y"):
        read_array(saved(tmp_path, x=np.ones(3)), "y", most=MOST)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a MATLAB file of level 5"),
        (bytes(500), "not a MATLAB file of level 5"),
        (b"MATLAB 7.3 MAT-file" + bytes(500), "level 7.3, expected level 5"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "level 7.3, expected level 5"),
    ],
)
def test_another_file_is_told(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.mat").write_bytes(data)
    with pytest.raises(CorruptFile, match=message):
        read_array(tmp_path / "x.mat", "x", most=MOST)


@pytest.mark.parametrize("compress", [True, False])
def test_a_file_cut_anywhere_is_told(tmp_path: Path, compress: bool) -> None:
    path = saved(tmp_path, compress=compress, x=np.random.default_rng(1).random((20, 20)))
    whole = path.read_bytes()
    for size in range(0, len(whole) - 8, 61):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptFile):
            read_array(path, "x", most=MOST)


def test_damage_anywhere_is_told_or_does_not_matter(tmp_path: Path) -> None:
    rng = random.Random(17)
    sources = []
    for compress in (True, False):
        path = saved(tmp_path, compress=compress, y=np.ones((2, 2)), x=np.random.default_rng(1).random((9, 7)))
        sources.append(path.read_bytes())
    outcomes = set()
    for _ in range(800):
        damaged = bytearray(rng.choice(sources))
        for _ in range(rng.choice([1, 1, 3])):
            damaged[rng.randrange(120, 240)] = rng.choice([0, 255, rng.randrange(256)])
        path.write_bytes(damaged)
        try:
            outcomes.add(read_array(path, "x", most=MOST).size <= MOST)
        except CorruptFile:
            outcomes.add("CorruptFile")
    assert outcomes == {True, "CorruptFile"}
