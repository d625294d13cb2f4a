from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker.depth import DepthMap
from sifthinker.engine.estimators import GivenDepth, ModelDepth, NoDepth
from sifthinker.errors import DepthError, ModelError
from sifthinker.records import Record

CAT = Record(id="cat", image="cat.png", question="q", answer="a", boxes=((0, 0, 1, 1),))


def named(depth: str) -> Record:
    return Record(id="cat", image="cat.png", question="q", answer="a", boxes=((0, 0, 1, 1),), depth=depth)


class TestGiven:
    def test_beside_the_image(self, photo_folder: Path) -> None:
        image = Image.open(photo_folder / "cat.png")
        assert GivenDepth().read(CAT, photo_folder, image).size == (40, 20)
        (photo_folder / "cat.depth.png").unlink()
        np.save(photo_folder / "cat.depth.npy", np.full((20, 40), 0.25))
        assert GivenDepth().read(CAT, photo_folder, image).values[0, 0] == 0.25

    def test_named_by_the_record(self, photo_folder: Path) -> None:
        Image.new("L", (40, 20), 51).save(photo_folder / "grey.png")
        image = Image.open(photo_folder / "cat.png")
        found = GivenDepth("grey8", "low").read(named("grey.png"), photo_folder, image)
        assert found.values[0, 0] == pytest.approx(0.2)

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".tiff", ".tif", ".pfm"])
    def test_distances_beside_the_image(self, photo_folder: Path, suffix: str) -> None:
        (photo_folder / "cat.depth.png").unlink()
        metres = np.tile(np.linspace(1, 3, 40, dtype=np.float32), (20, 1))
        metres[0, :2] = (10000, np.nan)
        path = photo_folder / f"cat.depth{suffix}"
        if suffix.startswith(".np"):
            np.save(path, metres) if suffix == ".npy" else np.savez(path, depth=metres)
        else:
            Image.fromarray(metres).save(path, "PPM" if suffix == ".pfm" else None)
        image = Image.open(photo_folder / "cat.png")
        found = GivenDepth("metres", holes=[10000]).read(CAT, photo_folder, image)
        np.testing.assert_allclose(found.values[1], np.linspace(0, 1, 40), atol=1e-6)
        assert np.argwhere(~found.valid).tolist() == [[0, 0], [0, 1]]
        with pytest.raises(DepthError, match=rf"cat\.depth\{suffix}: .*--depth-encoding"):
            GivenDepth().read(CAT, photo_folder, image)

    @pytest.mark.parametrize("options", [{"encoding": "inverse", "near": "low"}, {"holes": [np.nan]}, {"encoding": "png"}])
    def test_settings_that_no_file_fits_are_refused_at_once(self, options: dict) -> None:
        with pytest.raises(DepthError):
            GivenDepth(**options)

    @pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd"])
    def test_never_outside_the_folder(self, photo_folder: Path, path: str) -> None:
        with pytest.raises(DepthError, match="outside"):
            GivenDepth().read(named(path), photo_folder, Image.open(photo_folder / "cat.png"))

    def test_of_another_size(self, photo_folder: Path) -> None:
        DepthMap(np.zeros((10, 10))).write(photo_folder / "cat.depth.png")
        with pytest.raises(DepthError, match=r"size of its image, 40×20, got 10×10"):
            GivenDepth().read(CAT, photo_folder, Image.open(photo_folder / "cat.png"))

    def test_missing(self, photo_folder: Path) -> None:
        (photo_folder / "cat.depth.png").unlink()
        with pytest.raises(DepthError, match="--depth none"):
            GivenDepth().read(CAT, photo_folder, Image.open(photo_folder / "cat.png"))


def test_rgb_only(photo_folder: Path) -> None:
    assert NoDepth().read(CAT, photo_folder, Image.open(photo_folder / "cat.png")) is None


class TestModel:
    def test_maps_have_the_images_sizes_and_are_cached(self, depth_model: Path, tmp_path: Path) -> None:
        draw = np.random.default_rng(0)
        images = [Image.fromarray(draw.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((20, 40), (50, 30))]
        source = ModelDepth(str(depth_model), cache=tmp_path / "cache")
        first = [source.estimate(image) for image in images]
        assert [found.size for found in first] == [(40, 20), (30, 50)]
        assert all(found.values.min() == 0 and found.values.max() == 1 for found in first)
        assert len(list((tmp_path / "cache").rglob("*.png"))) == 2
        source._loaded = None
        source._load = lambda: pytest.fail("the cache was not used")  # type: ignore[method-assign]
        for before, image in zip(first, images, strict=True):
            np.testing.assert_array_equal(before.values, source.estimate(image).values)
            assert before.digest() == source.estimate(image).digest()

    def test_an_image_that_fails_fails_alone(self, depth_model: Path) -> None:
        source = ModelDepth(str(depth_model), batch_size=4)
        work = source._predictions._work

        def predict(images: list[Image.Image]) -> list[DepthMap]:
            if any(image.size == (1, 1) for image in images):
                raise DepthError("too small")
            return work(images)

        source._predictions._work = predict
        sizes = [(28, 28)] * 5 + [(1, 1)] + [(28, 28)] * 4

        def try_one(size: tuple[int, int]) -> str:
            try:
                return str(source.estimate(Image.new("RGB", size, "red")).size)
            except DepthError as error:
                return str(error)

        with ThreadPoolExecutor(10) as pool:
            assert list(pool.map(try_one, sizes)) == ["(28, 28)"] * 5 + ["too small"] + ["(28, 28)"] * 4

    def test_a_cache_is_made_when_it_is_needed(self, depth_model: Path, tmp_path: Path) -> None:
        ModelDepth(str(depth_model), cache=tmp_path / "cache")
        assert not (tmp_path / "cache").exists()

    def test_threads_share_batches_and_maps_do_not_depend_on_them(self, depth_model: Path) -> None:
        draw = np.random.default_rng(0)
        images = [Image.fromarray(draw.integers(0, 255, (28, 28 + 14 * (n % 2), 3), dtype=np.uint8)) for n in range(10)]
        alone = ModelDepth(str(depth_model), batch_size=4)
        wanted = [alone.estimate(image).values for image in images]
        together = ModelDepth(str(depth_model), batch_size=4)
        sizes = []
        work = together._predictions._work
        together._predictions._work = lambda items: sizes.append(len(items)) or work(items)
        with ThreadPoolExecutor(10) as pool:
            found = list(pool.map(together.estimate, images))
        assert sum(sizes) == 10
        assert 1 < max(sizes) <= 4
        for one, other in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(one, other.values)

    def test_a_copy_for_another_process(self, depth_model: Path) -> None:
        image = Image.new("RGB", (28, 28), "red")
        source = ModelDepth(str(depth_model), batch_size=2)
        copy = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(copy.estimate(image).values, source.estimate(image).values)

    def test_polarity(self, depth_model: Path) -> None:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28, 3), dtype=np.uint8))
        disparity, distance = (ModelDepth(str(depth_model), near=near).estimate(image) for near in ("high", "low"))
        np.testing.assert_allclose(disparity.values, 1 - distance.values, atol=2 / 65535)

    def test_no_model(self, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        with pytest.raises(ModelError, match="depth model"):
            ModelDepth(str(tmp_path))
        with pytest.raises(ModelError, match="nosuch: no such depth model"):
            ModelDepth("nosuch")
