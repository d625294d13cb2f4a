"""Every code block of the manual: commands parse, Python has right types, settings are valid, JSON is JSON.

Commands are parsed by the real parser and not run. A page's Python blocks are checked together, in their order, so that one
may build on another. `<!-- run -->` above a block of Python runs it, after the page's earlier ones that are run; a block
`text` that follows it directly holds what it prints. `<!-- adds: NAME, … -->` on a page says which values its commands
may use because the page itself adds them to the program.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from sifthinker.cli.main import main
from sifthinker.errors import ConfigError
from sifthinker.records import Record

from .conftest import ROOT

pytest.importorskip("markdown_it")

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md") if (ROOT / name).is_file()] + sorted(
    path for path in (ROOT / "docs").rglob("*.md") if not {"_build", "work", "generated"} & set(path.parts)
)
SHELLS = ("bash", "console", "sh", "shell")
with_lab = pytest.mark.skipif(find_spec("sifthinker.lab") is None, reason="the manual has commands of the embedded world")
pytestmark = with_lab


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    page: Path
    line: int  # of its first line of code
    language: str
    text: str
    run: bool = False
    printed: str | None = None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def blocks() -> tuple[Block, ...]:
    return tuple(block for page in PAGES for block in _blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    for number, token in enumerate(tokens):
        if token.type not in ("fence", "code_block"):
            continue
        assert token.map is not None
        before = tokens[number - 1] if number else None
        after = tokens[number + 1] if number + 1 < len(tokens) else None
        run = before is not None and before.type == "html_block" and "<!-- run -->" in before.content
        printed = after.content if run and after is not None and after.type == "fence" and after.info == "text" else None
        line = token.map[0] + (2 if token.type == "fence" else 1)
        yield Block(page, line, token.info.split(" ")[0], token.content, run, printed)


def of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.where) for block in blocks() if block.language in languages]


# ------------------------------------------------------------------------------------------------------------- commands

_ENDS = {"|", "||", "&&", ";", "&", "(", ")", "{", "}"}
_KEYWORDS = {"do", "then", "else", "if", "while", "!", "time", "exec", "nohup", "sudo"}
_PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*")
_NEW: set[str] = set()  # values that the page at hand adds to the program


def command_lines(block: Block) -> Iterator[tuple[int, str]]:
    """(line, command) of a block: lines joined at continuations, output of a console left out, texts of `<<` skipped."""
    lines = block.text.splitlines()
    number = 0
    while number < len(lines):
        start, line = number, lines[number]
        number += 1
        if block.language == "console":
            if not line.startswith(("$ ", "# ")):
                continue
            line = line[2:] if line.startswith("$ ") else line
        while line.endswith("\\") and number < len(lines):
            line = line[:-1] + " " + lines[number].removeprefix("> ").strip()
            number += 1
        here = re.search(r"<<-?\s*['\"]?(\w+)", line)
        if here:
            while number < len(lines) and lines[number].strip() != here[1]:
                number += 1
            number += 1
            line = line[: here.start()]
        if line.strip() and not line.lstrip().startswith("#"):
            yield block.line + start, line


def simple_commands(line: str) -> Iterator[list[str]]:
    """The commands of a shell line, without what is before (`A=b`) and behind them (`> file`)."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
    lexer.whitespace_split = True
    words: list[str] = []
    found = [words]
    skip = False
    for word in lexer:
        if skip:
            skip = False
        elif set(word) <= set("<>&") and ("<" in word or ">" in word):
            skip = True
            if words and words[-1].isdigit():
                words.pop()
        elif word in _ENDS:
            words = []
            found.append(words)
        else:
            words.append(word)
    for command in found:
        while command and (command[0] in _KEYWORDS or re.match(r"[A-Za-z_]\w*=", command[0])):
            command.pop(0)
        if command:
            yield command


def parse(arguments: Sequence[str]) -> None:
    """Parse a command line of `sif` as the program does, without running it.

    Raises:
        click.UsageError: what is wrong with it.
    """
    elided = "…" in arguments or "..." in arguments
    rest = [word for word in arguments if word not in ("…", "...")]
    command: click.Command = main
    context: click.Context | None = None
    name: str | None = "sif"
    try:
        while True:
            context = command.make_context(name, list(rest), parent=context)
            if not isinstance(command, click.Group):
                break
            rest = [*context._protected_args, *context.args]
            name, found, rest = command.resolve_command(context, rest)
            assert found is not None
            command = found
    except click.MissingParameter:
        if not elided:
            raise
    except click.exceptions.Exit:
        return
    if context is not None and command.name in ("train", "plan"):
        _check_overrides(context)


def _check_overrides(context: click.Context) -> None:
    """Whether the keys of `sif train STAGE CONFIG --key value` are settings of ours or of TRL's."""
    from sifthinker.training.settings import TrainSettings, trainer_config

    stages = [context.params.get("stage")] if context.params.get("stage") else ["sft", "grpo"]
    theirs = {name for stage in stages for name in trainer_config(stage).__dataclass_fields__}
    for word in context.params.get("overrides", ()):
        if word.startswith("--"):
            path = TrainSettings.locate(word[2:].partition("=")[0].replace("-", "_").split("."))
            known = theirs if path[0] == "training" and len(path) > 1 else set(TrainSettings.model_fields)
            if (path[1] if known is theirs else path[0]) not in known:
                raise click.NoSuchOption(word, ctx=context)


@pytest.fixture(autouse=True)
def placeholders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths need not exist, and a word in capitals stands for any value."""

    def path(self: click.Path, value: Any, param: Any, ctx: Any) -> Any:
        return self.coerce_path_result(value)

    def cast(self: click.Parameter, ctx: click.Context, value: Any) -> Any:
        try:
            return real(self, ctx, value)
        except click.BadParameter:
            words = map(str, value if isinstance(value, tuple) else (value,))
            if all(word in _NEW or _PLACEHOLDER.fullmatch(word) for word in words):
                return value
            raise

    real = click.Parameter.type_cast_value
    monkeypatch.setattr(click.Path, "convert", path)
    monkeypatch.setattr(click.Parameter, "type_cast_value", cast)


def targets() -> set[str]:
    return set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def check(words: Sequence[str]) -> str | None:
    """What is wrong with a command; None for nothing, and for a command of somebody else."""
    program, arguments = Path(words[0]).name, list(words[1:])
    if "sifthinker.cli" in arguments and arguments[arguments.index("sifthinker.cli") - 1] == "-m":
        program, arguments = "sif", arguments[arguments.index("sifthinker.cli") + 1 :]
    if program == "sif":
        try:
            parse(arguments)
        except (click.UsageError, ConfigError) as error:
            return error.format_message() if isinstance(error, click.UsageError) else str(error)
    elif program == "make":
        wrong = [word for word in arguments if not word.startswith("-") and "=" not in word and word not in targets()]
        return f"no such target: {wrong[0]}" if wrong else None
    elif re.fullmatch(r"python[\d.]*", program) and arguments and not arguments[0].startswith("-"):
        return None if (ROOT / arguments[0]).is_file() else f"no such script: {arguments[0]}"
    return None


def faults_of(block: Block) -> Iterator[str]:
    for line, command in command_lines(block):
        try:
            parts = list(simple_commands(command))
        except ValueError as error:
            yield f"{block.page.relative_to(ROOT)}:{line}: {command.strip()}: {error}"
            continue
        for words in parts:
            fault = check(words)
            if fault:
                yield f"{block.page.relative_to(ROOT)}:{line}: {shlex.join(words)}: {fault}"


def added(page: Path) -> set[str]:
    """Values that a page adds to the program, for instance a format."""
    found = re.findall(r"<!-- adds: (.*?) -->", page.read_text(encoding="utf-8"))
    return {name.strip() for names in found for name in names.split(",")}


@pytest.mark.parametrize("block", of(*SHELLS))
def test_commands_are_what_the_program_takes(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "_NEW", added(block.page))
    assert not (found := list(faults_of(block))), "\n".join(found)


@pytest.mark.parametrize("block", of("console"))
def test_a_console_begins_with_a_command(block: Block) -> None:
    assert block.text.startswith("$ ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of_commands_say_so(page: Path) -> None:
    """A block without a language is not checked, so it may hold no command."""
    wrong = [
        block.where
        for block in blocks()
        if block.page == page
        and block.language in ("", "text")
        and re.search(r"^(\$ )?(sif|make|python) ", block.text, re.M)
    ]
    assert not wrong, "write ```bash or ```console: " + ", ".join(wrong)


_INLINE = re.compile(r"(?<!`)`(sif (?:[^`]+))`(?!`)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_sentences_exist(page: Path) -> None:
    """`sif data build --cap`: the words are commands and the options are theirs; values and arguments may be left out."""
    text = re.sub(r"^```.*?^```|<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    wrong = []
    for found in _INLINE.finditer(text):
        words = found[1].replace("\n", " ").split()[1:]
        command: click.Command = main
        context: click.Context | None = click.Context(main, info_name="sif")
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            assert context is not None
            name = words[0]
            following = command.get_command(context, name)
            if following is None:
                if command.name != "eval" and not _PLACEHOLDER.fullmatch(name) and name not in ("…", "..."):
                    wrong.append(f"{found[0]}: no command {name}")
                words = words if command.name == "eval" else []
                break
            words.pop(0)
            command, context = following, click.Context(following, parent=context)
        known = {"--help", "-h"} | _options(command)
        for word in words:
            flag = word.partition("=")[0]
            if flag.startswith("--") and len(flag) > 2 and known and flag not in known and command.name != "train":
                wrong.append(f"{found[0]}: no option {flag}")
    assert not wrong, "\n".join(wrong)


def _options(command: click.Command) -> set[str]:
    from sifthinker.cli.evaluate import dataset, published

    commands = [dataset, published] if command.name == "eval" else [command]
    return {
        flag
        for each in commands
        for option in each.params
        if isinstance(option, click.Option)
        for flag in (*option.opts, *option.secondary_opts)
    }


# --------------------------------------------------------------------------------------------------------------- Python


_FOREIGN = (
    "torch", "transformers", "trl", "peft", "datasets", "accelerate", "pyarrow", "ray", "gradio", "lmms_eval", "supervision",
    "matplotlib", "scipy", "vlmeval", "swift", "verl",
)  # fmt: skip


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What mypy says of each page's blocks, all in one run; a block's lines are those of the page."""
    folder = tmp_path_factory.mktemp("blocks")
    names = {}
    for page in PAGES:
        lines: list[str] = []
        for block in blocks():
            if block.page == page and block.language == "python" and _syntax_fault(block) is None:
                lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
        if lines:
            name = f"{str(page.relative_to(ROOT)).replace('/', '__').removesuffix('.md').replace('-', '_')}.py"
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
            names[name] = str(page.relative_to(ROOT))
    if not names:
        return {}
    # Third parties are not followed, as in pyproject.toml: their sources take minutes.
    (folder / "mypy.ini").write_text(
        "[mypy]\ncheck_untyped_defs = true\nallow_redefinition = true\ndisable_error_code = no-redef\n"
        f"[mypy-{','.join(f'{name}.*' for name in _FOREIGN)}]\nignore_missing_imports = true\nfollow_imports = skip\n",
        encoding="utf-8",
    )
    options = ["--config-file", "mypy.ini", "--no-error-summary", "--cache-dir", str(ROOT / ".mypy_cache" / "blocks")]
    command = [sys.executable, "-m", "mypy", *options, *sorted(names)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=_with_sources())
    found: dict[str, list[str]] = {page: [] for page in names.values()}
    for line in said.stdout.splitlines():
        name, _, words = line.partition(":")
        if ": error:" in line:
            found.setdefault(names.get(name, name), []).append(f"{names.get(name, name)}:{words}")
    assert said.returncode in (0, 1), said.stdout + said.stderr
    return found


def _with_sources() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "MYPYPATH": str(ROOT / "src")}


def _syntax_fault(block: Block) -> str | None:
    try:
        compile(block.text, block.where, "exec")
    except SyntaxError as error:
        return f"{block.page.relative_to(ROOT)}:{block.line + (error.lineno or 1) - 1}: {error.msg}"
    return None


@pytest.mark.parametrize("block", of("python"))
def test_python_compiles(block: Block) -> None:
    assert _syntax_fault(block) is None


_WITH_PYTHON = sorted({str(block.page.relative_to(ROOT)) for block in blocks() if block.language == "python"})


@pytest.mark.parametrize("page", _WITH_PYTHON)
def test_python_has_right_types(typed: dict[str, list[str]], page: str) -> None:
    assert not (found := typed.get(page, [])), "\n".join(found)


@pytest.mark.parametrize("page", sorted({str(block.page.relative_to(ROOT)) for block in blocks() if block.run}))
def test_python_that_runs_prints_what_the_page_says(page: str, tmp_path: Path) -> None:
    mark = "\x1e"
    run = [block for block in blocks() if block.run and str(block.page.relative_to(ROOT)) == page]
    code = "".join(f"{block.text}\nprint({mark!r})\n" for block in run)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=_with_sources()
    )
    assert done.returncode == 0, f"{page}: {done.stderr[-2000:]}"
    for block, printed in zip(run, done.stdout.split(mark), strict=False):
        if block.printed is not None:
            assert printed.strip() == block.printed.strip(), block.where


# ------------------------------------------------------------------------------------------------------------ YAML, JSON


@pytest.mark.parametrize("block", of("yaml", "yml"))
def test_yaml_is_valid_settings(block: Block, tmp_path: Path) -> None:
    """A first line `# sif data build` or `# sif train sft` says whose settings they are."""
    values = yaml.safe_load(block.text)
    assert isinstance(values, dict | list), f"{block.where}: {values!r}"
    first = block.text.splitlines()[0]
    named = re.match(r"#\s*sif (data build|train(?: (sft|grpo))?|plan)\b", first)
    if not named:
        return
    path = tmp_path / "settings.yaml"
    path.write_text(block.text, encoding="utf-8")
    if named[1] == "data build":
        from sifthinker.engine.settings import BuildSettings

        BuildSettings.from_yaml(path, given={} if "output" in values else {"output": tmp_path / "out"})
    else:
        from sifthinker.training.settings import guess_stage, load_config

        load_config(path, named[2] or guess_stage(path))


@pytest.mark.parametrize("block", of("json", "jsonl"))
def test_json_is_json_and_records_are_records(block: Block) -> None:
    for value in json_of(block):
        if isinstance(value, dict) and {"image", "question", "answer", "boxes"} <= value.keys():
            Record.from_json(value, block.where)


def json_of(block: Block) -> list[Any]:
    """The values of a block: one, or one a line."""
    try:
        return [json.loads(block.text)]
    except json.JSONDecodeError:
        values = []
        for number, line in enumerate(block.text.splitlines()):
            try:
                values.append(json.loads(line or "0"))
            except json.JSONDecodeError as error:
                pytest.fail(f"{block.page.relative_to(ROOT)}:{block.line + number}: {error.msg}")
        return values


# --------------------------------------------------------------------------------------------------- faults that are found


def planted(language: str, text: str) -> Block:
    return Block(ROOT / "README.md", 1, language, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sif data biuld x.jsonl", "No such command 'biuld'"),
        ("sif data build x.jsonl -o out --captain 3", "No such option"),
        ("sif data build x.jsonl -o out --cap 0", "is not in the range"),
        ("sif data build -o out", "Missing argument"),
        ("sif data check x --most 3 | head -3 && sif data show x", "Missing option"),
        ("sif train sft", "Missing argument"),
        ("sif train sftt run.yaml", "is not one of"),
        ("sif train sft run.yaml --learning_rat 1e-5", "No such option"),
        ("sif train grpo run.yaml --rewardz.format 1", "No such option"),
        ("KEY=1 sif think photo.jpg 'What?' \\\n    --protocol chian", "is not one of"),
        ("python -m sifthinker.cli eval vstar --splt test", "No such option"),
        ("make demoo", "no such target"),
        ("python examples/trian.py", "no such script"),
    ],
)
def test_a_wrong_command_is_found(text: str, words: str) -> None:
    (fault,) = faults_of(planted("bash", text))
    assert words.lower() in fault.lower()


@pytest.mark.parametrize(
    "text",
    [
        "sif data build records.jsonl --images photos/ -o chains --cap N   # a comment",
        "sif data build viscot.jsonl \\\n    --depth none \\\n    -o out && sif data check out > faults.txt 2>&1",
        "sif train sft run.yaml --learning_rate 1e-5 --output runs/b --lora.r=4",
        "CUDA_VISIBLE_DEVICES=0 sif eval vstar --model A --model B",
        "sif world build -n 9 -o world",
        "sif eval compare a.json b.json",
        "sif data build …",
        "make test-integrations ONLY='swift verl' WRITE=1",
        "accelerate launch --num_processes 8 -m sifthinker.cli train grpo run.yaml",
        "cat > a.jsonl <<'EOF'\nsif nonsense\nEOF",
        "for f in *.jpg; do sif think \"$f\" 'What?'; done",
        "pip install 'sifthinker[train]'",
        "sif --help",
        "sif eval vstar --help",
    ],
)
def test_a_right_command_passes(text: str) -> None:
    assert list(faults_of(planted("bash", text))) == []


def test_a_page_may_use_what_it_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- adds: regionqa, sunrgbd -->\n", encoding="utf-8")
    assert added(page) == {"regionqa", "sunrgbd"}
    text = "sif data check x.jsonl --format regionqa"
    assert len(list(faults_of(planted("bash", text)))) == 1
    monkeypatch.setattr(sys.modules[__name__], "_NEW", added(page))
    assert list(faults_of(planted("bash", text))) == []


def test_output_in_a_console_is_no_command() -> None:
    text = "$ sif data check out\nsif nonsense\n…\n$ sif data stats out\n"
    assert [command for _, command in command_lines(planted("console", text))] == [
        "sif data check out",
        "sif data stats out",
    ]
    assert list(faults_of(planted("console", text))) == []
