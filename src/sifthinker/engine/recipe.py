"""What a build reads: its sources with filters, a cap for each dataset, duplicates found and images kept out."""

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

IN_MEMORY = "records"  # what the manifest calls records that come from no file


@dataclass(frozen=True)
class Recipe:
    """The records of a build, not yet read.

    Args:
        settings: sources, cap, seed, and images that must not be used.
        records: what is read in place of the settings' sources: records, or plain records as in JSON.
    Raises:
        ConfigError: there is nothing to read, or two kinds of it, or no folder for images.
    """

    settings: BuildSettings
    records: Sequence[Record | Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        sources = self.settings.sources
        if self.records is None and not sources:
            raise ConfigError("sources: nothing to build from; name at least one file, or give records")
        if self.records is not None and sources:
            raise ConfigError("sources: records were given, so that no source is read; leave the sources out")
        if self.settings.images is None:
            for source in sources:
                if source.file.startswith(HUB):
                    raise ConfigError(
                        f"{source.file}: a dataset of the hub needs --images FOLDER (images), where its images are kept"
                    )

    @property
    def images(self) -> Path:
        """The folder that every image lies in."""
        return self.settings.image_root

    @cached_property
    def excluded(self) -> Excluded:
        """What `exclude` holds; lists and folders are read once.

        Raises:
            RecordError, ConfigError: see `exclusion.Excluded`.
        """
        return Excluded(self.settings.exclude, self.images)


@dataclass(slots=True)
class Left:
    """What is found out about a recipe while it is read.

    Args:
        filtered: records of each dataset that its sources' filters left out.
        over_cap: records that were over the cap of their dataset.
        expected: how many records and rejects will come; None where that is not known before they have.
        whole: whether the recipe was read to its end.
        excluded: the images that were kept out; None before the recipe is read.
    """

    filtered: Counter[str] = field(default_factory=Counter)
    over_cap: Counter[str] = field(default_factory=Counter)
    expected: int | None = None
    whole: bool = False
    excluded: Excluded | None = None


def read_recipe(recipe: Recipe, *, left: Left | None = None) -> Iterator[Record | Reject]:
    """The records of a recipe: filtered, capped, each content once, excluded names out; in the order of its sources.

    Rejects of a source come where they stand in it. Image paths are relative to the recipe's `images`.

    Args:
        recipe: what to read.
        left: counts what was left out on purpose.
    Raises:
        RecordError: a source is missing or of no known form.
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
        # Before anything else: the line has matched, whatever the record is left out for.
        named = recipe.excluded.find(item.image, written)
        index = position[item.dataset]
        position[item.dataset] += 1
        if chosen is not None and index not in chosen[item.dataset]:
            continue
        if item.id in ids:
            reason = f"{item.source}: id {item.id!r} stands at {ids[item.id]} already; see id_prefix"
            yield Reject(item.source, item.id, "duplicate_id", reason)
            continue
        ids[item.id] = item.source
        if named is not None:
            reason = f"{item.source}: the image {item.image} is on a list of excluded ones: {named} {named.text[:200]!r}"
            yield Reject(item.source, item.id, "excluded", reason)
            continue
        content = f"{' '.join(item.question.lower().split())}\0{sorted(item.boxes)}"
        key = hashlib.blake2b(content.encode(), digest_size=16).digest()
        twin = next((other for other in seen.get(key, ()) if _same_image(recipe.images, item.image, other[0])), None)
        if twin is not None:
            reason = f"{item.source}: the same image, question and boxes as {twin[1]}"
            yield Reject(item.source, item.id, "duplicate", reason)
            continue
        seen.setdefault(key, []).append((item.image, item.source))
        yield item
    left.whole = True


def resizer_of(source: SourceSettings, settings: BuildSettings | None = None) -> Resizer | None:
    """How large the images were made whose pixels a source's boxes are in; None for other box spaces.

    Args:
        source: its settings.
        settings: of the build, for what the source itself does not state.
    Raises:
        ModelError: see `Resizer.of_model`.
    """
    if source.box_space != "resized":
        return None
    stated = source if settings is None else settings.pixels_of(source)
    return Resizer.chosen(stated.processor, stated.min_pixels, stated.max_pixels)


def open_source(
    source: SourceSettings, folder: Path, images: Path | None, resizer: Resizer | None = None
) -> Iterator[Record | Reject]:
    """What a source's file holds, its filters not yet applied.

    Args:
        source: its settings.
        folder: where its paths start.
        images: image root; see `sources.read_source`.
        resizer: see `resizer_of`.
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
    )
    return islice(found, None if source.limit is None else min(source.limit, sys.maxsize))


def _all(recipe: Recipe, left: Left) -> Iterator[tuple[Record | Reject, str]]:
    """Every record of every source that passes its filters, with its image's path as the source writes it."""
    if recipe.records is not None:
        for item in read_rows(recipe.records, recipe.images, IN_MEMORY):
            yield item, "" if isinstance(item, Reject) else item.image
        return
    for source in recipe.settings.sources:
        resizer = resizer_of(source, recipe.settings)
        for item in open_source(source, recipe.settings.folder, recipe.images / source.images, resizer):
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
    """For each dataset, the positions of the records that its cap keeps: those whose hash with the seed is least.

    The sources are read once for this; no more than `cap` numbers a dataset are held.
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
    """How many lines the sources have, if all are files of lines whose filters let everything through."""
    if recipe.records is not None:
        return len(recipe.records)
    total = 0
    for source in recipe.settings.sources:
        path = recipe.settings.folder / source.file
        if path.suffix != ".jsonl" or source.datasets or source.without or source.max_boxes:
            return None
        try:
            with open(path, "rb") as stream:
                filled = filter(None, map(bytes.strip, stream))  # blank lines are passed over; the last may have no end
                first = next(filled, b"").removeprefix(b"\xef\xbb\xbf")
                lines = bool(first) + sum(1 for _ in filled)
        except OSError:
            return None  # whoever reads the file says what is wrong
        if first and not (first.startswith(b"{") and first.endswith(b"}")):
            return None  # a list, or objects that span lines
        total += lines if source.limit is None else min(lines, source.limit)
    return total


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What shapes a dataset, as plain values for its manifest: the sources' settings, `inputs` with a hash of each file,
    cap, and the lists of excluded images.

    Raises:
        RecordError: a source is missing.
    """
    sources: list[dict[str, Any]] = []
    inputs: dict[str, str] = {}
    files: dict[str, str] = {}  # name in the manifest → as the recipe writes it
    if recipe.records is not None:
        inputs[IN_MEMORY] = _records_hash(recipe.records)
    for source in recipe.settings.sources:
        stated = source.to_dict()
        sources.append({key: value for key, value in stated.items() if value not in (None, (), {}, [], "")})
        if source.box_space == "resized" and recipe.settings.pixels_of(source).stated:
            # What the names and bounds amount to. Where none are stated, manifests of earlier versions say nothing either.
            for key in ResizedPixels.model_fields:
                sources[-1].pop(key, None)
            sources[-1]["resizer"] = asdict(resizer_of(source, recipe.settings) or Resizer())
        for key, file in (("file", source.file), ("instances", source.instances)):
            if file is not None and not file.startswith(HUB):
                # As the recipe writes it, but no path of this machine; files of one name may lie in several folders.
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
    """Of what records say; one that is no JSON counts by how Python writes it, and is a reject later."""
    digest = hashlib.sha256()
    for record in records:
        stated = record.to_json() if isinstance(record, Record) else record
        try:
            digest.update(to_json(stated).encode() + b"\n")
        except (TypeError, ValueError):
            digest.update(repr(stated).encode() + b"\n")
    return digest.hexdigest()


def _content_hash(path: Path) -> str:
    """Of a file, or of all files in a folder with their names."""
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
        return False  # whoever opens the image says what is wrong with it
