"""The nano VLM: a LLaVA with about three million parameters and a tokenizer for the world's chains.

It is a plain transformers model. `save_pretrained` writes it, `AutoProcessor` and `AutoModelForImageTextToText` load it, and
vLLM serves it. Code that trains or runs nano works in the same way for Qwen-VL. Each two-decimal number, piece of chain
syntax, task prompt and object name is one token, so a chain has about a hundred tokens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from sifthinker.errors import need
from sifthinker.files import atomic_write, make_folder
from sifthinker.lab.lessons import SYNTAX, lessons
from sifthinker.lab.questions import sample_questions
from sifthinker.lab.scenes import COLOURS, SHAPES, sample_scene
from sifthinker.prompts import DIRECT_DEPTH, DIRECT_RGB, TASK_DEPTH, TASK_RGB, user_prompt

IMAGE_SIZE = 64
PATCH_SIZE = 16

_NEEDS = ("torch", "transformers", "tokenizers")
_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_IMAGE = "<image>"
_REGIONS = ('[{"bbox_2d":[', '],"depth":', '},{"bbox_2d":[', "}]", "]},", "\nQuestion:")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{{ eos_token }}"
    "{% endgeneration %}"
    "{% else %}{{ bos_token }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{% endif %}"
)


def build_tokenizer() -> Any:
    """Build the nano tokenizer: a deterministic byte-level BPE of the world's words, which can encode any text."""
    need("nano", *_NEEDS)
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|\d| ?[^A-Za-z\d\s]+|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        min_frequency=2,
        special_tokens=[*_SPECIAL.values(), _IMAGE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    numbers = [f"{level / 100:.2f}" for level in range(101)]
    # With one token per name, the model copies a name by copying one token.
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    whole = [*numbers, *names, *SYNTAX, *_REGIONS, TASK_DEPTH, TASK_RGB, DIRECT_DEPTH, DIRECT_RGB]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in whole])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **_SPECIAL,
        extra_special_tokens={"image_token": _IMAGE},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def _corpus() -> Iterator[str]:
    """Yield text with every word of the world, often enough that each word becomes one token."""
    for colour in COLOURS:
        for shape in SHAPES:
            yield f" the {colour} {shape} the {colour} {shape}s {colour} objects. The {colour} {shape}, {colour} {shape}"
    for question in sample_questions(540):
        yield user_prompt(question.text).removeprefix(TASK_DEPTH)
        yield f"I look for {question.subject}. I see {question.subject}. This does not help."
        yield from ("There is nothing here.", "It is around here.", "I look closer.")
        yield from (question.plain, question.reason, question.answer)
    for scene_seed in range(60):
        for lesson in lessons(sample_scene(scene_seed), scene_seed, "medium", course="find"):
            yield lesson.question
            yield lesson.reply


def build_processor() -> Any:
    """Build the nano processor: a LLaVA processor with a PIL image processor, which does not need torchvision."""
    need("nano", *_NEEDS)
    from transformers import LlavaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return LlavaProcessor(
        image_processor=SiglipImageProcessorPil(
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            resample=3,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
            do_convert_rgb=True,
        ),
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=CHAT_TEMPLATE,
        image_token=_IMAGE,
    )


def build_model(processor: Any, *, seed: int = 0, width: int = 192, vision_layers: int = 3, text_layers: int = 4) -> Any:
    """Build the nano model with random weights.

    Args:
        processor: processor of the model, for the vocabulary.
        seed: random seed of the weights.
        width: hidden size of both towers, a multiple of 32.
        vision_layers: number of layers of the SigLIP tower.
        text_layers: number of layers of the Llama decoder.
    """
    need("nano", *_NEEDS)
    import torch
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    tokenizer = processor.tokenizer
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=vision_layers,
            num_attention_heads=width // 32,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            vision_use_head=False,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=text_layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 32,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids(_IMAGE),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = publish(LlavaForConditionalGeneration(config))
    for part in (model.config, model.generation_config):
        part.pad_token_id, part.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    return model


def publish(model: Any) -> Any:
    """Return the same model, but saved under the weight names of published LLaVA checkpoints from now on.

    transformers (seen in 5.23) dropped `vision_model` from the names in its modules. It restores the old names only for
    models that were loaded from weights with these names. Servers such as vLLM support only the old names.

    Args:
        model: a nano model, with random or loaded weights.
    """
    swaps = {
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.language_model.": "language_model.model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    }
    weights = {}
    for name, weight in model.state_dict().items():
        old = next((old for old in swaps if name.startswith(old)), None)
        if old is not None:  # all others belong to the head, which is tied to the embedding
            weights[swaps[old] + name.removeprefix(old)] = weight
    return type(model).from_pretrained(None, config=model.config, state_dict=weights, dtype=model.dtype)


def write_nano(out: str | os.PathLike[str], *, seed: int = 0, **shape: int) -> None:
    """Write a nano model with random weights and its processor to a folder.

    Args:
        out: folder to write.
        seed: random seed of the weights.
        shape: width, vision_layers, text_layers; see `build_model`.
    Raises:
        SIFError: the folder cannot be written.
    """
    need("nano", *_NEEDS)  # check before creating the folder
    folder = make_folder(out)
    processor = build_processor()
    build_model(processor, seed=seed, **shape).save_pretrained(folder)
    processor.save_pretrained(folder)


def pack(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write a nano model in the format of the package: weights are stored in bfloat16 and load in single precision.

    Args:
        source: model folder, for example the output of `pretrain` or of training.
        out: folder to write.
    Raises:
        ModelError: `source` is not a model folder.
        SIFError: `out` cannot be written.
    """
    need("nano", *_NEEDS)
    import torch

    from sifthinker.models import load_model, load_processor

    folder = make_folder(out)
    load_processor(source).save_pretrained(folder)
    publish(load_model(source, dtype="float32")).to(torch.bfloat16).save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    for part in ("text_config", "vision_config"):
        config[part].pop("dtype", None)
    atomic_write(path, json.dumps(config, indent=2) + "\n")
