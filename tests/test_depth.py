from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sifthinker import depth_files, literals
from sifthinker.depth import DepthMap, agrees
from sifthinker.depth_cache import DepthCache, cached_depth
from sifthinker.depth_files import depth_file_size
from sifthinker.errors import BoxError, DepthError


class TestMap:
    @pytest.mark.parametrize(
        ("values", "words"),
        [
            (np.zeros((2, 2, 3)), "shape"),
            (np.zeros((0, 3)), "shape"),
            ([[0.0, np.nan]], "got nan at row 0, column 1"),
            ([[0.0, 1.5]], "0 to 1.5"),
            ([[-0.1, 0.5]], "-0.1"),
        ],
    )
    def test_what_is_no_depth_is_refused(self, values: object, words: str) -> None:
        with pytest.raises(DepthError, match=words):
            DepthMap(values)

    def test_rounding_outside_is_clipped(self) -> None:
        assert DepthMap([[-2e-7, 1.0000002]]).values.tolist() == [[0, 1]]
        for wrong in (-2e-5, 1.00002):
            with pytest.raises(DepthError, match=f"{wrong:g}"):
                DepthMap([[0.5, wrong]])

    def test_a_mask_of_another_shape_is_refused(self) -> None:
        with pytest.raises(DepthError, match="valid must have the shape of the depth map"):
            DepthMap(np.zeros((2, 2)), np.ones((2, 3)))

    def test_nan_behind_the_mask_does_not_matter(self) -> None:
        assert DepthMap([[0.5, np.nan]], [[True, False]]).mean([[0, 0, 1, 1]]) == pytest.approx([0.5])

    def test_a_mask_without_holes_is_none(self) -> None:
        depth = DepthMap([[0.5, 0.25]], [[True, True]])
        assert depth.valid is None
        assert depth.digest() == DepthMap([[0.5, 0.25]]).digest()

    def test_maps_that_differ_have_different_digests(self) -> None:
        """Files are named by them: shape, holes and kind of numbers count as well as the bytes."""
        maps = [
            DepthMap(np.zeros((2, 3))),
            DepthMap(np.zeros((3, 2))),
            DepthMap(np.zeros((2, 3)), np.eye(2, 3)),
            DepthMap(np.zeros((2, 3)), 1 - np.eye(2, 3)),
            DepthMap.from_levels(np.zeros((2, 3), dtype=np.uint8)),
            DepthMap(np.full((2, 3), 0.1)),
        ]
        assert len({depth.digest() for depth in maps}) == len(maps)

    def test_what_models_and_people_see_by_hand(self) -> None:
        for depth in (
            DepthMap([[0.0, 0.5, 1.0, 0.0]], [[True, True, True, False]]),
            DepthMap([[0.0, 0.5, 1.0, 0.7]], [[True, True, True, False]]),
        ):
            # Near is dark, 0.5 × 255 = 127.5 is rounded to even, holes are white.
            assert np.asarray(depth.view())[0].tolist() == [[0] * 3, [128] * 3, [255] * 3, [255] * 3]
            # Near is red, far is blue, holes are black: the ends of Spectral_r.
            seen = np.asarray(depth.coloured())[0].tolist()
            assert (seen[0], seen[2], seen[3]) == ([158, 1, 66], [94, 79, 162], [0, 0, 0])
        levels = DepthMap.from_levels(np.array([[0, 7, 255]], dtype=np.uint8))
        assert np.asarray(levels.view())[0].tolist() == [[0] * 3, [7] * 3, [255] * 3]

    def test_values_cannot_be_changed_under_the_sums(self, ramp: DepthMap) -> None:
        with pytest.raises(ValueError, match="read-only"):
            ramp.values[0, 0] = 1

    def test_metric_depth_is_scaled_to_the_image(self) -> None:
        np.testing.assert_allclose(DepthMap.from_metric([[1000, 2000, 3000]]).values, [[0, 0.5, 1]])
        np.testing.assert_allclose(DepthMap.from_metric([[7, 7]]).values, [[0, 0]])
        with pytest.raises(DepthError, match="hole"):
            DepthMap.from_metric([[0, 0]], [[False, False]])


class TestMean:
    def test_no_boxes(self, ramp: DepthMap) -> None:
        assert ramp.mean([]).shape == (0,)

    def test_by_hand(self, ramp: DepthMap) -> None:
        # Columns 2, 3, 4: (0.2 + 0.3 + 0.4) / 3.
        assert ramp.mean([[0.2, 0, 0.5, 1]]) == pytest.approx([0.3])
        # 0.25 to 0.45 touches columns 2, 3, 4 as well.
        assert ramp.mean([[0.25, 0, 0.45, 1]]) == pytest.approx([0.3])
        # Smaller than a pixel: the pixel it lies in.
        assert ramp.mean([[0.71, 0.5, 0.72, 0.51]]) == pytest.approx([0.7])
        assert ramp.mean([[0, 0, 1, 1]]) == pytest.approx([0.45])

    def test_decimals_that_floating_point_misses(self) -> None:
        # 0.57 * 100 is 56.99999999999999 and 0.07 * 100 is 7.000000000000001; the boxes end at pixels 57 and 7 all the same.
        columns = DepthMap(np.tile(np.arange(100) / 100, (2, 1)))
        assert columns.mean([[0.57, 0, 0.58, 1]]) == pytest.approx([0.57])
        assert columns.mean([[0.06, 0, 0.07, 1]]) == pytest.approx([0.06])

    def test_slivers_take_the_pixel_they_lie_in(self, ramp: DepthMap) -> None:
        sides = [[0.2, 0, 0.2 + 1e-12, 1], [1 - 1e-12, 0, 1, 1], [0, 0, 1e-12, 1], [0, 1 - 1e-12, 1, 1]]
        assert ramp.mean(sides) == pytest.approx([0.2, 0.9, 0, 0.45])

    def test_a_large_map_does_not_overflow(self) -> None:
        # 17,220,000 pixels of 255: more than 2³².
        depth = DepthMap.from_levels(np.full((4200, 4100), 255, dtype=np.uint8))
        assert depth.mean([[0, 0, 1, 1]]) == [1]
        assert depth.full_nbytes == 4200 * 4100 + 4201 * 4101 * 8

    @given(st.integers(1, 40), st.integers(1, 40), st.lists(st.tuples(*[st.integers(0, 999)] * 4), max_size=6))
    def test_equals_the_pixels(self, width: int, height: int, corners: list[tuple[int, ...]]) -> None:
        values = np.random.default_rng(width * 100 + height).random((height, width))
        boxes = [
            [min(a, c) / 1000, min(b, d) / 1000, (max(a, c) + 1) / 1000, (max(b, d) + 1) / 1000] for a, b, c, d in corners
        ]
        found = DepthMap(values).mean(boxes)
        for box, mean in zip(boxes, found, strict=True):
            x1, y1 = (
                math.floor(round(side * 1000) * length / 1000) for side, length in zip(box[:2], (width, height), strict=True)
            )
            x2, y2 = (
                math.ceil(round(side * 1000) * length / 1000) for side, length in zip(box[2:], (width, height), strict=True)
            )
            assert mean == pytest.approx(values[y1:y2, x1:x2].mean(), abs=1e-5)

    def test_holes_do_not_count(self) -> None:
        depth = DepthMap([[0.2, 0.0, 0.6]], [[True, False, True]])
        assert depth.mean([[0, 0, 1, 1]]) == pytest.approx([0.4])
        assert np.isnan(depth.mean([[1 / 3, 0, 2 / 3, 1]])[0])

    def test_means_of_levels_are_the_same_before_and_after_the_sums_are_kept(self) -> None:
        depth = DepthMap.from_levels(np.random.default_rng(0).integers(0, 256, (31, 47), dtype=np.uint8))
        boxes = [[0, 0, 1, 1], [0.1, 0.3, 0.4, 0.9], [0.5, 0.5, 0.51, 0.52]]
        first = depth.mean(boxes)
        for _ in range(9):
            np.testing.assert_array_equal(depth.mean(boxes), first)
        assert "_sums" in vars(depth)
        depth.release()
        np.testing.assert_array_equal(depth.mean(boxes), first)
        assert "_sums" not in vars(depth)

    def test_bad_boxes_are_refused(self, ramp: DepthMap) -> None:
        with pytest.raises(BoxError):
            ramp.mean([[0, 0, 2, 1]])


class TestFiles:
    @given(st.integers(0, 2**32 - 1))
    def test_our_own_format_is_lossless_to_a_level(self, seed: int) -> None:
        import tempfile

        values = np.random.default_rng(seed).random((5, 7))
        with tempfile.TemporaryDirectory() as folder:
            DepthMap(values).write(Path(folder) / "d.png")
            back = DepthMap.read(Path(folder) / "d.png")
        assert np.abs(back.values - values).max() <= 0.5 / 65535 + 1e-7

    @pytest.mark.parametrize("near", ["low", "high"])
    def test_eight_bits_stay_eight_bits(self, tmp_path: Path, near: str) -> None:
        levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
        Image.fromarray(levels).save(tmp_path / "g.png")
        depth = DepthMap.read(tmp_path / "g.png", near=near)
        depth.write(tmp_path / "d.png")
        assert Image.open(tmp_path / "d.png").mode == "L"
        back = DepthMap.read(tmp_path / "d.png")
        assert back.eight_bit
        np.testing.assert_array_equal(back.values, depth.values)
        assert back.digest() == depth.digest()
        np.testing.assert_array_equal(np.asarray(back.view()), np.asarray(Image.open(tmp_path / "d.png").convert("RGB")))
        boxes = [[0, 0, 1, 1], [0.1, 0.3, 0.4, 0.9]]
        np.testing.assert_allclose(depth.mean(boxes), DepthMap(depth.values).mean(boxes), rtol=1e-6)
        with pytest.raises(DepthError, match="has sifthinker's mark, so low values are near"):
            DepthMap.read(tmp_path / "d.png", near="high")

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (300, 2)])
    def test_the_written_view_is_what_a_model_sees(self, tmp_path: Path, shape: tuple[int, int]) -> None:
        draw = np.random.default_rng(0)
        for valid in (None, draw.random(shape) < 0.5):
            depth = DepthMap(draw.random(shape), valid)
            depth.write_view(tmp_path / "v.png")
            Image.open(tmp_path / "v.png").verify()  # every chunk's checksum
            written = Image.open(tmp_path / "v.png").convert("RGB")
            np.testing.assert_array_equal(np.asarray(written), np.asarray(depth.view()))

    @pytest.mark.parametrize("valid", [None, [[True, False, True]]])
    def test_a_rounded_map_is_the_one_that_is_read_back(self, tmp_path: Path, valid: object) -> None:
        depth = DepthMap([[0.0, 0.3, 0.123456789]], valid)
        depth.write(tmp_path / "d.png")
        assert depth.rounded().digest() == DepthMap.read(tmp_path / "d.png").digest() != depth.digest()

    def test_levels_are_bytes(self) -> None:
        for wrong in ([[0.5]], np.zeros(3, dtype=np.uint8), np.zeros((0, 2), dtype=np.uint8)):
            with pytest.raises(DepthError, match="unsigned bytes"):
                DepthMap.from_levels(wrong)

    def test_holes_survive(self, tmp_path: Path) -> None:
        DepthMap([[0.0, 0.5, 1.0]], [[True, False, True]]).write(tmp_path / "d.png")
        back = DepthMap.read(tmp_path / "d.png")
        np.testing.assert_array_equal(back.valid, [[True, False, True]])
        np.testing.assert_allclose(back.values, [[0, 0, 1]], atol=2e-5)

    def test_grey_needs_its_polarity(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, 51, 255]], dtype=np.uint8)).save(tmp_path / "g.png")
        with pytest.raises(DepthError, match="near='low'"):
            DepthMap.read(tmp_path / "g.png")
        np.testing.assert_allclose(DepthMap.read(tmp_path / "g.png", near="low").values, [[0, 0.2, 1]])
        np.testing.assert_allclose(DepthMap.read(tmp_path / "g.png", near="high").values, [[1, 0.8, 0]])

    def test_spectral_is_decoded_exactly(self, tmp_path: Path) -> None:
        matplotlib = pytest.importorskip("matplotlib")
        # As Depth Anything V2 writes it: disparity levels through the colour map, truncated to bytes.
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        colours = (matplotlib.colormaps["Spectral_r"](levels)[..., :3] * 255).astype(np.uint8)
        Image.fromarray(colours).save(tmp_path / "s.png")
        np.testing.assert_allclose(DepthMap.read(tmp_path / "s.png").values, 1 - levels / 255, atol=1e-7)
        np.testing.assert_allclose(DepthMap.read(tmp_path / "s.png", near="low").values, levels / 255, atol=1e-7)

    def test_what_we_colour_for_people_is_what_others_colour(self, tmp_path: Path, ramp: DepthMap) -> None:
        ramp.coloured().save(tmp_path / "c.png")
        np.testing.assert_allclose(DepthMap.read(tmp_path / "c.png").values, ramp.values, atol=0.5 / 255 + 1e-6)

    def test_other_colours_are_not_depth(self, tmp_path: Path) -> None:
        Image.new("RGB", (4, 3), (1, 2, 3)).save(tmp_path / "s.png")
        with pytest.raises(DepthError, match=r"12 of 12 pixels.*\[1, 2, 3\]"):
            DepthMap.read(tmp_path / "s.png")

    def test_one_other_colour_in_a_large_file_is_found(self, tmp_path: Path) -> None:
        colours = np.array(DepthMap(np.random.default_rng(0).random((300, 200))).coloured())
        # Red and blue are looked up: another green, none of theirs, and the pair that stands for no colour.
        red, green, blue = colours[0, 0].tolist()
        for other in ([red, green ^ 1, blue], [1, 2, 3], [0, 0, 0]):
            colours[299, 198] = other
            Image.fromarray(colours).save(tmp_path / "s.png")
            with pytest.raises(DepthError, match=rf"1 of 60000 pixels.*row 299, column 198: {re.escape(str(other))}"):
                DepthMap.read(tmp_path / "s.png")

    def test_colours_may_come_with_transparency(self, tmp_path: Path, ramp: DepthMap) -> None:
        picture = ramp.coloured()
        picture.save(tmp_path / "one.png", transparency=(1, 2, 3))
        picture.convert("RGBA").save(tmp_path / "channel.png")
        for name in ("one.png", "channel.png"):
            np.testing.assert_allclose(DepthMap.read(tmp_path / name).values, ramp.values, atol=0.5 / 255 + 1e-6)

    def test_grey_may_be_written_three_times(self, tmp_path: Path) -> None:
        levels = np.arange(12, dtype=np.uint8).reshape(3, 4)
        Image.fromarray(np.repeat(levels[..., None], 3, axis=2)).save(tmp_path / "g.png")
        for encoding in ("auto", "grey8"):
            found = DepthMap.read(tmp_path / "g.png", encoding=encoding, near="high")
            np.testing.assert_allclose(found.values, 1 - levels / 255, atol=1e-7)

    def test_millimetres(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, 1000, 3000, 2000]], dtype=np.uint16)).save(tmp_path / "mm.png")
        depth = DepthMap.read(tmp_path / "mm.png", encoding="millimetres")
        np.testing.assert_allclose(depth.values, [[0, 0, 1, 0.5]])
        np.testing.assert_array_equal(depth.valid, [[False, True, True, True]])
        Image.fromarray(np.zeros((2, 2), dtype=np.uint16)).save(tmp_path / "none.png")
        with pytest.raises(DepthError, match=r"none\.png.*hole"):
            DepthMap.read(tmp_path / "none.png", encoding="millimetres")

    def test_npy(self, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", np.array([[0.25, 1.0]]))
        np.testing.assert_allclose(DepthMap.read(tmp_path / "d.npy").values, [[0.25, 1]])
        np.testing.assert_allclose(DepthMap.read(tmp_path / "d.npy", near="high").values, [[0.75, 0]])
        np.save(tmp_path / "nan.npy", np.array([[np.nan]]))
        with pytest.raises(DepthError, match=r"nan\.npy.*NaN"):
            DepthMap.read(tmp_path / "nan.npy")
        np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(DepthError, match=r"objects\.npy"):
            DepthMap.read(tmp_path / "objects.npy")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"encoding": "png"}, "unknown depth encoding"),
            ({"near": "left"}, "near must be"),
            ({"encoding": "grey8", "near": "low"}, "8-bit grey image, got 16-bit"),
            ({"near": "high"}, "has sifthinker's mark, so low values are near"),
        ],
    )
    def test_misuse_is_named(self, tmp_path: Path, ramp: DepthMap, options: dict[str, str], words: str) -> None:
        ramp.write(tmp_path / "d.png")
        with pytest.raises(DepthError, match=words):
            DepthMap.read(tmp_path / "d.png", **options)

    def test_broken_and_missing_files(self, tmp_path: Path) -> None:
        with pytest.raises(DepthError, match="no such"):
            DepthMap.read(tmp_path / "none.png")
        (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
        with pytest.raises(DepthError, match=r"bad\.png: cannot read the depth file: unknown image format"):
            DepthMap.read(tmp_path / "bad.png")
        with pytest.raises(DepthError, match="is a folder"):
            DepthMap.read(tmp_path)
        with pytest.raises(DepthError, match=r"bad\.png"):
            depth_file_size(tmp_path / "bad.png")
        DepthMap(np.random.default_rng(0).random((40, 50))).coloured().save(tmp_path / "cut.png")
        (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
        with pytest.raises(DepthError, match=r"cut\.png: cannot read.*truncated"):
            DepthMap.read(tmp_path / "cut.png")

    def test_one_bit_and_palette_images(self, tmp_path: Path, ramp: DepthMap) -> None:
        Image.new("1", (2, 2), 1).save(tmp_path / "bit.png")
        assert DepthMap.read(tmp_path / "bit.png", near="low").values.tolist() == [[1, 1], [1, 1]]
        ramp.coloured().convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
        np.testing.assert_allclose(DepthMap.read(tmp_path / "palette.png").values, ramp.values, atol=0.002)

    @pytest.mark.parametrize("values", [np.array([["a"]]), np.array([[1j]]), np.array([[True, False]])])
    def test_arrays_of_no_real_numbers(self, tmp_path: Path, values: np.ndarray) -> None:
        np.save(tmp_path / "d.npy", values)
        with pytest.raises(DepthError, match="real numbers"):
            DepthMap.read(tmp_path / "d.npy")

    def test_arrays_that_pretend_to_be_huge(self, tmp_path: Path) -> None:
        with open(tmp_path / "d.npy", "wb") as stream:
            header = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**6)}
            np.lib.format.write_array_header_1_0(stream, header)
        with pytest.raises(DepthError, match="cannot read the depth array"):
            DepthMap.read(tmp_path / "d.npy")

    def test_arrays_that_pretend_to_be_archives(self, tmp_path: Path) -> None:
        (tmp_path / "d.npy").write_bytes(b"PK\x03\x04rubbish")
        with pytest.raises(DepthError, match="cannot read"):
            DepthMap.read(tmp_path / "d.npy")

    def test_the_callers_array_stays_its_own(self) -> None:
        for values, made in (
            (np.zeros((2, 2), dtype=np.float32), DepthMap),
            (np.zeros((2, 2), dtype=np.uint8), DepthMap.from_levels),
        ):
            depth = made(values)
            values[0, 0] = 1
            assert depth.values[0, 0] == 0
            assert depth.mean([[0, 0, 1, 1]]) == [0]

    def test_size_without_pixels(self, tmp_path: Path, ramp: DepthMap) -> None:
        ramp.write(tmp_path / "d.png")
        np.save(tmp_path / "d.npy", np.zeros((3, 5)))
        assert depth_file_size(tmp_path / "d.png") == (10, 10)
        assert depth_file_size(tmp_path / "d.npy") == (5, 3)


def saved(path: Path, values: np.ndarray) -> Path:
    """An array in a file of the form that the name's ending says."""
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez_compressed(path, values)
    else:
        Image.fromarray(values).save(path, "PPM" if path.suffix == ".pfm" else None)
    return path


METRES = np.array([[0.5, 1.5], [1.0, 2.5]])  # scaled: 0, 0.5; 0.25, 1
CENTIMETRES = (METRES * 100).astype(np.uint16)
SCALED = [[0, 0.5], [0.25, 1]]


class TestFilesOfOthers:
    """Distances, disparity and inverse depth in the files that people have, whatever stands for "no reading" in them."""

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("d.npy", METRES),
            ("d.npy", METRES.astype(np.float32)),
            ("d.npy", METRES.astype(np.float16)),
            ("d.npy", METRES.astype(">f4")),
            ("d.npy", np.asfortranarray(METRES)),
            ("d.npy", CENTIMETRES),
            ("d.npy", CENTIMETRES.astype(np.int64)),
            ("d.npy", METRES[None]),
            ("d.npy", METRES[..., None]),
            ("d.npz", METRES),
            ("d.tiff", METRES.astype(np.float32)),
            ("d.tiff", CENTIMETRES.astype(np.int32)),
            ("d.tiff", CENTIMETRES),
            ("d.png", CENTIMETRES),
            ("d.pfm", METRES.astype(np.float32)),
            ("depth", METRES),  # known by its content
        ],
    )
    @pytest.mark.parametrize("encoding", ["metres", "millimetres", "inverse"])
    def test_any_unit_in_any_form(self, tmp_path: Path, name: str, values: np.ndarray, encoding: str) -> None:
        path = saved(tmp_path / (name if "." in name else "d.npy"), values).rename(tmp_path / name)
        found = DepthMap.read(path, encoding=encoding)
        wanted = np.array(SCALED) if encoding != "inverse" else 1 - np.array(SCALED)
        np.testing.assert_allclose(found.values, wanted, atol=1e-6)
        assert found.valid is None
        assert depth_file_size(path) == (2, 2)
        with pytest.raises(DepthError, match=rf"{name}.*--depth-encoding.*metres.*inverse"):
            DepthMap.read(path)  # not told what they are

    @pytest.mark.parametrize(
        ("codes", "kind", "holes"),
        [
            ([0], np.uint16, ()),
            ([0, 65535], np.uint16, ()),
            ([10000, 0], np.uint16, (10000,)),
            ([0, -1, -999], np.int32, ()),
            ([np.nan, np.inf, -np.inf, -1.0, 0.0], np.float32, ()),
            ([1e10], np.float32, (1e10,)),
            ([65504], np.float16, (65504,)),
            ([123.456, 7.89], np.float32, (123.456, 7.89)),
            ([np.finfo(np.float32).max], np.float32, (float(np.finfo(np.float32).max),)),
        ],
    )
    def test_no_reading(self, tmp_path: Path, codes: list[float], kind: type, holes: tuple[float, ...]) -> None:
        values = np.array([[100, 200, 300, *codes]]).astype(kind)
        found = DepthMap.read(saved(tmp_path / "d.npy", values), encoding="metres", holes=holes)
        np.testing.assert_allclose(found.values, [[0, 0.5, 1, *(0 for _ in codes)]])
        assert found.valid is not None
        assert found.valid.tolist() == [[True] * 3 + [False] * len(codes)]

    def test_no_reading_of_disparity(self, tmp_path: Path) -> None:
        # 0 is infinitely far unless it is said to be a code; 65535 is what the nearest pixel is often scaled to.
        path = saved(tmp_path / "d.png", np.array([[0, 65535]], dtype=np.uint16))
        assert DepthMap.read(path, encoding="inverse").values.tolist() == [[1, 0]]
        assert DepthMap.read(path, encoding="inverse", holes=[0]).valid.tolist() == [[False, True]]
        path = saved(tmp_path / "d.npy", np.array([[-1, 4, 0, np.inf, 2]]))
        found = DepthMap.read(path, encoding="inverse")
        assert found.values.tolist() == [[0, 0, 1, 0, 0.5]]
        assert found.valid.tolist() == [[False, True, True, False, True]]

    @pytest.mark.parametrize(
        ("name", "values", "options", "valid"),
        [
            ("g.png", np.array([[0, 51, 255]], dtype=np.uint8), {"near": "low", "holes": [0]}, [False, True, True]),
            ("g.png", np.array([[255, 204, 0]], dtype=np.uint8), {"near": "high", "holes": [255]}, [False, True, True]),
            ("s.png", np.array([[0, 13107, 65535]], dtype=np.uint16), {"near": "low", "holes": [0]}, [False, True, True]),
            ("d.npy", np.array([[-1, 0.2, 1]]), {"holes": [-1]}, [False, True, True]),
            ("d.tiff", np.array([[np.nan, 0.2, 1]], dtype=np.float32), {}, [False, True, True]),
        ],
    )
    def test_holes_in_depth(self, tmp_path: Path, name: str, values: np.ndarray, options: dict, valid: list[bool]) -> None:
        found = DepthMap.read(saved(tmp_path / name, values), **options)
        np.testing.assert_allclose(found.values, [[0, 0.2, 1]], atol=1e-7)
        assert found.valid.tolist() == [valid]

    @pytest.mark.parametrize("encoding", ["metres", "inverse"])
    def test_a_flat_scene_is_near(self, tmp_path: Path, encoding: str) -> None:
        path = saved(tmp_path / "d.npy", np.full((1, 3), 5.0))
        assert DepthMap.read(path, encoding=encoding).values.tolist() == [[0, 0, 0]]

    def test_transparent_pixels_are_holes(self, tmp_path: Path) -> None:
        picture = Image.fromarray(np.array([[0, 51, 255]], dtype=np.uint8))
        picture.putalpha(Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint8)))
        picture.save(tmp_path / "la.png")
        assert DepthMap.read(tmp_path / "la.png", near="low").valid.tolist() == [[False, True, True]]

    @pytest.mark.parametrize(("top", "refused"), [(900, False), (30001, True), (1e10, True)])
    def test_a_value_that_can_be_no_distance(self, tmp_path: Path, top: float, refused: bool) -> None:
        path = saved(tmp_path / "d.npy", np.array([[100, 300, top]]))  # 300 × 100 = 30,000
        if refused:
            code = repr(float(top)).removesuffix(".0")
            with pytest.raises(DepthError, match=rf"d\.npy: .*--depth-hole {code}") as caught:
                DepthMap.read(path, encoding="metres")
            said = float(str(caught.value).split("--depth-hole ")[1].split()[0])
            assert DepthMap.read(path, encoding="metres", holes=[said]).values.tolist() == [[0, 1, 0]]
        else:
            assert DepthMap.read(path, encoding="metres").values.tolist() == [[0, 0.25, 1]]

    def test_sixteen_bits_of_disparity(self, tmp_path: Path) -> None:
        """As MiDaS writes it: 65535 is nearest."""
        path = saved(tmp_path / "m.png", np.array([[65535, 6554]], dtype=np.uint16))  # 6554 / 65535 = 0.1
        np.testing.assert_allclose(DepthMap.read(path, near="high").values, [[0, 0.9]], atol=1e-5)
        assert DepthMap.read(path, encoding="inverse").values.tolist() == [[0, 1]]

    def test_sixteen_bits_without_our_mark(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(depth_files, "_warned", set())
        full = saved(tmp_path / "full.png", np.array([[0, 13107, 65535]], dtype=np.uint16))
        low = saved(tmp_path / "low.png", np.array([[500, 8000]], dtype=np.uint16))
        for options in ({"near": "low"}, {"encoding": "sif"}, {"encoding": "inverse"}, {"encoding": "millimetres"}):
            DepthMap.read(full, **options)  # told
        DepthMap.read(low, encoding="millimetres")
        assert caplog.records == []
        for _ in range(2):
            np.testing.assert_allclose(DepthMap.read(full).values, [[0, 0.2, 1]])
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "full.png: " in caplog.text
        assert "--depth-encoding" in caplog.text
        with pytest.raises(DepthError, match=r"low\.png: the values from 500 to 8000 of 65535.*millimetres"):
            DepthMap.read(low)
        assert DepthMap.read(low, encoding="sif").values[0, 0] == pytest.approx(500 / 65535)
        assert "low.png: the values from 500 to 8000" in caplog.text

    @pytest.mark.parametrize(("high", "refused"), [(10921, True), (10922, False)])
    def test_what_looks_like_distances(self, tmp_path: Path, high: int, refused: bool) -> None:
        """Below a sixth of the range, 65535 / 6 = 10922.5."""
        path = saved(tmp_path / "d.png", np.array([[0, high]], dtype=np.uint16))
        if refused:
            with pytest.raises(DepthError, match="look like distances"):
                DepthMap.read(path)
        else:
            assert DepthMap.read(path).values[0, 1] == pytest.approx(high / 65535)

    def test_our_own_files_are_marked(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for number, depth in enumerate((DepthMap([[0.0, 0.1]]), DepthMap([[0.0, 0.1]], [[True, False]]))):
            depth.write(tmp_path / f"{number}.png")
            assert DepthMap.read(tmp_path / f"{number}.png").values[0, 0] <= 1 / 65535
            for options in ({"near": "high"}, {"encoding": "inverse"}, {"encoding": "millimetres"}):
                with pytest.raises(DepthError, match=rf"{number}\.png: .*mark.*--depth-encoding auto"):
                    DepthMap.read(tmp_path / f"{number}.png", **options)
        assert caplog.records == []

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda path: np.save(path, np.zeros(4)), r"shape \(H, W\), got float64 of shape \(4,\)"),
            (lambda path: np.save(path, np.zeros((2, 2, 3))), r"got float64 of shape \(2, 2, 3\)"),
            (lambda path: np.save(path, np.zeros((0, 2))), "2×0"),
            (lambda path: np.save(path, np.zeros((2, 2), dtype="M8[s]")), "got datetime64"),
            (lambda path: path.write_bytes(b""), "cannot read the depth array"),
            (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "cannot read the depth array"),
            (lambda path: path.write_bytes(b"\x76\x2f\x31\x01rest"), r"OpenEXR.*\.pfm"),
            (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\nrest"), r"HDF5 is not supported. Convert the file to \.npy"),
            (lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file"), r"a MATLAB file is not supported"),
            (
                lambda path: path.write_bytes(b"GRIB000\1rest of the file"),
                r"cannot read the depth file: GRIB is not supported",
            ),
            (lambda path: _archive(path, a=np.zeros((2, 2)), b=np.zeros((2, 2))), r"got 2 \(a, b\)"),
            (lambda path: _archive(path, a=np.zeros((2, 2)))[:60], "cannot read the depth array"),
            (lambda path: Image.new("CMYK", (2, 2)).save(path, "TIFF"), "mode CMYK"),
            (lambda path: path.write_bytes(b"GIF89a rubbish"), r"cannot read the depth file.*\.pfm"),
        ],
    )
    def test_what_holds_no_depth_is_named_with_its_file(self, tmp_path: Path, make: Callable, words: str) -> None:
        path = tmp_path / ("d.tiff" if "CMYK" in words or "file" in words or "MATLAB" in words else "d.npy")
        data = make(path)
        if isinstance(data, bytes):
            path.write_bytes(data)
        for read in (DepthMap.read, depth_file_size) if "CMYK" not in words else (DepthMap.read,):
            with pytest.raises(DepthError, match=r"d\.\w+: .*" + words):
                read(path)

    def test_sizes_are_bounded_before_anything_is_decoded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = [
            saved(tmp_path / name, np.ones((20, 20), dtype=np.float32)) for name in ("d.npy", "d.npz", "d.tiff", "d.pfm")
        ]
        monkeypatch.setattr("sifthinker.images.MAX_IMAGE_PIXELS", 399)
        for path in files:
            with pytest.raises(DepthError, match=rf"{path.name}: cannot read the depth (array|file).*20×20"):
                DepthMap.read(path)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"encoding": "metres", "near": "high"}, "--depth-encoding inverse"),
            ({"encoding": "millimetres", "near": "high"}, "--depth-encoding inverse"),
            ({"encoding": "inverse", "near": "low"}, "--depth-encoding metres"),
            ({"holes": [math.nan]}, "always holes"),
            ({"holes": [math.inf]}, "always holes"),
        ],
    )
    def test_contradictions(self, tmp_path: Path, options: dict, words: str) -> None:
        with pytest.raises(DepthError, match=words):
            DepthMap.read(saved(tmp_path / "d.npy", METRES), **options)

    def test_every_encoding_is_documented(self) -> None:
        assert DepthMap.read.__doc__ is not None
        assert all(f"`{encoding}`" in DepthMap.read.__doc__ for encoding in get_args(literals.Encoding))

    @pytest.mark.parametrize("near", ["low", "high"])
    def test_round_trip(self, tmp_path: Path, near: str) -> None:
        """Every 16-bit level survives reading, writing and reading again."""
        path = saved(tmp_path / "all.png", np.arange(65536, dtype=np.uint16).reshape(256, 256))
        depth = DepthMap.read(path, encoding="sif", near=near)
        level = np.arange(65536).reshape(256, 256)
        np.testing.assert_allclose(depth.values, (level if near == "low" else 65535 - level) / 65535, atol=1e-7)
        depth.write(tmp_path / "back.png")
        np.testing.assert_array_equal(DepthMap.read(tmp_path / "back.png").values, depth.values)
        assert depth.rounded().digest() == depth.digest()


def scene(low: float, high: float, *parts: tuple[float, int]) -> np.ndarray:
    """A ramp from low to high over 1200 pixels, then each number in so many pixels more."""
    return np.concatenate([np.linspace(low, high, 1200), *(np.full(count, value) for value, count in parts)])[None]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings as in a new process."""
    monkeypatch.setattr(depth_files, "_warned", set())


@pytest.mark.usefixtures("fresh")
class TestCodes:
    """Numbers for "no reading" that nobody named: what can be nothing else is refused, what may be a scene is warned of."""

    @pytest.mark.parametrize(
        ("values", "kind", "encoding", "codes"),
        [
            (scene(500, 5000, (65535, 40)), "f4", "millimetres", [65535]),
            (scene(500, 5000, (65535, 40)), "i4", "millimetres", [65535]),
            (scene(500, 5000, (65535, 1)), "f4", "millimetres", [65535]),
            (scene(500, 5000, (65534, 40)), "u2", "millimetres", [65534]),
            (scene(500, 5000, (65534, 40), (65533, 9)), "u2", "millimetres", [65534, 65533]),
            (scene(500, 5000, (32767, 40)), "i2", "millimetres", [32767]),
            (scene(500, 20000, (32767, 40)), "i2", "millimetres", [32767]),  # the gap is 12767, the range 19500
            (scene(400, 1050, (2047, 40)), "i2", "metres", [2047]),
            (scene(500, 4000, (10000, 40)), "u2", "millimetres", [10000]),
            (scene(500, 4000, (8191, 40)), "u2", "millimetres", [8191]),
            (scene(1, 5, (1e10, 15), (1e9, 1)), "f4", "metres", [1e10, 1e9]),
            (scene(1, 5, (1e10, 1), (1e8, 1), (1e6, 1)), "f8", "metres", [1e10, 1e8, 1e6]),
            (scene(500, 5000, (999999, 2), (65534, 3)), "i4", "millimetres", [999999, 65534]),
            (scene(500, 5000, (30000, 9), (65534, 40)), "u2", "millimetres", [65534]),  # 30000 may be a wall
            (np.array([[1000, 1000, 65534]]), "u2", "millimetres", [65534]),
            (scene(3, 60, (1e10, 15)), "f4", "inverse", [1e10]),
            (scene(3, 60, (9999, 15)), "f4", "inverse", [9999]),
            (scene(300, 6000, (65534, 15)), "u2", "inverse", [65534]),
        ],
    )
    def test_refused(self, tmp_path: Path, values: np.ndarray, kind: str, encoding: str, codes: list[float]) -> None:
        path = saved(tmp_path / "d.npy", values.astype(kind))
        with pytest.raises(DepthError, match=r"d\.npy: .*--depth-hole") as caught:
            DepthMap.read(path, encoding=encoding)
        said = str(caught.value).split("'no reading', add ")[1].split(" (holes")[0].split("--depth-hole ")[1:]
        assert [float(word) for word in said] == codes
        found = DepthMap.read(path, encoding=encoding, holes=[float(word) for word in said])
        assert found.valid is not None
        assert int((~found.valid).sum()) == int(np.isin(values, codes).sum())

    @pytest.mark.parametrize(
        ("values", "encoding", "code"),
        [
            (scene(2, 30, (80, 40)), "metres", 80),  # a sky at the far plane
            (scene(2, 30, (1000, 40)), "metres", 1000),
            (scene(500, 6000, (10000, 40)), "millimetres", 10000),  # the gap is 4000, the range 5500
            (scene(5, 20, (80, 40)), "inverse", 80),  # a sign close to the camera
            (scene(5, 100, (255, 40)), "inverse", 255),
            (scene(300, 20000, (65535, 40)), "inverse", 65535),
            (scene(20, 50, (0, 40)), "inverse", 0),  # the sky, or no match
        ],
    )
    def test_warned_of(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, values: np.ndarray, encoding: str, code: float
    ) -> None:
        path = saved(tmp_path / "d.npy", values)
        found = DepthMap.read(path, encoding=encoding)
        wanted = (values - values.min()) / (values.max() - values.min())
        np.testing.assert_allclose(found.values, 1 - wanted if encoding == "inverse" else wanted, atol=1e-6)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert f"d.npy: the {'greatest' if code else 'least'} value is {code} (40 pixels)" in caplog.text
        assert f"--depth-hole {code} (holes=[{code}])" in caplog.text
        caplog.clear()
        DepthMap.read(path, encoding=encoding, holes=[code])
        assert caplog.records == []

    @pytest.mark.parametrize(
        ("values", "encoding"),
        [
            (scene(500, 5000), "millimetres"),
            (scene(500, 9990, (10000, 400)), "millimetres"),  # clipped at ten metres
            (scene(2, 70, (80, 400)), "metres"),
            (scene(500, 32000, (32767, 400)), "millimetres"),
            (scene(500, 15000, (2047, 40)), "millimetres"),  # in the midst of the others
            (scene(500, 5000, (15000, 1)), "millimetres"),  # a pixel through the door
            (np.array([[1000, 1000], [5000, 5000]]), "millimetres"),  # two walls
            (np.full((3, 3), 65534), "millimetres"),
            (np.array([[0.5, 1.5], [1, 2.5]]), "metres"),
            (np.array([[0.01, 2, 3, 4]]), "metres"),  # a speck in front of the lens
            (np.array([[65535, 65535], [6554, 6554]]), "inverse"),
            (scene(0, 64000, (65535, 3)), "inverse"),  # scaled to 16 bits
            (scene(0, 250, (255, 30)), "inverse"),
            (scene(0, 50, (0, 40)), "inverse"),  # clipped at the far end
        ],
    )
    def test_honest_scenes(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, values: np.ndarray, encoding: str
    ) -> None:
        DepthMap.read(saved(tmp_path / "d.npy", values), encoding=encoding)
        assert caplog.records == []

    @pytest.mark.parametrize("pixel", [0, 1, 77777, 99999])
    def test_one_pixel_of_a_large_map(self, tmp_path: Path, pixel: int) -> None:
        values = np.random.default_rng(0).uniform(1, 5, (250, 400))
        DepthMap.read(saved(tmp_path / "d.npy", values), encoding="metres")
        values.flat[pixel] = 1e9
        with pytest.raises(DepthError, match=r"1000000000 \(1 pixel\).*--depth-hole 1000000000 "):
            DepthMap.read(saved(tmp_path / "d.npy", values), encoding="metres")

    @pytest.mark.parametrize("name", ["d.npy", "d.npz", "d.pfm", "d.tiff"])
    @pytest.mark.parametrize("low", [0.1, 0.0])
    def test_numbers_that_may_be_depth_or_disparity(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, low: float
    ) -> None:
        path = saved(tmp_path / name, np.array([[low, 0.9, 1.0000002]], dtype=np.float32))
        for options in ({"encoding": "npy"}, {"near": "high"}, {"near": "low"}, {"encoding": "inverse"}):
            DepthMap.read(path, **options)  # told
        assert caplog.records == []
        for _ in range(2):
            np.testing.assert_allclose(DepthMap.read(path).values, [[low, 0.9, 1]], atol=1e-6)
        assert len(caplog.records) == 1
        assert f"{name}: the values from {low:g} to 1 are read as depth" in caplog.text
        assert "inverse for disparity" in caplog.text
        assert ("--depth-hole 0" in caplog.text) == (low == 0)


def _archive(path: Path, **arrays: np.ndarray) -> bytes:
    with open(path, "wb") as stream:
        np.savez(stream, **arrays)
    return path.read_bytes()


class TestAgreement:
    @pytest.mark.parametrize(
        ("stated", "truth", "right"),
        [
            (0.55, 0.5, True),  # a tenth off, exactly
            (0.551, 0.5, False),
            (0.11, 0.1, True),
            (0.01, 0.013, False),  # 23 % off
            (0.013, 0.0134, True),
            (0.004, 0.0, True),  # 0 counts as 1/255 = 0.0039
            (0.0, 0.0, False),
            (math.nan, 0.5, False),
            (0.5, math.nan, False),
        ],
    )
    def test_by_hand(self, stated: float, truth: float, right: bool) -> None:
        assert agrees([stated], [truth]).tolist() == [right]


class TestCache:
    @pytest.fixture
    def paths(self, tmp_path: Path) -> list[str]:
        for number in range(6):
            DepthMap(np.full((10, 10), number / 10)).write(tmp_path / f"{number}.png")
        return [str(tmp_path / f"{number}.png") for number in range(6)]

    def test_bytes_are_bounded_and_tables_go_first(self, paths: list[str]) -> None:
        bare, full = 400, 400 + 11 * 11 * 8
        assert DepthMap(np.zeros((10, 10))).full_nbytes == full
        cache = DepthCache(full + 3 * bare)
        maps = []
        for path in paths:
            maps.append(cache(path))
            maps[-1].mean([[0, 0, 1, 1]])
        assert ["_sums" in vars(depth) for depth in maps] == [False] * 5 + [True]
        # The last with its table and three before it are kept; the first two are read anew.
        assert [cache(path) is depth for path, depth in zip(paths[2:], maps[2:], strict=True)] == [True] * 4
        assert cache(paths[0]) is not maps[0]
        assert cache._bytes == full + 3 * bare

    def test_one_that_is_too_large_alone_is_kept_until_the_next(self, paths: list[str]) -> None:
        cache = DepthCache(100)
        first = cache(paths[0])
        assert cache(paths[0]) is first
        cache(paths[1])
        assert cache(paths[0]) is not first
        assert cache._bytes == first.full_nbytes

    def test_maps_of_eight_bits_and_with_holes_are_counted_whole(self) -> None:
        levels = DepthMap.from_levels(np.zeros((10, 10), dtype=np.uint8))
        assert (levels.nbytes, levels.full_nbytes) == (100, 100 + 11 * 11 * 4)
        holes = DepthMap(np.zeros((10, 10)), np.eye(10))
        assert (holes.nbytes, holes.full_nbytes) == (500, 500 + 11 * 11 * 16)
        for depth in (levels, holes):
            for _ in range(10):
                depth.mean([[0, 0, 1, 1]])
            tables = [value.nbytes for value in vars(depth).values() if isinstance(value, np.ndarray)]
            assert sum(tables) == depth.full_nbytes

    def test_threads(self, paths: list[str]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        cache = DepthCache(2000)
        with ThreadPoolExecutor(8) as pool:
            means = list(pool.map(lambda number: cache(paths[number % 6]).mean([[0, 0, 1, 1]])[0], range(300)))
        np.testing.assert_allclose(means, [number % 6 / 10 for number in range(300)], atol=1e-5)
        assert cache._bytes == sum(size for shelf in (cache._full, cache._bare) for _, size in shelf.values()) <= 2000

    def test_only_our_own_format(self, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", np.zeros((2, 2)))
        with pytest.raises(DepthError, match=r"d\.npy: encoding 'sif'"):
            cached_depth(str(tmp_path / "d.npy"))
