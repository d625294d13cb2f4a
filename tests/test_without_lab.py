"""The product stands without the embedded world: a copy that has lost it passes its other tests, and its commands say so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sifthinker

SOURCE = Path(sifthinker.__file__).parent
ROOT = Path(__file__).parents[1]
# What the tests read; shared/ lies beside the repository.
KEPT = ("tests", "configs", "examples", "docs", "pyproject.toml", "README.md", "LICENSE")
LAB = ("src/sifthinker/lab", "src/sifthinker/cli/lab.py", "tests/lab")
HERE = (SOURCE / "lab").is_dir()
# The rooms that stood closest to it, in about a minute; the slow test runs all.
QUICK = (
    "engine/test_checks.py", "engine/test_exports.py", "engine/test_recipe.py", "engine/test_settings.py",
    "evaluation/test_compare.py", "evaluation/test_metrics.py", "evaluation/test_questions.py", "evaluation/test_run.py",
    "show/test_report.py", "show/test_viewer.py", "test_cli.py", "test_layout.py", "test_models.py", "test_thinker.py",
    "test_without_lab.py",
)  # fmt: skip

# The copy runs this file too, commands and all, but makes no copy of itself.
with_lab = pytest.mark.skipif(not HERE, reason="there is no lab to delete")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository without the lab: a copy, or this very one where the lab is gone."""
    if not HERE:
        return ROOT
    copy = tmp_path_factory.mktemp("bare") / "repository"
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(SOURCE, copy / "src" / "sifthinker", ignore=ignored)
    for name in KEPT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, copy / name)
    if (ROOT.parent / "shared").is_dir():
        (copy.parent / "shared").symlink_to(ROOT.parent / "shared")
    for name in LAB:
        gone = copy / name
        assert gone.exists(), f"{name} has moved; say here where it is"
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    return copy


def run(bare: Path, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A Python command with the copy's package; nothing of the test run around it reaches it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment = {**kept, "PYTHONPATH": str(bare / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=cwd or bare, env=environment
    )


def run_tests(bare: Path, *options: str) -> str:
    """Run pytest in the copy; what it printed. Fails when a test does, or when none was found."""
    done = run(bare, "pytest", "-p", "no:cacheprovider", *options)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@with_lab
def test_every_test_of_the_copy_finds_what_it_imports_and_its_fixtures(bare: Path) -> None:
    """Slow and integration tests too; no test is run."""
    said = run_tests(bare, "tests", "-m", "", "--setup-plan")
    assert "tests/training/test_training.py" in said
    assert "tests/lab" not in said


@with_lab
def test_its_quick_tests_pass(bare: Path) -> None:
    said = run_tests(bare, *(f"tests/{name}" for name in QUICK))
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None, said
    assert int(passed[1]) > 400


@with_lab
@pytest.mark.slow
def test_all_its_tests_pass(bare: Path) -> None:
    run_tests(bare, "tests")


def test_the_overview_lists_no_command_of_the_lab(bare: Path) -> None:
    done = run(bare, "sifthinker.cli", "--help")
    assert done.returncode == 0, done.stderr
    overview, _, commands = done.stdout.partition("Commands:")
    assert "sif data build" in overview
    assert "sif demo" not in overview
    named = [line.split()[0] for line in commands.splitlines() if line.strip()]
    assert {"data", "train", "think", "eval"} < set(named)
    assert not {"world", "demo"} & set(named)
    done = run(bare, "sifthinker.cli", "world", "build")
    assert (done.returncode, "No such command 'world'" in done.stderr) == (2, True)


def test_evaluation_knows_no_world(bare: Path) -> None:
    done = run(bare, "sifthinker.cli", "eval", "--help")
    assert done.returncode == 0, done.stderr
    assert "world" not in done.stdout


def test_thinking_asks_for_a_model(bare: Path, photo_folder: Path) -> None:
    done = run(bare, "sifthinker.cli", "think", "cat.png", "What is it?", cwd=photo_folder)
    assert done.returncode == 2
    assert "Specify one with --model" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (photo_folder / "cat.thought.html").exists()
    done = run(bare, "sifthinker.cli", "app", cwd=photo_folder)
    assert (done.returncode, "Specify one with --model" in done.stderr) == (2, True)


def test_a_teacher_that_is_offered_and_gone_is_named_in_one_line(bare: Path, photo_folder: Path) -> None:
    """The installed package's entry point still names the lab's teacher."""
    row = '{"id":"cat","image":"cat.png","question":"What is it?","answer":"cat","boxes":[[0.1,0.2,0.6,0.8]]}\n'
    (photo_folder / "r.jsonl").write_text(row)
    words = ("data", "build", "r.jsonl", "-o", "out", "--teacher", "scripted")
    done = run(bare, "sifthinker.cli", *words, cwd=photo_folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("sif: cannot load the teacher 'scripted' from sifthinker.lab.teacher:ScriptedTeacher: ")
    assert "--teacher openai" in line
    assert not (photo_folder / "out").exists()
