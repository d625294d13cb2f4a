"""Is this answer right? The rules of `scoring.answers`, and a model for what rules cannot decide.

A `ModelJudge` is asked about free text that is not the truth word for word. Where it fails there is no verdict, which is not
the same as wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sifthinker.endpoint import Endpoint
from sifthinker.errors import EndpointError
from sifthinker.files import atomic_write, sha256, to_json
from sifthinker.prompts import JUDGE_SYSTEM, judge_task
from sifthinker.scoring.answers import Verdict, judge, normalise

__all__ = ["JudgeCounts", "ModelJudge", "Question", "Verdict", "judge", "normalise"]


@dataclass(frozen=True, slots=True)
class Question:
    """An answer to be judged: what was asked, what was answered, what is right, the choices of a closed question."""

    question: str
    answer: str
    truth: str
    choices: tuple[str, ...] = ()


@dataclass(slots=True)
class JudgeCounts:
    """How a model judge's verdicts came about: by rules, by the model, from its cache, or not at all."""

    rules: int = 0
    model: int = 0
    cached: int = 0
    failed: int = 0


@dataclass(slots=True)
class ModelJudge:
    """Rules first; free text that they leave open goes to a served model.

    Args:
        endpoint: its server; timeout, retries and concurrency are the endpoint's.
        cache: folder for verdicts, keyed by model, prompt and texts; None keeps none.
        counts: running totals.
    """

    endpoint: Endpoint
    cache: str | os.PathLike[str] | None = None
    counts: JudgeCounts = field(default_factory=JudgeCounts)

    def judge_all(self, items: Sequence[Question]) -> list[Verdict | None]:
        """Judge answers at once; None where the model failed, hung or answered nonsense after every retry. Never raises."""
        return asyncio.run(self._judge_all(items))

    async def _judge_all(self, items: Sequence[Question]) -> list[Verdict | None]:
        async with self.endpoint:
            # Equal questions, common within a group, are asked once.
            asked = {item: asyncio.create_task(self._judge(item)) for item in dict.fromkeys(items)}
            return [await asked[item] for item in items]

    async def _judge(self, item: Question) -> Verdict | None:
        ruled = judge(item.answer, item.truth, item.choices)
        if ruled.rule != "token_f1":
            self.counts.rules += 1
            return ruled
        file = self._file(item)
        if file is not None and (score := _read_verdict(file)) is not None:
            self.counts.cached += 1
            return Verdict(score, "model", "from the cache")
        messages = [
            {"role": "system", "content": JUDGE_SYSTEM},
            {"role": "user", "content": judge_task(item.question, item.truth, item.answer)},
        ]
        try:
            reply = await self.endpoint.chat(messages, temperature=0, max_tokens=16)
        except EndpointError:
            self.counts.failed += 1
            return None
        score = _stated_score(reply.text)
        if score is None:
            self.counts.failed += 1
            return None
        self.counts.model += 1
        if file is not None:
            atomic_write(file, to_json({"score": score}))
        return Verdict(score, "model", f"the judge said {reply.text.strip()[:80]!r}")

    def _file(self, item: Question) -> Path | None:
        if self.cache is None:
            return None
        key = to_json([self.endpoint.model, JUDGE_SYSTEM, item.question, item.truth, item.answer])
        name = sha256(key.encode("utf-8", "replace"))
        return Path(self.cache) / name[:2] / f"{name}.json"


def _stated_score(text: str) -> float | None:
    """The score that a judge states: one number in [0, 1] and nothing else but words around it."""
    numbers = {float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\d)", text)}
    if len(numbers) != 1:
        return None
    (score,) = numbers
    return score if 0 <= score <= 1 else None


def _read_verdict(file: Path) -> float | None:
    try:
        score = json.loads(file.read_text(encoding="utf-8"))["score"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(score) if isinstance(score, int | float) and 0 <= score <= 1 else None
