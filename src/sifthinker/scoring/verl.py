"""The rewards for verl (0.9). Set this module and its function in verl's config:

reward.custom_reward_function.path: pkg://sifthinker.scoring.verl
reward.custom_reward_function.name: compute_score
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from sifthinker.scoring.rewards import REWARDS, reference_from, score_completion


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Mapping[str, Any] | str,
    extra_info: Mapping[str, Any] | None = None,
    **unused: Any,
) -> dict[str, float]:
    """verl's custom reward function.

    Args:
        data_source: verl's name of the dataset; not used.
        solution_str: the completion.
        ground_truth: answer, boxes, and optionally depth, choices, coordinates and resized, as a mapping or as JSON text.
        extra_info: may contain `previous`, the group's mean answer score of the last epoch.
    Returns:
        `score`, the sum of the rewards that apply, and each reward by its name for verl's logs. A reward that does not apply
        is NaN, because verl needs the same names for every completion.
    """
    truth = json.loads(ground_truth) if isinstance(ground_truth, str) else ground_truth
    previous = (extra_info or {}).get("previous")
    scores = score_completion(solution_str, reference_from(truth), previous=previous)
    named = {name: getattr(scores, name).value for name in REWARDS}
    return {"score": scores.total, **{name: math.nan if value is None else value for name, value in named.items()}}
