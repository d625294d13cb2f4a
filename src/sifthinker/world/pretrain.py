"""Nano's pretraining: dense lessons about scenes, from random weights to a model that knows where things are.

The lessons of a scene share its images, so they are packed behind one copy of them: each lesson sees the images and itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from sifthinker.files import make_folder
from sifthinker.models import load_model
from sifthinker.prompts import user_prompt
from sifthinker.training.config import TrainConfig
from sifthinker.training.prefix import block_mask
from sifthinker.training.runs import OurTrainer, is_finished, run
from sifthinker.world.lessons import Course, lessons
from sifthinker.world.nano import IMAGE_SIZE, PATCH_SIZE, build_model, build_processor
from sifthinker.world.questions import SPLITS, scene_at
from sifthinker.world.scenes import LEVELS


class Lessons(torch.utils.data.Dataset):  # type: ignore[misc]
    """Scenes with their lessons, tokenised and packed; item `i` is the same for the same `i`.

    Args:
        processor: nano's.
        count: number of scenes.
        first: of the scenes, counted from the split's beginning.
        course: of the lessons.
        rgb_only: one run in so many is shown without its depth.
        run: so many neighbours are of one level, all with or all without depth, so that a batch has little padding.
        split: whose scenes.
    """

    def __init__(
        self,
        processor: Any,
        count: int,
        *,
        first: int = 0,
        course: Course = "see",
        rgb_only: int = 8,
        run: int = 32,
        split: str = "base",
    ) -> None:
        self._processor = processor
        self._count = count
        self._run = run
        self._first = SPLITS[split] + first
        self._course: Course = course
        self._rgb_only = rgb_only

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """input_ids, labels, segments (0 the images, 1 … the lessons), positions: lists of one length T; pixel_values
        (images, 3, H, W)."""
        seed = self._first + index
        batch = index // self._run
        level = list(LEVELS)[batch % len(LEVELS)]
        depth = batch % self._rgb_only != self._rgb_only - 1
        scene = scene_at(seed, level)
        tokenizer = self._processor.tokenizer
        image, map_, _ = scene.reference
        pixels = self._processor.image_processor([image, map_.view()] if depth else [image], return_tensors="pt")
        patches = len(pixels["pixel_values"]) * (IMAGE_SIZE // PATCH_SIZE) ** 2
        ids = [tokenizer.bos_token_id, *[self._processor.image_token_id] * patches]
        labels, segments, positions = [-100] * len(ids), [0] * len(ids), list(range(len(ids)))
        shared = len(ids)
        taught = list(lessons(scene, seed, level, depth=depth, course=self._course))
        texts = [user_prompt(item.question, depth=depth, direct=True) for item in taught]
        asked = tokenizer(texts + [item.reply for item in taught])["input_ids"]
        for number, (question, reply) in enumerate(zip(asked[: len(taught)], asked[len(taught) :], strict=True), 1):
            reply = [*reply, tokenizer.eos_token_id]
            ids += question + reply
            labels += [-100] * len(question) + reply
            length = len(question) + len(reply)
            segments += [number] * length
            positions += range(shared, shared + length)
        return {
            "input_ids": ids,
            "labels": labels,
            "segments": segments,
            "positions": positions,
            "pixel_values": pixels["pixel_values"],
        }


@dataclass
class Collator:
    """Rows padded at the end, with the mask that keeps lessons apart."""

    model: Any
    pad: int

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        def padded(key: str, value: int) -> torch.Tensor:
            rows = [torch.tensor(item[key]) for item in items]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

        return {
            "input_ids": padded("input_ids", self.pad),
            "labels": padded("labels", -100),
            "position_ids": padded("positions", 0),
            "attention_mask": block_mask(self.model, padded("segments", -1)),
            "pixel_values": torch.cat([item["pixel_values"] for item in items]),
        }


class _PretrainTrainer(OurTrainer, Trainer):  # type: ignore[misc]
    """transformers' Trainer with Muon."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the pretraining: which course, how many scenes, and its learning rates, which fall linearly.

    Args:
        course: of the lessons.
        scenes: each shown once.
        muon_lr: of the matrices.
        lr: of everything else.
        rgb_only: one batch in so many is shown without its depth.
    """

    course: Course
    scenes: int
    muon_lr: float
    lr: float
    rgb_only: int


# The second part is shown no depth at all. Without it a model reads places and shapes from the depth image, where there is
# no colour, and of two balls finds either; docs/world.md has the numbers.
RECIPE = (
    Part("see", 72_000, 4e-3, 2e-3, rgb_only=8),
    Part("see", 24_000, 3e-3, 1.5e-3, rgb_only=1),
    Part("find", 36_000, 3e-3, 1.5e-3, rgb_only=2),
    Part("conclude", 57_600, 3e-3, 1.5e-3, rgb_only=3),
)


def pretrain(
    output: str | Path,
    *,
    recipe: Sequence[Part] = RECIPE,
    batch_size: int = 48,
    seed: int = 0,
    save_steps: int = 250,
    workers: int | None = None,
    **shape: int,
) -> None:
    """Pretrain a nano model from random weights; a run that was interrupted goes on from its newest checkpoint.

    Args:
        output: folder of the run; the finished model lies in it, the earlier parts in folders of their course in it.
        recipe: the parts, each on scenes of its own, one after the other.
        batch_size: scenes a step.
        seed: of the weights.
        save_steps: steps between checkpoints.
        workers: processes that render scenes; by default one on a CPU, eight beside a GPU.
        shape: of the model, see `nano.build_model`.
    Raises:
        SIFError: the folder cannot be written.
        KeyboardInterrupt: interrupted; a checkpoint was written.
    """
    make_folder(output)
    processor = build_processor()
    model = build_model(processor, seed=seed, **shape)
    first = 0
    for number, part in enumerate(recipe):
        last = number == len(recipe) - 1
        folder = Path(output) if last else Path(output) / f"{number}-{part.course}"
        if is_finished(folder):
            model = load_model(folder, dtype="float32")
        else:
            _train(part, first, model, processor, folder, batch_size, seed, save_steps, workers)
        first += part.scenes


def _train(
    part: Part,
    first: int,
    model: Any,
    processor: Any,
    output: Path,
    batch_size: int,
    seed: int,
    save_steps: int,
    workers: int | None,
) -> None:
    on_cpu = not torch.accelerator.is_available()
    config = TrainConfig(
        model="nano, random weights" if first == 0 else "nano, the part before",
        data="world, split base",
        output=str(output),
        muon_lr=part.muon_lr,
        training={"batch_size": batch_size, "seed": seed, **asdict(part)},
    )
    if config.attention:
        model.set_attn_implementation(config.attention)
    if workers is None:
        workers = 1 if on_cpu else 8
    # Packed rows of `conclude` have up to six hundred tokens; 48 at once took more than 17 GB on a CPU.
    most = 24 if on_cpu else batch_size
    rows = max(rows for rows in range(1, most + 1) if batch_size % rows == 0)
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=-(-part.scenes // batch_size),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=batch_size // rows,
        learning_rate=part.lr,
        lr_scheduler_type="linear",
        warmup_steps=50,
        bf16=True,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=4 if workers else None,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        logging_steps=25,
        save_steps=save_steps,
        save_total_limit=1,
        seed=seed,
        report_to="none",
    )
    trainer = _PretrainTrainer(
        model=model,
        args=arguments,
        train_dataset=Lessons(
            processor, part.scenes, first=first, course=part.course, rgb_only=part.rgb_only, run=batch_size
        ),
        data_collator=Collator(model, processor.tokenizer.pad_token_id),
        processing_class=processor,
    )
    trainer.muon_lr = part.muon_lr
    run(trainer, config, f"Pretraining ({part.course})")
