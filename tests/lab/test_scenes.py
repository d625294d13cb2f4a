from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.errors import ImageError
from sifthinker.lab.scenes import (
    COLOURS,
    FAR,
    LEVELS,
    NEAREST_DEPTH,
    Object,
    Scene,
    is_world_image,
    render,
    sample_scene,
    write_scene,
)

SEEDS = st.integers(0, 2**40)


def bare(*objects: Object, pitch: float = 0.35) -> Scene:
    return Scene(objects, 3.5, pitch, 0.5, (0.0, 1.0, 0.0), (0.5, 0.5, 0.5), "plain", (0.8, 0.8, 0.9))


class TestSampling:
    @given(SEEDS)
    def test_the_same_seed_gives_the_same_scene(self, seed: int) -> None:
        assert sample_scene(seed) == sample_scene(seed)

    @given(SEEDS)
    @settings(max_examples=50)
    def test_objects_are_whole_distinct_and_large_enough(self, seed: int) -> None:
        scene = sample_scene(seed)
        assert 3 <= len(scene.objects) <= 4
        assert len({thing.name for thing in scene.objects}) == len(scene.objects)
        assert (scene.boxes > 0).all()
        assert (scene.boxes < 1).all()
        assert ((scene.boxes[:, 2:] - scene.boxes[:, :2]) >= 0.125).all()
        assert all(thing.dot != thing.colour for thing in scene.objects)

    @given(SEEDS, st.sampled_from(sorted(LEVELS)))
    @settings(max_examples=50)
    def test_levels_differ_in_number(self, seed: int, level: str) -> None:
        least, most = LEVELS[level].objects
        assert least <= len(sample_scene(seed, level).objects) <= most

    def test_scenes_vary(self) -> None:
        scenes = [sample_scene(seed) for seed in range(200)]
        things = [thing for scene in scenes for thing in scene.objects]
        assert {thing.shape for thing in things} == {"ball", "cube", "cylinder", "cone"}
        assert {thing.colour for thing in things} == set(COLOURS)
        assert {scene.texture for scene in scenes} == {"plain", "checker", "stripes", "speckle"}


class TestRendering:
    @given(SEEDS, st.sampled_from([32, 64, 96]))
    @settings(max_examples=20)
    def test_depth_is_in_range_and_never_near_zero(self, seed: int, size: int) -> None:
        image, depth, index = render(sample_scene(seed), size)
        assert image.size == depth.size == (size, size)
        assert index.shape == (size, size)
        assert depth.values.min() >= NEAREST_DEPTH - 1e-5
        assert depth.values.max() <= 1

    def test_depth_of_a_ball_by_hand(self) -> None:
        # A camera that looks along z: the ball's nearest point is its centre's distance minus its radius, at any pixel size.
        scene = bare(Object("ball", "red", "large", 1.0, 0.0, 8.0), pitch=0.0)
        scene = dataclasses.replace(scene, camera_height=1.0)
        _, depth, _ = render(scene, 65)
        assert depth.values[32, 32] == pytest.approx(scene.depth_of(7.0), abs=1e-5)

    def test_depth_of_the_ground_by_hand(self) -> None:
        # Looking level from 3.5 high, the ray at slope −u meets the ground at distance 3.5 / u.
        scene = bare(pitch=0.0)
        _, depth, _ = render(scene, 64)
        for row in (40, 50, 63):
            slope = ((row + 0.5) / 64 * 2 - 1) * 0.5
            assert depth.values[row, 10] == pytest.approx(scene.depth_of(min(3.5 / slope, FAR)), abs=1e-5)
        assert depth.values[0, 0] == 1  # the sky

    def test_nearer_things_hide_farther_ones(self) -> None:
        scene = bare(Object("cube", "red", "large", 1.0, 0.0, 5.0), Object("cube", "blue", "large", 1.0, 0.0, 9.0))
        for order in (scene.objects, scene.objects[::-1]):
            index = render(dataclasses.replace(scene, objects=order), 64)[2]
            x = int((scene.boxes[0, 0] + scene.boxes[0, 2]) * 32)
            y = int(scene.boxes[0, 3] * 64) - 4
            assert order[index[y, x]].colour == "red"

    @given(SEEDS)
    @settings(max_examples=25)
    def test_boxes_bound_what_is_seen(self, seed: int) -> None:
        """Each object rendered alone fills its box. A cone's tip is seen where it is a pixel wide, 1.3 pixels below it."""
        scene = sample_scene(seed)
        for number, thing in enumerate(scene.objects):
            _, _, index = render(dataclasses.replace(scene, objects=(thing,)), 256)
            rows, columns = np.nonzero(index == 0)
            seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 256
            np.testing.assert_allclose(seen, scene.boxes[number], atol=2.5 / 256)

    def test_resolution_changes_nothing_but_resolution(self) -> None:
        scene = sample_scene(5)
        small, large = render(scene, 64)[1], render(scene, 256)[1]
        # Small boxes touch relatively more pixels of what lies behind them when pixels are large.
        np.testing.assert_allclose(small.mean(scene.boxes), large.mean(scene.boxes), atol=0.06)


def test_pictures_of_the_world_are_known_again(tmp_path: Path) -> None:
    image = render(sample_scene(0), 32)[0]
    write_scene(tmp_path / "ours.png", image, 0, "medium")
    image.save(tmp_path / "theirs.png")
    assert is_world_image(tmp_path / "ours.png")
    assert not is_world_image(tmp_path / "theirs.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png"):
        is_world_image(tmp_path / "text.png")
