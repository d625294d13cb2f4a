"""Files on disk: atomic writes, reading line by line, and protection against paths outside a folder."""

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

UNFINISHED = ".sif-"  # prefix of the temporary files of `atomic_write`


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file atomically: a reader sees either the old or the complete new content.

    A symbolic link stays a link; the file that it points to is written. Devices and pipes are written directly.

    Raises:
        SIFError: the folder cannot be made or written to, or the path is a folder.
    """
    named = Path(path)
    # A model can write half a surrogate pair, which has no UTF-8 form.
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
    """Delete temporary files of `atomic_write` from killed processes."""
    for path in folder.glob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)


def _temporary_beside(target: Path) -> tuple[int, str]:
    try:
        return tempfile.mkstemp(dir=target.parent, prefix=UNFINISHED, suffix=f"-{target.name[-60:]}")
    except OSError as error:
        raise SIFError(f"{target}: cannot write: {error.strerror}") from None


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and its parents.

    Raises:
        SIFError: a file has this path, or the parent is not writable.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SIFError(f"{folder}: cannot make the folder: {error.strerror}. Choose another with -o") from None
    return folder


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Check that a folder exists or can be made, without making it.

    Raises:
        SIFError: a file has this path or is one of its parents, or the folder is not writable.
    """
    folder = Path(path)
    near = next(place for place in (folder, *folder.parents) if place.exists())
    if not near.is_dir() or not os.access(near, os.W_OK):
        fault = "not writable" if near.is_dir() else "not a folder"
        raise SIFError(f"{folder}: cannot make the folder: {near} is {fault}. Choose another output")
    return folder


def to_json(value: Any) -> str:
    """Return a value as one line of JSON: deterministic, without spaces, not ASCII-escaped. NaN is an error."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair must be escaped
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Any]) -> None:
    """Write one JSON line per row, atomically."""
    atomic_write(path, "".join(to_json(row) + "\n" for row in rows))


class JsonLine(NamedTuple):
    """A line of a JSONL file that is not blank.

    Args:
        number: line number from 1; blank lines count.
        text: the line; "" if it cannot be decoded.
        value: the JSON value; None if the line is not JSON.
        fault: why the line is not JSON, without the place; "" if it is JSON.
    """

    number: int
    text: str
    value: Any
    fault: str = ""


def json_lines(path: str | os.PathLike[str]) -> Iterator[JsonLine]:
    """Yield every line of a JSONL file that is not blank, JSON or not.

    Reads UTF-8, and UTF-16 or UTF-32 detected by byte order mark or zero bytes. Accepts Windows line ends, and a byte order
    mark at the start of any line, as in concatenated files. NaN and Infinity are numbers, as in Python.

    Raises:
        RecordError: the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:  # open it once: a pipe cannot be read twice
            encoding = json.detect_encoding(stream.peek(4)[:4])
            for number, text in enumerate(_decoded(stream, encoding), 1):
                if text is None:
                    yield JsonLine(number, "", None, f"not {encoding_name(encoding)}. Save the file as UTF-8")
                elif text.strip():
                    try:
                        line = JsonLine(number, text, json.loads(text))
                    except (ValueError, RecursionError) as error:
                        line = JsonLine(number, text, None, f"not a line of JSON: {json_fault(error, one_line=True)}")
                    yield line
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None


def json_fault(error: Exception, *, one_line: bool = False) -> str:
    """Return why a text is not JSON, with the column, and the line unless the place has it already."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    words = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
    return f"{words} at {'' if one_line else f'line {error.lineno}, '}column {error.colno}"


def _decoded(stream: IO[bytes], encoding: str) -> Iterator[str | None]:
    """Yield lines of text; None for a line that cannot be decoded."""
    if encoding.startswith("utf-8"):
        for line in stream:
            try:
                yield line.removeprefix(codecs.BOM_UTF8).decode()
            except UnicodeDecodeError:
                yield None
        return
    # These encodings have zero bytes around a newline, so decode before splitting into lines.
    with io.TextIOWrapper(stream, encoding, errors="replace", newline="\n") as decoded:
        for text in decoded:
            yield None if "\ufffd" in text else text


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) for every line of `json_lines`.

    Raises:
        RecordError: the file cannot be read, or a line is not JSON.
    """
    for line in json_lines(path):
        if line.fault:
            raise RecordError(f"{path}:{line.number}: {line.fault}", "not_json")
        yield line.number, line.value


def encoding_of(path: str | os.PathLike[str]) -> str:
    """Return the encoding of a text file: UTF-8, or UTF-16 or UTF-32 detected by byte order mark or zero bytes.

    Raises:
        RecordError: the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return json.detect_encoding(stream.read(4))
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None


def encoding_name(encoding: str) -> str:
    """Return the common name of an encoding from `encoding_of`."""
    return "UTF-8" if encoding.startswith("utf-8") else encoding.upper()


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the keys and values of a YAML file.

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, or has no keys and values.
    """
    where = Path(path)
    try:
        values = yaml.load(where.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506 - a safe loader
    except OSError as error:
        raise ConfigError(f"{where}: cannot read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: not UTF-8 text. Save the file as UTF-8") from None
    except _RepeatedKeyError as error:
        raise ConfigError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}, column {mark.column + 1}" if mark else f"{where}"
        raise ConfigError(f"{place}: not YAML: {yaml_fault(error)}") from None
    if values is None:
        raise ConfigError(f"{where}: the file is empty, expected keys and values")
    if not isinstance(values, dict):
        got = "a list" if isinstance(values, list) else repr(values)[:200]
        raise ConfigError(f"{where}: expected keys and values, got {got}")
    return values


def yaml_fault(error: yaml.YAMLError) -> str:
    """Return why a text is not YAML, without the place."""
    words = [getattr(error, "problem", None), getattr(error, "context", None)]
    return ", ".join(filter(None, words)) or str(error).splitlines()[0]


class _RepeatedKeyError(yaml.YAMLError):
    """A key that occurs twice in a mapping. YAML's own loader silently keeps the last one."""


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, but a repeated key is an error. The check runs before `<<` merges mappings."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in lines:
                    raise _RepeatedKeyError(f"{key.value} is set in line {lines[name]} and again in line {line}. Keep one")
                lines[name] = line
        return node


def check_keys(values: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Check that all keys are known.

    Raises:
        ConfigError: a key is unknown. The message suggests the most similar known key.
    """
    for key in values:
        if key not in names:
            raise ConfigError(f"{where}: {unknown_key(key, names)}")


def with_advice(words: str, advice: str) -> str:
    """Return a message and the advice that follows it, with one mark between them."""
    return f"{words} {advice}" if words.endswith((".", "?", "!")) else f"{words}. {advice}"


def unknown_key(key: Any, names: Sequence[str]) -> str:
    """Return the message for an unknown key: it suggests the most similar known key, else lists known keys."""
    near = nearest(str(key), names)
    if near is not None:
        hint = f"did you mean {near!r}?"
    elif len(names) > _MOST_NAMES:
        hint = f"the most similar keys are {', '.join(_by_likeness(str(key), names)[:3])}"
    else:
        hint = f"known keys are {', '.join(sorted(names))}"
    return f"unknown key {key!r}; {hint}"


def nearest(word: str, names: Sequence[str]) -> str | None:
    """Return the name most similar to a mistyped word, the first of several; None if none is similar."""
    return next((name for name in _by_likeness(word, names)[:1] if _likeness(word, name) >= _LIKE), None)


_LIKE = 0.6  # the default of difflib.get_close_matches
_MOST_NAMES = 30  # a longer list does not help a reader


def _by_likeness(word: str, names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: -_likeness(word, name))


def _likeness(word: str, name: str) -> float:
    return difflib.SequenceMatcher(None, name, word).ratio()


def check_images(root: Path) -> None:
    """Check that a folder of images exists.

    Raises:
        RecordError: it does not.
    """
    if not root.is_dir():
        raise RecordError(f"{root}: no such image folder. Set --images to an existing folder", "missing_file")


def inside(root: str | os.PathLike[str], relative: str) -> Path:
    """Return the file of a path from data. After all symbolic links, it is guaranteed to lie in `root`.

    Raises:
        RecordError: the path cannot be used, or leads outside `root`.
    """
    try:
        base = Path(root).resolve()
        path = (base / relative).resolve()
        path.is_file()  # too long names fail here
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)[:200]  # str(OSError) would repeat the path
        raise RecordError(f"cannot use the path {relative[:100]!r}: {why}", "bad_path") from None
    if not path.is_relative_to(base):
        raise RecordError(f"the path {relative[:200]!r} leads outside {base}", "path_outside_root")
    return path


def sha256(data: bytes) -> str:
    """Return the SHA-256 hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()
