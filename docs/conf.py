"""Build of the manual. `make docs` writes static pages to docs/_build/html, which open from disk without a network."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes

from sifthinker import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "SIFThinker"
author = "The SIFThinker authors"
copyright = "the SIFThinker authors, Apache-2.0"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "mathml", "reference"]
exclude_patterns = ["_build", "_ext", "tutorial/work"]

# Docstrings write code in single backticks, as Markdown does.
default_role = "code"
smartquotes = False  # `--` and quotation marks are often code here
autodoc_typehints = "description"
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Boxes")}
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_custom_sections = [("Source", "notes")]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath"]
myst_heading_anchors = 4
# Notebooks are executed by the tests, not by the build.
nb_execution_mode = "off"
copybutton_prompt_text = "$ "

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_title = f"SIFThinker {release}"
html_show_sourcelink = False
html_domain_indices = False
html_copy_source = False
# Summaries are fetched, which a browser refuses for pages that were opened from disk.
html_show_search_summary = False
html_math_renderer = "mathml"


def mark_options(app: object, doctree: nodes.document, *_: object) -> None:
    """Give options such as `--no-files` a class, so that the style can keep them on one line."""
    for code in doctree.findall(nodes.literal):
        if code.astext().startswith("-") and " " not in code.astext():
            code["classes"].append("option")


def setup(app: object) -> None:
    """Connect `mark_options`."""
    app.connect("doctree-resolved", mark_options)  # type: ignore[attr-defined]
