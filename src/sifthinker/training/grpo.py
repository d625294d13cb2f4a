"""GRPO-SIF: TRL's GRPOTrainer with the four rewards, the ledger of answer scores, and shared prompts.

docs/method/deviations.md lists the differences from the paper's release. Differences from TRL's trainer: micro-batches
contain complete groups; the prompt of a group is prefilled and scored once; a missing reward changes no advantage; and the
ledger is the same in every process, saved in every checkpoint, and restored when a run resumes.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.trainer.utils import pad, split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from sifthinker.boxes import set_iou
from sifthinker.chain import is_whole_image, read_completion, region_boxes
from sifthinker.coordinates import UNIT, Frame, frame_of, record_coordinates
from sifthinker.endpoint import open_endpoint
from sifthinker.errors import ConfigError
from sifthinker.files import atomic_write, check_folder, to_json, write_jsonl
from sifthinker.models import freeze, load_model, load_processor, model_source, opened_by_template, placeholder_tokens
from sifthinker.scoring.judge import ModelJudge
from sifthinker.scoring.trl import AnswerReward, GroundingReward, Ledger, depth_reward, format_reward
from sifthinker.training.data import grpo_dataset, load_examples
from sifthinker.training.held_out import held_out
from sifthinker.training.image_rows import PER_TOKEN, ImageRows, told_image_counts
from sifthinker.training.plan import plan_run, report_problems
from sifthinker.training.prefix import ends_in_image, shared_generate, shared_log_probs, why_not_shared
from sifthinker.training.prepared import IMAGES, PreparesOnce, share_equal_images
from sifthinker.training.runs import OurTrainer, claim, lora_config, record, run
from sifthinker.training.settings import JudgeSettings, Sharing, TrainSettings, check_vllm, trainer_arguments
from sifthinker.training.sharding import gather_in_generate, prepare_for_sharding, ready_to_generate

logger = logging.getLogger(__name__)

LEDGER = "ledger.json"
SAMPLES = "samples"  # folder for completions, one file per logged step

# The loss is that of the GRPO paper: the mean over the tokens of each completion. The other values are SIFThinker's: G 8,
# β 0.04, completions up to 2,048 tokens.
DEFAULTS: dict[str, Any] = {
    "num_generations": 8,
    "beta": 0.04,
    "loss_type": "grpo",
    "max_completion_length": 2048,
    "logging_steps": 1,
    "report_to": "none",
}


class SIFGRPOTrainer(OurTrainer, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO trainer with shared prompts, and an answer reward that remembers the earlier scores of its groups.

    TRL shuffles the rows of a generation batch. This trainer shuffles the groups, so micro-batches contain complete groups.

    Args:
        answer_reward: the reward function whose ledger is saved in checkpoints and restored; None if the run has no answer
            reward.
        prefix_sharing: `auto` shares prompts if the model allows it, and logs a warning if not. `off` never shares them.
        arguments: arguments of `trl.GRPOTrainer`.
    """

    _buffered_inputs: Any  # from TRL: the micro-batches of the last generation
    processing_class: Any

    def __init__(
        self,
        *arguments: Any,
        answer_reward: AnswerReward | None = None,
        prefix_sharing: Sharing = "auto",
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self.answer_reward = answer_reward
        for reward in self.reward_funcs:
            if isinstance(reward, AnswerReward | GroundingReward):
                reward.gather = gather_object  # a group may be spread over processes
        # Text that the chat template opens before the model writes, for example <think>. It is part of the chain.
        self.opening = opened_by_template(self.processing_class, **self.chat_template_kwargs)
        if not self.use_vllm:
            # TRL suppresses only the image placeholder. A sampled video placeholder would fail in the same way.
            self.generation_kwargs["suppress_tokens"] = placeholder_tokens(self.model.config)
            self.generation_config.suppress_tokens = self.generation_kwargs["suppress_tokens"]
        reason = "prefix_sharing is off" if prefix_sharing == "off" else why_not_shared(self.model)
        self.shares_prefixes = reason is None
        if reason is not None and prefix_sharing == "auto":
            logger.warning("prefix sharing is off: %s", reason)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
            batches = split_tensor_dict(self._shuffle_groups(batch), steps)
            self._buffered_inputs = [unsplit_pixel_values_by_grid(part) for part in batches]
        return self._buffered_inputs[self._step % steps]

    def _shuffle_groups(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Shuffle the rows of a generation batch. The rows of a group stay together."""
        rows, group = len(batch["prompt_ids"]), self.num_generations
        if rows % group:
            return batch  # groups span processes; the rows of a group that are here stay together
        order = (torch.randperm(rows // group)[:, None] * group + torch.arange(group)).flatten()

        def permuted(value: Any) -> Any:
            if value is None or (isinstance(value, torch.Tensor) and value.ndim == 0):
                return value
            return value[order.to(value.device)] if isinstance(value, torch.Tensor) else [value[i] for i in order.tolist()]

        return {key: permuted(value) for key, value in batch.items()}

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **vision: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        vision.pop("batch_num_images", None)  # TRL passes it here, but not with the loss; `num_images` is always present
        last = input_ids[:, -logits_to_keep - 1]
        if not self.shares_prefixes or compute_aux_loss or ends_in_image(model, last):
            counted = told_image_counts(model, vision.get("num_images"))
            return super()._get_per_token_logps_and_entropies(  # type: ignore[no-any-return]
                counted, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss, **vision
            )
        with self.accelerator.autocast():
            log_probs, entropies = shared_log_probs(
                model, input_ids, attention_mask, logits_to_keep, vision=vision, batch_size=batch_size
            )
        return log_probs, entropies if compute_entropy else None, None

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> Any:
        rows: ImageRows | None = multimodal_fields.pop(IMAGES, None)
        served = self.use_vllm or self.use_transformers_continuous_batching or self.tools
        last = torch.tensor([ids[-1] for ids in prompt_ids])
        if not self.shares_prefixes or served or ends_in_image(self.model, last):
            gather_in_generate(self.accelerator.unwrap_model(self.model_wrapped))
            if rows is not None:
                multimodal_fields |= rows.take(range(len(prompt_ids)))
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images=has_tool_images
            )
        device = self.accelerator.device
        prompts = [torch.tensor(ids) for ids in prompt_ids]
        padded = pad(prompts, padding_value=self._tokenizer.pad_token_id, padding_side="left").to(device)
        mask = pad([torch.ones_like(ids) for ids in prompts], padding_value=0, padding_side="left").to(device)
        vision: dict[str, Any] = {}
        if rows is not None:
            vision["rows"] = rows.to(device)
        elif images is not None:
            vision["num_images"] = [len(shown) if shown else 0 for shown in images]
        for name, value in multimodal_fields.items():
            if name in PER_TOKEN:
                value = pad([torch.tensor(row) for row in value], padding_value=0, padding_side="left")
            vision[name] = torch.as_tensor(np.array(value) if isinstance(value, list) else value).to(device)
        with ready_to_generate(
            self, gather_deepspeed3_params=self.args.ds3_gather_for_generation, generation_kwargs=self.generation_kwargs
        ) as model:
            tokens = shared_generate(model, padded, mask, vision=vision, generation_config=self.generation_config)
        ends = set(self.eos_token_ids)
        completions = []
        for row in tokens[:, padded.size(1) :].tolist():
            stop = next((index + 1 for index, token in enumerate(row) if token in ends), len(row))
            completions.append(row[:stop])
        return completions, None

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        if self.answer_reward is not None:
            self.answer_reward.recording = self.model.training
        texts = [self.opening + text for text in self._tokenizer.batch_decode(completion_ids_list, skip_special_tokens=True)]
        framed = [[{"role": "assistant", "content": text}] for text in texts]
        rewards = super()._calculate_rewards(inputs, prompts, framed, completion_ids_list)  # (B, rewards), of all
        self._judged = rewards.clone()
        frames = [frame_of(row.get("coordinates"), row.get("resized")) for row in inputs]
        self._log_chains(texts, [row.get("depth") is not None for row in inputs], frames)
        if self.model.training and self.state.global_step % max(1, self.args.logging_steps) == 0:
            self._save_samples([row.get("id") for row in inputs], texts)
        return without_gaps(rewards, self.num_generations if self.model.training else self.num_generations_eval)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        processor = self.processing_class
        if hasattr(processor, "image_processor"):
            inputs, self.processing_class = share_equal_images(inputs), PreparesOnce(processor, written_out=False)
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self.processing_class = processor
        metrics = self._metrics["train" if self.model.training else "eval"]
        for column, name in enumerate(self.reward_func_names):
            given = self._judged[:, column]
            given = given[~given.isnan()]
            # TRL has logged the rewards with filled gaps. Replace them by the statistics of the rewards that exist.
            metrics[f"rewards/{name}/mean"][-1] = given.mean().item() if len(given) else float("nan")
            metrics[f"rewards/{name}/std"][-1] = given.std().item() if len(given) > 1 else float("nan")
            metrics[f"rewards/{name}/missing"].append(float(len(self._judged) - len(given)))
        return output

    def _log_chains(self, texts: list[str], depths: list[bool], frames: list[Frame] | None = None) -> None:
        """Log the number of steps per chain, and how far the boxes move from the first to the last focus (1 − their IoU)."""
        steps, moved = [], []
        for text, depth, frame in zip(texts, depths, frames or [UNIT] * len(texts), strict=True):
            areas = read_completion(text, with_depth=depth, opened=False, frame=frame).areas
            steps.append(len(areas))
            focused = [area for area in areas if not is_whole_image(area)]
            if focused:
                moved.append(1 - set_iou(region_boxes(focused[0]), region_boxes(focused[-1])))
        self._log_metric("chain/steps", sum(steps) / len(steps))
        self._log_metric("chain/box_movement", sum(moved) / len(moved) if moved else 0.0)

    def _save_samples(self, ids: list[str], texts: list[str]) -> None:
        """Save the completions of a logged step, in the format of `sif rewards FILE --data DATASET -o PAGE`."""
        ids, texts = gather_object(ids), gather_object(texts)
        if self.accelerator.is_main_process:
            rows = [{"id": sample, "completion": text} for sample, text in zip(ids, texts, strict=True)]
            write_jsonl(Path(self.args.output_dir) / SAMPLES / f"step-{self.state.global_step:06d}.jsonl", rows)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        # Written together with the weights, before Trainer's state: a checkpoint with that state counts as complete.
        if output_dir is not None and self.answer_reward is not None and self.args.should_save:
            atomic_write(Path(output_dir) / LEDGER, to_json(self.answer_reward.ledger.to_json()))

    def train(self, resume_from_checkpoint: str | None = None, **named: Any) -> Any:
        if resume_from_checkpoint and self.answer_reward is not None:
            saved = Path(resume_from_checkpoint) / LEDGER
            if not saved.is_file():
                raise ConfigError(f"{saved} is missing, so the checkpoint is not from GRPO-SIF; choose another output")
            self.answer_reward.ledger = Ledger(json.loads(saved.read_text(encoding="utf-8")))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **named)


def without_gaps(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """Replace each missing reward by the mean of its group, so that it changes no advantage.

    TRL sums the rewards of a completion and counts a missing one as 0. That would punish a completion for a failure of the
    judge. A reward that is missing in the complete group stays missing, because it changes all sums of the group equally.

    Args:
        rewards: (B, rewards), NaN where a reward is missing. The rows of a group are adjacent.
        group: number of rows in a group.
    """
    grouped = rewards.view(-1, group, rewards.size(1))
    return torch.where(grouped.isnan(), grouped.nanmean(dim=1, keepdim=True), grouped).view_as(rewards)


def grpo_trainer(config: TrainSettings) -> SIFGRPOTrainer:
    """Return the trainer of a run, not started.

    Raises:
        ConfigError, ModelError, RecordError: the config, the model or the data is faulty.
        SIFError: the output folder cannot be written.
    """
    config = config.for_stage("grpo")
    check_vllm(config)
    check_folder(config.output)
    examples = load_examples(config.data, config.limit, config.sample)
    weights = config.weights
    if examples[0].depth is None:
        # RGB-only data has no depth to score.
        weights.pop("depth", None)
    judge = None if config.judge is None else _judge(config.judge, config.output)
    terms = config.reward_terms
    answer = AnswerReward(judge=judge, progress=terms.progress) if "answer" in weights else None
    functions = {
        # The trainer puts back the tag that the chat template opens, so the chain must be complete.
        "format": _named(partial(format_reward, opened=False), "format_reward"),
        "answer": answer,
        "grounding": GroundingReward(denominator=terms.denominator, correction=terms.correction),
        "depth": _named(partial(depth_reward, repeats=terms.depth_repeats), "depth_reward"),
    }
    defaults = {**DEFAULTS, "reward_weights": list(weights.values())}
    processor = load_processor(config.model, max_pixels=config.max_pixels)
    record_coordinates(processor.tokenizer, examples[0].coordinates)
    if config.training.get("use_vllm"):
        config = _without_placeholders(config)
    arguments = trainer_arguments(config, "grpo", defaults)
    questions = held_out(config, examples, arguments, processor)
    report_problems(plan_run(config, "grpo", arguments, examples, processor))
    model = load_model(config.model, dtype=config.dtype, attn_implementation=config.attn_implementation)
    frozen = freeze(model, tuple(config.freeze))
    prepare_for_sharding(model)
    try:
        trainer = SIFGRPOTrainer(
            model=model,
            reward_funcs=[functions[name] for name in weights],
            args=arguments,
            train_dataset=grpo_dataset(examples),
            # Trainer needs a dataset to evaluate on. `OurTrainer.evaluate` uses the held-out questions instead.
            eval_dataset=None if questions is None else grpo_dataset(examples[:1]),
            processing_class=processor,
            peft_config=lora_config(config, frozen),
            answer_reward=answer,
            prefix_sharing=config.prefix_sharing,
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"training: {error}") from error
    trainer.muon_lr, trainer.held_out = config.muon_lr, questions
    return trainer


def _without_placeholders(config: TrainSettings) -> TrainSettings:
    """Return the settings with a bias against image placeholder tokens, because vLLM has no list of suppressed tokens."""
    from transformers import AutoConfig

    said = config.training.get("generation_kwargs") or {}
    if not isinstance(said, dict) or not isinstance(said.get("logit_bias") or {}, dict):
        raise ConfigError(
            f"training.generation_kwargs must be keys and values of vLLM's sampling parameters, got {said!r:.100}"
        )
    tokens = placeholder_tokens(AutoConfig.from_pretrained(model_source(config.model))) or ()
    said = {**said, "logit_bias": {**(said.get("logit_bias") or {}), **dict.fromkeys(tokens, -100.0)}}
    return config.replace(training={**config.training, "generation_kwargs": said})


def _named(reward: Any, name: str) -> Any:
    """Give a partial reward function the name that TRL logs."""
    reward.__name__ = name
    return reward


def _judge(settings: JudgeSettings, output: str) -> ModelJudge:
    return ModelJudge(open_endpoint(settings), cache=settings.cache or Path(output) / "verdicts")


def train_grpo(config: TrainSettings) -> SIFGRPOTrainer | None:
    """Run GRPO-SIF, see `runs.run`. Return the finished trainer, or None if the run was already finished.

    Raises:
        ConfigError: the output folder contains another run, see `runs.claim`.
        ConfigError, ModelError, RecordError: see `grpo_trainer`.
    """
    config = config.for_stage("grpo")
    identity = claim(config, "grpo")
    if identity is None:
        return None
    trainer = grpo_trainer(config)
    record(config, identity)
    run(trainer, config, "GRPO-SIF")
    return trainer
