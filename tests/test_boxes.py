from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sifthinker.boxes import (
    as_boxes,
    as_unit_boxes,
    convert,
    hierarchical_iou,
    paired_iou,
    pairwise_iou,
    round_boxes,
    set_iou,
    smart_resize,
    union_box,
)
from sifthinker.errors import BoxError

SPACES = ["unit", "pixel", "per_mille", "resized", "padded_square"]


@st.composite
def unit_boxes(draw: st.DrawFn, most: int = 5, least: int = 0, grid: int = 50) -> np.ndarray:
    count = draw(st.integers(least, most))
    rows = []
    for _ in range(count):
        x1, y1 = draw(st.integers(0, grid - 1)), draw(st.integers(0, grid - 1))
        rows.append([x1, y1, draw(st.integers(x1 + 1, grid)), draw(st.integers(y1 + 1, grid))])
    return np.array(rows, dtype=float).reshape(-1, 4) / grid


class TestAsBoxes:
    @pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), ()])
    def test_nothing_is_no_boxes(self, empty: object) -> None:
        assert as_boxes(empty).shape == (0, 4)

    @pytest.mark.parametrize(
        ("boxes", "words"),
        [
            ([0, 0, 1, 1], "shape"),
            ([[0, 0, 1]], "shape"),
            ([[0, 0, np.nan, 1]], "not finite"),
            ([[0, 0, np.inf, 1]], "not finite"),
            ([[0.5, 0, 0.5, 1]], "no area"),
            ([[0, 1, 1, 0]], "no area"),
            ([["a", 0, 1, 1]], "numbers"),
            ([[0, 0, 1, 1], [0, 0, 1]], "numbers"),
        ],
    )
    def test_what_is_no_box_is_refused(self, boxes: object, words: str) -> None:
        with pytest.raises(BoxError, match=words):
            as_boxes(boxes)

    def test_unit_boxes_stay_inside_the_image(self) -> None:
        for outside in ([0, 0, 1.01, 1], [-0.01, 0, 1, 1]):
            with pytest.raises(BoxError, match=r"box 1 .* outside"):
                as_unit_boxes([[0, 0, 1, 1], outside])


class TestConvert:
    def test_pixels(self) -> None:
        found = convert([[64, 48, 320, 240]], source="pixel", target="unit", size=(640, 480))
        np.testing.assert_allclose(found, [[0.1, 0.1, 0.5, 0.5]])

    def test_per_mille_needs_no_size(self) -> None:
        np.testing.assert_allclose(
            convert([[0.1, 0.2, 0.3, 0.4]], source="unit", target="per_mille"), [[100, 200, 300, 400]]
        )

    def test_padded_square_of_a_wide_image_shifts_down(self) -> None:
        # 640×480 stands on a square of 640 with 80 pixels above: y = 0 → 80/640, y = 1 → 560/640.
        found = convert([[0, 0, 1, 1]], source="unit", target="padded_square", size=(640, 480))
        np.testing.assert_allclose(found, [[0, 0.125, 1, 0.875]])

    def test_padding_is_rounded_down_to_a_pixel(self) -> None:
        # 5×2 on a square of 5: three rows of padding, one above and two below.
        found = convert([[0, 0, 1, 1]], source="unit", target="padded_square", size=(5, 2))
        np.testing.assert_allclose(found, [[0, 1 / 5, 1, 3 / 5]])

    def test_resized_follows_smart_resize(self) -> None:
        # 640×480 → 644×476: both sides to the nearest multiple of 28.
        assert smart_resize((640, 480)) == (644, 476)
        found = convert([[320, 240, 640, 480]], source="pixel", target="resized", size=(640, 480))
        np.testing.assert_allclose(found, [[322, 238, 644, 476]])

    @pytest.mark.parametrize(("source", "target"), list(itertools.product(SPACES, SPACES)))
    @given(boxes=unit_boxes(), width=st.integers(20, 3000), height=st.integers(20, 3000))
    @settings(max_examples=15)
    def test_round_trip(self, source: str, target: str, boxes: np.ndarray, width: int, height: int) -> None:
        here = convert(boxes, source="unit", target=source, size=(width, height))
        there = convert(here, source=source, target=target, size=(width, height))
        back = convert(there, source=target, target=source, size=(width, height))
        np.testing.assert_allclose(back, here, atol=1e-9 * max(width, height))
        assert there.shape == boxes.shape

    def test_a_copy_comes_back(self) -> None:
        boxes = np.array([[0, 0, 1, 1.0]])
        assert not np.shares_memory(convert(boxes, source="unit", target="unit"), boxes)

    @pytest.mark.parametrize("space", ["pixel", "resized", "padded_square"])
    def test_a_missing_size_is_named(self, space: str) -> None:
        with pytest.raises(BoxError, match="size"):
            convert([[0, 0, 1, 1]], source="unit", target=space)

    def test_an_unknown_space_is_named(self) -> None:
        with pytest.raises(BoxError, match="percent"):
            convert([[0, 0, 1, 1]], source="percent", target="unit")

    def test_no_boxes_convert_to_no_boxes(self) -> None:
        assert convert([], source="pixel", target="unit", size=(10, 10)).shape == (0, 4)


class TestSmartResize:
    @example(2000, 10, 3136, 12845056)  # an aspect ratio of 200 is still taken
    @example(6000, 40, 3136, 100352)  # a shrunk side stays a patch wide: 40 / √(240,000 / 100,352) = 25.9
    @example(60, 50, 3136, 12845056)  # 56 × 56 is enough as it is
    @given(st.integers(1, 6000), st.integers(1, 6000), st.sampled_from([3136, 50176]), st.sampled_from([100352, 12845056]))
    def test_equals_transformers(self, width: int, height: int, low: int, high: int) -> None:
        reference = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize
        if max(width, height) / min(width, height) > 200:
            with pytest.raises(BoxError, match="200"):
                smart_resize((width, height), min_pixels=low, max_pixels=high)
            return
        expected = reference(height, width, factor=28, min_pixels=low, max_pixels=high)
        assert smart_resize((width, height), min_pixels=low, max_pixels=high) == (expected[1], expected[0])

    def test_bounds(self) -> None:
        width, height = smart_resize((10, 10))
        assert width * height >= 3136
        width, height = smart_resize((4000, 3000), max_pixels=262144)
        assert width * height <= 262144
        assert width % 28 == height % 28 == 0

    @pytest.mark.parametrize("size", [(0, 5), (5, -1)])
    def test_sizes_are_positive(self, size: tuple[int, int]) -> None:
        with pytest.raises(BoxError, match="positive"):
            smart_resize(size)


class TestIoU:
    @pytest.mark.parametrize("measure", [set_iou, paired_iou, hierarchical_iou])
    def test_emptiness(self, measure: object) -> None:
        assert measure([], []) == 1
        assert measure([[0, 0, 1, 1]], []) == 0
        assert measure([], [[0, 0, 1, 1]]) == 0

    def test_set_iou_by_hand(self) -> None:
        # Two halves make the whole; the quarter lies inside: 0.25 / 1.
        assert set_iou([[0, 0, 0.5, 1], [0.5, 0, 1, 1]], [[0, 0, 0.5, 0.5]]) == pytest.approx(0.25)
        # Overlapping predictions count once: union 0.75, truth 0.5 inside it.
        assert set_iou([[0, 0, 0.5, 1], [0.25, 0, 0.75, 1]], [[0, 0, 0.5, 1]]) == pytest.approx(0.5 / 0.75)

    def test_paired_iou_by_hand(self) -> None:
        truth = [[0, 0, 0.5, 1]]
        assert paired_iou([[0, 0, 0.5, 1]], truth) == 1
        # A duplicate costs half: sum 1, divided by max(2, 1). The release divides by min and gives 1.
        assert paired_iou([[0, 0, 0.5, 1]] * 2, truth) == 0.5
        assert paired_iou([[0, 0, 0.5, 1]] * 2, truth, denominator="min") == 1
        for measure in (paired_iou, hierarchical_iou):
            with pytest.raises(BoxError, match="denominator"):
                measure(truth, truth, denominator="mean")

    def test_hierarchical_iou_is_the_mean(self) -> None:
        pred, truth = [[0, 0, 0.5, 1], [0, 0, 0.5, 1]], [[0, 0, 0.5, 1]]
        assert hierarchical_iou(pred, truth) == pytest.approx((1 + 0.5) / 2)

    @given(unit_boxes(grid=20), unit_boxes(grid=20))
    def test_set_iou_equals_a_raster(self, pred: np.ndarray, truth: np.ndarray) -> None:
        masks = []
        for boxes in (pred, truth):
            mask = np.zeros((20, 20), dtype=bool)
            for x1, y1, x2, y2 in np.rint(boxes * 20).astype(int):
                mask[y1:y2, x1:x2] = True
            masks.append(mask)
        union = (masks[0] | masks[1]).sum()
        expected = 1.0 if union == 0 else (masks[0] & masks[1]).sum() / union
        assert set_iou(pred, truth) == pytest.approx(expected, abs=1e-12)

    @given(unit_boxes(most=4, least=1), unit_boxes(most=4, least=1))
    def test_paired_iou_equals_brute_force(self, pred: np.ndarray, truth: np.ndarray) -> None:
        iou = pairwise_iou(pred, truth)
        if len(pred) > len(truth):
            iou = iou.T
        rows = range(iou.shape[0])
        best = max(
            sum(iou[r, c] for r, c in zip(rows, order, strict=True))
            for order in itertools.permutations(range(iou.shape[1]), len(rows))
        )
        assert paired_iou(pred, truth) == pytest.approx(best / max(len(pred), len(truth)))

    @given(unit_boxes(most=3), unit_boxes(most=3), st.sampled_from(["max", "min"]))
    def test_hierarchical_iou_is_the_mean_of_any_boxes(self, pred: np.ndarray, truth: np.ndarray, denominator: str) -> None:
        expected = (set_iou(pred, truth) + paired_iou(pred, truth, denominator=denominator)) / 2
        assert hierarchical_iou(pred, truth, denominator=denominator) == expected

    @given(unit_boxes(least=1), unit_boxes(least=1), st.randoms())
    def test_order_and_sides_do_not_matter(self, pred: np.ndarray, truth: np.ndarray, draw: object) -> None:
        shuffled = pred.copy()
        order = list(range(len(pred)))
        draw.shuffle(order)
        value = hierarchical_iou(pred, truth)
        assert 0 <= value <= 1
        assert hierarchical_iou(shuffled[order], truth) == pytest.approx(value)
        assert hierarchical_iou(truth, pred) == pytest.approx(value)
        assert hierarchical_iou(pred, pred[order]) == pytest.approx(1)

    @given(unit_boxes(least=1), unit_boxes(least=1, most=1))
    def test_a_spurious_box_never_helps_a_perfect_answer(self, truth: np.ndarray, spurious: np.ndarray) -> None:
        assert hierarchical_iou(np.concatenate([truth, spurious]), truth) < 1

    @pytest.mark.parametrize(
        ("count", "grid", "longest"),
        [
            (100_000, 1000, 100),  # as chains state them
            (3000, 5000, 250),  # about 3,500 different rows and columns, which are done in blocks of rows
        ],
    )
    def test_many_boxes_equal_a_raster(self, count: int, grid: int, longest: int) -> None:
        draw = np.random.default_rng(0)
        corners = draw.integers(0, grid - longest, (count, 2))
        boxes = np.concatenate([corners, corners + draw.integers(1, longest, (count, 2))], axis=1)
        covered = np.zeros((grid, grid), dtype=bool)
        for x1, y1, x2, y2 in boxes:
            covered[y1:y2, x1:x2] = True
        truth = np.zeros_like(covered)
        truth[grid // 5 : grid // 10 * 7, grid // 5 : grid // 2] = True
        wanted = (covered & truth).sum() / (covered | truth).sum()
        assert set_iou(boxes / grid, [[0.2, 0.2, 0.5, 0.7]]) == pytest.approx(wanted, abs=1e-12)


class TestShapes:
    def test_union_box(self) -> None:
        np.testing.assert_allclose(union_box([[0.1, 0.2, 0.3, 0.4], [0.2, 0.1, 0.5, 0.3]]), [[0.1, 0.1, 0.5, 0.4]])
        assert union_box([]).shape == (0, 4)

    @given(unit_boxes(grid=7919), st.sampled_from([2, 3]))
    def test_rounding_keeps_boxes_open_and_inside(self, boxes: np.ndarray, decimals: int) -> None:
        rounded = as_unit_boxes(round_boxes(boxes, decimals))
        # A side moves by at most one unit, and only where the box would have vanished; otherwise by half.
        assert np.abs(rounded - boxes).max(initial=0) <= 10**-decimals + 1e-12
        np.testing.assert_array_equal(np.round(rounded, decimals), rounded)

    def test_a_sliver_at_the_far_border_opens_inwards(self) -> None:
        np.testing.assert_allclose(round_boxes([[0.9999, 0, 1, 1]]), [[0.999, 0, 1, 1]])
