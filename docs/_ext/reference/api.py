"""The page of the Python API: every public name once, by theme, from its docstring."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

import sifthinker
from reference import options
from sifthinker.settings import Settings

THEMES: dict[str, list[str]] = {
    "Chains": [
        "Chain", "Step", "Region", "parse_chain", "render_chain", "check_chain", "Problem", "find_regions", "find_answer",
        "read_completion", "Reading", "user_prompt",
    ],
    "Boxes": ["convert", "set_iou", "paired_iou", "hierarchical_iou", "smart_resize", "Frame", "Resizer"],
    "Depth and images": ["DepthMap", "DepthSource", "GivenDepth", "ModelDepth", "NoDepth", "load_image"],
    "Records and datasets": ["Record", "Reject", "read_source", "Example", "read_examples", "check_dataset"],
    "Building": [
        "BuildSettings", "SourceSettings", "Expansion", "build", "build_async", "Engine", "expand", "Focus", "Teacher",
        "OpenAITeacher", "LocalTeacher", "Task", "Attempt",
    ],
    "Training": ["TrainSettings", "train"],
    "Rewards and judging": [
        "score_completion", "Reference", "Score", "Scores", "judge", "Verdict", "ModelJudge", "format_reward",
        "answer_reward", "AnswerReward", "Ledger", "grounding_reward", "GroundingReward", "depth_reward",
    ],
    "Thinking": ["ThinkSettings", "think", "think_many", "open_thinker", "Thinker", "LocalThinker", "ServedThinker",
                 "Thought", "Endpoint"],
    "Evaluation": ["EvalSettings", "evaluate", "evaluate_async", "Evaluation", "Result", "Question", "read_questions",
                   "compare", "evaluate_benchmark", "read_benchmark"],
    "Results": ["write_thought", "thought_to_json", "to_detections", "to_coco", "to_label_studio"],
    "Errors": ["SIFError", "BoxError", "ChainError", "ConfigError", "DepthError", "EndpointError", "ImageError",
               "MissingExtraError", "ModelError", "RecordError"],
}  # fmt: skip

# Modules that users import by name; names that are public above are not repeated.
MODULES = ["sifthinker.results", "sifthinker.benchmarks", "sifthinker.scoring.trl", "sifthinker.scoring.verl",
           "sifthinker.scoring.swift"]  # fmt: skip


def page() -> str:
    themed = [name for names in THEMES.values() for name in names]
    missing = sorted(set(sifthinker.__all__) - {"__version__"} - set(themed))
    if missing or len(themed) != len(set(themed)):
        raise ValueError(f"docs/_ext/reference/api.py: give each public name one theme; without one: {missing}")
    lines = []
    for theme, names in THEMES.items():
        lines += [f"## {theme}", "```{eval-rst}", *(_directive(name) for name in names), "```"]
    lines.append("## Modules")
    for module in MODULES:
        known = [name for name in vars(import_module(module)) if name in sifthinker.__all__]
        lines += [f"### `{module}`", "```{eval-rst}", f".. automodule:: {module}\n   :members:"]
        lines += [f"   :exclude-members: {', '.join(known)}"] if known else []
        lines.append("```")
    lines += ["## Settings as objects", "```{eval-rst}"]
    lines += [".. autoclass:: sifthinker.settings.Settings\n   :members: from_yaml, from_values, replace, to_dict\n", "```"]
    return "\n\n".join(lines).replace("\n\n   :", "\n   :")


def _directive(name: str) -> str:
    value = getattr(sifthinker, name)
    if not inspect.isclass(value):
        return f".. autofunction:: sifthinker.{name}\n"
    if issubclass(value, BaseException):
        return f".. autoexception:: sifthinker.{name}\n"
    if issubclass(value, Settings):
        return f".. autoclass:: sifthinker.{name}\n"
    return f".. autoclass:: sifthinker.{name}\n   :members:\n"


def short_signature(
    app: Any, what: str, name: str, value: Any, given: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """Settings have too many fields for a signature; the page of settings lists them."""
    if inspect.isclass(value) and issubclass(value, Settings):
        return "(**fields)", None
    return None


def readable_types(app: Any, domain: str, kind: str, content: Any) -> None:
    """Correct the types that autodoc collects: none for settings, whose fields it would list, and plain names of aliases."""
    known = app.env.current_document.autodoc_annotations
    for types in known.values():
        for name, said in types.items():
            types[name] = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", said)
    for model in options.MODELS:
        for module in ("sifthinker", model.__module__):
            known.pop(f"{module}.{model.__name__}", None)


_FENCE = re.compile(r"^(\s*)```(\w*)\s*$")


def markdown_to_rst(app: Any, what: str, name: str, value: Any, given: Any, lines: list[str]) -> None:
    """Our docstrings use three things of Markdown that reStructuredText reads otherwise: fences, indented code and tables.

    Code becomes code blocks and tables become list tables. Single backticks are code by `default_role`.
    """
    found: list[str] = []
    fence: str | None = None
    for line in lines:
        match = _FENCE.match(line)
        if match and fence is None:
            fence = match[1]
            found += ["", f"{fence}.. code-block:: {match[2] or 'text'}", ""]
        elif match:
            fence = None
            found.append("")
        elif fence is not None:
            found.append(f"   {line}")
        else:
            found.append(line)
    lines[:] = _tables(_indented_code(found))
    if inspect.isclass(value) and issubclass(value, Settings) and value is not Settings:
        heading = options.MODELS[value]
        place = f"`{heading} <settings.html#{options.anchor(heading)}>`__"
        lines += ["", f"The fields are on the page of settings, under {place}.", ""]


_RULE = re.compile(r"\s*\|[\s:|-]+\|\s*")


def _tables(lines: list[str]) -> list[str]:
    found: list[str] = []
    table: list[str] = []
    for line in [*lines, ""]:
        if line.strip().startswith("|") and line.strip().endswith("|"):
            table.append(line)
            continue
        found += _list_table(table)
        table = []
        found.append(line)
    return found


def _list_table(table: list[str]) -> list[str]:
    """A Markdown table as a list table. A row with a blank cell below one that is not blank continues the row above."""
    rows: list[list[str]] = []
    headers = 0
    for line in table:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if _RULE.fullmatch(line):
            headers = len(rows)
        elif len(rows) > headers and any(above and not cell for above, cell in zip(rows[-1], cells, strict=True)):
            rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    if not rows:
        return []
    indent = " " * (len(table[0]) - len(table[0].lstrip()))
    found = ["", f"{indent}.. list-table::", *([f"{indent}   :header-rows: {headers}"] if headers else []), ""]
    for cells in rows:
        found += [f"{indent}   {'* -' if number == 0 else '  -'} {cell}" for number, cell in enumerate(cells)]
    return [*found, ""]


def _indented_code(lines: list[str]) -> list[str]:
    """Four spaces at the level of the text, after a blank line, are code in Markdown and a quotation in RST."""
    found: list[str] = []
    for index, line in enumerate(lines):
        before = next((other for other in reversed(lines[:index]) if other.strip()), "")
        if (
            line.startswith("    ")
            and index
            and not lines[index - 1].strip()
            and before
            and not before.startswith((" ", ".."))
            and not _is_section(before)
        ):
            found += [".. code-block:: text", ""]
        found.append(line)
    return found


def _is_section(line: str) -> bool:
    return re.fullmatch(r"(Args|Returns|Raises|Yields|Example|Examples|Attributes|Source|Note):", line) is not None
