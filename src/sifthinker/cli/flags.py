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

from sifthinker.settings import Leaf, Settings, flag_of, leaves, option_names


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


class Option(click.Option):
    """An option whose help shows N for a whole number and NUMBER for any other, and ranges in words."""

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        if self.metavar is None and not self.is_flag:
            whole = isinstance(self.type, click.types.IntParamType)
            self.metavar = "N" if whole else "NUMBER" if isinstance(self.type, click.types.FloatParamType) else None

    @property
    def limits(self) -> str:
        """The range of the value in words, "" for none."""
        kind = self.type
        if not isinstance(kind, click.IntRange | click.FloatRange):
            return ""
        return bounds(kind.min, kind.max, low_open=kind.min_open, high_open=kind.max_open)

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        """Return what the help adds in brackets."""
        extra = super().get_help_extra(ctx)
        if self.limits:
            extra["range"] = self.limits
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        return extra


def option(*names: str, **values: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return `click.option` with the class `Option`."""
    return click.option(*names, cls=Option, **values)


def bounds(low: float | None, high: float | None, *, low_open: bool = False, high_open: bool = False) -> str:
    """Return a range in words, "" for none.

    Example:
        >>> bounds(0, 1), bounds(0, 1, high_open=True), bounds(1, None)
        ('from 0 to 1', 'at least 0 and below 1', 'at least 1')
    """
    if low is not None and high is not None and not low_open and not high_open:
        return f"from {low:g} to {high:g}"
    words = []
    if low is not None:
        words.append(f"above {low:g}" if low_open else f"at least {low:g}")
    if high is not None:
        words.append(f"below {high:g}" if high_open else f"at most {high:g}")
    return " and ".join(words)


class _FieldOption(Option):
    """An option made from a field of settings, with the heading of its group and the field's own help."""

    def __init__(self, *arguments: Any, group: str, field_help: str, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self.group = group
        self.field_help = field_help


def _pairs(text: str) -> dict[str, str]:
    """Parse `field=column,…` to a mapping.

    Raises:
        click.BadParameter: the text has another form.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(key.strip() and item.strip() for key, _, item in pairs):
        raise click.BadParameter(f"expected {_PAIRS}, separated by commas, got {text!r}")
    return {key.strip(): item.strip() for key, _, item in pairs}


_PAIRS = "FIELD=COLUMN,…"


def click_options(
    settings: type[Settings],
    fields: Mapping[str, Iterable[str]] | Iterable[str] | None = None,
    *,
    into: str = "given",
    helps: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds options for the fields of a settings class to a command.

    Args:
        settings: the settings class.
        fields: names of the fields that become options, in this order; or a mapping from heading to such names, with "" for
            plain `Options`. By default all fields except sections and lists of sections, which have no option form.
        into: the argument of the command that receives what the user gave: field → value.
        helps: field → help text, where the field's own help covers more than this command.
    Raises:
        KeyError: the settings have no such field, or it has no option form.
    """
    if fields is None:
        fields = [name for name, item in settings.model_fields.items() if _kind(item) is not None]
    groups = fields if isinstance(fields, Mapping) else {"": fields}
    names = [(name, title) for title, members in groups.items() for name in members]
    options = [(name, _option(name, settings.model_fields[name], title, (helps or {}).get(name))) for name, title in names]

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

        for _, add in reversed(options):
            called = add(called)
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


def _option(
    name: str, item: FieldInfo, group: str, help_text: str | None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = flag_of(item)
    names = option_names(name, item)
    found = _kind(item)
    if found is None:
        raise KeyError(f"{name}: this type of field cannot be a command-line option")
    leaf, multiple = found
    default = item.get_default(call_default_factory=True, validated_data={}) if not item.is_required() else None
    own = " ".join((item.description or "").partition("\n\n")[0].split())
    values: dict[str, Any] = {"help": help_text or own, "group": group, "field_help": own}
    if leaf.kind is bool:
        names = (*names[:-1], f"{names[-1]}/--no-{names[-1].removeprefix('--')}") if default else names
        values |= {"is_flag": True, "default": bool(default)}
    else:
        values |= {
            "type": _type(leaf),
            "multiple": multiple,
            "metavar": flag.metavar or (_PAIRS if leaf.kind is Mapping else None),
            "required": item.is_required(),
        }
        if leaf.kind is float and isinstance(default, float) and default.is_integer():
            default = int(default)  # people write 120, not 120.0
        if not item.is_required():
            values["default"] = default or None if leaf.kind is Mapping else default
        values["show_default"] = flag.default or default not in (None, "", (), {})
    return click.option(name, *names, cls=_FieldOption, **values)


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
