"""The plan's tokens are the trainer's: every example of every family, counted by headers and tokenised from its pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from sifthinker.models import end_tokens, load_processor
from sifthinker.records import Example

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from sifthinker.training.data import grpo_dataset, load_examples, missing_end, sft_dataset  # noqa: E402
from sifthinker.training.lengths import Lengths, count_tokens, header_sizes, turns  # noqa: E402

from ..real_models import FAMILIES, NEED_TORCHVISION  # noqa: E402

MISSING = NEED_TORCHVISION if find_spec("torchvision") is None else ()
HERE = [family for family in FAMILIES if family not in (*MISSING, "paligemma")]
# Wide, tall, small, large, and twice the same: of nine sizes the extremes are tried and the others worked out.
SIZES = [(64, 64), (200, 100), (100, 300), (300, 30), (400, 400), (90, 120), (320, 240), (64, 100), (64, 64)]


@pytest.fixture(scope="module")
def examples(chains: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Nine examples whose images have the sizes above, depth views too."""
    folder = tmp_path_factory.mktemp("sizes")
    made = []
    for number, (example, size) in enumerate(zip(load_examples(str(chains)), SIZES, strict=False)):
        images = [str(folder / f"{number}-{place}.png") for place in range(len(example.images))]
        for image in images:
            Image.new("RGB", size, (9, 80, 200)).save(image)
        made.append(replace(example, images=tuple(images)))
    return made


def counted(examples: list[Example], stage: str, folder: Path) -> Lengths:
    processor = load_processor(folder)
    end = missing_end(examples[0], processor, end_tokens(folder, processor))
    return count_tokens(turns(examples, header_sizes(examples), stage, processor, end=end), stage, processor)


@pytest.mark.parametrize("family", HERE)
def test_sft_sees_as_many_tokens(family: str, real_model: Callable[[str], Path], examples: list[Example]) -> None:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    processor = load_processor(real_model(family))
    end = missing_end(examples[0], processor, end_tokens(real_model(family), processor))
    collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    batches = [collate([row]) for row in sft_dataset(examples, end=end)]
    lengths = counted(examples, "sft", real_model(family))
    assert lengths.completions == [int((batch["labels"] != -100).sum()) for batch in batches]
    assert lengths.whole == [batch["input_ids"].size(1) for batch in batches]


def test_a_llava_that_does_not_crop_is_counted(tiny_vlm: Path, examples: list[Example]) -> None:
    """The formula of LLaVA's processor needs a size to crop to, which this one lacks; blank images are counted instead."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    collate = DataCollatorForVisionLanguageModeling(load_processor(tiny_vlm), completion_only_loss=True)
    batches = [collate([row]) for row in sft_dataset(examples)]
    assert counted(examples, "sft", tiny_vlm).whole == [batch["input_ids"].size(1) for batch in batches]


@pytest.mark.parametrize("family", HERE)
def test_grpo_sees_as_many_tokens(family: str, real_model: Callable[[str], Path], examples: list[Example]) -> None:
    from trl.data_utils import prepare_multimodal_messages

    processor = load_processor(real_model(family))
    rows = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in grpo_dataset(examples)]
    prompts = [
        processor.apply_chat_template([row], add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"][0]
        for row in rows
    ]
    assert counted(examples, "grpo", real_model(family)).prompts == [len(prompt) for prompt in prompts]


def test_the_largest_image_counts_and_not_the_longest_text(
    real_model: Callable[[str], Path], examples: list[Example]
) -> None:
    """Twenty long questions about a small image and a short one about a large one."""
    asked = {"role": "user", "content": examples[0].prompt + " Why?" * 20}
    many = [replace(examples[0], id=str(number), messages=(asked, examples[0].messages[1])) for number in range(20)]
    lengths = counted([*many, examples[4]], "sft", real_model("qwen2_5_vl"))
    assert max(lengths.prompts) == lengths.prompts[-1] > 1.5 * lengths.prompts[0]


def test_no_image_is_decoded(
    real_model: Callable[[str], Path], examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageFile

    def refuse(self: object) -> None:
        raise AssertionError("pixels were read")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    assert max(counted(examples, "grpo", real_model("qwen2_5_vl")).prompts) > 300


def test_what_joins_where_text_and_image_meet_is_counted_by_the_processor(
    real_model: Callable[[str], Path], examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum that is off by some tokens still gives the longest prompt exactly."""
    from sifthinker.training import lengths

    right = counted(examples, "sft", real_model("qwen2_5_vl"))
    wrong = lengths._tokens_of_images

    def off(*arguments: object) -> list[int]:
        return [tokens + 7 * (number % 2) for number, tokens in enumerate(wrong(*arguments))]

    monkeypatch.setattr(lengths, "_tokens_of_images", off)
    assert max(counted(examples, "sft", real_model("qwen2_5_vl")).prompts) == max(right.prompts)


def test_answers_alone_are_counted_as_they_are_asked(real_model: Callable[[str], Path], examples: list[Example]) -> None:
    processor = load_processor(real_model("qwen2_5_vl"))
    turned = turns(examples, header_sizes(examples), "sft", processor, answers_only=True)
    assert turned[0].said == examples[0].answer
    assert "<think>" not in turned[0].completion
