"""Journal of a long run, line by line. A killed run resumes from it."""

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
    """A file of JSON lines: a header that identifies the run, then the lines passed to `add`.

    A line is complete if it ends in a newline. An incomplete last line of a killed process is removed. Only one process can
    open the file at a time.

    Args:
        path: the file.
        header: values that identify the run, plain JSON.
        fresh: delete the content of the file.

    Attributes:
        lines: lines added earlier, in order.
        busy: error message for a second process.

    Example:
        >>> with Journal("run.jsonl", {"model": "nano"}) as journal:  # doctest: +SKIP
        ...     for item in items[len(journal.lines) :]:
        ...         journal.add(work(item))
    """

    busy = "another process is working on this run"

    def __init__(self, path: Path, header: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.lines: list[Any] = []
        self._path = path
        self._header = json.loads(to_json(header))
        self._fresh = fresh
        self._stream: BinaryIO

    def __enter__(self) -> Self:
        """Open the file and read its lines.

        Raises:
            ConfigError: the file belongs to another run, is broken, is open in another process, or cannot be written.
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
        """Append a line of JSON values. It is flushed to the operating system on return."""
        self._append(line)

    def delete(self) -> None:
        """Delete the file: the run is finished."""
        self._path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Delete other files of the run when it starts over. Subclasses can override this; the default does nothing."""

    def check(self, header: Any) -> None:
        """Check that the file belongs to this run.

        Raises:
            ConfigError: it belongs to another run.
        """
        check_same(f"{self._path}", header, self._header)

    def take(self, line: Any, offset: int) -> None:
        """Take a line that an earlier process wrote at `offset` in the file.

        A `ValueError`, `TypeError`, `KeyError` or `AttributeError` from this method means that the file is broken.
        """
        self.lines.append(line)

    def _read(self) -> int:
        """Read the file and return the offset at which the last complete line ends."""
        offset = 0
        for number, line in enumerate(self._stream):
            if not line.endswith(b"\n"):
                break
            try:
                value = json.loads(line)
                if number:
                    self.take(value, offset)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise ConfigError(f"{self._path}, line {number + 1}: the line is broken. Start over with --fresh") from None
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
        """Append a line and return its offset."""
        offset = self._stream.seek(0, 2)
        self._stream.write(to_json(value).encode() + b"\n")
        self._stream.flush()
        return offset


def check_same(where: str, theirs: Any, ours: Mapping[str, Any], contents: Mapping[str, str] | None = None) -> None:
    """Check that a file belongs to the same run.

    Args:
        where: the file.
        theirs: header of the file.
        ours: header of the run.
        contents: key of a hash → name of the hashed content, for the message.
    Raises:
        ConfigError: the file belongs to another run. The message gives the old and new value of the first difference that is
            not a hash, if there is one.
    """
    if theirs == ours:
        return
    if not isinstance(theirs, dict):
        raise ConfigError(f"{where} is not from a sifthinker run. Choose another output")
    differing = [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
    # A hash often differs because a setting does. The setting is more informative.
    key = next((key for key in differing if not _is_hash(theirs.get(key), ours.get(key))), differing[0])
    was, now = theirs.get(key), ours.get(key)
    hashes = _is_hash(was, now)
    called = (contents or {}).get(key)
    if hashes:
        differs = f"{called} have changed" if called else f"{key} has changed"
    else:
        differs = f"{key} was {_said(was)}, now {_said(now)}"
    raise ConfigError(f"{where} is from another run: {differs}. Choose another output, or start over with --fresh")


def _is_hash(*values: Any) -> bool:
    return all(isinstance(value, str) and _HASH.fullmatch(value) for value in values)


def _said(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else repr(value)
