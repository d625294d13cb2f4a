"""Held-out questions that a model is asked while it trains: the metrics of `sif eval`, logged as `eval_…`."""

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

MAX_NEW_TOKENS = 1024  # of an answer, where the settings name no other


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Questions to ask a model while it trains.

    Args:
        questions: what to ask.
        direct: ask for the answer alone, as the model is trained.
        rgb_only: show no depth, as the model is trained.
        max_new_tokens: most tokens of an answer.
        coordinates: of boxes in the chains that the model learns.
    """

    questions: Sequence[Question]
    direct: bool = False
    rgb_only: bool = False
    max_new_tokens: int = MAX_NEW_TOKENS
    coordinates: Coordinates = "unit"

    def measure(self, trainer: Any) -> dict[str, float]:
        """Ask the model as it is, greedily; every process of the run must call it.

        Batches of `per_device_eval_batch_size` are dealt out to the processes. Which questions share a batch does not depend
        on how many processes there are, so the same weights give the same numbers.

        Args:
            trainer: transformers' Trainer. Its model is in training mode again afterwards, if it was.
        Returns:
            Metric by the name it is logged with → mean; what no answer has is left out. `eval_questions` is their number.
        """
        accelerator, size = trainer.accelerator, trainer.args.per_device_eval_batch_size
        batches = [self.questions[start : start + size] for start in range(0, len(self.questions), size)]
        answered: list[tuple[int, list[Row]]] = []
        with _generating(trainer) as model:
            thinker = LocalThinker(model, trainer.processing_class, max_new_tokens=self.max_new_tokens)
            for turn in range(math.ceil(len(batches) / accelerator.num_processes)):
                number = turn * accelerator.num_processes + accelerator.process_index
                # Where weights are spread over processes, all must generate equally often: the last ones repeat a batch.
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
    """The model of a run under way, ready to generate and in evaluation mode."""
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
    """The held-out questions of a run, all of them checked; None where it has none.

    Args:
        config: the run.
        examples: what it learns from; the model is shown depth if they have it.
        arguments: TRL's config of the run.
        processor: of its model.
    Raises:
        ConfigError: an image or depth file that cannot be read, a question that the model's tokenizer would misread, or a
            `metric_for_best_model` that there is not.
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
            raise ConfigError(f"eval_data: question {question.id!r}: {fault}; crop it, or leave the question out")
        if token := special.search(question.question):
            raise ConfigError(f"eval_data: question {question.id!r} holds {token[0]!r}, a special token of this model")
    best = arguments.metric_for_best_model
    if best is not None and f"eval_{best.removeprefix('eval_')}" not in LOGGED:
        raise ConfigError(f"training.metric_for_best_model is {best!r}; there are {', '.join(LOGGED)}")
    longest = config.eval_max_new_tokens or MAX_NEW_TOKENS
    return HeldOut(questions, config.answers_only, rgb_only, longest, examples[0].coordinates)
