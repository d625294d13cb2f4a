"""Settings: what a build, a training run or an evaluation can be told, said once for YAML, command line and Python.

A subclass of `Settings` holds the kind, default, bounds and help of every field. A YAML file (`from_yaml`), the command line
(`flags.click_options`) and Python (the class itself) are three ways to make one. What is wrong is a `ConfigError` that says
where, what was got and what was wanted, for all faults at once.

    class Lora(Settings):
        r: Annotated[PositiveInt, Field(description="Rank of the adapters.")] = 8

    Lora(r=16)
    Lora.from_yaml("lora.yaml", ["r=16"])
"""

from __future__ import annotations

import contextlib
import logging
import os
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
)

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from sifthinker.errors import ConfigError
from sifthinker.files import read_yaml, unknown_key

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

logger = logging.getLogger(__name__)

_SHOWN = 200  # characters of a wrong value in a message


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class _OurErrors(ModelMetaclass):
    """Calling a settings class raises a `ConfigError`. A metaclass sees the outermost call alone, so that pydantic still
    collects the faults of nested settings with their places."""

    if not TYPE_CHECKING:  # type checkers are to see the fields as arguments

        def __call__(cls, *args: Any, **values: Any) -> Any:  # noqa: N805
            if args:
                raise ConfigError(
                    f"{cls.__name__}: settings are named, got {_shown(args[0])}; write {cls.__name__}(name=value), or "
                    f"{cls.__name__}.from_values({{…}}) for a dict"
                )
            try:
                return super().__call__(**values)
            except ValidationError as error:
                raise _config_error(cls, error, values, cls.__name__) from None


class Settings(BaseModel, metaclass=_OurErrors):
    """Base of all settings: frozen, checked, and strict about keys. The docstring below a field is its help.

    Values are read as people write them in YAML: 1e-5, which YAML 1.1 takes for text, is a number where a number is wanted;
    a bare `off` or `no`, which it takes for false, is the name where there is such a name; one value stands for a list of
    one; a section without content is its defaults. Nothing else is guessed: true is no number, NaN and infinity are none.

    Raises:
        ConfigError: unknown keys, missing ones, or values of another kind; every fault of the values in one message.
    Example:
        >>> class Server(Settings):
        ...     port: PositiveInt = 80
        >>> Server(port="8e3").port
        8000
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    RENAMED: ClassVar[Mapping[str, str]] = {}  # old key → new one: the old is accepted, and a line of the log says the new
    GONE: ClassVar[Mapping[str, str]] = {}  # old key → what to do instead: the old is refused with these words
    FROM_TEXT: ClassVar[str | None] = None  # the field that a bare text or path, given for the settings, stands for

    @classmethod
    def from_yaml(
        cls, path: str | os.PathLike[str], overrides: Iterable[str] = (), *, given: Mapping[str, Any] | None = None
    ) -> Self:
        """Read a YAML file.

        Args:
            path: the file.
            overrides: `key=value` that come before the file, the key dotted (`lora.r=8`), the value written as in YAML.
            given: fields that come before both, as a command line gives them.
        Raises:
            ConfigError: no such file, not YAML, or values that the settings refuse; says where.
        """
        if isinstance(overrides, str):
            raise ConfigError(f"overrides are a list of key=value, got the text {overrides!r}; write [{overrides!r}]")
        values = read_yaml(path)
        for override in overrides:
            cls.override(values, override)
        return cls.from_values({**cls.placed(values, Path(path)), **(given or {})}, where=str(path))

    @classmethod
    def from_values(cls, values: Mapping[str, Any], *, where: str = "") -> Self:
        """Settings from plain values, such as `to_dict` gives.

        Args:
            values: by the names of the fields.
            where: what to call the values' place in messages, for instance the file.
        Raises:
            ConfigError: values that the settings refuse.
        """
        try:
            return cls.model_validate(dict(values), context={"where": where})
        except ValidationError as error:
            raise _config_error(cls, error, values, where) from None

    @classmethod
    def expect(cls, settings: object) -> None:
        """Refuse what a caller gives for these settings and is none.

        Raises:
            ConfigError: something else, such as a dict.
        """
        if not isinstance(settings, cls):
            hint = (
                f"make them with {cls.__name__}.from_values({{…}})" if isinstance(settings, Mapping) else "make them first"
            )
            raise ConfigError(f"wanted {cls.__name__}, got {type(settings).__name__}; {hint}")

    @classmethod
    def unknown(cls, key: Any) -> str | None:
        """What to say of a key that these settings lack; None for what is said of any."""
        return f"{key}: {cls.GONE[key]}" if key in cls.GONE else None

    @classmethod
    def override(cls, values: dict[str, Any], override: str) -> None:
        """Put one `key=value` into plain values.

        Raises:
            ConfigError: no pair, or a value that is not YAML.
        """
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"override {override!r}: wanted key=value")
        path = cls.locate(key.replace("-", "_").split("."))
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: {error}") from None
        annotation = _annotation_at(cls, path)
        if not isinstance(value, str | None) and {leaf.kind for leaf in _leaves(annotation)} <= {str}:
            value = text  # a folder may be called 2024
        at = values
        for part in path[:-1]:
            if not isinstance(at.get(part), dict):
                at[part] = {}
            at = at[part]
        at[path[-1]] = value

    @classmethod
    def locate(cls, path: Sequence[str]) -> Sequence[str]:
        """Where the value of an override goes: its own key, unless a subclass knows better."""
        return path

    @classmethod
    def placed(cls, values: dict[str, Any], path: Path) -> dict[str, Any]:
        """The values of a file at `path`; a subclass whose paths are relative to the file's folder says so here."""
        return values

    def replace(self, **changes: Any) -> Self:
        """The same settings with other values of some fields, checked as new ones are."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**values, **changes})

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, such as JSON and YAML hold; `from_values` reads them again."""
        return {name: plain(getattr(self, name)) for name in type(self).model_fields}

    if not TYPE_CHECKING:  # type checkers see frozen fields

        def __setattr__(self, name: str, value: Any) -> None:
            if name in type(self).model_fields:
                raise ConfigError(f"{name}: settings are frozen; make others with .replace({name}={_shown(value)})")
            super().__setattr__(name, value)

    @model_validator(mode="before")
    @classmethod
    def _read_keys(cls, values: Any, info: ValidationInfo) -> Any:
        """Old keys under their new names; what was left blank left out."""
        if cls.FROM_TEXT is not None and isinstance(values, str | os.PathLike):
            return {cls.FROM_TEXT: values}
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        for old, new in cls.RENAMED.items():
            if old in values:
                if new in values:
                    raise ValueError(f"{old} is called {new} now: say {new} alone")
                where = (info.context or {}).get("where")
                logger.warning("%s%s is called %s now", f"{where}: " if where else "", old, new)
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
    """A value of a field as JSON and YAML hold it: settings as mappings, sequences as lists, paths as text."""
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


# ------------------------------------------------------------------------------------------------------- kinds of fields


class Flag:
    """How a field is written on the command line, where that does not follow from its name; a member of its `Annotated`.

    Args:
        names: flags, for instance `-o`, `--output`; `--timeout-s` for a field `timeout_s` by default.
        metavar: what the help calls the value.
        default: how the help writes the default, where it is no number that people would write.
    """

    def __init__(self, *names: str, metavar: str | None = None, default: str | None = None) -> None:
        self.names = names
        self.metavar = metavar
        self.default = default


@dataclass(frozen=True, slots=True)
class Leaf:
    """One kind of value that a field takes.

    Args:
        kind: a type; `Literal` for names, `Sequence` and `Mapping` for those, `Any` for everything.
        limits: what stands beside the type in `Annotated`: bounds, and whatever else somebody put there.
        names: of a literal.
        of: the annotation of a sequence's items or of a mapping's values.
        keys: the names that a mapping may have; empty where it may have all.
    """

    kind: Any
    limits: tuple[Any, ...] = ()
    names: tuple[Any, ...] = ()
    of: Any = Any
    keys: tuple[Any, ...] = field(default=())


def leaves(item: FieldInfo) -> list[Leaf]:
    """The kinds of value that a field takes, None left out."""
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
    """Whether a blank value says nothing: of a field that must be said, which is then missing, or of a whole section."""
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
    """The annotation of the field at a path; Any where there is none."""
    annotation: Any = settings
    for part in path:
        annotation = next((found for leaf in _leaves(annotation) if (found := _inside(leaf, part)) is not None), Any)
    return annotation


def _inside(leaf: Leaf, part: Any) -> Any:
    """The annotation of what stands under a key or number in a value of this kind; None where nothing can."""
    if _is_section(leaf.kind) and part in leaf.kind.model_fields:
        return _annotation(leaf.kind.model_fields[part])
    if leaf.kind is Mapping or (leaf.kind is Sequence and isinstance(part, int)):
        return leaf.of
    return None


class _OtherKindError(ValueError):
    """A value that pydantic would take, but we do not."""


def _read(value: Any, annotation: Any) -> Any:
    """A value as its field wants it, where only its spelling differs; everything else as it is, for pydantic to judge.

    Raises:
        _OtherKindError: true or false where a number is wanted, or something else where they are.
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
    """Whether one value, given for a list, can be its only item."""
    kinds = {leaf.kind for leaf in _leaves(annotation)}
    if any(_is_section(kind) and kind.FROM_TEXT is not None for kind in kinds):
        return isinstance(value, str | os.PathLike | Mapping)
    if isinstance(value, str) and not kinds & {str, Path, Literal}:
        value = as_number(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(kinds & {int, float})
    return isinstance(value, str | os.PathLike) and bool(kinds & {str, Path, Literal})


def as_number(text: str) -> float | str:
    """The number that a text is, as YAML 1.1 leaves 1e-5; else the text."""
    with contextlib.suppress(ValueError):
        return float(text)
    return text


# --------------------------------------------------------------------------------------------------------------- faults


class _Fault(NamedTuple):
    place: tuple[Any, ...]
    words: str


def _config_error(settings: type[Settings], error: ValidationError, values: Mapping[str, Any], where: str) -> ConfigError:
    """One message of all that pydantic found."""
    faults: dict[tuple[Any, ...], str] = {}
    missing: dict[tuple[Any, ...], list[str]] = {}
    for found in error.errors(include_url=False):
        if found["type"] == "missing":
            place, *_ = _follow(settings, found["loc"][:-1])
            missing.setdefault(place, []).append(str(found["loc"][-1]))
            continue
        place, annotation, rest = _follow(settings, found["loc"])
        fault = _fault(found, place, annotation, rest, values)
        faults.setdefault(fault.place, fault.words)
    lines = [f"{_spell(place)}: lacks {', '.join(names)}".removeprefix(": ") for place, names in missing.items()]
    lines += faults.values()
    return faults_error(where, lines)


def faults_error(where: str, faults: Sequence[str]) -> ConfigError:
    """One error of all that is wrong with settings.

    Args:
        where: their place, for instance a file; "" for none.
        faults: what is wrong, at least one.
    """
    lines = faults[0] if len(faults) == 1 else f"{len(faults)} faults" + "".join(f"\n  {fault}" for fault in faults)
    return ConfigError(f"{where}: {lines}" if where else lines)


def _follow(settings: type[Settings], loc: Sequence[Any]) -> tuple[tuple[Any, ...], Any, tuple[Any, ...]]:
    """(place, annotation there, rest of `loc`): pydantic's place without the names of union members and validators.

    The last part of an unknown or missing key is the rest, since nothing stands under it.
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


def _fault(found: Any, place: tuple[Any, ...], annotation: Any, rest: tuple[Any, ...], values: Mapping[str, Any]) -> _Fault:
    at = _spell(place)
    if found["type"] in ("extra_forbidden", "invalid_key") or (rest and rest[-1] == "[key]"):
        return _Fault((*place, rest[0]), f"{at}: {_unknown(annotation, rest[0])}".removeprefix(": "))
    value = _value_at(values, place, found["input"])
    if found["type"] == "value_error" and not isinstance(found["ctx"]["error"], _OtherKindError):
        words = str(found["ctx"]["error"])
        if words.startswith("must "):
            return _Fault(place, f"{at} {words}, got {_shown(value)}")
        return _Fault(place, f"{at}: {words}".removeprefix(": "))
    if value is None:
        return _Fault(place, f"{at} has no value; leave the key out, or write one")
    return _Fault(place, f"{at} must be {_wanted(annotation)}, got {_shown(value)}".removeprefix(" "))


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
    """What the user wrote at a place; `default` where it was written under another name or in another form."""
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
    bool: ("true or false", "switches"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "text"),
    Path: ("a path", "paths"),
    Literal: ("a name", "names"),
}


def _wanted(annotation: Any) -> str:
    """What a field takes, in words."""
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
    spoken = {"gt": "above", "ge": "not below", "lt": "below", "le": "not above"}
    rest = [f"{spoken[name]} {limit:g}" for name, limit in said if (name, limit) not in lower]
    return words + (", " + " and ".join(rest) if rest else "")
