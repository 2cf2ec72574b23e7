"""Arrays of numbers out of MATLAB's level 5 files ("MAT-File Format", MathWorks), from strangers.

scipy.io.loadmat is not for these: single changed bytes made it end the process with a bus error. Here a header is
checked before its bytes are read, and no more is read than was allowed.
"""

import math
import zlib
from collections.abc import Callable, Iterator
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
_MOST_DIMENSIONS, _LONGEST_NAME = 8, 64
_PIECE = 1 << 20
Take = Callable[[int], bytes | bytearray]


def read_array(path: Path, name: str, *, most: int) -> NDArray[Any]:
    """Return the array of that name, of its own shape and kind, real numbers alone, at most so many bytes.

    Raises `CorruptFile` for a file that is damaged, of another level, or without such an array.
    """
    with reading_errors(path), path.open("rb") as file:
        try:
            order = _byte_order(file.read(128))
            for take in _elements(file, order):
                found = _array(take, order, name, most)
                if found is not None:
                    return found
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


def _elements(file: BinaryIO, order: str) -> Iterator[Take]:
    """Yield for each matrix of the file what reads its contents, decompressed."""
    while tag := file.read(8):
        if len(tag) < 8:
            raise _Damaged("cut short")
        kind, size = np.frombuffer(tag, f"{order}u4").tolist()
        start = file.tell()
        if kind == _COMPRESSED:
            take = _inflated(file, size)
            if _tag(take, order)[0] == _MATRIX:
                yield take
        elif kind == _MATRIX:
            yield _exactly(lambda most, end=start + size: file.read(min(most, end - file.tell())))  # type: ignore[misc]
        file.seek(start + size)


def _exactly(read: Callable[[int], bytes]) -> Take:
    """Return a reader of exactly as many bytes as it is asked for."""

    def take(size: int) -> bytes | bytearray:
        found, done = bytearray(size), 0
        while done < size:
            piece = read(min(_PIECE, size - done))
            if not piece:
                raise _Damaged("cut short")
            found[done : done + len(piece)] = piece
            done += len(piece)
        return found

    return take


def _inflated(file: BinaryIO, size: int) -> Take:
    """Return a reader of what the next bytes of the file decompress to."""
    engine, left = zlib.decompressobj(), size

    def read(most: int) -> bytes:
        nonlocal left
        while True:
            source = engine.unconsumed_tail
            if not source:
                source = file.read(min(_PIECE, left))
                left -= len(source)
            found = engine.decompress(source, most)
            if found or not source:
                return found

    return _exactly(read)


def _tag(take: Take, order: str) -> tuple[int, int, bytes | bytearray]:
    """Return the type and size of an element and, where they stand in its tag, its bytes (padding included)."""
    tag = take(8)
    first, size = np.frombuffer(tag, f"{order}u4").tolist()
    if first >> 16:
        if first >> 16 > 4:
            raise _Damaged("damaged")
        return first & 0xFFFF, first >> 16, tag[4:]
    return first, size, b""


def _small(take: Take, order: str, kind: int, most: int) -> bytes | bytearray:
    """Return the bytes of the next element, of this type, no more than so many, and no part of a number."""
    found, size, data = _tag(take, order)
    if found != kind or size > most or size % np.dtype(_STORED[kind]).itemsize:
        raise _Damaged("damaged")
    return (data or take(-(-size // 8) * 8))[:size]


def _array(take: Take, order: str, name: str, most: int) -> NDArray[Any] | None:
    """Return the array of that name, None if this is another."""
    flags = np.frombuffer(_small(take, order, _FLAGS, 8), f"{order}u4")
    shape = np.frombuffer(_small(take, order, _DIMENSIONS, 4 * _MOST_DIMENSIONS), f"{order}i4").tolist()
    if _small(take, order, _NAME, _LONGEST_NAME) != name.encode():
        return None
    if len(flags) != 2 or int(flags[0]) & 0xFF not in _CLASSES or int(flags[0]) & _COMPLEX:
        raise _Damaged("holds something else under this name")
    stored, size, data = _tag(take, order)
    kind = np.dtype(_CLASSES[int(flags[0]) & 0xFF])
    count = math.prod(shape)
    if stored not in _STORED or min(shape, default=-1) < 0:
        raise _Damaged("damaged")
    source = np.dtype(f"{order}{_STORED[stored]}")
    if size != count * source.itemsize:
        raise _Damaged(f"damaged: {size:,} bytes for the shape {printable(str(tuple(shape)))}")
    if count * max(kind.itemsize, source.itemsize) > most:
        raise _Damaged(f"more than {most:,} bytes, of shape {tuple(shape)}")
    values = np.frombuffer(data[:size] if data else take(size), source)
    return values.astype(kind, copy=False).reshape(shape, order="F")
