"""What a run of the integration tests leaves: with WRITE=1, a row for each third party in docs/reference/integrations.md."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from .environments import ROOT, ThirdPartyError, prepare, third_parties
from .table import Outcome, write_rows

_PAGE = ROOT / "docs" / "reference" / "integrations.md"
_outcomes: dict[str, Outcome] = defaultdict(Outcome)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    name = Path(item.path).stem.removeprefix("test_")
    if item.get_closest_marker("integration") and name in third_parties():
        said = (getattr(item, "function", None) and item.function.__doc__) or item.name
        _outcomes[name].add(said.strip().splitlines()[0].rstrip("."), report)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("WRITE") != "1" or not _outcomes:
        return
    today = datetime.now(UTC).date()
    entries, rows = third_parties(), {}
    for name, outcome in _outcomes.items():
        title = entries[name]["title"]
        try:
            rows[title] = outcome.row(prepare(name), today)
        except ThirdPartyError:
            rows[title] = f"| {title} | – | **failed**: its environment could not be made | – | – | {today} |"
    write_rows(_PAGE, rows, [entry["title"] for entry in entries.values()])
