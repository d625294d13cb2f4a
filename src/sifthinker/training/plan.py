"""Checks of a run before its first step: batches, rewards, lengths and memory.

Every problem that a check reports comes with a fix. The checks load the model's configuration and processor, not its
weights. They count tokens as the trainers do (`lengths`), read image sizes from the file headers, and estimate memory from
tensor shapes (`memory`).
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
from sifthinker.processors import cropped_share, describe_resizing, image_fault
from sifthinker.prompts import asked_coordinates
from sifthinker.records import Example
from sifthinker.scoring.rewards import reference_from, score_completion
from sifthinker.training.data import gold_completion, load_examples, missing_end
from sifthinker.training.lengths import Lengths, Size, Turn, count_tokens, header_sizes, turns
from sifthinker.training.settings import Stage, TrainSettings, check_vllm, trainer_arguments

logger = logging.getLogger(__name__)

_GIB = 2**30
_FAR = 4  # report the longest example if it is this many times as long as the median
_DRY_RUN = 8  # number of examples whose ground-truth chains are scored
# Below this learning rate, most bfloat16 weights (8 significant bits) do not change, see docs/howto/train.md.
_SMALL_STEPS = 1e-4
# Errors that model code raises when it needs tensor values and only shapes exist, or does not know the configuration.
_NOT_BY_SHAPES = (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do, and what it needs.

    Args:
        facts: label → value, for display.
        memory_gib: label → estimate for one process, in GiB. The generation cache is freed before gradients and activations
            are allocated.
        problems: problems, each with a fix; empty if nothing is wrong.
        refusals: the problems that stop a run from starting, because it would learn nothing. docs/howto/troubleshooting.md
            lists them.
        notes: remarks that are not problems.
        end: end token that SFT adds to every completion, see `data.missing_end`.
    """

    facts: dict[str, str]
    memory_gib: dict[str, float]
    problems: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    end: str = ""

    @property
    def total_gib(self) -> float:
        """Peak memory in GiB."""
        memory = dict(self.memory_gib)
        sampling = memory.pop("generation cache", 0.0)
        training = memory.pop("gradients", 0.0) + memory.pop("activations", 0.0)
        return sum(memory.values()) + max(sampling, training)


def make_plan(config: TrainSettings, stage: Stage, defaults: dict[str, Any], *, gpu_gib: float | None = None) -> Plan:
    """Plan a run without loading weights.

    Args:
        config: settings of the run.
        stage: stage of the run.
        defaults: the stage's defaults for TRL's config.
        gpu_gib: memory of the GPU, in GiB. The plan is then for such a GPU, even if this machine has none. By default the
            plan is for this machine.
    Raises:
        ConfigError, ModelError, RecordError: the config, the model's folder or the data is faulty.
    """
    arguments = trainer_arguments(config, stage, defaults, on_gpu=None if gpu_gib is None else True)
    if stage == "grpo":
        check_vllm(config, here=False)
    examples = load_examples(config.data, config.limit, config.sample)
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
    """Plan a run like `make_plan`, from TRL's config, examples and a processor that are already loaded.

    Memory is estimated only with `estimate`.
    """
    template = getattr(arguments, "chat_template_kwargs", None) or {}  # SFT's config has none
    end = missing_end(examples[0], processor, end_tokens(config.model, processor), **template)
    sizes = header_sizes(examples)
    refusals = [*token_problems(examples, processor), *image_problems(examples, processor, sizes)]
    if refusals:
        return Plan({"examples": f"{len(examples):,}"}, {}, refusals, refusals)
    turned = turns(examples, sizes, stage, processor, answers_only=config.answers_only, end=end, **template)
    lengths = count_tokens(turned, stage, processor, **template)
    longest, most_said = max(lengths.prompts), max(lengths.completions)
    said = "answer" if config.answers_only else "chain"
    facts = {
        "planned for": _device(arguments, gpu_gib),
        "examples": f"{len(examples):,}",
        "longest prompt": f"{longest:,} tokens, images included (example {turned[lengths.prompts.index(longest)].id!r})",
        "longest answer" if config.answers_only else "longest ground-truth chain": f"{most_said:,} tokens",
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
        facts["training step"] = (
            f"{batch // group} prompts × {group} completions; {rows} completions per forward pass on each of "
            f"{arguments.world_size} processes"
        )
        problems += _batch_problems(rows, group, lengths.completions, most)
        dead, weak = reward_problems(examples[:_DRY_RUN], gold, config)
        refusals += dead if not refusals else []
        problems += weak
        notes += _visit_notes(config, arguments, len(examples))
    else:
        cut, shortened = length_problems(turned, lengths, arguments.max_length, said)
        refusals += cut
        problems += shortened
        if end:
            notes.append(
                f"the model's chat template writes no end token after an answer. SFT adds {end!r} to every completion; "
                "otherwise the model would not learn to stop"
            )
    refusals += step_problems(arguments, stage, len(examples))
    notes += _length_notes(lengths, turned, config)
    plan = Plan(facts, {}, refusals + problems, refusals, notes, end)
    if estimate:
        number = max(range(len(turned)), key=(lengths.prompts if stage == "grpo" else lengths.whole).__getitem__)
        _add_memory(plan, config, stage, arguments, turned[number], processor, longest, len(examples), gpu_gib, template)
    return plan


def _device(arguments: Any, gpu_gib: float | None) -> str:
    """Return the device that a run is planned for, with its computing precision and treatment of activations."""
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
    """Add the estimated memory to a plan, and a problem if it does not fit.

    Args:
        plan: plan to extend: facts, memory, problems and notes.
        config: settings of the run.
        stage: stage of the run.
        arguments: TRL's config of the run.
        turn: the longest example.
        processor: processor of the model.
        longest: number of tokens of the longest prompt.
        examples: number of examples.
        gpu_gib: memory of the GPU, in GiB; None plans for this machine.
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
            f"the memory of this model cannot be estimated from its configuration ({type(error).__name__}: {reason}); "
            "train with max_steps=2 to measure it"
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
        plan.facts["tokens per forward pass"] = (
            f"{shared:,} ({apart:,} without prefix sharing)" if needed.shares else f"{apart:,}"
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
            plan.notes.append(
                f"the largest batch that fits cannot be estimated ({type(error).__name__}); the plan covers only the run's "
                "batch"
            )
            fitting = rows if plan.total_gib <= gpu_gib else 0
        least = f"up to about {fitting}" if fitting else f"{needed.unit} is already too large"
        every = examples * (needed.unit if stage == "grpo" else 1)
        beyond = f", which is more than the {examples:,} examples need" if fitting > every else ""
        plan.facts[f"fits on {gpu_gib:g} GiB"] = f"per_device_train_batch_size {least} (now {rows}){beyond}"
    if plan.total_gib > room:
        cures = [] if config.lora is not None else ["lora (which allows dtype bfloat16)"]
        cures += [] if arguments.activation_checkpointing else ["activation_checkpointing"]
        cures += [f"a lower max_pixels (now {config.max_pixels or 'the limit of the processor'})"]
        cures += ["ZeRO-3 over several GPUs"] if on_gpu else []
        of = "the GPU" if on_gpu else "this machine"
        plan.problems.append(
            f"the run needs about {plan.total_gib:.1f} GiB, but {of} has {room:.3g} GiB: lower per_device_train_batch_size "
            f"(now {rows}), or use {', '.join(cures[:-1])}{' or ' if cures[1:] else ''}{cures[-1]}"
        )


def _memory_here(device: Any) -> float:
    """Return the memory in GiB of the device that a run would use on this machine, or infinity if it is unknown."""
    if device.type == "cpu":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
        except (AttributeError, ValueError, OSError):  # Windows does not provide these values
            return math.inf
    if device.type == "cuda":
        import torch

        return float(torch.cuda.get_device_properties(device).total_memory / _GIB)
    return math.inf


def _length_notes(lengths: Lengths, turned: Sequence[Turn], config: TrainSettings) -> list[str]:
    """Return notes on the longest example: longer than the model's positions, or much longer than the median."""
    from sifthinker.training.memory import model_settings

    whole = lengths.whole
    longest, median = max(whole), float(np.median(whole))
    name = turned[whole.index(longest)].id
    made_for = getattr(model_settings(config).get_text_config(), "max_position_embeddings", None)
    notes = []
    if made_for and longest > made_for:
        notes.append(f"the longest example, {name!r}, has {longest:,} tokens, but the model has only {made_for:,} positions")
    if longest > _FAR * median:
        notes.append(
            f"the longest example, {name!r}, has {longest:,} tokens; the median is {median:,.0f}. The longest example "
            "determines the memory: lower max_pixels, or remove this example"
        )
    return notes


def report_problems(plan: Plan) -> None:
    """Log the notes and problems of a run that is about to start.

    Raises:
        ConfigError: the run would learn nothing.
    """
    for note in plan.notes:
        logger.info("%s", note)
    for problem in plan.problems:
        if problem not in plan.refusals:
            logger.warning("%s", problem)
    if plan.refusals:
        raise ConfigError("; ".join(plan.refusals))


def token_problems(examples: Sequence[Example], processor: Any) -> list[str]:
    """Find examples whose text contains a special token of the model. It would count as an image or as the end of a turn."""
    pattern = special_tokens(processor)
    found = [
        (example.id, token[0]) for example in examples if (token := pattern.search(example.prompt + "\n" + example.chain))
    ]
    if not found:
        return []
    return [
        f"{_examples(len(found), 'contains', 'contain')} a special token of this model as text; the first is "
        f"{found[0][0]!r} with {found[0][1]!r}. Remove the token from the question or the chain, or remove the example"
    ]


def image_problems(examples: Sequence[Example], processor: Any, sizes: Mapping[str, Size]) -> list[str]:
    """Find images that the model's processor does not accept, from their headers."""
    faults = {size: image_fault(processor, size) for size in set(sizes.values())}
    found = [
        (example.id, image, fault) for example in examples for image in example.images if (fault := faults[sizes[image]])
    ]
    if not found:
        return []
    number, image, fault = found[0]
    examples_with = len({identity for identity, _, _ in found})
    return [
        f"{_examples(examples_with, 'has', 'have')} an image that the model cannot use; the first is {number!r}: {image}: "
        f"{fault}. Remove {'this example' if examples_with == 1 else 'these examples'}"
    ]


def _examples(number: int, one: str = "", several: str = "") -> str:
    """Return `1 example` or `2 examples`, with the verb if there is one: `1 example has`, `2 examples have`."""
    return f"1 example {one}".rstrip() if number == 1 else f"{number:,} examples {several}".rstrip()


def resized_problems(examples: Sequence[Example], processor: Any, sizes: Mapping[str, Size]) -> list[str]:
    """Check that pixel coordinates in chains refer to the resized images that the model sees.

    Chains in other coordinates are not checked.

    Args:
        examples: examples of the run.
        processor: processor of the model, with the run's `max_pixels`.
        sizes: sizes of the images, see `lengths.header_sizes`. The processor must accept all of them, see `image_problems`.
    """
    framed = [example for example in examples if example.resized is not None]
    if not framed:
        return []
    resizer = Resizer.of_processor(processor)
    if resizer is None:
        return [
            f"the chains contain pixels of the resized image (coordinates resized), but this model's image processor "
            f"({type(processor.image_processor).__name__}) does not resize by area as Qwen2.5-VL does. Build the data with "
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
        f"{len(off)} of {len(framed)} chains contain pixels of a different image size than the model sees. The first is "
        f"{example.id!r}: expected {built}, but this processor resizes its image to {made} ({bounds}). Train with the "
        "max_pixels that the data was built with, or build the data with this model as --processor and --max-pixels "
        f"{resizer.max_pixels}"
    ]


def prompt_problems(examples: Sequence[Example]) -> list[str]:
    """Find examples whose prompt asks for different coordinates than their chain has. Custom prompts are not checked."""
    found = [
        (example, asked)
        for example in examples
        if (asked := asked_coordinates(example.prompt)) not in (None, example.coordinates)
    ]
    if not found:
        return []
    example, asked = found[0]
    return [
        f"{_examples(len(found), 'asks', 'ask')} for different coordinates than the chain has; the first is {example.id!r}: "
        f"the prompt asks for {asked}, the chain has {example.coordinates}. Build the data with one of the two"
    ]


def crop_problems(examples: Sequence[Example], processor: Any, sizes: Mapping[str, Size]) -> list[str]:
    """Report the part of the ground-truth boxes that the model misses because its processor crops images to the centre."""
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
        f"the model does not see {lost.mean():.0%} of the area of the ground-truth boxes, and sees less than half of "
        f"{(lost > 0.5).sum():,} of {len(lost):,} boxes: its {type(images).__name__} {describe_resizing(images)}. Pad the "
        "images to squares before you build the data, or use a model that sees complete images"
    ]


def precision_problems(config: TrainSettings, arguments: Any) -> list[str]:
    """Check whether updates are too small for the precision of the weights, so that most weights do not change."""
    if config.lora is not None or arguments.learning_rate >= _SMALL_STEPS:
        return []
    from sifthinker.training.memory import model_settings, weights_dtype

    dtype = str(weights_dtype(config, model_settings(config))).removeprefix("torch.")
    if dtype != "bfloat16":
        return []
    return [
        f"bfloat16 weights have 8 significant bits: at learning_rate {arguments.learning_rate:g}, most updates are lost to "
        "rounding. Set dtype float32 (with bf16 the computation stays in bfloat16), or use lora, whose adapters are float32"
    ]


def step_problems(arguments: Any, stage: Stage, examples: int) -> list[str]:
    """Find settings with which a run would end without a step.

    Args:
        arguments: TRL's config of the run.
        stage: stage of the run.
        examples: number of examples.
    """
    if not arguments.max_steps:
        return ["max_steps is 0, so the run would make no step; raise it, or leave it out to train for num_train_epochs"]
    if arguments.max_steps < 0 and arguments.num_train_epochs <= 0:
        return [f"num_train_epochs is {arguments.num_train_epochs:g}, so the run would make no step; raise it"]
    if stage == "grpo":  # TRL leaves out an incomplete batch
        needed, unit = arguments.generation_batch_size // arguments.num_generations, "prompts"
    else:
        needed = arguments.per_device_train_batch_size * arguments.world_size if arguments.dataloader_drop_last else 1
        unit = "examples, because of dataloader_drop_last"
    if needed > examples:
        return [
            f"a step needs {needed} {unit}, but the data has {examples}; lower per_device_train_batch_size"
            f"{' or gradient_accumulation_steps' if stage == 'grpo' else ''}, or use more data"
        ]
    return []


def length_problems(
    turned: Sequence[Turn], lengths: Lengths, max_length: int | None, said: str = "chain"
) -> tuple[list[str], list[str]]:
    """Report what TRL's `max_length` would cut off: (problems that stop a run, problems with some shortened completions).

    A run is stopped if an example loses its entire completion, or if every completion is shortened: its end is lost.

    Args:
        turned: rendered examples.
        lengths: their tokens.
        max_length: TRL's setting.
        said: what the completions are: `chain` or `answer`.
    """
    if max_length is None or max(lengths.whole) <= max_length:
        return [], []
    nothing = [turn.id for turn, prompt in zip(turned, lengths.prompts, strict=True) if prompt >= max_length]
    shortened = sum(prompt < max_length < whole for prompt, whole in zip(lengths.prompts, lengths.whole, strict=True))
    enough = f"set max_length to at least {max(lengths.whole)}, leave it out, or lower max_pixels"
    every = shortened == len(turned)
    short = (
        [
            f"max_length {max_length} is too small for the longest example ({max(lengths.whole)} tokens): the {said}s of "
            f"{'all ' if every else ''}{_examples(shortened)} would be cut off"
            f"{f', so the model could not learn to end a {said}' if every else ''}. To fix it, {enough}"
        ]
        if shortened
        else []
    )
    nothing_left = (
        [
            f"max_length {max_length} cuts off the entire completion of {len(nothing)} of {len(turned)} examples, so the "
            f"model cannot learn from them; the first is {nothing[0]!r}. To fix it, {enough}"
        ]
        if nothing
        else []
    )
    return (short, []) if every else (nothing_left, short)


def template_problems(examples: Sequence[Example], gold: Mapping[str, str]) -> list[str]:
    """Find a chat template that makes valid chains invalid; see `data.gold_completion`."""
    for example in examples:
        how: dict[str, Any] = {"with_depth": example.depth is not None, "frame": example.frame}
        problems = read_completion(gold[example.id], opened=False, **how).problems
        if problems and not check_chain(example.chain, **how):
            return [
                f"the model's chat template breaks the chain of example {example.id!r}: {problems[0]}. It writes "
                f"{gold[example.id][:80]!r}…, so no completion could earn the format reward. Use a template that does not "
                "change the assistant's text"
            ]
    return []


def reward_problems(
    examples: Sequence[Example], gold: Mapping[str, str], config: TrainSettings
) -> tuple[list[str], list[str]]:
    """Score ground-truth chains: (problems with rewards that none of them earns, problems with rewards below 1).

    Args:
        examples: a few examples of the run.
        gold: example id → its chain, rendered by the chat template.
        config: settings of the run.
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
            weak.append(f"reward {name}: does not apply to this data (no depth?); turn it off with rewards.{name}=0")
        elif max(values) == 0:
            dead.append(f"reward {name}: even the ground-truth chains earn 0; check them with `sif rewards`")
        elif min(values) < 1:
            weak.append(
                f"reward {name}: a ground-truth chain earns only {min(values):.2f}, expected 1; check it with `sif rewards` "
                "before you train"
            )
    return dead, weak


def _visit_notes(config: TrainSettings, arguments: Any, examples: int) -> list[str]:
    """Check that the progress term of the answer reward has an effect: it needs at least two visits to an example."""
    if "answer" not in config.weights or not config.reward_terms.progress:
        return []
    completions = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    prompts = completions / arguments.num_generations / arguments.num_iterations  # a step
    visits = arguments.max_steps * prompts / examples if arguments.max_steps > 0 else arguments.num_train_epochs
    if visits > 1:
        return []
    often = "once" if f"{visits:.2g}" == "1" else f"{visits:.2g} times"
    return [
        f"the run visits each example {often}, so the progress term of the answer reward has no effect: it "
        "compares with the visit before. Set num_train_epochs to 2 or more, or use fewer examples (sample)"
    ]


def _batch_problems(rows: int, group: int, gold: Sequence[int], most: int) -> list[str]:
    """Check batches and lengths of GRPO. These problems only warn: a model may write shorter chains than those."""
    problems = []
    if most < max(gold):
        cut = sum(most < tokens for tokens in gold)
        problems.append(
            f"max_completion_length {most} is too small for the longest ground-truth chain ({max(gold)} tokens): the chains "
            f"of {cut:,} of {len(gold):,} examples do not fit, and such completions would be cut off. Set it to at least "
            f"{max(gold) + 16}"
        )
    if rows % group and group % rows:
        problems.append(
            f"per_device_train_batch_size {rows} splits groups of {group} unevenly, so prompts are computed more often "
            f"than necessary; use a multiple or a divisor of {group}"
        )
    return problems
