"""Is this dataset what it says? Every line of a finished dataset held against its images, its depths and itself.

Two forms are known: ours (`examples.jsonl`), and the layout of the paper's release (a JSON list with `messages`, `images`,
`depth_image`, `normalized_solution_round`).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sifthinker.boxes import hierarchical_iou, other_space
from sifthinker.chain import (
    Region,
    check_chain,
    find_answer,
    find_regions,
    other_coordinates,
    read_completion,
    region_boxes,
)
from sifthinker.coordinates import UNIT, Frame, Resizer
from sifthinker.depth import DepthMap, dataset_depth
from sifthinker.engine.sources.rows import read_json
from sifthinker.engine.stats import Stats, counts_in_words
from sifthinker.errors import BoxError, ChainError, DepthError, ImageError, RecordError, SIFError
from sifthinker.files import inside, json_lines
from sifthinker.images import check_image
from sifthinker.prompts import asked_coordinates
from sifthinker.records import Example, examples_file, find_placeholder
from sifthinker.scoring.answers import judge
from sifthinker.scoring.rewards import score_depth

FINDINGS: dict[str, str] = {
    "not_json": "a line is not JSON",
    "not_an_example": "a line has other keys than an example, or values of another kind",
    "bad_messages": "the turns are not one of a user and one of an assistant",
    "bad_images": "images are not one path, or two where there is depth",
    "bad_box": "a box is not four numbers in [0, 1] with an area",
    "no_box": "there is no target box",
    "duplicate_id": "an id stands there twice",
    "path": "a path leads outside the dataset's folder",
    "missing_image": "an image file is not there",
    "broken_image": "an image file cannot be read",
    "not_plain_rgb": "an image is transparent or has more than 8 bits a channel: other trainers would see another picture",
    "size_mismatch": "the image, its depth image and its depth map differ in size, or `resized` has another shape",
    "bad_depth": "the depth map cannot be read, or is not in our own format",
    "placeholder": "a text holds an image placeholder or a control token of a model",
    "bad_chain": "the chain is not valid",
    "other_space": "the numbers of the chain's boxes, or of target boxes, are in another space than is said",
    "other_prompt": "the question asks for other coordinates than the chain states",
    "mixed_coordinates": "chains state boxes in several coordinates; training takes one at a time",
    "mixed_depth": "some examples have depth and some have none; training takes them apart",
    "no_example": "the file holds no example",
    "boxes_disagree": "the chain's last area is not the target boxes",
    "depth_off": "a stated depth is more than a tenth from the depth map's mean",
    "answer_disagrees": "the chain's answer is not the example's",
}


_NOT_PLAIN = "{}: trainers drop its transparency, or cut off what 8 bits a channel do not hold; save it as opaque RGB"
_LONG = re.compile(r"\d\.\d{4,}")  # numbers with more digits than our chains have; the release's may


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a line or a file: where, the line's id if it has one, a code of `FINDINGS`, and what was got and
    wanted."""

    where: str
    id: str
    code: str
    message: str


def check_dataset(path: str | Path, *, files: bool = True, stats: Stats | None = None) -> Iterator[Finding]:
    """Everything that is wrong with a dataset: its lines in order, then the whole; nothing when it is what it says.

    Args:
        path: a dataset folder, its examples file, or a JSON file of the release's layout.
        files: whether images and depth maps are opened.
        stats: gathers what the readable lines hold.
    Raises:
        RecordError: there is no such file.
    """
    stats = stats if stats is not None else Stats()
    where = Path(path)
    if where.is_file() and where.suffix == ".json":
        yield from _check_release(where, files, stats)
        return
    where = examples_file(where)
    seen: dict[str, str] = {}
    spaces: Counter[str] = Counter()
    depths: Counter[str] = Counter()
    number = 0
    for number, _, row, fault in json_lines(where):
        place = f"{where.name}:{number}"
        if fault:
            yield Finding(place, "", "not_json", fault)
            continue
        try:
            example = Example.from_json(row, place)
        except RecordError as error:
            code = error.code if error.code in FINDINGS else "not_an_example"
            yield Finding(place, str(row.get("id", "")) if isinstance(row, dict) else "", code, str(error))
            continue
        if example.id in seen:
            yield Finding(place, example.id, "duplicate_id", f"stands at {seen[example.id]} already")
        seen.setdefault(example.id, place)
        spaces[example.coordinates] += 1
        depths["no depth" if example.depth is None else "depth"] += 1
        yield from _check_example(example, where.parent, place, files, stats)
    if not number:
        yield Finding(where.name, "", "no_example", "the file is empty, or its lines are blank")
    if len(spaces) > 1:
        yield Finding(
            where.name, "", "mixed_coordinates", f"chains state boxes in {counts_in_words(spaces)}; train them apart"
        )
    if len(depths) > 1:
        yield Finding(where.name, "", "mixed_depth", f"examples have {counts_in_words(depths)}; train RGB-only data apart")


def _check_example(example: Example, folder: Path, place: str, files: bool, stats: Stats) -> Iterator[Finding]:
    def finding(code: str, message: str) -> Finding:
        return Finding(place, example.id, code, message)

    depth: DepthMap | None = None
    size: tuple[int, int] | None = None
    if len(example.images) != 1 + (example.depth is not None):
        yield finding("bad_images", f"{len(example.images)} images {'with' if example.depth else 'without'} a depth map")
    if files:
        sizes = {}
        for file in example.images:
            try:
                image, alike = check_image(inside(folder, file))  # whole: a header says nothing of what is cut off
                sizes[file] = image.size
                if not alike:
                    yield finding("not_plain_rgb", _NOT_PLAIN.format(file))
            except (RecordError, ImageError) as error:
                yield finding(_image_fault(error), str(error))
        size = sizes.get(example.images[0])
        if example.depth is not None:
            try:
                depth = dataset_depth(inside(folder, example.depth))
                sizes[example.depth] = depth.size
            except RecordError as error:
                yield finding("path", str(error))
            except DepthError as error:
                yield finding("bad_depth", str(error))
        if len(set(sizes.values())) > 1:
            yield finding("size_mismatch", "; ".join(f"{file} is {w}×{h}" for file, (w, h) in sizes.items()))
    if size is not None and example.resized is not None and not _resized_from(size, example.resized):
        yield finding("size_mismatch", f"{example.images[0]} is {'×'.join(map(str, size))}, resized {example.resized}")
    for name, text in (("question", example.prompt), ("answer", example.answer), ("chain", example.chain)):
        token = find_placeholder(text)
        if token:
            yield finding("placeholder", f"the {name} holds {token}, which trainers read as an image or the end of a turn")
    asked, found = asked_coordinates(example.prompt), list(_check_chain(example, depth, size))
    # Where the line is wrong about its chain, the prompt may well be right.
    if asked not in (None, example.coordinates) and "other_space" not in dict(found):
        yield finding("other_prompt", f"it asks for coordinates {asked}, but coordinates is {example.coordinates!r}")
    yield from (finding(code, message) for code, message in found)
    stats.add(example.dataset, example.family, example.boxes, example.chain, size, example.frame)


_GREATEST_FACTOR = 32  # to whose multiples a Qwen-VL processor resizes; 28 before Qwen3-VL


def _resized_from(size: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether an image of one (width, height) may have been resized to the other, its shape kept but for rounding.

    Both sides are rounded to multiples of a factor, so each is less than the factor from the same multiple of what it was.
    """
    (width, height), (new_width, new_height) = size, resized
    factor = min(math.gcd(new_width, new_height), _GREATEST_FACTOR)
    if (width - height) * (new_width - new_height) < 0:  # one is upright and the other lies
        return False
    return abs(new_width * height - new_height * width) <= factor * (width + height)


_SAME = 0.95  # hierarchical IoU from which a last area is the target boxes but for rounding


def _fitting(example: Example, size: tuple[int, int] | None) -> str:
    """In which other space the chain's last area is the target boxes, in words; "" where in none."""
    frames = {"fractions of the image (unit)": UNIT, "whole numbers from 0 to 1000 (per_mille)": Frame("per_mille")}
    if size is not None:
        with contextlib.suppress(BoxError):  # too narrow to be resized
            resized = Resizer().size(size)
            frames[f"pixels of the image at {resized[0]}×{resized[1]} (resized)"] = Frame("resized", resized)
        frames[f"pixels of the image itself, {size[0]}×{size[1]}"] = Frame("resized", size)
    found: dict[str, float] = {}
    for words, frame in frames.items():
        areas = find_regions(example.chain, with_depth=example.depth is not None, frame=frame)
        if frame != example.frame and areas:
            found[words] = hierarchical_iou(region_boxes(areas[-1]), example.boxes)
    best = max(found, key=found.__getitem__, default="")
    return best if best and found[best] >= _SAME else ""


def _check_chain(example: Example, depth: DepthMap | None, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    problems = check_chain(example.chain, with_depth=example.depth is not None, frame=example.frame)
    reading = read_completion(example.chain, with_depth=example.depth is not None, frame=example.frame)
    agreement = hierarchical_iou(region_boxes(reading.areas[-1]), example.boxes) if reading.areas else 0.0
    looks = other_coordinates(example.chain, example.frame)
    fits = _fitting(example, size) if agreement < _SAME else ""
    if looks or fits:
        words = [f"most boxes of the chain look like {looks}"] if looks else []
        words += [f"its last area is the target boxes in {fits}"] if fits else []
        yield "other_space", f"coordinates is {example.coordinates!r}, but {', and '.join(words)}"
    if problems and not (looks and problems[0].code in ("box_range", "number_form")):
        yield "bad_chain", str(problems[0])
    if reading.areas and agreement < 0.999 and not fits:
        yield "boxes_disagree", f"hierarchical IoU of the last area with the target boxes is {agreement:.3f}"
    if depth is not None and reading.areas and not fits:
        score = score_depth(reading, depth)
        if score.value is not None and score.value < 1:
            yield "depth_off", f"{1 - score.value:.0%} of the stated depths are more than a tenth off"
    if reading.answer is not None and judge(reading.answer, example.answer, example.choices).score < 1:
        yield "answer_disagrees", f"the chain says {reading.answer!r}, the example {example.answer!r}"


def _image_fault(error: RecordError | ImageError) -> str:
    """The code of what is wrong with an image or its path."""
    return "path" if isinstance(error, RecordError) else error.code


def _check_release(path: Path, files: bool, stats: Stats) -> Iterator[Finding]:
    """The release's layout. Its areas may state more digits than ours; what is checked is what training reads."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise RecordError(f"{path}: wanted a JSON list, got {type(rows).__name__}", "not_json")
    if not rows:
        yield Finding(path.name, "", "no_example", "the list is empty")
    for index, row in enumerate(rows):
        place = f"{path.name}[{index}]"
        try:
            yield from _check_release_row(row, path.parent, place, files, stats)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, SIFError) as error:
            yield Finding(place, "", "not_an_example", f"{type(error).__name__}: {error}")


def _check_release_row(row: Mapping[str, Any], folder: Path, place: str, files: bool, stats: Stats) -> Iterator[Finding]:
    identity = str(row.get("id", ""))
    roles = [message["role"] for message in row["messages"] if message["role"] != "system"]
    if roles != ["user", "assistant"]:
        yield Finding(place, identity, "bad_messages", f"roles are {roles}")
        return
    asked, chain = (message["content"] for message in row["messages"] if message["role"] != "system")
    images = [*row["images"]]
    if asked.count("<image>") not in (0, len(images)):
        yield Finding(place, identity, "bad_images", f"{asked.count('<image>')} places for {len(images)} images")
    size: tuple[int, int] | None = None
    for file in [*images, *([row["depth_image"]] if row.get("depth_image") else [])] if files else []:
        try:
            image, alike = check_image(inside(folder, str(file)))
        except (RecordError, ImageError) as error:
            yield Finding(place, identity, _image_fault(error), str(error))
        else:
            size = size or image.size
            if not alike:
                yield Finding(place, identity, "not_plain_rgb", _NOT_PLAIN.format(file))
    chain = _LONG.sub(lambda number: f"{float(number[0]):.3f}", chain)
    areas = find_regions(chain, with_depth=True) or find_regions(chain, with_depth=False)
    looks = other_coordinates(chain)
    if looks:
        yield Finding(place, identity, "other_space", f"wanted fractions, but most boxes of the chain look like {looks}")
    if find_answer(chain) is None or (not areas and not looks):
        yield Finding(place, identity, "bad_chain", "no area or no answer can be read")
    regions: list[Region] = []
    try:
        regions = _release_regions(row.get("normalized_solution_round"))
    except RecordError as error:
        yield Finding(place, identity, error.code, f"normalized_solution_round.bbox_3d: {error}")
    if regions and areas and hierarchical_iou(region_boxes(areas[-1]), region_boxes(regions)) < 0.9:
        yield Finding(place, identity, "boxes_disagree", "the chain's last area is not the solution's boxes")
    stats.add(str(row.get("dataset", "unknown")), "", [region.box for region in regions], chain, size)


def _release_regions(solution: Any) -> list[Region]:
    """The boxes of `normalized_solution_round`: `bbox_3d` of one region or several, each x1, y1, x2, y2, depth.

    Raises:
        BoxError: other than five finite numbers.
        RecordError: no box, or one that is not fractions of the image; its code is one of `FINDINGS`.
    """
    entries = solution if isinstance(solution, list) else [solution]
    regions = []
    for entry in entries:
        found = entry.get("bbox_3d") if isinstance(entry, Mapping) else None
        for numbers in found if isinstance(found, list) and found and isinstance(found[0], list) else [found]:
            if not isinstance(numbers, list) or len(numbers) != 5 or not all(math.isfinite(float(n)) for n in numbers):
                raise BoxError(f"bbox_3d wants x1, y1, x2, y2, depth; got {str(numbers)[:80]}")
            x1, y1, x2, y2, depth = map(float, numbers)
            looks, _ = other_space([[x1, y1, x2, y2]], "unit")
            if looks:
                raise RecordError(looks, "other_space")
            try:
                regions.append(Region((x1, y1, x2, y2), depth))
            except ChainError as error:
                raise RecordError(str(error), "bad_box") from None
    if not regions:
        raise RecordError("names no box", "no_box")
    return regions
