"""Datasets for TRL's trainers, made from Examples. Images are decoded when a batch needs them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from typing import Any

from sifthinker.errors import ModelError, RecordError
from sifthinker.models import opened_by_template
from sifthinker.prompts import user_prompt
from sifthinker.records import Example, no_example, read_examples, write_choices


def load_examples(path: str, limit: int | None = None, sample: int | None = None) -> list[Example]:
    """Read the examples of a dataset folder or file, with absolute image paths.

    Args:
        path: the folder or file.
        limit: use only the first N examples.
        sample: use only N examples, drawn at random, in the order of the file. The draw depends on nothing but their ids: it
            is the same each time, and a smaller draw is part of a larger one.
    Raises:
        RecordError: a file is missing, a line is malformed, there is no example, or the examples cannot be trained together.
    """
    examples = list(islice(read_examples(path), limit))
    if sample is not None:
        drawn = nsmallest(sample, range(len(examples)), key=lambda index: _ticket(examples[index].id))
        examples = [examples[index] for index in sorted(drawn)]
    for example in examples:
        for file in (*example.images, *([example.depth] if example.depth else [])):
            if not Path(file).is_file():
                raise RecordError(f"{path}: example {example.id!r}: file {file} does not exist", "missing_image")
    if not examples:
        raise no_example(path)
    if len({example.depth is None for example in examples}) > 1:
        raise RecordError(
            f"{path}: some examples have depth and others have none; put RGB-only examples in a separate dataset",
            "mixed_depth",
        )
    spaces = sorted({example.coordinates for example in examples})
    if len(spaces) > 1:
        raise RecordError(
            f"{path}: chains have boxes in different coordinates ({' and '.join(spaces)}); put them in separate datasets",
            "mixed_coordinates",
        )
    return examples


def _ticket(name: str) -> bytes:
    return hashlib.blake2b(name.encode()).digest()


def sft_dataset(examples: list[Example], *, answers_only: bool = False, end: str = "") -> Any:
    """Return a `datasets.Dataset` with `prompt`, `completion` (messages) and `images`. Only the completion has a loss.

    Args:
        examples: training examples.
        answers_only: use the question and the direct answer instead of the task and the chain.
        end: end token to add to every completion, see `missing_end`.
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
    """Return the user's and the assistant's message of each example; see `sft_dataset`."""
    turns = [_direct(example) if answers_only else example.messages for example in examples]
    return [(dict(asked), {**said, "content": said["content"] + end}) for asked, said in turns]


def _direct(example: Example) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the two messages of an example with a direct answer."""
    text = user_prompt(example.problem, with_depth=example.depth is not None, protocol="direct")
    return {"role": "user", "content": text}, {"role": "assistant", "content": example.answer}


def gold_completion(example: Example, processor: Any, **template: Any) -> str:
    """Return an example's chain as the model would have to write it: rendered by the chat template, tokenised and decoded.

    If the template opens a tag itself (`<think>`), that tag is put in front, as the trainer does with every completion. A
    template that does not change chains returns the chain itself.

    Args:
        example: the example.
        processor: processor of the model.
        template: further arguments of `apply_chat_template`.
    """
    tokens = processor.tokenizer(_rendered(example, processor, **template), add_special_tokens=False)["input_ids"]
    text: str = processor.tokenizer.decode(tokens, skip_special_tokens=True)
    return opened_by_template(processor, **template) + text


def missing_end(example: Example, processor: Any, ends: Sequence[int], **template: Any) -> str:
    """Return the end token that a chat template leaves out after the assistant's turn; "" if the template writes one.

    Without an end token, a model does not learn to stop. The templates of LLaVA-1.5 and GLM-4V leave it out.

    Args:
        example: any example of the data.
        processor: processor of the model.
        ends: ids of the tokens at which the model stops, see `models.end_tokens`.
        template: further arguments of `apply_chat_template`.
    Returns:
        The first token of `ends` as text. `sft_dataset` adds it to every completion.
    Raises:
        ModelError: the model has no end token.
    """
    if not ends:
        raise ModelError(
            "the model has no end token in its generation config or tokenizer, so its answers would never end; set "
            "eos_token_id in generation_config.json"
        )
    rendered = _rendered(example, processor, **template)
    if not set(ends).isdisjoint(processor.tokenizer(rendered, add_special_tokens=False)["input_ids"]):
        return ""
    token: str = processor.tokenizer.convert_ids_to_tokens(ends[0])
    return token


def _rendered(example: Example, processor: Any, **template: Any) -> str:
    """Return the assistant's turn of an example as the chat template renders it after the prompt."""
    from trl.data_utils import apply_chat_template, prepare_multimodal_messages

    asked, said = ([dict(message)] for message in example.messages)
    turns = {
        "prompt": prepare_multimodal_messages(asked, images=list(example.images)),
        "completion": prepare_multimodal_messages(said),
    }
    text: str = apply_chat_template(turns, processor, **template)["completion"]
    return text


def grpo_dataset(examples: list[Example]) -> Any:
    """Return a `datasets.Dataset` with `prompt`, `images`, and the columns that the rewards need."""
    # Rewards expect fractions by default, so chains in fractions need no columns for their coordinates.
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
