"""Excluded images: lists of names or SHA-256 hashes as common tools print them, and folders of images.

A list is text with one name or hash per line, or a JSON list of texts. A line with a SHA-256 hash excludes by content,
whatever else is on the line. Any other line excludes by name. Names match if one is the tail of the other, component by
component: `bench/b.png` matches `photos/bench/b.png`, and `/data/photos/bench/b.png` matches `bench/b.png`.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image, UnidentifiedImageError

from sifthinker.errors import ConfigError, RecordError
from sifthinker.images import BROKEN_IMAGE
from sifthinker.records import shown

_ENCODINGS = (  # UTF-32 first, because its little-endian mark starts with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# A hash is alone or between blanks, quotes, commas and the signs that tools put before it. `5e6d….png` is a name.
_SHA256 = re.compile(r"""(?:^\\|(?<![^\s"',;:=]))[0-9a-f]{64}(?![^\s"',;])""", re.IGNORECASE)
# Hashes of other lengths, in the output of md5sum, `openssl dgst`, certutil or PowerShell.
_OTHER_HASH = re.compile(
    r"""\\?(?:["']?(?:SHA|MD|BLAKE|Hash)[\w-]*["']?(?:\s*\(.*\)\s*=\s*|[\s:=,]+))?"""
    r"""["']?(?=[0-9]*[a-f])(?P<digits>[0-9a-f]{24,})(?:\.\.\.|…)?["']?(?:[\s,;].*)?""",
    re.IGNORECASE,
)
_ALGORITHMS = {32: "MD5", 40: "SHA-1", 56: "SHA-224", 96: "SHA-384", 128: "SHA-512"}
# Lines without names and hashes: comments, the brackets of JSON, headings of certutil and PowerShell.
_FRAME = re.compile(
    r"""#+(?:\s.*)?|[\[\]]|[-\s]+|SHA-?256 hash of .*:"""
    r"""|CertUtil: .*|"?Algorithm"?[\s,]+"?Hash"?.*|Algorithm\s+: \S+|Path\s+: .*""",
    re.IGNORECASE,
)
# `#12.png` is a name, `#bad pictures` a comment.
_IMAGE_NAME = re.compile(
    r".*\.(?:jpe?g|jpe|jfif|png|apng|webp|gif|bmp|dib|tiff?|jp2|jpx|avif|heic|heif|ppm|pgm|pbm|pnm|tga|ico|dds|qoi)[\"',]*",
    re.IGNORECASE,
)
_SPACED_HASH = re.compile(r"(?:[0-9a-f]{2} ){31}[0-9a-f]{2}", re.IGNORECASE)  # older versions of certutil separate the bytes
_OCTAL = re.compile(rb"\\([2-3][0-7]{2})")  # escapes of git and `ls -b` for bytes that are not ASCII
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’"}
_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://[^/]*")
_DRIVE = re.compile(r"^[A-Za-z]:(?=/)")
_ABOVE = re.compile(r"^(?:~?/|\.\./)+")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a list, counted from 1, or an item of a JSON list."""

    place: Path
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.place}:{self.number}"


@dataclass(frozen=True, slots=True)
class _Name:
    """A listed name, normalised for comparison: components separated by `/`, Unicode in NFC."""

    key: str
    absolute: bool
    folder: bool


class Excluded:
    """Excluded images. The lookup time does not depend on the length of the lists.

    Args:
        places: text lists, JSON lists, and folders of images.
        root: image folder. A name may start above it (`photos/bench/b.png` for the root `photos`).
    Raises:
        RecordError: a list or folder is missing, or a list is not text.
        ConfigError: a line contains a hash that is not SHA-256.
    """

    def __init__(self, places: Sequence[Path], root: Path) -> None:
        self._root = tuple(part for part in _key(os.path.abspath(root)).split("/") if part)
        self._lines: list[Line] = []
        self._hashed: dict[str, list[int]] = {}  # hash → its lines; none for an image of a folder
        self._names: set[str] = set()
        self._named: dict[str, list[int]] = {}  # name → its lines
        self._folders: dict[str, list[int]] = {}
        self._within: dict[str, list[int]] = {}  # path relative to the root, of absolute names inside it → its lines
        self._longer: list[tuple[_Name, int]] = []
        self._tails: dict[int, dict[str, list[int]]] = {}  # number of components → tail of so many → its lines
        self._matched: set[int] = set()
        self._empty: list[Path] = []  # folders
        self._lists: list[Path] = []
        for place in places:
            if place.is_dir():
                found = list(_folder_hashes(place))
                self._hashed.update((digest, []) for digest in found if digest not in self._hashed)
                if not found:
                    self._empty.append(place)
                continue
            self._lists.append(place)
            for line in _read_lines(place):
                self._take(line)

    @property
    def names(self) -> frozenset[str]:
        """Listed names, normalised for comparison. A folder ends in `/`."""
        return frozenset(self._names)

    @property
    def hashes(self) -> frozenset[str]:
        """SHA-256 hashes of excluded image files, from the lists and from the images in the folders."""
        return frozenset(self._hashed)

    def find(self, image: str, written: str = "") -> Line | None:
        """Return the first line whose name matches an image, or None.

        Args:
            image: path relative to the root, with `/` or backslashes.
            written: path as written in the source, relative to the source's own folder below the root.
        """
        if not self._lines:
            return None
        key = _key(image)
        inside = key.split("/")
        whole = (*self._root, *inside)
        found = [*self._within.get(key, ())]
        for start in range(len(whole)):
            found += self._named.get("/".join(whole[start:]), ())
        if self._folders:
            for end in range(len(self._root) + 1, len(whole)):
                for start in range(end):
                    found += self._folders.get("/".join(whole[start:end]), ())
        found += self._with_tail(len(inside)).get(key, ())
        own = _key(written)
        if own != key and "/" in own:  # a bare file name could belong to any source
            found += self._with_tail(own.count("/") + 1).get(own, ())
        self._matched.update(found)
        return self._lines[min(found)] if found else None

    def match(self, rejects: Iterable[Mapping[str, Any]]) -> None:
        """Record which lines excluded images by their hash.

        Args:
            rejects: rows of a build's `rejects.jsonl`. Rows excluded by content contain the hash.
        """
        for row in rejects:
            if row["code"] == "excluded":
                for digest in _SHA256.findall(row["reason"]):
                    self._matched.update(self._hashed.get(digest, ()))

    def warnings(self, rejects: Iterable[Mapping[str, Any]] = ()) -> list[str]:
        """Return warnings for the user, after all images have been looked up.

        Args:
            rejects: see `match`, which is called first.
        """
        self.match(rejects)
        said = [f"exclude folder {place} contains no image" for place in self._empty]
        taken = Counter(line.place for line in self._lines)
        said += [f"exclude list {place} contains neither a name nor a hash" for place in self._lists if not taken[place]]
        unmatched: dict[Path, list[Line]] = {}
        for line in self.unmatched():
            unmatched.setdefault(line.place, []).append(line)
        for place, lines in unmatched.items():
            named = ", ".join(f"line {line.number} {shown(line.text)}" for line in lines[:_QUOTED])
            others = _ranges([line.number for line in lines[_QUOTED:]])
            said.append(
                f"exclude list {place}: {len(lines):,} of {taken[place]:,} lines match no image: {named}"
                + f"; also {others}" * bool(others)
            )
        return said

    def unmatched(self) -> Iterator[Line]:
        """Yield the lines that matched no image so far. Lines with a hash count after `match` has been called."""
        return (line for index, line in enumerate(self._lines) if index not in self._matched)

    def _take(self, line: Line) -> None:
        text = line.text
        if not text or _FRAME.fullmatch(text) or (text.startswith("#") and not _IMAGE_NAME.fullmatch(text)):
            return
        if _SPACED_HASH.fullmatch(text):
            text = text.replace(" ", "")
        index = len(self._lines)
        digests = _SHA256.findall(text)
        if digests:
            self._lines.append(line)
            for digest in digests:
                self._hashed.setdefault(digest.lstrip("\\").lower(), []).append(index)
            return
        other = _OTHER_HASH.fullmatch(text)
        if other:
            length = len(other["digits"])
            kind = _ALGORITHMS.get(length, "cut off?")
            raise ConfigError(
                f"{line}: expected a SHA-256 hash (64 hex digits, see `sha256sum FILES`) or a file name, got "
                f"{other['digits'][:16]}…, {length} hex digits ({kind}). If it is a file name, write ./NAME"
            )
        if text.startswith("{") and (text == "{" or text.endswith(("}", "},"))):
            raise ConfigError(f"{line}: expected one name or SHA-256 hash per line, got other JSON: {text[:100]!r}")
        names = {name for form in _forms(text) if (name := _name(form)) is not None}
        if names:
            self._lines.append(line)
        for name in names:
            self._index(name, index)

    def _index(self, name: _Name, index: int) -> None:
        parts = tuple(name.key.split("/"))
        self._names.add(name.key + "/" * name.folder)
        if name.folder:
            self._folders.setdefault(name.key, []).append(index)
        if name.absolute and parts[: len(self._root)] == self._root and len(parts) > len(self._root):
            # It matches only one path of the image folder, and no other image with that file name.
            self._within.setdefault("/".join(parts[len(self._root) :]), []).append(index)
            return
        self._named.setdefault(name.key, []).append(index)
        self._longer.append((name, index))

    def _with_tail(self, count: int) -> dict[str, list[int]]:
        """Return the last `count` components of every longer name → its lines.

        A bare file name matches the tail of absolute paths only: in `bench/b.png` the folder shows which `b.png` is meant.
        """
        if count not in self._tails:
            tails = self._tails[count] = {}
            for name, index in self._longer:
                parts = name.key.split("/")
                if len(parts) > count and (count > 1 or name.absolute):
                    tails.setdefault("/".join(parts[-count:]), []).append(index)
        return self._tails[count]


_QUOTED = 3  # number of lines whose text a warning shows
_LONGEST_RANGES = 300  # characters


def _ranges(numbers: Sequence[int]) -> str:
    """Return line numbers in ascending order as short text: "lines 3, 7, 9–12 and 40 more"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words, length, left = [], 0, len(numbers)
    for first, last in runs:
        words.append(f"{first}" if first == last else f"{first}–{last}")
        length += len(words[-1]) + 2
        left -= last - first + 1
        if length > _LONGEST_RANGES:
            break
    more = f" and {left:,} more" * (left > 0)
    return f"line{'s' * (len(numbers) > 1)} {', '.join(words)}{more}" if numbers else ""


def _read_lines(place: Path) -> Iterator[Line]:
    try:
        data = place.read_bytes()
    except OSError as error:
        raise RecordError(f"{place}: cannot read the list of excluded images: {error.strerror}", "missing_file") from None
    encoding = next((name for mark, name in _ENCODINGS if data.startswith(mark)), None)
    if encoding is None:  # UTF-16 without a mark: every other byte of what is mostly ASCII is 0
        encoding = {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get(_zeros(data), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise RecordError(
            f"{place}:{number}: not UTF-8 or UTF-16 text. Expected a list of names or SHA-256 hashes, or a folder",
            "missing_file",
        ) from None
    items: Any = None
    if text.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):  # else the first line of a text list begins with a bracket
            items = json.loads(text)
    if isinstance(items, list):
        for number, item in enumerate(items, 1):
            if not isinstance(item, str):
                raise ConfigError(f"{place}: item {number} must be a name or a SHA-256 hash, got {json.dumps(item)[:100]}")
            yield Line(place, number, item.strip())
        return
    # `find -print0` ends names with NUL. splitlines() would also split at characters that names can contain.
    for number, line in enumerate(re.split("\r\n|[\r\n\0]", text), 1):
        yield Line(place, number, line.strip())


def _zeros(data: bytes) -> tuple[bool, bool]:
    """Whether the first two bytes at even positions are 0, and whether those at odd positions are."""
    return data[:4:2] == b"\0\0", data[1:4:2] == b"\0\0"


def _forms(text: str) -> list[str]:
    """Return a listed name as written, and without the quotes, commas and escapes that tools add."""
    bare = text.removesuffix(",").rstrip()
    quoted = len(bare) > 1 and _QUOTES.get(bare[0]) == bare[-1]
    bare = bare[1:-1] if quoted else bare
    found = [bare]
    if quoted and text[0] == '"' and "\\" in bare:
        with suppress(ValueError):
            found.append(str(json.loads(f'"{bare}"')))
    if "\\" in bare:
        with suppress(UnicodeDecodeError):
            found.append(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), bare.encode()).decode())
    for escaped, meant in (("\\ ", " "), ("'\\''", "'")):  # a shell's
        if escaped in bare:
            found.append(bare.replace(escaped, meant))
    if _ADDRESS.match(bare) and "%" in bare:
        found.append(unquote(bare))
    return found


def _name(text: str) -> _Name | None:
    """Return the normalised name; None if it is not a file name, such as `.`."""
    path = _DRIVE.sub("", _ADDRESS.sub("", text.replace("\\", "/")))
    key = _key(path)
    if key in ("", ".", ".."):
        return None
    return _Name(key, absolute=path.startswith(("/", "~/")), folder=path.endswith("/"))


def _key(path: str) -> str:
    """Return a path normalised for comparison, without drive, root and steps above the folder."""
    path = unicodedata.normalize("NFC", path.replace("\\", "/"))
    return _ABOVE.sub("", posixpath.normpath(_DRIVE.sub("", path)))


def _folder_hashes(folder: Path) -> Iterator[str]:
    """Yield the hash of every image below a folder. Reads only the first bytes of other files."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        try:
            with open(path, "rb") as stream:
                if _is_image(stream):
                    stream.seek(0)
                    yield hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise RecordError(f"{path}: cannot read the excluded image: {error.strerror}", "missing_file") from None


def _is_image(stream: Any) -> bool:
    """Whether Pillow knows the format of a file. A broken image counts too, because only its content is compared."""
    try:
        with Image.open(stream):
            return True
    except UnidentifiedImageError:
        return False
    except BROKEN_IMAGE:
        return True
