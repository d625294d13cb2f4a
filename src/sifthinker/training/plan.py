"""Before the first step: does the run add up, do its rewards live, and will it fit?

Every finding is a problem with its remedy. Memory is estimated from the model's configuration alone, no weights are loaded.
Weights, gradients and optimizer are counted, adapters as if on every linear layer; activations and cache are formulas, not
yet held against a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sifthinker.chain import check_chain, read_completion
from sifthinker.errors import ConfigError
from sifthinker.images import load_image
from sifthinker.models import load_processor, model_source, special_tokens
from sifthinker.records import Example
from sifthinker.scoring.rewards import reference_from, score_completion
from sifthinker.training.data import gold_completion, load_examples
from sifthinker.training.settings import Stage, TrainSettings, trainer_arguments

logger = logging.getLogger(__name__)

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
_GIB = 2**30
_LONGEST_TRIED = 16  # prompts, the longest by characters, whose tokens are counted
_DRY_RUN = 8  # examples whose gold chains are scored


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do and need.

    Args:
        facts: name → value, for people.
        memory_gib: name → estimate a process.
        problems: each with its remedy; empty when nothing is wrong.
        refusals: those of the problems with which a run would teach nothing: it does not start.
        notes: what is worth knowing and no fault.
    """

    facts: dict[str, str]
    memory_gib: dict[str, float]
    problems: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def total_gib(self) -> float:
        return sum(self.memory_gib.values())


def make_plan(config: TrainSettings, stage: Stage, defaults: dict[str, Any], *, gpu_gib: float | None = None) -> Plan:
    """Work a run out without loading weights.

    Args:
        config: the run.
        stage: its trainer.
        defaults: the stage's own defaults for TRL's config.
        gpu_gib: memory of the GPU it is to fit on.
    Raises:
        ConfigError, ModelError, RecordError: what is wrong with the config, the model's folder or the data.
    """
    arguments = trainer_arguments(config, stage, defaults)
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
    prompts, answers = token_counts(examples, processor)
    facts = {
        "examples": f"{len(examples):,}",
        "longest prompt": f"{max(prompts):,} tokens (of the {len(prompts)} longest texts, images included)",
        "longest gold chain": f"{max(answers):,} tokens",
    }
    problems: list[str] = []
    notes: list[str] = []
    template = getattr(arguments, "chat_template_kwargs", None) or {}  # SFT's config has none
    gold = {example.id: gold_completion(example, processor, **template) for example in examples[:_DRY_RUN]}
    refusals = token_problems(examples, processor)
    refusals += [] if config.answers_only else template_problems(examples[:_DRY_RUN], gold)
    rows, length = arguments.per_device_train_batch_size, max(prompts) + max(answers)
    sharing = stage == "grpo" and config.prefix_sharing == "auto"
    tokens = rows * length
    if stage == "grpo":
        group, most = arguments.num_generations, arguments.max_completion_length
        batch = arguments.generation_batch_size
        facts["a step"] = (
            f"{batch // group} prompts × {group} completions, scored {rows} completions at once on each of "
            f"{arguments.world_size} processes"
        )
        length = max(prompts) + most
        tokens = max(1, rows // group) * (max(prompts) + min(rows, group) * most) if sharing else rows * length
        facts["tokens at once"] = (
            f"{tokens:,}, against {rows * length:,} without prefix sharing" if sharing else f"{tokens:,}"
        )
        problems += _batch_problems(rows, group, max(answers), most, len(examples), batch // group)
        dead, weak = reward_problems(examples[:_DRY_RUN], gold, config)
        refusals += dead if not refusals else []
        problems += weak
        notes += _visit_notes(config, arguments, len(examples))
    elif arguments.max_length is not None and arguments.max_length < length:
        problems.append(
            f"max_length {arguments.max_length} is below the longest example's {length} tokens: chains would be cut off; "
            "raise it, or lower max_pixels"
        )
    memory = estimate_memory(config, stage, arguments, rows=rows, tokens=tokens, length=length) if estimate else {}
    plan = Plan(facts, memory, refusals + problems, refusals, notes)
    if gpu_gib is not None:
        # Activations alone grow with the completions scored at once; the rest is there in any case.
        fixed = plan.total_gib - memory["activations"]
        fitting = int((gpu_gib - fixed) / (memory["activations"] / rows)) if gpu_gib > fixed else 0
        facts[f"fits on {gpu_gib:g} GiB"] = f"per_device_train_batch_size up to about {fitting} (now {rows})"
    if gpu_gib is not None and plan.total_gib > gpu_gib:
        plan.problems.append(
            f"about {plan.total_gib:.1f} GiB are needed and the GPU has {gpu_gib:g}: lower per_device_train_batch_size "
            f"({rows}), use lora, activation_checkpointing, dtype bfloat16, fewer max_pixels, or ZeRO-3 over several GPUs"
        )
    return plan


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


def token_counts(examples: Sequence[Example], processor: Any) -> tuple[list[int], list[int]]:
    """Tokens of the prompts, images included, and of the chains of the examples with the longest texts."""
    longest = sorted(examples, key=lambda example: -len(example.prompt))[:_LONGEST_TRIED]
    prompts = []
    for example in longest:
        content = [*({"type": "image"} for _ in example.images), {"type": "text", "text": example.prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        images = [[load_image(image) for image in example.images]]
        prompts.append(len(processor(text=[text], images=images, add_special_tokens=False)["input_ids"][0]))
    chains = sorted(examples, key=lambda example: -len(example.chain))[:_LONGEST_TRIED]
    return prompts, [len(processor.tokenizer(example.chain)["input_ids"]) for example in chains]


def token_problems(examples: Sequence[Example], processor: Any) -> list[str]:
    """Examples whose texts spell a special token of the model, which would be read as an image or as the end of a turn."""
    pattern = special_tokens(processor)
    found = [
        (example.id, token[0]) for example in examples if (token := pattern.search(example.prompt + "\n" + example.chain))
    ]
    if not found:
        return []
    return [
        f"{len(found)} examples hold a special token of this model in their text, the first {found[0][0]!r} with "
        f"{found[0][1]!r}; take it out of the question or the chain, or leave these examples out"
    ]


def template_problems(examples: Sequence[Example], gold: Mapping[str, str]) -> list[str]:
    """What the chat template does to valid chains, if it makes them invalid; see `data.gold_completion`."""
    for example in examples:
        problems = read_completion(gold[example.id], with_depth=example.depth is not None, opened=False).problems
        if problems and not check_chain(example.chain, with_depth=example.depth is not None):
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


def estimate_memory(
    config: TrainSettings, stage: Stage, arguments: Any, *, rows: int, tokens: int, length: int
) -> dict[str, float]:
    """GiB a process: weights, gradients, optimizer, activations, and for GRPO the generation's cache and the reference.

    Args:
        config: the run.
        stage: its trainer.
        arguments: TRL's config of it.
        rows: completions scored at once.
        tokens: tokens in one forward pass.
        length: longest sequence.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.integrations import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # under ZeRO-3, transformers would spread this model's weights, which there are none of
    settings = AutoConfig.from_pretrained(model_source(config.model))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(settings)
    text = settings.get_text_config()
    dtype = config.dtype if config.dtype != "auto" else str(getattr(settings, "dtype", None) or "float32").split(".")[-1]
    size = _BYTES.get(dtype, 4)
    frozen = set(config.freeze)
    counted = {name: p.numel() for name, p in model.named_parameters()}
    weights = sum(counted.values())
    if config.lora is None:
        trained = sum(number for name, number in counted.items() if not frozen & set(name.split(".")))
    else:
        linear = [
            module
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and not frozen & set(name.split(".")) and "lm_head" not in name
        ]
        trained = sum(config.lora.r * (module.in_features + module.out_features) for module in linear)
    layers, hidden = text.num_hidden_layers, text.hidden_size
    inner = getattr(text, "intermediate_size", 4 * hidden)
    # Of each token: its residual in every layer, and what one layer keeps for its backward (all layers without checkpoints).
    layer = 8 * hidden + 3 * inner
    kept = layers * hidden + (layer if arguments.activation_checkpointing else layers * layer)
    working = 2 if arguments.bf16 or arguments.fp16 else size
    memory = {
        "weights": weights * size / _GIB,
        "gradients": trained * size / _GIB,
        "optimizer (Adam)": trained * 8 / _GIB,
        "activations": tokens * kept * working / _GIB,
    }
    if stage == "grpo":
        heads = getattr(text, "num_key_value_heads", text.num_attention_heads)
        head = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
        at_once = arguments.generation_batch_size // max(1, arguments.world_size)
        memory["generation cache"] = at_once * length * 2 * layers * heads * head * working / _GIB
        if arguments.beta and config.lora is None:
            memory["reference model"] = weights * size / _GIB
    return memory
