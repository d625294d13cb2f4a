"""Check every line of a finished dataset against its images and its depth maps, and for consistency.

Two layouts are supported: sifthinker's own (`examples.jsonl`), and that of the paper's release (a JSON list with `messages`,
`images`, `depth_image`, `normalized_solution_round`).
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
from sifthinker.records import Example, examples_file, find_placeholder, where_reasons_are, without_place
from sifthinker.scoring.answers import judge
from sifthinker.scoring.rewards import score_depth

FINDINGS: dict[str, str] = {
    "not_json": "a line is not JSON",
    "not_an_example": "a line has missing or unknown keys, or a value of the wrong type",
    "bad_messages": "the messages are not one user turn and one assistant turn",
    "bad_images": "the images are not one path, or two paths if there is depth",
    "bad_box": "a box is not four numbers in [0, 1] with an area",
    "no_box": "there is no target box",
    "duplicate_id": "an id occurs twice",
    "path": "a path leads outside the dataset folder",
    "missing_image": "an image file is missing",
    "broken_image": "an image file cannot be read",
    "not_plain_rgb": "an image is transparent or has more than 8 bits per channel, so other trainers see another image",
    "size_mismatch": "the image, its depth image and its depth map differ in size, or `resized` has another aspect ratio",
    "bad_depth": "the depth map cannot be read, or is not in sifthinker's own format",
    "placeholder": "a text contains an image placeholder or a control token of a model",
    "bad_chain": "the chain is not valid",
    "other_space": "the boxes of the chain, or the target boxes, are in another space than stated",
    "other_prompt": "the prompt asks for other coordinates than the chain uses",
    "mixed_coordinates": "the chains use several coordinates, and training accepts only one",
    "mixed_depth": "some examples have depth and others do not, and training does not accept a mixture",
    "no_example": "the file contains no example",
    "boxes_disagree": "the last area of the chain differs from the target boxes",
    "depth_off": "a depth in the chain differs from the mean of the depth map by more than a tenth",
    "answer_disagrees": "the answer in the chain differs from the answer of the example",
}


_NOT_PLAIN = "{}: other trainers drop transparency and all but 8 bits per channel. Save it as opaque 8-bit RGB"
_LONG = re.compile(r"\d\.\d{4,}")  # numbers with more decimals than a valid chain; the release has some


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault in a line or file: place, id of the line ("" if none), code (a key of `FINDINGS` or `REJECTS`) and message."""

    where: str
    id: str
    code: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", without_place(self.message, self.where))


def check_dataset(path: str | Path, *, files: bool = True, stats: Stats | None = None) -> Iterator[Finding]:
    """Yield every fault of a dataset: first of its lines in order, then of the complete file.

    Args:
        path: a dataset folder, its examples file, or a JSON file with the layout of the release.
        files: whether to open images and depth maps.
        stats: collects statistics of the readable lines.
    Raises:
        RecordError: the file does not exist.
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
        stats.lines += 1
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
            yield Finding(place, example.id, "duplicate_id", f"the id is already used at {seen[example.id]}")
        seen.setdefault(example.id, place)
        spaces[example.coordinates] += 1
        depths["no depth" if example.depth is None else "depth"] += 1
        yield from _check_example(example, where.parent, place, files, stats)
    if not number:
        words = f"the file is empty or has only blank lines{where_reasons_are(where)}"
        yield Finding(where.name, "", "no_example", words)
    if len(spaces) > 1:
        yield Finding(where.name, "", "mixed_coordinates", f"chains use {counts_in_words(spaces)}. Train them separately")
    if len(depths) > 1:
        yield Finding(where.name, "", "mixed_depth", f"examples have {counts_in_words(depths)}. Train them separately")


def _check_example(example: Example, folder: Path, place: str, files: bool, stats: Stats) -> Iterator[Finding]:
    def finding(code: str, message: str) -> Finding:
        return Finding(place, example.id, code, message)

    depth: DepthMap | None = None
    size: tuple[int, int] | None = None
    if len(example.images) != 1 + (example.depth is not None):
        expected = "1 image without a depth map" if example.depth is None else "2 images with a depth map"
        yield finding("bad_images", f"expected {expected}, got {len(example.images)}")
    if files:
        sizes = {}
        for file in example.images:
            try:
                image, alike = check_image(inside(folder, file))  # decode it: the header does not show a truncated file
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
        yield finding("size_mismatch", f"{example.images[0]} is {'×'.join(map(str, size))}, but resized {example.resized}")
    for name, text in (("question", example.prompt), ("answer", example.answer), ("chain", example.chain)):
        token = find_placeholder(text)
        if token:
            yield finding("placeholder", f"the {name} contains {token}, which trainers read as an image or end of turn")
    asked, found = asked_coordinates(example.prompt), list(_check_chain(example, depth, size))
    # If the line states wrong coordinates for its chain, the prompt may be correct.
    if asked not in (None, example.coordinates) and "other_space" not in dict(found):
        yield finding("other_prompt", f"the prompt asks for {asked}, but coordinates is {example.coordinates!r}")
    yield from (finding(code, message) for code, message in found)
    stats.add(example.dataset, example.family, example.boxes, example.chain, size, example.frame)


_GREATEST_FACTOR = 32  # Qwen-VL processors resize to multiples of 32; 28 before Qwen3-VL


def _resized_from(size: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether an image of one (width, height) can have been resized to the other with its shape kept, except for rounding.

    Both sides are rounded to multiples of a factor, so each differs by less than the factor from the same multiple of the
    original.
    """
    (width, height), (new_width, new_height) = size, resized
    factor = min(math.gcd(new_width, new_height), _GREATEST_FACTOR)
    if (width - height) * (new_width - new_height) < 0:  # one is portrait and the other landscape
        return False
    return abs(new_width * height - new_height * width) <= factor * (width + height)


_SAME = 0.95  # from this hierarchical IoU, the last area equals the target boxes except for rounding


def _fitting(example: Example, size: tuple[int, int] | None) -> str:
    """Return the other space in which the chain's last area equals the target boxes, in words; "" if none."""
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
        words += [f"its last area equals the target boxes in {fits}"] if fits else []
        yield "other_space", f"coordinates is {example.coordinates!r}, but {', and '.join(words)}"
    if problems and not (looks and problems[0].code in ("box_range", "number_form")):
        yield "bad_chain", str(problems[0])
    if reading.areas and agreement < 0.999 and not fits:
        yield "boxes_disagree", f"the hierarchical IoU of the last area and the target boxes must be 1, got {agreement:.3f}"
    if depth is not None and reading.areas and not fits:
        score = score_depth(reading, depth)
        if score.value is not None and score.value < 1:
            yield "depth_off", f"{1 - score.value:.0%} of the depths differ from the depth map by more than a tenth"
    if reading.answer is not None and judge(reading.answer, example.answer, example.choices).score < 1:
        yield "answer_disagrees", f"the answer must be {example.answer!r}, got {reading.answer!r} in the chain"


def _image_fault(error: RecordError | ImageError) -> str:
    """Return the code of a fault in an image or its path."""
    return "path" if isinstance(error, RecordError) else error.code


def _check_release(path: Path, files: bool, stats: Stats) -> Iterator[Finding]:
    """Check the layout of the release. Its areas can have more decimals; the check uses the numbers that training reads."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise RecordError(f"{path}: expected a JSON list, got {type(rows).__name__}", "not_json")
    if not rows:
        yield Finding(path.name, "", "no_example", "the list is empty")
    for index, row in enumerate(rows):
        place = f"{path.name}[{index}]"
        stats.lines += 1
        try:
            yield from _check_release_row(row, path.parent, place, files, stats)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, SIFError) as error:
            yield Finding(place, "", "not_an_example", f"{type(error).__name__}: {error}")


def _check_release_row(row: Mapping[str, Any], folder: Path, place: str, files: bool, stats: Stats) -> Iterator[Finding]:
    identity = str(row.get("id", ""))
    roles = [message["role"] for message in row["messages"] if message["role"] != "system"]
    if roles != ["user", "assistant"]:
        yield Finding(place, identity, "bad_messages", f"roles must be user and assistant, got {roles}")
        return
    asked, chain = (message["content"] for message in row["messages"] if message["role"] != "system")
    images = [*row["images"]]
    if asked.count("<image>") not in (0, len(images)):
        places = asked.count("<image>")
        yield Finding(place, identity, "bad_images", f"the prompt has {places} image placeholders for {len(images)} images")
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
        yield Finding(place, identity, "other_space", f"expected fractions, but most boxes of the chain look like {looks}")
    if find_answer(chain) is None or (not areas and not looks):
        yield Finding(place, identity, "bad_chain", "the chain has no readable area or no answer")
    regions: list[Region] = []
    try:
        regions = _release_regions(row.get("normalized_solution_round"))
    except RecordError as error:
        yield Finding(place, identity, error.code, f"normalized_solution_round.bbox_3d: {error}")
    if regions and areas and hierarchical_iou(region_boxes(areas[-1]), region_boxes(regions)) < 0.9:
        yield Finding(place, identity, "boxes_disagree", "the last area of the chain differs from the boxes of the solution")
    stats.add(str(row.get("dataset", "unknown")), "", [region.box for region in regions], chain, size)


def _release_regions(solution: Any) -> list[Region]:
    """Return the boxes of `normalized_solution_round`: `bbox_3d` of one or several regions, each x1, y1, x2, y2, depth.

    Raises:
        BoxError: a box is not five finite numbers.
        RecordError: there is no box, or a box is not fractions of the image. Its code is one of `FINDINGS`.
    """
    entries = solution if isinstance(solution, list) else [solution]
    regions = []
    for entry in entries:
        found = entry.get("bbox_3d") if isinstance(entry, Mapping) else None
        for numbers in found if isinstance(found, list) and found and isinstance(found[0], list) else [found]:
            if not isinstance(numbers, list) or len(numbers) != 5 or not all(math.isfinite(float(n)) for n in numbers):
                raise BoxError(f"bbox_3d must be x1, y1, x2, y2, depth, got {str(numbers)[:80]}")
            x1, y1, x2, y2, depth = map(float, numbers)
            looks, _ = other_space([[x1, y1, x2, y2]], "unit")
            if looks:
                raise RecordError(looks, "other_space")
            try:
                regions.append(Region((x1, y1, x2, y2), depth))
            except ChainError as error:
                raise RecordError(str(error), "bad_box") from None
    if not regions:
        raise RecordError("there is no box", "no_box")
    return regions
