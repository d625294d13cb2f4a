"""Evaluation on held-out questions during training. The metrics of `sif eval` are logged as `eval_…`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from accelerate.utils import gather_object

from sifthinker.errors import ConfigError, DepthError, ImageError
from sifthinker.evaluation.metrics import Row, summarise
from sifthinker.evaluation.questions import Question, read_questions
from sifthinker.evaluation.run import ask
from sifthinker.literals import Coordinates, ThinkProtocol
from sifthinker.models import special_tokens
from sifthinker.processors import image_fault
from sifthinker.records import Example
from sifthinker.thinker import LocalThinker
from sifthinker.training.progress import LOGGED, logged_name
from sifthinker.training.settings import TrainSettings
from sifthinker.training.sharding import ready_to_generate

MAX_NEW_TOKENS = 1024  # default for `eval_max_new_tokens`


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Questions to evaluate a model on during training.

    Args:
        questions: the held-out questions.
        direct: ask for direct answers, for a model that trains on direct answers.
        rgb_only: show no depth image, for a model that trains without depth.
        max_new_tokens: maximum length of an answer, in tokens.
        coordinates: box coordinates of the chains in the training data.
    """

    questions: Sequence[Question]
    direct: bool = False
    rgb_only: bool = False
    max_new_tokens: int = MAX_NEW_TOKENS
    coordinates: Coordinates = "unit"

    def measure(self, trainer: Any) -> dict[str, float]:
        """Evaluate the current model with greedy decoding. Every process of the run must call this method.

        The processes share the batches of `per_device_eval_batch_size` questions. The batches do not depend on the number of
        processes, so the same weights give the same metrics.

        Args:
            trainer: transformers' Trainer. Afterwards its model is in the same mode (training or evaluation) as before.
        Returns:
            Logged name of a metric → mean. Metrics that no answer has are left out. `eval_questions` is the number of
            answered questions.
        """
        accelerator, size = trainer.accelerator, trainer.args.per_device_eval_batch_size
        batches = [self.questions[start : start + size] for start in range(0, len(self.questions), size)]
        answered: list[tuple[int, list[Row]]] = []
        with _generating(trainer) as model:
            thinker = LocalThinker(model, trainer.processing_class, max_new_tokens=self.max_new_tokens)
            for turn in range(math.ceil(len(batches) / accelerator.num_processes)):
                number = turn * accelerator.num_processes + accelerator.process_index
                # With sharded weights, all processes must generate equally often. The last ones repeat a batch.
                batch = batches[number % len(batches)]
                protocol: ThinkProtocol = "direct" if self.direct else "chain"
                rows = ask(thinker, batch, protocol=protocol, rgb_only=self.rgb_only, coordinates=self.coordinates)
                if number < len(batches):
                    answered.append((number, rows))
                trainer.callback_handler.on_prediction_step(trainer.args, trainer.state, trainer.control)
        every = sorted(gather_object(answered), key=lambda found: found[0])
        rows = [row for _, of_batch in every for row in of_batch]
        results = summarise(rows, resamples=1)
        found = {logged_name(metric): result.mean for metric, result in results.items()}
        return {**found, "eval_questions": float(sum(not row.error for row in rows))}


@contextmanager
def _generating(trainer: Any) -> Any:
    """Yield the model of a running trainer, ready to generate and in evaluation mode."""
    tokenizer = trainer.processing_class.tokenizer
    side, training = tokenizer.padding_side, trainer.model.training
    tokenizer.padding_side = "left"
    try:
        with ready_to_generate(trainer) as model:
            model.eval()
            yield model
    finally:
        tokenizer.padding_side = side
        trainer.model.train(training)


def held_out(config: TrainSettings, examples: Sequence[Example], arguments: Any, processor: Any) -> HeldOut | None:
    """Read and check the held-out questions of a run. Return None if it has none.

    Args:
        config: settings of the run.
        examples: training examples. The questions have depth images if the examples do.
        arguments: TRL's config of the run.
        processor: processor of the model.
    Raises:
        ConfigError: an image or depth file is unreadable, a question contains a special token of the model, or
            `metric_for_best_model` is unknown.
        RecordError: see `evaluation.questions.read_questions`.
    """
    if config.eval_data is None:
        return None
    rgb_only = examples[0].depth is None
    questions = read_questions(config.eval_data, limit=config.eval_limit)
    special = special_tokens(processor)
    for question in questions:
        try:
            image, _ = question.load(with_depth=not rgb_only)
        except (ImageError, DepthError) as error:
            raise ConfigError(f"eval_data: question {question.id!r}: {error}") from None
        if fault := image_fault(processor, image.size):
            raise ConfigError(f"eval_data: question {question.id!r}: {fault}; crop the image, or remove the question")
        if token := special.search(question.question):
            raise ConfigError(
                f"eval_data: question {question.id!r} contains {token[0]!r}, a special token of this model; rephrase or "
                "remove it"
            )
    best = arguments.metric_for_best_model
    if best is not None and f"eval_{best.removeprefix('eval_')}" not in LOGGED:
        raise ConfigError(f"training.metric_for_best_model: expected one of {', '.join(LOGGED)}, got {best!r}")
    longest = config.eval_max_new_tokens or MAX_NEW_TOKENS
    return HeldOut(questions, config.answers_only, rgb_only, longest, examples[0].coordinates)
