"""Statistics of a dataset: counts and distributions, collected while `checks.check_dataset` reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sifthinker.chain import read_completion
from sifthinker.coordinates import UNIT, Frame
from sifthinker.files import read_jsonl


@dataclass(slots=True)
class Stats:
    """Statistics of a dataset, collected line by line.

    Args:
        examples: number of readable lines.
        lines: number of lines, readable or not.
        by_dataset: examples per dataset.
        by_family: examples per kind of question.
        boxes: examples per number of target boxes.
        steps: chains per number of steps.
        areas: share of the image covered by each target box.
        depths: stated depth of each target region.
        words: number of words in the texts of each chain.
        sizes: images per size.
        coordinates: chains per kind of coordinates.
    """

    examples: int = 0
    lines: int = 0
    by_dataset: Counter[str] = field(default_factory=Counter)
    by_family: Counter[str] = field(default_factory=Counter)
    boxes: Counter[int] = field(default_factory=Counter)
    steps: Counter[int] = field(default_factory=Counter)
    areas: list[float] = field(default_factory=list)
    depths: list[float] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    coordinates: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        dataset: str,
        family: str,
        boxes: Sequence[Sequence[float]],
        chain: str,
        size: tuple[int, int] | None,
        frame: Frame = UNIT,
    ) -> None:
        """Add an example; `frame` has the coordinates of its chain."""
        self.examples += 1
        self.by_dataset[dataset] += 1
        self.by_family[family or "unknown"] += 1
        self.boxes[len(boxes)] += 1
        self.areas += [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
        self.coordinates[frame.space] += 1
        steps = read_completion(chain, with_depth='"depth"' in chain, frame=frame).steps
        self.steps[len(steps)] += 1
        self.words.append(sum(len(text.split()) for _, text in steps))
        if steps:
            self.depths += [region.depth for region in steps[-1][0] if region.depth is not None]
        if size is not None:
            self.sizes[size] += 1

    def tables(self, rejects: Counter[str]) -> dict[str, list[tuple[str, str]]]:
        """Return title → rows of (label, number) as text."""

        def counted(counter: Counter[Any], most: int = 20) -> list[tuple[str, str]]:
            rows = [
                (
                    "×".join(map(str, name)) if isinstance(name, tuple) else str(name),
                    f"{number:,} ({number / counter.total():.1%})",
                )
                for name, number in counter.most_common(most)
            ]
            rest = counter.total() - sum(number for _, number in counter.most_common(most))
            return rows + ([("others", f"{rest:,}")] if rest else [])

        def spread(values: list[float] | list[int], form: str) -> list[tuple[str, str]]:
            if not values:
                return []
            quantiles = np.quantile(values, [0, 0.1, 0.5, 0.9, 1])
            names = ("minimum", "10 %", "median", "90 %", "maximum")
            return [(name, format(float(value), form)) for name, value in zip(names, quantiles, strict=True)]

        found = {
            f"{self.examples:,} examples by dataset": counted(self.by_dataset),
            "question families": counted(self.by_family),
            "target boxes per example": counted(self.boxes),
            "steps per chain": counted(self.steps),
            "words per chain": spread(self.words, ".0f"),
            "share of the image covered by a target box": spread(self.areas, ".3f"),
            "depth of a target region": spread(self.depths, ".3f"),
            "image sizes": counted(self.sizes, 10),
            "box coordinates in chains": counted(self.coordinates) if self.coordinates.keys() - {"unit"} else [],
            "rejected records": counted(rejects),
        }
        return {title: rows for title, rows in found.items() if rows}

    def histograms(self, bins: int = 24) -> dict[str, list[tuple[float, float]]]:
        """Return title → (middle of a bin, number of values in it)."""
        series: dict[str, Sequence[float]] = {
            "words per chain": self.words,
            "share of the image covered by a target box": self.areas,
            "depth of a target region": self.depths,
        }
        found = {}
        for title, values in series.items():
            if values:
                numbers, edges = np.histogram(values, bins=bins)
                middles = (edges[:-1] + edges[1:]) / 2
                found[title] = list(zip(middles.tolist(), numbers.tolist(), strict=True))
        return found


def counts_in_words(counts: Mapping[str, int]) -> str:
    """Return counts as text: `per_mille (3) and unit (5)`."""
    return " and ".join(f"{name} ({number:,})" for name, number in sorted(counts.items()))


def reject_counts(path: str | Path) -> Counter[str]:
    """Return the number of records that a build rejected, by reason code; empty if the dataset has no rejects file."""
    file = Path(path) / "rejects.jsonl"
    if not file.is_file():
        return Counter()
    return Counter(str(row.get("code")) if isinstance(row, dict) else "not_a_reject" for _, row in read_jsonl(file))
