"""Ask requests of lmms-eval as `sif eval` asks questions: in batches, or concurrently on a server, within a budget."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sifthinker.ask_settings import AskSettings
from sifthinker.benchmarks.hub import side_by_side
from sifthinker.depth import DepthMap
from sifthinker.errors import DepthError, ImageError, RecordError
from sifthinker.evaluation.metrics import Row
from sifthinker.evaluation.questions import Question
from sifthinker.evaluation.run import evaluate
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.literals import ThinkProtocol
from sifthinker.lmms.replies import Reply
from sifthinker.lmms.requests import Asked
from sifthinker.lmms.settings import LmmsSettings
from sifthinker.served import ServedThinker
from sifthinker.thinker import Thinker

logger = logging.getLogger(__name__)

Estimate = Callable[[Image.Image], DepthMap]


@dataclass(frozen=True, slots=True)
class RequestQuestion(Question):
    """A request of lmms-eval as a question without a known answer. Its image is taken from the task when it is asked.

    Args:
        ask: returns the text and images of the request; called each time they are needed.
        estimate: estimates depth for an image if the task provides none; None for no estimate.
        has_depth: whether the model sees depth.
        estimated: whether that depth is estimated.
        size: (width, height) of the image; several images are joined side by side.
    """

    ask: Callable[[], Asked] = lambda: Asked("", ())
    estimate: Estimate | None = None
    has_depth: bool = False
    estimated: bool = False
    size: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, name: str, ask: Callable[[], Asked], estimate: Estimate | None, *, rgb_only: bool) -> RequestQuestion:
        """Return the question of a request.

        Raises:
            RecordError: the request has no image, or its text is blank or contains a control token.
        """
        asked = ask()
        if not asked.images:
            raise RecordError(f"{name}: has no image", "missing_image")
        size = _one_picture(asked).size
        estimated = not rgb_only and asked.depth is None and estimate is not None
        return cls(
            name,
            Path(name),
            asked.text,
            source=name,
            ask=ask,
            estimate=estimate,
            has_depth=estimated or (not rgb_only and asked.depth is not None),
            estimated=estimated,
            size=size,
        )

    def load(self, *, with_depth: bool = True) -> tuple[Image.Image, DepthMap | None]:
        """See `Question.load`."""
        asked = self.ask()
        image = _one_picture(asked)
        if not with_depth or not self.has_depth:
            return image, None
        depth = self.estimate(image) if self.estimated and self.estimate is not None else asked.depth
        if depth is not None and depth.size != image.size:
            raise DepthError(f"{self.id}: expected depth of the image's size {image.size}, got {depth.size}")
        return image, depth

    def image_name(self, root: Path) -> str:
        """Return the request's name, which is not a file path."""
        return self.id

    def depth_name(self, root: Path) -> str | None:
        """Return "" if the model sees depth, as for a map without a file; None otherwise."""
        return "" if self.has_depth else None

    def identity(self, root: Path) -> list[Any]:
        """Return only the name and text, because lmms-eval keeps its own record of answers."""
        return [self.id, self.question]

    def file_sizes(self) -> tuple[int | None, int | None]:
        """Return unknown sizes, because the request has no files."""
        return None, None


def _one_picture(asked: Asked) -> Image.Image:
    return side_by_side(asked.images)


@dataclass(frozen=True, slots=True)
class Answered:
    """The outcome of a request: its question and row, or why it could not be asked."""

    question: RequestQuestion | None
    row: Row | None
    error: str = ""

    def reply(self, protocol: ThinkProtocol) -> Reply:
        """Return the completion in a form that can be read again."""
        if self.row is None or self.question is None:
            return Reply("", error=self.error)
        return Reply.of_row(self.row, protocol, estimated=self.question.estimated)


def ask_all(
    thinker: Thinker,
    settings: LmmsSettings,
    requests: Sequence[tuple[str, Callable[[], Asked]]],
    *,
    estimate: Estimate | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answered]:
    """Ask all requests, as `evaluation.run.evaluate` does.

    Args:
        thinker: the model.
        settings: how to ask it.
        requests: (name, function that returns the text and images), at least one.
        estimate: estimates depth if a task provides none; None for no estimate.
        progress: called with the number of finished requests and the total.
    Returns:
        One outcome per request, in order. Requests that could not be asked have an error, and a warning gives their number.
    Raises:
        ConfigError: see `requests.asked_in` and `evaluate`.
        ModelError: none of the first requests could be asked.
        EndpointError: the server refuses every request, or has gone away.
        BudgetError: the budget is spent.
    """
    rgb_only = settings.depth == "none"
    found: list[RequestQuestion | str] = []
    for index, (name, ask) in enumerate(requests):
        try:
            found.append(RequestQuestion.of(f"{name} #{index}", ask, estimate, rgb_only=rgb_only))
        except (RecordError, ImageError) as error:
            found.append(str(error))
    questions = [one for one in found if isinstance(one, RequestQuestion)]
    rows: dict[str, Row] = {}
    if questions:
        given = _eval_settings(settings, thinker)
        rows = {row.id: row for row in evaluate(given, questions=questions, thinker=thinker, progress=progress).rows}
    answered = [_answered(one, rows) for one in found]
    faults = [one.error for one in answered if one.error]
    if faults:
        logger.warning(
            "%d of %d requests could not be asked and count as unanswered. The first: %s",
            len(faults),
            len(found),
            faults[0],
        )
    return answered


def _answered(one: RequestQuestion | str, rows: dict[str, Row]) -> Answered:
    if isinstance(one, str):
        return Answered(None, None, one)
    row = rows[one.id]
    return Answered(one, row, row.error)


def _eval_settings(settings: LmmsSettings, thinker: Thinker) -> EvalSettings:
    """Return the settings as those of an evaluation. A local model needs no name, because this evaluation never resumes."""
    served = isinstance(thinker, ServedThinker)
    names = AskSettings.model_fields.keys() if served else {"protocol", "coordinates", "max_new_tokens"}
    values = {name: getattr(settings, name) for name in names}
    if settings.protocol == "chain":
        values["coordinates"] = settings.coordinates or thinker.coordinates
    aside = {"data": "lmms-eval", "batch_size": settings.batch_size}
    return EvalSettings.from_values({**values, **aside}, where="model_args")
