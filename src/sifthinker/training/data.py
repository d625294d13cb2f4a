"""Examples as the datasets that TRL's trainers read. Images are decoded when a batch needs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sifthinker.errors import ModelError, RecordError
from sifthinker.models import opened_by_template
from sifthinker.prompts import user_prompt
from sifthinker.records import Example, read_examples, write_choices


def load_examples(path: str, limit: int | None = None) -> list[Example]:
    """Examples of a dataset folder or file, image paths absolute.

    Raises:
        RecordError: no file, a malformed line, or no example at all.
    """
    examples = []
    for example in read_examples(path):
        for file in (*example.images, *([example.depth] if example.depth else [])):
            if not Path(file).is_file():
                raise RecordError(f"{path}: example {example.id!r} lacks its file {file}", "missing_image")
        examples.append(example)
        if len(examples) == limit:
            break
    if not examples:
        raise RecordError(f"{path}: holds no example", "no_example")
    if len({example.depth is None for example in examples}) > 1:
        raise RecordError(f"{path}: some examples have depth and some have none; train RGB-only data apart", "mixed_depth")
    spaces = sorted({example.coordinates for example in examples})
    if len(spaces) > 1:
        raise RecordError(f"{path}: chains state boxes in {' and '.join(spaces)}; train them apart", "mixed_coordinates")
    return examples


def sft_dataset(examples: list[Example], *, answers_only: bool = False, end: str = "") -> Any:
    """A `datasets.Dataset` with `prompt`, `completion` (messages) and `images`: the loss falls on the completion alone.

    Args:
        examples: what to learn.
        answers_only: the question asked directly and the answer, instead of the task and the chain.
        end: what is added to every completion, see `missing_end`.
    """
    turns = sft_turns(examples, answers_only=answers_only, end=end)
    return _dataset(
        {
            "prompt": [[asked] for asked, _ in turns],
            "completion": [[said] for _, said in turns],
            "images": [list(example.images) for example in examples],
        }
    )


def sft_turns(
    examples: Sequence[Example], *, answers_only: bool = False, end: str = ""
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What is asked and said in each example, as messages; see `sft_dataset`."""
    turns = [_direct(example) if answers_only else example.messages for example in examples]
    return [(dict(asked), {**said, "content": said["content"] + end}) for asked, said in turns]


def _direct(example: Example) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two turns of an example without steps."""
    text = user_prompt(example.problem, with_depth=example.depth is not None, protocol="direct")
    return {"role": "user", "content": text}, {"role": "assistant", "content": example.answer}


def gold_completion(example: Example, processor: Any, **template: Any) -> str:
    """An example's chain as a model would have to write it: rendered by the chat template, tokenised and decoded.

    What the template opens by itself (`<think>`) is put in front, as the trainer does with every completion. A template that
    keeps chains as they are gives the chain itself.

    Args:
        example: the example.
        processor: of the model.
        template: further arguments of `apply_chat_template`.
    """
    tokens = processor.tokenizer(_rendered(example, processor, **template), add_special_tokens=False)["input_ids"]
    text: str = processor.tokenizer.decode(tokens, skip_special_tokens=True)
    return opened_by_template(processor, **template) + text


def missing_end(example: Example, processor: Any, ends: Sequence[int], **template: Any) -> str:
    """The end token that a chat template does not write behind the assistant's turn; "" if it writes one.

    Without it a model learns chains and never to stop. LLaVA-1.5's template and GLM-4V's leave it out.

    Args:
        example: any of the data.
        processor: of the model.
        ends: ids of the tokens at which the model stops, see `models.end_tokens`.
        template: further arguments of `apply_chat_template`.
    Returns:
        The first of `ends` as text, which `sft_dataset` adds to every completion.
    Raises:
        ModelError: there are none.
    """
    if not ends:
        raise ModelError(
            "neither the model's generation config nor its tokenizer names an end token, so no answer would ever end; set "
            "eos_token_id in generation_config.json"
        )
    rendered = _rendered(example, processor, **template)
    if not set(ends).isdisjoint(processor.tokenizer(rendered, add_special_tokens=False)["input_ids"]):
        return ""
    token: str = processor.tokenizer.convert_ids_to_tokens(ends[0])
    return token


def _rendered(example: Example, processor: Any, **template: Any) -> str:
    """The assistant's turn of an example as the chat template writes it behind the prompt."""
    from trl.data_utils import apply_chat_template, prepare_multimodal_messages

    asked, said = ([dict(message)] for message in example.messages)
    turns = {
        "prompt": prepare_multimodal_messages(asked, images=list(example.images)),
        "completion": prepare_multimodal_messages(said),
    }
    text: str = apply_chat_template(turns, processor, **template)["completion"]
    return text


def grpo_dataset(examples: list[Example]) -> Any:
    """A `datasets.Dataset` with `prompt`, `images`, and the columns that the rewards take."""
    # Chains in fractions, which is what rewards expect unless told, need no columns that say so.
    framed = any(example.coordinates != "unit" for example in examples)
    frames = {
        "coordinates": [example.coordinates for example in examples],
        "resized": [None if example.resized is None else list(example.resized) for example in examples],
    }
    return _dataset(
        {
            **(frames if framed else {}),
            "prompt": [[dict(example.messages[0])] for example in examples],
            "images": [list(example.images) for example in examples],
            "id": [example.id for example in examples],
            "problem": [example.problem for example in examples],
            "answer": [example.answer for example in examples],
            "boxes": [[list(box) for box in example.boxes] for example in examples],
            "choices": [write_choices(example.choices) for example in examples],
            "depth": [example.depth for example in examples],
        }
    )


def _dataset(columns: dict[str, Any]) -> Any:
    from datasets import Dataset, List

    from sifthinker.training.image_column import LoadedImage

    return Dataset.from_dict(columns).cast_column("images", List(LoadedImage()))
