"""The rewards for other trainers: verl's `compute_score` and ms-swift's reward classes. TRL's are in `rewards` itself.

verl: name this file and function in the config,

    custom_reward_function.path: …/sifthinker/adapters.py
    custom_reward_function.name: compute_score

ms-swift: `examples/swift_plugin.py` registers the classes; `--external_plugins` names it and `--reward_funcs` uses them.
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


class SwiftFormat:
    """ms-swift reward: `format_reward`. Columns of the dataset come as keyword arguments."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        return _floats(format_reward(completions, **columns))


class SwiftAnswer:
    """ms-swift reward: `answer_reward`, without progress. Columns: answer, perhaps choices."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        return _floats(answer_reward(completions, **columns))


class SwiftGrounding:
    """ms-swift reward: `grounding_reward`. Column: boxes."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        return _floats(grounding_reward(completions, **columns))


class SwiftDepth:
    """ms-swift reward: `depth_reward`. Column: depth, paths of 16-bit depth maps."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        return _floats(depth_reward(completions, **columns))


def _floats(rewards: Sequence[float | None]) -> list[float]:
    # ms-swift takes no gaps. Images without depth give one, to a whole group alike; a completion whose regions all lie in
    # sensor holes gives one too, and counts as wrong here.
    return [0.0 if reward is None else reward for reward in rewards]
