"""A file of records before a build: what cannot be read, and whether its boxes are plausibly in another space than it says.

A box that cannot be in its space is a reject when it is read. What shows in a whole file alone is a warning: no box of it is
wrong by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sifthinker.boxes import Boxes, suspect_space
from sifthinker.coordinates import Resizer
from sifthinker.engine.checks import Finding
from sifthinker.engine.recipe import open_source, resizer_of
from sifthinker.engine.settings import SourceSettings
from sifthinker.engine.sources.rows import rows
from sifthinker.engine.sources.tables import is_table
from sifthinker.errors import ImageError, RecordError
from sifthinker.files import inside
from sifthinker.images import image_size
from sifthinker.literals import Space
from sifthinker.records import EXAMPLES, Record, Reject

_LOOKED_AT = 100  # lines that may be broken before one that shows what a file holds


@dataclass(slots=True)
class Records:
    """What a file of records holds, gathered record by record.

    Args:
        space: in which its boxes are said to be.
        resizer: for `resized`, how large the images were made.
        records: number of records.
        past: boxes that end past the image, x1, y1, x2, y2 as the file states them.
        rejected: how many of these were rejected, the others are clipped.
        boxes: (N, 4) of that space for each record whose image's size is known or not needed.
        sizes: (width, height) of the image of each of these, None where it is not known.
    """

    space: Space = "unit"
    resizer: Resizer = field(default_factory=Resizer)
    records: int = 0
    past: list[list[float]] = field(default_factory=list)
    rejected: int = 0
    boxes: list[Boxes] = field(default_factory=list)
    sizes: list[tuple[int, int] | None] = field(default_factory=list)

    def add(self, record: Record, size: tuple[int, int] | None) -> None:
        """Take in one record; `size` is (width, height) of its image, where it is known."""
        self.records += 1
        self.past += filter(None, map(_stated_past, record.notes))
        if size is not None or self.space in ("unit", "per_mille"):
            self.boxes.append(self.resizer.convert(record.boxes, source="unit", target=self.space, size=size))
            self.sizes.append(size)

    def add_reject(self, reject: Reject) -> None:
        """Take in one record that could not be read, for its box if that is what was wrong."""
        box = _stated_past(reject.reason)
        if box:
            self.past.append(box)
            self.rejected += 1

    def warnings(self) -> list[str]:
        """What looks like another space, with counts."""
        return suspect_space(self.boxes, self.space, self.sizes, past=self.past, rejected=self.rejected)


# As `sources.rows.to_unit` words it, in a record's note or in a reject.
_PAST = re.compile(r"box \[([^\[\]]*)\] (?:ends past|lies wholly outside) the image")


def _stated_past(words: str) -> list[float]:
    """The box that a note or a reject says to end past the image, [] where it says nothing of that."""
    found = _PAST.search(words)
    return [float(side) for side in found[1].split(",")] if found else []


def holds_records(path: Path) -> bool:
    """Whether a file holds records rather than examples: a table, or JSON whose rows ask a question and hold no chain."""
    if path.is_file() and is_table(str(path)):
        return True
    first = _first_row(path)
    return "messages" not in first and {"image", "question"} <= first.keys()


def holds_examples(path: Path) -> bool:
    """Whether a path is a finished dataset: a folder with an examples file, or a file whose rows hold chains."""
    return (path / EXAMPLES).is_file() or "messages" in _first_row(path)


def _first_row(path: Path) -> dict[str, Any]:
    """The first JSON object of a file, or nothing."""
    if not path.is_file() or is_table(str(path)):
        return {}
    try:
        first = next((item[1] for item in islice(rows(path), _LOOKED_AT) if isinstance(item, tuple)), None)
    except RecordError:
        return {}
    return first if isinstance(first, dict) else {}


def check_records(
    source: SourceSettings, images: Path | None = None, *, files: bool = True, gathered: Records | None = None
) -> Iterator[Finding]:
    """Every record of a file that a build would leave out while reading it.

    Args:
        source: the file, its form and its box space.
        images: image root; the file's folder by default.
        files: whether the headers of images are read for sizes that the file does not state.
        gathered: takes in what can be read, for its `warnings`.
    Raises:
        RecordError, ConfigError: see `sources.read_source`.
    """
    found = gathered if gathered is not None else Records()
    resizer = resizer_of(source)
    found.space, found.resizer = source.box_space, resizer or Resizer()
    root = images if images is not None else Path(source.file).parent
    for item in open_source(source, Path(), images, resizer):
        if isinstance(item, Reject):
            found.add_reject(item)
            yield Finding(item.source, item.id, item.code, item.reason)
            continue
        size = item.size
        if size is None and files:
            try:
                size = image_size(inside(root, item.image))
            except (RecordError, ImageError) as error:
                yield Finding(item.source, item.id, error.code, f"{item.source}: {error}")
        found.add(item, size)
