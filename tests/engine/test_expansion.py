from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.boxes import hierarchical_iou, round_boxes, snap_boxes
from sifthinker.coordinates import UNIT, Frame
from sifthinker.engine.expansion import FocusPath, expand
from sifthinker.engine.settings import Expansion
from sifthinker.errors import ConfigError
from sifthinker.records import Record


def record(boxes: list, identity: str = "r") -> Record:
    return Record(id=identity, image="i.jpg", question="q", answer="a", boxes=tuple(map(tuple, boxes)))


@st.composite
def boxes(draw: st.DrawFn) -> list:
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        x1, y1 = draw(st.floats(0, 0.99)), draw(st.floats(0, 0.99))
        rows.append([x1, y1, draw(st.floats(x1 + 0.002, 1)), draw(st.floats(y1 + 0.002, 1))])
    return rows


def covers(outer: tuple, inner: tuple) -> bool:
    return all(any(o[0] <= i[0] and o[1] <= i[1] and o[2] >= i[2] and o[3] >= i[3] for o in outer) for i in inner)


def without_distractor(path: FocusPath) -> list:
    return [focus for focus in path if focus.kind != "distractor"]


class TestInvariants:
    @given(
        boxes(),
        st.integers(0, 5),
        st.sampled_from([2, 3]),
        st.sampled_from([UNIT, Frame("per_mille"), Frame("resized", (644, 476)), Frame("resized", (28, 3024))]),
    )
    def test_the_path_narrows_to_the_target(self, target: list, seed: int, decimals: int, frame: Frame) -> None:
        path = expand(record(target), seed=seed, settings=Expansion(decimals=decimals), frame=frame)
        rounded = snap_boxes(target, frame.grid(decimals))
        if frame.space != "resized":
            np.testing.assert_array_equal(rounded, round_boxes(target, decimals))
        for focus in path:
            np.testing.assert_array_equal(snap_boxes(focus.boxes, frame.grid(decimals)), focus.boxes)
        np.testing.assert_array_equal(path[-1].boxes, rounded)
        assert path[-1].kind == "target"
        assert covers(((0, 0, 1, 1),), path[0].boxes)
        assert path[0].boxes == ((0, 0, 1, 1),)
        stops = without_distractor(path)
        values = [hierarchical_iou(focus.boxes, rounded) for focus in stops]
        for outer, inner in itertools.pairwise(stops):
            assert covers(outer.boxes, inner.boxes)
        assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
        assert all(a.boxes != b.boxes for a, b in itertools.pairwise(path))

    def test_the_same_seed_gives_the_same_path_in_every_process(self) -> None:
        code = (
            "from sifthinker import Record, expand\n"
            "boxes = ((0.4, 0.4, 0.5, 0.5), (0.6, 0.1, 0.7, 0.2))\n"
            "for number in range(9): print(expand(Record(f'r{number}', 'i', 'q', 'a', boxes), seed=number))"
        )
        said = [
            subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": str(number)},
            ).stdout
            for number in (1, 2)
        ]  # fmt: skip
        assert said[0] == said[1]
        assert len(set(said[0].splitlines())) == 9

    def test_ids_and_seeds_move_the_path(self) -> None:
        target = [[0.4, 0.4, 0.5, 0.5]]
        paths = {expand(record(target, identity), seed=seed) for identity in "abcd" for seed in range(4)}
        assert len(paths) == 16


class TestByHand:
    def test_without_jitter(self) -> None:
        # Sides move a third of their way: 0.3 → 0.2, 0.6 → 0.6 + 0.4/3.
        path = expand(record([[0.3, 0.3, 0.6, 0.6]]), settings=Expansion(jitter=0, distractor=0))
        assert [focus.kind for focus in path] == ["whole", "expanded", "target"]
        np.testing.assert_allclose(path[1].boxes, [[0.2, 0.2, 0.733, 0.733]])

    def test_two_boxes_are_merged(self) -> None:
        path = expand(record([[0.0, 0.0, 0.3, 0.3], [0.6, 0.6, 0.9, 0.9]]), settings=Expansion(jitter=0, distractor=0))
        assert [focus.kind for focus in path] == ["whole", "merged", "expanded", "target"]
        np.testing.assert_allclose(path[1].boxes, [[0, 0, 0.933, 0.933]])

    def test_the_whole_image_is_one_stop(self) -> None:
        path = expand(record([[0, 0, 1, 1]]), settings=Expansion(distractor=1))
        assert [(focus.kind, focus.boxes) for focus in path] == [("target", ((0, 0, 1, 1),))]

    def test_distractors_come_half_the_time_and_keep_their_size(self) -> None:
        target = [[0.05, 0.05, 0.1, 0.1]]
        paths = [expand(record(target, str(number))) for number in range(600)]
        found = [path for path in paths if any(focus.kind == "distractor" for focus in path)]
        # The merged region is about 0.4 wide and in a corner: there is always room. 600 fair coins: 0.5 ± 0.06 is 3 σ.
        assert 0.44 < len(found) / len(paths) < 0.56
        for path in found:
            (distractor,), (merged,) = path[1].boxes, path[2].boxes
            scale = (distractor[2] - distractor[0]) / (merged[2] - merged[0])
            assert 0.69 < scale < 1.31

    def test_sides_move_by_themselves_within_the_jitter(self) -> None:
        # Alpha 0.3 ± 20 %: from 0.24 to 0.36 of the way, which is 0.4 for each side.
        settings = Expansion(alpha=0.3, jitter=0.2, distractor=0)
        moves = np.array(
            [
                np.abs(np.subtract(expand(record([[0.4, 0.4, 0.6, 0.6]], str(n)), settings=settings)[1].boxes[0], target))
                for n in range(300)
                for target in ([0.4, 0.4, 0.6, 0.6],)
            ]
        )
        assert (moves.min(), moves.max()) == pytest.approx((0.24 * 0.4, 0.36 * 0.4), abs=0.001)
        assert all(len({tuple(pair) for pair in moves[:, [a, b]]}) > 250 for a, b in itertools.combinations(range(4), 2))

    def test_distractor_off_leaves_the_rest_alone(self) -> None:
        target = [[0.1, 0.1, 0.2, 0.2]]
        assert tuple(without_distractor(expand(record(target)))) == expand(record(target), settings=Expansion(distractor=0))


class TestDistractors:
    """With margin 0 the merged region is the target itself."""

    def drawn(self, target: list[float], count: int) -> np.ndarray:
        """(N, 4) distractors of as many records as have one, in hundredths."""
        settings = Expansion(distractor=1, decimals=2, margin=0)
        paths = [expand(record([target], str(number)), settings=settings) for number in range(count)]
        found = np.array([path[1].boxes[0] for path in paths if path[1].kind == "distractor"]).reshape(-1, 4)
        return np.rint(found * 100).astype(int)

    def test_they_stand_anywhere_beside_the_merged_region(self) -> None:
        found = self.drawn([0.4, 0.3, 0.6, 0.5], 3000)
        assert len(found) == 3000
        (x1, y1, x2, y2), sizes = found.T, found[:, 2:] - found[:, :2]
        beside = {"left": x2 <= 40, "right": x1 >= 60, "above": y2 <= 30, "below": y1 >= 50}
        assert np.any(list(beside.values()), axis=0).all()
        for side, there in beside.items():  # each on its own side alone, not in a corner
            alone = there & ~np.any([other for name, other in beside.items() if name != side], axis=0)
            assert alone.sum() > 100, side
        # From border to border, and up to the region's own sides.
        assert [x1.min(), y1.min(), x2.max(), y2.max()] == [0, 0, 100, 100]
        assert [x2[x2 <= 40].max(), x1[x1 >= 60].min(), y2[y2 <= 30].max(), y1[y1 >= 50].min()] == [40, 60, 30, 50]
        # 0.7 to 1.3 times 20 hundredths, both sides by the same number.
        assert set(sizes[:, 0]) == set(range(14, 27))
        assert (sizes[:, 0] == sizes[:, 1]).all()

    def test_room_for_a_single_place_is_enough(self) -> None:
        # One hundredth wide and as high as the picture: to its left there is one column.
        found = self.drawn([0.01, 0, 0.02, 1], 3000)
        assert {int(x) for x in found[:, 0]} == {0, *range(2, 100)}
        assert 0.4 < len(found) / 3000 < 0.6  # the lower half of 0.7 to 1.3 is no higher than the picture

    def test_without_room_there_is_none(self) -> None:
        assert len(self.drawn([0.4, 0, 1, 1], 300)) == 0  # at least 0.42 wide, and 0.4 is left
        assert len(self.drawn([0.25, 0.25, 0.75, 0.75], 300)) == 0


@pytest.mark.parametrize(
    "settings",
    [{"alpha": 0.9}, {"alpha": -0.1}, {"distractor": 2}, {"decimals": 1}, {"jitter": 1}, {"jitter": -0.1}, {"margin": -0.1}],
)
def test_settings_out_of_range(settings: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Expansion(**settings)


def test_a_margin_moves_every_side_as_far() -> None:
    """The release's expansion: one pixel of 50. The left side stops at the border."""
    path = expand(record([[0.01, 0.4, 0.5, 0.6]]), settings=Expansion(margin=0.02, distractor=0))
    assert [focus.kind for focus in path] == ["whole", "expanded", "target"]
    assert path[1].boxes == ((0.0, 0.38, 0.52, 0.62),)
    with pytest.raises(ConfigError, match="margin must be a number, at least 0 and at most 1, got 3"):
        Expansion(margin=3)
