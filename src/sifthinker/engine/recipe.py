"""The input of a build: its sources with filters, a cap per dataset, duplicate detection and excluded images."""

from __future__ import annotations

import hashlib
import heapq
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from sifthinker.coordinates import Resizer
from sifthinker.engine.exclusion import Excluded
from sifthinker.engine.settings import BuildSettings, ResizedPixels, SourceSettings
from sifthinker.engine.sources import HUB, read_rows, read_source
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import inside, sha256, to_json
from sifthinker.records import Record, Reject

IN_MEMORY = "records"  # name of in-memory records in the manifest


@dataclass(frozen=True)
class Recipe:
    """The records of a build, not yet read.

    Args:
        settings: sources, cap, seed and excluded images.
        records: records to read instead of the sources in the settings: `Record` objects, or plain records as in JSON.
    Raises:
        ConfigError: there are neither sources nor records, or both, or there is no image folder.
    """

    settings: BuildSettings
    records: Sequence[Record | Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        sources = self.settings.sources
        if self.records is None and not sources:
            raise ConfigError("sources: nothing to build from. Set at least one file, or pass records")
        if self.records is not None and sources:
            raise ConfigError("sources: got both sources and records. Remove the sources, or do not pass records")
        if self.settings.images is None:
            for source in sources:
                if source.file.startswith(HUB):
                    raise ConfigError(
                        f"{source.file}: a Hub dataset needs a folder for its images. Set --images FOLDER (images)"
                    )

    @property
    def images(self) -> Path:
        """Folder that contains every image."""
        return self.settings.image_root

    @cached_property
    def excluded(self) -> Excluded:
        """Excluded images. The lists and folders are read once.

        Raises:
            RecordError, ConfigError: see `exclusion.Excluded`.
        """
        return Excluded(self.settings.exclude, self.images)


@dataclass(slots=True)
class Left:
    """Information collected while a recipe is read.

    Args:
        filtered: records of each dataset left out by the filters of its sources.
        over_cap: records of each dataset beyond its cap.
        expected: number of records and rejects to come; None if unknown in advance.
        whole: whether the recipe was read to its end.
        excluded: excluded images; None before the recipe is read.
    """

    filtered: Counter[str] = field(default_factory=Counter)
    over_cap: Counter[str] = field(default_factory=Counter)
    expected: int | None = None
    whole: bool = False
    excluded: Excluded | None = None


def read_recipe(recipe: Recipe, *, left: Left | None = None) -> Iterator[Record | Reject]:
    """Yield the records of a recipe in source order: filtered, capped, without duplicates and without excluded names.

    Rejects of a source keep their position. Image paths are relative to the recipe's `images`.

    Args:
        recipe: what to read.
        left: counts the records that filters and caps leave out.
    Raises:
        RecordError: a source is missing or has an unknown format.
    """
    left = left if left is not None else Left()
    left.excluded = recipe.excluded
    chosen = _within_cap(recipe, left)
    if chosen is None:
        left.expected = _count_lines(recipe)
    seen: dict[bytes, list[tuple[str, str]]] = {}  # content → (image, source) of the records that have it
    ids: dict[str, str] = {}
    position: Counter[str] = Counter()
    for item, written in _all(recipe, left):
        if isinstance(item, Reject):
            yield item
            continue
        # First, because the exclude line has matched even if the record is left out for another reason.
        named = recipe.excluded.find(item.image, written)
        index = position[item.dataset]
        position[item.dataset] += 1
        if chosen is not None and index not in chosen[item.dataset]:
            continue
        if item.id in ids:
            reason = f"the id {item.id!r} is already used at {ids[item.id]}. Set id_prefix for one source"
            yield Reject(item.source, item.id, "duplicate_id", reason)
            continue
        ids[item.id] = item.source
        if named is not None:
            reason = f"the image {item.image} is on an exclude list: {named} {named.text[:200]!r}"
            yield Reject(item.source, item.id, "excluded", reason)
            continue
        content = f"{' '.join(item.question.lower().split())}\0{sorted(item.boxes)}"
        key = hashlib.blake2b(content.encode(), digest_size=16).digest()
        twin = next((other for other in seen.get(key, ()) if _same_image(recipe.images, item.image, other[0])), None)
        if twin is not None:
            reason = f"same image, question and boxes as {twin[1]}"
            yield Reject(item.source, item.id, "duplicate", reason)
            continue
        seen.setdefault(key, []).append((item.image, item.source))
        yield item
    left.whole = True


def resizer_of(source: SourceSettings, settings: BuildSettings | None = None) -> Resizer | None:
    """Return the resizer for a source with box space `resized`; None for other box spaces.

    Args:
        source: settings of the source.
        settings: settings of the build, used if the source has no resize settings.
    Raises:
        ModelError: see `Resizer.of_model`.
    """
    if source.box_space != "resized":
        return None
    stated = source if settings is None else settings.pixels_of(source)
    return Resizer.chosen(stated.processor, stated.min_pixels, stated.max_pixels)


def open_source(
    source: SourceSettings,
    folder: Path,
    images: Path | None,
    resizer: Resizer | None = None,
    called: str | None = None,
) -> Iterator[Record | Reject]:
    """Read a source without its filters.

    Args:
        source: settings of the source.
        folder: folder that its paths are relative to.
        images: image root; see `sources.read_source`.
        resizer: see `resizer_of`.
        called: see `sources.read_source`.
    Raises:
        RecordError, ConfigError: see `sources.read_source`.
    """
    found = read_source(
        source.file if source.file.startswith(HUB) else str(folder / source.file),
        images=images,
        format=source.format,
        outside=source.boxes,
        box_space=source.box_space,
        box_form=source.box_form,
        columns=source.columns,
        instances=None if source.instances is None else folder / source.instances,
        resizer=resizer,
        called=called,
    )
    return islice(found, None if source.limit is None else min(source.limit, sys.maxsize))


def _called(source: SourceSettings, sources: Sequence[SourceSettings]) -> str:
    """Return what places call the file of a source: its path as written, so that files of the same name stay apart.

    The folder of an absolute path is left out if no other source has that file name. The same build on another machine, or
    from the command line, then makes the same dataset.
    """
    path = Path(source.file)
    alone = sum(Path(other.file).name == path.name for other in sources) == 1
    return path.name if path.is_absolute() and alone else source.file


def _all(recipe: Recipe, left: Left) -> Iterator[tuple[Record | Reject, str]]:
    """Yield every record that passes the filters of its source, with the image path as written in the source."""
    if recipe.records is not None:
        for item in read_rows(recipe.records, recipe.images, IN_MEMORY):
            yield item, "" if isinstance(item, Reject) else item.image
        return
    for source in recipe.settings.sources:
        resizer = resizer_of(source, recipe.settings)
        called = _called(source, recipe.settings.sources)
        for item in open_source(source, recipe.settings.folder, recipe.images / source.images, resizer, called):
            if isinstance(item, Reject):
                yield item, ""
                continue
            record = replace(
                item,
                id=source.id_prefix + item.id,
                image=os.path.normpath(os.path.join(source.images, item.image)),
                depth=None if item.depth is None else os.path.normpath(os.path.join(source.images, item.depth)),
                dataset=source.dataset or item.dataset,
                split=source.split or item.split,
            )
            unwanted = record.dataset in source.without or bool(source.datasets and record.dataset not in source.datasets)
            if unwanted or (source.max_boxes is not None and len(record.boxes) > source.max_boxes):
                left.filtered[record.dataset] += 1
            else:
                yield record, item.image


def _within_cap(recipe: Recipe, left: Left) -> dict[str, set[int]] | None:
    """Return for each dataset the positions of the records that its cap keeps: those with the smallest seeded hash.

    This reads the sources once, and keeps at most `cap` numbers per dataset in memory.
    """
    cap = recipe.settings.cap
    if cap is None:
        return None
    heaps: dict[str, list[tuple[int, int]]] = {}
    position: Counter[str] = Counter()
    rejects = 0
    for item, _ in _all(recipe, Left()):
        if isinstance(item, Reject):
            rejects += 1
            continue
        index = position[item.dataset]
        position[item.dataset] += 1
        digest = hashlib.sha256(f"{recipe.settings.seed}\0{item.dataset}\0{item.id}".encode()).digest()
        entry = (-int.from_bytes(digest[:8], "big"), -index)
        heap = heaps.setdefault(item.dataset, [])
        if len(heap) < cap:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
            left.over_cap[item.dataset] += 1
    left.expected = rejects + sum(map(len, heaps.values()))
    return {dataset: {-index for _, index in heap} for dataset, heap in heaps.items()}


def _count_lines(recipe: Recipe) -> int | None:
    """Return the number of lines in the sources; None if a source is not a JSONL file or has filters."""
    if recipe.records is not None:
        return len(recipe.records)
    total = 0
    for source in recipe.settings.sources:
        path = recipe.settings.folder / source.file
        if path.suffix != ".jsonl" or source.datasets or source.without or source.max_boxes:
            return None
        try:
            with open(path, "rb") as stream:
                filled = filter(None, map(bytes.strip, stream))  # skip blank lines; the last line may lack a newline
                first = next(filled, b"").removeprefix(b"\xef\xbb\xbf")
                lines = bool(first) + sum(1 for _ in filled)
        except OSError:
            return None  # reading the file reports the error
        if first and not (first.startswith(b"{") and first.endswith(b"}")):
            return None  # a list, or objects that span lines
        total += lines if source.limit is None else min(lines, source.limit)
    return total


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that affect a dataset, as plain values for its manifest.

    These are the settings of the sources, `inputs` with a hash of each file, the cap, and the excluded images.

    Raises:
        RecordError: a source is missing.
    """
    sources: list[dict[str, Any]] = []
    inputs: dict[str, str] = {}
    files: dict[str, str] = {}  # name in the manifest → path in the recipe
    if recipe.records is not None:
        inputs[IN_MEMORY] = _records_hash(recipe.records)
    for source in recipe.settings.sources:
        stated = source.to_dict()
        sources.append({key: value for key, value in stated.items() if value not in (None, (), {}, [], "")})
        if source.box_space == "resized" and recipe.settings.pixels_of(source).stated:
            # The resulting resizer. Without resize settings, the manifest has no entry, as in earlier versions.
            for key in ResizedPixels.model_fields:
                sources[-1].pop(key, None)
            sources[-1]["resizer"] = asdict(resizer_of(source, recipe.settings) or Resizer())
        for key, file in (("file", source.file), ("instances", source.instances)):
            if file is not None and not file.startswith(HUB):
                # As in the recipe, but without absolute paths of this machine. Several folders can have files of the same
                # name.
                name = Path(file).name if Path(file).is_absolute() else file
                while name in inputs and files[name] != file:
                    name += "'"
                files[name] = file
                sources[-1][key] = name
                inputs[name] = _content_hash(recipe.settings.folder / file)
    listed = sorted(recipe.excluded.names | recipe.excluded.hashes)
    return {
        "sources": sources,
        "inputs": inputs,
        "cap": recipe.settings.cap,
        "exclude": sha256("\n".join(listed).encode()) if listed else None,
    }


def _records_hash(records: Sequence[Record | Mapping[str, Any]]) -> str:
    """Return a hash of records. A record that is not JSON counts by its Python representation, and becomes a reject
    later."""
    digest = hashlib.sha256()
    for record in records:
        stated = record.to_json() if isinstance(record, Record) else record
        try:
            digest.update(to_json(stated).encode() + b"\n")
        except (TypeError, ValueError):
            digest.update(repr(stated).encode() + b"\n")
    return digest.hexdigest()


def _content_hash(path: Path) -> str:
    """Return a hash of a file, or of all files in a folder with their names."""
    digest = hashlib.sha256()
    try:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(file.name.encode() + b"\0" if path.is_dir() else b"")
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise RecordError(f"{path}: cannot read: {error.strerror}", "missing_file") from None
    return digest.hexdigest()


def _same_image(root: Path, one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return inside(root, one).read_bytes() == inside(root, other).read_bytes()
    except (OSError, RecordError):
        return False  # opening the image reports the error
