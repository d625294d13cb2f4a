"""Recipes: several sources in one YAML file, with filters, a cap for each dataset, duplicates found and images kept out."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from sifthinker.engine.exclusion import Excluded
from sifthinker.engine.sources import HUB, read_source
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import check_keys, inside, read_yaml, sha256
from sifthinker.literals import BoxForm, OutsideBoxes, SourceFormat, Space
from sifthinker.records import Record, Reject


@dataclass(frozen=True, slots=True)
class Source:
    """One file, folder or hub dataset of a recipe; see `sources.read_source` for what the fields mean.

    Args:
        file: relative to the recipe's folder, or `hf://owner/name:split`.
        images: image folder of this source, relative to the recipe's `images`.
        format: of the file.
        columns: of a table.
        box_space: of plain records and tables.
        box_form: of a table.
        boxes: `clip` or `strict`.
        instances: COCO instances, relative to the recipe's folder.
        dataset: what to call its records; the file's own names by default.
        split: what split to call its records; the file's own by default.
        datasets: keep the records of these datasets alone.
        without: leave out the records of these datasets.
        max_boxes: leave out records with more boxes.
        limit: read the first so many records.
        id_prefix: put before the ids of its records, for sources that number theirs alike.
    """

    file: str
    images: str = "."
    format: SourceFormat = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    box_space: Space = "unit"
    box_form: BoxForm = "xyxy"
    boxes: OutsideBoxes = "clip"
    instances: str | None = None
    dataset: str | None = None
    split: str | None = None
    datasets: Sequence[str] = ()
    without: Sequence[str] = ()
    max_boxes: int | None = None
    limit: int | None = None
    id_prefix: str = ""


@dataclass(frozen=True)
class Recipe:
    """What a dataset is made of.

    Args:
        sources: in order.
        folder: of the recipe file.
        images: image root; every source's images lie below it.
        cap: most records of each dataset, chosen at random by `seed`.
        seed: of the choice, and of the focus paths.
        exclude: images that must not be used: lists of names or SHA-256 hashes, or folders of images; see `exclusion`.
        settings: everything else in the file: options of the build by their names.
    """

    sources: Sequence[Source]
    folder: Path
    images: Path
    cap: int | None = None
    seed: int = 0
    exclude: Sequence[Path] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def excluded(self) -> Excluded:
        """What `exclude` holds; lists and folders are read once.

        Raises:
            RecordError, ConfigError: see `exclusion.Excluded`.
        """
        return Excluded(self.exclude, self.images)


@dataclass(slots=True)
class Left:
    """What is found out about a recipe while it is read.

    Args:
        filtered: records of each dataset that its sources' filters left out.
        over_cap: records that were over the cap of their dataset.
        expected: how many records and rejects will come; None where that is not known before they have.
        whole: whether the recipe was read to its end.
    """

    filtered: Counter[str] = field(default_factory=Counter)
    over_cap: Counter[str] = field(default_factory=Counter)
    expected: int | None = None
    whole: bool = False


def load_recipe(path: str | os.PathLike[str], settings: Sequence[str]) -> Recipe:
    """Read a recipe.

    Args:
        path: YAML file.
        settings: names of the build's options that a recipe may set.
    Raises:
        ConfigError: missing, not YAML, an unknown key, or a value of the wrong kind; says where.
    """
    where = Path(path)
    values = read_yaml(where)
    if not isinstance(values.get("sources"), list) or not values["sources"]:
        raise ConfigError(f"{where}: wanted a list of `sources`")
    check_keys(values, ["sources", "images", "cap", "seed", "exclude", *settings], str(where))
    sources = [_source(entry, f"{where}: sources[{index}]") for index, entry in enumerate(values["sources"])]
    for name in ("cap", "seed"):
        value = values.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise ConfigError(f"{where}: {name} must be a whole number, got {value!r}")
    exclude = values.get("exclude") or []
    exclude = [exclude] if isinstance(exclude, str) else exclude
    images = values.get("images", ".")
    if not isinstance(images, str) or not isinstance(exclude, list) or not all(isinstance(e, str) for e in exclude):
        raise ConfigError(f"{where}: images must be a path and exclude a list of paths")
    return Recipe(
        sources=sources,
        folder=where.parent,
        images=where.parent / images,
        cap=values.get("cap"),
        seed=values.get("seed", 0),
        exclude=[where.parent / entry for entry in exclude],
        settings={name: values[name] for name in settings if name in values},
    )


def _source(entry: Any, where: str) -> Source:
    if isinstance(entry, str):
        return Source(entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
        raise ConfigError(f"{where}: wanted a file, or keys and values with `file`")
    check_keys(entry, [item.name for item in dataclasses.fields(Source)], where)
    for name, kind in (("format", SourceFormat), ("box_space", Space), ("box_form", BoxForm), ("boxes", OutsideBoxes)):
        if name in entry and entry[name] not in get_args(kind):
            raise ConfigError(f"{where}: {name} must be one of {', '.join(get_args(kind))}, got {entry[name]!r}")
    for name in ("images", "instances", "dataset", "split", "id_prefix"):
        optional = name in ("instances", "dataset", "split")
        if name in entry and not (isinstance(entry[name], str) or (optional and entry[name] is None)):
            raise ConfigError(f"{where}: {name} must be text, got {entry[name]!r}")
    for name in ("datasets", "without"):
        if isinstance(entry.get(name), str):
            entry = {**entry, name: [entry[name]]}
        if not isinstance(entry.get(name, []), list):
            raise ConfigError(f"{where}: {name} must be a list of datasets, got {entry[name]!r}")
    for name in ("max_boxes", "limit"):
        if name in entry and (not isinstance(entry[name], int) or isinstance(entry[name], bool) or entry[name] < 1):
            raise ConfigError(f"{where}: {name} must be a positive whole number, got {entry[name]!r}")
    if not isinstance(entry.get("columns", {}), dict):
        raise ConfigError(f"{where}: columns must map our names to the table's, got {entry['columns']!r}")
    return Source(**entry)


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


def _all(recipe: Recipe, left: Left) -> Iterator[tuple[Record | Reject, str]]:
    """Every record of every source that passes its filters, with its image's path as the source writes it."""
    for source in recipe.sources:
        file = source.file if source.file.startswith(HUB) else str(recipe.folder / source.file)
        images = recipe.images / source.images
        for count, item in enumerate(
            read_source(
                file,
                images=images,
                format=source.format,
                outside=source.boxes,
                box_space=source.box_space,
                box_form=source.box_form,
                columns=source.columns,
                instances=None if source.instances is None else recipe.folder / source.instances,
            )
        ):
            if source.limit is not None and count >= source.limit:
                break
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
    if recipe.cap is None:
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
        digest = hashlib.sha256(f"{recipe.seed}\0{item.dataset}\0{item.id}".encode()).digest()
        entry = (-int.from_bytes(digest[:8], "big"), -index)
        heap = heaps.setdefault(item.dataset, [])
        if len(heap) < recipe.cap:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
            left.over_cap[item.dataset] += 1
    left.expected = rejects + sum(map(len, heaps.values()))
    return {dataset: {-index for _, index in heap} for dataset, heap in heaps.items()}


def _count_lines(recipe: Recipe) -> int | None:
    """How many lines the sources have, if all are files of lines whose filters let everything through."""
    total = 0
    for source in recipe.sources:
        path = recipe.folder / source.file
        if path.suffix != ".jsonl" or source.datasets or source.without or source.max_boxes:
            return None
        try:
            with open(path, "rb") as stream:
                lines = sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
        except OSError:
            return None  # whoever reads the file says what is wrong
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
    for source in recipe.sources:
        stated = dataclasses.asdict(source)
        sources.append({key: value for key, value in stated.items() if value not in (None, (), {}, [], "")})
        for key, file in (("file", source.file), ("instances", source.instances)):
            if file is not None and not file.startswith(HUB):
                # As the recipe writes it, but no path of this machine; files of one name may lie in several folders.
                name = Path(file).name if Path(file).is_absolute() else file
                while name in inputs and files[name] != file:
                    name += "'"
                files[name] = file
                sources[-1][key] = name
                inputs[name] = _content_hash(recipe.folder / file)
    listed = sorted(recipe.excluded.names | recipe.excluded.hashes)
    return {
        "sources": sources,
        "inputs": inputs,
        "cap": recipe.cap,
        "exclude": sha256("\n".join(listed).encode()) if listed else None,
    }


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
