"""docs/reference/benchmarks.md describes each benchmark as the registry does. `SIF_WRITE_DOCS=1` writes the tables."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sifthinker.benchmarks import NAMES, benchmark
from sifthinker.evaluation.benchmark import describe_lenient

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "benchmarks.md"
BEGIN, END = "<!-- written by SIF_WRITE_DOCS=1 pytest tests/benchmarks/test_docs.py -->\n", "<!-- end -->"


def test_the_page_says_what_there_is() -> None:
    lines = []
    for name in NAMES:
        found = benchmark(name)
        hub = f"`{found.hub}`" if found.hub else "only with `--data`"
        lines += [f"### `{name}`: {found.title}", ""]
        lines += [f"{found.source}. Files: {hub}. Splits: {found.splits_said}.", "", "| number | meaning |", "| --- | --- |"]
        lines += [f"| {headline.name} | {headline.about} |" for headline in found.headlines]
        notes = describe_lenient((headline.name, headline.lenient_about) for headline in found.headlines)
        if len(notes) == 1:
            lines += ["", f"Lenient: {notes[0]}.", ""]
        else:
            lines += ["", "Lenient:", "", *(f"- {note}." for note in notes), ""]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    written, _, after = rest.partition(END)
    wanted = "\n".join(lines)
    if os.environ.get("SIF_WRITE_DOCS"):
        PAGE.write_text(f"{before}{BEGIN}{wanted}{END}{after}", encoding="utf-8")
    else:
        assert written == wanted, "SIF_WRITE_DOCS=1 pytest tests/benchmarks/test_docs.py writes the tables again"


def test_the_example_names_a_number_that_there_is() -> None:
    """Its benchmark's headlines are the keys of `Evaluation.table`."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (name,), (key,) = re.findall(r'evaluate_benchmark\("(.*?)"', example), re.findall(r'found\.table\["(.*?)"\]', example)
    assert key in [headline.name for headline in benchmark(name).headlines]
