"""Open tar, tar.gz and zip files: members one after another, and their bytes. Judges no member and writes nothing.

What a damaged or lying archive does to a reader ends here, in `CorruptFile` or `HostileFile`: nothing is read back and
forth, nothing large at once, and nothing beyond the limits.
"""

import contextlib
import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from featcache.base.errors import CorruptFile, FeatcacheError, HostileFile, printable
from featcache.base.files import reading_errors
from featcache.datasets.fetch.archive_members import FILE, FOLDER, Limits, Member

_PIECE = 1 << 20  # no header of a tar is longer
_LARGEST_READ = 32 << 20  # a zip's directory is read at once; that of LaMem would take 6 MB
_BLOCK = 512
_TAR_KINDS = {
    tarfile.REGTYPE: FILE,
    tarfile.AREGTYPE: FILE,
    tarfile.DIRTYPE: FOLDER,
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "FIFO",
}
_ZIP_KINDS = {
    0: FILE,  # made by a system without Unix modes
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFLNK: "symbolic link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}
_DAMAGE = (  # what readers raise for it; RecursionError as tarfile calls itself once for each header before another
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, struct.error, EOFError, ValueError,
    OverflowError, NotImplementedError, RecursionError,
)  # fmt: skip
# a member; its bytes, to be read before the next entry; how far into the archive this is (0 in a zip: read at once)
Entry = tuple[Member, Iterator[bytes], int]


@contextlib.contextmanager
def opened_archive(archive: Path, limits: Limits) -> Iterator[Iterator[Entry]]:
    """Open an archive by what it holds, and give its entries; what is wrong with it becomes one `CorruptFile`."""
    with reading_errors(archive), archive.open("rb") as file:
        try:
            start = file.read(_BLOCK)
            file.seek(0)
            size = archive.stat().st_size
            if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
                with zipfile.ZipFile(_Bounded(file)) as opened:
                    yield _zip_members(opened)
            elif start.startswith(b"\x1f\x8b"):
                with gzip.GzipFile(fileobj=file) as unzipped:
                    yield _tar_members(_Forward(unzipped, limits.most(size)), file)
            elif _is_tar(start):
                yield _tar_members(_Forward(file, size), file)
            else:
                page = " It begins like a web page." if start.lstrip()[:1] == b"<" else ""
                raise CorruptFile(f"{archive}: neither tar, tar.gz nor zip.{page} Remove it and get another.")
        except HostileFile as error:
            raise HostileFile(f"{archive}: {error}. Get the archive from a source that can be trusted.") from None
        except FeatcacheError:
            raise
        except _DAMAGE as error:
            why = printable(str(error)) or type(error).__name__
            raise CorruptFile(
                f"{archive}: damaged or cut short ({why}). Remove what was downloaded, or get the file of "
                "--file anew, then run the same command again."
            ) from error


def _is_tar(start: bytes) -> bool:
    with contextlib.suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
        return True
    return False


class _Bounded:
    """A file of which no more than 32 MB are read at once, so that no declared length fills the memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.seekable = file.tell, file.seekable

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset < 0:
            raise zipfile.BadZipFile("a header leads out of the file")
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if size > _LARGEST_READ:
            raise HostileFile(f"its directory declares {size:,} bytes, more than {_LARGEST_READ:,}")
        return self._file.read(size if size >= 0 else _LARGEST_READ)


class _Forward:
    """A stream that tarfile reads headers from: it goes forward alone, and no further than `most` bytes."""

    def __init__(self, file: Any, most: int) -> None:
        self._file, self._most, self._position = file, most, 0
        self.last = b""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("a header leads back")
        while self._position < position and self.read(min(_PIECE, position - self._position)):
            pass

    def read(self, size: int) -> bytes:
        if size < 0:
            raise tarfile.ReadError("a header declares less than nothing")
        if size > _PIECE:
            raise HostileFile(f"one of its headers declares {size:,} bytes, more than {_PIECE:,}")
        if self._position + size > self._most + _LARGEST_READ:
            raise HostileFile(f"unpacks to more than {self._most:,} bytes")
        self.last = self._file.read(size)
        self._position += len(self.last)
        return self.last


def _tar_members(stream: _Forward, file: BinaryIO) -> Iterator[Entry]:
    tar = tarfile.TarFile(fileobj=stream, errors="surrogateescape")  # type: ignore[arg-type]
    while (info := tar.next()) is not None:
        kind = "sparse file" if info.issparse() else _TAR_KINDS.get(info.type, f"member of type {info.type!r}")
        size = info.size if kind == FILE else 0
        yield from _entry(info.name, kind, size, _pieces(stream, size), file.tell())
    if stream.last != bytes(_BLOCK):  # tarfile takes a damaged header, or none, for the end
        raise tarfile.ReadError("no mark at its end")
    while stream.read(_PIECE):  # a gzip checksum stands behind the last byte
        pass


def _zip_members(opened: zipfile.ZipFile) -> Iterator[Entry]:
    for info in opened.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        kind = _ZIP_KINDS.get(mode, f"member of type {mode:o}")
        if info.flag_bits & 1:
            kind = "file that is encrypted"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            kind = f"file of compression method {info.compress_type}"
        elif info.orig_filename.endswith("/") and kind == FILE:
            kind = FOLDER
        yield from _entry(info.orig_filename, kind, info.file_size, _unzipped(opened, info), 0)


def _unzipped(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with opened.open(info) as file:
        yield from _pieces(file, info.file_size)
        file.read(1)  # none is left, and then the checksum of an empty file is looked at, too


def _pieces(file: IO[bytes] | _Forward, size: int) -> Iterator[bytes]:
    while piece := file.read(min(_PIECE, size)):
        size -= len(piece)
        yield piece
    if size:
        raise EOFError("ends within a file")


def _entry(name: str, kind: str, size: int, data: Iterator[bytes], position: int) -> Iterator[Entry]:
    """Yield the entry, its name without ./ before it and / behind a folder's; nothing for the archive's own folder."""
    if kind == FOLDER and name in (".", "./"):
        return
    while name.startswith("./"):
        name = name[2:]
    yield Member(name.removesuffix("/") if kind == FOLDER else name, kind, size), data, position
