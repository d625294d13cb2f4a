"""What the processors of real families do to images: bounds of the area, crops, and shapes that they do not take."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")

from sifthinker import TrainSettings, models
from sifthinker.coordinates import Resizer
from sifthinker.depth import DepthMap
from sifthinker.errors import ConfigError, ImageError
from sifthinker.evaluation.questions import Question
from sifthinker.evaluation.run import ask
from sifthinker.models import load_processor, special_tokens
from sifthinker.processors import cropped_share, image_fault, visible_part
from sifthinker.thinker import Thinker

from .real_models import FAMILIES, NEED_TORCHVISION

TORCHVISION = find_spec("torchvision") is not None
LOADED = [name for name in FAMILIES if name not in NEED_TORCHVISION and name != "paligemma"]
BY_AREA = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v")
Folder = Callable[[str], Path]


def area_of(processor: Any, size: tuple[int, int]) -> int:
    images = processor.image_processor
    (grid,) = images(images=[Image.new("RGB", size)], return_tensors="np")["image_grid_thw"]
    return int(grid.prod()) * images.patch_size**2


class TestMaxPixels:
    @pytest.mark.filterwarnings("error::FutureWarning")  # the deprecated way to say it
    @pytest.mark.parametrize("family", BY_AREA)
    def test_bounds_the_area_and_is_saved(self, family: str, real_model: Folder, tmp_path: Path) -> None:
        """640 × 480 keeps its shape: within 50,176 pixels it is 252 × 168, in steps of 32 256 × 192."""
        processor = load_processor(real_model(family), max_pixels=50_176)
        wanted = 256 * 192 if family.startswith("qwen3") else 252 * 168
        assert area_of(load_processor(real_model(family)), (640, 480)) > 300_000
        assert area_of(processor, (640, 480)) == wanted
        processor.save_pretrained(tmp_path)
        shutil.copy(real_model(family) / "config.json", tmp_path)
        assert area_of(load_processor(tmp_path), (640, 480)) == wanted

    @pytest.mark.parametrize(
        ("family", "words"),
        [
            ("internvl", "GotOcr2ImageProcessor cuts every image into tiles of 56×56, up to 4, plus an overview"),
            ("llava", "CLIPImageProcessor resizes the shorter side of an image to 56 pixels and crops the centre to 56×56"),
            ("llava_next", "cuts every image into tiles of 56×56, up to 4, plus an overview"),
            ("llava_onevision", "cuts every image into tiles of 56×56, up to 4, plus an overview"),
            ("smolvlm", "resizes the longer side of an image to 112 pixels and cuts it into tiles of 56×56"),
            ("idefics3", "resizes the longer side of an image to 112 pixels and cuts it into tiles of 56×56"),
            ("gemma3", "resizes every image to 56×56"),
        ],
    )
    def test_says_once_what_other_processors_do(
        self, family: str, words: str, real_model: Folder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(models, "_warned", set())
        with caplog.at_level(logging.WARNING, logger="sifthinker"):
            for _ in range(2):
                load_processor(real_model(family), max_pixels=4096)
        (said,) = (record.getMessage() for record in caplog.records)
        assert "max_pixels has no effect on this model" in said
        assert words in said.replace("ProcessorPil", "Processor")

    def test_without_it_nothing_is_said(self, real_model: Folder, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, logger="sifthinker"):
            load_processor(real_model("llava"))
        assert not caplog.records

    @pytest.mark.parametrize("family", [name for name in BY_AREA if name.startswith("qwen")])
    @pytest.mark.parametrize("size", [(640, 480), (30, 30), (1000, 40)])
    def test_chains_are_built_for_the_same_size(self, family: str, size: tuple[int, int], real_model: Folder) -> None:
        """The engine knows a model by its files alone. Qwen3-VL's least area, 65,536, is above this bound."""
        folder = real_model(family)
        width, height = Resizer.of_model(str(folder)).within(max_pixels=50_176).size(size)
        assert area_of(load_processor(folder, max_pixels=50_176), size) == width * height


class TestCrop:
    @pytest.mark.parametrize("size", [(200, 100), (100, 250), (97, 61), (80, 80), (560, 200)])
    def test_what_is_visible_is_what_reaches_the_model(self, size: tuple[int, int], real_model: Folder) -> None:
        """Of 56 pixels a side, the first and last fifth are 11; the filter blurs four at their border."""
        processor = load_processor(real_model("llava"))
        part = np.array(visible_part(processor, size)).reshape(2, 2)

        def seen(low: float, high: float, axis: int) -> Any:
            """(56,) brightness along an axis, of an image that is white between two fractions of its visible part."""
            start, stop = (part[0, axis] + fraction * (part[1, axis] - part[0, axis]) for fraction in (low, high))
            columns, rows = np.meshgrid(*((np.arange(side) + 0.5) / side for side in size))
            place = (columns, rows)[axis]
            white = np.where((place > start) & (place < stop), 255, 0).astype(np.uint8)
            image = Image.fromarray(white[..., None].repeat(3, 2))
            made = processor.image_processor(images=[image], return_tensors="np", do_normalize=False)["pixel_values"][0]
            return made.mean(axis=(0, 1 + axis))

        for axis in (0, 1):
            first, last = seen(0, 0.2, axis), seen(0.8, 1, axis)
            assert first[1:6] == pytest.approx(1, abs=0.1)
            assert first[17:] == pytest.approx(0, abs=0.1)
            assert last[-6:-1] == pytest.approx(1, abs=0.1)
            assert last[:-17] == pytest.approx(0, abs=0.1)
            assert seen(-5, 0, axis)[5:-5] == pytest.approx(0, abs=0.1)
            assert seen(1, 5, axis)[5:-5] == pytest.approx(0, abs=0.1)

    def test_share_of_a_box_that_is_lost(self, real_model: Folder) -> None:
        """Of 200 × 100 the middle half of the width is seen, 0.25 to 0.75."""
        processor = load_processor(real_model("llava"))
        boxes = [[0, 0, 0.2, 1], [0.125, 0, 0.375, 0.5], [0.3, 0.1, 0.7, 0.9], [0, 0, 1, 1]]
        assert cropped_share(processor, boxes, (200, 100)) == pytest.approx([1, 0.5, 0, 0.5])
        assert cropped_share(processor, boxes, (100, 100)) == pytest.approx([0, 0, 0, 0])

    @pytest.mark.parametrize("family", [name for name in LOADED if name != "llava"])
    def test_the_others_show_the_whole_image(self, family: str, real_model: Folder) -> None:
        assert visible_part(load_processor(real_model(family)), (300, 40)) == (0, 0, 1, 1)


class TestWhatIsRefused:
    @pytest.mark.parametrize("family", [*LOADED, *NEED_TORCHVISION] if TORCHVISION else LOADED)
    @pytest.mark.parametrize("size", [(2100, 10), (10, 2001), (3000, 2), (20, 2200), (400, 2), (1, 1)])
    def test_a_shape_that_a_processor_does_not_take_is_told_by_size(
        self, family: str, size: tuple[int, int], real_model: Folder
    ) -> None:
        processor = load_processor(real_model(family))
        told = ""
        try:
            processor.image_processor(images=[Image.new("RGB", size)], return_tensors="pt")
        except (ValueError, RuntimeError) as error:
            told = f"the processor of this model cannot process an image of {size[0]}×{size[1]}: {error}"
        fault = image_fault(processor, size)
        assert fault == told
        if family not in NEED_TORCHVISION:
            assert bool(fault) == (family in BY_AREA and max(size) / min(size) > 200)

    def test_a_thinker_names_the_image(self, real_model: Folder) -> None:
        thinker = Thinker.load(real_model("qwen2_5_vl"), device="cpu")
        with pytest.raises(
            ImageError, match=r"image of 2100×10: .*aspect ratio must be smaller than 200.*\. Crop the image"
        ):
            thinker.think(Image.new("RGB", (2100, 10)), "What is it?")

    def test_an_evaluation_asks_the_other_questions(self, real_model: Folder) -> None:
        thinker = Thinker.load(real_model("qwen2_5_vl"), device="cpu", max_new_tokens=2)
        sizes = {"narrow": (2100, 10), "square": (64, 64)}
        questions = [Question(name, Image.new("RGB", size), "What is it?") for name, size in sizes.items()]
        errors = {row.id: row.error for row in ask(thinker, questions)}
        assert "image of 2100×10" in errors["narrow"]
        assert not errors["square"]

    def test_held_out_questions_are_refused_before_training(self, real_model: Folder, chains: Path, tmp_path: Path) -> None:
        pytest.importorskip("trl")
        from sifthinker.training.sft import sft_trainer

        Image.new("RGB", (2100, 10)).save(tmp_path / "image.png")
        DepthMap(np.zeros((10, 2100))).write(tmp_path / "depth.png")
        row = {"id": "first", "image": "image.png", "depth": "depth.png", "question": "What?", "answer": "a line"}
        (tmp_path / "questions.jsonl").write_text(json.dumps(row))
        model, asked = str(real_model("qwen2_5_vl")), str(tmp_path / "questions.jsonl")
        settings = TrainSettings(model=model, data=str(chains), output=str(tmp_path / "out"), eval_data=asked)
        with pytest.raises(ConfigError, match=r"eval_data: question 'first': .* an image of 2100×10"):
            sft_trainer(settings)

    @pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>", "<|im_end|>", "<|vision_start|>"])
    def test_a_thinker_names_the_special_token_of_a_question(self, token: str, real_model: Folder) -> None:
        thinker = Thinker.load(real_model("qwen2_5_vl"), device="cpu")
        with pytest.raises(ImageError, match=r"special token of this model\. Rephrase it"):
            thinker.think(Image.new("RGB", (64, 64)), f"What is {token}?")

    @pytest.mark.parametrize("family", LOADED)
    def test_every_special_token_of_a_tokenizer_is_known(self, family: str, real_model: Folder) -> None:
        processor = load_processor(real_model(family))
        pattern = special_tokens(processor)
        added = [token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special]
        assert len(added) > 3
        assert [token for token in added if not pattern.fullmatch(token)] == []
        assert not pattern.search("<think>\n<area>[]</area></think>")
