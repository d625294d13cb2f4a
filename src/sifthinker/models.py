"""Load, run and merge any image-text-to-text model of transformers, with its processor."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from sifthinker.chain import TAG
from sifthinker.embedded import EMBEDDED
from sifthinker.errors import ModelError, need
from sifthinker.files import make_folder
from sifthinker.processors import bound_area

logger = logging.getLogger(__name__)

# Unsupported families, with the reason. They are refused before weights are loaded.
_REFUSED = {
    "paligemma": "PaliGemma has no chat template, and its processor cannot process text without an image (completions)",
}
_warned: set[tuple[str, int]] = set()


def load_processor(name: str | os.PathLike[str], *, max_pixels: int | None = None) -> Any:
    """Load the processor of a model.

    Args:
        name: model folder or Hugging Face name.
        max_pixels: maximum image area in pixels, for processors that resize by area (Qwen-VL, GLM-4V); None keeps the
            model's own. Other processors ignore it; a warning then describes how they resize.
    Raises:
        ModelError: the name is not a model folder, the processor cannot be loaded or has no chat template, or the family is
            not supported.
    """
    where = model_source(name)
    refuse_unsupported(where)
    processor = _read_processor(where)
    if not getattr(processor, "chat_template", None):
        raise ModelError(
            f"{where}: the processor has no chat template, so a prompt cannot be built. Put chat_template.jinja into the "
            "model folder, or use a model that was trained for chat"
        )
    if max_pixels is not None:
        instead = bound_area(processor, max_pixels)
        if instead and (where, max_pixels) not in _warned:
            _warned.add((where, max_pixels))
            kind = type(processor.image_processor).__name__
            logger.warning("%s: max_pixels has no effect on this model. Its %s %s", where, kind, instead)
    return processor


def model_type(name: str | os.PathLike[str]) -> str:
    """Return the model type in a model's configuration.

    Returns "" if the configuration is unreadable; loading the model then reports the error.

    Args:
        name: model folder or Hugging Face name.
    Raises:
        ModelError: no such folder, see `model_source`.
    """
    try:
        return str(_transformers().AutoConfig.from_pretrained(model_source(name)).model_type)
    except (OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        return ""


def refuse_unsupported(where: str) -> None:
    """Raise an error for a model of an unsupported family. Reads only its configuration.

    Args:
        where: model folder or Hugging Face name.
    Raises:
        ModelError: the family is not supported; the message contains the family and the reason.
    """
    kind = model_type(where)
    if kind in _REFUSED:
        raise ModelError(f"{where}: {_REFUSED[kind]}. Use a model of another family, see docs/reference/families.md")


def _read_processor(where: str) -> Any:
    transformers = _transformers()
    try:
        kind = _images_only(where) if find_spec("torchvision") is None else transformers.AutoProcessor
        processor = kind.from_pretrained(where)
    except (OSError, ValueError, ImportError, KeyError, AttributeError, TypeError) as error:
        if "orchvis" in str(error):
            raise ModelError(
                f"{where}: the processor of this model needs torchvision. Run: pip install torchvision"
            ) from None
        raise ModelError(f"{where}: cannot load the processor: {_first_line(error)}") from None
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise ModelError(f"{where}: expected a vision-language model, got one without a processor for images and text")
    processor.tokenizer.padding_side = "left"
    return processor


def _images_only(where: str) -> Any:
    """Return a processor class without the video part, which works without torchvision.

    The video processors of transformers need torchvision; the image processors have a Pillow version. The class has the name
    of its base class. `save_pretrained` writes that name, so any installation can load the saved folder.
    """
    kind = _processor_class(where)
    if kind is None or "video_processor" not in kind.get_attributes():
        return _transformers().AutoProcessor
    whole = kind.get_attributes()
    parts = [name for name in whole if name != "video_processor"]
    videos = _video_settings(where)

    class ImagesOnly(kind):  # type: ignore[misc,valid-type]
        # SmolVLM's chat template reads these attributes even without videos.
        video_processor = SimpleNamespace(num_frames=None, fps=None)

        @classmethod
        def get_attributes(cls) -> list[str]:
            return parts

        @classmethod
        def _get_arguments_from_pretrained(cls, *given: Any, **named: Any) -> list[Any]:
            loaded = dict(zip(parts, super()._get_arguments_from_pretrained(*given, **named), strict=True))
            return [loaded.get(name) for name in whole]

        def to_dict(self) -> dict[str, Any]:
            # Programs with torchvision, such as vLLM, need these settings to load the saved folder.
            return {**super().to_dict(), **({"video_processor": videos} if videos else {})}

    ImagesOnly.__name__ = ImagesOnly.__qualname__ = kind.__name__
    return ImagesOnly


def _video_settings(where: str) -> dict[str, Any] | None:
    """Return the settings of a model's video processor, or None."""
    from transformers.video_processing_utils import BaseVideoProcessor

    try:
        settings: dict[str, Any] = BaseVideoProcessor.get_video_processor_dict(where)[0]
    except OSError:
        return None
    return settings


def _processor_class(where: str) -> Any:
    """Return the processor class of transformers for a model folder or name, or None."""
    transformers = _transformers()
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils import cached_file

    try:
        return PROCESSOR_MAPPING.get(type(transformers.AutoConfig.from_pretrained(where)), None)
    except (OSError, ValueError):  # an adapter folder has a processor but no model config
        file = cached_file(where, "processor_config.json", _raise_exceptions_for_missing_entries=False)
    saved = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    return getattr(transformers, str(saved.get("processor_class")), None)


def opened_by_template(processor: Any, **template: Any) -> str:
    """Return the start of a chain that the chat template writes: `<think>` for some reasoning models.

    Args:
        processor: processor of the model.
        template: further arguments of `apply_chat_template`.
    Returns:
        The end of the prompt, starting at an unclosed `<think>`; "" if there is none.
    """
    asked = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    prompt: str = processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **template)
    before: str = processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=False, **template)
    _, tag, after = (prompt[len(before) :] if prompt.startswith(before) else prompt).rpartition("<think>")
    return tag + after if tag and "</think>" not in after else ""


def special_tokens(processor: Any) -> re.Pattern[str]:
    """Return a pattern for the special tokens of a model's tokenizer: images, turns, padding.

    The tags of chains are excluded. Some tokenizers treat them as special tokens too.
    """
    added = processor.tokenizer.added_tokens_decoder.values()
    names = {
        *processor.tokenizer.all_special_tokens,
        *(token.content for token in added if token.special),
        *(getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio")),
    }
    spelled = [name for name in names if isinstance(name, str) and len(name.strip()) > 2 and not TAG.fullmatch(name)]
    return re.compile("|".join(map(re.escape, sorted(spelled, key=len, reverse=True))) or r"(?!)")


def end_tokens(name: str | os.PathLike[str], processor: Any) -> list[int]:
    """Return the ids of a model's end tokens, from its tokenizer (which trainers use) and its generation config.

    Args:
        name: model folder or Hugging Face name; the weights are not loaded.
        processor: processor of the model.
    Returns:
        The tokenizer's id first; empty if the model has no end token.
    """
    transformers, where = _transformers(), model_source(name)
    try:
        stated = transformers.GenerationConfig.from_pretrained(where).eos_token_id
    except OSError:
        stated = transformers.AutoConfig.from_pretrained(where).get_text_config().eos_token_id
    ids = [processor.tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])]
    return list(dict.fromkeys(number for number in ids if number is not None))


def load_model(name: str | os.PathLike[str], *, dtype: str = "auto", **options: Any) -> Any:
    """Load an `AutoModelForImageTextToText` from safetensors only, without remote code.

    Args:
        name: model folder or Hugging Face name.
        dtype: name of a torch dtype, or `auto` for the type of the checkpoint.
        options: further arguments of `from_pretrained`, for instance `attn_implementation`.
    Raises:
        ModelError: the name is not a model folder, or the model is of another kind.
    """
    transformers = _transformers()
    where = model_source(name)
    try:
        return transformers.AutoModelForImageTextToText.from_pretrained(where, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ModelError(f"{where}: cannot load the model: {_first_line(error)}") from None


def has_fast_bfloat16() -> bool:
    """Whether this machine computes in bfloat16 at least about as fast as in float32.

    True with an accelerator, and on CPUs with AVX-512. Other CPUs emulate bfloat16, which takes many times as long;
    `benchmarks/cpu_precision.py` measures the ratio.
    """
    import torch

    capability: str = torch.backends.cpu.get_cpu_capability()
    return torch.accelerator.is_available() or capability.startswith("AVX512")


def load_for_inference(
    name: str | os.PathLike[str], *, device: str | None = None, dtype: str = "auto", max_pixels: int | None = None
) -> tuple[Any, Any]:
    """Load a model in evaluation mode and its processor; return (model on its device, processor).

    Args:
        name: model folder or Hugging Face name.
        device: torch device; by default the accelerator if there is one, else the CPU.
        dtype: see `load_model`.
        max_pixels: see `load_processor`.
    Raises:
        ModelError: see `load_model` and `load_processor`.
    """
    processor = load_processor(name, max_pixels=max_pixels)
    model = load_model(name, dtype=dtype)
    import torch

    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = str(accelerator) if accelerator is not None else "cpu"
    return model.to(device).eval(), processor


@dataclass(frozen=True, slots=True)
class Generation:
    """A generated text, whether it ended with an end token, and the numbers of prompt and new tokens."""

    text: str
    ended: bool
    prompt_tokens: int
    new_tokens: int


def complete(
    model: Any,
    processor: Any,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    images: Sequence[Sequence[Image.Image]],
    **sampling: Any,
) -> list[Generation]:
    """Continue several conversations in one batch.

    Args:
        model: model on its device.
        processor: processor of the model.
        conversations: messages of each conversation, in the format of chat templates.
        images: images of each conversation, in the order of their placeholders.
        sampling: arguments of transformers' `generate`; greedy by default.
    """
    import torch

    from sifthinker.decoding import cache_arguments

    prompts = processor.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
    shown = [list(of_one) for of_one in images]
    inputs = processor(text=prompts, images=shown, padding=True, return_tensors="pt", add_special_tokens=False)
    inputs = inputs.to(model.device)
    if model.dtype.is_floating_point and "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    settings = {"do_sample": False, "suppress_tokens": placeholder_tokens(model.config), **sampling}
    with torch.inference_mode():
        output = model.generate(**inputs, **settings, **cache_arguments(model, settings))
    new = output[:, inputs["input_ids"].shape[1] :]
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) | {processor.tokenizer.eos_token_id}
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    found = []
    for text, row, asked in zip(texts, new.tolist(), inputs["attention_mask"].sum(dim=1).tolist(), strict=True):
        length = next((index + 1 for index, token in enumerate(row) if token in ends), None)
        found.append(Generation(text.strip(), length is not None, asked, len(row) if length is None else length))
    return found


def stream(
    model: Any,
    processor: Any,
    conversation: Sequence[Mapping[str, Any]],
    images: Sequence[Image.Image],
    **sampling: Any,
) -> Iterator[str | Generation]:
    """Continue one conversation and yield the growing text; see `complete`.

    Yields:
        The text so far, longer each time; at the end the `Generation`, equal to the result of `complete` for this
        conversation alone.
    """
    import torch
    from transformers import TextIteratorStreamer

    stop = threading.Event()

    def stopped(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return torch.full(ids.shape[:1], stop.is_set(), dtype=torch.bool, device=ids.device)

    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    outcome: list[Generation | BaseException] = []

    def work() -> None:
        try:
            more = {**sampling, "streamer": streamer, "stopping_criteria": [stopped]}
            outcome.extend(complete(model, processor, [conversation], [images], **more))
        except BaseException as error:  # noqa: BLE001  # the caller's thread raises it
            outcome.append(error)
        finally:
            streamer.end()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    text = ""
    try:
        for piece in streamer:
            if piece:
                text += piece
                yield text.lstrip()
    finally:
        stop.set()  # the caller no longer reads
        thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    yield outcome[0]


def merge_adapter(
    adapter: str | os.PathLike[str], out: str | os.PathLike[str], *, base: str | None = None, dtype: str = "auto"
) -> None:
    """Merge a PEFT adapter into its base model, and write the merged model with its processor.

    If the adapter folder contains a processor, as checkpoints do, that one is used: it contains the image size of the
    training.

    Args:
        adapter: folder with `adapter_config.json`, for instance a checkpoint of a LoRA run.
        out: model folder to write.
        base: base model; by default the one recorded in the adapter.
        dtype: data type of the merged weights, see `load_model`.
    Raises:
        ModelError: the folder contains no adapter, or the base model cannot be loaded.
        SIFError: `out` cannot be written.
    """
    folder = Path(adapter)
    try:
        named = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(
            f"{folder}: contains no adapter: adapter_config.json with base_model_name_or_path is missing"
        ) from None
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder}: adapter_model.safetensors is missing")
    need("merging an adapter", "torch", "transformers", "peft")
    make_folder(out)
    source = base or named
    has_processor = any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json"))
    processor = _read_processor(str(folder)) if has_processor else load_processor(source)
    model = load_model(source, dtype=dtype)
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: the adapter does not fit the base model {source}: {_first_line(error)}") from None
    merged.save_pretrained(out)
    processor.save_pretrained(out)


def freeze(model: Any, names: tuple[str, ...] = ()) -> list[str]:
    """Freeze the chosen parameters and those that no loss can reach; return the names of all frozen parameters.

    Args:
        model: any model.
        names: parts of parameter names to freeze, for instance `vision_tower` or `visual`.
    Raises:
        ModelError: no parameter has one of the names.
    """
    frozen = []
    for part in names:
        found = [name for name, _ in model.named_parameters() if part in name.split(".")]
        if not found:
            modules = sorted({".".join(name.split(".")[:2]) for name, _ in model.named_parameters()})
            raise ModelError(f"no parameter has {part!r} in its path. Modules of this model: {', '.join(modules)}")
        frozen += found
    frozen += _never_used(model)
    wanted = set(frozen)
    for name, parameter in model.named_parameters():
        if name in wanted:
            parameter.requires_grad_(False)
    return sorted(wanted)


def placeholder_tokens(config: Any) -> list[int] | None:
    """Return the token ids of image placeholders. Sampling one would announce an image that does not exist."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    found = {int(value) for name in names if (value := getattr(config, name, None)) is not None}
    return sorted(found) or None


def _never_used(model: Any) -> list[str]:
    """Return the parameters of a vision tower that no loss can reach.

    LLaVA and similar models use the states after one or several layers, as set by `vision_feature_layer`: -1 is after the
    last layer, -2 before it. They do not use later layers or the final norm. No language model uses a pooling head.
    """
    settings = model.config
    chosen, unused = getattr(settings, "vision_feature_layer", None), {"head"}
    used = depth = getattr(getattr(settings, "vision_config", None), "num_hidden_layers", 0)
    # InternVL takes the last states after the norm, and earlier states without it.
    if chosen is not None and not (settings.model_type == "internvl" and chosen == -1):
        layers = [chosen] if isinstance(chosen, int) else chosen
        used = max(layer if layer >= 0 else depth + 1 + layer for layer in layers)
        unused |= {"post_layernorm", "layernorm"}
    found = []
    for name, _ in model.named_parameters():
        _, tower, inner = name.partition("vision_tower.")
        number = re.match(r"(?:\w+\.)*layers?\.(\d+)\.", inner)
        if tower and (unused & set(inner.split(".")) or (number is not None and int(number[1]) >= used)):
            found.append(name)
    return found


def model_source(name: str | os.PathLike[str]) -> str:
    """Return the source to load a model from: a folder, or a Hugging Face name.

    A name is a path if the path exists or if it is written like one.

    Raises:
        ModelError: the folder does not exist or has no config.json.
    """
    text = os.fspath(name)
    if text in EMBEDDED:
        return str(EMBEDDED[text].folder)
    path = Path(text)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{text}: not a model folder, since config.json is missing")
        return text
    # Do not search the hub for a missing run such as `runs/sft`; that takes minutes.
    if path.exists() or text.startswith((".", "/", "~", "runs/")) or text.count("/") != 1:
        carried = f", or the embedded model {' or '.join(EMBEDDED)}" if EMBEDDED else ""
        raise ModelError(
            f"{text}: no such model folder. Expected a folder with config.json, or a Hugging Face name such as "
            f"Qwen/Qwen2.5-VL-7B-Instruct{carried}"
        )
    return text


def _transformers() -> Any:
    need("a model", "torch", "transformers")
    import transformers

    return transformers


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
