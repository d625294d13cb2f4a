"""Formulas as MathML, which browsers draw themselves: no JavaScript, no fonts and no network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml, toplevel_code
from sphinx.application import Sphinx


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def _mathml(code: str, *, block: bool) -> str:
    if block and r"\\" in toplevel_code(code):
        code = rf"\begin{{align*}}{code}\end{{align*}}"
    return "".join(latex2mathml.tex2mathml(code, as_block=block))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
