"""Files on disk: written whole or not at all, read line by line, and never outside their folder."""

from __future__ import annotations

import codecs
import difflib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml

from sifthinker.errors import ConfigError, RecordError, SIFError

UNFINISHED = ".sif-"  # what `atomic_write` writes first begins so


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    A link stays one: the file that it points to is written. A device or pipe is written to as it is.

    Raises:
        SIFError: the folder cannot be made or written to, or the path is a folder.
    """
    named = Path(path)
    # Half a surrogate pair, which a model can write, has no bytes of its own.
    payload = data.encode("utf-8", "replace") if isinstance(data, str) else data
    if named.exists() and not named.is_file():
        try:
            named.write_bytes(payload)
        except OSError as error:
            raise SIFError(f"{path}: cannot write: {error.strerror}") from None
        return
    target = Path(os.path.realpath(named))
    make_folder(target.parent)
    handle, temporary = _temporary_beside(target)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise SIFError(f"{target}: cannot write: {error.strerror}") from None
        raise


def sweep(folder: Path) -> None:
    """Delete what `atomic_write` left in a folder when its process was killed."""
    for path in folder.glob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)


def _temporary_beside(target: Path) -> tuple[int, str]:
    try:
        return tempfile.mkstemp(dir=target.parent, prefix=UNFINISHED, suffix=f"-{target.name[-60:]}")
    except OSError as error:
        raise SIFError(f"{target}: cannot write there: {error.strerror}") from None


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and its parents.

    Raises:
        SIFError: a file stands in the way, or the parent is not writable.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SIFError(f"{folder}: cannot make the folder: {error.strerror}; choose another with -o") from None
    return folder


def to_json(value: Any) -> str:
    """One line of JSON, the same for the same value: no spaces, text as it is, NaN refused."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which only an escape can carry
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Any]) -> None:
    """Write one JSON line a row, atomically."""
    atomic_write(path, "".join(to_json(row) + "\n" for row in rows))


class JsonLine(NamedTuple):
    """A line of a JSONL file that is not blank.

    Args:
        number: of the line, from 1; blank lines are counted.
        text: the line; "" when it cannot be decoded.
        value: what it holds; None when it is not JSON.
        fault: why it is not JSON, without the place; "" when it is.
    """

    number: int
    text: str
    value: Any
    fault: str = ""


def json_lines(path: str | os.PathLike[str]) -> Iterator[JsonLine]:
    """Every line of a JSONL file that is not blank, whether it is JSON or not.

    UTF-8, or UTF-16 or UTF-32 by byte order mark or zero bytes. Windows line ends are fine, and so is a byte order mark in
    front of any line, as files that were joined have it. NaN and Infinity are numbers, as they are to Python.

    Raises:
        RecordError: the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:  # once: a pipe cannot be read twice
            encoding = json.detect_encoding(stream.peek(4)[:4])
            for number, text in enumerate(_decoded(stream, encoding), 1):
                if text is None:
                    yield JsonLine(number, "", None, f"not {encoding_name(encoding)}; save the file as UTF-8")
                elif text.strip():
                    try:
                        line = JsonLine(number, text, json.loads(text))
                    except (ValueError, RecursionError) as error:
                        line = JsonLine(number, text, None, f"not a line of JSON: {error}")
                    yield line
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None


def _decoded(stream: IO[bytes], encoding: str) -> Iterator[str | None]:
    """Lines of text; None in place of one that cannot be decoded."""
    if encoding.startswith("utf-8"):
        for line in stream:
            try:
                yield line.removeprefix(codecs.BOM_UTF8).decode()
            except UnicodeDecodeError:
                yield None
        return
    # Zero bytes surround a newline in these, so that lines exist only after decoding.
    with io.TextIOWrapper(stream, encoding, errors="replace", newline="\n") as decoded:
        for text in decoded:
            yield None if "\ufffd" in text else text


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) of every line of `json_lines`.

    Raises:
        RecordError: the file cannot be read, or a line is not JSON.
    """
    for line in json_lines(path):
        if line.fault:
            raise RecordError(f"{path}:{line.number}: {line.fault}", "not_json")
        yield line.number, line.value


def encoding_of(path: str | os.PathLike[str]) -> str:
    """The encoding of a text file by its first bytes: UTF-8, or UTF-16 or UTF-32 by byte order mark or zero bytes.

    Raises:
        RecordError: the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return json.detect_encoding(stream.read(4))
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None


def encoding_name(encoding: str) -> str:
    """What people call an encoding of `encoding_of`."""
    return "UTF-8" if encoding.startswith("utf-8") else encoding.upper()


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        ConfigError: no such file, not UTF-8, not YAML, or no keys and values.
    """
    where = Path(path)
    try:
        values = yaml.load(where.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506 - a safe loader
    except OSError as error:
        raise ConfigError(f"{where}: cannot read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: not text in UTF-8") from None
    except _RepeatedKeyError as error:
        raise ConfigError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {error}") from None
    if values is None:
        raise ConfigError(f"{where}: is empty; wanted keys and values")
    if not isinstance(values, dict):
        got = "a list" if isinstance(values, list) else repr(values)[:200]
        raise ConfigError(f"{where}: wanted keys and values, got {got}")
    return values


class _RepeatedKeyError(yaml.YAMLError):
    """A key that a mapping has twice; YAML's own loader keeps the last silently."""


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, but a repeated key is an error. Checked as the text is read, before `<<` merges mappings."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in lines:
                    raise _RepeatedKeyError(f"{key.value} is said in line {lines[name]} and again in line {line}; keep one")
                lines[name] = line
        return node


def check_keys(values: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Refuse a key that is not known, and name the nearest that is.

    Raises:
        ConfigError: an unknown key.
    """
    for key in values:
        if key not in names:
            raise ConfigError(f"{where}: {unknown_key(key, names)}")


def unknown_key(key: Any, names: Sequence[str]) -> str:
    """What to say of a key that is not known: the nearest that is, else those there are."""
    near = nearest(str(key), names)
    if near is not None:
        hint = f"did you mean {near!r}?"
    elif len(names) > _MOST_NAMES:
        hint = f"the nearest are {', '.join(_by_likeness(str(key), names)[:3])}"
    else:
        hint = f"known are {', '.join(sorted(names))}"
    return f"unknown key {key!r}; {hint}"


def nearest(word: str, names: Sequence[str]) -> str | None:
    """The name that a mistyped word is most like, the first of several; None where none is like it."""
    return next((name for name in _by_likeness(word, names)[:1] if _likeness(word, name) >= _LIKE), None)


_LIKE = 0.6  # as difflib.get_close_matches has it
_MOST_NAMES = 30  # more of them tell a reader nothing


def _by_likeness(word: str, names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: -_likeness(word, name))


def _likeness(word: str, name: str) -> float:
    return difflib.SequenceMatcher(None, name, word).ratio()


def inside(root: str | os.PathLike[str], relative: str) -> Path:
    """The file that a path from data names, guaranteed to lie in `root` after every symlink is followed.

    Raises:
        RecordError: the path is absolute or leads outside `root`.
    """
    try:
        base = Path(root).resolve()
        path = (base / relative).resolve()
        path.is_file()  # names that are too long fail here
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)[:200]  # an OSError repeats the path
        raise RecordError(f"path {relative[:100]!r} cannot be used: {why}", "bad_path") from None
    if not path.is_relative_to(base):
        raise RecordError(f"path {relative[:200]!r} leads outside {base}", "path_outside_root")
    return path


def sha256(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()
