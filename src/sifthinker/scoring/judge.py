"""Judge answers by the rules of `scoring.answers`, and by a model where the rules cannot decide.

A `ModelJudge` decides about free text that differs from the truth. If the model fails, there is no verdict. That is not the
same as wrong.
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
from sifthinker.json_reply import without_reasoning
from sifthinker.loops import run_coroutine
from sifthinker.prompts import JUDGE_SYSTEM, judge_task
from sifthinker.scoring.answers import Verdict, judge


@dataclass(frozen=True, slots=True)
class Claim:
    """An answer to judge: the question, the answer, the right answer, and the choices of a closed question."""

    question: str
    answer: str
    truth: str
    choices: tuple[str, ...] = ()


# Maximum tokens of a verdict, without and with reasoning before it.
_A_NUMBER = 16
_WITH_REASONING = 4096
# A judge that refuses this many requests without answering one has a wrong setup.
_FIRST_REFUSALS = 10


_DIGITS = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_SCORE = re.compile(
    r"(?:\D{0,40}\b(?:score|verdict|rating)\b)?[^\w.%-]*(?:- )?"
    r"(?P<first>\d+(?:\.\d+)?|\.\d+)(?![\w%.]*[\w%])(?!\s*%)(?:\D.*)?"
    r"|.*?[^\w.%-](?P<last>\d+(?:\.\d+)?|\.\d+)[^\w%]*",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(slots=True)
class JudgeCounts:
    """Numbers of verdicts by their origin: rules, model, cache, or failed."""

    rules: int = 0
    model: int = 0
    cached: int = 0
    failed: int = 0


@dataclass(slots=True)
class ModelJudge:
    """A judge that applies rules first and asks a model on a server about the remaining free text.

    Args:
        endpoint: server of the model, with its timeout, retries and concurrency.
        cache: folder for verdicts, keyed by model, prompt and texts; None for no cache.
        counts: running totals.
    """

    endpoint: Endpoint
    cache: str | os.PathLike[str] | None = None
    counts: JudgeCounts = field(default_factory=JudgeCounts)
    _max_tokens: int = field(default=_A_NUMBER, init=False, repr=False)
    _refusals: int = field(default=0, init=False, repr=False)  # requests refused before one was answered

    def judge_all(self, items: Sequence[Claim]) -> list[Verdict | None]:
        """Judge several answers at once; works in notebooks too.

        Returns:
            A verdict for each item; None if the server failed, timed out or gave no valid score after every retry.
        Raises:
            EndpointError: the setup of the judge is wrong: its key, address, model or credit; or the judge refused each of
                its first requests.
        """
        return run_coroutine(self.judge_all_async(items))

    async def judge_all_async(self, items: Sequence[Claim]) -> list[Verdict | None]:
        """Like `judge_all`, for callers with an event loop."""
        async with self.endpoint:
            # Ask equal questions only once; they are common within a group.
            asked = {item: asyncio.create_task(self._judge(item)) for item in dict.fromkeys(items)}
            try:
                return [await asked[item] for item in items]
            finally:
                for task in asked.values():
                    task.cancel()
                await asyncio.gather(*asked.values(), return_exceptions=True)

    async def _judge(self, item: Claim) -> Verdict | None:
        ruled = judge(item.answer, item.truth, item.choices)
        if ruled.rule != "token_f1":
            self.counts.rules += 1
            return ruled
        file = self._file(item)
        if file is not None and (score := _read_verdict(file)) is not None:
            self.counts.cached += 1
            return Verdict(score, "model", "verdict from the cache")
        said = await self._ask(item)
        score = None if said is None else _stated_score(said)
        if said is None or score is None:
            self.counts.failed += 1
            return None
        self.counts.model += 1
        if file is not None:
            atomic_write(file, to_json({"score": score}))
        return Verdict(score, "model", f"the judge said {said.strip()[:80]!r}")

    async def _ask(self, item: Claim) -> str | None:
        """Return the reply of the model, or None if it failed."""
        messages = [
            {"role": "system", "content": JUDGE_SYSTEM},
            {"role": "user", "content": judge_task(item.question, item.truth, item.answer)},
        ]
        try:
            asked_for = self._max_tokens
            reply = await self.endpoint.chat(messages, temperature=0, max_tokens=asked_for)
            if reply.code == "cut_off" and asked_for < _WITH_REASONING:
                # The model reasons first; give it more tokens from now on.
                self._max_tokens = _WITH_REASONING
                reply = await self.endpoint.chat(messages, temperature=0, max_tokens=_WITH_REASONING)
        except EndpointError as error:
            if error.kind == "outage" or (error.kind == "request" and not self._refuses_all()):
                return None
            raise EndpointError(f"the judge model cannot be used: {error}", error.code, error.attempts, "setup") from None
        self._refusals = 0
        return None if reply.code else without_reasoning(reply.text)

    def _refuses_all(self) -> bool:
        """Count a refused request; return whether all of the first requests were refused."""
        self._refusals += not self.counts.model
        return self._refusals >= _FIRST_REFUSALS

    def _file(self, item: Claim) -> Path | None:
        if self.cache is None:
            return None
        key = to_json([self.endpoint.model, JUDGE_SYSTEM, item.question, item.truth, item.answer])
        name = sha256(key.encode("utf-8", "replace"))
        return Path(self.cache) / name[:2] / f"{name}.json"


def _stated_score(text: str) -> float | None:
    """Return the score in a judge's reply, or None.

    The score is the only number in the reply. It is in [0, 1], and begins the reply, ends it, or follows the word "score". A
    number in the middle of a sentence ("the 1 cat is black"), a percentage or a negative number is not a score.
    """
    if len({float(number) for number in _DIGITS.findall(text)}) != 1:
        return None
    found = _SCORE.fullmatch(text.strip())
    score = None if found is None else float(found["first"] or found["last"])
    return score if score is not None and score <= 1 else None


def _read_verdict(file: Path) -> float | None:
    try:
        score = json.loads(file.read_text(encoding="utf-8"))["score"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(score) if isinstance(score, int | float) and 0 <= score <= 1 else None
