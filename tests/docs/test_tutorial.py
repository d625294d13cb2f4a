"""The tutorial runs as it is written: its console blocks in order, in a folder of their own, without a network.

A block's output lines must be printed in the same order. Other lines, such as progress bars, may come between them, and
`…` stands for lines that the page leaves out. `<!-- numbers within 0.1 -->` above a block allows its numbers to differ
by that much, because training gives slightly different numbers on different CPUs. `<!-- any numbers -->` is for numbers
that chance decides: the answers of a model of three million parameters to questions that it was not trained on.
`<!-- made by the tutorial: FILE -->` above a picture names the file that it shows. A PNG file is compared with the
picture. For an HTML page the picture is a screenshot.

`SIF_WRITE_DOCS=1` writes outputs and pictures into the page.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("trl")
if find_spec("sifthinker.lab") is None:
    pytest.skip("the tutorial trains the embedded model, which is not here", allow_module_level=True)

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "tutorial"
PAGE = FOLDER / "index.md"

PICTURES_DIFFER_BY = 8.0  # mean difference of colours, of 255, between a picture on the page and the one just made
LARGEST_PHOTO, LARGEST_PICTURE = 80_000, 150_000  # bytes

_BLOCK = re.compile(
    r"(?:<!-- (?:numbers within (?P<within>[\d.]+)|(?P<any>any numbers)) -->\n)?^```console\n(?P<text>.*?)^```$", re.M | re.S
)
_PICTURE = re.compile(r"<!-- made by the tutorial: (?P<made>\S+) -->\n!\[[^\]]*\]\((?P<shown>[^)\s]+)\)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
# Progress bars, and what torch and datasets print on their own.
_NOISE = re.compile(r"━|\d+%\||it/s|Warning|warnings?\.warn|^\s*$|^Loading weights")


@dataclass(frozen=True)
class Block:
    """The commands of a console block, and what the page says they print."""

    commands: tuple[str, ...]
    shown: tuple[str, ...]
    within: float


def blocks(page: str) -> Iterator[Block]:
    for found in _BLOCK.finditer(page):
        commands, shown = [], []
        lines = iter(found["text"].splitlines())
        for line in lines:
            if not line.startswith("$ "):
                shown.append(line)
                continue
            command = line.removeprefix("$ ")
            while command.endswith("\\"):
                command = command[:-1] + next(lines).strip()
            commands.append(command)
        yield Block(tuple(commands), tuple(shown), math.inf if found["any"] else float(found["within"] or 0))


def same(shown: str, printed: str, within: float) -> bool:
    """Whether two lines have the same words, and numbers that differ by no more than `within`."""
    if within == 0:
        return shown == printed
    # A table is as wide as its numbers.
    words = [" ".join(re.sub("[━┳┏┓┡╇┩└┴┘─ ]+", " ", _NUMBER.sub("#", line)).split()) for line in (shown, printed)]
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=False)
    return words[0] == words[1] and all(abs(float(a) - float(b)) <= within + 1e-9 for a, b in pairs)


def missing(block: Block, printed: Sequence[str]) -> str | None:
    """The first line of the page that the commands did not print, in the page's order."""
    rest = iter(printed)
    for shown in block.shown:
        if shown != "…" and not any(same(shown, line, block.within) for line in rest):
            return shown
    return None


def run(commands: Sequence[str], folder: Path) -> list[str]:
    """Run commands as a reader would, and return what they print."""
    bin = folder / "bin"
    bin.mkdir(exist_ok=True)
    for name, start in (("sif", f'"{sys.executable}" -m sifthinker.cli'), ("python", f'"{sys.executable}"')):
        (bin / name).write_text(f'#!/bin/sh\nexec {start} "$@"\n', encoding="utf-8")
        (bin / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONUTF8": "1",
        "COLUMNS": "100",
        "HF_HUB_OFFLINE": "1",
    }
    printed = []
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"
        printed += [line.rstrip() for line in re.split(r"[\r\n]+", done.stdout)]
    return printed


def screenshot(html: Path, picture: Path) -> None:
    """Draw a page with Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        system = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 680})
        page.goto(html.as_uri())
        for _ in range(3):  # the page of a dataset shows an example once it is chosen
            page.keyboard.press("ArrowDown")
            page.wait_for_timeout(300)
        page.screenshot(path=picture)
        browser.close()
    Image.open(picture).convert("RGB").quantize(256, kmeans=2).save(picture, optimize=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[Block, list[str]]]]:
    """The folder in which the tutorial was worked through, and what each block printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    shutil.copytree(FOLDER, folder / "docs" / "tutorial")
    return folder, [(block, run(block.commands, folder)) for block in blocks(PAGE.read_text(encoding="utf-8"))]


def test_commands_print_what_the_page_shows(done: tuple[Path, list[tuple[Block, list[str]]]]) -> None:
    _, results = done
    if os.environ.get("SIF_WRITE_DOCS"):
        page = PAGE.read_text(encoding="utf-8")
        for found, (_, printed) in reversed(list(zip(_BLOCK.finditer(page), results, strict=True))):
            lines = found["text"].splitlines()
            last = max(number for number, line in enumerate(lines) if line.startswith("$ "))
            while lines[last].endswith("\\"):
                last += 1
            useful = [line for line in printed if line and not (_NOISE.search(line) and not line.startswith(("┏", "┡")))]
            text = "\n".join([*lines[: last + 1], *useful]) + "\n"
            page = page[: found.start("text")] + text + page[found.end("text") :]
        PAGE.write_text(page, encoding="utf-8")
        return
    for block, printed in results:
        line = missing(block, printed)
        assert line is None, f"{' && '.join(block.commands)} did not print: {line}\nIt printed:\n" + "\n".join(printed)


def test_the_model_has_memorised_what_it_was_trained_on(done: tuple[Path, list[tuple[Block, list[str]]]]) -> None:
    """What the page concludes from the two tables, whose numbers differ between computers."""
    folder, _ = done
    seen, held_out = (
        json.loads((folder / "runs" / "tutorial" / name).read_text(encoding="utf-8"))["results"]
        for name in ("seen.json", "held-out.json")
    )
    assert seen["answer accuracy"]["mean"] > 0.8
    assert seen["final HIoU"]["mean"] > 0.8
    assert held_out["answer accuracy"]["mean"] <= 0.5
    assert held_out["final HIoU"]["mean"] < 0.5


def test_pictures_are_those_that_the_commands_make(done: tuple[Path, list[tuple[Block, list[str]]]]) -> None:
    folder, _ = done
    pictures = list(_PICTURE.finditer(PAGE.read_text(encoding="utf-8")))
    assert pictures
    for found in pictures:
        made, shown = folder / found["made"], FOLDER / found["shown"]
        assert made.is_file(), found["made"]
        if os.environ.get("SIF_WRITE_DOCS"):
            shown.parent.mkdir(exist_ok=True)
            if made.suffix == ".html":
                screenshot(made, shown)
            else:
                Image.open(made).convert("RGB").quantize(256).save(shown, optimize=True)
        assert shown.stat().st_size <= LARGEST_PICTURE
        if made.suffix == ".html":
            continue
        one, other = (np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in (made, shown))
        assert one.shape == other.shape, found["shown"]
        assert np.abs(one - other).mean() <= PICTURES_DIFFER_BY, found["shown"]


def test_files_on_the_page_are_those_beside_it() -> None:
    """`<!-- FILE -->` above a block: the block is that file of the tutorial, or lines of it."""
    page = PAGE.read_text(encoding="utf-8")
    quoted = re.findall(r"<!-- (\S+\.(?:py|yaml|jsonl|json)) -->\n```\w+\n(.*?)^```$", page, re.M | re.S)
    assert {name for name, _ in quoted} >= {"build.py", "sft.yaml", "records.jsonl"}
    for name, text in quoted:
        assert text in (FOLDER / name).read_text(encoding="utf-8"), name


def test_photos_are_small_and_have_a_licence() -> None:
    about = (FOLDER / "photos" / "README.txt").read_text(encoding="utf-8")
    photos = sorted((FOLDER / "photos").glob("*.jpg"))
    assert len(photos) == 4
    for photo in photos:
        assert photo.stat().st_size <= LARGEST_PHOTO
        assert photo.name in about


def test_each_block_has_one_command_that_prints() -> None:
    """`SIF_WRITE_DOCS=1` writes what a block prints after its last command."""
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        assert len([command for command in block.commands if not command.startswith("mkdir ")]) == 1


def test_a_line_that_was_not_printed_is_found() -> None:
    block = Block(("x",), ("a 1.0", "…", "b 2.0"), 0.1)
    assert missing(block, ["a 1.05", "noise", "b 1.95"]) is None
    assert missing(block, ["b 2.0", "a 1.0"]) == "b 2.0"
    assert missing(block, ["a 1.2", "b 2.0"]) == "a 1.0"
    assert missing(Block(("x",), ("a 1.0",), 0), ["a 1.05"]) == "a 1.0"
    row = "│ gain │ -0.1 (4) │"
    assert missing(Block(("x",), (row,), math.inf), ["│ gain │    0.25 (4) │"]) is None
    assert missing(Block(("x",), (row,), math.inf), ["│ loss │    0.25 (4) │"]) == row
