"""The rewards as ms-swift (4.6) takes them: classes made with the trainer's arguments.

`examples/swift_plugin.py` registers them; name it with `--external_plugins` and the rewards with `--reward_funcs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sifthinker.scoring.trl import answer_reward, depth_reward, format_reward, grounding_reward


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
