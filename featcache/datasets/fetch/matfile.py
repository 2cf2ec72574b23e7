"""Arrays of numbers out of MATLAB's level 5 files ("MAT-File Format", MathWorks), from strangers.

scipy.io.loadmat is not for these: single changed bytes made it end the process with a bus error. Here no more is read
at once than was allowed, and every size that the file states is checked.
"""

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from featcache.base.errors import CorruptFile, printable
from featcache.base.files import reading_errors

_MATRIX, _COMPRESSED, _NAME, _DIMENSIONS, _FLAGS = 14, 15, 1, 5, 6
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x0800
_MOST_DIMENSIONS = 8
_HEADERS = 1 << 10  # bytes that hold what stands before the numbers of an array
_PIECE = 1 << 20


def read_array(path: Path, name: str, *, most: int) -> NDArray[Any]:
    """Return the array of that name, of its own shape and kind, real numbers alone, at most so many bytes.

    Raises `CorruptFile` for a file that is damaged, of another level, or without such an array.
    """
    with reading_errors(path), path.open("rb") as file:
        try:
            order = _byte_order(file.read(128))
            for matrix in _matrices(file, order):
                *_, called, _ = _headers(memoryview(bytes(matrix.first(_HEADERS))), order)
                if called == name.encode():
                    return _array(matrix.first(_HEADERS + most), order, most)
        except zlib.error as error:
            raise CorruptFile(f"{path}: damaged ({error})") from error
        except _Damaged as error:
            raise CorruptFile(f"{path}: {error}; expected {name}, an array of numbers") from error
    raise CorruptFile(f"{path}: holds no {name}")


class _Damaged(Exception):
    """What is wrong with the file."""


def _byte_order(header: bytes) -> str:
    if header[:8] == b"\x89HDF\r\n\x1a\n" or header.startswith(b"MATLAB 7.3"):
        raise _Damaged("a MATLAB file of level 7.3, expected level 5 (save -v7)")
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(header[124:128])
    if order is None:
        raise _Damaged("not a MATLAB file of level 5")
    return order


class _Matrix:
    """What one matrix of the file holds, decompressed, and read no further than is asked for."""

    def __init__(self, file: BinaryIO, size: int, engine: Any = None) -> None:
        self._file, self._end, self._engine = file, file.tell() + size, engine
        self._found = bytearray()
        self.start = 0  # of what it holds, behind its own tag where it is compressed

    def first(self, most: int) -> memoryview:
        """Return its first bytes, so many or all; no view of an earlier call may be in use any more."""
        most, engine = self.start + most, self._engine
        while len(self._found) < most and not (engine and engine.eof):
            waiting = engine.unconsumed_tail if engine else b""
            data = waiting or self._file.read(min(_PIECE, self._end - self._file.tell()))
            if not data:
                break
            self._found += engine.decompress(data, most - len(self._found)) if engine else data
        return memoryview(self._found)[self.start : most]


def _matrices(file: BinaryIO, order: str) -> Iterator[_Matrix]:
    """Yield each matrix of the file."""
    while tag := file.read(8):
        kind, size = _tag(tag, order)
        end = file.tell() + size
        if kind == _MATRIX:
            yield _Matrix(file, size)
        elif kind == _COMPRESSED:
            matrix = _Matrix(file, size, zlib.decompressobj())
            if _tag(matrix.first(8), order)[0] == _MATRIX:
                matrix.start = 8
                yield matrix
        file.seek(end)


def _tag(data: bytes | bytearray | memoryview, order: str) -> tuple[int, int]:
    """Return the two numbers of a tag: the type and the size of what follows it."""
    if len(data) < 8:
        raise _Damaged("cut short")
    kind, size = np.frombuffer(data, f"{order}u4").tolist()
    return kind, size


def _element(data: memoryview, order: str) -> tuple[int, int, memoryview, memoryview]:
    """Return the type, the size and the bytes of the first element, and what stands behind it."""
    kind, size = _tag(data[:8], order)
    if small := kind >> 16:  # its bytes stand in its tag
        if small > 4:
            raise _Damaged("damaged")
        return kind & 0xFFFF, small, data[4 : 4 + small], data[8:]
    return kind, size, data[8 : 8 + size], data[8 + -(-size // 8) * 8 :]


def _headers(data: memoryview, order: str) -> tuple[NDArray[Any], list[int], bytes, memoryview]:
    """Return the flags, the shape and the name of a matrix, and what stands behind them."""
    headers = []
    for wanted in (_FLAGS, _DIMENSIONS, _NAME):
        kind, size, found, data = _element(data, order)
        dtype = np.dtype(f"{order}{_STORED[wanted]}")
        if kind != wanted or size != len(found) or size % dtype.itemsize:
            raise _Damaged("damaged")
        headers.append(np.frombuffer(found, dtype))
    return headers[0], headers[1].tolist(), headers[2].tobytes(), data


def _array(data: memoryview, order: str, most: int) -> NDArray[Any]:
    """Return the numbers of a matrix in its shape."""
    flags, shape, _, data = _headers(data, order)
    if len(flags) != 2 or int(flags[0]) & 0xFF not in _CLASSES or int(flags[0]) & _COMPLEX:
        raise _Damaged("holds something else under this name")
    stored, size, found, _ = _element(data, order)
    if stored not in _STORED or not 0 < len(shape) <= _MOST_DIMENSIONS or min(shape) < 0:
        raise _Damaged("damaged")
    source, target = np.dtype(f"{order}{_STORED[stored]}"), np.dtype(_CLASSES[int(flags[0]) & 0xFF])
    count = math.prod(shape)
    if size != count * source.itemsize:
        raise _Damaged(f"damaged: {size:,} bytes for the shape {printable(str(tuple(shape)))}")
    if count * max(source.itemsize, target.itemsize) > most:
        raise _Damaged(f"more than {most:,} bytes, of shape {tuple(shape)}")
    if len(found) < size:
        raise _Damaged("cut short")
    return np.frombuffer(found, source).astype(target, copy=False).reshape(shape, order="F")
