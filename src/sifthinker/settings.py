"""Settings of builds, training runs and evaluations, defined once for YAML files, the command line and Python.

A subclass of `Settings` defines the type, default, bounds and help of every field. There are three ways to make one: a YAML
file (`from_yaml`), the command line (`flags.click_options`) and Python (the class itself). Invalid values raise one
`ConfigError`. It lists every fault with its place, the value and the expected value.

    class Lora(Settings):
        r: Annotated[PositiveInt, Field(description="Rank of the adapters.")] = 8

    Lora(r=16)
    Lora.from_yaml("lora.yaml", ["r=16"])
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    Self,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
)

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from sifthinker.errors import ConfigError
from sifthinker.files import read_yaml, unknown_key, yaml_fault

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

logger = logging.getLogger(__name__)

_SHOWN = 200  # characters of a wrong value in a message


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class _OurErrors(ModelMetaclass):
    """Raises a `ConfigError` when a settings class is called with invalid values.

    A metaclass sees only the outermost call. Pydantic can therefore still collect the faults of nested settings with their
    places.
    """

    if not TYPE_CHECKING:  # type checkers must see the fields as arguments

        def __call__(cls, *args: Any, **values: Any) -> Any:  # noqa: N805
            if args:
                raise ConfigError(
                    f"{cls.__name__}: expected keyword arguments, got {_shown(args[0])}. Write {cls.__name__}(name=value), "
                    f"or {cls.__name__}.from_values({{…}}) for a dict"
                )
            try:
                return super().__call__(**values)
            except ValidationError as error:
                raise _faults_error(cls, error, values, Origin(cls.__name__)) from None


class Settings(BaseModel, metaclass=_OurErrors):
    """Base class of all settings: frozen, validated, and strict about keys. The docstring below a field is its help text.

    Values are read the way people write them in YAML:

    - `1e-5` is a number if the field is a number, although YAML 1.1 reads it as text.
    - A bare `off` or `no` is a name if the field has that name, although YAML 1.1 reads it as false.
    - One value stands for a list of one.
    - An empty section stands for its defaults.

    Nothing else is converted. `true` is not a number, and neither are NaN and infinity.

    Raises:
        ConfigError: unknown keys, missing keys or invalid values. One message lists all of them.
    Example:
        >>> class Server(Settings):
        ...     port: PositiveInt = 80
        >>> Server(port="8e3").port
        8000
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    RENAMED: ClassVar[Mapping[str, str]] = {}  # old key → new key: the old one is accepted and logs a warning
    GONE: ClassVar[Mapping[str, str]] = {}  # old key → what to do instead: the old key is an error with this text
    FROM_TEXT: ClassVar[str | None] = None  # the field that plain text or a path stands for, if given for the settings

    @classmethod
    def from_yaml(
        cls, path: str | os.PathLike[str], overrides: Iterable[str] = (), *, given: Mapping[str, Any] | None = None
    ) -> Self:
        """Read a YAML file.

        Args:
            path: the file.
            overrides: `key=value` texts that override the file. The key is dotted (`lora.r=8`), the value is YAML. Messages
                name a key as it is written here, so a command line writes `--key=value`.
            given: fields that override both, as from the options of a command line.
        Raises:
            ConfigError: the file is missing or not YAML, or a value is invalid. The message gives the place.
        """
        return cls.validated(*cls.gathered(path, overrides, given))

    @classmethod
    def gathered(
        cls, path: str | os.PathLike[str], overrides: Iterable[str] = (), given: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], Origin]:
        """Return the values that `from_yaml` validates, and where they come from. See there for arguments and errors."""
        if isinstance(overrides, str):
            raise ConfigError(f"overrides must be a list of key=value texts, got text {overrides!r}. Write [{overrides!r}]")
        values = read_yaml(path)
        said = {cls.override(values, override): _label(override) for override in overrides}
        said |= {(name,): option_names(name, cls.model_fields[name])[-1] for name in given or {} if name in cls.model_fields}
        return {**cls.placed(values, Path(path)), **(given or {})}, Origin(str(path), said)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], *, where: str = "") -> Self:
        """Return settings from plain values, such as `to_dict` returns.

        Args:
            values: field name → value.
            where: place of the values for error messages, for example the file.
        Raises:
            ConfigError: invalid values.
        """
        return cls.validated(values, Origin(where))

    @classmethod
    def validated(cls, values: Mapping[str, Any], origin: Origin) -> Self:
        """Return settings from plain values, like `from_values`.

        Raises:
            FaultsError: invalid values.
        """
        try:
            return cls.model_validate(dict(values), context={"where": origin.where})
        except ValidationError as error:
            raise _faults_error(cls, error, values, origin) from None

    @classmethod
    def expect(cls, settings: object) -> None:
        """Check that a value is an instance of these settings.

        Raises:
            ConfigError: it is something else, such as a dict.
        """
        if not isinstance(settings, cls):
            made = f"{cls.__name__}.from_values({{…}})" if isinstance(settings, Mapping) else f"{cls.__name__}(name=value)"
            raise ConfigError(f"expected {cls.__name__}, got {type(settings).__name__}. Write {made}")

    @classmethod
    def unknown(cls, key: Any) -> str | None:
        """Return the message for an unknown key of these settings, or None for the general message."""
        return f"{key}: {cls.GONE[key]}" if key in cls.GONE else None

    @classmethod
    def override(cls, values: dict[str, Any], override: str) -> tuple[str, ...]:
        """Write one `key=value` or `--key=value` override into plain values. Return the path that it is written to.

        Raises:
            ConfigError: the text is not `key=value`, or the value is not YAML.
        """
        key, separator, text = override.removeprefix("--").partition("=")
        if not separator or not key:
            raise ConfigError(f"override {override!r}: expected key=value")
        path = tuple(cls.locate(key.replace("-", "_").split(".")))
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{_label(override)}: the value is not YAML: {yaml_fault(error)}") from None
        annotation = _annotation_at(cls, path)
        if not isinstance(value, str | None) and {leaf.kind for leaf in _leaves(annotation)} <= {str}:
            value = text  # a folder may have the name 2024
        at = values
        for part in path[:-1]:
            if not isinstance(at.get(part), dict):
                at[part] = {}
            at = at[part]
        at[path[-1]] = value
        return path

    @classmethod
    def locate(cls, path: Sequence[str]) -> Sequence[str]:
        """Return the key that an override writes to. A subclass can redirect it."""
        return path

    @classmethod
    def placed(cls, values: dict[str, Any], path: Path) -> dict[str, Any]:
        """Return the values of the file `path`. A subclass can make its paths relative to the file's folder here."""
        return values

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with other values for some fields."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**values, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for JSON or YAML. `from_values` reads them back."""
        return {name: plain(getattr(self, name)) for name in type(self).model_fields}

    if not TYPE_CHECKING:  # type checkers see frozen fields

        def __setattr__(self, name: str, value: Any) -> None:
            if name in type(self).model_fields:
                raise ConfigError(f"{name}: settings are frozen. Make a copy with .replace({name}={_shown(value)})")
            super().__setattr__(name, value)

    @model_validator(mode="before")
    @classmethod
    def _read_keys(cls, values: Any, info: ValidationInfo) -> Any:
        """Rename old keys and drop blank values."""
        if cls.FROM_TEXT is not None and isinstance(values, str | os.PathLike):
            return {cls.FROM_TEXT: values}
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        for old, new in cls.RENAMED.items():
            if old in values:
                if new in values:
                    raise ValueError(f"{old} has been renamed to {new}, and both are set. Keep only {new}")
                where = (info.context or {}).get("where")
                logger.warning("%s%s has been renamed to %s", f"{where}: " if where else "", old, new)
                values[new] = values.pop(old)
        for name, item in cls.model_fields.items():
            if name in values and values[name] in (None, "") and _may_be_blank(item, values[name]):
                del values[name]
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _read_value(cls, value: Any, info: ValidationInfo) -> Any:
        return _read(value, _annotation(cls.model_fields[info.field_name or ""]))


def plain(value: Any) -> Any:
    """Return a field value as plain data for JSON or YAML: settings as mappings, sequences as lists, paths as text."""
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


# ------------------------------------------------------------------------------------------------------- kinds of fields


if TYPE_CHECKING:
    _Given = TypeVar("_Given")
    _Read = TypeVar("_Read")

    class Accepts(Generic[_Given, _Read]):
        """`Accepts[A, B]`: a field that a type checker lets users give as A and read as B; at run time, a field of type B.

        Type checkers take the type of an argument of `__init__` from `__set__` (dataclass_transform). A default goes through
        `default`.
        """

        def __get__(self, settings: object, owner: type | None = None) -> _Read: ...

        def __set__(self, settings: object, value: _Given) -> None: ...

else:

    class Accepts:
        """`Accepts[A, B]` is B."""

        def __class_getitem__(cls, types: tuple[Any, Any]) -> Any:
            return types[1]


StrPath = str | os.PathLike[str]


def default(value: Any) -> Any:
    """Return the value. For the default of an `Accepts` field, which is not of the type that a type checker sees."""
    return value


class Flag:
    """How a field appears on the command line, if that does not follow from its name. Goes into the field's `Annotated`.

    Args:
        names: options, for example `-o`, `--output`. The default for a field `timeout_s` is `--timeout-s`.
        metavar: placeholder for the value in the help.
        default: text of the default in the help, if the number itself is hard to read.
    """

    def __init__(self, *names: str, metavar: str | None = None, default: str | None = None) -> None:
        self.names = names
        self.metavar = metavar
        self.default = default


def flag_of(item: FieldInfo) -> Flag:
    """Return the `Flag` of a field, or one without settings."""
    return next((extra for extra in item.metadata if isinstance(extra, Flag)), Flag())


def option_names(name: str, item: FieldInfo) -> tuple[str, ...]:
    """Return the names of a field's option on the command line, the long one last."""
    return flag_of(item).names or (f"--{name.replace('_', '-')}",)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One kind of value that a field accepts.

    Args:
        kind: a type; `Literal` for names, `Sequence` and `Mapping` for those, `Any` for everything.
        limits: the other members of `Annotated`: bounds and anything else.
        names: the names of a literal.
        of: annotation of a sequence's items or of a mapping's values.
        keys: the keys that a mapping accepts; empty if it accepts any.
    """

    kind: Any
    limits: tuple[Any, ...] = ()
    names: tuple[Any, ...] = ()
    of: Any = Any
    keys: tuple[Any, ...] = field(default=())


def leaves(item: FieldInfo) -> list[Leaf]:
    """Return the kinds of value that a field accepts, without None."""
    return list(_leaves(_annotation(item)))


def _annotation(item: FieldInfo) -> Any:
    return Annotated[item.annotation, *item.metadata] if item.metadata else item.annotation


def _leaves(annotation: Any, limits: tuple[Any, ...] = ()) -> Iterator[Leaf]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        for extra in arguments[1:]:
            limits += tuple(extra.metadata) if isinstance(extra, FieldInfo) else (extra,)
        yield from _leaves(arguments[0], limits)
    elif origin in (Union, types.UnionType):
        for one in arguments:
            yield from _leaves(one, limits)
    elif origin is Literal:
        yield Leaf(Literal, names=arguments)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        (key,) = _leaves(arguments[0])
        yield Leaf(Mapping, limits, of=arguments[1], keys=key.names)
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        yield Leaf(Sequence, limits, of=arguments[0])
    elif annotation is not type(None):
        yield Leaf(annotation, limits)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _may_be_blank(item: FieldInfo, value: Any) -> bool:
    """Whether to treat a blank value as absent: true for a required field, which is then missing, and for a section."""
    if item.is_required():
        return True
    sections = all(leaf.kind is Mapping or _is_section(leaf.kind) for leaf in leaves(item))
    return value is None and sections and not _takes_none(_annotation(item))


def _takes_none(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return _takes_none(get_args(annotation)[0])
    return annotation in (None, Any, type(None)) or any(one is type(None) for one in _members(annotation))


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()


def _annotation_at(settings: type[Settings], path: Sequence[str]) -> Any:
    """Return the annotation of the field at a path; Any if there is none."""
    annotation: Any = settings
    for part in path:
        annotation = next((found for leaf in _leaves(annotation) if (found := _inside(leaf, part)) is not None), Any)
    return annotation


def _inside(leaf: Leaf, part: Any) -> Any:
    """Return the annotation under a key or index in a value of this kind; None if there is none."""
    if _is_section(leaf.kind) and part in leaf.kind.model_fields:
        return _annotation(leaf.kind.model_fields[part])
    if leaf.kind is Mapping or (leaf.kind is Sequence and isinstance(part, int)):
        return leaf.of
    return None


class _OtherKindError(ValueError):
    """A value that pydantic accepts but these settings do not."""


def _read(value: Any, annotation: Any) -> Any:
    """Convert a value that only differs in spelling from what its field needs. Pydantic validates everything else.

    Raises:
        _OtherKindError: a boolean for a number, or something else for a boolean.
    """
    found = list(_leaves(annotation))
    kinds = {leaf.kind for leaf in found}
    if value is None or Any in kinds:
        return value
    names = {name for leaf in found for name in leaf.names}
    if isinstance(value, bool) and bool not in kinds:
        for name in ("on", "yes") if value else ("off", "no"):
            if name in names:
                return name
        if kinds & {int, float}:
            raise _OtherKindError
    if kinds == {bool} and not isinstance(value, bool):
        raise _OtherKindError
    if isinstance(value, str) and not kinds & {str, Path} and value not in names and kinds & {int, float}:
        number = as_number(value)
        return int(number) if isinstance(number, float) and number.is_integer() and float not in kinds else number
    if isinstance(value, os.PathLike) and Path not in kinds and str in kinds:
        return os.fspath(value)
    for leaf in found:
        if leaf.kind is Mapping and isinstance(value, Mapping):
            return {key: _read(item, leaf.of) for key, item in value.items()}
        if leaf.kind is Sequence and isinstance(value, list | tuple):
            return tuple(_read(item, leaf.of) for item in value)
        if leaf.kind is Sequence and len(found) == 1 and _is_item(value, leaf.of):
            return (_read(value, leaf.of),)
    return value


def _is_item(value: Any, annotation: Any) -> bool:
    """Whether one value can stand for a list of one."""
    kinds = {leaf.kind for leaf in _leaves(annotation)}
    if any(_is_section(kind) and kind.FROM_TEXT is not None for kind in kinds):
        return isinstance(value, str | os.PathLike | Mapping)
    if isinstance(value, str) and not kinds & {str, Path, Literal}:
        value = as_number(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(kinds & {int, float})
    return isinstance(value, str | os.PathLike) and bool(kinds & {str, Path, Literal})


def as_number(text: str) -> float | str:
    """Return the number that a text spells, such as 1e-5, which YAML 1.1 reads as text; else the text."""
    with contextlib.suppress(ValueError):
        return float(text)
    return text


# --------------------------------------------------------------------------------------------------------------- faults


class SettingFault(NamedTuple):
    """One fault of some settings.

    Args:
        place: path of the faulty value or key; empty for the settings as a whole.
        words: message without the place, from `: ` or ` must be` on.
        unknown: whether the last part of the place is an unknown key, which `words` names.
    """

    place: tuple[Any, ...]
    words: str
    unknown: bool = False

    def told(self, below: int = 0, name: str = "") -> str:
        """Return the message. `name` replaces the first `below` parts of the place."""
        inside = _spell(self.place[below : len(self.place) - self.unknown])
        return f"{': '.join(filter(None, (name, inside)))}{self.words}".removeprefix(": ").strip()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where plain values come from, for messages.

    Args:
        where: place of the values, for example a file; "" for none.
        overrides: path of a value that does not come from there → how the user wrote its key, such as `--lora.r`.
    """

    where: str = ""
    overrides: Mapping[tuple[str, ...], str] = field(default_factory=dict)

    def error(self, faults: Sequence[SettingFault]) -> FaultsError:
        """Return one error for all faults: at least one."""
        told = [self._told(fault) for fault in faults]
        (where, first), *rest = told
        if not rest:
            lines = first
        else:
            where = where if all(place == where for place, _ in rest) else ""
            shown = (f"{place}: {line}" if place and not where else line for place, line in told)
            lines = f"{len(told)} faults" + "".join(f"\n  {line}" for line in shown)
        error = FaultsError(f"{where}: {lines}" if where else lines)
        error.faults = tuple(faults)
        return error

    def _told(self, fault: SettingFault) -> tuple[str, str]:
        """Return (place of the values, "" if an override has the fault; message)."""
        place = fault.place
        above = max((path for path in self.overrides if place[: len(path)] == path), key=len, default=None)
        if above is not None:
            return "", fault.told(len(above), self.overrides[above])
        # A fault of a section may be due to an override of one of its keys, and not to the file alone.
        words = fault.told()
        below = [
            name
            for path, name in self.overrides.items()
            if path[: len(place)] == place and re.search(rf"\b{re.escape(path[0])}\b", words)
        ]
        return " with ".join(filter(None, (self.where, ", ".join(below)))), words


class FaultsError(ConfigError):
    """A `ConfigError` that lists the faults of some settings."""

    faults: tuple[SettingFault, ...] = ()


def _label(override: str) -> str:
    """Return how messages name an override: `--lora.r` as on a command line, or else `override lora.r`."""
    key = override.partition("=")[0]
    return key if key.startswith("--") else f"override {key}"


def _faults_error(
    settings: type[Settings], error: ValidationError, values: Mapping[str, Any], origin: Origin
) -> FaultsError:
    """Return one error for all faults that pydantic found."""
    faults: dict[tuple[Any, ...], SettingFault] = {}
    missing: dict[tuple[Any, ...], list[str]] = {}
    for found in error.errors(include_url=False):
        if found["type"] == "missing":
            place, *_ = _follow(settings, found["loc"][:-1])
            missing.setdefault(place, []).append(str(found["loc"][-1]))
            continue
        place, annotation, rest = _follow(settings, found["loc"])
        fault = _fault(found, place, annotation, rest, values)
        faults.setdefault(fault.place, fault)
    lacking = [SettingFault(place, f": lacks {', '.join(names)}") for place, names in missing.items()]
    return origin.error([*lacking, *faults.values()])


def _follow(settings: type[Settings], loc: Sequence[Any]) -> tuple[tuple[Any, ...], Any, tuple[Any, ...]]:
    """Return (place, annotation there, rest of `loc`), without pydantic's names of union members and validators.

    The rest of an unknown or missing key is its last part, because no field has that name.
    """
    annotation: Any = settings
    place: list[Any] = []
    for index, part in enumerate(loc):
        inside = [found for leaf in _leaves(annotation) if (found := _inside(leaf, part)) is not None]
        if not inside or (index + 1 < len(loc) and loc[index + 1] == "[key]"):
            return tuple(place), annotation, tuple(loc[index:])
        place.append(part)
        annotation = inside[0]
    return tuple(place), annotation, ()


def _fault(
    found: Any, place: tuple[Any, ...], annotation: Any, rest: tuple[Any, ...], values: Mapping[str, Any]
) -> SettingFault:
    if found["type"] in ("extra_forbidden", "invalid_key") or (rest and rest[-1] == "[key]"):
        return SettingFault((*place, rest[0]), f": {_unknown(annotation, rest[0])}", unknown=True)
    value = _value_at(values, place, found["input"])
    if found["type"] == "value_error" and not isinstance(found["ctx"]["error"], _OtherKindError):
        words = str(found["ctx"]["error"])
        return SettingFault(place, f" {words}, got {_shown(value)}" if words.startswith("must ") else f": {words}")
    if value is None:
        return SettingFault(place, " has no value. Write one, or remove the key")
    return SettingFault(place, f" must be {_wanted(annotation)}, got {_shown(value)}")


def _unknown(annotation: Any, key: Any) -> str:
    names: list[str] = []
    for leaf in _leaves(annotation):
        if _is_section(leaf.kind):
            said: str | None = leaf.kind.unknown(key)
            if said is not None:
                return said
            names += leaf.kind.model_fields
        names += leaf.keys
    return unknown_key(key, names)


def _spell(place: Sequence[Any]) -> str:
    """sources, 0, images → sources[0].images"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _value_at(values: Any, place: Sequence[Any], default: Any) -> Any:
    """Return what the user wrote at a place; `default` if it was written under another name or in another form."""
    for part in place:
        try:
            values = getattr(values, part) if isinstance(values, Settings) else values[part]
        except (LookupError, TypeError, AttributeError):
            return default
    return values


def _shown(value: Any) -> str:
    text = repr(plain(value) if isinstance(value, Settings | os.PathLike) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_KINDS: Mapping[Any, tuple[str, str]] = {
    bool: ("true or false", "booleans"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "text"),
    Path: ("a path", "paths"),
    Literal: ("a name", "names"),
}


def _wanted(annotation: Any) -> str:
    """Return what a field accepts, in words."""
    return " or ".join(dict.fromkeys(_words(leaf) for leaf in _leaves(annotation)))


def _words(leaf: Leaf) -> str:
    if leaf.kind is Literal:
        *most, last = map(str, leaf.names)
        return f"one of {', '.join(leaf.names)}" if len(most) > 1 else " or ".join([*most, last])
    if leaf.kind is Mapping or _is_section(leaf.kind):
        return "keys and values"
    if leaf.kind is Sequence:
        inner = list(_leaves(leaf.of))
        return "a list of " + " or ".join(_KINDS[one.kind][1] if one.kind in _KINDS else "keys and values" for one in inner)
    words = _KINDS[leaf.kind][0] if leaf.kind in _KINDS else str(leaf.kind)
    said = [
        (name, getattr(limit, name)) for limit in leaf.limits for name in ("gt", "ge", "lt", "le") if hasattr(limit, name)
    ]
    lower = {("gt", 0): "positive", ("ge", 1): "positive"} if leaf.kind is int else {("gt", 0): "positive"}
    positive = any(limit in lower for limit in said)
    if positive:
        words = words.replace("a ", "a positive ", 1)
    spoken = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    rest = [f"{spoken[name]} {limit:g}" for name, limit in said if (name, limit) not in lower]
    return words + (", " + " and ".join(rest) if rest else "")
