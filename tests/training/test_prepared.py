"""The images of a prompt are prepared once, and every tensor is what the processor gives for the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from sifthinker.models import load_processor  # noqa: E402
from sifthinker.training.image_rows import ImageRows, LayoutError  # noqa: E402
from sifthinker.training.prepared import PreparesOnce, share_equal_images  # noqa: E402

from ..real_models import FAMILIES, NEED_TORCHVISION  # noqa: E402
from .real_batch import real_prompts  # noqa: E402
from .test_training import grpo_config  # noqa: E402

# PaliGemma has no chat template, so that no trainer of ours can ask it anything.
TEMPLATED = [
    family
    for family in FAMILIES
    if family != "paligemma" and (family not in NEED_TORCHVISION or find_spec("torchvision") is not None)
]


class Counting:
    """An image processor that counts the images it is given."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.seen = processor, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, images: Any, **settings: Any) -> Any:
        flat = [image for row in images for image in (row if isinstance(row, list) else [row])]
        self.seen += len(flat)
        return self.processor(images, **settings)


def with_images(turns: list[dict[str, Any]], images: list[Any]) -> list[dict[str, Any]]:
    """A conversation whose first parts hold its images, as TRL hands it to the chat template."""
    (turn,) = turns
    parts = [{**part, "image": image} for part, image in zip(turn["content"], images, strict=False)]
    return [{**turn, "content": [*parts, *turn["content"][len(images) :]]}]


def assert_same(found: Any, expected: Any) -> None:
    """Equal to the last bit, in the same order, lists or arrays by their numbers."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        if name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids") and isinstance(value, list):
            assert [list(row) for row in found[name]] == [list(row) for row in value], name
        else:
            # Sampling gets arrays or lists of them from some processors, of which TRL makes tensors in this way.
            ours, theirs = (
                torch.as_tensor(found[name]),
                value if isinstance(value, torch.Tensor) else torch.as_tensor(np.array(value)),
            )
            assert ours.dtype == theirs.dtype, name
            assert ours.equal(theirs), name


@pytest.mark.parametrize("family", TEMPLATED)
def test_the_tensors_are_those_of_the_whole_batch(family: str, real_model: Callable[[str], Path]) -> None:
    processor = load_processor(real_model(family))
    # Prompts of three, one and two rows: their number is neither that of images nor a multiple of it.
    rows = [row for row, times in zip(real_prompts(3), (3, 1, 2), strict=True) for _ in range(times)]
    conversations = [with_images(turns, images) for images, turns in rows]
    texts = [processor.apply_chat_template(row, tokenize=False, add_generation_prompt=True) for row in conversations]
    shown = [images for images, _ in rows]
    sampled = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    scored = {"padding": True, "return_tensors": "pt"}
    # Pixtral's processor makes tensors unless told otherwise, which fails for prompts of unequal length.
    first = processor.apply_chat_template(conversation=conversations, return_tensors=None, **sampled)
    second = processor(images=shown, text=texts, **scored)

    counting = processor.image_processor = Counting(processor.image_processor)
    once = PreparesOnce(processor)
    found = once.apply_chat_template(conversation=conversations, **sampled)
    assert_same(found, first)
    assert_same(once(images=shown, text=texts, **scored), second)
    assert counting.seen == 6  # two images of three prompts, for both calls together
    assert processor.image_processor is counting


def test_tiles_are_told_for_every_row(real_model: Callable[[str], Path]) -> None:
    """TRL asks InternVL's image processor a third time, for the number of tiles of each image."""
    processor = load_processor(real_model("internvl"))
    rows = [row for row in real_prompts(2) for _ in range(3)]
    texts = [processor.apply_chat_template(row, tokenize=False) for _, row in rows]
    shown = [images for images, _ in rows]
    expected = processor.image_processor(images=shown, crop_to_patches=True, return_tensors="pt")["num_patches"]
    counting = processor.image_processor = Counting(processor.image_processor)
    once = PreparesOnce(processor)
    once(images=shown, text=texts, padding=True, return_tensors="pt")
    found = once.image_processor(images=shown, crop_to_patches=True, return_tensors="pt")["num_patches"]
    assert found.tolist() == expected.tolist()
    assert counting.seen == 4


def test_the_same_words_about_other_images_are_prepared_apart(real_model: Callable[[str], Path]) -> None:
    processor = load_processor(real_model("llava"))
    (images, turn), (others, _) = real_prompts(2)
    texts = [processor.apply_chat_template(turn, tokenize=False)] * 3
    shown = [images, others, others]
    found = PreparesOnce(processor)(images=shown, text=texts, padding=True, return_tensors="pt")
    assert_same(found, processor(images=shown, text=texts, padding=True, return_tensors="pt"))
    assert not found["pixel_values"][0].equal(found["pixel_values"][2])


def test_rows_that_show_the_same_hold_the_same_objects() -> None:
    (images, _), (others, _) = real_prompts(2)
    rows = [{"id": n, "images": [image.copy() for image in shown]} for n, shown in enumerate((images, images, others))]
    shared = share_equal_images(rows)
    assert shared[1]["images"] is shared[0]["images"]
    assert shared[2]["images"] is rows[2]["images"]
    assert [row["id"] for row in shared] == [0, 1, 2]
    assert share_equal_images([{"id": "words"}, {"id": "alone"}]) == [{"id": "words"}, {"id": "alone"}]


def test_repeated_rows_are_kept_once() -> None:
    rows = ImageRows({"pixel_values": torch.arange(6.0).view(3, 2)}, num_images=[2, 1]).repeated([0, 0, 1])
    assert rows.num_images == [2, 2, 1]
    assert rows.of("pixel_values", 0).data_ptr() == rows.of("pixel_values", 1).data_ptr()
    assert rows.same(0, 1)
    assert not rows.same(1, 2)
    assert rows.repeated([2, 1]).take([0, 1])["pixel_values"].tolist() == [[4.0, 5.0], [0.0, 1.0], [2.0, 3.0]]


def test_an_unknown_layout_is_refused_with_its_numbers() -> None:
    with pytest.raises(
        LayoutError,
        match="pixel_values: expected one entry for each of 3 rows, of 6 images or of their tiles, got 5 entries",
    ):
        ImageRows({"pixel_values": torch.zeros(5, 2)}, [2, 2, 2])


@pytest.mark.parametrize("sharing", ["auto", "off"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl", "smolvlm", "llava_onevision", "gemma3"])
def test_a_generation_batch_is_that_of_trl(
    family: str, sharing: str, real_model: Callable[[str], Path], chains: Path, tmp_path: Path
) -> None:
    """The whole batch, made by TRL's own method from the same rows, has the same tensors; greedily sampled."""
    from trl import GRPOTrainer

    from sifthinker.training.grpo import grpo_trainer

    training = {"num_generations": 3, "per_device_train_batch_size": 6, "max_completion_length": 5, "top_k": 1}
    config = grpo_config(real_model(family), chains, tmp_path, prefix_sharing=sharing, training=training)
    trainer = grpo_trainer(config)
    inputs = [trainer.train_dataset[row] for row in (0, 0, 0, 7, 7, 7)]
    trainer.model.train()
    with torch.no_grad():
        expected = GRPOTrainer._generate_and_score_completions(trainer, inputs)
        processor = trainer.processing_class
        counting = processor.image_processor = Counting(processor.image_processor)
        found = trainer._generate_and_score_completions(inputs)
    assert counting.seen == 4
    assert trainer.processing_class is processor
    assert found.keys() == expected.keys()
    assert {"pixel_values", "num_images"} <= found.keys()
    for name, value in expected.items():
        if name == "ref_per_token_logps":
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)
        elif isinstance(value, torch.Tensor):
            assert found[name].equal(value), name
        else:
            assert found[name] == value, name
