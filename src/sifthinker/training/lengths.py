"""Token counts of prompts and chains, including images, as the trainer counts them. No image is decoded.

The number of tokens of an image depends only on its size, which is in the file header. A blank image of the same size
therefore has the same number of tokens. This works for every family, with resizing by area, tiles or a fixed size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image

from sifthinker.images import image_size
from sifthinker.records import Example
from sifthinker.training.data import sft_turns
from sifthinker.training.settings import Stage

Size = tuple[int, int]
_AT_ONCE = 1000  # texts per call of the tokenizer
_TRIED = 64  # maximum number of prompts that the processor itself counts


@dataclass(frozen=True, slots=True)
class Turn:
    """An example as a trainer renders it.

    Args:
        id: id of the example.
        messages: messages of the prompt.
        asked: text of the prompt.
        said: text of the ground-truth chain, or of the direct answer.
        prompt: the prompt as the chat template renders it, with placeholders for images.
        completion: the ground-truth chain as the chat template renders it.
        sizes: (width, height) of each image.
    """

    id: str
    messages: list[dict[str, Any]]
    asked: str
    said: str
    prompt: str
    completion: str
    sizes: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Token counts of all examples, in their order.

    Args:
        prompts: tokens of the prompts with their images. The count of the longest prompt is exact.
        completions: tokens of the ground-truth chains, up to the end of the turn.
    """

    prompts: list[int]
    completions: list[int]

    @property
    def whole(self) -> list[int]:
        """Tokens of prompt and completion, added up."""
        return [prompt + completion for prompt, completion in zip(self.prompts, self.completions, strict=True)]


def header_sizes(examples: Sequence[Example]) -> dict[str, Size]:
    """Read the size of every image from its header: path → (width, height).

    Raises:
        ImageError: an image is unreadable.
    """
    return {image: image_size(image) for image in {image: None for example in examples for image in example.images}}


def turns(
    examples: Sequence[Example],
    sizes: Mapping[str, Size],
    stage: Stage,
    processor: Any,
    *,
    answers_only: bool = False,
    end: str = "",
    **template: Any,
) -> list[Turn]:
    """Render the examples as the trainer of a stage does.

    Args:
        examples: examples of the run.
        sizes: sizes of their images, see `header_sizes`.
        stage: stage of the run.
        processor: processor of the model.
        answers_only: setting of the run.
        end: end token to add to every completion, see `data.missing_end`.
        template: further arguments of `apply_chat_template`.
    """
    from trl.data_utils import apply_chat_template, prepare_multimodal_messages

    found = []
    for example, (asked, said) in zip(examples, sft_turns(examples, answers_only=answers_only, end=end), strict=True):
        messages = prepare_multimodal_messages([asked], images=list(example.images))
        completion = prepare_multimodal_messages([said])
        rendered = apply_chat_template({"prompt": messages, "completion": completion}, processor, **template)
        prompt = rendered["prompt"]
        if stage == "grpo":  # GRPO renders the prompt alone; SFT renders it together with the completion
            prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **template)
        shown = tuple(sizes[image] for image in example.images)
        found.append(
            Turn(example.id, messages, str(asked["content"]), str(said["content"]), prompt, rendered["completion"], shown)
        )
    return found


def count_tokens(turned: Sequence[Turn], stage: Stage, processor: Any, **template: Any) -> Lengths:
    """Count the tokens of every example.

    Every text is tokenised. Images are counted once per size. The sum can be wrong by a few tokens, because a tokenizer may
    join tokens where text and image meet. Therefore the processor itself counts the prompts that may be the longest, with
    blank images, until no other prompt can be longer.

    Args:
        turned: rendered examples, see `turns`.
        stage: stage of the run.
        processor: processor of the model.
        template: further arguments of `apply_chat_template`.
    """
    texts = _text_tokens([turn.prompt for turn in turned], processor)
    added = _tokens_of_images(turned, texts, stage, processor, template)
    prompts = [text + more for text, more in zip(texts, added, strict=True)]
    best = off = 0
    for number in sorted(range(len(turned)), key=lambda index: -prompts[index])[:_TRIED]:
        if prompts[number] + off <= best:
            break
        counted = prompt_tokens(turned[number], stage, processor, **template)
        off = max(off, abs(counted - prompts[number]))
        prompts[number] = counted
        best = max(best, counted)
    return Lengths(prompts, _text_tokens([turn.completion for turn in turned], processor))


def prompt_tokens(turn: Turn, stage: Stage, processor: Any, **template: Any) -> int:
    """Count the tokens of one prompt exactly as the trainer does, with blank images of the same sizes."""
    return len(prompt_inputs([turn], stage, processor, **template)["input_ids"][0])


def prompt_inputs(turned: Sequence[Turn], stage: Stage, processor: Any, **template: Any) -> Mapping[str, Any]:
    """Return the model inputs for prompts with blank images, as the trainer of the stage makes them, without padding."""
    images = [[blank(size) for size in turn.sizes] for turn in turned]
    if stage == "sft":
        made = processor(images=images, text=[turn.prompt for turn in turned], add_special_tokens=False, return_tensors=None)
        return dict(made)
    conversations = [with_images(turn.messages, shown) for turn, shown in zip(turned, images, strict=True)]
    made = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, **template
    )
    return dict(made)


def blank(size: Size) -> Image.Image:
    """Return a grey image. Some processors would take black for padding."""
    return Image.new("RGB", size, (99, 99, 99))


def with_images(messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """Return messages with their images replaced by these images."""
    shown = iter(images)
    return [
        {
            **message,
            "content": [
                {**part, "image": next(shown)} if part["type"] == "image" else dict(part) for part in message["content"]
            ],
        }
        for message in messages
    ]


def _text_tokens(texts: Sequence[str], processor: Any) -> list[int]:
    return [
        len(ids)
        for start in range(0, len(texts), _AT_ONCE)
        for ids in processor.tokenizer(list(texts[start : start + _AT_ONCE]), add_special_tokens=False)["input_ids"]
    ]


def _tokens_of_images(
    turned: Sequence[Turn], texts: Sequence[int], stage: Stage, processor: Any, template: Mapping[str, Any]
) -> list[int]:
    """Count the tokens that the images of each example add to its text."""
    first: dict[tuple[Size, ...], int] = {}
    for number, turn in enumerate(turned):
        first.setdefault(turn.sizes, number)

    @cache
    def by_blanks(sizes: tuple[Size, ...]) -> int:
        return prompt_tokens(turned[first[sizes]], stage, processor, **template) - texts[first[sizes]]

    formula = _formula(list(first), by_blanks, processor)
    added = {sizes: by_blanks(sizes) if formula is None else formula[sizes] for sizes in first}
    return [added[turn.sizes] for turn in turned]


def _formula(
    groups: list[tuple[Size, ...]], by_blanks: Callable[[tuple[Size, ...]], int], processor: Any
) -> dict[tuple[Size, ...], int] | None:
    """Count the image tokens with the processor's own formula, which is fast. None if it has none, or a wrong one.

    The formula is checked against blank images of the extreme sizes: smallest, largest, widest and tallest.
    """
    known = getattr(processor, "_get_num_multimodal_tokens", None)
    tried = set(_extremes(groups))
    if known is None or len(tried) >= len(groups):
        return None
    every = sorted({size for sizes in groups for size in sizes})
    try:
        counts = known(image_sizes=[(height, width) for width, height in every])["num_image_tokens"]
    except (AttributeError, KeyError, TypeError):
        return None  # LLaVA's formula (seen in transformers 5.23) fails for image processors that do not crop, as nano's
    tokens = dict(zip(every, counts, strict=True))
    # Tokens around each image, which some formulas leave out, minus the placeholders that are already in the text.
    rest = {len(sizes): by_blanks(sizes) - sum(tokens[size] for size in sizes) for sizes in tried}
    if len(rest) > 1 or any(by_blanks(sizes) != sum(tokens[s] for s in sizes) + rest[len(sizes)] for sizes in tried):
        return None
    return {sizes: sum(tokens[size] for size in sizes) + rest[len(sizes)] for sizes in groups}


def _extremes(groups: list[tuple[Size, ...]]) -> Iterator[tuple[Size, ...]]:
    def area(sizes: tuple[Size, ...]) -> float:
        return sizes[0][0] * sizes[0][1] if sizes else 0

    def shape(sizes: tuple[Size, ...]) -> float:
        return sizes[0][0] / sizes[0][1] if sizes else 0

    for measure in (area, shape):
        yield min(groups, key=measure)
        yield max(groups, key=measure)
