"""The scripted teacher of the embedded world. It explains records from their scene graphs, without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sifthinker.chain import Region
from sifthinker.engine.teachers import Attempt, Task
from sifthinker.errors import ConfigError
from sifthinker.lab.questions import DECIMALS, join_names


class ScriptedTeacher:
    """A deterministic teacher that explains world records from their scene graphs."""

    name = "scripted:3"

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        """See `engine.teachers.Teacher`.

        Raises:
            ConfigError: the record is not from the embedded world.
        """
        extra = task.record.extra
        if not isinstance(extra.get("scene"), int) or not isinstance(extra.get("objects"), list):
            raise ConfigError(
                f"record {task.record.id!r} is not from the embedded world, and the scripted teacher works only for that "
                "world; use --teacher openai"
            )
        thoughts = [_thought(kind, regions, extra) for kind, regions in zip(task.kinds, task.focuses, strict=True)]
        return json.dumps({"thoughts": thoughts, "answer": task.record.answer})


def _thought(kind: str, regions: Sequence[Region], extra: Mapping[str, Any]) -> str:
    if kind == "target":
        depths = [f"{region.depth:.{DECIMALS}f}" for region in regions if region.depth is not None]
        return str(extra["reason"]).format(*depths) if len(depths) == len(regions) else str(extra["plain"])
    if kind == "whole":
        return f"I look for {extra['subject']}."
    if kind == "distractor":
        seen = _seen(regions, extra["objects"])
        return f"I see {seen}. This does not help." if seen else "There is nothing here."
    return "It is around here." if kind == "merged" else "I look closer."


def _seen(regions: Sequence[Region], objects: Sequence[tuple[str, float, float]]) -> str:
    """Return the names of the objects whose centres are in the regions, in the order of the objects."""
    return join_names(
        [name for name, x, y in objects if any(r.box[0] <= x <= r.box[2] and r.box[1] <= y <= r.box[3] for r in regions)]
    )
