"""Optional packages that are not installed: one line that says how to install them, and a core that needs none of them."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sifthinker
from sifthinker.errors import EXTRAS, MissingExtraError, SIFError, need
from sifthinker.files import write_jsonl

from .stand_in import explain, serve

ROOT = Path(sifthinker.__file__).parent
PROJECT = Path(__file__).parents[1] / "pyproject.toml"

# Runs commands, a JSON list of words each, where some modules are not installed; prints [status, stderr, stdout] of each.
RUNNER = """
import json, sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

MISSING, commands = json.loads(sys.argv[1])
sys.meta_path.insert(0, Missing())
from click.testing import CliRunner
from sifthinker.cli.main import main
for words in commands:
    done = CliRunner().invoke(main, words)
    error = None if isinstance(done.exception, SystemExit | None) else repr(done.exception)
    print(json.dumps([done.exit_code, error or done.stderr, done.stdout]))
"""

MODEL = {
    "think": ["think", "cat.png", "What is it?", "--depth", "none", "--model", "./model"],
    "local teacher": ["data", "build", "r.jsonl", "-o", "a", "--depth", "none", "--teacher", "local", "--model", "model"],
    "depth model": ["data", "build", "r.jsonl", "-o", "b", "--depth", "./model", "--model", "m"],
    "merge": ["model", "merge", "adapter", "-o", "e"],
    "app": ["app", "--model", "./model"],
}
TRAIN = {
    "sft": ["train", "sft", "sft.yaml"],
    "grpo": ["train", "grpo", "grpo.yaml"],
    "plan": ["plan", "sft.yaml"],
}
# Commands whose users need all of `train`, whichever part of it is missing first.
WHOLE = {*TRAIN, "merge", "pretrain", "demo", "study"}
TABLES = {f"export {form}": ["data", "export", ".", "--to", form, "-o", f"i-{form}"] for form in ("trl", "verl", "hf")}
COMMANDS = {
    "torch": {**MODEL, **TRAIN},
    "transformers": {**MODEL, **TRAIN},
    "accelerate": TRAIN,
    "trl": TRAIN,
    "peft": {**TRAIN, "merge": MODEL["merge"]},
    "datasets": {**TRAIN, **TABLES, "a saved dataset": ["data", "paths", "saved", "-o", "j.jsonl"]},
    "pyarrow": {**TRAIN, **TABLES, "parquet": ["data", "paths", "x.parquet", "-o", "k.jsonl"]},
    "ray": {"ray": ["data", "build", "r.jsonl", "-o", "l", "--depth", "none", "--model", "m", "--engine", "ray"]},
    "gradio": {"app": MODEL["app"]},
}


def run(folder: Path, missing: list[str], commands: list[list[str]]) -> list[tuple[int, str, str]]:
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps([missing, commands])],
        capture_output=True, text=True, cwd=folder, check=False, env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture
def folder(photo_folder: Path) -> Path:
    row = {"id": "cat", "image": "cat.png", "question": "What is it?", "answer": "cat", "boxes": [[0.1, 0.2, 0.6, 0.8]]}
    write_jsonl(photo_folder / "r.jsonl", [row])
    for name in ("model", "adapter", "saved"):
        (photo_folder / name).mkdir()
    (photo_folder / "model" / "config.json").write_text("{}")
    (photo_folder / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "./model"}')
    (photo_folder / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    (photo_folder / "saved" / "state.json").write_text("{}")
    (photo_folder / "x.parquet").write_bytes(b"PAR1")
    (photo_folder / "sft.yaml").write_text("model: ./model\ndata: .\noutput: run\n")
    (photo_folder / "grpo.yaml").write_text("model: ./model\ndata: .\noutput: run\n")
    return photo_folder


@pytest.mark.parametrize("missing", COMMANDS)
def test_every_command_names_the_extra_in_one_line(folder: Path, missing: str) -> None:
    assert_extra_is_named(folder, missing, COMMANDS[missing])


def assert_extra_is_named(folder: Path, missing: str, commands: dict[str, list[str]]) -> None:
    """Every command, by its name, ends with one line that says how to install what is missing, and writes nothing."""
    before = {path.name for path in folder.iterdir()}
    for name, (status, stderr, _) in zip(commands, run(folder, [missing], list(commands.values())), strict=True):
        last = stderr.strip().splitlines()[-1]
        assert status == 2, (name, stderr)
        assert last.startswith("sif: "), (name, stderr)
        assert missing in last, (name, stderr)
        extra = "train" if name in WHOLE else EXTRAS[missing]
        assert last.endswith(f"pip install 'sifthinker[{extra}]'"), (name, last)
        assert "Traceback" not in stderr
    # A build that waits for its first record has begun its folder; nothing else has written anything.
    assert {path.name for path in folder.iterdir()} - before <= {"a", "b"}


def test_the_core_needs_no_extra(folder: Path) -> None:
    (folder / "t.csv").write_text('image,question,answer,boxes\ncat.png,What is it?,cat,"[[0.1,0.2,0.6,0.8]]"\n')
    commands = [
        ["--help"],
        ["data", "paths", "r.jsonl", "-o", "o.jsonl"],
        ["data", "paths", "t.csv", "-o", "t.jsonl"],
        ["data", "build", "r.jsonl", "-o", "chains", "--model", "vlm", "--base-url"],
        ["data", "check", "chains"],
        ["data", "stats", "chains"],
        ["data", "show", "chains", "-o", "pages"],
        ["data", "export", "chains", "--to", "llamafactory", "-o", "exported"],
    ]
    with serve(explain) as (url, _):
        commands[3].append(url)
        found = run(folder, sorted(EXTRAS), commands)
    assert [(words, status, stderr) for words, (status, stderr, _) in zip(commands, found, strict=True) if status] == []


def test_in_python_it_is_an_import_error_and_one_of_ours() -> None:
    assert need("this", "sys", "json") is None
    with pytest.raises(ImportError, match=r"reading tables needs pyarrow: pip install 'sifthinker\[train\]'") as caught:
        raise MissingExtraError("reading tables", "pyarrow")
    assert isinstance(caught.value, SIFError)
    assert caught.value.name == "pyarrow"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    whole = MissingExtraError("training", "torch", extra="train")
    assert str(pickle.loads(pickle.dumps(whole))) == "training needs torch: pip install 'sifthinker[train]'"
    assert str(MissingExtraError("x", "torch", "trl")) == "x needs torch and trl: pip install 'sifthinker[train]'"


@pytest.mark.parametrize(
    "code",
    [
        "from sifthinker import Thinker; Thinker.load('owner/name')",
        "import sifthinker.training.grpo",
        "import sifthinker.training.runs",
    ],
)
def test_python_callers_get_the_same_message(code: str) -> None:
    assert_torch_is_named(code)


def assert_torch_is_named(code: str) -> None:
    """Where torch is not installed, a line of Python ends with how to install it."""
    script = f"import sys; sys.modules['torch'] = None\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("sifthinker.errors.MissingExtraError: ")
    assert "needs torch: pip install 'sifthinker[" in last


def test_every_optional_import_is_of_an_extra() -> None:
    """What the package imports and does not require is in the table, and in the extra that the table names."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    names = {"httpx2": "httpx2", "pillow": "PIL", "pyyaml": "yaml"}

    def imports(requirements: list[str]) -> set[str]:
        heads = [requirement.partition(">")[0].partition("[")[0].strip() for requirement in requirements]
        return {names.get(head, head.replace("-", "_")) for head in heads}

    extras = {name: imports(found) for name, found in project["optional-dependencies"].items()}
    # By which package.
    brought = {
        "pyarrow": "datasets",
        "starlette": "gradio",
        **dict.fromkeys(("huggingface_hub", "tokenizers", "safetensors"), "transformers"),
    }
    for module, extra in EXTRAS.items():
        assert brought.get(module, module) in extras[extra] | (extras["models"] if extra == "train" else set())
    used = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                used.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Import):
                used |= {alias.name.partition(".")[0] for alias in node.names}
    # lmms-eval imports the module that imports it; nobody else does.
    ours = used - set(sys.stdlib_module_names) - {"sifthinker", "lmms_eval"}
    assert ours - imports(project["dependencies"]) <= set(EXTRAS)
