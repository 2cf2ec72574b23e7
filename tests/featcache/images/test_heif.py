"""AVIF and HEIC: read where something reads them, named with the way out elsewhere, and never decoded unseen."""

import struct
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image, features

from featcache.base.errors import BadImage
from featcache.images.decode import decode_bytes, decode_file, holds_image
from featcache.images.heif import coding_of
from tests.featcache.images.test_decode import RGB, encoded


def container(major: bytes, *compatible: bytes) -> bytes:
    """Return the first box of a file of these brands, and a little behind it."""
    return struct.pack(">I4s4sI", 16 + 4 * len(compatible), b"ftyp", major, 0) + b"".join(compatible) + b"meta" * 9


@pytest.mark.parametrize(
    ("head", "coding"),
    [
        (container(b"avif", b"mif1", b"miaf"), "AVIF"),
        (container(b"mif1", b"miaf", b"avif"), "AVIF"),
        (container(b"avis", b"msf1"), "AVIF"),
        (container(b"heic", b"mif1", b"heic"), "HEIC"),
        (container(b"mif1", b"heic"), "HEIC"),
        (container(b"isom", b"mp41"), ""),
        (container(b"qt  "), ""),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"", ""),
    ],
)
def test_a_file_is_told_by_its_brands(head: bytes, coding: str) -> None:
    assert coding_of(head) == coding


def test_avif_is_read_upright() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    pixels = np.asarray(decode_bytes(encoded(RGB, "AVIF", quality=100, subsampling="4:4:4", exif=tags)).rgb)
    np.testing.assert_allclose(pixels, np.rot90(RGB, -1), atol=4)


def test_avif_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(RGB, "AVIF")
    monkeypatch.setattr(AvifImagePlugin.AvifImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(BadImage, match="^too-large: 13 x 11 pixels; at most 100 are decoded"):
        decode_bytes(data, most_pixels=100)


def test_avif_with_damaged_pixels_is_a_bad_image() -> None:
    data = bytearray(encoded(Image.new("RGB", (20, 30), (200, 100, 50)), "AVIF"))
    data[-20:] = b"\xff" * 20
    with pytest.raises(BadImage, match="^damaged: "):
        decode_bytes(bytes(data))


def test_avif_without_a_decoder_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(RGB, "AVIF")
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(BadImage, match="^unsupported: AVIF, which this Pillow was built without; pip install"):
        decode_bytes(data)


def test_heic_without_its_package_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    (tmp_path / "photo").write_bytes(container(b"heic", b"mif1", b"heic"))
    with pytest.raises(BadImage, match=r"^unsupported: HEIC, which needs: pip install 'amnet-featcache\[heic\]'"):
        decode_file(tmp_path / "photo")
    assert holds_image(tmp_path / "photo")


def test_heic_is_read_with_its_package_and_checked_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    data = encoded(Image.new("RGB", (40, 30), (200, 100, 50)), "HEIF")
    found = decode_bytes(data)
    assert (found.rgb.size, found.notes) == ((40, 30), ())
    np.testing.assert_allclose(np.asarray(found.rgb)[5, 5], [200, 100, 50], atol=4)
    with pytest.raises(BadImage):
        decode_bytes(data[: len(data) * 9 // 10])
    monkeypatch.setattr(type(Image.open(BytesIO(data))), "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(BadImage, match="^too-large: 40 x 30 pixels"):
        decode_bytes(data, most_pixels=100)


@pytest.mark.parametrize(
    ("data", "image"),
    [
        (encoded(RGB, "JPEG"), True),
        (encoded(RGB, "JPEG")[:-9], True),  # for its damage to be told
        (encoded(RGB, "BMP"), True),
        (encoded(RGB, "AVIF"), True),
        (b"", False),
        (b"BMW is a maker of cars.\n" * 9, False),
        (b"RIFF are cut songs\n" * 9, False),
        (container(b"isom", b"mp41"), False),
    ],
)
def test_what_a_file_is_can_be_seen_in_its_first_bytes(tmp_path: Path, data: bytes, image: bool) -> None:
    (tmp_path / "file").write_bytes(data)
    assert holds_image(tmp_path / "file") == image
