"""The architecture: imports run one way, and the package is light until something heavy is used."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sifthinker

ROOT = Path(sifthinker.__file__).parent
TESTS = Path(__file__).parent

# Each layer may import the ones above it and nothing below; modules of one layer may not import each other,
# except those named together as one part.
LAYERS = [
    ["literals", "errors", "loops", "json_reply", "embedded"],
    ["files", "responses"],
    ["settings", "journal"],
    ["ask_settings"],
    ["boxes", "images", "depth_codes"],
    ["coordinates", "depth_files"],
    ["depth", "chain"],
    ["depth_cache", "records"],
    ["prompts", "endpoint", "decoding", "processors"],
    ["models"],
    ["fingerprint"],
    ["scoring"],
    ["structured"],
    ["thinker"],
    ["served"],
    ["evaluation"],
    ["results"],
    ["engine", "training"],
    ["benchmarks"],
    ["thinking"],
    ["show", "lmms"],
    ["lab"],
    ["cli"],
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def part_of(path: Path) -> str:
    """errors.py → errors; engine/build.py → engine."""
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of sifthinker that a module imports anywhere, functions included."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "sifthinker" else [f"sifthinker.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("sifthinker.")}
    return parts - {"__version__"}


MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def test_every_module_has_a_layer() -> None:
    assert {part_of(path) for path in MODULES} | {"lab"} == set(LEVEL)


def test_the_lab_and_its_command_file_come_and_go_together() -> None:
    lab = "lab" in {part_of(path) for path in MODULES}
    assert lab == (ROOT / "cli" / "lab.py").is_file()
    assert lab == (TESTS / "lab" / "__init__.py").is_file()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    here = part_of(path)
    for other in imported(path) - {here}:
        assert LEVEL[other] < LEVEL[here], f"{here} may not import {other}"


def test_the_lab_is_one_room() -> None:
    """Only lab/, its command file and its tests import it; only the registry knows where its weights lie."""
    for path in MODULES:
        here = path.relative_to(ROOT).as_posix()
        if part_of(path) != "lab" and here != "cli/lab.py":
            assert "lab" not in imported(path), here
            if here != "embedded.py":
                assert not re.search(r"lab[\"'/].*weights", path.read_text(encoding="utf-8")), here
    for path in TESTS.rglob("*.py"):
        assert "lab" not in imported(path) or path.is_relative_to(TESTS / "lab"), path


def test_engine_and_training_meet_in_files_alone() -> None:
    for path in MODULES:
        if part_of(path) in ("engine", "training"):
            assert not imported(path) & ({"engine", "training"} - {part_of(path)})


def run(code: str) -> str:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = run(
        "import sifthinker, sys; print([m for m in ('torch','transformers','numpy','scipy','PIL') if m in sys.modules])"
    )
    assert heavy.strip() == "[]"


def test_the_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom sifthinker.cli.main import main\n"
        "for line in (['--help'], ['data', 'build', '--help'], ['think', '--help']):\n"
        "    main(line, standalone_mode=False)\n"
        "print([m for m in ('torch','transformers','trl','datasets','numpy','scipy','PIL') if m in sys.modules])"
    )
    assert run(code).splitlines()[-1] == "[]"


def test_the_first_help_loads_little() -> None:
    """`sif --help` answers before anybody waits: it reads no command file, and so no settings either."""
    code = "import sys\nfrom sifthinker.cli.main import main\nmain(['--help'], standalone_mode=False)\n"
    code += "print([m for m in sys.modules if m in ('pydantic', 'numpy', 'yaml') or m.startswith('sifthinker.cli.')])"
    assert set(ast.literal_eval(run(code).splitlines()[-1])) == {"sifthinker.cli.main", "sifthinker.cli.terminal"}


def test_the_ground_floor_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "import sifthinker.scoring.trl, sifthinker.engine.build, sifthinker.engine.teachers, sifthinker.endpoint"
    )
    run(code)


@pytest.mark.parametrize("name", [name for name in sifthinker.__all__ if name != "__version__"])
def test_public_names_exist_and_are_documented(name: str) -> None:
    assert getattr(sifthinker, name).__doc__
    assert name in dir(sifthinker)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        sifthinker.nonsense  # noqa: B018
