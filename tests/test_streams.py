"""Replies as they are written: reading streams of events, and asking for them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.endpoint import Endpoint
from sifthinker.errors import EndpointError
from sifthinker.responses import Fault, Reply, lines_of, read_events

from .stand_in import DONE, USAGE, event, serve, told


async def chunked(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def read(text: str, grow: Callable[[Reply], None] | None = None) -> Reply | Fault:
    return asyncio.run(read_events(lines_of(chunked(text.encode())), {}, grow))


def error_event(**error: Any) -> str:
    return f"data: {json.dumps({'error': error})}\n\n"


STOP = event(finish="stop")
AB = Reply("ab", 100, 20)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (event("a") + event("b") + STOP + USAGE + DONE, AB),
        # A server that ends without the mark, or without a reason, and one that states its tokens with the last words.
        (event("a") + event("b") + STOP + USAGE, AB),
        (event("a") + event("b") + USAGE + DONE, AB),
        (event("a") + STOP.replace('"choices"', '"usage": {"prompt_tokens": 1}, "choices"') + DONE, Reply("a", 1, 0)),
        (event("a") + STOP + DONE, Reply("a")),
        # Comments, names of events, other fields, spaces or none behind the colon, and other ends of lines.
        (": keep\n\nevent: message\nid: 4\nretry: 9\n" + event("a") + ": ping\n" + event("b") + STOP + USAGE + DONE, AB),
        ((event("a") + event("b") + STOP + USAGE + DONE).replace("data: ", "data:"), AB),
        ((event("a") + event("b") + STOP + USAGE + DONE).replace("\n", "\r\n"), AB),
        ((event("a") + event("b") + STOP + USAGE + DONE).replace("\n", "\r"), AB),
        ((event("a") + event("b") + STOP + USAGE + DONE).replace("\n\n", "\n"), AB),
        ("\ufeff" + event("a") + event("b") + STOP + USAGE + DONE.strip(), AB),
        # One event in several lines of data.
        (event("a") + event("b").replace(', "delta"', ',\ndata: "delta"') + STOP + USAGE + DONE, AB),
        (event("a") + event("b").replace(', "delta"', ',\ndata: "delta"').replace("\n\n", "\n") + STOP + USAGE + DONE, AB),
        # What stands behind the end mark is nobody's.
        ((event("a") + event("b") + STOP + USAGE + DONE + event("c")).replace("\n\n", "\n"), AB),
        (event("a") + event("b") + STOP + USAGE + DONE + event("c"), AB),
        # Characters at which a text of Python breaks into lines.
        ('data: {"choices": [{"delta": {"content": "a\u2028\x85 b"}}]}\n\n' + STOP + DONE,
         Reply("a\u2028\x85 b")),
        # Reasoning, refusals and calls.
        (event(reasoning_content="h") + event(reasoning_content="m") + event("a") + STOP + DONE, Reply("a", reasoning="hm")),
        (event(reasoning="hm") + event("a") + STOP + DONE, Reply("a", reasoning="hm")),
        (event([{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}]) + STOP + DONE, Reply("a")),
        (event("a") + event(finish="length") + DONE,
         Reply("a", code="cut_off", reason="the reply was cut off (finish_reason length)")),
        (event(refusal="I ") + event(refusal="won't.") + STOP + DONE,
         Reply("", code="refused", reason='the model refused: "I won\'t."')),
        (event("a") + event(finish="content_filter") + DONE,
         Reply("a", code="refused", reason="the server filtered the reply (finish_reason content_filter)")),
        (event(tool_calls=[{"id": "1"}]) + event(finish="tool_calls") + DONE,
         Reply("", code="no_content", reason="the model called a tool instead of writing a reply. Serve it without tools")),
        (event("half \ud83d") + event("\ude00 of it") + STOP + DONE, Reply("half \U0001f600 of it")),
        (event("half \ud83d of it") + STOP + DONE, Reply("half \ufffd of it")),
        (event(None) + STOP + DONE, Reply("")),
    ],
)  # fmt: skip
def test_replies(text: str, wanted: Reply) -> None:
    assert read(text) == wanted


@pytest.mark.parametrize(
    ("text", "code", "kind", "words"),
    [
        ("", "connection", "outage", "ended before"),
        (event("a"), "connection", "outage", "ended before"),
        (event("a") + USAGE, "connection", "outage", "ended before"),
        (event("a")[:20], "not_json", "outage", "not JSON"),
        (event("a") + event("b")[:-9], "not_json", "outage", "not JSON"),
        ("data: <html>\n\n", "not_json", "outage", "<html>"),
        ("<html>\n", "connection", "outage", "ended before"),
        (DONE, "bad_shape", "outage", "choices[0]"),
        (USAGE + DONE, "bad_shape", "outage", "choices[0]"),
        ("data: [1]\n\n" + DONE, "bad_shape", "outage", "choices[0]"),
        ('data: {"choices": [5]}\n\n' + DONE, "bad_shape", "outage", "choices[0]"),
        (event("a") + error_event(message="the host hung up"), "server_error", "outage", "the host hung up"),
        (event("a") + error_event(message="busy", code=503), "status_503", "outage", "busy"),
        (error_event(message="bad key", code=401), "status_401", "setup", "bad key"),
        (error_event(message="no such picture", code=400), "status_400", "request", "no such picture"),
        (event("a") + event(finish="error") + DONE, "server_error", "outage", "finish_reason error"),
        ('data: {"choices": [{"delta": {}, "error": {"message": "hung up", "code": 502}}]}\n\n' + DONE,
         "status_502", "outage", "hung up"),
        ("data: " + "[" * 100_000 + "\n\n", "not_json", "outage", "not JSON"),
    ],
)  # fmt: skip
def test_streams_that_hold_no_reply(text: str, code: str, kind: str, words: str) -> None:
    found = read(text)
    assert isinstance(found, Fault)
    assert (found.code, found.kind) == (code, kind)
    assert words in found.message
    assert len(found.message) < 500


def test_the_reply_grows() -> None:
    seen: list[Reply] = []
    read(event(reasoning_content="hm") + event("a") + event("") + event("b") + STOP + USAGE + DONE, seen.append)
    assert [(reply.text, reply.reasoning, reply.code) for reply in seen] == [
        ("", "hm", "partial"), ("a", "hm", "partial"), ("ab", "hm", "partial"),
    ]  # fmt: skip


@given(
    st.lists(st.sampled_from(["data: a", "", "ä\u2028€", "x" * 20]), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.data(),
)
def test_lines_do_not_depend_on_how_they_come(lines: list[str], end: str, data: st.DataObject) -> None:
    whole = "".join(line + end for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    chunks = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def found() -> list[str]:
        return [line async for line in lines_of(chunked(*chunks))]

    assert asyncio.run(found()) == [*lines, ""]


def follow(endpoint: Endpoint, most: int | None = None, **parameters: Any) -> list[Reply]:
    async def run() -> list[Reply]:
        found: list[Reply] = []
        async with endpoint, aclosing(endpoint.stream([], **parameters)) as growing:
            async for reply in growing:
                found.append(reply)
                if len(found) == most:
                    break
        return found

    return asyncio.run(run())


class TestAsking:
    def test_pieces_come_as_they_are_written(self) -> None:
        """The server writes on only when its last words have arrived."""
        arrived = threading.Semaphore(1)

        def answer(request: dict[str, Any], number: int) -> Iterator[str]:
            for piece in ("one", " two", " three"):
                assert arrived.acquire(timeout=20)
                yield event(piece)
            yield STOP + USAGE + DONE

        async def run(endpoint: Endpoint) -> list[Reply]:
            found = []
            async with endpoint:
                async for reply in endpoint.stream([], temperature=0):
                    found.append(reply)
                    arrived.release()
            return found

        with serve(answer) as (url, requests):
            endpoint = Endpoint(url, "m")
            found = asyncio.run(run(endpoint))
        assert [(reply.text, reply.code) for reply in found] == [
            ("one", "partial"), ("one two", "partial"), ("one two three", "partial"), ("one two three", ""),
        ]  # fmt: skip
        assert found[-1] == Reply("one two three", 100, 20)
        assert (requests[0]["stream"], requests[0]["stream_options"], requests[0]["temperature"]) == (
            True, {"include_usage": True}, 0,
        )  # fmt: skip
        assert (endpoint.usage.requests, endpoint.usage.prompt_tokens, endpoint.usage.completion_tokens) == (1, 100, 20)

    def test_whoever_is_slow_gets_the_latest(self) -> None:
        async def run(endpoint: Endpoint) -> list[str]:
            found = []
            async with endpoint:
                async for reply in endpoint.stream([]):
                    found.append(reply.text)
                    await asyncio.sleep(0.3)  # the rest arrives meanwhile
            return found

        with serve(lambda request, number: told("abcdefgh")) as (url, _):
            found = asyncio.run(run(Endpoint(url, "m")))
        assert found[-1] == "abcdefgh"
        assert len(found) < 9
        assert found == sorted(found, key=len)

    def test_what_came_together_is_given_once(self) -> None:
        def answer(request: dict[str, Any], number: int) -> Iterator[str]:
            yield event("a") + event("b") + event("c")
            time.sleep(0.3)
            yield STOP + DONE

        with serve(answer) as (url, _):
            assert [reply.text for reply in follow(Endpoint(url, "m"))] == ["abc", "abc"]

    @pytest.mark.parametrize("broken", ["cut", "reset", "error", "no JSON", "status"])
    def test_a_stream_that_breaks_begins_again(self, broken: str) -> None:
        ends: dict[str, Any] = {"cut": "", "error": error_event(message="busy"), "no JSON": "data: {\n\n"}

        def answer(request: dict[str, Any], number: int) -> Any:
            if number:
                return told("xy")
            if broken == "reset":
                return (
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\n"
                    + event("a").encode()
                )
            return (500, {}, "oops") if broken == "status" else iter_of(event("a"), event("b"), ends[broken])

        with serve(answer) as (url, requests):
            endpoint = Endpoint(url, "m", backoff_s=0.01)
            found = follow(endpoint)
        assert found[-1] == Reply("xy", 100, 20)
        assert (len(requests), endpoint.usage.retries) == (2, 1)

    def test_a_stream_that_breaks_every_time_is_an_outage(self) -> None:
        words = r"failed 3 times\. Last error: the stream ended before the reply was complete"
        with (
            serve(lambda request, number: iter_of(event("a"))) as (url, requests),
            pytest.raises(EndpointError, match=words) as caught,
        ):
            follow(Endpoint(url, "m", max_retries=2, backoff_s=0.01))
        assert (caught.value.code, caught.value.kind, len(requests)) == ("connection", "outage", 3)

    def test_a_stream_that_hangs_is_an_outage(self) -> None:
        def answer(request: dict[str, Any], number: int) -> Iterator[str]:
            yield event("a")
            time.sleep(1)
            yield STOP

        with serve(answer) as (url, _), pytest.raises(EndpointError, match=r"no answer within 0.2 s"):
            follow(Endpoint(url, "m", max_retries=0, timeout_s=0.2))

    def test_a_server_that_does_not_stream(self) -> None:
        with serve(lambda request, number: "all at once") as (url, _):
            assert follow(Endpoint(url, "m")) == [Reply("all at once", 100, 20)]

    @pytest.mark.parametrize("field", ["stream", "stream_options"])
    def test_a_server_that_refuses_the_field(self, field: str) -> None:
        def answer(request: dict[str, Any], number: int) -> Any:
            if field in request:
                return 400, {}, json.dumps({"error": {"message": f"Unrecognized field: {field}", "param": field}})
            return "all at once" if "stream" not in request else told(["all at once"])

        with serve(answer) as (url, requests):
            assert follow(Endpoint(url, "m"))[-1].text == "all at once"
        assert field not in requests[-1]

    def test_wrong_keys_end_it_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SIF_TEST_KEY", "planted-secret-key-123")
        refusal = 401, {}, json.dumps({"error": {"message": "bad key planted-secret-key-123"}})
        with (
            serve(lambda request, number: refusal) as (url, requests),
            pytest.raises(EndpointError, match="SIF_TEST_KEY") as caught,
        ):
            follow(Endpoint(url, "m", api_key_env="SIF_TEST_KEY"))
        assert (caught.value.kind, len(requests)) == ("setup", 1)
        assert "planted" not in str(caught.value)

    def test_no_part_of_a_reply_holds_the_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SIF_TEST_KEY", "planted-secret-key-123")
        with serve(lambda request, number: told(["planted-secret", "-key-123 it is"])) as (url, _):
            found = follow(Endpoint(url, "m", api_key_env="SIF_TEST_KEY"))
        assert found[-1].text == "[key] it is"
        assert not any("key-123" in reply.text for reply in found)

    def test_who_stops_listening_closes_the_connection(self) -> None:
        closed = threading.Event()

        def answer(request: dict[str, Any], number: int) -> Iterator[str]:
            try:
                for _ in range(2000):
                    yield event("word ")
                    time.sleep(0.01)
            finally:
                closed.set()

        with serve(answer) as (url, _):
            endpoint = Endpoint(url, "m", concurrency=1)
            assert follow(endpoint, most=2)[-1].code == "partial"
            assert closed.wait(5)
            assert endpoint.usage.failures == 0

    def test_a_cancelled_listener_leaves_room_for_the_next(self) -> None:
        def answer(request: dict[str, Any], number: int) -> Iterator[str]:
            yield event("a")
            if number == 0:
                time.sleep(2)
            yield STOP + DONE

        async def run(endpoint: Endpoint) -> str:
            async def listen() -> None:
                async for _ in endpoint.stream([]):
                    pass

            async with endpoint:
                first = asyncio.create_task(listen())
                await asyncio.sleep(0.3)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
                return (await endpoint.chat([])).text

        with serve(lambda request, number: "next" if number else answer(request, number)) as (url, _):
            assert asyncio.run(run(Endpoint(url, "m", concurrency=1))) == "next"


def iter_of(*pieces: str) -> Iterator[str]:
    """A generator, which the server closes as it does any other."""
    yield from pieces
