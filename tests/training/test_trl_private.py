"""Parts of TRL and transformers that are theirs alone, or promised to nobody, and that our trainers build on.

`pyproject.toml` holds both to the minor versions whose parts these are. When a new one is allowed, a part that has changed
fails here, and the message says which it is and which of our files uses it.
"""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

import sifthinker

pytest.importorskip("trl")

ROOT = Path(sifthinker.__file__).parent


@dataclass(frozen=True)
class Part:
    """A private part.

    Args:
        used_in: our file.
        module: where it lives.
        path: dotted, from the module.
        takes: parameters that we hand over, or that our override declares, without `self`.
        whole: whether there are no others, as for a method that we override, which would lose them.
    """

    used_in: str
    module: str
    path: str
    takes: tuple[str, ...] = ()
    whole: bool = False

    @property
    def name(self) -> str:
        return f"{self.module}.{self.path}"


def overridden(used_in: str, module: str, path: str, takes: str) -> Part:
    return Part(used_in, module, path, tuple(takes.split()), whole=True)


def called(used_in: str, module: str, path: str, takes: str = "") -> Part:
    return Part(used_in, module, path, tuple(takes.split()))


GRPO, PREFIX, RUNS, DECODING = "training/grpo.py", "training/prefix.py", "training/runs.py", "decoding.py"
PREPARED = "training/prepared.py"
DATA, PLAN = "training/data.py", "training/plan.py"
LENGTHS, MEMORY = "training/lengths.py", "training/memory.py"
PROGRESS, HELD_OUT = "training/progress.py", "training/held_out.py"
TRAINER, CACHE, UTILS = "transformers.trainer", "transformers.cache_utils", "trl.trainer.utils"
GRPO_TRAINER = "trl.trainer.grpo_trainer"

# Models whose positions have three axes: file and class.
MROPE = (
    ("qwen2_vl", "Qwen2VLModel"),
    ("qwen2_5_vl", "Qwen2_5_VLModel"),
    ("qwen3_vl", "Qwen3VLModel"),
    ("glm4v", "Glm4vModel"),
)

PARTS = [
    overridden(GRPO, GRPO_TRAINER, "GRPOTrainer._prepare_inputs", "generation_batch"),
    overridden(GRPO, GRPO_TRAINER, "GRPOTrainer._generate_and_score_completions", "inputs"),
    overridden(
        GRPO,
        GRPO_TRAINER,
        "GRPOTrainer._generate_single_turn",
        "prompt_ids images multimodal_fields num_generations has_tool_images",
    ),
    overridden(
        GRPO,
        GRPO_TRAINER,
        "GRPOTrainer._calculate_rewards",
        "inputs prompts completions completion_ids_list",
    ),
    overridden(
        GRPO,
        GRPO_TRAINER,
        "GRPOTrainer._get_per_token_logps_and_entropies",
        "model input_ids attention_mask logits_to_keep batch_size compute_entropy compute_aux_loss pixel_values "
        "image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles image_sizes token_type_ids "
        "mm_token_type_ids image_position_ids",
    ),
    called(GRPO, GRPO_TRAINER, "GRPOTrainer._log_metric", "name value"),
    called(GRPO, UTILS, "pad", "tensors padding_value padding_side"),
    called(GRPO, UTILS, "split_pixel_values_by_grid", "batch"),
    called(GRPO, UTILS, "unsplit_pixel_values_by_grid", "batch"),
    called(GRPO, UTILS, "split_tensor_dict", "tensor_dict num_chunks"),
    called(
        GRPO,
        "trl.models",
        "unwrap_model_for_generation",
        "model accelerator gather_deepspeed3_params generation_kwargs gradient_checkpointing_kwargs",
    ),
    called(GRPO, "accelerate.utils", "gather_object", "object"),
    called(DATA, "trl.data_utils", "apply_chat_template", "example processing_class"),
    called(DATA, "trl.data_utils", "prepare_multimodal_messages", "messages images"),
    called(LENGTHS, "trl.data_utils", "apply_chat_template", "example processing_class"),
    called(LENGTHS, "trl.data_utils", "prepare_multimodal_messages", "messages images"),
    called(MEMORY, "transformers.integrations", "unset_hf_deepspeed_config"),
    called(MEMORY, UTILS, "add_fused_lm_head", "model outputs"),
    called(
        MEMORY,
        "trl.trainer.sft_trainer",
        "DataCollatorForVisionLanguageModeling",
        "processor max_length completion_only_loss",
    ),
    called(RUNS, "transformers.integrations", "unset_hf_deepspeed_config"),
    overridden(GRPO, TRAINER, "Trainer.save_model", "output_dir _internal_call"),
    called(GRPO, TRAINER, "Trainer.train", "resume_from_checkpoint"),
    called(PREFIX, UTILS, "add_fused_lm_head", "model outputs"),
    *(
        called(
            PREFIX,
            f"transformers.models.{family}.modeling_{family}",
            f"{cls}.get_rope_index",
            "input_ids mm_token_type_ids image_grid_thw",
        )
        for family, cls in MROPE
    ),
    called(PREFIX, CACHE, "Cache.batch_select_indices", "indices"),
    # Stands in for a processor, in the ways in which TRL calls one.
    called(PREPARED, "transformers", "ProcessorMixin.apply_chat_template", "conversation"),
    called(PREPARED, "transformers", "ProcessorMixin.__call__", "images text"),
    called(PREPARED, "transformers", "ProcessorMixin._process_images", "images"),
    overridden(RUNS, TRAINER, "Trainer._load_from_checkpoint", "resume_from_checkpoint model"),
    overridden(RUNS, TRAINER, "Trainer._load_best_model", ""),
    overridden(RUNS, TRAINER, "Trainer.evaluate", "eval_dataset ignore_keys metric_key_prefix"),
    overridden(RUNS, TRAINER, "Trainer.create_optimizer", "model"),
    called(HELD_OUT, "trl.models", "unwrap_model_for_generation", "model accelerator gradient_checkpointing_kwargs"),
    called(HELD_OUT, "trl.distributed", "DistributedBackend.summon_full_params", "module"),
    called(HELD_OUT, "accelerate.utils", "gather_object", "object"),
    called(HELD_OUT, "torch.distributed.fsdp", "register_fsdp_forward_method"),
    called(RUNS, TRAINER, "Trainer.set_initial_training_values", "args dataloader"),
    called(RUNS, TRAINER, "Trainer.get_train_dataloader"),
    called(RUNS, "transformers", "TrainerState.load_from_json", "json_path"),
    called(PROGRESS, "transformers", "PrinterCallback"),
    called(PROGRESS, "transformers", "ProgressCallback"),
    overridden(DECODING, CACHE, "DynamicLayer.update", "key_states value_states args kwargs"),
    called(DECODING, CACHE, "DynamicLayer.lazy_initialization", "key_states value_states"),
    called(DECODING, CACHE, "DynamicCache", "config"),
    called(DECODING, "transformers", "GenerationMixin._supports_default_dynamic_cache"),
]

# What a trainer sets on itself and we read or write: our file, the class, its attributes.
ATTRIBUTES = [
    (
        GRPO,
        f"{GRPO_TRAINER}.GRPOTrainer",
        "_buffered_inputs _step num_iterations num_generations num_generations_eval use_vllm "
        "use_transformers_continuous_batching tools _tokenizer eos_token_ids generation_kwargs generation_config _dist "
        "_metrics reward_func_names reward_weights",
    ),
    (GRPO, f"{TRAINER}.Trainer", "model_wrapped accelerator state model args processing_class"),
    (RUNS, f"{TRAINER}.Trainer", "optimizer is_deepspeed_enabled is_fsdp_enabled"),
    (DECODING, f"{CACHE}.DynamicLayer", "is_initialized keys values"),
    (DECODING, f"{CACHE}.Cache", "layers"),
    *((PREFIX, f"transformers.models.{family}.modeling_{family}.{cls}", "rope_deltas") for family, cls in MROPE),
]

# Fields of the trainers' settings that we set or read by name: our file, the class, its fields.
FIELDS = [
    ("training/settings.py", "trl.SFTConfig", "output_dir use_cpu dataloader_pin_memory activation_checkpointing"),
    ("training/settings.py", "trl.GRPOConfig", "output_dir use_cpu dataloader_pin_memory activation_checkpointing"),
    ("training/sft.py", "trl.SFTConfig", "max_length logging_steps report_to"),
    (
        GRPO,
        "trl.GRPOConfig",
        "num_generations beta loss_type max_completion_length logging_steps report_to reward_weights generation_kwargs "
        "use_vllm steps_per_generation ds3_gather_for_generation gradient_checkpointing_kwargs",
    ),
    ("training/plan.py", "trl.GRPOConfig", "generation_batch_size num_generations activation_checkpointing bf16 fp16 beta"),
    (
        MEMORY,
        "trl.SFTConfig",
        "per_device_train_batch_size gradient_accumulation_steps activation_checkpointing activation_checkpointing_kwargs "
        "bf16 fp16 optim max_length completion_only_loss",
    ),
    (PREFIX, "trl.trainer.utils.FusedCausalLMOutput", "log_probs entropy"),
]


def found(module: str, path: str) -> Any:
    at: Any = importlib.import_module(module)
    for name in path.split("."):
        at = getattr(at, name)
    return at


def version(module: str) -> str:
    package = module.partition(".")[0]
    return f"{package} {importlib.import_module(package).__version__}"


def check(part: Part) -> str | None:
    """What is wrong with a part; None when it is as we use it."""
    try:
        thing = found(part.module, part.path)
    except (ImportError, AttributeError):
        return f"{version(part.module)} has no {part.name} any more; our {part.used_in} uses it"
    if not callable(thing):
        return f"{version(part.module)}: {part.name} cannot be called any more; our {part.used_in} does"
    takes = [name for name in inspect.signature(thing).parameters if name != "self"]
    if (part.whole and tuple(takes) != part.takes) or not set(part.takes) <= set(takes):
        wanted = f"({', '.join(part.takes)}{'' if part.whole else ', …'})"
        return f"{version(part.module)}: {part.name} takes ({', '.join(takes)}); our {part.used_in} wants {wanted}"
    return None


def missing_fields(used_in: str, place: str, names: str) -> str | None:
    """What is wrong with the fields of a settings class; None when all are there."""
    gone = set(names.split()) - {item.name for item in fields(found(*place.rsplit(".", 1)))}
    return f"{version(place)}: {place} has no field {', '.join(sorted(gone))}; our {used_in} names it" if gone else None


def unlisted(parts: Iterable[Part], *files: str) -> list[str]:
    """Names that our files take from inside TRL and transformers, as their import lines say, and that are not listed."""
    listed = {(part.used_in, part.path.partition(".")[0]) for part in parts}
    imports = re.compile(r"^ *from ((?:trl|transformers|accelerate)\.[\w.]+) import ([\w, ]+)$", re.MULTILINE)
    return [
        f"{used_in} imports {name} from {module}"
        for used_in in files
        for module, names in imports.findall((ROOT / used_in).read_text(encoding="utf-8"))
        for name in names.split(", ")
        if (used_in, name) not in listed
    ]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.used_in}-{part.path}")
def test_a_private_part_is_as_we_use_it(part: Part) -> None:
    assert check(part) is None


@pytest.mark.parametrize(("used_in", "place", "names"), ATTRIBUTES, ids=lambda value: str(value)[:60])
def test_attributes_are_set_where_we_look_for_them(used_in: str, place: str, names: str) -> None:
    cls = found(*place.rsplit(".", 1))
    source = "".join(inspect.getsource(base) for base in cls.__mro__ if base.__module__.startswith(("trl", "transformers")))
    # In a class's own body, in a method, several at once or with a type.
    gone = [
        name
        for name in names.split()
        if not re.search(rf"\bself\.{name}\b\s*(:[^=\n]+)?(,[^=\n]+)?=[^=]", source) and not hasattr(cls, name)
    ]
    assert not gone, f"{version(place)}: {place} has no {', '.join(gone)} any more; our {used_in} uses it"


@pytest.mark.parametrize(("used_in", "place", "names"), FIELDS, ids=lambda value: str(value)[:60])
def test_settings_have_the_fields_that_we_name(used_in: str, place: str, names: str) -> None:
    assert missing_fields(used_in, place, names) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda self, inputs: None, "takes (inputs); our training/grpo.py wants (generation_batch)"),
        (lambda self, generation_batch, more=None: None, "takes (generation_batch, more)"),
        (5, "cannot be called any more; our training/grpo.py does"),
        (None, "has no trl.trainer.grpo_trainer.GRPOTrainer._prepare_inputs any more; our training/grpo.py uses it"),
    ],
)
def test_a_change_is_told_with_the_part_and_our_file(
    monkeypatch: pytest.MonkeyPatch, change: Callable[..., None] | int | None, words: str
) -> None:
    trainer = found(GRPO_TRAINER, "GRPOTrainer")
    if change is None:
        part = Part(GRPO, GRPO_TRAINER, "GRPOTrainer._prepare_inputs")
        monkeypatch.setattr(importlib.import_module(GRPO_TRAINER), "GRPOTrainer", object)
    else:
        part = PARTS[0]
        monkeypatch.setattr(trainer, "_prepare_inputs", change)
    problem = check(part)
    assert problem is not None
    assert words in problem
    assert "trl 1." in problem


def test_every_private_name_that_we_import_is_listed() -> None:
    assert unlisted(PARTS, GRPO, RUNS, DATA, PLAN, LENGTHS, MEMORY, DECODING, PROGRESS) == []
    assert unlisted([], DECODING)[0].startswith("decoding.py imports ")


def test_the_versions_are_held_to_those_that_were_looked_at() -> None:
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, package in (("models", "transformers"), ("train", "trl")):
        (requirement,) = (line for line in extras[extra] if line.startswith(package))
        least, _, most = requirement.removeprefix(f"{package}>=").partition(",<")
        (major, minor), (most_major, most_minor) = (map(int, text.split(".")) for text in (least, most))
        assert (most_major, most_minor) == (major, minor + 1), requirement
        assert version(package).startswith(f"{package} {major}.{minor}."), "the tests run with another version"
