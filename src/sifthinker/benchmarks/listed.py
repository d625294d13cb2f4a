"""Shared parts of the readers of published files: every row must be valid, and every question must have its own id."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sifthinker.engine.sources.rows import path_of
from sifthinker.errors import ConfigError, RecordError
from sifthinker.evaluation.questions import Question
from sifthinker.files import inside
from sifthinker.records import Reject


def check_split(benchmark: str, split: str, splits: Sequence[str]) -> None:
    """Check that a benchmark has a split.

    Raises:
        ConfigError: it does not.
    """
    if split not in splits:
        raise ConfigError(f"{benchmark} has no split {split!r}; expected one of {', '.join(splits)}")


def sound(rows: Iterable[tuple[str, Any] | Reject]) -> Iterator[tuple[str, Any]]:
    """Yield (place, row) of the rows that `engine.sources.rows` reads.

    Raises:
        RecordError: a row is not JSON. A benchmark skips no row.
    """
    for item in rows:
        if isinstance(item, Reject):
            raise RecordError(f"{item.source}: {item.reason}", item.code)
        yield item


def file_of(row: Any, name: str, place: str, root: Path) -> Path:
    """Return the path of the file in a field of a row.

    Raises:
        RecordError: the field is missing, or its path leads outside the folder.
    """
    try:
        return inside(root, path_of(row, name, place))
    except RecordError as error:
        said = str(error)
        raise RecordError(said if said.startswith(place) else f"{place}: {name}: {said}", error.code) from None


def listed(questions: Iterable[Question], limit: int | None, where: str, wanted: str = "") -> list[Question]:
    """Return the first questions.

    Args:
        questions: iterator over the questions.
        limit: number of questions; None for all.
        where: the file or folder, for messages.
        wanted: the expected files, for messages.
    Returns:
        At least one question.
    Raises:
        RecordError: there is no question, or two have the same id.
    """
    found: dict[str, Question] = {}
    for question in islice(questions, None if limit is None else min(limit, sys.maxsize)):
        if question.id in found:
            raise RecordError(
                f"{question.source}: the id {question.id[:100]!r} is already used at {found[question.id].source}",
                "duplicate_id",
            )
        found[question.id] = question
    if not found:
        raise RecordError(f"{where}: contains no question" + (f"; expected {wanted}" if wanted else ""), "no_example")
    return list(found.values())
