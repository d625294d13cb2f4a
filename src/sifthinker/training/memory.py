"""Memory of a training step, worked out on shapes: the run's model, adapters, loss and backward pass, without its weights.

The model is built from its configuration alone, of torch's fake tensors: they have shape, kind and strides, and no numbers.
What a step keeps for its backward pass, and how much lives at once, is then what torch itself says of the real operations,
for any architecture, with its vision tower, its adapters and its checkpoints. Only what kernels take for themselves, and
what an allocator leaves unused between blocks, is not seen.

Token ids, grids and masks stay real: models read them to know how many patches an image has and where it goes. Pixels are
real too while they are few, for some models look for empty tiles in them.
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

_REAL = 2**24  # numbers in a tensor of pixels up to which it is real
_MADE_REAL = 2**20  # numbers in a tensor that is made from nothing, up to which it is real
_aten = torch.ops.aten
_TILES = (_aten.empty.memory_format, _aten.mm.out, _aten.slice.Tensor)
_WITH_MASKS = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes of one micro-step of a process.

    Args:
        weights: all parameters and buffers, adapters included.
        parameters: how many there are.
        trained: parameters that are trained.
        gradients: of these.
        states: of the optimizer.
        kept: what the forward pass keeps for the backward pass.
        peak: most that lives at once beyond weights and states, gradients included.
    """

    weights: int
    parameters: int
    trained: int
    gradients: int
    states: int
    kept: int
    peak: int


def generation_bytes(config: TrainSettings, arguments: Any, rows: int, length: int) -> int:
    """Bytes of the cache of keys and values while completions are sampled.

    Args:
        config: the run.
        arguments: TRL's config of it.
        rows: completions sampled at once.
        length: tokens of prompt and completion.
    """
    settings = model_settings(config)
    text = settings.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    size = 2 if arguments.bf16 or arguments.fp16 else weights_dtype(config, settings).itemsize
    return int(rows * length * 2 * text.num_hidden_layers * heads * width * size)


@dataclass(frozen=True, slots=True)
class RunMemory:
    """What a run needs, and what it would need with another batch.

    Args:
        step: of one micro-step with the run's batch.
        unit: rows that come together: one, or for GRPO those of a group.
        shares: whether GRPO computes the prompt of a group once.
        peak_of: rows → `StepMemory.peak` of a micro-step with that many, worked out when it is asked for.
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
    """Work out a run by the example that needs most.

    Everything grows in proportion to the layers of the language model, so that two shallow models tell what the whole costs.
    It does not so to the rows: the most that lives at once is now in the head, now in a layer that is recomputed. So the
    batch is the run's own.

    Args:
        config: the run.
        stage: its trainer.
        arguments: TRL's config of it.
        turn: the longest example.
        processor: of the model.
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
        """Bytes that are kept, and that live at once, with so many rows."""
        if stage == "grpo" and rows > 4 * unit:  # groups are packed one by one, which takes long
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


_CLOSE = 0.03  # how far from the largest batch that fits the one that is named may be
_STRAIGHT = 24  # rows up to which a batch that is tried is worked out
_ANY = 2**16  # more units than any batch has
_MOST_TRIED = 6  # batches that are worked out to find it


def fitting_rows(needed: RunMemory, rows: int, room: float, cache_a_row: float = 0.0) -> int:
    """The largest batch that fits, to about 3 %, in whole units; 0 if not even one unit does.

    Tried on the line through what is known: the run's batch and the next, then a batch that fits and one that does not. The
    batch that is given was worked out itself, whatever bends there are between; one of more than 24 rows is
    on the line from there, for it takes long.

    Args:
        needed: of the run.
        rows: of the run.
        room: bytes for the peak, weights and optimizer not among them.
        cache_a_row: bytes that each row needs while completions are sampled, when no gradients are there.
    """

    # Groups are packed one by one, which takes long: of those the run's own batch and the next are enough.
    straight = max(rows, _STRAIGHT) if needed.unit == 1 else max(1, rows // needed.unit)

    def peak(units: int) -> float:
        if units <= straight + 1:
            return needed.peak_of(units * needed.unit)
        first = peak(straight)
        return first + (units - straight) * (peak(straight + 1) - first)

    most = int(room // (cache_a_row * needed.unit)) if cache_a_row else _ANY
    low, high, above = max(1, rows // needed.unit), most + 1, math.inf  # fits, does not, and the peak of that if known
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
    """Whether a micro-step finds the gradients of the one before it."""
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
    """Work out one micro-step.

    Args:
        config: the run.
        stage: its trainer.
        arguments: TRL's config of it.
        batch: arguments of the model, `input_ids` (B, L) with all of its images; see `sft_batch` and `grpo_batch`.
        keep: for GRPO, the last tokens of each row, which are its completion.
        on_gpu: the run is for a GPU, where the head's tiles are reduced by a kernel that keeps nothing.
        layers: see `hollow_model`.
    Raises:
        Exception: of any kind, from the model's own code, where that needs more than shapes.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    # SFT on a CPU is attended to as `TrainSettings.attention` says.
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
    """What the step of a model needs whatever its batch."""
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


_SHALLOW = 4  # layers of a shallow model, at least


def _layers(config: TrainSettings) -> int:
    return int(model_settings(config).get_text_config().num_hidden_layers)


def model_settings(config: TrainSettings) -> Any:
    """transformers' config of the run's model; a new one each time, since shallow models change theirs."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model_source(config.model))


def _depths(config: TrainSettings) -> list[int]:
    """How many layers of the language model to work out: all, or two small numbers that tell what each further one adds.

    Both hold whole periods of the kinds of layers, for instance of five sliding windows and a full attention.
    """
    text = model_settings(config).get_text_config()
    kinds = list(getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers)
    period = next(size for size in range(1, len(kinds) + 1) if all(kinds[i] == kinds[i % size] for i in range(len(kinds))))
    first = -(-_SHALLOW // period) * period
    return [first, first + period] if first + 2 * period < len(kinds) else [len(kinds)]


def _line(places: Sequence[int], values: Sequence[float], at: int) -> float:
    """The value at a place, of one point or on the line through two."""
    if len(places) == 1:
        return values[0]
    (x, y), (u, v) = zip(places, values, strict=True)
    return y + (v - y) * (at - x) / (u - x)


def sft_batch(turn: Turn, rows: int, processor: Any, arguments: Any) -> dict[str, Any]:
    """A batch of an example, so many times, as TRL's collator makes it; its images are blank."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    collate = DataCollatorForVisionLanguageModeling(
        processor, max_length=arguments.max_length, completion_only_loss=arguments.completion_only_loss is not False
    )
    said = [{"role": "assistant", "content": turn.said}]
    images = [blank(size) for size in turn.sizes]
    made = collate([{"prompt": [{"role": "user", "content": turn.asked}], "completion": said, "images": images}])
    return {name: _repeated(value, rows) for name, value in made.items()}


def _repeated(value: Any, rows: int) -> Any:
    """A tensor of one row's inputs, so many times; of many numbers, as pixels have, the shape alone."""
    if value.is_floating_point() and rows * value.numel() > _REAL:
        return value.new_empty(()).expand(rows * value.size(0), *value.shape[1:])
    return value.repeat(rows, *[1] * (value.ndim - 1))


def grpo_batch(
    turn: Turn, rows: int, length: int, processor: Any, *, group: int | None = None, **template: Any
) -> dict[str, Any]:
    """Completions of prompts as TRL hands them on to be scored; the prompts' images are blank.

    Args:
        turn: the prompt.
        rows: completions.
        length: tokens of each.
        processor: of the model.
        group: completions of a prompt; those of the next differ from it in a word. By default all have one.
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
    """The run's model as its trainer prepares it, in training mode, with parameters that have no numbers.

    Args:
        config: the run.
        arguments: TRL's config of it.
        fake: the mode of the parameters.
        attention: `eager`, or anything else for torch's own, which keeps what kernels of other packages keep: queries, keys,
            values, the output, and a number for each row.
        layers: only so many of the language model's layers; all by default.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.integrations import unset_hf_deepspeed_config
    from trl.trainer.utils import add_fused_lm_head

    unset_hf_deepspeed_config()  # under ZeRO-3, transformers would spread this model's weights, which there are none of
    settings = model_settings(config)
    text = settings.get_text_config()
    if layers is not None and layers < text.num_hidden_layers:
        for name, value in vars(text).copy().items():
            if isinstance(value, list) and len(value) == text.num_hidden_layers:  # a kind for each layer
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
    """A hook of layers that compute image after image, and window after window: thousands of them.

    All as one keep just as many bytes where no table of scores is kept, which `sdpa` does not.
    """
    ends = named.get("cu_seqlens")
    return (args, named) if ends is None else (args, {**named, "cu_seqlens": ends[[0, -1]]})


def weights_dtype(config: TrainSettings, settings: Any) -> torch.dtype:
    """The kind of a run's weights; `auto` is what the model's configuration says.

    Args:
        config: the run.
        settings: transformers' config of the model.
    """
    name = config.dtype if config.dtype != "auto" else str(getattr(settings, "dtype", None) or "float32")
    found: torch.dtype = getattr(torch, name.removeprefix("torch."))
    return found


def kept_bytes(forward: Callable[[], Any], own: Container[int]) -> tuple[Any, int]:
    """What a forward pass gives, and the bytes of floating point that autograd keeps of it, each storage once.

    Args:
        forward: the pass.
        own: storages of the model itself, which are not counted, see `_storages`.
    """
    sizes: dict[int, tuple[int, Any]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and tensor.is_floating_point():
            sizes[storage._cdata] = (storage.nbytes(), storage)  # held, so that its address stays its own
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


# Numbers that an optimizer keeps of each parameter, by the beginning of its name; others keep two, as Adam does.
_STATES = {"sgd": 0.0, "adafactor": 0.0, "adagrad": 1.0, "rmsprop": 1.0, "lion": 1.0}


def _states(arguments: Any, config: TrainSettings, parameter: torch.Tensor) -> int:
    """Bytes that the optimizer keeps of a parameter."""
    name = str(getattr(arguments.optim, "value", arguments.optim))
    size = 1 if name.endswith("8bit") else parameter.element_size()
    numbers = next((count for start, count in _STATES.items() if name.startswith(start)), 2.0)
    if config.muon_lr is not None and parameter.ndim == 2:
        numbers = 1.0  # its momentum; embeddings and heads, which keep two, are few
    return int(parameter.numel() * numbers * size)


def _hollow_pixels(value: Any, model: Any, fake: FakeTensorMode) -> Any:
    """Pixels in the model's own kind, without numbers where there are many; anything else as it is."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    if value.numel() <= _REAL:
        return value.to(dtype)
    with fake:
        return torch.empty(value.shape, dtype=dtype)


def _give_fakes(model: Any, fake: FakeTensorMode) -> None:
    """Put fake tensors in the place of a model's parameters, and small real ones in that of its buffers."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or isinstance(parameter, FakeTensor):
                continue
            if id(parameter) not in made:  # tied ones stay tied
                with fake:
                    numbers = torch.empty(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = torch.nn.Parameter(numbers, requires_grad=parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type == "meta":
                module._buffers[name] = torch.ones(buffer.shape, dtype=buffer.dtype)


def _storages(model: Any) -> dict[int, int]:
    """Address → bytes of the storages of a model's parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}


def _tile_widths(model: Any) -> frozenset[int]:
    """Widths of the tiles in which TRL's head computes logits."""
    import trl.trainer.utils

    width = trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE
    vocabulary = model.get_output_embeddings().weight.shape[0]
    return frozenset({min(width, vocabulary), vocabulary % width or width})


class _Shapes(TorchDispatchMode):  # type: ignore[misc]
    """Inside a FakeTensorMode: what comes of real tensors alone stays real, and what lives at once is counted.

    Args:
        own: storages that are not counted, see `_storages`.
        widths: of what torch computes of the head's tiles, which is not counted.
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
        if fakes and func is _aten.equal.default:  # are two rows' images the same?
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
    """The tensors among the arguments or results of an operation, which lists may hold."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _numbers(args: Any) -> int:
    """How many numbers a tensor made from nothing would have, if its size comes first."""
    size = args[0] if args and isinstance(args[0], (list, tuple, torch.Size)) else ()
    return math.prod(number for number in size if isinstance(number, int))


def _without_masks(indices: Any) -> Iterator[Any]:
    """Indices of a tensor, those that are masks as the places where they are true: how many there are is then known."""
    for index in indices:
        if isinstance(index, torch.Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            with unset_fake_temporarily():
                yield from torch.nonzero(index, as_tuple=True)
        else:
            yield index
