"""Build one example from one record: depth, focus path, teacher's words, checked chain."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from sifthinker.chain import Chain, Region, Step, check_chain, region_boxes, render_chain
from sifthinker.coordinates import DECIMALS, UNIT, Frame, Resizer
from sifthinker.depth import LEAST_DEPTH, DepthMap, agrees
from sifthinker.engine.estimators import DepthSource
from sifthinker.engine.expansion import FocusPath, expand
from sifthinker.engine.settings import Expansion
from sifthinker.engine.sources.rows import image_below
from sifthinker.engine.teachers import ADVICE, Explanation, Task, Teacher, explain
from sifthinker.errors import BoxError, ChainError, ConfigError, DepthError, ImageError, RecordError
from sifthinker.files import atomic_write, sha256
from sifthinker.images import decode_image, shape_fault
from sifthinker.literals import Coordinates
from sifthinker.loops import in_thread
from sifthinker.prompts import PROMPT_VERSION, user_prompt
from sifthinker.records import Example, Record, Reject, shown


@dataclass(frozen=True, slots=True)
class Composer:
    """Builds examples from records.

    Args:
        root: image root.
        depth: depth source.
        teacher: explains the focus paths.
        expansion: settings of the reverse expansion. The chain uses the same decimals.
        seed: random seed of the focus paths.
        exclude: SHA-256 hashes of image files that must not be used.
        coordinates: box coordinates in chains and prompts, see `coordinates.Frame`.
        resizer: for `resized`, the resizer of the model to be trained.
    Raises:
        ConfigError: the coordinates are `resized` and there is no resizer.
    """

    root: Path
    depth: DepthSource
    teacher: Teacher
    expansion: Expansion = field(default_factory=Expansion)
    seed: int = 0
    exclude: frozenset[str] = frozenset()
    coordinates: Coordinates = "unit"
    resizer: Resizer | None = None

    def __post_init__(self) -> None:
        if self.coordinates == "resized" and self.resizer is None:
            raise ConfigError("coordinates resized needs a resizer. Pass Resizer.of_model(name of the model to be trained)")

    async def example(self, record: Record, out: Path) -> Example | Reject:
        """Return the example of a record and write its images below `out`, or return a reject with the reason."""
        # Read, decode and write files in threads, so most of that work runs outside the event loop.
        prepared = await in_thread(self._prepare, record)
        if isinstance(prepared, Reject):
            return prepared
        task = Task(record, prepared.focuses, tuple(focus.kind for focus in prepared.path), lambda: prepared.image)
        explanation = await explain(self.teacher, task)
        return await in_thread(self._compose, prepared, explanation, out)

    def _prepare(self, record: Record) -> _Prepared | Reject:
        """Do all work that comes before the teacher."""
        try:
            source = image_below(self.root, record.image, exists=True)
            data = _read(source)
            digest = sha256(data)
            if digest in self.exclude:
                raise RecordError(f"the content of {record.image} is excluded, SHA-256 {digest}", "excluded")
            image, as_it_is = decode_image(source, data)
            if record.size is not None and (fault := shape_fault(record.image, record.size, image.size)):
                raise RecordError(fault, "size_mismatch")
            depth = self.depth.read(record, self.root, image)
            depth = depth and depth.rounded()  # as stored in the dataset and measured by rewards
            frame = self._frame(image.size)
            path = expand(record, seed=self.seed, settings=self.expansion, frame=frame)
            focuses, digits = _state_depths(path, depth, self.expansion.decimals, frame)
        except (RecordError, ImageError) as error:
            return Reject(record.source, record.id, error.code, str(error))
        except DepthError as error:
            return Reject(record.source, record.id, "bad_depth", str(error))
        if depth is not None:
            depth.release()  # the teacher may take a long time
        suffix = source.suffix.lower() if as_it_is else ".png"
        return _Prepared(record, suffix, data if as_it_is else None, digest, image, depth, path, focuses, digits, frame)

    def _frame(self, size: tuple[int, int]) -> Frame:
        """Return the frame of the chain for an image of this (width, height)."""
        if self.resizer is None or self.coordinates != "resized":
            return UNIT if self.coordinates == "unit" else Frame(self.coordinates)
        try:
            return self.resizer.frame(size)
        except BoxError as error:
            raise ImageError(f"coordinates resized: {error}", "too_narrow") from None

    def _compose(self, prepared: _Prepared, explanation: Explanation, out: Path) -> Example | Reject:
        """Return the example of an explained record and write its images."""
        record, depth = prepared.record, prepared.depth
        attempts = tuple(attempt.to_json() for attempt in explanation.attempts)
        if explanation.thoughts is None:
            last = explanation.attempts[-1]
            code = last.codes[0]
            what = "" if code in ("endpoint", "refused_request") else "unusable reply of the teacher: "
            reason = f"{what}{'; '.join(last.problems)}"
            if "answer" in last.codes:  # the teacher is not told it again, or it would copy it
                reason += f"; expected {shown(record.answer)}"
            if code in ADVICE:
                reason += f"; {ADVICE[code]}"
            return Reject(record.source, record.id, f"teacher_{code}", reason, attempts)
        try:
            steps = tuple(Step(regions, text) for regions, text in zip(prepared.focuses, explanation.thoughts, strict=True))
            written = Chain(steps, record.answer)
            frame, decimals = prepared.frame, self.expansion.decimals
            chain = render_chain(written, decimals=decimals, depth_decimals=prepared.depth_decimals, frame=frame)
            problems = check_chain(chain, with_depth=depth is not None, frame=frame)
        except ChainError as error:
            return Reject(record.source, record.id, "bad_chain", f"cannot build a chain: {error}", attempts)
        if problems:
            reason = f"the chain is not valid: {problems[0]}"
            return Reject(record.source, record.id, "bad_chain", reason, attempts)

        images = [_keep_image(prepared, out / "images")]
        truth: str | None = None
        if depth is not None:
            truth, view = _keep_depth(depth, out)
            images.append(view)
        return Example(
            id=record.id,
            dataset=record.dataset,
            split=record.split,
            problem=record.question,
            answer=record.answer,
            boxes=prepared.path[-1].boxes,
            images=tuple(images),
            messages=(
                {
                    "role": "user",
                    "content": user_prompt(record.question, with_depth=depth is not None, coordinates=self.coordinates),
                },
                {"role": "assistant", "content": chain},
            ),
            depth=truth,
            choices=record.choices,
            family=record.family,
            provenance={
                "source": record.source,
                "image": record.image,
                "image_sha256": prepared.digest,
                "depth_source": self.depth.name,
                "seed": self.seed,
                "teacher": self.teacher.name,
                "prompt_version": PROMPT_VERSION,
                "attempts": len(attempts),
                "notes": "\n".join(record.notes),
            },
            coordinates=frame.space,
            resized=frame.size,
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A record with everything for its chain except the words.

    `data` is the content of its image file; None if the file must be converted, see `decode_image`.
    """

    record: Record
    suffix: str
    data: bytes | None
    digest: str
    image: Image.Image
    depth: DepthMap | None
    path: FocusPath
    focuses: tuple[tuple[Region, ...], ...]
    depth_decimals: int
    frame: Frame


def _state_depths(
    path: FocusPath, depth: DepthMap | None, decimals: int, frame: Frame
) -> tuple[tuple[tuple[Region, ...], ...], int]:
    """Return the regions of a focus path with depths that earn the depth reward, and the decimals of these depths.

    Depths have as many decimals as boxes if that is exact enough, else more.

    Raises:
        RecordError: a region has no depth reading (`depth_hole`), or 3 decimals cannot state its depth (`depth_too_near`).
    """
    regions = [tuple(Region.within(frame, box) for box in focus.boxes) for focus in path]
    if depth is None:
        return tuple(regions), decimals
    truths = [depth.mean(region_boxes(area)) for area in regions]
    if any(np.isnan(means).any() for means in truths):
        raise RecordError("a region of the focus path has no depth reading (all pixels are holes)", "depth_hole")
    for digits in range(decimals, DECIMALS + 1):
        stated = [[round(max(mean, LEAST_DEPTH), digits) for mean in means.tolist()] for means in truths]
        if all(agrees(depths, means).all() for depths, means in zip(stated, truths, strict=True)):
            focuses = (
                tuple(Region.within(frame, region.box, depth) for region, depth in zip(area, depths, strict=True))
                for area, depths in zip(regions, stated, strict=True)
            )
            return tuple(focuses), digits
    raise RecordError(
        f"a region of the focus path is so near that no depth with {DECIMALS} decimals is within a tenth of the true mean, "
        "so its chain would not earn the depth reward",
        "depth_too_near",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot read: {error.strerror}", "missing_image") from None


def _keep_image(prepared: _Prepared, folder: Path) -> str:
    """Copy the file of an image that all programs decode alike. Write any other image as PNG, see `decode_image`."""
    target = folder / f"{prepared.digest[:24]}{prepared.suffix}"
    if not target.is_file():
        data = prepared.data
        if data is None:
            buffer = io.BytesIO()
            prepared.image.save(buffer, "PNG")
            data = buffer.getvalue()
        atomic_write(target, data)
    return f"images/{target.name}"


def _keep_depth(depth: DepthMap, out: Path) -> tuple[str, str]:
    """Return the paths of the (exact map, image for models) in the dataset; one file if 8 bits are exact."""
    name = f"{depth.digest()[:24]}.png"
    truth = f"depth/{name}"
    if not (out / truth).is_file():
        depth.write(out / truth)
    if depth.eight_bit:
        return truth, truth
    view = f"depth_view/{name}"
    if not (out / view).is_file():
        depth.write_view(out / view)
    return truth, view
