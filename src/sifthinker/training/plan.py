"""Before the first step: does the run add up, do its rewards live, and will it fit?

Every finding is a problem with its remedy. Nothing is loaded but the model's configuration and processor: tokens are counted
as the trainers count them (`lengths`), images by their headers, and memory is worked out on shapes (`memory`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sifthinker.chain import check_chain, read_completion
from sifthinker.coordinates import Resizer
from sifthinker.errors import BoxError, ConfigError
from sifthinker.models import end_tokens, load_processor, special_tokens
from sifthinker.processors import cropped_share, image_fault, what_is_done
from sifthinker.prompts import asked_coordinates
from sifthinker.records import Example
from sifthinker.scoring.rewards import reference_from, score_completion
from sifthinker.training.data import gold_completion, load_examples, missing_end
from sifthinker.training.lengths import Lengths, Size, Turn, count_tokens, header_sizes, turns
from sifthinker.training.settings import Stage, TrainSettings, check_vllm, trainer_arguments

logger = logging.getLogger(__name__)

_GIB = 2**30
_FAR = 4  # times the median, from which the longest example is named
_DRY_RUN = 8  # examples whose gold chains are scored
# Below this learning rate most weights of 8 significant bits do not move, see docs/training.md.
_SMALL_STEPS = 1e-4
# What code of models raises when it needs numbers where there are only shapes, or knows no configuration of this kind.
_NOT_BY_SHAPES = (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do and need.

    Args:
        facts: name → value, for people.
        memory_gib: name → estimate a process. Completions are sampled before gradients and activations are there.
        problems: each with its remedy; empty when nothing is wrong.
        refusals: those of the problems with which a run would teach nothing: it does not start.
        notes: what is worth knowing and no fault.
        end: what SFT adds to every completion, see `data.missing_end`.
    """

    facts: dict[str, str]
    memory_gib: dict[str, float]
    problems: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    end: str = ""

    @property
    def total_gib(self) -> float:
        """Most that is needed at once."""
        memory = dict(self.memory_gib)
        sampling = memory.pop("generation cache", 0.0)
        training = memory.pop("gradients", 0.0) + memory.pop("activations", 0.0)
        return sum(memory.values()) + max(sampling, training)


def make_plan(config: TrainSettings, stage: Stage, defaults: dict[str, Any], *, gpu_gib: float | None = None) -> Plan:
    """Work a run out without loading weights.

    Args:
        config: the run.
        stage: its trainer.
        defaults: the stage's own defaults for TRL's config.
        gpu_gib: memory of the GPU it is to fit on. The run is then planned for a GPU, whether there is one here or not;
            otherwise for this machine.
    Raises:
        ConfigError, ModelError, RecordError: what is wrong with the config, the model's folder or the data.
    """
    arguments = trainer_arguments(config, stage, defaults, on_gpu=None if gpu_gib is None else True)
    if stage == "grpo":
        check_vllm(config, here=False)
    examples = load_examples(config.data, config.limit)
    processor = load_processor(config.model, max_pixels=config.max_pixels)
    return plan_run(config, stage, arguments, examples, processor, estimate=True, gpu_gib=gpu_gib)


def plan_run(
    config: TrainSettings,
    stage: Stage,
    arguments: Any,
    examples: Sequence[Example],
    processor: Any,
    *,
    estimate: bool = False,
    gpu_gib: float | None = None,
) -> Plan:
    """As `make_plan`, with TRL's config, the examples and the processor at hand; memory is estimated if asked for."""
    template = getattr(arguments, "chat_template_kwargs", None) or {}  # SFT's config has none
    end = missing_end(examples[0], processor, end_tokens(config.model, processor), **template)
    sizes = header_sizes(examples)
    refusals = [*token_problems(examples, processor), *image_problems(examples, processor, sizes)]
    if refusals:
        return Plan({"examples": f"{len(examples):,}"}, {}, refusals, refusals)
    turned = turns(examples, sizes, stage, processor, answers_only=config.answers_only, end=end, **template)
    lengths = count_tokens(turned, stage, processor, **template)
    longest, most_said = max(lengths.prompts), max(lengths.completions)
    facts = {
        "planned for": _device(arguments, gpu_gib),
        "examples": f"{len(examples):,}",
        "longest prompt": f"{longest:,} tokens, images included (example {turned[lengths.prompts.index(longest)].id!r})",
        "longest gold chain": f"{most_said:,} tokens",
    }
    problems: list[str] = []
    notes: list[str] = []
    gold = {example.id: gold_completion(example, processor, **template) for example in examples[:_DRY_RUN]}
    if not config.answers_only:
        refusals += [*resized_problems(examples, processor, sizes), *template_problems(examples[:_DRY_RUN], gold)]
        problems += prompt_problems(examples)
    problems += crop_problems(examples, processor, sizes)
    problems += precision_problems(config, arguments)
    rows = arguments.per_device_train_batch_size
    if stage == "grpo":
        group, most = arguments.num_generations, arguments.max_completion_length
        batch = arguments.generation_batch_size
        facts["a step"] = (
            f"{batch // group} prompts × {group} completions, scored {rows} completions at once on each of "
            f"{arguments.world_size} processes"
        )
        problems += _batch_problems(rows, group, most_said, most, len(examples), batch // group)
        dead, weak = reward_problems(examples[:_DRY_RUN], gold, config)
        refusals += dead if not refusals else []
        problems += weak
        notes += _visit_notes(config, arguments, len(examples))
    else:
        cut, shortened = length_problems(turned, lengths, arguments.max_length)
        refusals += cut
        problems += shortened
        if end:
            notes.append(
                f"the model's chat template writes no end token behind an answer; SFT adds {end!r} to every completion, so "
                "that the model learns to stop"
            )
    notes += _length_notes(lengths, turned, config)
    plan = Plan(facts, {}, refusals + problems, refusals, notes, end)
    if estimate:
        number = max(range(len(turned)), key=(lengths.prompts if stage == "grpo" else lengths.whole).__getitem__)
        _add_memory(plan, config, stage, arguments, turned[number], processor, longest, len(examples), gpu_gib, template)
    return plan


def _device(arguments: Any, gpu_gib: float | None) -> str:
    """What a run is planned for, and what follows from that by default."""
    device = f"a GPU with {gpu_gib:g} GiB" if gpu_gib is not None else f"this machine's {arguments.device.type.upper()}"
    kind = "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else "the weights' own precision"
    again = "recomputed" if arguments.activation_checkpointing else "kept"
    return f"{device}; computed in {kind}, activations {again}"


def _add_memory(
    plan: Plan,
    config: TrainSettings,
    stage: Stage,
    arguments: Any,
    turn: Turn,
    processor: Any,
    longest: int,
    examples: int,
    gpu_gib: float | None,
    template: Mapping[str, Any],
) -> None:
    """Put into a plan what a run needs, and whether it fits.

    Args:
        plan: gets facts, memory, problems and notes.
        config: the run.
        stage: its trainer.
        arguments: TRL's config of it.
        turn: the longest example.
        processor: of the model.
        longest: tokens of the longest prompt.
        examples: how many there are.
        gpu_gib: memory of the GPU that it is to fit on.
        template: further arguments of `apply_chat_template`.
    """
    from sifthinker.training.memory import fitting_rows, generation_bytes, run_memory

    rows = arguments.per_device_train_batch_size
    on_gpu = gpu_gib is not None or arguments.device.type != "cpu"
    try:
        needed = run_memory(config, stage, arguments, turn, processor, on_gpu=on_gpu, **template)
    except _NOT_BY_SHAPES as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        plan.notes.append(
            f"the memory of this model cannot be worked out from its configuration ({type(error).__name__}: {reason}); to "
            "measure it, train with max_steps 2"
        )
        return
    step = needed.step
    plan.memory_gib.update(
        {
            "weights": step.weights / _GIB,
            "gradients": step.gradients / _GIB,
            "optimizer": step.states / _GIB,
            "activations": (step.peak - step.gradients) / _GIB,
        }
    )
    plan.facts["parameters"] = f"{step.parameters:,}, {step.trained:,} of them trained"
    if stage == "grpo":
        group, most = arguments.num_generations, arguments.max_completion_length
        apart = rows * (longest + most)
        shared = max(1, rows // group) * (longest + min(rows, group) * most)
        plan.facts["tokens at once"] = (
            f"{shared:,}, against {apart:,} without prefix sharing" if needed.shares else f"{apart:,}"
        )
        at_once = arguments.generation_batch_size // max(1, arguments.world_size)
        plan.memory_gib["generation cache"] = generation_bytes(config, arguments, at_once, longest + most) / _GIB
        if arguments.beta and config.lora is None:
            plan.memory_gib["reference model"] = step.weights / _GIB
    room = gpu_gib if gpu_gib is not None else _memory_here(arguments.device)
    if gpu_gib is not None:
        sampling = plan.memory_gib.get("generation cache", 0.0)
        rest = plan.total_gib - max(step.peak / _GIB, sampling)
        try:
            fitting = fitting_rows(needed, rows, (gpu_gib - rest) * _GIB, sampling * _GIB / rows)
        except _NOT_BY_SHAPES as error:
            plan.notes.append(f"which batch fits cannot be worked out ({type(error).__name__}); only that of the run was")
            fitting = rows if plan.total_gib <= gpu_gib else 0
        least = f"up to about {fitting}" if fitting else f"not even {needed.unit} at once"
        every = examples * (needed.unit if stage == "grpo" else 1)
        beyond = f", more than the {examples:,} examples are" if fitting > every else ""
        plan.facts[f"fits on {gpu_gib:g} GiB"] = f"per_device_train_batch_size {least} (now {rows}){beyond}"
    if plan.total_gib > room:
        adapters = "" if config.lora is not None else "lora (which may have dtype bfloat16), "
        again = "" if arguments.activation_checkpointing else "activation_checkpointing, "
        of = "the GPU" if on_gpu else "this machine"
        pixels = f"fewer max_pixels (now {config.max_pixels or 'as the processor says'})"
        plan.problems.append(
            f"about {plan.total_gib:.1f} GiB are needed and {of} has {room:.3g}: lower per_device_train_batch_size "
            f"({rows}), use {adapters}{again}{pixels}{', or ZeRO-3 over several GPUs' if on_gpu else ''}"
        )


def _memory_here(device: Any) -> float:
    """GiB of memory of the device that a run would use on this machine; infinite where that is not known."""
    if device.type == "cpu":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
        except (AttributeError, ValueError, OSError):  # Windows has no such numbers
            return math.inf
    if device.type == "cuda":
        import torch

        return float(torch.cuda.get_device_properties(device).total_memory / _GIB)
    return math.inf


def _length_notes(lengths: Lengths, turned: Sequence[Turn], config: TrainSettings) -> list[str]:
    """Whether the longest example is longer than the model was made for, or far above the usual."""
    from sifthinker.training.memory import model_settings

    whole = lengths.whole
    longest, median = max(whole), float(np.median(whole))
    name = turned[whole.index(longest)].id
    made_for = getattr(model_settings(config).get_text_config(), "max_position_embeddings", None)
    notes = []
    if made_for and longest > made_for:
        notes.append(f"the longest example, {name!r}, has {longest:,} tokens, and the model's positions end at {made_for:,}")
    if longest > _FAR * median:
        notes.append(
            f"the longest example, {name!r}, has {longest:,} tokens and the median {median:,.0f}: the longest decides "
            "what memory is needed; lower max_pixels, or leave it out"
        )
    return notes


def report_problems(plan: Plan) -> None:
    """Log what is wrong with a run that is about to start.

    Raises:
        ConfigError: the run would teach nothing.
    """
    for note in (*plan.notes, *plan.problems):
        if note not in plan.refusals:
            logger.warning("before the first step: %s", note)
    if plan.refusals:
        raise ConfigError("; ".join(plan.refusals))


def token_problems(examples: Sequence[Example], processor: Any) -> list[str]:
    """Examples whose texts spell a special token of the model, which would be read as an image or as the end of a turn."""
    pattern = special_tokens(processor)
    found = [
        (example.id, token[0]) for example in examples if (token := pattern.search(example.prompt + "\n" + example.chain))
    ]
    if not found:
        return []
    return [
        f"{_examples(len(found), 'holds', 'hold')} a special token of this model in a text, the first {found[0][0]!r} "
        f"with {found[0][1]!r}; take it out of the question or the chain, or leave these examples out"
    ]


def image_problems(examples: Sequence[Example], processor: Any, sizes: Mapping[str, Size]) -> list[str]:
    """Images that the model's processor cannot take, by their headers."""
    faults = {size: image_fault(processor, size) for size in set(sizes.values())}
    found = [
        (example.id, image, fault) for example in examples for image in example.images if (fault := faults[sizes[image]])
    ]
    if not found:
        return []
    number, image, fault = found[0]
    examples_with = len({identity for identity, _, _ in found})
    return [
        f"{_examples(examples_with, 'has', 'have')} an image that cannot be used, the first {number!r}: {image}: {fault}; "
        f"leave {'it' if examples_with == 1 else 'them'} out"
    ]


def _examples(number: int, one: str = "", several: str = "") -> str:
    """`1 example` and `2 examples`, with a verb where one is given: `1 example has`, `2 examples have`."""
    return f"1 example {one}".rstrip() if number == 1 else f"{number:,} examples {several}".rstrip()


def resized_problems(examples: Sequence[Example], processor: Any, sizes: Mapping[str, Size]) -> list[str]:
    """Whether pixels in chains are those of the images that the model is shown; nothing is checked of other coordinates.

    Args:
        examples: those of the run.
        processor: of the model, with the run's `max_pixels`.
        sizes: of the images, see `lengths.header_sizes`; all of which the processor takes, see `image_problems`.
    """
    framed = [example for example in examples if example.resized is not None]
    if not framed:
        return []
    resizer = Resizer.of_processor(processor)
    if resizer is None:
        return [
            f"the chains state pixels of the resized image (coordinates resized), but this model's image processor, "
            f"{type(processor.image_processor).__name__}, does not resize by area as Qwen2.5-VL's does; build the data with "
            "coordinates unit or per_mille"
        ]
    off = []
    for example in framed:
        try:
            shown = resizer.size(sizes[example.images[0]])
        except BoxError as error:
            return [f"example {example.id!r}: {error}"]
        if shown != example.resized:
            off.append((example, shown))
    if not off:
        return []
    example, size = off[0]
    built, made = ("×".join(map(str, sides or ())) for sides in (example.resized, size))
    bounds = f"min_pixels {resizer.min_pixels}, max_pixels {resizer.max_pixels}, multiples of {resizer.factor}"
    return [
        f"{len(off)} of {len(framed)} chains state pixels of other images than the model would see: the first, "
        f"{example.id!r}, was written for {built}, and this processor makes {made} of its image ({bounds}). Train with "
        "the max_pixels that the data was built with, or build the data with this model as --processor and --max-pixels "
        f"{resizer.max_pixels}"
    ]


def prompt_problems(examples: Sequence[Example]) -> list[str]:
    """Examples whose prompt is the task of other coordinates than their chain's; a user's own wording is not looked into."""
    found = [
        (example, asked)
        for example in examples
        if (asked := asked_coordinates(example.prompt)) not in (None, example.coordinates)
    ]
    if not found:
        return []
    example, asked = found[0]
    return [
        f"{_examples(len(found), 'asks', 'ask')} for other coordinates than the chain's, the first {example.id!r} for "
        f"{asked} where the chain states {example.coordinates}; build the data with the coordinates that are wanted"
    ]


def crop_problems(examples: Sequence[Example], processor: Any, sizes: Mapping[str, Size]) -> list[str]:
    """What of the gold boxes the model will not see, because its processor keeps the centre of an image alone."""
    lost = np.concatenate(
        [
            cropped_share(processor, example.boxes, sizes[example.images[0]])
            for example in examples
            if example.boxes and example.images
        ]
        or [np.zeros(0)]
    )
    if not len(lost) or lost.max() < 0.005:
        return []
    images = processor.image_processor
    return [
        f"the model does not see {lost.mean():.0%} of the area of the gold boxes, and {(lost > 0.5).sum():,} of "
        f"{len(lost):,} boxes by less than half: its {type(images).__name__} {what_is_done(images)}; pad the images to "
        "squares before building the data, or use a model that sees whole images"
    ]


def precision_problems(config: TrainSettings, arguments: Any) -> list[str]:
    """Whether steps are too small for the weights' precision, so that most of them change nothing."""
    if config.lora is not None or arguments.learning_rate >= _SMALL_STEPS:
        return []
    from sifthinker.training.memory import model_settings, weights_dtype

    dtype = str(weights_dtype(config, model_settings(config))).removeprefix("torch.")
    if dtype != "bfloat16":
        return []
    return [
        f"weights in bfloat16 hold 8 significant bits: most steps of learning_rate {arguments.learning_rate:g} are rounded "
        "away; train weights in float32 (dtype float32; with bf16 they are still computed in bfloat16), or use lora, whose "
        "adapters are float32"
    ]


def length_problems(turned: Sequence[Turn], lengths: Lengths, max_length: int | None) -> tuple[list[str], list[str]]:
    """What TRL's `max_length` would cut off: (completions of which nothing is left, chains that are shortened)."""
    if max_length is None or max(lengths.whole) <= max_length:
        return [], []
    nothing = [turn.id for turn, prompt in zip(turned, lengths.prompts, strict=True) if prompt >= max_length]
    shortened = sum(prompt < max_length < whole for prompt, whole in zip(lengths.prompts, lengths.whole, strict=True))
    enough = f"set it to at least {max(lengths.whole)} or leave it out, or lower max_pixels"
    return (
        [
            f"max_length {max_length} cuts off the whole completion of {len(nothing)} of {len(turned)} examples, the first "
            f"{nothing[0]!r}, and there is nothing to learn from them; {enough}"
        ]
        if nothing
        else [],
        [
            f"max_length {max_length} is below the longest example's {max(lengths.whole)} tokens: the chains of "
            f"{_examples(shortened)} would be cut off; {enough}"
        ]
        if shortened
        else [],
    )


def template_problems(examples: Sequence[Example], gold: Mapping[str, str]) -> list[str]:
    """What the chat template does to valid chains, if it makes them invalid; see `data.gold_completion`."""
    for example in examples:
        how: dict[str, Any] = {"with_depth": example.depth is not None, "frame": example.frame}
        problems = read_completion(gold[example.id], opened=False, **how).problems
        if problems and not check_chain(example.chain, **how):
            return [
                f"the model's chat template breaks the chain of example {example.id!r}: {problems[0]}. It writes "
                f"{gold[example.id][:80]!r}…, and no completion could earn the format reward; use a template that keeps the "
                "assistant's text as it is"
            ]
    return []


def reward_problems(
    examples: Sequence[Example], gold: Mapping[str, str], config: TrainSettings
) -> tuple[list[str], list[str]]:
    """What a dry run on gold chains finds: (rewards that no gold chain earns, rewards that some do not earn in full).

    Args:
        examples: a few of the run's.
        gold: example id → its chain as the chat template renders it.
        config: the run.
    """
    dead, weak = [], []
    earned: dict[str, list[float]] = {}
    for example in examples:
        scores = score_completion(gold[example.id], reference_from(asdict(example)), opened=False)
        for name in config.weights:
            value = getattr(scores, name).value
            if value is not None:
                earned.setdefault(name, []).append(value)
    for name in config.weights:
        values = earned.get(name)
        if not values:
            weak.append(f"reward {name}: does not apply to this data (no depth?); leave it out with rewards.{name}=0")
        elif max(values) == 0:
            dead.append(f"reward {name}: even the gold chains earn 0; look at them with `sif rewards`")
        elif min(values) < 1:
            weak.append(
                f"reward {name}: a gold chain earns {min(values):.2f}, less than 1; look at it with `sif rewards` before "
                "training on it"
            )
    return dead, weak


def _visit_notes(config: TrainSettings, arguments: Any, examples: int) -> list[str]:
    """Whether the answer reward's progress term can act: it compares with the last time that a sample was seen."""
    if "answer" not in config.weights or not config.reward_terms.progress:
        return []
    completions = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    prompts = completions / arguments.num_generations / arguments.num_iterations  # a step
    visits = arguments.max_steps * prompts / examples if arguments.max_steps > 0 else arguments.num_train_epochs
    if visits > 1:
        return []
    return [
        f"each example is seen {visits:.2g} times, so the answer reward's progress term never acts: it compares with the "
        "last time; raise num_train_epochs to 2 or more, or use fewer examples (limit)"
    ]


def _batch_problems(rows: int, group: int, gold: int, most: int, examples: int, prompts: int) -> list[str]:
    problems = []
    if most < gold:
        problems.append(
            f"max_completion_length {most} is below the longest gold chain's {gold} tokens: right chains would be cut off; "
            f"set it to at least {gold + 16}"
        )
    if rows % group and group % rows:
        problems.append(
            f"per_device_train_batch_size {rows} cuts groups of {group} unevenly, so that prompts are computed more often "
            f"than needed; use a multiple or a divisor of {group}"
        )
    if prompts > examples:
        problems.append(f"a step wants {prompts} prompts and the data has {examples}; use smaller batches or more data")
    return problems
