"""The rewards for other trainers: verl's `compute_score` and ms-swift's reward classes. TRL's are in `rewards` itself.

verl (0.9): name this module and its function in the config,

    reward.custom_reward_function.path: pkg://sifthinker.adapters
    reward.custom_reward_function.name: compute_score

ms-swift (4.6): `examples/swift_plugin.py` registers the classes; name it with `--external_plugins` and them with
`--reward_funcs`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sifthinker.rewards import (
    REWARDS,
    answer_reward,
    depth_reward,
    format_reward,
    grounding_reward,
    reference_from,
    score_completion,
)


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
        ground_truth: answer, boxes, and perhaps depth and choices, as a mapping or its JSON text.
        extra_info: may hold `previous`, the group's mean answer score of the last epoch.
    Returns:
        `score`, the sum of the rewards that apply, and each reward by its name for verl's logs, NaN where there is none:
        verl wants the same names for every completion.
    """
    truth = json.loads(ground_truth) if isinstance(ground_truth, str) else ground_truth
    previous = (extra_info or {}).get("previous")
    scores = score_completion(solution_str, reference_from(truth), previous=previous)
    named = {name: getattr(scores, name).value for name in REWARDS}
    return {"score": scores.total, **{name: math.nan if value is None else value for name, value in named.items()}}


class _Swift:
    """What ms-swift asks of a reward: it makes one with the trainer's arguments, and a missing score is None."""

    def __init__(self, args: Any = None, **unused: Any) -> None:
        self.args = args


class SwiftFormat(_Swift):
    """ms-swift reward: `format_reward`. Columns of the dataset come as keyword arguments."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
        return format_reward(completions, **columns)


class SwiftAnswer(_Swift):
    """ms-swift reward: `answer_reward`, without progress. Columns: answer, perhaps choices."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
        return answer_reward(completions, **columns)


class SwiftGrounding(_Swift):
    """ms-swift reward: `grounding_reward`. Column: boxes."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
        return grounding_reward(completions, **columns)


class SwiftDepth(_Swift):
    """ms-swift reward: `depth_reward`. Column: depth, absolute paths of depth maps in our own format."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
        return depth_reward(completions, **columns)
