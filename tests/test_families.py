"""Each family of models works, or is refused by name: loaded, trained in both stages, asked with depth, merged.

These tests make the table in docs/reference/families.md: `SIF_WRITE_DOCS=1` writes it, and without it the table must agree
with what ran. Families whose processors need torchvision run if it is installed, and are refused with that reason otherwise.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

import torch
from safetensors.torch import load_file, save_file

from sifthinker import TrainSettings
from sifthinker.chain import read_completion
from sifthinker.depth import DepthMap
from sifthinker.errors import ModelError
from sifthinker.images import load_image
from sifthinker.models import end_tokens, load_model, load_processor, merge_adapter, opened_by_template
from sifthinker.processors import bound_area, visible_part
from sifthinker.records import Example
from sifthinker.scoring.rewards import reference_from, score_completion
from sifthinker.thinker import Thinker
from sifthinker.training.data import gold_completion, grpo_dataset, load_examples, missing_end
from sifthinker.training.grpo import grpo_trainer
from sifthinker.training.prefix import why_not_shared
from sifthinker.training.sft import sft_trainer

from .real_models import FAMILIES, NEED_TORCHVISION, write_real_model

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "families.md"
BEGIN, END = "<!-- families: begin -->\n", "<!-- families: end -->\n"
COLUMNS = ("load", "SFT", "GRPO-SIF", "shared prompts", "think", "merge", "end of a turn", "`max_pixels`")
NAMES = {
    "qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL", "qwen3_5": "Qwen3.5", "internvl": "InternVL",
    "llava": "LLaVA-1.5", "llava_next": "LLaVA-NeXT", "llava_onevision": "LLaVA-OneVision", "smolvlm": "SmolVLM",
    "idefics3": "Idefics3", "gemma3": "Gemma 3", "paligemma": "PaliGemma", "mistral3": "Mistral 3", "lfm2_vl": "LFM2-VL",
    "glm4v": "GLM-4V",
}  # fmt: skip
TORCHVISION = find_spec("torchvision") is not None
REFUSED = ("paligemma",)
RUN = [family for family in FAMILIES if family not in REFUSED and (TORCHVISION or family not in NEED_TORCHVISION)]
TOWERS = ("vision_tower", "visual", "vision_model")


@dataclass(frozen=True)
class Place:
    """Where a family's tests work: model folders, two examples, and room for output."""

    model: Callable[[str], Path]
    data: Path
    out: Path


@pytest.fixture(scope="module")
def place(real_model: Callable[[str], Path], chains: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Two examples whose pictures differ in size and shape, with depth images in grey."""
    root = tmp_path_factory.mktemp("families")
    shutil.copytree(chains, root / "data")
    for example, size in zip(load_examples(str(root / "data"), 2), ((96, 64), (64, 112)), strict=True):
        assert example.depth is not None
        values = Image.fromarray(DepthMap.read(example.depth).values).resize(size, Image.Resampling.NEAREST)
        depth = DepthMap(np.asarray(values))
        depth.write(example.depth)
        load_image(example.images[0]).resize(size).save(example.images[0])
        depth.view().convert("L").save(example.images[1])
    # The published Mistral 3 has no sliding window, which its language model has by default.
    whole = cache(lambda: write_real_model("mistral3", root / "mistral3", sliding_window=None))
    return Place(lambda family: whole() if family == "mistral3" else real_model(family), root / "data", root)


def examples_of(place: Place) -> list[Example]:
    return load_examples(str(place.data), 2)


def tower_of(folder: Path) -> str:
    """The name of a model's vision tower."""
    names = {part for name, _ in load_model(folder).named_parameters() for part in name.split(".")}
    (found,) = (name for name in TOWERS if name in names and not (name == "vision_model" and "vision_tower" in names))
    return found


def watched(trainer: Any) -> dict[str, float]:
    """Name → sum of a trained parameter's absolute gradients, filled in while it trains; NaN until it has one."""
    seen: dict[str, float] = {}
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            seen[name] = float("nan")

            def note(given: Any, name: str = name) -> None:
                seen[name] = float(given.grad.abs().sum())

            parameter.register_post_accumulate_grad_hook(note)
    return seen


def one_step(place: Place, family: str, stage: str, **changes: Any) -> TrainSettings:
    training = {"max_steps": 1, "save_strategy": "no", **changes.pop("training")}
    return TrainSettings(
        model=str(place.model(family)), data=str(place.data), output=str(place.out / family / stage), limit=2,
        training=training, **changes,
    ).for_stage(stage)  # type: ignore[arg-type]  # fmt: skip


def run_sft(place: Place, family: str) -> None:
    """A step with everything trainable: every parameter learns, the chain is what is learnt, and so is its end."""
    trainer = sft_trainer(one_step(place, family, "sft", training={"per_device_train_batch_size": 2}))
    processor, ends = trainer.processing_class, end_tokens(place.model(family), trainer.processing_class)
    for row, example in zip(trainer.train_dataset, examples_of(place), strict=True):
        labels = trainer.data_collator([row])["labels"][0]
        learnt = labels[labels >= 0]
        text = opened_by_template(processor) + processor.tokenizer.decode(learnt, skip_special_tokens=True)
        assert read_completion(text, opened=False).problems == ()
        assert score_completion(text, reference_from(asdict(example)), opened=False).format.value == 1
        assert torch.isin(learnt[-2:], torch.tensor(ends)).any()  # behind it at most a line's end
    seen = watched(trainer)
    trainer.train()
    assert trainer.state.global_step == 1
    assert [name for name, size in seen.items() if not size > 0] == []


def run_grpo(place: Place, family: str) -> str:
    """A step with LoRA and a frozen tower, two prompts with two completions; what it says about shared prompts."""
    trainer = grpo_trainer(
        one_step(
            place, family, "grpo", lora={"r": 2}, freeze=(tower_of(place.model(family)),),
            training={"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4},
        )
    )  # fmt: skip
    seen = watched(trainer)
    trainer.train()
    assert trainer.state.global_step == 1
    assert seen
    assert all("lora_" in name and not set(TOWERS) & set(name.split(".")) for name in seen)
    assert [name for name, size in seen.items() if np.isnan(size)] == []
    trainer.save_model(str(place.out / family / "adapter"))
    for row, example in zip(trainer.train_dataset, examples_of(place), strict=True):
        gold = gold_completion(example, trainer.processing_class).removeprefix(trainer.opening)
        tokens = trainer.processing_class.tokenizer(gold, add_special_tokens=False)["input_ids"]
        said = [[{"role": "assistant", "content": "?"}]]
        assert trainer._calculate_rewards([row] * 2, [[]] * 2, said * 2, [tokens] * 2).min() >= 1
    reason = why_not_shared(trainer.model)
    assert trainer.shares_prefixes == (reason is None)
    return "yes" if reason is None else f"no: {reason}"


def run_think(place: Place, family: str) -> None:
    thinker = Thinker.load(place.model(family), device="cpu", max_new_tokens=3)
    assert thinker._opening == ("<think>\n" if family == "qwen3_5" else "")
    tasks = [
        (load_image(example.images[0]), example.problem, DepthMap.read(str(example.depth))) for example in examples_of(place)
    ]
    thoughts = thinker.think_all(tasks)
    assert len(thoughts) == 2
    assert all(thought.text.startswith(thinker._opening) and not thought.complete for thought in thoughts)


def run_merge(place: Place, family: str) -> None:
    """Merge the adapter, its second matrices made ones: just the matrices with adapters move, and the processor is kept."""
    folder, adapter = place.model(family), place.out / family / "adapter"
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: torch.ones_like(value) if "lora_B" in name else value for name, value in weights.items()},
        adapter / "adapter_model.safetensors",
        {"format": "pt"},
    )
    merge_adapter(adapter, place.out / family / "merged")
    before, after = (dict(load_model(where).named_parameters()) for where in (folder, place.out / family / "merged"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = {
        name.removeprefix("base_model.model.").replace(".lora_B", "").replace(".default", "")
        for name in weights
        if "lora_B" in name
    }
    assert moved == adapted
    kept = load_processor(place.out / family / "merged")
    assert type(kept).__name__ == type(load_processor(folder)).__name__
    assert kept.chat_template == load_processor(folder).chat_template


def sizes_of(processor: Any) -> str:
    """What `max_pixels` does."""
    instead = bound_area(processor, 4096)
    if visible_part(processor, (200, 100)) != (0, 0, 1, 1):
        return "no: crops the centre"
    for words, said in (("tiles", "no: tiles"), ("longer side", "no: bounds the longer side")):
        if words in instead:
            return said
    return "no: one size" if instead else "yes"


@cache
def row_of(place: Place, family: str) -> tuple[str, ...]:
    """A family's cells. What fails raises."""
    if family in REFUSED:
        with pytest.raises(ModelError) as refusal:
            load_processor(place.model(family))
        reason = re.search(r": (.*?)\. Use", str(refusal.value))
        assert reason is not None
        return (f"refused: {reason[1].removeprefix(NAMES[family] + ' ')}", *["–"] * (len(COLUMNS) - 1))
    processor = load_processor(place.model(family))
    end = missing_end(examples_of(place)[0], processor, end_tokens(place.model(family), processor))
    run_sft(place, family)
    shared = run_grpo(place, family)
    run_think(place, family)
    run_merge(place, family)
    loaded = "needs torchvision" if family in NEED_TORCHVISION else "yes"
    written = f"SFT adds `{end}`".replace("|", r"\|") if end else "by the template"
    return (loaded, "yes", "yes", shared, "yes", "yes", written, sizes_of(processor))


@pytest.mark.parametrize("family", RUN)
def test_a_family_is_trained_asked_and_merged(family: str, place: Place) -> None:
    assert len(row_of(place, family)) == len(COLUMNS)


@pytest.mark.parametrize("family", REFUSED)
@pytest.mark.parametrize("stage", ["sft", "grpo", "think"])
def test_a_family_that_does_not_work_is_refused_before_its_weights_are_read(
    family: str, stage: str, place: Place, tmp_path: Path
) -> None:
    shutil.copytree(place.model(family), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    settings = TrainSettings(model=str(tmp_path / "model"), data=str(place.data), output=str(tmp_path / "out"))
    starts = {"sft": sft_trainer, "grpo": grpo_trainer, "think": lambda settings: Thinker.load(settings.model)}
    with pytest.raises(ModelError, match=f"model: {NAMES[family]} has no chat template"):
        starts[stage](settings)


@pytest.mark.skipif(TORCHVISION, reason="torchvision is installed")
@pytest.mark.parametrize("family", NEED_TORCHVISION)
def test_a_family_that_needs_torchvision_says_so(family: str, place: Place) -> None:
    with pytest.raises(ModelError, match=r"needs torchvision\. Run: pip install torchvision"):
        Thinker.load(place.model(family))


@pytest.mark.parametrize("family", RUN)
def test_gold_chains_earn_all_rewards_as_the_template_renders_them(family: str, place: Place) -> None:
    processor = load_processor(place.model(family))
    for example in examples_of(place):
        gold = gold_completion(example, processor)
        scores = score_completion(gold, reference_from(asdict(example)), opened=False)
        assert min(getattr(scores, name).value for name in ("format", "answer", "grounding", "depth")) >= 1


@pytest.mark.parametrize("family", [name for name in ("qwen3_5", "qwen2_5_vl", "llava", "glm4v") if name in RUN])
def test_a_model_that_says_what_it_learnt_is_read_and_ends(
    family: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a model want the tokens that SFT teaches: its thought is the chain, whole, and it stops at the end."""
    trainer = sft_trainer(one_step(place, family, "sft", training={"per_device_train_batch_size": 1}))
    labels = trainer.data_collator([trainer.train_dataset[0]])["labels"][0]
    wanted = iter(labels[labels >= 0].tolist())
    thinker = Thinker.load(place.model(family), device="cpu", max_new_tokens=len(labels))
    thinker.model.lm_head.register_forward_hook(
        lambda module, given, logits: logits.index_fill(-1, torch.tensor([next(wanted)]), 1e4)
    )
    example = examples_of(place)[0]
    thought = thinker.think(load_image(example.images[0]), example.problem, DepthMap.read(str(example.depth)))
    assert thought.complete
    assert thought.reading.problems == ()
    assert thought.answer == example.answer
    assert thought.text.split() == example.chain.split()


def test_no_adapter_stands_where_no_loss_reaches(place: Place) -> None:
    """LLaVA takes the states before the last layer of its tower; an adapter behind them would never get a gradient."""
    changes = {"lora": {"r": 2}, "training": {"per_device_train_batch_size": 1}}
    trainer = sft_trainer(one_step(place, "llava", "sft", **changes))
    seen = watched(trainer)
    trainer.train()
    assert any("vision_tower" in name for name in seen)
    assert [name for name, size in seen.items() if np.isnan(size)] == []


def test_images_reach_processors_in_colour(place: Place) -> None:
    """Depth images are stored in grey; some processors convert nothing."""
    examples = examples_of(place)
    with Image.open(examples[0].images[1]) as stored:
        assert stored.mode == "L"
    assert [image.mode for row in grpo_dataset(examples)["images"] for image in row] == ["RGB"] * 4


def test_adapters_keep_the_bound_that_they_were_trained_with(place: Place, tmp_path: Path) -> None:
    """`sif model merge` writes the checkpoint's own processor, its size with it."""
    folder = place.model("qwen2_5_vl")
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(load_model(folder), peft.LoraConfig(r=1, target_modules=["down_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    load_processor(folder, max_pixels=50_176).save_pretrained(tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    size = load_processor(tmp_path / "merged").image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (3136, 50_176)
    saved = json.loads((tmp_path / "merged" / "processor_config.json").read_text())
    assert saved["processor_class"] == "Qwen2_5_VLProcessor"


def test_the_table_in_the_docs_says_what_ran(place: Place) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    written, after = rest.split(END)
    held = dict(re.findall(r"^\| (.+?) \|(.*)\|$", written, re.MULTILINE))
    lines = [f"| family | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for family, name in NAMES.items():
        ran = family in RUN or family in REFUSED
        cells = f" {' | '.join(row_of(place, family))} " if ran else held.get(name, " needs torchvision, not run ")
        assert ran or cells.startswith(" needs torchvision")
        lines.append(f"| {name} |{cells}|")
    version = {name: ".".join(importlib.metadata.version(name).split(".")[:2]) for name in ("transformers", "trl")}
    lines.append(f"\nRun with transformers {version['transformers']} and TRL {version['trl']}.")
    table = "\n".join(lines) + "\n"
    if os.environ.get("SIF_WRITE_DOCS"):
        PAGE.write_text(f"{before}{BEGIN}{table}{END}{after}", encoding="utf-8")
    else:
        assert table == written, "SIF_WRITE_DOCS=1 pytest tests/test_families.py writes the table anew"
