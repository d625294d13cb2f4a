"""The generated reference: commands, settings, Python API, prompts and reason codes, read from the code at build time.

A page asks for a part with a block that holds nothing:

    ```{generated} commands
    ```

The parts are `commands`, `settings`, `api` and `prompts`. Markdown replaces the block before the page is parsed, so its
headings are headings of the page. `{reason-codes}` is an ordinary directive, see `reasons`.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_name, desc_signature
from sphinx.application import Sphinx

from reference import api, commands, options, prompts, reasons

PARTS = {"commands": commands.page, "settings": options.page, "api": api.page, "prompts": prompts.page}
_BLOCK = re.compile(r"^```\{generated\} (\S+)\n```$", re.MULTILINE)


def _expand(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = _BLOCK.sub(lambda found: PARTS[found[1]](), source[0])


def _setting_name(env: Any, name: str, signature: desc_signature) -> str:
    """Show `TrainSettings.model` as `model`: the heading above has the rest."""
    signature += desc_name(name, name.rpartition(".")[2])
    return name


def _dashes(app: Sphinx, doctree: nodes.document) -> None:
    """Sphinx puts `--` between an argument and its description and leaves the dash to smart quotes, which are off."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _expand)
    app.connect("doctree-read", _dashes)
    app.add_object_type("setting", "setting", "pair: %s; setting", _setting_name, nodes.literal, "setting")
    app.add_directive("reason-codes", reasons.ReasonCodes)
    app.connect("autodoc-process-docstring", api.markdown_to_rst, priority=400)  # before napoleon reads sections
    app.connect("autodoc-process-signature", api.short_signature)
    app.connect("object-description-transform", api.readable_types, priority=400)  # before autodoc adds the types
    return {"parallel_read_safe": True, "parallel_write_safe": True}
