"""The rewards for ms-swift (4.6), as classes that take the trainer's arguments.

`examples/swift_plugin.py` registers them. Pass that file with `--external_plugins` and the rewards with `--reward_funcs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sifthinker.scoring.trl import answer_reward, depth_reward, format_reward, grounding_reward


class _Swift:
    """Base class of rewards for ms-swift, which passes the trainer's arguments. A missing score is None."""

    def __init__(self, args: Any = None, **unused: Any) -> None:
        self.args = args


class SwiftFormat(_Swift):
    """ms-swift reward: `format_reward`. The columns of the dataset are keyword arguments."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
        return format_reward(completions, **columns)


class SwiftAnswer(_Swift):
    """ms-swift reward: `answer_reward`, without progress. Columns: answer and optionally choices."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
        return answer_reward(completions, **columns)


class SwiftGrounding(_Swift):
    """ms-swift reward: `grounding_reward`. Column: boxes."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
        return grounding_reward(completions, **columns)


class SwiftDepth(_Swift):
    """ms-swift reward: `depth_reward`. Column: depth, absolute paths of depth maps in sifthinker's format."""

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
        return depth_reward(completions, **columns)
