"""The four rewards of GRPO-SIF for one completion: format, answer, grounding, depth. For batches see `scoring.trl`.

A malformed completion is data: it scores 0 with a reason. No function here raises because of the text of a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from sifthinker.boxes import TO_FRACTIONS, Boxes, as_unit_boxes, hierarchical_iou
from sifthinker.chain import Reading, Region, is_whole_image, read_completion, region_boxes
from sifthinker.coordinates import UNIT, Frame, check_frame, frame_of
from sifthinker.depth import DepthMap, agrees
from sifthinker.depth_cache import cached_depth
from sifthinker.errors import BoxError, ConfigError, RecordError
from sifthinker.literals import Correction, Denominator, RewardName
from sifthinker.records import read_choices
from sifthinker.scoring.answers import Verdict, judge

REWARDS: tuple[str, ...] = get_args(RewardName)  # the fields of `Scores`, in the order in which they are shown

# Reason codes of the answer, grounding and depth rewards. The format reward has those of `chain.REASONS`.
REASONS: dict[str, str] = {
    "no_answer": "the completion has no answer that can be read",
    "no_verdict": "the judge gave no verdict, so the answer has no reward",
    "judged_choice": "the answer does not state the right option",
    "judged_yes_no": "the answer does not state the right one of yes and no",
    "judged_number": "the answer does not state the right number",
    "judged_token_f1": "the answer shares only some words with the right answer, or none",
    "judged_model": "the judge model judged the answer wrong",
    "no_area": "the completion has no area that can be read",
    "no_depth": "the example has no depth in these regions, so the completion has no depth reward",
    "depth_off": "a stated depth is more than a tenth from the true mean",
}


@dataclass(frozen=True, slots=True)
class Score:
    """A reward with its parts and reasons.

    Args:
        value: the reward; None if it does not apply (no depth, no verdict).
        parts: the quantities that the reward is computed from.
        reasons: reason codes for missing or wrong parts.
    """

    value: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scores:
    """The four scores of one completion."""

    format: Score
    answer: Score
    grounding: Score
    depth: Score

    @property
    def total(self) -> float:
        """The sum of the rewards that apply, equally weighted."""
        values = (getattr(self, name).value for name in REWARDS)
        return float(sum(value for value in values if value is not None))


@dataclass(frozen=True, slots=True)
class Reference:
    """The ground truth that a completion is scored against.

    Args:
        answer: the right answer; a number is converted to text.
        boxes: (N, 4) unit xyxy, the regions that answer the question.
        depth: depth of the image; None in RGB-only work, where chains state no depth.
        choices: the possible answers of a closed question.
        frame: meaning of the box coordinates in the completion; `boxes` are always unit.
    Raises:
        RecordError: the answer is not text.
        BoxError: the frame is invalid.
    """

    answer: str
    boxes: ArrayLike
    depth: DepthMap | None = None
    choices: tuple[str, ...] = ()
    frame: Frame = UNIT

    def __post_init__(self) -> None:
        answer: object = self.answer
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise RecordError(f"answer must be text, got {answer!r}")
        object.__setattr__(self, "answer", str(answer))
        check_frame(self.frame)


def reference_from(row: Mapping[str, Any]) -> Reference:
    """Build a reference from a row of an examples file.

    The row has answer, boxes, depth (a path or None) and choices. If completions state no fractions, it also has coordinates
    and resized.

    Raises:
        BoxError: the boxes are invalid or not fractions of the image; or the coordinates are unknown.
        DepthError: the depth file is unreadable.
        RecordError: the answer is not text, or depth is neither a path nor a map.
        ValueError: choices is not a list, see `records.read_choices`.
    """
    depth, choices = row.get("depth"), row.get("choices")
    if depth is not None and not isinstance(depth, str | DepthMap):
        raise RecordError(f"depth must be the path of a depth map, got {str(depth)[:40]}")
    return Reference(
        answer=row["answer"],
        boxes=_truth_boxes(row["boxes"]),
        depth=cached_depth(depth) if isinstance(depth, str) else depth,
        choices=read_choices(choices),
        frame=frame_of(row.get("coordinates"), row.get("resized")),
    )


def _truth_boxes(boxes: ArrayLike) -> Boxes:
    """Check ground-truth boxes: at least one, in fractions of the image. Others would make every score 0."""
    found = as_unit_boxes(
        boxes, advice=f"ground-truth boxes are always fractions, whatever a completion states: {TO_FRACTIONS}"
    )
    if not len(found):
        raise BoxError("a reference needs at least one ground-truth box, got none")
    return found


def score_completion(
    text: str,
    reference: Reference,
    *,
    previous: float | None = None,
    denominator: Denominator = "max",
    opened: bool | None = None,
) -> Scores:
    """Return all four scores of a completion. The text is parsed only once.

    Args:
        text: the completion.
        reference: the ground truth.
        previous: mean answer score of this example's group at its last visit; None on the first visit.
        denominator: see `boxes.paired_iou`.
        opened: see `chain.read_completion`.
    Raises:
        ConfigError: `text` is not text, or `reference` is not a `Reference`.
        BoxError: see `score_grounding`.
    """
    if not isinstance(text, str):
        raise ConfigError(f"text must be the completion as text, got {text!r:.200}")
    if not isinstance(reference, Reference):
        raise ConfigError(f"reference must be a Reference, got {reference!r:.200}")
    reading = read_completion(text, with_depth=reference.depth is not None, opened=opened, frame=reference.frame)
    return Scores(
        score_format(reading),
        score_answer(reading, reference.answer, reference.choices, previous=previous),
        score_grounding(reading, reference.boxes, denominator=denominator),
        score_depth(reading, reference.depth),
    )


def score_format(reading: Reading) -> Score:
    """Return 1 for a valid chain, else 0 with the reason codes of `chain.REASONS`."""
    return Score(float(not reading.problems), {}, tuple(dict.fromkeys(p.code for p in reading.problems)))


def score_answer(
    reading: Reading,
    truth: str,
    choices: Sequence[str] = (),
    *,
    previous: float | None = None,
    verdict: Verdict | Literal["rules"] | None = "rules",
) -> Score:
    """Return s + max(0, s − previous): the answer score s plus its progress over the group's last visit.

    Args:
        reading: the completion.
        truth: the right answer.
        choices: the possible answers of a closed question.
        previous: see `score_completion`.
        verdict: verdict of another judge, or None if that judge failed; then there is no score. By default, rules decide.
    Source: SIFThinker's progressive answer reward.
    """
    if reading.answer is None:
        return Score(0.0, {"s": 0.0}, ("no_answer",))
    if verdict == "rules":
        verdict = judge(reading.answer, truth, choices)
    if verdict is None:
        return Score(None, {}, ("no_verdict",))
    progress = 0.0 if previous is None else max(0.0, verdict.score - previous)
    reasons = () if verdict.score == 1 else (f"judged_{verdict.rule}",)
    return Score(verdict.score + progress, {"s": verdict.score, "progress": progress}, reasons)


def score_grounding(
    reading: Reading,
    boxes: ArrayLike,
    *,
    denominator: Denominator = "max",
    correction: Correction = "own",
    others: Sequence[float] = (),
) -> Score:
    """Return h_end + max(0, h_end − h_start): the final focus plus its correction.

    h is the hierarchical IoU with the record's boxes: h_end for the last area, h_start for the first area that is not the
    whole image. The paper's term rewards a bad start: a perfect chain earns up to 1 more with a decoy before its last area.
    `group` takes h_start from the *other* completions of the group, so a completion cannot lower its own h_start.

    Args:
        reading: the completion.
        boxes: (N, 4) unit xyxy, the boxes of the record.
        denominator: see `boxes.paired_iou`.
        correction: `own`, the paper's term; `group`, h_start is the mean of `others`; `off`, h_end alone.
        others: for `group`, h_start of the other completions in the group that have an area. Without any, the gain is 0.
    Returns:
        The score. Its parts are `start` (h_start), `end` (h_end) and `gain` (h_end − h_start).
    Raises:
        BoxError: there are no boxes, or they are not fractions of the image.
    Source: SIFThinker's correction-enhanced grounding reward; `group` is ours.
    """
    truth = _truth_boxes(boxes)
    if not reading.areas:
        return Score(0.0, {"start": 0.0, "end": 0.0}, ("no_area",))
    first = next((area for area in reading.areas if not is_whole_image(area)), reading.areas[-1])
    last = reading.areas[-1]
    end = hierarchical_iou(region_boxes(last), truth, denominator=denominator)
    start = end if first is last else hierarchical_iou(region_boxes(first), truth, denominator=denominator)
    return with_gain(start, end, correction, others)


def as_correction(value: Any) -> Correction:
    """Return a correction by its name. True means `own`, False means `off`, since YAML reads a bare `off` as False.

    Raises:
        ConfigError: the value is something else.
    """
    found = {True: "own", False: "off"}.get(value, value) if isinstance(value, bool) else value
    if found not in get_args(Correction):
        raise ConfigError(f"correction must be own, group or off, got {value!r}")
    return cast("Correction", found)


def with_gain(start: float, end: float, correction: Correction, others: Sequence[float]) -> Score:
    baseline = {"own": start, "group": math.fsum(others) / len(others) if others else end, "off": end}[correction]
    return Score(end + max(0.0, end - baseline), {"start": start, "end": end, "gain": end - start})


def score_depth(reading: Reading, depth: DepthMap | None, *, repeats: bool = False) -> Score:
    """Return the share of regions, over all areas, whose stated depth is within 10 % of the true mean in the stated box.

    A true mean below 1/255 counts as 1/255. Regions that lie completely in sensor holes have no true depth and are left out.

    Args:
        reading: the completion.
        depth: depth of the image; None gives no score.
        repeats: count every statement, as the paper does. Otherwise a box counts once per area, and an area with the same
            boxes as the area before does not count. Repeated whole-image areas then earn nothing.
    Source: SIFThinker's depth consistency reward.
    """
    if depth is None:
        return Score(None, {}, ("no_depth",))
    regions = [region for area in (reading.areas if repeats else _without_repeats(reading.areas)) for region in area]
    if not regions:
        return Score(0.0, {}, ("no_area",))
    truth = depth.mean(region_boxes(regions))
    stated = np.array([np.nan if region.depth is None else region.depth for region in regions])
    known = ~np.isnan(truth)
    if not known.any():
        return Score(None, {}, ("no_depth",))
    share = float(agrees(stated, truth)[known].mean())
    return Score(share, {"regions": float(known.sum())}, () if share == 1 else ("depth_off",))


def _without_repeats(areas: Sequence[Sequence[Region]]) -> Iterator[list[Region]]:
    """Yield the areas that do not repeat the boxes of the area before, each box once. The first statement counts."""
    before: set[tuple[float, ...]] = set()
    for area in areas:
        once: dict[tuple[float, ...], Region] = {}
        for region in area:
            once.setdefault(region.box, region)
        if once.keys() != before:
            yield list(once.values())
        before = set(once)
