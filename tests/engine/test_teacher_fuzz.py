"""Replies and bodies, spoilt in every way that a seed leads to: reasons come out, never an exception that is not ours."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import random
from collections.abc import Callable

import httpx2
import pytest

from sifthinker.chain import Region
from sifthinker.endpoint import Endpoint
from sifthinker.engine.teachers import CHECKS, Task, check_reply
from sifthinker.errors import EndpointError
from sifthinker.files import to_json
from sifthinker.records import Record, find_placeholder
from sifthinker.responses import Fault, Reply, read_response

RECORD = Record(id="r", image="i.png", question="What colour is the mug?", answer="blue", boxes=((0.2, 0.2, 0.4, 0.4),))
FOCI = ((Region((0, 0, 1, 1), 0.5),), (Region((0.2, 0.2, 0.4, 0.4), 0.3),))
TASK = Task(RECORD, FOCI, ("whole", "target"), lambda: None)  # type: ignore[arg-type, return-value]

GOOD = json.dumps({"thoughts": ["I look at the kitchen.", "The mug is \u00e9maill\u00e9 \U0001f600."], "answer": "blue"})
REPLIES = [GOOD, f"<think>hm {{</think>\n```json\n{GOOD}\n```", f"Here: {GOOD} Done.", f"[{GOOD}]", json.dumps(GOOD)]
BODIES = [
    {
        "choices": [{"message": {"content": GOOD}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    },
    {"choices": [{"message": {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": GOOD}]}}]},
    {"choices": [{"message": {"content": None, "reasoning_content": "hm", "tool_calls": [{}]}, "finish_reason": "length"}]},
    {"choices": [{"message": {"content": "a"}, "finish_reason": "error", "error": {"message": "lost", "code": 502}}]},
    {
        "error": {
            "message": "no",
            "code": 404,
            "type": "x",
            "param": "temperature",
            "metadata": {"raw": '{"error": {"message": "no"}}'},
        }
    },
    {"detail": [{"loc": ["body", "x"], "msg": "no", "input": {"a": 1}}]},
    {"object": "error", "message": "no", "code": 400},
]
PIECES = [
    "{", "}", "[", "]", '"', "\\", ",", ":", "null", "true", "NaN", "1e999", "-5", '"thoughts": ', '"answer": ', GOOD,
    "\n", "\r", "\t", "\0", "\x1b", "\ufeff", "\ud83d", "\\ud83d", "\u2028",
    "<think>", "</think>", "[/THINK]", "```", "<area>", "<image>", "<|im_end|>",
    "word " * 130, "{" * 3000, '{"a":' * 3000, "9" * 5000,
]  # fmt: skip


def spoilt(text: str, draw: random.Random) -> str:
    """A text after a few mutations: cut, pieces put in, taken out, doubled, nested, turned round."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        start, end = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        kind = draw.randrange(7)
        if kind == 0:
            text = text[:end]
        elif kind == 1:
            text = text[:start] + draw.choice(PIECES) + text[start:]
        elif kind == 2:
            text = text[:start] + text[end:]
        elif kind == 3:
            text = text[:end] + text[start:end] * draw.choice((1, 1, 1, 50)) + text[end:]
        elif kind == 4:
            text = (
                draw.choice(('{"result": ', "[", "<think>", "```json\n"))
                + text
                + draw.choice(("}", "]", "</think>", "\n```"))
            )
        elif kind == 5:
            text = text[:start] + text[start:end][::-1] + text[end:]
        else:
            text = text[start:]
        text = text[:200_000]
    return text


def spoilt_body(draw: random.Random) -> bytes:
    """A body with a value put in the place of another one, or spoilt as text."""
    body = json.loads(json.dumps(draw.choice(BODIES)))
    values = [
        None,
        True,
        0,
        -1,
        1e300,
        "",
        "x",
        [],
        {},
        [[]],
        [None],
        {"message": None},
        {"text": 5},
        "\ud83d",
        10**30,
        "401",
        429,
    ]
    for _ in range(draw.randint(0, 3)):
        here = body
        while True:
            keys = list(here) if isinstance(here, dict) else range(len(here))
            if not keys:
                break
            key = draw.choice(list(keys))
            if isinstance(here[key], dict | list) and here[key] and draw.random() < 0.8:
                here = here[key]
                continue
            here[key] = copy.deepcopy(draw.choice(values))
            break
    text = json.dumps(body)
    return (spoilt(text, draw) if draw.random() < 0.4 else text).encode("utf-8", draw.choice(("replace", "surrogatepass")))


def try_replies(draw: random.Random, count: int) -> None:
    for _ in range(count):
        reply = spoilt(draw.choice(REPLIES), draw)
        thoughts, problems = check_reply(reply, TASK)
        assert {code for code, _ in problems} <= set(CHECKS)
        assert all(words for _, words in problems)
        to_json(problems)
        if not problems:
            assert len(thoughts) == 2
            assert not any(find_placeholder(thought) or not thought.strip() for thought in thoughts)
            "".join(thoughts).encode()


def try_bodies(draw: random.Random, count: int) -> None:
    kinds = ["application/json", "text/html", "text/event-stream", "application/json; charset=latin-1", "x"]
    for _ in range(count):
        status = draw.choice((200, 200, 200, 201, 204, 301, 400, 401, 404, 422, 429, 500, 529))
        headers = {"content-type": draw.choice(kinds), "retry-after": draw.choice(("1", "nan", "inf", "-1", "never", ""))}
        outcome = read_response(httpx2.Response(status, headers=headers, content=spoilt_body(draw)))
        if isinstance(outcome, Reply):
            outcome.text.encode()
            assert bool(outcome.code) == bool(outcome.reason)
            check_reply(outcome.text, TASK)
        else:
            assert isinstance(outcome, Fault)
            assert outcome.kind == "setup" or not outcome.cause
            assert len(outcome.message) < 900
            assert outcome.message.isprintable()


def try_chats(draw: random.Random, count: int) -> None:
    """Through the whole client, with a transport in the place of a network."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        json.loads(request.content)
        return httpx2.Response(draw.choice((200, 200, 400, 422, 503)), content=spoilt_body(draw))

    async def go() -> None:
        endpoint = Endpoint("http://host/v1", "m", max_retries=1, backoff_s=0, transport=httpx2.MockTransport(answer))
        async with endpoint:
            for _ in range(count):
                with contextlib.suppress(EndpointError):
                    reply = await endpoint.chat(
                        [{"role": "user", "content": "x"}],
                        temperature=0,
                        max_tokens=9,
                        response_format={"type": "json_schema"},
                    )
                    reply.text.encode()
        assert endpoint.usage.requests >= count
        assert endpoint.usage.requests <= count * 8

    asyncio.run(go())


TRIALS: list[tuple[Callable[[random.Random, int], None], int]] = [(try_replies, 3000), (try_bodies, 3000), (try_chats, 500)]


@pytest.mark.parametrize(("trial", "count"), TRIALS)
def test_nothing_but_reasons_comes_out(trial: Callable[[random.Random, int], None], count: int) -> None:
    trial(random.Random(0), count)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize(("trial", "count"), TRIALS)
def test_nothing_but_reasons_comes_out_of_many_more(
    trial: Callable[[random.Random, int], None], count: int, seed: int
) -> None:
    trial(random.Random(seed), 8 * count)
