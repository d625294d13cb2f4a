from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker import images
from sifthinker.errors import ImageError


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("i.tiff" if mode == "CMYK" else "i.png")
    Image.new(mode, (6, 4)).save(path)
    found = images.load_image(path)
    assert (found.mode, found.size, images.image_size(path)) == ("RGB", (6, 4), (6, 4))


def test_sixteen_bits_of_grey_become_eight(tmp_path: Path) -> None:
    # 385 / 257 = 1.498 and 386 / 257 = 1.502.
    levels = np.array([[0, 257, 385, 386, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "i.png")
    assert np.asarray(images.load_image(tmp_path / "i.png"))[0, :, 0].tolist() == [0, 1, 1, 2, 128, 255]
    for values in (np.array([[0.1, 0.9]], dtype=np.float32), np.array([[-1, 70000]], dtype=np.int32)):
        Image.fromarray(values).save(tmp_path / "i.tiff")
        with pytest.raises(ImageError, match=r"^\S+i\.tiff: the value of white is unknown, got values from "):
            images.load_image(tmp_path / "i.tiff")


def test_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: turn it clockwise
    picture.save(tmp_path / "i.png", exif=exif)
    found = images.load_image(tmp_path / "i.png")
    assert found.size == images.image_size(tmp_path / "i.png") == (2, 3)
    np.testing.assert_array_equal(np.asarray(found), np.rot90(np.asarray(picture), -1))


@pytest.mark.parametrize(
    ("tag", "rows"),
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),  # mirrored
        (3, [[6, 5, 4], [3, 2, 1]]),  # upside down
        (4, [[4, 5, 6], [1, 2, 3]]),
        (5, [[1, 4], [2, 5], [3, 6]]),  # from here on the image lies on its side
        (6, [[4, 1], [5, 2], [6, 3]]),
        (7, [[6, 3], [5, 2], [4, 1]]),
        (8, [[3, 6], [2, 5], [1, 4]]),
    ],
)
def test_every_orientation(tmp_path: Path, tag: int, rows: list[list[int]]) -> None:
    """As the EXIF standard numbers them; what is stored is 1 2 3 above 4 5 6."""
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    Image.fromarray(np.repeat(stored[..., None], 3, axis=2)).save(tmp_path / "i.png", exif=exif)
    found = images.load_image(tmp_path / "i.png")
    assert np.asarray(found)[..., 0].tolist() == rows
    assert images.image_size(tmp_path / "i.png") == found.size == (len(rows[0]), len(rows))
    again, as_it_is = images.decode_image("i.png", (tmp_path / "i.png").read_bytes())
    assert (again.tobytes(), as_it_is) == (found.tobytes(), tag == 1)  # a file that lies on its side is written anew
    assert images.check_image(tmp_path / "i.png")[1]
    Image.fromarray(np.repeat(stored[..., None], 3, axis=2)).convert("RGBA").save(tmp_path / "i.png", exif=exif)
    assert images.check_image(tmp_path / "i.png")[1]  # trainers turn it too


def test_a_truncated_photo(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    assert images.image_size(tmp_path / "cut.jpg") == (64, 64)  # the header is whole
    with pytest.raises(ImageError, match=r"cut\.jpg.*broken"):
        images.load_image(tmp_path / "cut.jpg")


def test_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="no such image"):
        images.load_image(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ImageError, match="cannot read the image"):
        images.image_size(tmp_path / "text.jpg")
    Image.new("RGB", (20, 20)).save(tmp_path / "big.png")
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 399)
    with pytest.raises(ImageError, match="20×20"):
        images.load_image(tmp_path / "big.png")


def png(size: tuple[int, int], bits: int, kind: int, rows: Sequence[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand: bits a sample, colour type, rows as they are stored, further chunks."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = (b"IHDR", struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0))
    pixels = (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in (header, *chunks, pixels, (b"IEND", b"")))


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def bar(mode: str = "RGBA") -> Image.Image:
    """A transparent pixel, stored as black, beside 15 opaque black ones, in both directions."""
    picture = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 1, 16))
    return picture.convert(mode)


def moving(form: str) -> bytes:
    """An animation whose first frame has transparency and whose last has none."""
    return saved(bar(), form, save_all=True, append_images=[Image.new("RGBA", (16, 16), "red")], duration=100)


def palette_with_alpha() -> Image.Image:
    """Mode PA; Pillow 11's own `convert("PA")` loses the alpha."""
    made = bar().convert("RGB").convert("P")
    made.putalpha(bar().getchannel("A"))
    return made


PALETTE = (b"PLTE", bytes([0, 0, 0, 9, 9, 9]))
WHITE, BLACK = [255] * 3, [0] * 3
# File → its first two pixels. What is stored where a picture is transparent is black, as most programs leave it.
TRANSPARENT = {
    "RGBA": (saved(bar(), "PNG"), [WHITE, BLACK]),
    "half": (png((2, 1), 8, 6, [bytes([0, 0, 0, 102, 0, 0, 0, 255])]), [[153] * 3, BLACK]),  # 255 × (1 − 102 / 255)
    "LA": (png((2, 1), 8, 4, [bytes([0, 0, 0, 255])]), [WHITE, BLACK]),
    "LA of 16 bits": (png((2, 1), 16, 4, [struct.pack(">4H", 0, 0, 0, 65535)]), [WHITE, BLACK]),
    "RGBA of 16 bits": (png((2, 1), 16, 6, [struct.pack(">8H", 0, 0, 0, 0, 0, 0, 0, 65535)]), [WHITE, BLACK]),
    "palette, an index": (png((2, 1), 8, 3, [bytes([0, 1])], PALETTE, (b"tRNS", b"\0")), [WHITE, [9] * 3]),
    "palette, bytes": (png((2, 1), 8, 3, [bytes([0, 1])], PALETTE, (b"tRNS", bytes([102, 255]))), [[153] * 3, [9] * 3]),
    "key of 1 bit": (png((2, 1), 1, 0, [b"\x40"], (b"tRNS", b"\0\0")), [WHITE, WHITE]),
    "key of 2 bits": (png((4, 1), 2, 0, [b"\x6c"], (b"tRNS", b"\0\1")), [WHITE, [170] * 3]),  # levels 1, 2, 3, 0
    "key of 4 bits": (png((2, 1), 4, 0, [b"\x12"], (b"tRNS", b"\0\1")), [WHITE, [34] * 3]),
    "key of 8 bits": (png((2, 1), 8, 0, [bytes([7, 8])], (b"tRNS", b"\0\7")), [WHITE, [8] * 3]),
    "key of 16 bits": (
        png((2, 1), 16, 0, [struct.pack(">2H", 999, 257)], (b"tRNS", struct.pack(">H", 999))),
        [WHITE, [1] * 3],
    ),
    "key of colours": (png((2, 1), 8, 2, [bytes([1, 2, 3, 1, 2, 4])], (b"tRNS", b"\0\1\0\2\0\3")), [WHITE, [1, 2, 4]]),
    # Both pixels have the upper bytes 0, 0, 0; only the first has the lower ones 1, 2, 3.
    "key of 16-bit colours": (
        png((2, 1), 16, 2, [struct.pack(">6H", 1, 2, 3, 1, 2, 4)], (b"tRNS", struct.pack(">3H", 1, 2, 3))),
        [WHITE, BLACK],
    ),
    "GIF": (saved(bar(), "GIF"), [WHITE, BLACK]),
    "PA": (saved(palette_with_alpha(), "TIFF"), [WHITE, BLACK]),
    "TIFF": (saved(bar(), "TIFF"), [WHITE, BLACK]),
    "WebP": (saved(bar(), "WEBP", lossless=True), [WHITE, BLACK]),
    "ICO": (saved(bar(), "ICO", sizes=[(16, 16)]), [WHITE, BLACK]),
    **{f"animated {form}": (moving(form), [WHITE, BLACK]) for form in ("GIF", "PNG", "WEBP")},
    # Byte 20 holds the flags of the chunk VP8X; libwebp may leave out 16, alpha, though a frame has it.
    "animated WebP that denies it": ((webp := moving("WEBP"))[:20] + bytes([webp[20] & ~16]) + webp[21:], [WHITE, BLACK]),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_is_white(tmp_path: Path, name: str) -> None:
    data, wanted = TRANSPARENT[name]
    (tmp_path / "i.png").write_bytes(data)
    found, kept = images.decode_image(tmp_path / "i.png", data)
    assert not kept
    assert found.mode == "RGB"
    assert np.asarray(found)[0, :2].tolist() == wanted
    assert np.array_equal(np.asarray(found), np.asarray(images.load_image(tmp_path / "i.png")))


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_premultiplied_colours(mode: str) -> None:
    picture = Image.new("RGBA", (1, 1), (200, 200, 200, 51)).convert(mode.upper()).convert(mode)
    # A fifth of 200 and four fifths of 255 are 244; a premultiplied channel of 40 stands for 200.
    found = images.as_loaded(picture, "i")
    np.testing.assert_allclose(np.asarray(found)[0, 0], 244, atol=1)


def test_transparency_and_orientation_together(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned clockwise, the left column is the upper row
    for name, options in (("i.png", {}), ("i.webp", {"lossless": True})):
        bar().save(tmp_path / name, exif=exif, **options)
        pixels = np.asarray(images.load_image(tmp_path / name))
        assert (pixels[0] == 255).all()
        assert (pixels[1:] == 0).all()
    row = struct.pack(">6H", 1, 2, 3, 1, 2, 4)
    data = png((2, 1), 16, 2, [row], (b"tRNS", struct.pack(">3H", 1, 2, 3)), (b"eXIf", exif.tobytes()[6:]))
    (tmp_path / "key.png").write_bytes(data)
    assert np.asarray(images.load_image(tmp_path / "key.png"))[:, 0].tolist() == [WHITE, BLACK]


@pytest.mark.parametrize(
    ("data", "wanted", "kept"),
    [
        (saved(Image.new("RGB", (16, 16), (0, 255, 0)), "PNG"), [0, 255, 0], True),
        (saved(Image.new("RGB", (16, 16), (0, 255, 0)), "WEBP", lossless=True), [0, 255, 0], True),
        (saved(Image.new("RGB", (16, 16), (128, 128, 128)), "JPEG"), [128] * 3, True),
        # A camera's JPEG with a second picture behind it, which nobody shows.
        (
            saved(
                Image.new("RGB", (16, 16), (128, 128, 128)), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))]
            ),
            [128] * 3,
            True,
        ),
        (saved(Image.new("RGB", (16, 16), (0, 255, 0)), "TIFF"), [0, 255, 0], False),  # browsers show none
        (saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF"), [255, 0, 0], False),
        (
            saved(Image.new("RGB", (16, 16), "red"), "PNG", save_all=True, append_images=[Image.new("RGB", (16, 16))]),
            [255, 0, 0],
            False,  # browsers show it moving
        ),
    ],
)
def test_only_files_that_look_alike_everywhere_are_kept(data: bytes, wanted: list[int], kept: bool) -> None:
    found, same = images.decode_image("i", data)
    assert np.asarray(found)[0, 0].tolist() == wanted
    assert same is kept


def test_lab(tmp_path: Path) -> None:
    # CIELAB (53.2, 80.1, 67.2), stored as 53.2 × 2.55, 80 and 67, is the red of sRGB.
    Image.frombytes("LAB", (1, 1), bytes([136, 80, 67])).save(tmp_path / "i.tiff")
    np.testing.assert_allclose(np.asarray(images.load_image(tmp_path / "i.tiff"))[0, 0], [255, 0, 0], atol=12)


def test_grey_of_more_than_eight_bits(tmp_path: Path) -> None:
    (tmp_path / "i.pgm").write_bytes(b"P5 2 1 4095\n" + struct.pack(">2H", 0, 4095))
    assert np.asarray(images.load_image(tmp_path / "i.pgm"))[0, :, 0].tolist() == [0, 255]
    for photometric, wanted in ((1, [0, 255]), (0, [255, 0])):  # 0: a negative
        Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tmp_path / "i.tiff", tiffinfo={262: photometric})
        assert np.asarray(images.load_image(tmp_path / "i.tiff"))[0, :, 0].tolist() == wanted
    Image.fromarray(np.array([[0, 255]], dtype=np.int32)).save(tmp_path / "i.tiff")  # 255 of 2³¹: black, or white?
    with pytest.raises(ImageError, match=r"i\.tiff: the value of white is unknown"):
        images.load_image(tmp_path / "i.tiff")


def tiff12(levels: Sequence[int]) -> bytes:
    """A grey TIFF of one row and 12 bits a sample, by hand; an even number of levels."""
    pairs = zip(levels[::2], levels[1::2], strict=True)
    pixels = b"".join((first << 12 | second).to_bytes(3, "big") for first, second in pairs)
    tags = {256: len(levels), 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = 8 + len(pixels)
    return b"II*\0" + struct.pack("<I", start) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def grey16(levels: Sequence[int], form: str, **options: object) -> bytes:
    return saved(Image.fromarray(np.array([levels], dtype=np.uint16)), form, **options)


def colours16(levels: Sequence[int], *, alpha: bool = False) -> bytes:
    pixels = [(level, level, level, *([65535] if alpha else [])) for level in levels]
    row = b"".join(struct.pack(f">{len(pixel)}H", *pixel) for pixel in pixels)
    return png((len(levels), 1), 16, 6 if alpha else 2, [row])


@pytest.mark.parametrize(
    ("data", "warned", "shown"),
    [
        (grey16([0, 1023], "PNG"), 1023, 4),  # 1023 / 257
        (grey16([0, 4095], "PNG"), 4095, 16),
        (grey16([0, 4095], "TIFF"), 4095, 16),
        (grey16([0, 16383], "PNG"), 16383, 64),
        (saved(Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 0, 4095)), "TIFF"), 4095, 16),
        (saved(Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 0, 65535)), "TIFF"), None, 255),
        (colours16([0, 4095]), 3840, 15),  # Pillow keeps the upper byte: 15 × 256
        (colours16([0, 4095], alpha=True), 3840, 15),
        (grey16([0, 20000], "PNG"), None, 78),
        (grey16([0, 65535], "TIFF"), None, 255),
        (colours16([0, 65535]), None, 255),
        (grey16([0, 0], "PNG"), None, 0),
        (saved(Image.new("L", (2, 1), 3), "PNG"), None, 3),  # eight bits, simply dark
        (b"P5 2 1 4095\n" + struct.pack(">2H", 0, 4095), None, 255),  # says what white is
        (tiff12([0, 4095]), None, 255),  # so does this
    ],
)
def test_photos_of_fewer_bits_in_sixteen(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    warned: int | None,
    shown: int,
) -> None:
    monkeypatch.setattr(images, "_warned", set())
    (tmp_path / "i.png").write_bytes(data)
    for _ in range(2):  # said once
        assert np.asarray(images.load_image(tmp_path / "i.png"))[0, -1].tolist() == [shown] * 3
    assert len(caplog.records) == (0 if warned is None else 1)
    if warned is not None:
        assert "i.png: " in caplog.text
        assert f"about {warned} of 65535" in caplog.text
        assert "10, 12 or 14 bits" in caplog.text


def test_kinds_that_pillow_knows_by_name_alone(tmp_path: Path) -> None:
    (tmp_path / "i.png").write_bytes(b"\x89HDF\r\n\x1a\nrest")
    with pytest.raises(ImageError, match=r"i\.png: HDF5 is not supported\. Save it as PNG or JPEG"):
        images.load_image(tmp_path / "i.png")


def test_trainers_may_see_something_else(tmp_path: Path) -> None:
    for name, (data, _) in TRANSPARENT.items():
        (tmp_path / "i.png").write_bytes(data)
        assert images.check_image(tmp_path / "i.png")[1] is False, name
    Image.fromarray(np.array([[0, 1000]], dtype=np.uint16)).save(tmp_path / "grey16.png")
    assert not images.check_image(tmp_path / "grey16.png")[1]
    for mode in ("RGB", "L", "1", "P", "CMYK"):
        Image.new(mode, (3, 2)).save(tmp_path / "i.tiff")
        assert images.check_image(tmp_path / "i.tiff")[1], mode
    Image.new("RGBA", (3, 2), "red").save(tmp_path / "opaque.png")
    assert images.check_image(tmp_path / "opaque.png")[1]


@pytest.mark.parametrize(
    ("size", "fine"),
    [
        ((1, 1), True),
        ((10_000, 10_000), True),
        ((10_000, 10_001), False),
        ((0, 4), False),
        ((4, 0), False),
        ((-1, 4), False),
    ],
)
def test_sizes_by_hand(size: tuple[int, int], fine: bool) -> None:
    """From a pixel to a hundred million."""
    assert (images.size_fault(size) == "") is fine


def test_no_pixels_and_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ((0, 4), (4, 0)):
        (tmp_path / "i.png").write_bytes(png(size, 8, 2, [b""] * size[1]))
        with pytest.raises(ImageError, match=r"i\.png"):
            images.load_image(tmp_path / "i.png")
    # An icon that says 16×16 and holds 64×64.
    data = bytearray(saved(Image.new("RGB", (64, 64)), "ICO", sizes=[(64, 64)]))
    data[6:8] = bytes([16, 16])
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "i.ico").write_bytes(data)
    with pytest.raises(ImageError, match="64×64"), pytest.warns(UserWarning, match="expected size"):
        images.load_image(tmp_path / "i.ico")


def test_a_data_url_is_exact_when_small_and_bounded_when_large() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 512, 3), dtype=np.uint8))

    def decoded(image: Image.Image, max_side: int | None) -> tuple[str, Image.Image]:
        kind, _, data = images.data_url(image, max_side=max_side).partition(";base64,")
        return kind, Image.open(io.BytesIO(base64.b64decode(data)))

    small = noise.crop((0, 0, 256, 100))
    kind, found = decoded(small, 640)  # not enlarged
    assert (kind, found.size, found.tobytes()) == ("data:image/png", (256, 100), small.tobytes())
    for max_side, size in ((None, (512, 300)), (512, (512, 300)), (400, (400, 234))):
        kind, found = decoded(noise, max_side)
        assert (kind, found.size) == ("data:image/jpeg", size)
    assert noise.size == (512, 300)  # ours is left as it was


@pytest.mark.parametrize("loaded", [False, True])
def test_an_opened_image_is_seen_as_its_file_is(tmp_path: Path, loaded: bool) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    ramp = np.arange(0, 60000, 10000, dtype=np.uint16).reshape(2, 3)
    made = {
        "clear.png": (Image.new("RGBA", (3, 2), (255, 0, 0, 0)), {}),
        "half.png": (Image.new("LA", (3, 2), (0, 128)), {}),
        "grey.png": (Image.fromarray(ramp), {}),
        "turned.tiff": (Image.fromarray(ramp), {"exif": turned, "compression": "tiff_lzw"}),
        "turned.png": (Image.fromarray(ramp), {"exif": turned}),
        "key.png": (Image.new("RGB", (3, 2), (9, 8, 7)), {"transparency": (9, 8, 7)}),
        "palette.gif": (Image.new("P", (3, 2), 1), {"transparency": 1}),
        "plain.jpg": (Image.new("RGB", (3, 2), (9, 8, 7)), {"exif": turned}),
    }
    for name, (picture, options) in made.items():
        path = tmp_path / name
        picture.save(path, **options)  # type: ignore[arg-type]
        with Image.open(path) as opened:
            if loaded:
                opened.load()
            size = opened.size
            found = images.as_loaded(opened, name)
            assert (found.mode, opened.size) == ("RGB", size)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(images.load_image(path)), err_msg=name)
    # 20000 / 257 = 77.8; and what is made in memory has no file.
    assert images.as_loaded(Image.fromarray(np.full((1, 1), 20000, np.uint16)), "").getpixel((0, 0)) == (78, 78, 78)
    assert images.as_loaded(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "").getpixel((0, 0)) == (255, 255, 255)


def test_an_opened_image_that_cannot_be_shown_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    with pytest.raises(ImageError, match=r"^task\[0\]: the image is broken"):
        images.as_loaded(Image.open(tmp_path / "cut.png"), "task[0]")
    with pytest.raises(ImageError, match=r"^task\[0\]: the value of white is unknown, got values from "):
        images.as_loaded(Image.fromarray(np.array([[0.1, 0.9]], np.float32)), "task[0]")
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 6)
    images.as_loaded(Image.new("L", (3, 2)), "task[0]")
    with pytest.raises(ImageError, match=r"^task\[0\]: the size must be 1 to 6 pixels, got 7×1"):
        images.as_loaded(Image.new("L", (7, 1)), "task[0]")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_turned_tiff_is_upright(tmp_path: Path, compression: str) -> None:
    values = np.arange(0, 60, 10, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "i.tiff"
    Image.fromarray(values).save(path, exif=exif, compression=compression)
    assert images.image_size(path) == images.load_image(path).size == (2, 3)
    with Image.open(path) as opened:
        theirs = images.as_loaded(opened, "i")
    for found in (images.load_image(path), theirs):
        assert np.asarray(found)[..., 0].tolist() == [[30, 0], [40, 10], [50, 20]]
