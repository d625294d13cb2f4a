"""The notebooks of the manual run, and their stored text is what they print. `SIF_WRITE_DOCS=1` stores the outputs anew."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

from jupyter_client.kernelspec import KernelSpec  # noqa: E402
from jupyter_client.manager import AsyncKernelManager  # noqa: E402

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
LARGEST_NOTEBOOK = 300_000  # bytes
LARGEST_IMAGE = 60_000


class ThisPython(AsyncKernelManager):
    """Starts a kernel in the running Python, so that no kernel needs to be installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=start, display_name="this Python", language="python")


def outputs(notebook: Any) -> list[list[tuple[str, str]]]:
    """The outputs of each code cell as (kind, text); an image counts by its type alone."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        shown = []
        for output in cell.outputs:
            if output.output_type == "stream":
                shown.append((output.name, output.text))
                continue
            # The forms of one output are a JSON object, whose order means nothing: nbformat sorts it when it writes.
            forms = sorted(output.data.items())
            shown += [(kind, "" if kind.startswith("image/") else data) for kind, data in forms]
        found.append(shown)
    return found


@pytest.mark.parametrize("name", ["chains", "score"])
def test_notebook_runs_and_prints_what_it_stores(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    stored, ran = (nbformat.read(path, as_version=4) for _ in range(2))
    place = {"metadata": {"path": str(FOLDER)}}
    nbclient.NotebookClient(ran, timeout=300, kernel_manager_class=ThisPython, resources=place).execute()
    assert not [text for cell in outputs(ran) for kind, text in cell if kind == "stderr"]
    if os.environ.get("SIF_WRITE_DOCS"):
        for cell in ran.cells:
            cell.metadata.pop("execution", None)  # times
        nbformat.write(ran, path)
    else:
        assert outputs(ran) == outputs(stored), f"SIF_WRITE_DOCS=1 pytest {Path(__file__).name} stores the outputs anew"


@pytest.mark.parametrize("name", ["chains", "score"])
def test_stored_outputs_are_small(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size <= LARGEST_NOTEBOOK
    notebook = nbformat.read(path, as_version=4)
    images = [
        len(data) * 3 // 4  # base64
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind, data in output.get("data", {}).items()
        if kind.startswith("image/")
    ]
    assert images
    assert max(images) <= LARGEST_IMAGE
