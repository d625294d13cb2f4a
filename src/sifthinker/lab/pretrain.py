"""Pretraining of nano: many lessons about each scene, from random weights to a model that finds objects.

The images of a scene go through the model once. Each lesson of the scene continues from a copy of their keys and values. The
copies are part of the graph, so the gradients of all lessons add up in the images. The trainers share prompts in one packed
row instead. For many short lessons this would be slow on a CPU: most of the time would go into attention between lessons,
which a mask then hides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sifthinker.training  # noqa: F401  (first, because it reports missing packages)

# isort: split
import torch
from torch.nn.functional import cross_entropy, pad
from transformers import DynamicCache, Trainer, TrainingArguments

from sifthinker.errors import ConfigError
from sifthinker.lab.lessons import Course, lessons
from sifthinker.lab.nano import IMAGE_SIZE, PATCH_SIZE, build_model, build_processor
from sifthinker.lab.questions import SPLITS, scene_at
from sifthinker.lab.scenes import LEVELS
from sifthinker.models import has_fast_bfloat16, load_model
from sifthinker.prompts import user_prompt
from sifthinker.training.runs import OurTrainer, claim_parts, is_finished, run
from sifthinker.training.settings import TrainSettings


class Lessons(torch.utils.data.Dataset):  # type: ignore[misc]
    """Scenes with their tokenised lessons. The same index always gives the same item.

    Args:
        processor: processor of nano.
        count: number of scenes.
        first: number of the first scene in the split.
        course: course of the lessons.
        rgb_only: every N-th run of scenes has no depth image.
        run: number of successive scenes with the same level, all with depth or all without. This keeps padding small.
        split: split of the scenes.
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
        """Return input_ids (P,) of the images, pixel_values (images, 3, H, W), and lessons: (tokens, labels) for each."""
        seed = self._first + index
        batch = index // self._run
        level = list(LEVELS)[batch % len(LEVELS)]
        depth = batch % self._rgb_only != self._rgb_only - 1
        scene = scene_at(seed, level)
        tokenizer = self._processor.tokenizer
        image, map_, _ = scene.reference
        pixels = self._processor.image_processor([image, map_.view()] if depth else [image], return_tensors="pt")
        patches = len(pixels["pixel_values"]) * (IMAGE_SIZE // PATCH_SIZE) ** 2
        taught = list(lessons(scene, seed, level, with_depth=depth, course=self._course))
        texts = [user_prompt(item.question, with_depth=depth, protocol="direct") for item in taught]
        tokens = tokenizer(texts + [item.reply for item in taught])["input_ids"]
        pairs = []
        for question, reply in zip(tokens[: len(taught)], tokens[len(taught) :], strict=True):
            reply = [*reply, tokenizer.eos_token_id]
            pairs.append((question + reply, [-100] * len(question) + reply))
        return {
            "input_ids": [tokenizer.bos_token_id, *[self._processor.image_token_id] * patches],
            "pixel_values": pixels["pixel_values"],
            "lessons": pairs,
        }


# On a CPU, torch multiplies bfloat16 matrices with oneDNN, which compiles a kernel for every new number of rows. Compiling
# takes longer than the multiplication, so lengths and numbers of lessons are padded to a few sizes.
_LENGTHS = (16, 24, 32, 40, 56, 80)  # and multiples of the last
_ROWS = 16
_TAUGHT = 256


def collate(items: Sequence[dict[str, Any]], *, padding: int) -> dict[str, Any]:
    """Collate items of `Lessons` into a batch.

    Args:
        items: scenes.
        padding: the padding token.
    Returns:
        input_ids and attention_mask (S, P) of the scenes, padded on the left, and pixel_values. `lessons`: chunks of lessons
        with similar lengths, each with input_ids and labels (L, T), padded at the end, and rows (L,) of their scenes. The
        last lessons of a chunk may consist of padding only.
    """

    def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        tensors = [torch.tensor(row) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value, padding_side="left")

    chunks: dict[int, list[tuple[int, list[int], list[int]]]] = {}
    for row, item in enumerate(items):
        for tokens, labels in item["lessons"]:
            length = next((most for most in _LENGTHS if len(tokens) <= most), _LENGTHS[-1] * -(-len(tokens) // _LENGTHS[-1]))
            fill = length - len(tokens)
            chunks.setdefault(length, []).append((row, tokens + [padding] * fill, labels + [-100] * fill))
    for length, chunk in chunks.items():
        chunk += [(0, [padding] * length, [-100] * length)] * (-len(chunk) % _ROWS)
    return {
        "input_ids": padded([item["input_ids"] for item in items], padding),
        "attention_mask": padded([[1] * len(item["input_ids"]) for item in items], 0),
        "pixel_values": torch.cat([item["pixel_values"] for item in items]),
        "lessons": [
            {
                "rows": torch.tensor([row for row, _, _ in chunk]),
                "input_ids": torch.tensor([tokens for _, tokens, _ in chunk]),
                "labels": torch.tensor([labels for _, _, labels in chunk]),
            }
            for _, chunk in sorted(chunks.items())
        ],
    }


def lesson_logits(model: Any, batch: Mapping[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the predictions of a LLaVA for the tokens to learn.

    Args:
        model: the model, not wrapped.
        batch: batch from `collate`.
    Yields:
        logits (N, vocabulary) and labels (N,) of a chunk of lessons.
    """
    seen = batch["attention_mask"]
    places = (seen.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    shown = {"input_ids": batch["input_ids"], "pixel_values": batch["pixel_values"]}
    model.model(**shown, attention_mask=seen, position_ids=places, past_key_values=cache, use_cache=True)
    for chunk in batch["lessons"]:
        rows, tokens, labels = chunk["rows"], chunk["input_ids"], chunk["labels"]
        copies = ((layer.keys.index_select(0, rows), layer.values.index_select(0, rows)) for layer in cache.layers)
        before = DynamicCache(copies, config=model.config)
        # Padding is at the end, so the tokens to learn do not attend to it.
        mask = torch.cat([seen[rows], torch.ones_like(tokens)], dim=1)
        order = places[rows, -1:] + 1 + torch.arange(tokens.size(1), device=tokens.device)
        hidden = model.model(
            input_ids=tokens, attention_mask=mask, position_ids=order, past_key_values=before, use_cache=True
        ).last_hidden_state
        taught = labels[:, 1:] != -100
        chosen = hidden[:, :-1][taught]
        logits = model.lm_head(pad(chosen, (0, 0, 0, -len(chosen) % _TAUGHT)))
        yield logits[: len(chosen)], labels[:, 1:][taught]


def lesson_loss(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """Return the mean cross entropy of all tokens to learn in a batch; see `lesson_logits`."""
    parts = list(lesson_logits(model, batch))
    summed = [cross_entropy(logits.float(), labels, reduction="sum") for logits, labels in parts]
    return torch.stack(summed).sum() / sum(len(labels) for _, labels in parts)


class _PretrainTrainer(OurTrainer, Trainer):  # type: ignore[misc]
    """transformers' Trainer with Muon, for batches from `collate`."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        # Accelerate applies mixed precision in the forward pass of its wrapper, which is bypassed here.
        with self.accelerator.autocast():
            return lesson_loss(self.accelerator.unwrap_model(model), inputs)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the pretraining. The learning rates fall linearly.

    Args:
        course: course of the lessons.
        scenes: number of scenes. Each is shown once.
        muon_lr: learning rate of the matrices (Muon).
        lr: learning rate of the other parameters (AdamW).
        rgb_only: every N-th batch has no depth image.
    """

    course: Course
    scenes: int
    muon_lr: float
    lr: float
    rgb_only: int


# The second part has no depth images. Without this part, a model reads places and shapes from the depth image. That image
# has no colour, so the model confuses two balls of different colours. docs/lab/world.md has the numbers.
CURRICULUM = (
    Part("see", 72_000, 4e-3, 2e-3, rgb_only=8),
    Part("see", 24_000, 3e-3, 1.5e-3, rgb_only=1),
    Part("find", 36_000, 3e-3, 1.5e-3, rgb_only=2),
    Part("conclude", 57_600, 3e-3, 1.5e-3, rgb_only=3),
)


def pretrain(
    output: str | Path,
    *,
    curriculum: Sequence[Part] = CURRICULUM,
    batch_size: int = 48,
    seed: int = 0,
    save_steps: int = 250,
    workers: int | None = None,
    **shape: int,
) -> None:
    """Pretrain a nano model from random weights. An interrupted run resumes from its newest checkpoint.

    `run.json` in the folder identifies the run by its curriculum, batch size, seed and shape.

    Args:
        output: folder of the run and of the finished model. The earlier parts are in subfolders.
        curriculum: the parts, in order. Each has its own scenes.
        batch_size: scenes per step.
        seed: random seed of the weights.
        save_steps: number of steps between checkpoints.
        workers: number of processes that render scenes. Default: eight with a GPU, none on a CPU. On a CPU, a worker slows
            down torch's threads by more than the time that rendering takes.
        shape: shape of the model, see `nano.build_model`.
    Raises:
        ConfigError: several processes were started, or the folder contains another run.
        SIFError: the folder cannot be written.
        KeyboardInterrupt: the user interrupted the run. A checkpoint was written.
    """
    folders = [Path(output) / f"{number}-{part.course}" for number, part in enumerate(curriculum[:-1])] + [Path(output)]
    stated = {
        f"curriculum[{number}].{key}": value for number, part in enumerate(curriculum) for key, value in asdict(part).items()
    }
    claim_parts(output, {"stage": "pretrain", "batch_size": batch_size, "seed": seed, **shape, **stated})
    processor = build_processor()
    model = build_model(processor, seed=seed, **shape)
    first = 0
    for folder, part in zip(folders, curriculum, strict=True):
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
    config = TrainSettings(
        model="nano, random weights" if first == 0 else "nano, the part before",
        data="world, split base",
        answers_only=True,  # for the model card: nano has seen no chains
        output=str(output),
        muon_lr=part.muon_lr,
        training={"batch_size": batch_size, "seed": seed, **asdict(part)},
    )
    if config.attention:
        model.set_attn_implementation(config.attention)
    if workers is None:
        workers = 0 if on_cpu else 8
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=-(-part.scenes // batch_size),
        per_device_train_batch_size=batch_size,
        learning_rate=part.lr,
        lr_scheduler_type="linear",
        warmup_steps=50,
        bf16=has_fast_bfloat16(),
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
    if arguments.world_size > 1:
        raise ConfigError(
            f"pretraining needs a single process, got {arguments.world_size}; start `sif world pretrain` without a launcher"
        )
    trainer = _PretrainTrainer(
        model=model,
        args=arguments,
        train_dataset=Lessons(
            processor, part.scenes, first=first, course=part.course, rgb_only=part.rgb_only, run=batch_size
        ),
        data_collator=partial(collate, padding=processor.tokenizer.pad_token_id),
        processing_class=processor,
    )
    trainer.muon_lr = part.muon_lr
    run(trainer, config, f"Pretraining ({part.course})")
