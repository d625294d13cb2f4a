"""A judge behind servers as they are: without some fields, with reasoning, set up wrongly, down."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sifthinker.endpoint import Endpoint
from sifthinker.errors import EndpointError
from sifthinker.scoring.judge import Claim, ModelJudge

from ..stand_in import serve

ASKED = Claim("What is it?", "a dark feline", "black cat")  # no rule decides


def judge(url: str, **options: Any) -> ModelJudge:
    return ModelJudge(Endpoint(url, "j", max_retries=0, backoff_s=0.01), **options)


def finished(text: str | None, reason: str, **message: Any) -> tuple[int, dict[str, str], str]:
    return 200, {}, json.dumps({"choices": [{"message": {"content": text, **message}, "finish_reason": reason}]})


@pytest.mark.parametrize("refused", ["temperature", "max_tokens"])
def test_servers_that_refuse_a_field(refused: str) -> None:
    def answer(request: dict[str, Any], number: int) -> Any:
        return (400, {}, f'{{"error": {{"message": "no {refused}"}}}}') if refused in request else "1"

    with serve(answer) as (url, requests):
        asking = judge(url)
        assert [asking.judge_all([ASKED])[0].score for _ in range(3)] == [1] * 3
    assert len(requests) == 4


@pytest.mark.parametrize(
    "cut", [finished("<think>\nThe user asks", "length"), finished(None, "length", reasoning_content="The user")]
)
def test_models_that_reason_get_room_once(cut: Any) -> None:
    def answer(request: dict[str, Any], number: int) -> Any:
        return cut if request["max_tokens"] <= 16 else "<think>0 or 1? 2 words agree.</think>\n\n1"

    with serve(answer) as (url, requests):
        asking = judge(url)
        assert [asking.judge_all([ASKED])[0].score for _ in range(2)] == [1, 1]
    assert [request["max_tokens"] for request in requests] == [16, 4096, 4096]


def test_a_verdict_that_is_cut_off_again_is_none() -> None:
    with serve(lambda request, number: finished("<think> 1", "length")) as (url, requests):
        assert judge(url).judge_all([ASKED]) == [None]
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("**1**", 1),
        ('{"score": 0.8}', 0.8),
        ("1 because both are cats", 1),
        ("The answer is right: 1", 1),
        ("Final score: 0.7\n\nRight in part.", 0.7),
        ("1/1", 1),
        ("-1", None),
        ("1%", None),
        ("1 %", None),
        ("0.5/1", None),
        ("1 or 0", None),
        ("There is 1 cat in both", None),
        ('{"thoughts": ["I look at part 0 of it."], "answer": "cat"}', None),
    ],
)
def test_what_is_a_score(said: str, score: float | None) -> None:
    with serve(lambda request, number: said) as (url, _):
        (verdict,) = judge(url).judge_all([ASKED])
    assert (verdict and verdict.score) == score


@pytest.mark.parametrize("status", [401, 403, 404, 402])
def test_a_judge_that_is_set_up_wrongly_stops_the_run(status: int, tmp_path: Path) -> None:
    with (
        serve(lambda request, number: (status, {}, "")) as (url, requests),
        pytest.raises(EndpointError, match=r"the judge model cannot be used: .*/v1/chat/completions") as caught,
    ):
        judge(url, cache=tmp_path).judge_all([ASKED, Claim("What?", "a cat there", "a big cat")])
    assert caught.value.kind == "setup"
    assert len(requests) == 1


def test_a_judge_that_refuses_its_first_requests_is_set_up_wrongly() -> None:
    several = [Claim("What is it?", f"feline {number}", "black feline") for number in range(20)]
    with (
        serve(lambda request, number: (400, {}, "no")) as (url, _),
        pytest.raises(EndpointError, match="the judge model cannot be used"),
    ):
        judge(url).judge_all(several)
    with serve(lambda request, number: "1" if number == 0 else (400, {}, "no")) as (url, _):
        verdicts = judge(url).judge_all(several)
    assert sum(verdict is None for verdict in verdicts) == 19


def test_an_outage_is_no_verdict() -> None:
    with serve(lambda request, number: (503, {}, "")) as (url, _):
        asking = judge(url)
        assert asking.judge_all([ASKED] * 2) == [None, None]
    assert asking.counts.failed == 1


def test_it_works_inside_a_running_loop() -> None:
    async def cell(url: str) -> list[Any]:
        asking = judge(url)
        return [*asking.judge_all([ASKED]), *await asking.judge_all_async([ASKED])]

    with serve(lambda request, number: "0.5") as (url, _):
        assert [verdict.score for verdict in asyncio.run(cell(url))] == [0.5, 0.5]
