"""The table of docs/reference/integrations.md: what was run with which versions, when, and how long it took."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Protocol

from .environments import Environment

BEGIN, END = "<!-- written by make test-integrations WRITE=1 -->", "<!-- end -->"
HEAD = (
    "| third party | versions | what ran | size | time to install, to test | date |\n| --- | --- | --- | --- | --- | --- |"
)


class Report(Protocol):
    """What pytest tells of a phase of a test."""

    when: str | None
    outcome: str
    duration: float


@dataclass
class Outcome:
    """What became of the tests of one third party."""

    ran: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, said: str, report: Report) -> None:
        """Count a phase of a test; `said` is what it does. Its preparation is not counted as time of the test."""
        if report.outcome == "failed":
            self.failed.append(said)
        elif report.when == "call" and report.outcome == "passed":
            self.ran.append(said)
        if report.when == "call":
            self.seconds += report.duration

    def row(self, environment: Environment, today: date) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in environment.versions().items())
        ran = (
            "; ".join([*dict.fromkeys(self.ran), *(f"**failed**: {said}" for said in dict.fromkeys(self.failed))])
            or "nothing"
        )
        times = f"{_minutes(environment.seconds)}, {_minutes(self.seconds)}"
        return f"| {environment.title} | {versions} | {ran} | {environment.size_gb:.1f} GB | {times} | {today} |"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else "under 1 min"


def write_rows(page: Path, rows: dict[str, str], titles: list[str]) -> None:
    """Put rows into the page's table. Rows of third parties that were not run stay as they are.

    Args:
        page: Markdown with the two marks.
        rows: the new rows by the third party's title, which is their first cell.
        titles: of all third parties, in the table's order; rows of others are left out.
    Raises:
        ValueError: the page has no such table.
    """
    text = page.read_text(encoding="utf-8")
    found = re.search(f"{re.escape(BEGIN)}\n(.*?){re.escape(END)}", text, re.DOTALL)
    if found is None:
        raise ValueError(f"{page}: no table between {BEGIN} and {END}")
    kept = {line.split("|")[1].strip(): line for line in found[1].splitlines() if line.startswith("|")}
    table = {**kept, **rows}
    lines = [HEAD, *(table[title] for title in titles if title in table)]
    text = text[: found.start()] + "\n".join([BEGIN, *lines, END]) + text[found.end() :]
    page.write_text(text, encoding="utf-8")
