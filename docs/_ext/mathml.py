"""Formulas as MathML, which browsers draw themselves: no JavaScript, no fonts and no network."""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml, toplevel_code
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node, block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_mathml(node, block=True)}</div>')
    raise nodes.SkipNode


def _mathml(node: nodes.Element, *, block: bool) -> str:
    """Return the formula as MathML. A formula that docutils cannot read is a warning, and appears as its source."""
    code = node.astext()
    if block and r"\\" in toplevel_code(code):
        code = rf"\begin{{align*}}{code}\end{{align*}}"
    try:
        return "".join(latex2mathml.tex2mathml(code, as_block=block))
    except MathError as error:
        logger.warning("formula %r: %s", code, error, location=node)
        return f"<code>{escape(code)}</code>"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
