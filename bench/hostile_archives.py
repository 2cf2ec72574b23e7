"""Archives that try to do harm, as bytes: each a dataset that is whole but for what its name says."""

import gzip
import io
import stat
import struct
import tarfile
import warnings
import zipfile

SPLIT = b"1.jpg 0.5\n2.jpg 0.25\n"
DATASET = {
    "lamem/images/1.jpg": b"first image",
    "lamem/images/2.jpg": b"second image",
    "lamem/splits/train_1.txt": SPLIT,
}
NAMES = {
    "absolute path": "/tmp/escaped.txt",
    "parent": "lamem/images/../../../escaped.txt",
    "parent alone": "../escaped.txt",
    "backslash": "lamem\\..\\..\\escaped.txt",
    "drive letter": "C:/escaped.txt",
    "control character": "lamem/images/\x1b[2J.jpg",
    "line feed": "lamem/images/a\n.jpg",
    "dot inside": "lamem/images/./a.jpg",
    "empty step": "lamem//images/a.jpg",
    "long step": f"lamem/images/{'a' * 300}.jpg",
    "long path": f"lamem/images/{'a/' * 600}b.jpg",
    "twice": "lamem/images/1.jpg",
    "case alone": "LAMEM/images/1.jpg",
    "accents alone": "lamem/images/1.jpg\u212a",  # the Kelvin sign, which folds to k
    "file under a file": "lamem/images/1.jpg/under.jpg",
    "file as a folder": "lamem/images",
}
LINKS = {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "FIFO": tarfile.FIFOTYPE,
    "contiguous file": tarfile.CONTTYPE,
    "sparse file": tarfile.GNUTYPE_SPARSE,
    "unknown type": b"Z",
}
MODES = {
    "symbolic link": stat.S_IFLNK,
    "character device": stat.S_IFCHR,
    "block device": stat.S_IFBLK,
    "FIFO": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}


def tar_of(files: dict[str, bytes], *more: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of files, and of members without data behind them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in more:
            tar.addfile(info)
    return out.getvalue()


def zip_of(files: dict[str, bytes], *more: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    """Return a zip of files, and of members made by hand."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name that stands twice
        for name, data in files.items():
            archive.writestr(name, data)
        for info, data in more:
            archive.writestr(info, data)
    return out.getvalue()


def hostile_archives() -> dict[str, bytes]:
    """Return every one, under a name that says what it tries."""
    found: dict[str, bytes] = {}
    for label, name in NAMES.items():
        info = tarfile.TarInfo(name)
        extra = {"lamem/images/1.jpgk": b""} if label == "accents alone" else {}
        found[f"tar: {label}"] = tar_of(DATASET | extra, info)
        found[f"tar.gz: {label}"] = gzip.compress(tar_of(DATASET | extra, info))
        found[f"zip: {label}"] = zip_of(DATASET | extra, (zipfile.ZipInfo(name), b"x"))
    for label, kind in LINKS.items():
        for target in ("/etc/passwd", "../../../escaped.txt", "1.jpg"):
            info = tarfile.TarInfo("lamem/images/link.jpg")
            info.type, info.linkname = kind, target
            found[f"tar: {label} to {target}"] = tar_of(DATASET, info)
    through = tarfile.TarInfo("lamem/images/out")
    through.type, through.linkname = tarfile.SYMTYPE, "../../.."
    found["tar: file through a link"] = tar_of(DATASET, through, tarfile.TarInfo("lamem/images/out/escaped.txt"))
    for label, mode in MODES.items():
        made = zipfile.ZipInfo("lamem/images/link.jpg")
        made.create_system, made.external_attr = 3, (mode | 0o777) << 16
        found[f"zip: {label}"] = zip_of(DATASET, (made, b"/etc/passwd"))
    return found | _by_hand()


def _by_hand() -> dict[str, bytes]:
    """Return those that no library writes."""
    whole = zip_of(DATASET)
    nul = zip_of(DATASET, (zipfile.ZipInfo("lamem/images/aX.jpg"), b"x")).replace(b"images/aX.jpg", b"images/a\0.jpg")
    encrypted = bytearray(whole)
    for at in _places(whole, b"PK\x01\x02"):
        encrypted[at + 8] |= 1
    method = bytearray(whole)
    for at in _places(whole, b"PK\x01\x02"):
        method[at + 10] = 12
    directory = bytearray(whole)
    struct.pack_into("<I", directory, directory.rindex(b"PK\x05\x06") + 12, 0x7FFFFFFF)
    return {
        "zip: NUL in a name": nul,
        "zip: encrypted": bytes(encrypted),
        "zip: other compression": bytes(method),
        "zip: directory of 2 GB": bytes(directory),
        "tar: pax path that leaves": _pax({"path": "../escaped.txt"}),
        "tar: pax path with NUL": _pax({"path": "lamem/images/a\0.jpg"}),
        "tar: pax size below zero": _pax({"size": "-1024"}),
        "tar: pax sparse": _pax({"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1",
                                 "GNU.sparse.size": "1099511627776", "GNU.sparse.name": "lamem/images/s.jpg"}),
        "tar: header of 8 GB": _header("x", 8 << 30),
        "tar: header below zero": _header("x", -1),
        "tar: long name of 8 GB": _header("L", 8 << 30),
        "tar: name that is no text": _header("0", 0, b"lamem/images/\xff.jpg") + tar_of(DATASET),
        "tar.gz: file of 8 GB in 50 bytes": gzip.compress(_header("0", (8 << 30) - 1)),
        "tar.gz: bomb": _bomb(),
    }  # fmt: skip


def _places(data: bytes, mark: bytes) -> list[int]:
    return [at for at in range(len(data)) if data.startswith(mark, at)]


def _pax(headers: dict[str, str]) -> bytes:
    info = tarfile.TarInfo("lamem/images/3.jpg")
    info.pax_headers = headers
    return tar_of(DATASET, info)


def _header(kind: str, size: int, name: bytes = b"lamem/images/big.jpg") -> bytes:
    """Return one tar header with a right checksum."""
    octal = b"%011o\0" % size if 0 <= size < 8 << 30 else _base_256(size)
    head = bytearray(512)
    head[: len(name)] = name
    head[100:136] = b"0000644\0" + b"0000000\0" * 2 + octal
    head[136:156] = b"00000000000\0" + b" " * 8
    head[156:157] = kind.encode()
    head[257:265] = b"ustar\x0000"
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def _base_256(size: int) -> bytes:
    return (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)


def _bomb() -> bytes:
    """Return 2 GB of zeros in a few megabytes: gzip members one after another, each of 64 MB."""
    zeros = gzip.compress(bytes(64 << 20), 1)
    return gzip.compress(_header("0", 2 << 30)) + zeros * 32
