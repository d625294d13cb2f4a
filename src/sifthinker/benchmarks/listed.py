"""What readers of published files have in common: rows that must all be sound, and questions that must be distinct."""

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
    """See that a benchmark has a split.

    Raises:
        ConfigError: it has not.
    """
    if split not in splits:
        raise ConfigError(f"{benchmark} has no split {split!r}; wanted one of {', '.join(splits)}")


def sound(rows: Iterable[tuple[str, Any] | Reject]) -> Iterator[tuple[str, Any]]:
    """(place, row) of rows that `engine.sources.rows` reads.

    Raises:
        RecordError: one that is no JSON. A benchmark leaves nothing out.
    """
    for item in rows:
        if isinstance(item, Reject):
            raise RecordError(item.reason, item.code)
        yield item


def file_of(row: Any, name: str, place: str, root: Path) -> Path:
    """The file that a field of a row names.

    Raises:
        RecordError: no such field, or a path that leaves the folder.
    """
    try:
        return inside(root, path_of(row, name, place))
    except RecordError as error:
        said = str(error)
        raise RecordError(said if said.startswith(place) else f"{place}: {name}: {said}", error.code) from None


def listed(questions: Iterable[Question], limit: int | None, where: str, wanted: str = "") -> list[Question]:
    """The first questions, at least one.

    Args:
        questions: as they are read.
        limit: how many; None for all.
        where: the file or folder, for messages.
        wanted: what should be there, for messages.
    Raises:
        RecordError: none, or two of one id.
    """
    found: dict[str, Question] = {}
    for question in islice(questions, None if limit is None else min(limit, sys.maxsize)):
        if question.id in found:
            raise RecordError(
                f"{question.source}: the id {question.id[:100]!r} was there before, at {found[question.id].source}",
                "duplicate_id",
            )
        found[question.id] = question
    if not found:
        raise RecordError(f"{where}: holds no question" + (f"; wanted {wanted}" if wanted else ""), "no_example")
    return list(found.values())
