"""Tiny random models of the families that people train, with those families' processors, tokenizers and chat templates.

The classes are transformers' own. Weights are random and a few hundred kilobytes large; the numbers of a processor that
shape its work (patch, merge, bounds of the area, tiles, crop) are those that the published models have, or the same kind in
small. Folders are laid out as on the Hugging Face Hub, so that what loads here loads there. Chat templates come from TRL,
which ships those of the published models, and are written here where it has none.

`write_real_model(family, folder)` writes one; the fixture `real_model` gives a cached folder. torchvision is not needed to
write any of them. Mistral 3 and LFM2-VL need it to be loaded, for their image processors have no other version.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sifthinker.prompts import DIRECT_DEPTH, DIRECT_RGB, TASK_DEPTH, TASK_RGB

from .small_data import sentences

WIDTH = 64  # of every layer


@dataclass(frozen=True)
class Made:
    """What a family's folder is written from.

    Args:
        model: random weights.
        tokenizer: of the family's kind.
        template: chat template; None where the family has none.
        images: preprocessor_config.json.
        processor: processor_config.json, where the processor has settings of its own.
        videos: video_preprocessor_config.json, where the family has one.
        ends: tokens of generation_config that end a turn, besides the tokenizer's.
    """

    model: Any
    tokenizer: Any
    template: str | None
    images: dict[str, Any]
    processor: dict[str, Any] | None = None
    videos: dict[str, Any] | None = None
    ends: tuple[str, ...] = field(default=())


def write_real_model(family: str, folder: Path, **text: Any) -> Path:
    """Write a family's model folder.

    Args:
        family: one of `FAMILIES`.
        folder: where; made if it is not there.
        text: settings of the language model to change, for instance `num_hidden_layers`.
    Returns:
        The folder.
    """
    import torch
    import transformers as t

    torch.manual_seed(0)
    made = FAMILIES[family](text)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, ids = made.tokenizer, made.tokenizer.convert_tokens_to_ids
    made.model.generation_config = t.GenerationConfig(
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, *map(ids, made.ends)],
    )
    made.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write(folder / "preprocessor_config.json", made.images)
    for name, values in (("processor_config.json", made.processor), ("video_preprocessor_config.json", made.videos)):
        if values is not None:
            _write(folder / name, values)
    if made.template is not None:
        (folder / "chat_template.jinja").write_text(made.template, encoding="utf-8")
    return folder


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


def _template(name: str) -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def _bpe(pre_tokenizer: Any, specials: tuple[str, ...] = ()) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tags = "<think>\n<area>" + '[{"bbox_2d":[0.000,0.125,1.000,0.875],"depth":0.583}]' + "</area>\n<text>…</text>\n</think>"
    made.train_from_iterator([*sentences(), *[TASK_DEPTH, TASK_RGB, DIRECT_DEPTH, DIRECT_RGB, tags] * 3], trainer)
    return made


def _qwen_tokenizer(*more: str) -> Any:
    """Qwen's tokenizer class and special tokens over a small vocabulary."""
    from tokenizers import AddedToken, Regex, pre_tokenizers
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    words = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    made = _bpe(pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))
    model = json.loads(made.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        model_max_length=131072,
    )
    special = (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
        "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
        "<|image_pad|>", "<|video_pad|>",
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<tool_call>", "</tool_call>", *more)])
    tokenizer.add_special_tokens({"additional_special_tokens": list(special[1:])})
    return tokenizer


def _plain_tokenizer(*specials: str, eos: str = "</s>", **named: str) -> Any:
    """A byte-level tokenizer with a family's special tokens; `named` are those that its processor asks for by name."""
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = _bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), ("<pad>", "<s>", "<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        unk_token="<unk>",
        eos_token=eos,
        extra_special_tokens=named,
        model_max_length=131072,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in specials], special_tokens=True)
    return tokenizer


def _text(tokenizer: Any, changes: dict[str, Any], **own: Any) -> dict[str, Any]:
    """Settings of a small language model; its rows reach beyond the tokenizer, as those of published models do."""
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64 + 64,
        "hidden_size": WIDTH,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **own,
        **changes,
    }


def _tower(**own: Any) -> dict[str, Any]:
    """Settings of a small vision transformer of the CLIP and SigLIP kind."""
    shape = {"hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {**shape, "image_size": 56, "patch_size": 14, **own}


# Qwen-VL. Numbers: the preprocessor configs of Qwen2.5-VL-7B-Instruct and Qwen3-VL-8B-Instruct.
_CLIP_MEAN, _CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_QWEN2_IMAGES = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD, "image_processor_type": "Qwen2VLImageProcessor",
}  # fmt: skip
_QWEN3_IMAGES = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "Qwen2VLImageProcessorFast",
}  # fmt: skip
_QWEN3_VIDEOS = {
    "size": {"longest_edge": 25165824, "shortest_edge": 4096}, "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "video_processor_type": "Qwen3VLVideoProcessor",
}  # fmt: skip
_MROPE = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 3, 3]}


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
    }  # fmt: skip
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _qwen2_vl(text: dict[str, Any]) -> Made:
    import transformers as t

    tokenizer = _qwen_tokenizer()
    vision = {"depth": 2, "embed_dim": WIDTH, "hidden_size": WIDTH, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14}
    config = t.Qwen2VLConfig(
        text_config=_text(tokenizer, text, rope_parameters=_MROPE), vision_config=vision, **_qwen_ids(tokenizer)
    )
    return Made(
        t.Qwen2VLForConditionalGeneration(config), tokenizer, _template("qwen2_5_vl"),
        {**_QWEN2_IMAGES, "processor_class": "Qwen2VLProcessor"}, ends=("<|endoftext|>",),
    )  # fmt: skip


def _qwen2_5_vl(text: dict[str, Any]) -> Made:
    import transformers as t

    tokenizer = _qwen_tokenizer()
    vision = {
        "depth": 2, "hidden_size": WIDTH, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [1], "window_size": 112, "patch_size": 14,
    }  # fmt: skip
    config = t.Qwen2_5_VLConfig(
        text_config=_text(tokenizer, text, rope_parameters=_MROPE), vision_config=vision, **_qwen_ids(tokenizer)
    )
    return Made(
        t.Qwen2_5_VLForConditionalGeneration(config), tokenizer, _template("qwen2_5_vl"),
        {**_QWEN2_IMAGES, "processor_class": "Qwen2_5_VLProcessor"}, ends=("<|endoftext|>",),
    )  # fmt: skip


_QWEN3_VISION = {
    "depth": 2, "hidden_size": WIDTH, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": WIDTH,
    "patch_size": 16, "num_position_embeddings": 2304,
}  # fmt: skip


def _qwen3_vl(text: dict[str, Any]) -> Made:
    import transformers as t

    tokenizer = _qwen_tokenizer("<think>", "</think>")
    config = t.Qwen3VLConfig(
        text_config=_text(tokenizer, text, head_dim=16, rope_parameters={**_MROPE, "mrope_interleaved": True}),
        vision_config={**_QWEN3_VISION, "deepstack_visual_indexes": [0]},
        **_qwen_ids(tokenizer),
    )
    return Made(
        t.Qwen3VLForConditionalGeneration(config), tokenizer, _template("qwen3_vl"),
        {**_QWEN3_IMAGES, "processor_class": "Qwen3VLProcessor"}, videos=_QWEN3_VIDEOS, ends=("<|endoftext|>",),
    )  # fmt: skip


def _qwen3_5(text: dict[str, Any]) -> Made:
    import transformers as t

    tokenizer = _qwen_tokenizer("<think>", "</think>")
    kinds = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
    rope = {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 0], "mrope_interleaved": True,
        "partial_rotary_factor": 0.25,
    }  # fmt: skip
    linear = {
        "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    }  # fmt: skip
    config = t.Qwen3_5Config(
        text_config=_text(
            tokenizer, text, head_dim=16, num_hidden_layers=4, layer_types=kinds, rope_parameters=rope, **linear
        ),
        vision_config=_QWEN3_VISION,
        **_qwen_ids(tokenizer),
    )
    return Made(
        t.Qwen3_5ForConditionalGeneration(config), tokenizer, _template("qwen3_5_think"),
        {**_QWEN3_IMAGES, "processor_class": "Qwen3VLProcessor"}, videos=_QWEN3_VIDEOS, ends=("<|endoftext|>",),
    )  # fmt: skip


# A turn is <|im_start|>role … <|im_end|>; IMAGE stands for what a family writes where an image goes.
_CHATML = """
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] %}{% if part['type'] == 'image' %}{{ 'IMAGE' }}{% else %}{{ part['text'] }}{% endif %}
{%- endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def _internvl(text: dict[str, Any]) -> Made:
    import transformers as t

    tokenizer = _plain_tokenizer(
        "<|im_start|>",
        eos="<|im_end|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    tower = _tower(image_size=[56, 56], patch_size=[14, 14])
    config = t.InternVLConfig(
        vision_config=tower,
        text_config={"model_type": "qwen2", **_text(tokenizer, text)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = {
        "image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 56, "width": 56}, "crop_to_patches": True,
        "min_patches": 1, "max_patches": 4, "processor_class": "InternVLProcessor",
    }  # fmt: skip
    return Made(
        t.InternVLForConditionalGeneration(config), tokenizer, _CHATML.replace("IMAGE", "<IMG_CONTEXT>\\n"), images,
        processor={"processor_class": "InternVLProcessor", "image_seq_length": 4},
        videos={"video_processor_type": "InternVLVideoProcessor", "size": {"height": 56, "width": 56}},
    )  # fmt: skip


def _llava(text: dict[str, Any]) -> Made:
    import transformers as t

    tokenizer = _plain_tokenizer(image_token="<image>")
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**_tower(num_hidden_layers=3)),
        text_config={"model_type": "llama", **_text(tokenizer, text)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layer=-2,
    )
    images = {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 56}, "do_center_crop": True,
        "crop_size": {"height": 56, "width": 56}, "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD,
        "processor_class": "LlavaProcessor",
    }  # fmt: skip
    own = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    # As llava-1.5's: USER and ASSISTANT, and no end of the assistant's turn.
    template = """
{%- for message in messages %}
{%- if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}
{%- if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}
{%- for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}
{%- for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}
{%- endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""
    return Made(
        t.LlavaForConditionalGeneration(config), tokenizer, template, images,
        processor={"processor_class": "LlavaProcessor", **own},
    )  # fmt: skip


def _llava_next(text: dict[str, Any]) -> Made:
    import transformers as t

    tokenizer = _plain_tokenizer(image_token="<image>")
    pinpoints = [[56, 112], [112, 56], [112, 112]]
    config = t.LlavaNextConfig(
        vision_config=t.CLIPVisionConfig(**_tower(num_hidden_layers=3)),
        text_config={"model_type": "llama", **_text(tokenizer, text)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
    )
    images = {
        "image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 56}, "image_grid_pinpoints": pinpoints,
        "crop_size": {"height": 56, "width": 56}, "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD,
        "processor_class": "LlavaNextProcessor",
    }  # fmt: skip
    own = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return Made(
        t.LlavaNextForConditionalGeneration(config), tokenizer, _template("llava_next"), images,
        processor={"processor_class": "LlavaNextProcessor", **own},
    )  # fmt: skip


def _llava_onevision(text: dict[str, Any]) -> Made:
    import transformers as t

    tokenizer = _plain_tokenizer("<|im_start|>", eos="<|im_end|>", image_token="<image>", video_token="<video>")
    pinpoints = [[56, 56], [56, 112], [112, 56], [112, 112]]
    config = t.LlavaOnevisionConfig(
        vision_config=t.SiglipVisionConfig(**_tower(vision_use_head=False)),
        text_config={"model_type": "qwen2", **_text(tokenizer, text)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    images = {
        "image_processor_type": "LlavaOnevisionImageProcessor", "size": {"height": 56, "width": 56},
        "image_grid_pinpoints": pinpoints, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "processor_class": "LlavaOnevisionProcessor",
    }  # fmt: skip
    return Made(
        t.LlavaOnevisionForConditionalGeneration(config), tokenizer, _CHATML.replace("IMAGE", "<image>\\n"), images,
        processor={
            "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 16, "vision_feature_select_strategy": "full",
        },
        videos={"video_processor_type": "LlavaOnevisionVideoProcessor", "size": {"height": 56, "width": 56}},
    )  # fmt: skip


def _idefics(text: dict[str, Any], *, smol: bool) -> Made:
    import transformers as t

    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = _plain_tokenizer(
        "<|im_start|>", "<|begin_of_text|>", "<fake_token_around_image>", "<image>", "<global-img>", "<video>", *rows,
        eos="<end_of_utterance>",
    )  # fmt: skip
    config = (t.SmolVLMConfig if smol else t.Idefics3Config)(
        vision_config=_tower(),
        text_config={"model_type": "llama", **_text(tokenizer, text)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    name = "SmolVLM" if smol else "Idefics3"
    model = (t.SmolVLMForConditionalGeneration if smol else t.Idefics3ForConditionalGeneration)(config)
    sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    images = {"image_processor_type": f"{name}ImageProcessor", **sizes, "processor_class": f"{name}Processor"}
    return Made(
        model, tokenizer, _template("smolvlm" if smol else "idefics3"), images,
        processor={"processor_class": f"{name}Processor", "image_seq_len": 4},
        videos={"video_processor_type": "SmolVLMVideoProcessor", **sizes} if smol else None,
    )  # fmt: skip


def _gemma3(text: dict[str, Any]) -> Made:
    import torch
    import transformers as t

    tokenizer = _plain_tokenizer(
        "<start_of_turn>",
        eos="<end_of_turn>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    ids = tokenizer.convert_tokens_to_ids
    kinds = ["sliding_attention", "full_attention"]
    config = t.Gemma3Config(
        vision_config=_tower(vision_use_head=False),
        text_config=_text(tokenizer, text, head_dim=16, sliding_window=64, layer_types=kinds),
        mm_tokens_per_image=4,
        image_token_id=ids("<image_soft_token>"),
        image_token_index=ids("<image_soft_token>"),
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
    )
    model = t.Gemma3ForConditionalGeneration(config)
    # Zeros before training, which pass no gradient on to the tower.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    images = {
        "image_processor_type": "Gemma3ImageProcessor", "size": {"height": 56, "width": 56}, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3, "processor_class": "Gemma3Processor",
    }  # fmt: skip
    return Made(
        model, tokenizer, _template("gemma3"), images,
        processor={"processor_class": "Gemma3Processor", "image_seq_length": 4},
    )  # fmt: skip


def _paligemma(text: dict[str, Any]) -> Made:
    import transformers as t

    tokenizer = _plain_tokenizer("<image>", image_token="<image>")
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = t.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **_tower(vision_use_head=False, projection_dim=WIDTH)},
        text_config={"model_type": "gemma", **_text(tokenizer, text, head_dim=16)},
        image_token_id=image,
        image_token_index=image,
        projection_dim=WIDTH,
    )
    images = {
        "image_processor_type": "SiglipImageProcessor", "size": {"height": 56, "width": 56}, "image_seq_length": 16,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "processor_class": "PaliGemmaProcessor",
    }  # fmt: skip
    return Made(t.PaliGemmaForConditionalGeneration(config), tokenizer, None, images)


def _mistral3(text: dict[str, Any]) -> Made:
    import transformers as t

    tokenizer = _plain_tokenizer(
        "[INST]", "[/INST]", image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]"
    )
    image = tokenizer.convert_tokens_to_ids("[IMG]")
    config = t.Mistral3Config(
        vision_config={"model_type": "pixtral", **_tower(image_size=112, head_dim=16)},
        text_config={"model_type": "mistral", **_text(tokenizer, text, head_dim=16)},
        image_token_id=image,
        image_token_index=image,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    images = {
        "image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": 112}, "patch_size": 14,
        "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD, "processor_class": "PixtralProcessor",
    }  # fmt: skip
    template = """{{ bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{%- if message['content'] is string %}{{ message['content'] }}{% else %}{{ message['content'][0]['text'] }}{% endif %}
{{- eos_token }}
{%- else %}{{ '[INST]' }}
{%- if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] %}{% if part['type'] == 'image' %}{{ '[IMG]' }}{% else %}{{ part['text'] }}{% endif %}
{%- endfor %}{% endif %}{{ '[/INST]' }}{% endif %}{% endfor %}"""
    return Made(
        t.Mistral3ForConditionalGeneration(config), tokenizer, template, images,
        processor={"processor_class": "PixtralProcessor", "patch_size": 14, "spatial_merge_size": 2},
    )  # fmt: skip


def _lfm2_vl(text: dict[str, Any]) -> Made:
    import transformers as t

    rows = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 11) for column in range(1, 11)]
    tokenizer = _plain_tokenizer(
        "<|im_start|>", *rows, eos="<|im_end|>", image_token="<image>", image_start_token="<|image_start|>",
        image_end_token="<|image_end|>", image_thumbnail="<|img_thumbnail|>",
    )  # fmt: skip
    tower = {key: value for key, value in _tower(vision_use_head=False, num_patches=16).items() if key != "image_size"}
    config = t.Lfm2VlConfig(
        vision_config={"model_type": "siglip2_vision_model", **tower},
        text_config={"model_type": "lfm2", **_text(tokenizer, text, layer_types=["conv", "full_attention"])},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=WIDTH,
        downsample_factor=2,
    )
    images = {
        "image_processor_type": "Lfm2VlImageProcessor", "tile_size": 56, "min_image_tokens": 4, "max_image_tokens": 16,
        "max_num_patches": 64, "encoder_patch_size": 14, "downsample_factor": 2, "max_tiles": 4,
        "processor_class": "Lfm2VlProcessor",
    }  # fmt: skip
    return Made(
        t.Lfm2VlForConditionalGeneration(config), tokenizer, _template("lfm2_2_5_vl"), images,
        processor={"processor_class": "Lfm2VlProcessor"},
    )  # fmt: skip


def _glm4v(text: dict[str, Any]) -> Made:
    import transformers as t

    special = (
        "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>",
        "<|begin_of_video|>", "<|end_of_video|>",
    )  # fmt: skip
    tokenizer = _plain_tokenizer(*special, eos="<|endoftext|>", image_token="<|image|>", video_token="<|video|>")
    ids = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}
    vision = {
        "depth": 2, "hidden_size": WIDTH, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": WIDTH,
        "patch_size": 14, "image_size": 56,
    }  # fmt: skip
    config = t.Glm4vConfig(
        vision_config=vision,
        text_config=_text(tokenizer, text, rope_parameters=rope),
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"),
        video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
    )
    images = {
        "image_processor_type": "Glm4vImageProcessor", "size": {"shortest_edge": 12544, "longest_edge": 9633792},
        "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD,
        "processor_class": "Glm4vProcessor",
    }  # fmt: skip
    template = """[gMASK]<sop>
{%- for message in messages %}{{ '<|' + message['role'] + '|>\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'image' %}{{ '<|begin_of_image|><|image|><|end_of_image|>' }}{% else %}{{ part['text'] }}{% endif %}
{%- endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
    return Made(
        t.Glm4vForConditionalGeneration(config), tokenizer, template, images, ends=("<|user|>",),
        videos={"video_processor_type": "Glm4vVideoProcessor"},
    )  # fmt: skip


NEED_TORCHVISION = ("mistral3", "lfm2_vl")

FAMILIES: dict[str, Callable[[dict[str, Any]], Made]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_5": _qwen3_5,
    "internvl": _internvl,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "smolvlm": lambda text: _idefics(text, smol=True),
    "idefics3": lambda text: _idefics(text, smol=False),
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "mistral3": _mistral3,
    "lfm2_vl": _lfm2_vl,
    "glm4v": _glm4v,
}
