"""Click options built from the fields of a `Settings` class.

    @main.command(cls=Command)
    @click_options(BuildSettings, {"Depth": ["depth", "depth_near"], "": ["seed"]})
    def build(given: dict[str, Any]) -> None: ...

The field defines the option's name, type, bounds, default and help. `given` contains only what the user gave. Otherwise
the default of an option would override a value from a file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click
from click.core import ParameterSource
from pydantic.fields import FieldInfo

from sifthinker.settings import Flag, Leaf, Settings, leaves


class Command(click.Command):
    """A command whose help lists options by group, each group under a heading."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those without a group first."""
        groups: dict[str, list[tuple[str, str]]] = {"": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(parameter, "group", ""), []).append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title or "Options"):
                    formatter.write_dl(records)


class _Option(click.Option):
    """An option with the heading of its group."""

    def __init__(self, *arguments: Any, group: str, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self.group = group


def _pairs(text: str) -> dict[str, str]:
    """Parse `ours=theirs,…` to a mapping.

    Raises:
        click.BadParameter: the text has another form.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(key.strip() and item.strip() for key, _, item in pairs):
        raise click.BadParameter(f"expected {_PAIRS}, separated by commas, got {text!r}")
    return {key.strip(): item.strip() for key, _, item in pairs}


_PAIRS = "OURS=THEIRS,…"
_METAVARS = {Mapping: _PAIRS, int: "N", float: "NUMBER"}


def click_options(
    settings: type[Settings], fields: Mapping[str, Iterable[str]] | Iterable[str] | None = None, *, into: str = "given"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds options for the fields of a settings class to a command.

    Args:
        settings: the settings class.
        fields: names of the fields that become options, in this order; or a mapping from heading to such names, with "" for
            plain `Options`. By default all fields except sections and lists of sections, which have no option form.
        into: the argument of the command that receives what the user gave: field → value.
    Raises:
        KeyError: the settings have no such field, or it has no option form.
    """
    if fields is None:
        fields = [name for name, item in settings.model_fields.items() if _kind(item) is not None]
    groups = fields if isinstance(fields, Mapping) else {"": fields}
    names = [(name, title) for title, members in groups.items() for name in members]
    options = [(name, _option(name, settings.model_fields[name], title)) for name, title in names]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*arguments: Any, **values: Any) -> Any:
            context = click.get_current_context()
            found = {name: values.pop(name) for name, _ in options}
            given = {
                name: value
                for name, value in found.items()
                if context.get_parameter_source(name) is not ParameterSource.DEFAULT
            }
            return function(*arguments, **{into: given}, **values)

        for _, option in reversed(options):
            called = option(called)
        return called

    return decorate


def direct_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the switch `--direct`, short for `--protocol direct`, to the same `given`. Goes below `click_options`."""

    @functools.wraps(function)
    def called(*arguments: Any, given: dict[str, Any], direct: bool, **values: Any) -> Any:
        if direct and given.get("protocol", "direct") != "direct":
            raise click.UsageError(f"--direct and --protocol {given['protocol']} exclude each other. Leave one out")
        return function(*arguments, given={**given, **({"protocol": "direct"} if direct else {})}, **values)

    return click.option("--direct", is_flag=True, help="Short for --protocol direct.")(called)


def _option(name: str, item: FieldInfo, group: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = next((extra for extra in item.metadata if isinstance(extra, Flag)), Flag())
    names = flag.names or (f"--{name.replace('_', '-')}",)
    found = _kind(item)
    if found is None:
        raise KeyError(f"{name}: this type of field cannot be a command-line option")
    leaf, multiple = found
    default = item.get_default(call_default_factory=True, validated_data={}) if not item.is_required() else None
    values: dict[str, Any] = {"help": " ".join((item.description or "").partition("\n\n")[0].split()), "group": group}
    if leaf.kind is bool:
        names = (*names[:-1], f"{names[-1]}/--no-{names[-1].removeprefix('--')}") if default else names
        values |= {"is_flag": True, "default": bool(default)}
    else:
        values |= {
            "type": _type(leaf),
            "multiple": multiple,
            "metavar": flag.metavar or _METAVARS.get(leaf.kind),
            "required": item.is_required(),
        }
        if leaf.kind is float and isinstance(default, float) and default.is_integer():
            default = int(default)  # people write 120, not 120.0
        if not item.is_required():
            values["default"] = default or None if leaf.kind is Mapping else default
        values["show_default"] = flag.default or default not in (None, "", (), {})
    return click.option(name, *names, cls=_Option, **values)


def _kind(item: FieldInfo) -> tuple[Leaf, bool] | None:
    """Return the type of one value and whether the option is repeatable; None if the field has no option form."""
    found = leaves(item)
    if found[0].kind is Sequence:
        (leaf,) = leaves(FieldInfo(annotation=found[0].of))
        return None if _is_section(leaf) else (leaf, True)
    return None if _is_section(found[0]) else (found[0], False)


def _is_section(leaf: Leaf) -> bool:
    return isinstance(leaf.kind, type) and issubclass(leaf.kind, Settings)


def _type(leaf: Leaf) -> Any:
    if leaf.kind is Literal:
        return click.Choice([str(name) for name in leaf.names])
    if leaf.kind is Mapping:
        return _pairs
    if leaf.kind is Path:
        return click.Path(path_type=Path)
    if leaf.kind in (int, float):
        limits = {
            key: getattr(limit, key) for limit in leaf.limits for key in ("gt", "ge", "lt", "le") if hasattr(limit, key)
        }
        low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
        if leaf.kind is int:  # an int above 0 is an int from 1
            low = low + ("gt" in limits) if low is not None else None
            high = high - ("lt" in limits) if high is not None else None
            return click.IntRange(low, high) if limits else click.INT
        if limits:
            return click.FloatRange(low, high, min_open="gt" in limits, max_open="lt" in limits)
        return click.FLOAT
    return click.STRING
