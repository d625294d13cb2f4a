"""The worked example of docs/howto/add-benchmark.md: its module, its tests and its table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "add-benchmark.md"
REGISTER = '_HOMES = {\n    "viscot": "viscot",\n'
SCRIPT = """
import sys
from sifthinker.cli.main import main
main(sys.argv[1:], prog_name="sif")
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def block(start: str) -> str:
    """The code block of the page that begins with these words."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    (text,) = [text for text in blocks if text.startswith(start)]
    return text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command in a copy of the package to which the page's module was added as the page says."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("src", "tests"):
        (folder / name).mkdir()
    for part in (ROOT / "src" / "sifthinker").iterdir():
        target = folder / "src" / "sifthinker" / part.name
        target.parent.mkdir(exist_ok=True)
        if part.name != "benchmarks":
            target.symlink_to(part)
    home = folder / "src" / "sifthinker" / "benchmarks"
    home.mkdir()
    for part in (ROOT / "src" / "sifthinker" / "benchmarks").glob("*.py"):
        (home / part.name).write_text(part.read_text(encoding="utf-8"), encoding="utf-8")
    (home / "shelfqa.py").write_text(block('"""ShelfQA: multiple-choice'), encoding="utf-8")
    registry = (home / "__init__.py").read_text(encoding="utf-8")
    assert REGISTER in registry
    line = block('    "shelfqa"')
    (home / "__init__.py").write_text(registry.replace(REGISTER, REGISTER + line), encoding="utf-8")
    for name in ("__init__.py", "benchmarks"):
        (folder / "tests" / name).symlink_to(ROOT / "tests" / name)

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}", "COLUMNS": "80"}
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, env=environment)

    return command


def test_the_tests_of_the_page_pass(run: Run, tmp_path: Path) -> None:
    text = block('"""ShelfQA: its file').replace("from .answered", "from tests.benchmarks.answered")
    (tmp_path / "test_shelfqa.py").write_text(text, encoding="utf-8")
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "test_shelfqa.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == block("$ python -m pytest").splitlines()[1]


def test_the_table_of_the_page_is_what_the_command_prints(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    rows = block("[\n").strip().removesuffix("]").rstrip()
    again = rows.replace('"id": 0', '"id": 2').replace('"id": 1', '"id": 3').removeprefix("[")
    (tmp_path / "shelfqa").mkdir()
    (tmp_path / "shelfqa" / "test.json").write_text(f"{rows},{again}]", encoding="utf-8")
    Image.new("RGB", (40, 30)).save(tmp_path / "shelfqa" / "shelf.jpg")
    (tmp_path / "said.jsonl").write_text(block('{"id": "shelfqa-test-0"'), encoding="utf-8")
    words = ["shelfqa", "--data", tmp_path / "shelfqa", "--completions", tmp_path / "said.jsonl", "--direct"]
    done = run(sys.executable, "-c", SCRIPT, "eval", *map(str, words), "-o", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    shown = [line.rstrip() for line in block("$ sif eval shelfqa").splitlines()[1:] if line != "…"]
    assert printed[: len(shown)] == shown
