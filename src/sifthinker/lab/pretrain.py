"""Nano's pretraining: dense lessons about scenes, from random weights to a model that knows where things are.

A scene's images go through the model once. Each of its lessons goes on from a copy of their keys and values, which is part
of the graph: the gradients of all lessons meet in the images. In one packed row, as the trainers share prompts, lessons
would pay for attention to each other that a mask then hides; they are many and short, so on a CPU that was most of the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sifthinker.training  # noqa: F401  (first: it names what is not installed)

# isort: split
import torch
from torch.nn.functional import cross_entropy, pad
from transformers import DynamicCache, Trainer, TrainingArguments

from sifthinker.errors import ConfigError
from sifthinker.lab.lessons import Course, lessons
from sifthinker.lab.nano import IMAGE_SIZE, PATCH_SIZE, build_model, build_processor
from sifthinker.lab.questions import SPLITS, scene_at
from sifthinker.lab.scenes import LEVELS
from sifthinker.models import load_model
from sifthinker.prompts import user_prompt
from sifthinker.training.runs import OurTrainer, claim_parts, is_finished, run
from sifthinker.training.settings import TrainSettings


class Lessons(torch.utils.data.Dataset):  # type: ignore[misc]
    """Scenes with their lessons, tokenised; item `i` is the same for the same `i`.

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
        """input_ids (P,): the images; pixel_values (images, 3, H, W); lessons: (tokens, labels) of each."""
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


# oneDNN, which multiplies torch's bfloat16 matrices on a CPU, compiles a kernel for every new number of their rows, and that
# takes longer than to run it. So lengths and numbers of lessons come in few sizes.
_LENGTHS = (16, 24, 32, 40, 56, 80)  # and multiples of the last
_ROWS = 16
_TAUGHT = 256


def collate(items: Sequence[dict[str, Any]], *, padding: int) -> dict[str, Any]:
    """A batch of `Lessons`.

    Args:
        items: scenes.
        padding: the padding token.
    Returns:
        input_ids and attention_mask (S, P), padded on the left, and pixel_values, of the scenes; lessons: chunks of about
        one length, each with input_ids and labels (L, T), padded at the end, and the rows (L,) of their scenes; the last
        lessons of a chunk may be nothing but padding.
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
    """What a LLaVA predicts where something is to be learnt.

    Args:
        model: not wrapped.
        batch: of `collate`.
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
        # Padding is at the end, where nothing that is learnt sees it.
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
    """The mean cross entropy of all tokens to be learnt in a batch; see `lesson_logits`."""
    parts = list(lesson_logits(model, batch))
    summed = [cross_entropy(logits.float(), labels, reduction="sum") for logits, labels in parts]
    return torch.stack(summed).sum() / sum(len(labels) for _, labels in parts)


class _PretrainTrainer(OurTrainer, Trainer):  # type: ignore[misc]
    """transformers' Trainer with Muon, for batches of `collate`."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        # Accelerate's mixed precision is in the forward pass of the model it wraps, which is not the one called here.
        with self.accelerator.autocast():
            return lesson_loss(self.accelerator.unwrap_model(model), inputs)


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
    """Pretrain a nano model from random weights; a run that was interrupted goes on from its newest checkpoint.

    `run.json` in the folder says whose run it is: curriculum, batch size, seed and shape.

    Args:
        output: folder of the run; the finished model lies in it, the earlier parts in folders of their course in it.
        curriculum: the parts, each on scenes of its own, one after the other.
        batch_size: scenes a step.
        seed: of the weights.
        save_steps: steps between checkpoints.
        workers: processes that render scenes; by default eight beside a GPU and none on a CPU, where one would hold up the
            threads that wait for each other after every operation, for longer than it takes to render between the steps.
        shape: of the model, see `nano.build_model`.
    Raises:
        ConfigError: one of several processes, or the folder holds another run.
        SIFError: the folder cannot be written.
        KeyboardInterrupt: interrupted; a checkpoint was written.
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
    if arguments.world_size > 1:
        raise ConfigError("nano is pretrained in one process; start `sif world pretrain` without a launcher")
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
