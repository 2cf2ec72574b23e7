"""Every kind of image file becomes the RGB pixels that the module states, or a BadImage with its reason."""

import hashlib
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from featcache.base.errors import BadImage
from featcache.images import decode
from featcache.images.decode import FORMATS, MOST_BYTES, decode_bytes, decode_file

RNG = np.random.default_rng(20180619)
RGB = RNG.integers(0, 256, (11, 13, 3), np.uint8)
GREY = RNG.integers(0, 256, (11, 13), np.uint8)
ALPHA = RNG.integers(0, 256, (11, 13), np.uint8)
HALVES = np.where(np.arange(11 * 13).reshape(11, 13) % 2, 0, 255).astype(np.uint8)  # nothing or everything
PALETTE = RNG.integers(0, 256, (5, 3), np.uint8)
INDICES = RNG.integers(0, 5, (11, 13), np.uint8)
UPRIGHT = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3) * 5


def encoded(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    buffer = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> NDArray[np.uint8]:
    """Return the decoded pixels as an array (height, width, 3)."""
    rgb = decode_bytes(data).rgb
    assert rgb.mode == "RGB"
    return np.asarray(rgb)


def grey(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return grey values as RGB."""
    return np.stack([values] * 3, axis=-1)


def over_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return colour (.., 3) seen through alpha (..) over white."""
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def paletted() -> Image.Image:
    image = Image.fromarray(INDICES, "L").copy()
    image.putpalette(PALETTE.tobytes())
    return image


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, *, depth: int, colour: int, row: bytes, ancillary: bytes = b"", height: int = 1) -> bytes:
    """Return a PNG of one row, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + ancillary
        + png_chunk(b"IDAT", zlib.compress(b"\0" + row))
        + png_chunk(b"IEND", b"")
    )


def tiff(values: NDArray[Any], byte_order: str) -> bytes:
    """Return an uncompressed grey TIFF of one row of integers, written from the specification."""
    values = values.astype(values.dtype.newbyteorder(byte_order))
    signed = 2 if values.dtype.kind == "i" else 1
    data_at = 8 + 2 + 9 * 12 + 4
    fields = [(256, 3, values.size), (257, 3, 1), (258, 3, 8 * values.itemsize), (259, 3, 1), (262, 3, 1)]
    fields += [(273, 4, data_at), (277, 3, 1), (279, 4, values.nbytes), (339, 3, signed)]
    entries = b"".join(
        struct.pack(f"{byte_order}HHI", tag, kind, 1)
        + (struct.pack(f"{byte_order}HH", value, 0) if kind == 3 else struct.pack(f"{byte_order}I", value))
        for tag, kind, value in fields
    )
    magic = b"II*\0" if byte_order == "<" else b"MM\0*"
    head = magic + struct.pack(f"{byte_order}IH", 8, len(fields)) + entries + struct.pack(f"{byte_order}I", 0)
    return head + values.tobytes()


def exif(*entries: bytes) -> bytes:
    """Return an EXIF block of 12-byte directory entries."""
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def orientation(value: int) -> bytes:
    return struct.pack("<HHIHH", 0x0112, 3, 1, value, 0)


# --- what becomes of each mode


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_rgb_stays_as_it_is(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decoded(encoded(RGB, kind, **options)), RGB)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_grey_is_repeated(kind: str) -> None:
    np.testing.assert_array_equal(decoded(encoded(GREY, kind)), grey(GREY))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit_is_black_or_white(kind: str) -> None:
    np.testing.assert_array_equal(decoded(encoded(HALVES > 0, kind)), grey(HALVES))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_a_palette_is_looked_up(kind: str) -> None:
    np.testing.assert_array_equal(decoded(encoded(paletted(), kind)), PALETTE[INDICES])


@pytest.mark.parametrize(
    ("transparency", "alpha"), [(2, [255, 255, 0, 255, 255]), (b"\0\x40\x80\xff", [0, 64, 128, 255, 255])]
)
def test_a_palette_with_transparency_is_laid_over_white(transparency: int | bytes, alpha: list[int]) -> None:
    wanted = over_white(PALETTE, np.array(alpha, np.uint8))[INDICES]
    np.testing.assert_allclose(decoded(encoded(paletted(), "PNG", transparency=transparency)), wanted, atol=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha_is_laid_over_white(kind: str) -> None:
    image = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
    np.testing.assert_allclose(decoded(encoded(image, kind)), over_white(grey(GREY), ALPHA), atol=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("alpha", "error"), [(ALPHA, 1), (HALVES, 0)], ids=["graded", "all or nothing"])
def test_rgb_with_alpha_is_laid_over_white(kind: str, alpha: NDArray[np.uint8], error: int) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    pixels = decoded(encoded(np.dstack([RGB, alpha]), kind, **options))
    np.testing.assert_allclose(pixels, over_white(RGB, alpha), atol=error)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "wanted"),
    [
        (8, 0, b"\x05\x64", (5,), [255, 100]),
        (1, 0, b"\x40", (1,), [0, 255]),
        (4, 0, b"\x5a", (0,), [85, 170]),
        (16, 0, struct.pack(">HH", 1000, 257 * 9), (1000,), [255, 9]),
        (16, 0, struct.pack(">HH", 257 * 77, 257 * 200), (1000,), [77, 200]),
        (8, 2, bytes([1, 2, 3, 7, 7, 7]), (1, 2, 3), [255, 7]),
    ],
    ids=["L8", "L1", "L4 unused", "L16", "L16 unused", "RGB8"],
)
def test_the_transparent_colour_of_a_png_is_white(
    depth: int, colour: int, row: bytes, transparent: tuple[int, ...], wanted: list[int]
) -> None:
    chunk = png_chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    pixels = decoded(png(2, depth=depth, colour=colour, row=row, ancillary=chunk))
    np.testing.assert_array_equal(pixels, grey(np.array([wanted], np.uint8)))


def test_cmyk_is_converted_by_the_plain_formula() -> None:
    cmyk = RNG.integers(0, 256, (11, 13, 4), np.uint8)
    wanted = (255.0 - cmyk[..., :3]) * (255.0 - cmyk[..., 3:]) / 255
    np.testing.assert_allclose(decoded(encoded(Image.fromarray(cmyk, "CMYK"), "TIFF")), wanted, atol=1)


def test_a_cmyk_jpeg_is_not_inverted() -> None:
    image = Image.new("CMYK", (16, 16), (200, 100, 50, 20))
    wanted = np.broadcast_to([51, 143, 189], (16, 16, 3))  # (255 - C)(255 - K) / 255
    np.testing.assert_allclose(decoded(encoded(image, "JPEG", quality=100)), wanted, atol=3)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_ycbcr_jpeg_has_the_colours_it_was_made_of(subsampling: int) -> None:
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    pixels = decoded(encoded(image, "JPEG", quality=100, subsampling=subsampling))
    np.testing.assert_allclose(pixels, np.broadcast_to([200, 100, 50], (16, 16, 3)), atol=2)


def test_a_ycbcr_tiff_has_the_colours_it_was_made_of() -> None:
    image = Image.new("RGB", (16, 16), (200, 100, 50)).convert("YCbCr")
    np.testing.assert_allclose(decoded(encoded(image, "TIFF"))[0, 0], [200, 100, 50], atol=2)


SIXTEEN = np.array([0, 128, 129, 257, 385, 386, 1000, 65406, 65407, 65535], np.uint16)
DIVIDED = [0, 0, 1, 1, 1, 2, 4, 254, 255, 255]  # by 257, rounded


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_a_16_bit_tiff_is_divided_by_257(byte_order: str) -> None:
    np.testing.assert_array_equal(decoded(tiff(SIXTEEN, byte_order)), grey(np.array([DIVIDED], np.uint8)))


def test_a_16_bit_grey_png_is_divided_by_257() -> None:
    np.testing.assert_array_equal(decoded(encoded(SIXTEEN[None], "PNG")), grey(np.array([DIVIDED], np.uint8)))
    every = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    np.testing.assert_array_equal(decoded(encoded(every, "PNG")), grey(every.astype(np.uint8)))


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "LA", "RGBA"])
def test_of_other_16_bit_pngs_the_upper_8_bits_are_kept(colour: int, channels: int) -> None:
    samples = np.full((SIXTEEN.size, channels), 65535, ">u2")
    samples[:, : channels - (colour in (4, 6))] = SIXTEEN[:, None]
    pixels = decoded(png(SIXTEEN.size, depth=16, colour=colour, row=samples.tobytes()))
    np.testing.assert_array_equal(pixels, grey((SIXTEEN[None] // 256).astype(np.uint8)))


@pytest.mark.parametrize("values", [np.array([0, 65536], np.int32), np.array([-1, 5], np.int16)])
def test_integers_of_more_than_16_bits_are_refused(values: NDArray[Any]) -> None:
    with pytest.raises(BadImage, match="unsupported: integer pixels of more than 16 bits"):
        decode_bytes(tiff(values, "<"))


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_a_mode_without_a_stated_conversion_is_refused(mode: str) -> None:
    with pytest.raises(BadImage, match=f"unsupported: pixels of Pillow's mode {mode}"):
        decode_bytes(encoded(Image.new(mode, (3, 2)), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (7, 5), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decoded(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    np.testing.assert_array_equal(pixels, np.broadcast_to([255, 0, 0], (5, 7, 3)))


# --- orientation

STORED = {  # how an upright image lies in a file of each orientation
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, value: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = value
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    stored = np.ascontiguousarray(STORED[value])
    pixels = decoded(encoded(stored, kind, exif=tags, **options))
    assert pixels.shape == UPRIGHT.shape
    np.testing.assert_allclose(pixels, UPRIGHT, atol=12 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    "tags",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0",
        exif(orientation(6))[:14],
        exif(orientation(0)),
        exif(orientation(9)),
        exif(struct.pack("<HHI", 0x0112, 2, 4) + b"abc\0"),
    ],
    ids=["garbage", "empty", "cut", "orientation 0", "orientation 9", "orientation in letters"],
)
def test_an_orientation_that_means_nothing_is_none(tags: bytes) -> None:
    assert decoded(encoded(RGB, "JPEG", exif=tags)).shape == RGB.shape


@pytest.mark.parametrize(
    "tag",
    [
        struct.pack("<HHI", 0x0103, 2, 4) + b"abc\0",
        struct.pack("<HHI", 0x011A, 2, 4) + b"abc\0",
        struct.pack("<HHIi", 0x0100, 9, 1, -5),
        struct.pack("<HHIf", 0x0131, 11, 1, 1.5),
        struct.pack("<HHII", 0x010F, 2, 0xFFFFFFFF, 26),
        struct.pack("<HHII", 0x8769, 4, 1, 0),
        struct.pack("<HHII", 0x8769, 4, 1, 1000),
    ],
    ids=["letters", "resolution", "negative", "float", "too long", "directory in header", "directory beyond the end"],
)
def test_a_strange_exif_tag_costs_a_photo_neither_pixels_nor_orientation(tag: bytes) -> None:
    pixels = decoded(encoded(RGB, "JPEG", quality=100, exif=exif(orientation(6), tag)))
    assert pixels.shape == (13, 11, 3)


# --- identity


def test_the_digest_is_of_the_file_and_the_suffix_means_nothing(tmp_path: Path) -> None:
    data = encoded(RGB, "PNG")
    for name in ("a.png", "a.jpg", "a.txt", "a"):
        (tmp_path / name).write_bytes(data)
        image = decode_file(tmp_path / name)
        assert image.sha256 == hashlib.sha256(data).hexdigest()
        np.testing.assert_array_equal(np.asarray(image.rgb), RGB)


def test_a_link_to_an_image_is_the_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(RGB, "PNG"))
    (tmp_path / "b.png").symlink_to("a.png")
    assert decode_file(tmp_path / "b.png").sha256 == decode_file(tmp_path / "a.png").sha256


# --- what is refused


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    data = encoded(RNG.integers(0, 256, (67, 71, 3), np.uint8), kind, **options)
    with pytest.raises(BadImage) as caught:
        decode_bytes(data[: int(share * len(data))])
    assert caught.value.reason in ("truncated", "damaged", "unidentified")


def test_a_jpeg_without_its_last_byte_is_refused() -> None:
    with pytest.raises(BadImage, match="^truncated: "):
        decode_bytes(encoded(RGB, "JPEG")[:-1])


def test_decoding_is_refused_while_pillow_fills_missing_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BadImage, match=r"^truncated: PIL\.ImageFile\.LOAD_TRUNCATED_IMAGES is on"):
        decode_bytes(encoded(RGB, "PNG"))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", bytes(1000), RNG.bytes(4096)],
    ids=["empty", "one byte", "HTML", "zeros", "noise"],
)
def test_what_is_no_image_is_unidentified(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "photo.jpg").write_bytes(data)
    with pytest.raises(BadImage) as caught:
        decode_file(tmp_path / "photo.jpg")
    assert caught.value.reason == "unidentified"
    assert caught.value.detail == (
        "not one of JPEG, PNG, WEBP, BMP, GIF, TIFF, AVIF, HEIC" if data else "the file is empty"
    )


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PCX", "JPEG2000", "PDF", "EPS"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(BadImage, match="^unidentified: not one of JPEG"):
        decode_bytes(encoded(RGB, kind))


@pytest.mark.timeout(20)
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    with Path(os.devnull).open() as file:
        lowest = file.fileno()
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to(os.devnull)
    for name in ("fifo.jpg", "folder.jpg", "device.jpg"):
        with pytest.raises(BadImage, match="^not-a-file: not a regular file"):
            decode_file(tmp_path / name)
    with Path(os.devnull).open() as file:
        assert file.fileno() == lowest  # no descriptor was left open


def test_what_is_not_there_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to("gone")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for name, detail in (("dangling", "No such file"), ("loop", "Too many levels"), ("gone", "No such file")):
        with pytest.raises(BadImage, match=f"^unreadable: {detail}"):
            decode_file(tmp_path / f"{name}.jpg")


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(BadImage, match="^too-large: 536,870,913 bytes; at most 536,870,912 are read"):
        decode_file(tmp_path / "sparse.png")


@pytest.mark.parametrize("side", [9_460, 13_000, 60_000])
def test_a_file_that_claims_too_many_pixels_is_not_decoded(side: int) -> None:
    with pytest.raises(BadImage) as caught:
        decode_bytes(png(side, height=side, depth=8, colour=2, row=b""))
    assert caught.value.reason == "too-large"


@pytest.mark.parametrize(("width", "height"), [(1, 10_000), (10_000, 1), (1, 201), (402 + 1, 2)])
def test_an_elongated_image_is_degenerate(width: int, height: int) -> None:
    with pytest.raises(BadImage, match=f"^degenerate: {width} x {height} pixels"):
        decode_bytes(encoded(Image.new("L", (width, height)), "PNG"))


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1)])
def test_a_small_image_is_an_image(size: tuple[int, int]) -> None:
    assert decode_bytes(encoded(Image.new("L", size), "PNG")).rgb.size == size


FUZZED = {
    "JPEG": encoded(RGB, "JPEG"),
    "progressive JPEG": encoded(RGB, "JPEG", progressive=True),
    "JPEG with EXIF": encoded(RGB, "JPEG", exif=exif(orientation(6))),
    "PNG": encoded(RGB, "PNG"),
    "PNG with a palette": encoded(paletted(), "PNG", transparency=2),
    "GIF": encoded(paletted(), "GIF"),
    "WebP": encoded(RGB, "WEBP"),
    "BMP": encoded(RGB, "BMP"),
    "TIFF": encoded(RGB, "TIFF"),
    "AVIF": encoded(RGB, "AVIF"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow on damaged tags
@settings(deadline=None, max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("kind", FUZZED)
def test_flipped_bytes_give_pixels_or_a_bad_image(kind: str, data: st.DataObject) -> None:
    mutated = bytearray(FUZZED[kind])
    places = st.integers(0, len(mutated) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=7)):
        mutated[place] = value
    try:
        rgb = decode_bytes(bytes(mutated)).rgb
    except BadImage as error:
        assert error.reason in ("unidentified", "truncated", "damaged", "too-large", "degenerate", "unsupported")
    else:
        assert rgb.mode == "RGB"
        assert np.asarray(rgb).shape == (rgb.height, rgb.width, 3)


def test_decoders_have_their_library_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(decode.decoders()) <= set(decode.DECODED)
    assert decode.decoders()["jpeg"].startswith("libjpeg")
    known = {"jpg": "9.6", "webp": "1.6.0", "libtiff": None, "avif": None}
    monkeypatch.setattr(decode.features, "check", lambda name: False)
    monkeypatch.setattr(decode.features, "version", known.get)
    assert decode.decoders() == {"jpeg": "libjpeg 9.6", "webp": "libwebp 1.6.0"}
