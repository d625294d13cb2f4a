"""Memory of a training step, estimated from tensor shapes: model, adapters, loss and backward pass, without weights.

The model is built from its configuration with torch's fake tensors, which have a shape, dtype and strides but no values. A
step then runs the real operations, and torch reports what it keeps for the backward pass and how much memory is in use at
once. This works for any architecture, with its vision tower, adapters and activation checkpoints. The estimate leaves out
the workspace of kernels and memory that the allocator leaves unused between blocks.

Token ids, grids and masks stay real, because models read the number and place of image patches from them. Small pixel
tensors stay real too, because some models look for empty tiles in them.
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from sifthinker.models import freeze, model_source
from sifthinker.training.lengths import Turn, blank, prompt_inputs
from sifthinker.training.prefix import shared_log_probs, why_not_shared
from sifthinker.training.runs import lora_config
from sifthinker.training.settings import Stage, TrainSettings

_REAL = 2**24  # maximum number of elements of a real pixel tensor
_MADE_REAL = 2**20  # maximum number of elements of a real tensor that an operation creates without inputs
_aten = torch.ops.aten
_TILES = (_aten.empty.memory_format, _aten.mm.out, _aten.slice.Tensor)
_WITH_MASKS = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Memory of one micro-step of a process, in bytes.

    Args:
        weights: all parameters and buffers, including adapters.
        parameters: number of parameters.
        trained: number of trained parameters.
        gradients: gradients of the trained parameters.
        states: states of the optimizer.
        kept: tensors that the forward pass keeps for the backward pass.
        peak: peak memory, including gradients, without weights and optimizer states.
    """

    weights: int
    parameters: int
    trained: int
    gradients: int
    states: int
    kept: int
    peak: int


def generation_bytes(config: TrainSettings, arguments: Any, rows: int, length: int) -> int:
    """Return the bytes of the key-value cache during sampling.

    Args:
        config: settings of the run.
        arguments: TRL's config of the run.
        rows: number of completions in a batch.
        length: number of tokens of prompt and completion.
    """
    settings = model_settings(config)
    text = settings.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    size = 2 if arguments.bf16 or arguments.fp16 else weights_dtype(config, settings).itemsize
    return int(rows * length * 2 * text.num_hidden_layers * heads * width * size)


@dataclass(frozen=True, slots=True)
class RunMemory:
    """Memory of a run, and of the same run with another batch size.

    Args:
        step: memory of one micro-step with the run's batch.
        unit: step of the batch size: one row, or for GRPO the rows of a group.
        shares: whether GRPO computes the prompt of a group once.
        peak_of: rows → `StepMemory.peak` of a micro-step with this number of rows, computed on demand.
    """

    step: StepMemory
    unit: int
    shares: bool
    peak_of: Callable[[int], float]


def run_memory(
    config: TrainSettings,
    stage: Stage,
    arguments: Any,
    turn: Turn,
    processor: Any,
    *,
    on_gpu: bool = False,
    **template: Any,
) -> RunMemory:
    """Estimate the memory of a run from its longest example.

    Memory grows linearly with the layers of the language model, so two shallow models are enough to extrapolate. It does not
    grow linearly with the rows: the peak is either in the head or in a recomputed layer. Therefore the estimate uses the
    run's own batch size.

    Args:
        config: settings of the run.
        stage: stage of the run.
        arguments: TRL's config of the run.
        turn: the longest example.
        processor: processor of the model.
        on_gpu: see `step_memory`.
        template: further arguments of `apply_chat_template`.
    Raises:
        Exception: see `step_memory`.
    """
    rows = arguments.per_device_train_batch_size
    unit = min(rows, arguments.num_generations) if stage == "grpo" else 1
    keep = arguments.max_completion_length if stage == "grpo" else 0
    whole = hollow_model(config, arguments, FakeTensorMode())
    counts = _counts(whole, config, arguments)
    depths, layers = _depths(config), _layers(config)
    old = counts.gradients if accumulates(arguments) else 0

    @cache
    def at(rows: int) -> tuple[float, float]:
        """Return the kept bytes and the peak bytes for a number of rows."""
        if stage == "grpo" and rows > 4 * unit:  # extrapolate, because packing groups one by one is slow
            few, more = at(3 * unit), at(4 * unit)
            beyond = (rows - 3 * unit) / unit
            return few[0] + beyond * (more[0] - few[0]), few[1] + beyond * (more[1] - few[1])
        if stage == "grpo":
            batch = grpo_batch(turn, rows, keep, processor, group=unit, **template)
        else:
            batch = sft_batch(turn, rows, processor, arguments)
        steps = [step_memory(config, stage, arguments, batch, keep=keep, on_gpu=on_gpu, layers=depth) for depth in depths]
        kept = [float(step.kept) for step in steps]
        peak = [float(step.peak - (step.gradients if accumulates(arguments) else 0)) for step in steps]
        most = max(float(counts.gradients), _line(depths, peak, layers) + old)
        return _line(depths, kept, layers), most

    kept, peak = at(rows)
    return RunMemory(
        step=replace(counts, kept=round(kept), peak=round(peak)),
        unit=unit,
        shares=config.prefix_sharing == "auto" and why_not_shared(whole) is None,
        peak_of=lambda rows: at(rows)[1],
    )


_CLOSE = 0.03  # relative tolerance of the largest batch that fits
_STRAIGHT = 24  # up to this number of rows a batch is estimated directly; above it, extrapolated
_ANY = 2**16  # more units than any batch has
_MOST_TRIED = 6  # maximum number of batches to try


def fitting_rows(needed: RunMemory, rows: int, room: float, cache_a_row: float = 0.0) -> int:
    """Return the largest batch that fits, to about 3 %, in whole units; 0 if not even one unit fits.

    The search interpolates linearly: first through the run's batch and the next one, then between a batch that fits and one
    that does not. Memory is not exactly linear, so the result is estimated directly. Only batches above 24 rows are
    extrapolated, because a direct estimate would take too long.

    Args:
        needed: memory of the run.
        rows: batch size of the run.
        room: bytes available for the peak, without weights and optimizer states.
        cache_a_row: bytes of the generation cache per row. During sampling, there are no gradients.
    """

    # Packing groups one by one is slow, so only the run's batch and the next one are estimated directly.
    straight = max(rows, _STRAIGHT) if needed.unit == 1 else max(1, rows // needed.unit)

    def peak(units: int) -> float:
        if units <= straight + 1:
            return needed.peak_of(units * needed.unit)
        first = peak(straight)
        return first + (units - straight) * (peak(straight + 1) - first)

    most = int(room // (cache_a_row * needed.unit)) if cache_a_row else _ANY
    # `low` fits, `high` does not, and `above` is the peak of `high` if known.
    low, high, above = max(1, rows // needed.unit), most + 1, math.inf
    if peak(low) > room:
        low, high, above = 1, low, peak(low)
    if most < 1 or peak(low) > room:
        return 0
    for _ in range(_MOST_TRIED):
        if high - low <= max(1, _CLOSE * low):
            break
        slope = (above - peak(low)) / (high - low) if above < math.inf else peak(low + 1) - peak(low)
        guess = low + int((room - peak(low)) / slope) if slope > 0 else high - 1
        guess = min(max(guess, low + 1), high - 1)
        if peak(guess) > room:
            high, above = guess, peak(guess)
        else:
            low = guess
    return min(low, most) * needed.unit


def accumulates(arguments: Any) -> bool:
    """Return whether gradients accumulate over several micro-steps."""
    return bool(arguments.gradient_accumulation_steps > 1)


def step_memory(
    config: TrainSettings,
    stage: Stage,
    arguments: Any,
    batch: Mapping[str, Any],
    *,
    keep: int = 0,
    on_gpu: bool = False,
    layers: int | None = None,
) -> StepMemory:
    """Estimate the memory of one micro-step.

    Args:
        config: settings of the run.
        stage: stage of the run.
        arguments: TRL's config of the run.
        batch: arguments of the model: `input_ids` (B, L) with all images; see `sft_batch` and `grpo_batch`.
        keep: for GRPO, the number of completion tokens at the end of each row.
        on_gpu: the run is for a GPU, where a fused kernel reduces the tiles of the head and keeps nothing.
        layers: see `hollow_model`.
    Raises:
        Exception: any exception from the model's own code, if it needs tensor values.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    # SFT on a CPU uses the attention of `TrainSettings.attention`.
    attention = config.attn_implementation if on_gpu or stage == "grpo" else config.attention
    model = hollow_model(config, arguments, fake, attention=attention, layers=layers)
    inputs = {name: _hollow_pixels(value, model, fake) for name, value in batch.items()}
    loss = _sft_loss if stage == "sft" else _grpo_loss
    working = torch.float16 if arguments.fp16 else torch.bfloat16
    counts = _counts(model, config, arguments)
    own = _storages(model)
    uncounted = set(own)
    if accumulates(arguments):
        with fake:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter)
                    uncounted.add(parameter.grad.untyped_storage()._cdata)
    with fake, _Shapes(uncounted, _tile_widths(model) if on_gpu else frozenset()) as live:
        with torch.autocast("cpu", working, enabled=bool(arguments.bf16 or arguments.fp16)):
            value, kept = kept_bytes(lambda: loss(model, inputs, config, keep), own)
        value.backward()
    return replace(counts, kept=kept, peak=live.peak + (counts.gradients if accumulates(arguments) else 0))


def _counts(model: Any, config: TrainSettings, arguments: Any) -> StepMemory:
    """Return the memory of a step that does not depend on the batch."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return StepMemory(
        weights=sum(_storages(model).values()),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained=sum(parameter.numel() for parameter in trained),
        gradients=sum(parameter.numel() * parameter.element_size() for parameter in trained),
        states=sum(_states(arguments, config, parameter) for parameter in trained),
        kept=0,
        peak=0,
    )


_SHALLOW = 4  # minimum number of layers of a shallow model


def _layers(config: TrainSettings) -> int:
    return int(model_settings(config).get_text_config().num_hidden_layers)


def model_settings(config: TrainSettings) -> Any:
    """Return transformers' config of the run's model. It is a new object each time, because shallow models change it."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model_source(config.model))


def _depths(config: TrainSettings) -> list[int]:
    """Return the numbers of language-model layers to estimate: all, or two small numbers to extrapolate from.

    Both are multiples of the period in which kinds of layers repeat, for example five sliding windows and a full attention.
    """
    text = model_settings(config).get_text_config()
    kinds = list(getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers)
    period = next(size for size in range(1, len(kinds) + 1) if all(kinds[i] == kinds[i % size] for i in range(len(kinds))))
    first = -(-_SHALLOW // period) * period
    return [first, first + period] if first + 2 * period < len(kinds) else [len(kinds)]


def _line(places: Sequence[int], values: Sequence[float], at: int) -> float:
    """Interpolate the value at a place on the line through two points. With one point, return its value."""
    if len(places) == 1:
        return values[0]
    (x, y), (u, v) = zip(places, values, strict=True)
    return y + (v - y) * (at - x) / (u - x)


def sft_batch(turn: Turn, rows: int, processor: Any, arguments: Any) -> dict[str, Any]:
    """Return a batch that repeats one example, as TRL's collator makes it, with blank images."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    collate = DataCollatorForVisionLanguageModeling(
        processor, max_length=arguments.max_length, completion_only_loss=arguments.completion_only_loss is not False
    )
    said = [{"role": "assistant", "content": turn.said}]
    images = [blank(size) for size in turn.sizes]
    made = collate([{"prompt": [{"role": "user", "content": turn.asked}], "completion": said, "images": images}])
    return {name: _repeated(value, rows) for name, value in made.items()}


def _repeated(value: Any, rows: int) -> Any:
    """Repeat the inputs of one row. Large tensors, such as pixels, get only the shape."""
    if value.is_floating_point() and rows * value.numel() > _REAL:
        return value.new_empty(()).expand(rows * value.size(0), *value.shape[1:])
    return value.repeat(rows, *[1] * (value.ndim - 1))


def grpo_batch(
    turn: Turn, rows: int, length: int, processor: Any, *, group: int | None = None, **template: Any
) -> dict[str, Any]:
    """Return a batch of completions as TRL passes them to be scored, with blank images.

    Args:
        turn: the prompt.
        rows: number of completions.
        length: number of tokens of each completion.
        processor: processor of the model.
        group: completions per prompt. Adjacent prompts differ in one word. By default all completions share a prompt.
        template: further arguments of `apply_chat_template`.
    """
    made = {
        name: torch.as_tensor(np.asarray(value))
        for name, value in prompt_inputs([turn], "grpo", processor, **template).items()
    }
    ids = made.pop("input_ids")
    plain = [place for place, token in enumerate(ids[0].tolist()) if token not in processor.tokenizer.all_special_ids]
    word = int(ids[0, plain[-1]])
    batch = {name: _repeated(value, rows) for name, value in made.items()}
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in batch:
            batch[name] = torch.cat([batch[name], batch[name].new_zeros(rows, length)], dim=1)
    prompts = ids.repeat(rows, 1)
    other = next((token for token in ids[0, plain].tolist() if token != word), word)
    prompts[torch.arange(rows) // (group or rows) % 2 == 1, plain[-1]] = other
    batch["input_ids"] = torch.cat([prompts, ids.new_full((rows, length), word)], dim=1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    return {**batch, "num_images": [len(turn.sizes)] * rows}


def hollow_model(
    config: TrainSettings,
    arguments: Any,
    fake: FakeTensorMode,
    *,
    attention: str | None = None,
    layers: int | None = None,
) -> Any:
    """Return the run's model as its trainer prepares it, in training mode, with parameters that have no values.

    Args:
        config: settings of the run.
        arguments: TRL's config of the run.
        fake: mode for the parameters.
        attention: `eager`; anything else uses torch's own attention. That keeps the same tensors as third-party kernels:
            queries, keys, values, the output, and one number per row.
        layers: number of layers of the language model. Default: all.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.integrations import unset_hf_deepspeed_config
    from trl.trainer.utils import add_fused_lm_head

    unset_hf_deepspeed_config()  # with ZeRO-3, transformers would try to shard the weights, and there are none
    settings = model_settings(config)
    text = settings.get_text_config()
    if layers is not None and layers < text.num_hidden_layers:
        for name, value in vars(text).copy().items():
            if isinstance(value, list) and len(value) == text.num_hidden_layers:  # one entry per layer
                setattr(text, name, value[:layers])
        text.num_hidden_layers = layers
    dtype = weights_dtype(config, settings)
    attention = "eager" if attention == "eager" else "sdpa"
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(settings, dtype=dtype, attn_implementation=attention)
        frozen = freeze(model, tuple(config.freeze))
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        if config.lora is not None:
            from peft import get_peft_model

            model = get_peft_model(model, lora_config(config, frozen))
    _give_fakes(model, fake)
    if attention == "sdpa":
        for module in model.modules():
            if "cu_seqlens" in inspect.signature(module.forward).parameters:
                module.register_forward_pre_hook(_as_one_sequence, with_kwargs=True)
    if arguments.activation_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=arguments.activation_checkpointing_kwargs)
        if config.lora is not None:
            model.enable_input_require_grads()
    return model.train()


def _as_one_sequence(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hook for layers that loop over images and windows, of which there can be thousands. Compute them as one sequence.

    One sequence keeps the same number of bytes, because `sdpa` keeps no score matrix.
    """
    ends = named.get("cu_seqlens")
    return (args, named) if ends is None else (args, {**named, "cu_seqlens": ends[[0, -1]]})


def weights_dtype(config: TrainSettings, settings: Any) -> torch.dtype:
    """Return the dtype of a run's weights. `auto` uses the dtype in the model's configuration.

    Args:
        config: settings of the run.
        settings: transformers' config of the model.
    """
    name = config.dtype if config.dtype != "auto" else str(getattr(settings, "dtype", None) or "float32")
    found: torch.dtype = getattr(torch, name.removeprefix("torch."))
    return found


def kept_bytes(forward: Callable[[], Any], own: Container[int]) -> tuple[Any, int]:
    """Run a forward pass. Return its result and the bytes of floating-point tensors that autograd keeps.

    Args:
        forward: the forward pass.
        own: storages of the model itself, which do not count, see `_storages`.
    """
    sizes: dict[int, tuple[int, Any]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and tensor.is_floating_point():
            sizes[storage._cdata] = (storage.nbytes(), storage)  # keep the storage, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = forward()
    return value, sum(size for size, _ in sizes.values())


def _sft_loss(model: Any, inputs: Mapping[str, Any], config: TrainSettings, keep: int) -> Any:
    return -model(**inputs, use_cache=False, fused_lm_head=True).log_probs.sum()


def _grpo_loss(model: Any, inputs: Mapping[str, Any], config: TrainSettings, keep: int) -> Any:
    vision = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if config.prefix_sharing == "auto" and why_not_shared(model) is None:
        return -shared_log_probs(model, ids, mask, keep, vision=vision)[0].sum()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-keep] = -100
    vision.pop("num_images")
    return -model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, **vision).log_probs.sum()


# Number of values that an optimizer keeps per parameter, by the start of its name. Others keep two, as Adam does.
_STATES = {"sgd": 0.0, "adafactor": 0.0, "adagrad": 1.0, "rmsprop": 1.0, "lion": 1.0}


def _states(arguments: Any, config: TrainSettings, parameter: torch.Tensor) -> int:
    """Return the bytes that the optimizer keeps for a parameter."""
    name = str(getattr(arguments.optim, "value", arguments.optim))
    size = 1 if name.endswith("8bit") else parameter.element_size()
    numbers = next((count for start, count in _STATES.items() if name.startswith(start)), 2.0)
    if config.muon_lr is not None and parameter.ndim == 2:
        numbers = 1.0  # Muon's momentum; ignores the few embeddings and heads, for which AdamW keeps two
    return int(parameter.numel() * numbers * size)


def _hollow_pixels(value: Any, model: Any, fake: FakeTensorMode) -> Any:
    """Convert pixels to the model's dtype, and large ones to fake tensors. Return other values unchanged."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    if value.numel() <= _REAL:
        return value.to(dtype)
    with fake:
        return torch.empty(value.shape, dtype=dtype)


def _give_fakes(model: Any, fake: FakeTensorMode) -> None:
    """Replace a model's parameters by fake tensors, and its buffers on the meta device by real ones."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or isinstance(parameter, FakeTensor):
                continue
            if id(parameter) not in made:  # tied parameters stay tied
                with fake:
                    numbers = torch.empty(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = torch.nn.Parameter(numbers, requires_grad=parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type == "meta":
                module._buffers[name] = torch.ones(buffer.shape, dtype=buffer.dtype)


def _storages(model: Any) -> dict[int, int]:
    """Return address → bytes for the storages of a model's parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}


def _tile_widths(model: Any) -> frozenset[int]:
    """Return the widths of the tiles in which TRL's head computes logits."""
    import trl.trainer.utils

    width = trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE
    vocabulary = model.get_output_embeddings().weight.shape[0]
    return frozenset({min(width, vocabulary), vocabulary % width or width})


class _Shapes(TorchDispatchMode):  # type: ignore[misc]
    """Dispatch mode inside a FakeTensorMode: counts memory in use, and keeps results real if all inputs are real.

    Args:
        own: storages that do not count, see `_storages`.
        widths: widths of the head's tiles. Intermediate results with these widths do not count.
    """

    def __init__(self, own: Iterable[int], widths: frozenset[int]) -> None:
        super().__init__()
        self._seen = set(own)
        self._widths = widths
        self.alive = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._run(func, args, kwargs or {})
        for tensor in _tensors((result,)):
            if tensor.ndim == 2 and tensor.shape[1] in self._widths and func not in _TILES:
                continue
            self._count(tensor.untyped_storage())
        return result

    def _run(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        tensors = [*_tensors(args), *_tensors(tuple(kwargs.values()))]
        fakes = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not fakes and (tensors or _numbers(args) <= _MADE_REAL):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if fakes and func is _aten.equal.default:  # prefix sharing compares the images of two rows
            return args[0].shape == args[1].shape
        if func in _WITH_MASKS:
            args = (args[0], list(_without_masks(args[1])), *args[2:])
        return func(*args, **kwargs)

    def _count(self, storage: Any) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._seen:
            return
        self._seen.add(address)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._gone, address, size)

    def _gone(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self.alive -= size


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Yield the tensors among the arguments or results of an operation, including those in lists."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _numbers(args: Any) -> int:
    """Return the number of elements of a tensor to create, if its size is the first argument."""
    size = args[0] if args and isinstance(args[0], (list, tuple, torch.Size)) else ()
    return math.prod(number for number in size if isinstance(number, int))


def _without_masks(indices: Any) -> Iterator[Any]:
    """Yield the indices of a tensor. Masks become the places where they are true, so that their number is known."""
    for index in indices:
        if isinstance(index, torch.Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            with unset_fake_temporarily():
                yield from torch.nonzero(index, as_tuple=True)
        else:
            yield index
