"""The generated reference lists every command, setting, public name and reason code."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import click
import pytest

import sifthinker
from sifthinker.cli.main import main
from sifthinker.settings import Settings

from .conftest import Site

SOURCE = Path(sifthinker.__file__).parent


@pytest.fixture(scope="module")
def listed(site: Site) -> Mapping[str, set[str]]:
    """What the index of the manual lists, by kind: `std:cmdoption` → its names."""
    from sphinx.util.inventory import InventoryFile

    loaded = InventoryFile.loads((site.html / "objects.inv").read_bytes(), uri="")
    return {kind: set(found) for kind, found in loaded.data.items()}


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for part in command.list_commands(context):
            found = command.get_command(context, part)
            assert found is not None
            yield from commands(f"{name} {part}", found)


def test_every_command_and_option_is_listed(site: Site, listed: Mapping[str, set[str]]) -> None:
    page = (site.html / "reference" / "commands.html").read_text(encoding="utf-8")
    for name, command in commands("sif", main):
        anchor = "the-command-sif" if name == "sif" else name.replace(" ", "-")
        assert f'id="{anchor}"' in page, name
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                for flag in (*option.opts, *option.secondary_opts):
                    if flag not in ("-h", "--help"):
                        assert f"{name.replace(' ', '-')}.{flag}" in listed["std:cmdoption"], (name, flag)


def test_the_options_of_an_evaluation_are_listed(listed: Mapping[str, set[str]]) -> None:
    """`sif eval DATASET` and `sif eval BENCHMARK` are no commands of click's."""
    assert {"sif-eval-DATASET.--protocol", "sif-eval-BENCHMARK.--split"} <= listed["std:cmdoption"]


def all_settings(base: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for found in base.__subclasses__():
        if found.__module__.startswith("sifthinker.") and not found.__name__.startswith("_"):
            yield found
        yield from all_settings(found)


def test_every_setting_is_listed(listed: Mapping[str, set[str]]) -> None:
    for module in pkgutil.walk_packages(sifthinker.__path__, "sifthinker."):
        if module.name.rpartition(".")[2].endswith("settings"):
            import_module(module.name)
    found = {
        f"{model.__name__}.{name}"
        for model in all_settings()
        for name in model.__annotations__
        if name in model.model_fields
    }
    assert len(found) > 100
    assert found - listed["std:setting"] == set()


def test_every_public_name_is_listed_once(site: Site, listed: Mapping[str, set[str]]) -> None:
    known = set().union(*(listed[kind] for kind in ("py:class", "py:function", "py:exception")))
    names = set(sifthinker.__all__) - {"__version__"}
    assert {name for name in names if f"sifthinker.{name}" not in known} == set()
    page = (site.html / "reference" / "api.html").read_text(encoding="utf-8")
    assert {name for name in names if page.count(f'id="sifthinker.{name}"') != 1} == set()


def test_no_docstring_is_left_as_markup(site: Site) -> None:
    """What reStructuredText did not understand shows in the page."""
    page = (site.html / "reference" / "api.html").read_text(encoding="utf-8")
    prose = re.sub(r"<(pre|code|dt)\b.*?</\1>|<[^>]+>", "", page, flags=re.DOTALL)
    assert re.findall(r".{0,40}(?:``|\*\*|:class:|:func:|\|--).{0,40}", prose) == []


def test_no_page_shows_the_internals_of_a_type(site: Site) -> None:
    """An address in memory would also differ in every build."""
    internals = re.compile(r".{0,60}(?: object at 0x|FieldInfo\(|Annotated\[|ForwardRef\().{0,60}")
    for path in site.html.rglob("*.html"):
        assert internals.findall(path.read_text(encoding="utf-8")) == [], path


def test_every_reason_code_is_on_a_page(site: Site) -> None:
    from reference.reasons import groups

    text = "".join(path.read_text(encoding="utf-8") for path in site.html.rglob("*.html") if "_modules" not in path.parts)
    marked = set(re.findall(r'<code class="docutils literal notranslate"><span class="pre">([^<]+)</span></code>', text))
    codes = {(name, code.replace("<n>", "&lt;n&gt;")) for name, group in groups().items() for code in group.codes}
    assert {(name, code) for name, code in codes if code not in marked} == set()


# Calls that take a reason code → where it stands among the arguments, and the groups that explain it.
_CALLS = {
    "RecordError": (1, ("records", "findings", "files")),
    "ImageError": (1, ("records", "files")),
    "Reject": (2, ("records", "teacher")),
    "Finding": (2, ("findings", "records")),
    "Problem": (0, ("chain", "replies")),
    "ChainError": (0, ("chain",)),
    "Fault": (0, ("server",)),
    "EndpointError": (1, ("server",)),
    "Attempt": (2, ("teacher",)),
    "Score": (2, ("rewards",)),
    "Reply": (4, ("replies",)),
}


def emitted() -> Iterator[tuple[str, str, str]]:
    """(class, code, place) of every reason code that a call states as text, however it is chosen."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name == "finding":  # a closure of the checks: code, message
                name, at = "Finding", 0
            elif name in _CALLS:
                at = _CALLS[name][0]
            else:
                continue
            given = node.args[at] if len(node.args) > at else None
            given = next((word.value for word in node.keywords if word.arg in ("code", "reasons")), given)
            for code in _texts(given):
                yield name, code, f"{path.relative_to(SOURCE)}:{node.lineno}"


def _texts(node: ast.expr | None) -> Iterator[str]:
    """The texts that an expression may be; an f-string as far as its first value, with * for that."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.Tuple):
        for part in node.elts:
            yield from _texts(part)


def test_every_code_that_the_program_can_state_has_words() -> None:
    from reference.reasons import groups

    known = groups()
    found = list(emitted())
    assert len(found) > 150
    wrong = []
    for name, code, place in found:
        if code in ("", "partial"):  # no code, and a reply that is still being written
            continue
        codes = {each for group in _CALLS[name][1] for each in known[group].codes}
        pattern = re.escape(code.replace("status_*", "status_<n>")).replace(r"\*", ".+")
        if not any(re.fullmatch(pattern, each) for each in codes):
            wrong.append(f"{place}: {name} {code}")
    assert wrong == []


def test_every_rule_of_the_judge_has_words() -> None:
    """The answer reward's reasons are made of the rule that decided."""
    from sifthinker.scoring.rewards import REASONS

    rules = set()
    for path in (SOURCE / "scoring" / "answers.py", SOURCE / "scoring" / "judge.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Verdict", "_verdict"):
                always_right = isinstance(node.args[0], ast.Constant) and node.args[0].value == 1
                rules |= set() if always_right else set(_texts(node.args[1]))
    assert {f"judged_{rule}" for rule in rules} == {code for code in REASONS if code.startswith("judged_")}


def test_words_of_codes_are_sentences_without_a_full_stop() -> None:
    from reference.reasons import groups

    for group in groups().values():
        for code, words in group.codes.items():
            assert words.strip(), code
            assert not words.endswith("."), (code, words)
