"""Check a file of records before a build: unreadable records, and boxes that are probably in another space than stated.

A box that cannot be in its space becomes a reject when it is read. A pattern that shows only in the complete file is a
warning, because each box by itself may be correct.
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
from sifthinker.engine.sources import LOOKED_AT, format_of
from sifthinker.engine.sources.instances import coco_relative
from sifthinker.engine.sources.rows import image_below, rows
from sifthinker.engine.sources.tables import is_table
from sifthinker.errors import ImageError, RecordError
from sifthinker.images import image_size, shape_fault
from sifthinker.literals import Space
from sifthinker.records import EXAMPLES, Record, Reject


@dataclass(slots=True)
class Records:
    """Statistics of a file of records, collected record by record.

    Args:
        space: stated space of the boxes.
        resizer: for `resized`, the resizer of the images.
        records: number of readable records.
        unreadable: number of other records.
        past: boxes that extend past the image, x1, y1, x2, y2 as in the file.
        rejected: number of these that were rejected; the others are clipped.
        boxes: (N, 4) in that space, for each record whose image size is known or not needed.
        sizes: (width, height) of the image for each of these, None if unknown.
    """

    space: Space = "unit"
    resizer: Resizer = field(default_factory=Resizer)
    records: int = 0
    unreadable: int = 0
    past: list[list[float]] = field(default_factory=list)
    rejected: int = 0
    boxes: list[Boxes] = field(default_factory=list)
    sizes: list[tuple[int, int] | None] = field(default_factory=list)

    def add(self, record: Record, size: tuple[int, int] | None) -> None:
        """Add a record; `size` is the (width, height) of its image, None if unknown."""
        self.records += 1
        self.past += filter(None, map(_stated_past, record.notes))
        if size is not None or self.space in ("unit", "per_mille"):
            self.boxes.append(self.resizer.convert(record.boxes, source="unit", target=self.space, size=size))
            self.sizes.append(size)

    def add_reject(self, reject: Reject) -> None:
        """Add a record that could not be read. Only a box that extends past the image is used."""
        self.unreadable += 1
        box = _stated_past(reject.reason)
        if box:
            self.past.append(box)
            self.rejected += 1

    @property
    def read(self) -> int:
        """Number of records, readable or not."""
        return self.records + self.unreadable

    def warnings(self) -> list[str]:
        """Return warnings, with counts, about boxes that look like another space."""
        return suspect_space(self.boxes, self.space, self.sizes, past=self.past, rejected=self.rejected)


# The text of `sources.rows.to_unit` in a record's note or in a reject.
_PAST = re.compile(r"box \[([^\[\]]*)\] (?:ends past|lies wholly outside) the image")


def _stated_past(words: str) -> list[float]:
    """Return the box in a note or reject about a box that extends past the image; [] for other texts."""
    found = _PAST.search(words)
    return [float(side) for side in found[1].split(",")] if found else []


def holds_records(path: str | Path) -> bool:
    """Whether a path contains records and not examples: a table, or JSON of any form that `read_source` recognises."""
    if (Path(path) / EXAMPLES).is_file():
        return False
    if is_table(str(path)):
        return True
    first = _first_row(Path(path))
    if "messages" in first:
        return False
    return format_of(first) != "jsonl" or bool(coco_relative(first) or first.keys() & {"image", "question"})


def holds_examples(path: Path) -> bool:
    """Whether a path is a finished dataset: a folder with an examples file, or a file whose rows have chains."""
    return (path / EXAMPLES).is_file() or "messages" in _first_row(path)


def _first_row(path: Path) -> dict[str, Any]:
    """Return the first JSON object of a file, or an empty one."""
    if not path.is_file() or is_table(str(path)):
        return {}
    try:
        items = (item[1] for item in islice(rows(path), LOOKED_AT) if isinstance(item, tuple))
        return next((row for row in items if isinstance(row, dict)), {})
    except RecordError:
        return {}


def check_records(
    source: SourceSettings, images: Path | None = None, *, files: bool = True, gathered: Records | None = None
) -> Iterator[Finding]:
    """Yield every record of a file that a build would reject while reading it, or because of its image file.

    It reads only the headers of images.

    Args:
        source: the file, its format and its box space.
        images: image root; by default the folder of the file.
        files: whether to check that each image exists, can be read and has the stated shape.
        gathered: collects the readable records, for its `warnings`.
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
        if files:
            try:
                actual = image_size(image_below(root, item.image, exists=True))
            except (RecordError, ImageError) as error:
                yield Finding(item.source, item.id, error.code, str(error))
            else:
                size = size or actual
                if fault := shape_fault(item.image, size, actual):
                    yield Finding(item.source, item.id, "size_mismatch", fault)
        found.add(item, size)
