"""`lmms-eval --model sifthinker --model_args pretrained=runs/grpo --tasks …`: a sifthinker model, local or on a server.

lmms-eval finds `manifest` by an entry point and then imports `LmmsModel`. Nothing in sifthinker imports this module.
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
    """Return the manifest by which lmms-eval registers the model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="sifthinker", chat_class_path=f"{__name__}.{LmmsModel.__name__}")


class LmmsModel(lmms):  # type: ignore[misc]
    """A `Thinker` with lmms-eval's model interface.

    It answers greedily with up to `max_new_tokens` tokens. A task's own limit is ignored, because it is for a short answer
    and would cut off a chain. Instructions on the form of the answer are removed from questions, see
    `requests.bare_question`. A task receives the bare answer, or "" if it is unreadable. A task that expects boxes receives
    those of the last area, see `LmmsSettings.grounding`. Sifthinker tasks receive the complete completion.

    Args:
        pretrained: model folder, Hugging Face name or embedded model; with `base_url`, the model's name on its server.
        batch_size: questions per batch.
        max_batch_size: lmms-eval's limit for an automatic batch size; ignored.
        device: torch device; by default the accelerator, if there is one.
        settings: further fields of `LmmsSettings`.
    Raises:
        ConfigError: an unknown setting, or an invalid value.
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
        """Return the answer to each request.

        Raises:
            ConfigError: a request has content other than text and images, or several turns.
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
        """Refuse the request: sifthinker generates text and does not score given text."""
        raise ConfigError("sifthinker cannot score given answers (loglikelihood); choose tasks of the kind generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse the request: sifthinker asks a question in one turn."""
        raise ConfigError("sifthinker answers in one turn only; choose tasks of the kind generate_until")


def _counts(row: Any) -> TokenCounts | None:
    if row is None or not row.tokens:
        return None
    read, written = row.tokens
    return TokenCounts(input_tokens=read, output_tokens=written)
