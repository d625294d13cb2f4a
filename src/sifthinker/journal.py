"""What a long run has finished, line by line, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from sifthinker.errors import ConfigError
from sifthinker.files import make_folder, to_json

_HASH = re.compile(r"[0-9a-f]{64}")


class Journal:
    """A file of JSON lines: first what makes the run another one, then whatever `add` was given.

    A line is complete when it ends in a newline; what a killed process left of a last line is cut off. While it is open, no
    other process can open it.

    Args:
        path: the file.
        header: what makes the run another one, plain JSON values.
        fresh: forget what the file holds.

    Attributes:
        lines: what was added before, in order.
        busy: what a second process is told.

    Example:
        >>> with Journal("run.jsonl", {"model": "nano"}) as journal:  # doctest: +SKIP
        ...     for item in items[len(journal.lines) :]:
        ...         journal.add(work(item))
    """

    busy = "another process is at work on this run"

    def __init__(self, path: Path, header: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.lines: list[Any] = []
        self._path = path
        self._header = json.loads(to_json(header))
        self._fresh = fresh
        self._stream: BinaryIO

    def __enter__(self) -> Self:
        """
        Raises:
            ConfigError: the file is another run's, is broken, is open in another process, or cannot be written.
        """
        make_folder(self._path.parent)
        try:
            self._stream = open(self._path, "a+b")
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot write: {error.strerror}") from None
        try:
            self._lock()
            if self._fresh:
                self._stream.truncate(0)
                self.forget()
            self._stream.seek(0)
            offset = self._read()
        except BaseException:
            self._stream.close()
            raise
        self._stream.truncate(offset)
        if offset == 0:
            self._append(self._header)
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def add(self, line: Any) -> None:
        """Append a line, JSON values; it is with the operating system when this returns."""
        self._append(line)

    def delete(self) -> None:
        """Delete the file: the run is finished."""
        self._path.unlink(missing_ok=True)

    def forget(self) -> None:
        """What else is thrown away when the run starts over; nothing unless a subclass says so."""

    def check(self, header: Any) -> None:
        """See that the file is of this run.

        Raises:
            ConfigError: it is of another.
        """
        check_same(f"{self._path}", header, self._header)

    def take(self, line: Any, offset: int) -> None:
        """Take in a line that an earlier process wrote; `offset` is where it stands in the file. What it raises of
        `ValueError`, `TypeError`, `KeyError` and `AttributeError` means that the file is broken."""
        self.lines.append(line)

    def _read(self) -> int:
        """Take in the file; returns where the last complete line ends."""
        offset = 0
        for number, line in enumerate(self._stream):
            if not line.endswith(b"\n"):
                break
            try:
                value = json.loads(line)
                if number:
                    self.take(value, offset)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise ConfigError(f"{self._path} is broken at line {number + 1}; start over with --fresh") from None
            if not number:
                self.check(value)
            offset += len(line)
        return offset

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{self._path}: {self.busy}") from None

    def _append(self, value: Any) -> int:
        """Where the line stands."""
        offset = self._stream.seek(0, 2)
        self._stream.write(to_json(value).encode() + b"\n")
        self._stream.flush()
        return offset


def check_same(where: str, theirs: Any, ours: Mapping[str, Any], contents: Mapping[str, str] | None = None) -> None:
    """See that a file is of the same run.

    Args:
        where: the file.
        theirs: its header.
        ours: that of the run.
        contents: key of a hash → what to call its content in a message.
    Raises:
        ConfigError: it is of another; names the first value that differs, was and is, one that is no hash if there is one.
    """
    if theirs == ours:
        return
    if not isinstance(theirs, dict):
        raise ConfigError(f"{where} is not of a run of ours; name another output")
    differing = [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
    # What a hash is of may differ just because a setting does, which says more.
    key = next((key for key in differing if not _is_hash(theirs.get(key), ours.get(key))), differing[0])
    was, now = theirs.get(key), ours.get(key)
    hashes = _is_hash(was, now)
    called = (contents or {}).get(key)
    if hashes:
        differs = f"{called} have changed" if called else f"{key} are not the same"
    else:
        differs = f"{key} was {_said(was)}, now {_said(now)}"
    raise ConfigError(f"{where} is of another run: {differs}; name another output, or start over with --fresh")


def _is_hash(*values: Any) -> bool:
    return all(isinstance(value, str) and _HASH.fullmatch(value) for value in values)


def _said(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else repr(value)
