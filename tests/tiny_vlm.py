"""A tiny vision-language model of the tests' own: a LLaVA with random weights and the processor that belongs to it.

Made here from transformers' own classes, so that nothing is downloaded and nothing of the embedded world is needed. It loads
and trains like any other; a chain about the blocks of `small_data` has about a hundred of its tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sifthinker.prompts import DIRECT_DEPTH, DIRECT_RGB, TASK_DEPTH, TASK_RGB, TEACHER_SYSTEM

from .small_data import sentences

PICTURE, PATCH = 64, 16  # pixels: an image is 16 tokens
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
IMAGE = "<image>"
# One token each: what stands between the words of a chain.
PIECES = (
    "<think>\n<area>", "</area>\n<text>", "</text>\n<area>", "</text>\n</think>\n<answer>\n", "\n</answer>",
    "<think>", "</think>", "<area>", "</area>", "<text>", "</text>", "<answer>", "</answer>",
    '[{"bbox_2d":[', '],"depth":', '},{"bbox_2d":[', "}]", "]},", "\nQuestion:",
)  # fmt: skip
# The user's turn begins with <s>, the assistant's ends with </s>; `generation` marks what is learnt. What a template writes
# for the model to go on from would stand where nothing stands here.
TEMPLATE = """
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{{ eos_token }}
{%- endgeneration %}
{%- else %}{{ bos_token }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}
{%- endfor %}
{%- endif %}
{%- endif %}
{%- endfor %}{% if add_generation_prompt %}{% endif %}"""

PUBLISHED = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)


def tokenizer() -> Any:
    """Byte-level BPE over the words of `small_data`, with every two-decimal number, piece and task as one token."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|\d| ?[^A-Za-z\d\s]+|\s"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*SPECIAL.values(), IMAGE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator([TEACHER_SYSTEM, *sentences()], trainer)
    numbers = [f"{level / 100:.2f}" for level in range(101)]
    whole = [*numbers, *PIECES, TASK_DEPTH, TASK_RGB, DIRECT_DEPTH, DIRECT_RGB]
    made.add_tokens([AddedToken(token, normalized=False) for token in whole])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        **SPECIAL,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def processor() -> Any:
    """A LLaVA processor whose images Pillow resizes, so that torchvision is not needed."""
    from transformers import LlavaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(
        size={"height": PICTURE, "width": PICTURE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=TEMPLATE,
        image_token=IMAGE,
    )


def write_tiny_vlm(folder: Path) -> None:
    """Write the model, one layer that sees and two that read, each 64 wide, and its processor to a folder."""
    import torch
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    made = processor()
    words = made.tokenizer
    shape = {"hidden_size": 64, "intermediate_size": 170, "num_attention_heads": 2}
    ends = {"pad_token_id": words.pad_token_id, "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            **shape, num_hidden_layers=1, image_size=PICTURE, patch_size=PATCH, vision_use_head=False
        ),
        text_config=LlamaConfig(
            **shape, **ends, num_hidden_layers=2, num_key_value_heads=2, vocab_size=len(words), tie_word_embeddings=True
        ),
        image_token_id=words.convert_tokens_to_ids(IMAGE),
        image_seq_length=(PICTURE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    drawn = LlavaForConditionalGeneration(config).state_dict()
    # Loaded from the names of published checkpoints, which vLLM knows, weights are saved under these, trained or not.
    for ours, published in PUBLISHED:
        drawn = {name.replace(ours, published): weight for name, weight in drawn.items() if name != "lm_head.weight"}
    model = LlavaForConditionalGeneration.from_pretrained(None, config=config, state_dict=drawn, dtype=torch.float32)
    for part in (model.config, model.generation_config):
        part.pad_token_id, part.eos_token_id = words.pad_token_id, words.eos_token_id
    model.save_pretrained(folder)
    made.save_pretrained(folder)
