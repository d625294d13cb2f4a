"""The page of commands, from the click objects."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import click

from reference.text import markdown, paragraphs, sentence, split_default
from sifthinker.cli.flags import Option
from sifthinker.cli.main import main


def walk() -> Iterator[tuple[str, click.Command]]:
    """Every command by the words that run it, groups before their commands, in the order of the help."""
    yield from _walk("sif", main)


def _walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if not isinstance(command, click.Group):
        return
    if name == "sif eval":  # what stands there in place of a command
        from sifthinker.cli.evaluate import dataset, published

        yield "sif eval DATASET", dataset
        yield "sif eval BENCHMARK", published
    context = click.Context(command, info_name=name)
    for part in command.list_commands(context):
        found = command.get_command(context, part)
        assert found is not None
        if not found.hidden:
            yield from _walk(f"{name} {part}", found)


def page() -> str:
    return "\n\n".join(_command(name, command) for name, command in walk())


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name.removesuffix(" DATASET"))
    level = 2 if name == "sif" else min(3, name.count(" ") + 1)
    lines = [f"{'#' * level} `{name}`" if name != "sif" else "## The command `sif`"]
    usage = inspect.cleandoc(command.get_usage(context).removeprefix("Usage: "))
    lines += [paragraphs(command.help or ""), f"```text\n{usage}\n```"]
    if isinstance(command, click.Group):
        prefix = f"{name} "
        rest = [other for other, _ in walk() if other.startswith(prefix) and " " not in other.removeprefix(prefix)]
        lines.append("Commands: " + ", ".join(f"[`{other}`](#{anchor(other)})" for other in rest) + ".")
        if name == "sif eval":  # its options are those of `sif eval DATASET`
            return "\n\n".join(lines)
    arguments = [found for found in command.params if isinstance(found, click.Argument)]
    if arguments:
        lines += [":::{rubric} Arguments\n:::", *(_argument(found) for found in arguments)]
    lines.append(f":::{{program}} {name}\n:::")
    groups: dict[str, list[click.Option]] = {}
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden and "--help" not in parameter.opts:
            groups.setdefault(getattr(parameter, "group", "") or "Options", []).append(parameter)
    for title, found in sorted(groups.items(), key=lambda item: item[0] != "Options"):
        lines += [f":::{{rubric}} {title}\n:::", *(_option(parameter) for parameter in found)]
    return "\n\n".join(lines)


def anchor(name: str) -> str:
    """The anchor of a command's heading on this page."""
    return name.lower().replace(" ", "-")


def _argument(argument: click.Argument) -> str:
    kind = argument.type
    name = argument.metavar or (argument.name or "").upper()
    if isinstance(kind, click.Choice):
        said = f"{_one_of(kind)}."
    elif isinstance(kind, click.Path) or "FILE" in name or "DATASET" in name:
        said = "Path."
    else:
        said = "Text."
    if argument.required and argument.nargs == -1:
        said += " One or more of them."
    if not argument.required:
        said += " May be left out." if argument.nargs != -1 else " Any number of them, or none."
    return f"`{name}`\n: {said}"


def _one_of(kind: click.Choice[Any]) -> str:
    return f"One of {', '.join(f'`{choice}`' for choice in kind.choices)}"


def _option(option: click.Option) -> str:
    flags = ", ".join([*sorted(option.opts, key=len), *option.secondary_opts])
    kind = option.type
    value = ""
    if not option.is_flag:
        choices = "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else ""
        value = option.metavar or choices or ("PATH" if isinstance(kind, click.Path) else "TEXT")
    text, default = split_default(option.help or "")
    facts = []
    if option.required:
        facts.append("Required.")
    if isinstance(option, Option) and option.limits:
        facts.append(sentence(option.limits[:1].upper() + option.limits[1:]))
    if option.multiple and "Repeatable" not in text:
        facts.append("Repeatable.")
    default = default or _default(option)
    if default:
        facts.append(f"Default: {default}.")
    body = " ".join([sentence(markdown(text)), *facts]).strip()
    return f":::{{option}} {flags}{f' {value}' if value else ''}\n{body}\n:::"


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return f"`{option.show_default}`"
    default = option.default
    if option.required or option.multiple or callable(default) or default is None:
        return ""
    if "UNSET" in repr(default) or (option.is_flag and not default):
        return ""
    if option.is_flag:
        return f"`{max(option.opts, key=len)}`"
    return f"`{default}`" if str(default) else ""
