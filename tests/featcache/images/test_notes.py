"""Images that are read all the same, and what is said of them: few bits, several frames, hardly any pixels."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import featcache.images.decode
from featcache.images.decode import decode_bytes, decode_file, decode_image
from featcache.images.notes import describe, in_full
from tests.featcache.images.test_decode import encoded, exif, orientation, png, png_chunk

RNG = np.random.default_rng(20180620)
NOISE = [RNG.integers(0, 256, (19, 23, 3), np.uint8) for _ in range(3)]
BLANK = Image.new("RGB", (23, 19), "white")


def values_of(bits: int, shape: tuple[int, ...] = (19, 23)) -> NDArray[np.uint16]:
    """Return noise of that many bits, its largest value in it."""
    values = RNG.integers(0, 1 << bits, shape).astype(np.uint16)
    values.flat[0] = (1 << bits) - 1
    return values


def deep_png(values: NDArray[np.uint16], *, colour: int) -> bytes:
    """Return a 16-bit PNG of values (h, w, channels)."""
    rows = [b"\0" + row.astype(">u2").tobytes() for row in values]
    return png(values.shape[1], height=len(rows), depth=16, colour=colour, row=b"".join(rows)[1:])


def deep_tiff(values: NDArray[np.uint16], byte_order: str) -> bytes:
    """Return an uncompressed 16-bit RGB TIFF of values (h, w, 3), written from the specification."""
    h, w, _ = values.shape
    fields = [
        (256, w),
        (257, h),
        (258, 8 + 2 + 9 * 12 + 4),
        (259, 1),
        (262, 2),
        (273, 8 + 2 + 9 * 12 + 4 + 6),
        (277, 3),
    ]
    fields += [(278, h), (279, values.nbytes)]
    entries = b"".join(struct.pack(f"{byte_order}HHII", tag, 4, 1, value) for tag, value in fields if tag != 258)
    bits = struct.pack(f"{byte_order}HHII", 258, 3, 3, 8 + 2 + 9 * 12 + 4)
    magic = b"II*\0" if byte_order == "<" else b"MM\0*"
    head = magic + struct.pack(f"{byte_order}IH", 8, 9) + entries[:24] + bits + entries[24:]
    return head + bytes(4) + struct.pack(f"{byte_order}HHH", 16, 16, 16) + values.astype(f"{byte_order}u2").tobytes()


# data of few bits


@pytest.mark.parametrize("bits", [1, 8, 10, 12, 14, 15])
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})])
def test_data_of_fewer_bits_in_a_16_bit_grey_file_are_told_with_the_rule(
    kind: str, options: dict[str, Any], bits: int
) -> None:
    values = values_of(bits)
    found = decode_bytes(encoded(values, kind, **options))
    most = (1 << bits) - 1
    note = f"few-bits: no value above {most:,} of 65,535, as in {bits}-bit data; read as 16-bit data"
    assert found.notes == (note,)
    np.testing.assert_array_equal(np.asarray(found.rgb)[..., 0], (values.astype(int) + 128) // 257)  # as ever


@pytest.mark.parametrize(("bits", "said"), [(8, "255"), (10, "1,023"), (12, "4,095"), (14, "16,383")])
@pytest.mark.parametrize("kind", ["RGB PNG", "RGBA PNG", "grey PNG with alpha", "TIFF <", "TIFF >"])
def test_data_of_fewer_bits_in_16_bit_colour_are_told(kind: str, bits: int, said: str) -> None:
    channels = {"RGBA PNG": 4, "grey PNG with alpha": 2}.get(kind, 3)
    values = values_of(bits, (19, 23, channels))
    if channels != 3:
        values[..., -1] = 65535  # what covers nothing does not count
    colour = {3: 2, 4: 6, 2: 4}[channels]
    found = decode_bytes(deep_tiff(values, kind[-1]) if "TIFF" in kind else deep_png(values, colour=colour))
    assert found.notes == (f"few-bits: no value above {said} of 65,535, as in {bits}-bit data; read as 16-bit data",)
    np.testing.assert_array_equal(np.asarray(found.rgb)[..., 0], values[..., 0] // 256)


def test_data_that_use_16_bits_and_8_bit_files_have_nothing_told() -> None:
    whole, colour = values_of(16), values_of(16, (19, 23, 3))
    dark = np.full((19, 23, 3), 3, np.uint8)
    data = [encoded(whole, "PNG"), encoded(whole, "TIFF"), deep_png(colour, colour=2), deep_tiff(colour, "<")]
    data += [encoded(dark, kind) for kind in ("PNG", "TIFF", "JPEG")]
    data += [encoded(whole // 16 * 16, "PNG"), encoded(np.zeros((19, 23), np.uint16), "PNG")]
    assert [decode_bytes(one).notes for one in data] == [()] * len(data)


def test_the_transparent_grey_is_no_value_of_the_picture() -> None:
    row = struct.pack(">20H", *[65535, *range(4076, 4095)])
    chunk = png_chunk(b"tRNS", struct.pack(">H", 65535))
    data = png(20, height=1, depth=16, colour=0, row=row, ancillary=chunk)
    assert "no value above 4,094 of 65,535, as in 12-bit data" in decode_bytes(data).notes[0]


def test_a_pillow_image_has_the_notes_of_its_pixels() -> None:
    assert decode_image(Image.fromarray(values_of(12))).notes[0].startswith("few-bits: no value above 4,095")
    assert decode_image(Image.new("RGB", (20, 3))).notes == ("small: 20 x 3 pixels",)
    deep = Image.open(BytesIO(deep_png(values_of(10, (19, 23, 3)), colour=2)))
    assert decode_image(deep).notes[0].startswith("few-bits: no value above 1,023")


# several frames


@pytest.mark.parametrize(
    ("kind", "count"),
    [("GIF", "3 frames"), ("WEBP", "3 frames"), ("PNG", "3 frames"), ("AVIF", "3 frames"), ("TIFF", "3 pages")],
)
def test_several_frames_are_told_and_whether_the_first_is_of_one_colour(kind: str, count: str) -> None:
    frames = [Image.fromarray(pixels) for pixels in NOISE]
    several = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode_bytes(several).notes == (f"frames: {count}, the first is read",)
    blank = encoded(BLANK, kind, save_all=True, append_images=frames[:2])
    assert decode_bytes(blank).notes == (f"frames: {count}, the first is read, which is of one colour",)
    assert decode_bytes(encoded(frames[0], kind)).notes == ()
    alone = Image.open(BytesIO(several))
    np.testing.assert_array_equal(np.asarray(decode_bytes(several).rgb), np.asarray(alone.convert("RGB")))


def test_a_photograph_with_a_preview_in_its_file_is_one_image() -> None:
    frames = [Image.fromarray(pixels) for pixels in NOISE]
    assert decode_bytes(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])).notes == ()


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_what_is_damaged_behind_the_first_frame_costs_nothing(kind: str) -> None:
    frames = [Image.fromarray(pixels) for pixels in NOISE]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    cut = decode_bytes(data[: len(data) // 2])
    np.testing.assert_array_equal(np.asarray(cut.rgb), np.asarray(decode_bytes(data).rgb))


def test_of_very_many_pages_not_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featcache.images.decode, "MOST_PAGES", 4)
    frames = [Image.fromarray(NOISE[k % 3]) for k in range(7)]
    data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert decode_bytes(data).notes == ("frames: more than 4 pages, the first is read",)


# few pixels


@pytest.mark.parametrize(("size", "small"), [((1, 1), True), ((15, 400), True), ((400, 15), True), ((16, 16), False)])
def test_an_image_of_few_pixels_is_told(size: tuple[int, int], small: bool) -> None:
    notes = decode_bytes(encoded(Image.new("L", size), "PNG")).notes
    assert notes == ((f"small: {size[0]} x {size[1]} pixels",) if small else ())


def test_the_size_that_is_told_is_that_of_the_upright_image() -> None:
    data = encoded(Image.new("RGB", (40, 5)), "JPEG", exif=exif(orientation(6)))
    assert decode_bytes(data).notes == ("small: 5 x 40 pixels",)


def test_one_image_may_have_several_notes(tmp_path: Path) -> None:
    dark = [Image.fromarray(np.full((7, 9), 100 + k, np.uint16)) for k in range(2)]
    (tmp_path / "stack.tif").write_bytes(encoded(dark[0], "TIFF", save_all=True, append_images=dark[1:]))
    kinds = [note.partition(":")[0] for note in decode_file(tmp_path / "stack.tif").notes]
    assert kinds == ["few-bits", "small", "frames"]


# how they are told


def test_each_kind_is_one_warning_with_the_first_names_and_the_way_out() -> None:
    notes = [(f"{k}.gif", "frames: 2 frames, the first is read") for k in range(8)]
    notes += [("a\x1b.png", "small: 1 x 1 pixels")]
    frames, small = describe(notes)
    assert frames.startswith(
        "warning: 8 images with several frames or pages: 0.gif (2 frames, the first is read), 1.gif"
    )
    assert frames.endswith(" and 5 more. Save the one that is meant as a file of its own.")
    assert small.startswith("warning: 1 image of fewer than 16 pixels on the shorter side: a\\x1b.png (1 x 1 pixels). ")
    assert "7.gif" in describe(notes, every=True)[0]
    assert describe([]) == []
    assert in_full("small: 1 x 1 pixels") == (
        "1 x 1 pixels. Views of them are enlarged from next to nothing; use larger originals."
    )
