from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.boxes import hierarchical_iou, round_boxes
from sifthinker.engine.expansion import Expansion, FocusPath, expand
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


def overlap(a: tuple, b: tuple) -> float:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def without_distractor(path: FocusPath) -> list:
    return [focus for focus in path if focus.kind != "distractor"]


class TestInvariants:
    @given(boxes(), st.integers(0, 5), st.sampled_from([2, 3]))
    def test_the_path_narrows_to_the_target(self, target: list, seed: int, decimals: int) -> None:
        path = expand(record(target), seed=seed, settings=Expansion(decimals=decimals))
        rounded = round_boxes(target, decimals)
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

    @given(boxes(), st.integers(0, 50))
    def test_distractors_overlap_the_merged_region_nowhere(self, target: list, seed: int) -> None:
        path = expand(record(target), seed=seed, settings=Expansion(distractor=1))
        kinds = [focus.kind for focus in path]
        if "distractor" not in kinds:
            return
        place = kinds.index("distractor")
        assert place == 1
        (distractor,) = path[place].boxes
        assert 0 <= distractor[0] < distractor[2] <= 1
        assert 0 <= distractor[1] < distractor[3] <= 1
        assert all(overlap(distractor, box) == 0 for focus in path[place + 1 :] for box in focus.boxes)

    @given(boxes(), st.integers(0, 5))
    def test_the_same_seed_gives_the_same_path(self, target: list, seed: int) -> None:
        assert expand(record(target), seed=seed) == expand(record(target), seed=seed)

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

    def test_distractor_off_leaves_the_rest_alone(self) -> None:
        target = [[0.1, 0.1, 0.2, 0.2]]
        assert tuple(without_distractor(expand(record(target)))) == expand(record(target), settings=Expansion(distractor=0))


@pytest.mark.parametrize("settings", [{"alpha": 0.9}, {"alpha": -0.1}, {"distractor": 2}, {"decimals": 1}, {"jitter": 1}])
def test_settings_out_of_range(settings: dict) -> None:
    with pytest.raises(ConfigError):
        Expansion(**settings)


def test_a_margin_moves_every_side_as_far() -> None:
    """The release's expansion: one pixel of 50. The left side stops at the border."""
    path = expand(record([[0.01, 0.4, 0.5, 0.6]]), settings=Expansion(margin=0.02, distractor=0))
    assert [focus.kind for focus in path] == ["whole", "expanded", "target"]
    assert path[1].boxes == ((0.0, 0.38, 0.52, 0.62),)
    with pytest.raises(ConfigError, match="margin must be a fraction"):
        Expansion(margin=3)
