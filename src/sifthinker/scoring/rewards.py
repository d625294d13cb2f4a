"""The four rewards of GRPO-SIF for one completion: format, answer, grounding, depth. `trl` has them for batches.

A malformed completion is data: it scores 0 with a reason, and nothing here raises on what a model wrote.
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
    "judged_model": "the model judge did not take the answer for right",
    "no_area": "the completion has no area that can be read",
    "no_depth": "the sample has no depth in these regions, so the completion has no depth reward",
    "depth_off": "a stated depth is more than a tenth from the true mean",
}


@dataclass(frozen=True, slots=True)
class Score:
    """A reward and how it came about.

    Args:
        value: the reward; None when it does not apply (no depth, no verdict).
        parts: the quantities it was made of.
        reasons: reason codes of what was missing or wrong.
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
    """What a completion is held against.

    Args:
        answer: the right answer; a number is taken for its text.
        boxes: (N, 4) unit xyxy, the regions that answer the question.
        depth: the image's depth; None in RGB-only work, where chains state no depth.
        choices: the possible answers of a closed question.
        frame: what the numbers of boxes in the completion stand for; `boxes` are unit in any case.
    Raises:
        RecordError: an answer that is no text.
        BoxError: a frame that is none.
    """

    answer: str
    boxes: ArrayLike
    depth: DepthMap | None = None
    choices: tuple[str, ...] = ()
    frame: Frame = UNIT

    def __post_init__(self) -> None:
        answer: object = self.answer
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise RecordError(f"answer is {answer!r}, wanted text")
        object.__setattr__(self, "answer", str(answer))
        check_frame(self.frame)


def reference_from(row: Mapping[str, Any]) -> Reference:
    """What a completion is held against, from a row of an examples file: answer, boxes, depth (a path or None), choices,
    and where completions state no fractions also coordinates and resized.

    Raises:
        BoxError: boxes that are none, or not fractions of the image; or coordinates that there are none of.
        DepthError: a depth file that cannot be read.
        RecordError: an answer that is no text, or a depth that is neither a path nor a map.
        ValueError: choices that are no list, see `records.read_choices`.
    """
    depth, choices = row.get("depth"), row.get("choices")
    if depth is not None and not isinstance(depth, str | DepthMap):
        raise RecordError(f"depth is {str(depth)[:40]}, wanted the path of a depth map")
    return Reference(
        answer=row["answer"],
        boxes=_truth_boxes(row["boxes"]),
        depth=cached_depth(depth) if isinstance(depth, str) else depth,
        choices=read_choices(choices),
        frame=frame_of(row.get("coordinates"), row.get("resized")),
    )


def _truth_boxes(boxes: ArrayLike) -> Boxes:
    """The boxes of what is right: at least one, in fractions of the image; others would score 0 for ever."""
    found = as_unit_boxes(boxes, advice=f"what is right is stated in fractions whatever a completion states: {TO_FRACTIONS}")
    if not len(found):
        raise BoxError("a reference needs at least one box")
    return found


def score_completion(
    text: str,
    reference: Reference,
    *,
    previous: float | None = None,
    denominator: Denominator = "max",
    opened: bool | None = None,
) -> Scores:
    """All four scores of a completion, which is parsed once.

    Args:
        text: what the model wrote.
        reference: what is right.
        previous: mean answer score of this sample's group the last time it was seen; None on the first visit.
        denominator: see `boxes.paired_iou`.
        opened: see `chain.read_completion`.
    Raises:
        ConfigError: a text that is none, or a reference that is none.
        BoxError: see `score_grounding`.
    """
    if not isinstance(text, str):
        raise ConfigError(f"text is {text!r:.200}, wanted what the model wrote, as text")
    if not isinstance(reference, Reference):
        raise ConfigError(f"reference is {reference!r:.200}, wanted a Reference")
    reading = read_completion(text, with_depth=reference.depth is not None, opened=opened, frame=reference.frame)
    return Scores(
        score_format(reading),
        score_answer(reading, reference.answer, reference.choices, previous=previous),
        score_grounding(reading, reference.boxes, denominator=denominator),
        score_depth(reading, reference.depth),
    )


def score_format(reading: Reading) -> Score:
    """1 for a valid chain, else 0 with the reason codes of `chain.REASONS`."""
    return Score(float(not reading.problems), {}, tuple(dict.fromkeys(p.code for p in reading.problems)))


def score_answer(
    reading: Reading,
    truth: str,
    choices: Sequence[str] = (),
    *,
    previous: float | None = None,
    verdict: Verdict | Literal["rules"] | None = "rules",
) -> Score:
    """s + max(0, s − previous): the judged answer, and how much better it is than the group was last time.

    Args:
        reading: the completion.
        truth: the right answer.
        choices: the possible answers of a closed question.
        previous: see `score_completion`.
        verdict: of another judge; None when that judge failed, which gives no score. By rules unless given.
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
    """h_end + max(0, h_end − h_start): where the focus ends, and how far it was corrected.

    h is the hierarchical IoU with the record's boxes, h_end that of the last area, h_start that of the first area which
    is not the whole image. The paper's term pays for a bad start: a perfect chain earns up to 1 more with a decoy before its
    last area. `group` measures the gain from where the *other* completions of the group started, which no completion can
    lower for itself.

    Args:
        reading: the completion.
        boxes: (N, 4) unit xyxy, the record's.
        denominator: see `boxes.paired_iou`.
        correction: `own`, the paper's; `group`, h_start is the mean of `others`; `off`, h_end alone.
        others: for `group`, h_start of the group's other completions that have an area; with none there is no gain.
    Returns:
        The score; its parts are `start` (h_start), `end` (h_end) and `gain` (h_end − h_start).
    Raises:
        BoxError: no boxes, or boxes that are not fractions of the image.
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
    """A correction by its name; True is `own` and False is `off`, which is also what YAML makes of a bare `off`.

    Raises:
        ConfigError: anything else.
    """
    found = {True: "own", False: "off"}.get(value, value) if isinstance(value, bool) else value
    if found not in get_args(Correction):
        raise ConfigError(f"correction must be own, group or off, got {value!r}")
    return cast("Correction", found)


def with_gain(start: float, end: float, correction: Correction, others: Sequence[float]) -> Score:
    baseline = {"own": start, "group": math.fsum(others) / len(others) if others else end, "off": end}[correction]
    return Score(end + max(0.0, end - baseline), {"start": start, "end": end, "gain": end - start})


def score_depth(reading: Reading, depth: DepthMap | None, *, repeats: bool = False) -> Score:
    """The share of regions, over all areas, whose stated depth is within a tenth of the true mean in the stated box.

    A true mean below 1/255 counts as 1/255. Regions that lie wholly in sensor holes have no true depth and are left out.

    Args:
        reading: the completion.
        depth: the image's depth; None gives no score.
        repeats: count every statement, as the paper does. Otherwise a box counts once in an area, and an area with the boxes
            of the one before it does not count: twenty whole-image areas are not twenty easy points.
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
    """Areas that do not repeat their predecessor's boxes, each box once: the first statement counts."""
    before: set[tuple[float, ...]] = set()
    for area in areas:
        once: dict[tuple[float, ...], Region] = {}
        for region in area:
            once.setdefault(region.box, region)
        if once.keys() != before:
            yield list(once.values())
        before = set(once)
