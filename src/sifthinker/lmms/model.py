"""`lmms-eval --model sifthinker --model_args pretrained=runs/grpo --tasks …`: a model of ours, here or on a server.

lmms-eval finds `manifest` by an entry point and then imports `LmmsModel`. Nothing of ours imports this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from rich.console import Console
from rich.progress import Progress

from sifthinker.engine.estimators import ModelDepth
from sifthinker.errors import ConfigError
from sifthinker.lmms.asking import Answered, ask_all
from sifthinker.lmms.replies import boxes_of, letter_of
from sifthinker.lmms.requests import Asked, asked_in
from sifthinker.lmms.settings import LmmsSettings
from sifthinker.lmms.tasks import COMPLETION
from sifthinker.served import open_thinker
from sifthinker.thinker import Thinker


def manifest() -> Any:
    """What lmms-eval is told of the model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="sifthinker", chat_class_path=f"{__name__}.{LmmsModel.__name__}")


class LmmsModel(lmms):  # type: ignore[misc]
    """A `Thinker` as lmms-eval asks models.

    It answers greedily, in as many tokens as `max_new_tokens` allows: a task's own bound is for the answer, and would cut a
    chain off. What a question says of the form of its answer is left out, see `requests.bare_question`. A task gets the bare
    answer, "" where there is none that can be read; one that wants boxes gets those of the last area, see
    `LmmsSettings.grounding`; and tasks of ours get the whole completion.

    Args:
        pretrained: model folder, Hugging Face name or embedded model; with `base_url` the model's name on its server.
        batch_size: questions at once.
        max_batch_size: lmms-eval's bound of it; it is not searched for here.
        device: torch device; the accelerator if there is one by default.
        settings: further fields of `LmmsSettings`.
    Raises:
        ConfigError: a setting that there is not, or a value that it cannot have.
        ModelError: see `Thinker.load`.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.settings = LmmsSettings.of(pretrained, batch_size=batch_size, **settings)
        self.thinker = self._open(device)
        self._estimate = None
        if self.settings.depth not in (None, "none"):
            self._estimate = ModelDepth(str(self.settings.depth), device=device).estimate

    def _open(self, device: str | None) -> Thinker:
        asked = self.settings
        if asked.base_url is not None or device is None:
            return open_thinker(asked)
        return Thinker.load(
            str(asked.model),
            device=device,
            dtype=asked.dtype,
            max_pixels=asked.max_pixels,
            max_new_tokens=asked.max_new_tokens,
        )

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """What each request is answered.

        Raises:
            ConfigError: a task shows something else than images, or several turns.
            ModelError: none of the first requests could be asked.
            EndpointError, BudgetError: see `evaluation.run.evaluate`.
        """
        asked = [(f"{request.args[4]}[{request.args[3]}]", self._asker(request.args)) for request in requests]
        with Progress(console=Console(stderr=True), disable=self.rank != 0) as bar:
            line = bar.add_task("asking", total=len(asked))
            found = ask_all(
                self.thinker,
                self.settings,
                asked,
                estimate=self._estimate,
                progress=lambda done, every: bar.update(line, completed=done, total=every),
            )
        return [self._answer(request.args, one) for request, one in zip(requests, found, strict=True)]

    def _asker(self, arguments: tuple[Any, ...]) -> Callable[[], Asked]:
        _, messages_of, _, doc_id, task, split = arguments
        return lambda: asked_in(messages_of(self.task_dict[task][split][doc_id]), f"{task}[{doc_id}]")

    def _answer(self, arguments: tuple[Any, ...], one: Answered) -> GenerationResult:
        _, _, generation, _, task, _ = arguments
        row, question = one.row, one.question
        if (generation or {}).get(COMPLETION):
            return GenerationResult(one.reply(self.settings.protocol).to_text(), _counts(row))
        if row is None or question is None or row.error:
            return GenerationResult("")
        numbers = self.settings.boxes_of(task)
        if numbers is not None and self.settings.protocol != "direct":
            return GenerationResult(boxes_of(row, question.size, numbers), _counts(row))
        answer = row.answer or ""
        return GenerationResult(letter_of(answer, question.question) if self.settings.letters else answer, _counts(row))

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused: chains are written, and no text is scored."""
        raise ConfigError("sifthinker writes answers and scores none; choose tasks of the kind generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused: a question is asked once."""
        raise ConfigError("sifthinker answers one question; choose tasks of the kind generate_until")


def _counts(row: Any) -> TokenCounts | None:
    if row is None or not row.tokens:
        return None
    read, written = row.tokens
    return TokenCounts(input_tokens=read, output_tokens=written)
