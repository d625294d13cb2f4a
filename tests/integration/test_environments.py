"""How environments of third parties are made and what is written about them; nothing here needs a network."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.version import Version

from .environments import HERE, ROOT, ThirdPartyError, make, prepare, third_parties
from .table import BEGIN, END, Outcome, write_rows

TODAY = date(2026, 11, 26)


def entry(*steps: dict) -> dict:
    return {"title": "It", "versions": ["pytest"], "on_ours": True, "step": list(steps)}


@pytest.fixture
def no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own environment has the core dependencies; pip need not look for them."""
    monkeypatch.setattr("tests.integration.environments._core", list)


def test_every_pin_says_why_and_since_when() -> None:
    assert third_parties()  # refuses others


def test_what_an_entry_lacks_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('[a]\ntitle = "A"\n[[a.step]]\ninstall = ["x"]\nshim = "none"\nnote = 1\n')
    with pytest.raises(ThirdPartyError) as told:
        third_parties(tmp_path / "t.toml")
    wanted = "[a] has no versions", "must have one of install, uninstall and shim", "does not say why", "on which date"
    for words in (*wanted, "there is no shims/none.py", "unknown key note"):
        assert words in str(told.value)


def test_every_third_party_has_tests_and_every_test_a_third_party() -> None:
    modules = {file.stem.removeprefix("test_") for file in HERE.glob("test_*.py")} - {"environments"}
    assert modules == set(third_parties())


def test_an_unknown_name() -> None:
    with pytest.raises(ThirdPartyError, match=r"has no \[nothing\]; it has .*verl"):
        prepare("nothing")


def test_what_failed_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row in the docs is written at the end of a run, and asks for the environment once more."""
    tried: list[str] = []

    def fails(name: str, entry: dict, parent: Path) -> None:
        tried.append(name)
        raise ThirdPartyError("pip failed")

    monkeypatch.setattr("tests.integration.environments.third_parties", lambda: {"it": entry()})
    monkeypatch.setattr("tests.integration.environments.make", fails)
    for _ in range(2):
        with pytest.raises(ThirdPartyError, match="pip failed"):
            prepare("it")
    assert tried == ["it"]


@pytest.mark.usefixtures("no_core")
def test_an_environment_is_made_once(tmp_path: Path) -> None:
    first = make("it", entry(), tmp_path)
    (first.folder / "kept").touch()
    assert make("it", entry(), tmp_path) == first
    assert (first.folder / "kept").exists()
    # Another entry makes another one, and so does one that was not completed.
    assert (
        make("it", entry({"uninstall": ["nothing-of-this-name"], "why": "w", "seen": TODAY}), tmp_path).folder
        == first.folder
    )
    assert not (first.folder / "kept").exists()
    (first.folder / "kept").touch()
    (first.folder / "made.json").write_text("{")
    make("it", entry(), tmp_path)
    assert not (first.folder / "kept").exists()


@pytest.mark.usefixtures("no_core")
def test_a_failing_install_shows_what_pip_said(tmp_path: Path) -> None:
    with pytest.raises(ThirdPartyError, match=r"status 1: .* -m pip (.|\n)*ERROR: such\.whl is not"):
        make("it", entry({"install": ["/no/such.whl"], "why": "w", "seen": TODAY}), tmp_path)
    assert not (tmp_path / "it" / "made.json").exists()


@pytest.mark.usefixtures("no_core")
def test_commands_of_an_environment(tmp_path: Path) -> None:
    it = make("it", entry(), tmp_path)
    assert it.versions() == {"pytest": pytest.__version__}
    code = "import os, sifthinker; print(sifthinker.__file__, os.environ['HF_HUB_OFFLINE'], os.environ['MORE'])"
    said = it.command(it.python, "-c", code, variables={"MORE": "m"}).stdout.split()
    assert said == [str(ROOT / "src" / "sifthinker" / "__init__.py"), "1", "m"]
    with pytest.raises(ThirdPartyError, match=r"status 3(.|\n)*the last words"):
        it.command(it.python, "-c", "import sys; print('the last words', file=sys.stderr); sys.exit(3)")
    with pytest.raises(ThirdPartyError, match="stopped after 0 seconds"):
        it.command(it.python, "-c", "import time; time.sleep(60)", timeout_s=0.3)


def phase(when: str, outcome: str = "passed", duration: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(when=when, outcome=outcome, duration=duration)


@pytest.mark.usefixtures("no_core")
def test_the_row_of_a_third_party(tmp_path: Path) -> None:
    outcome = Outcome()
    outcome.add("Trains two steps", phase("setup", duration=600))  # the environment's time is told apart
    outcome.add("Trains two steps", phase("call", duration=200))
    outcome.add("Serves", phase("call", "failed", 70))
    row = outcome.row(make("it", entry(), tmp_path), TODAY)
    assert row.startswith(f"| It | pytest {pytest.__version__} | Trains two steps; **failed**: Serves | ")
    # 200 + 70 = 270 seconds
    assert row.endswith(" | under 1 min, 4 min | 2026-11-26 |")


def test_a_run_of_one_keeps_the_rows_of_the_others(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    titles = ["A", "B"]
    write_rows(page, {"B": "| B | old |", "C": "| C | of nobody |"}, titles)
    write_rows(page, {"A": "| A | new |"}, titles)
    head, a, b = page.read_text().split(f"{BEGIN}\n")[1].split(f"\n{END}")[0].rsplit("\n", 2)
    assert head.startswith("| third party |")
    assert (a, b) == ("| A | new |", "| B | old |")
    assert page.read_text().endswith(f"{END}\nafter\n")
    (tmp_path / "other.md").write_text("no table")
    with pytest.raises(ValueError, match="no table between"):
        write_rows(tmp_path / "other.md", {}, titles)


def test_the_page_has_the_table() -> None:
    text = (ROOT / "docs" / "reference" / "integrations.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1


def test_the_environments_lie_where_git_does_not_look() -> None:
    assert "/.integrations/" in (ROOT / ".gitignore").read_text().split()


def test_the_lowest_versions_that_are_tested_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def pins(requirements: list[str], sign: str) -> dict[str, Version]:
        pattern = re.compile(rf"([\w-]+){sign}([\d.]+)")
        return {found[1]: Version(found[2]) for found in map(pattern.match, requirements) if found}

    core = pins(project["dependencies"], ">=")
    every = {**core, **pins(extras["models"], ">="), **pins(extras["train"], ">=")}
    assert core
    tested = {name: pins(third_parties()[name]["step"][0]["install"], "==") for name in ("floor", "floor_core")}
    assert tested["floor_core"] == core
    differing = {name for name, version in every.items() if tested["floor"][name] != version}
    assert differing == {"click", "torch"}, "others are newer than pyproject.toml says; the entry gives the reason for these"
