from __future__ import annotations

import io
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
    levels = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "i.png")
    assert np.asarray(images.load_image(tmp_path / "i.png"))[0, :, 0].tolist() == [0, 1, 128, 255]
    for values in (np.array([[0.1, 0.9]], dtype=np.float32), np.array([[-1, 70000]], dtype=np.int32)):
        Image.fromarray(values).save(tmp_path / "i.tiff")
        with pytest.raises(ImageError, match="what is white"):
            images.load_image(tmp_path / "i.tiff")


def test_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: turn it clockwise
    picture.save(tmp_path / "i.png", exif=exif)
    found = images.load_image(tmp_path / "i.png")
    assert found.size == images.image_size(tmp_path / "i.png") == (2, 3)
    np.testing.assert_array_equal(np.asarray(found), np.rot90(np.asarray(picture), -1))


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
    with pytest.raises(ImageError, match="not an image"):
        images.image_size(tmp_path / "text.jpg")
    Image.new("RGB", (20, 20)).save(tmp_path / "big.png")
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 399)
    with pytest.raises(ImageError, match="20×20"):
        images.load_image(tmp_path / "big.png")
