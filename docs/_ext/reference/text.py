"""Help texts as Markdown."""

from __future__ import annotations

import inspect
import re

_CODE = re.compile(r"(`[^`]+`)")
_SPECIAL = re.compile(r"([\\*_\[\]<>{}$|#~])")
_FLAG = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")
_DEFAULT = re.compile(r"\s*\[default: ([^\]]+)\]")


def markdown(text: str) -> str:
    """Help text with its flags set as code and nothing in it read as Markdown, except code in backticks."""
    parts = _CODE.split(" ".join(text.split()))
    return "".join(part if index % 2 else _prose(part) for index, part in enumerate(parts))


def _prose(text: str) -> str:
    parts = _FLAG.split(text)
    return "".join(f"`{part}`" if index % 2 else _SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts))


def paragraphs(text: str) -> str:
    """A docstring as Markdown. A paragraph that begins with `\\b`, which click prints as it is, becomes a code block."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(text).partition("\f")[0])
    return "\n\n".join(
        f"```text\n{block.removeprefix(chr(8)).strip(chr(10))}\n```" if block.startswith("\b") else markdown(block)
        for block in blocks
    )


def split_default(text: str) -> tuple[str, str]:
    """(help text without its `[default: …]`, that default as Markdown or "")."""
    found = _DEFAULT.search(text)
    if found is None:
        return text, ""
    rest = _DEFAULT.sub("", text)
    return rest, markdown(found[1])


def sentence(text: str) -> str:
    """The text with a full stop."""
    text = text.strip()
    return text if not text or text.endswith((".", "…", ":")) else f"{text}."
