"""The manual, built once for all tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Site:
    """The built pages, and what Sphinx warned of."""

    html: Path
    warnings: str


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    pytest.importorskip("sphinx")
    if find_spec("sifthinker.lab") is None:
        pytest.skip("the manual describes the embedded world, which is not here")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", folder / "trees", "-w", folder / "warnings"]
    done = subprocess.run([*command, ROOT / "docs", folder / "html"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return Site(folder / "html", (folder / "warnings").read_text(encoding="utf-8"))


@pytest.fixture(scope="session", autouse=True)
def reference_modules() -> Iterator[Any]:
    """The extension that writes the reference can be imported."""
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    yield
    sys.path.remove(str(ROOT / "docs" / "_ext"))
