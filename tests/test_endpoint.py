from __future__ import annotations

import asyncio
import json
import pickle
import time
from email.utils import formatdate
from typing import Any

import pytest

from sifthinker.endpoint import Endpoint
from sifthinker.errors import ConfigError, EndpointError
from sifthinker.responses import Reply

from .stand_in import serve


def ask(endpoint: Endpoint, times: int = 1) -> list[Reply | BaseException]:
    async def run() -> list[Reply | BaseException]:
        async with endpoint:
            calls = [endpoint.chat([{"role": "user", "content": "hi"}], temperature=0.1) for _ in range(times)]
            return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(run())


def test_a_reply_and_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIF_TEST_KEY", "planted-secret")
    with serve(lambda request, number: "hello") as (url, requests):
        endpoint = Endpoint(url, "m", api_key_env="SIF_TEST_KEY")
        assert ask(endpoint, 2) == [Reply("hello", 100, 20)] * 2
    assert requests[0]["model"] == "m"
    assert requests[0]["temperature"] == 0.1
    assert requests[0]["_path"] == "/v1/chat/completions"
    assert requests[0]["_headers"]["Authorization"] == "Bearer planted-secret"
    assert (endpoint.usage.requests, endpoint.usage.prompt_tokens, endpoint.usage.completion_tokens) == (2, 200, 40)
    assert "planted-secret" not in repr(endpoint)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ((429, {}, "slow down"), "status_429"),
        ((500, {}, "oops"), "status_500"),
        ((200, {}, "<html>"), "not_json"),
        ((200, {}, '{"choices": []}'), "bad_shape"),
        ((200, {}, '{"choices": [{"message": {"content": 5}}]}'), "bad_shape"),
        ((200, {}, "[1]"), "bad_shape"),
        ((200, {}, ""), "not_json"),
        ((200, {"Content-Type": "text/event-stream"}, "data: {}\n\ndata: [DONE]\n\n"), "not_json"),
        ((200, {}, '{"error": "the host hung up"}'), "server_error"),
        ((200, {}, '{"error": {"message": "busy", "code": 503}}'), "status_503"),
        (
            (200, {}, '{"choices": [{"message": {"content": "{"}, "finish_reason": "error", "error": {"code": 502}}]}'),
            "status_502",
        ),
        *(((status, {}, f"error code: {status}"), f"status_{status}") for status in (499, *range(520, 528), 529, 530, 599)),
        (b"", "connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", "connection"),
    ],
)
def test_passing_faults_are_retried_and_lasting_ones_reported(fault: tuple, code: str) -> None:
    with serve(lambda request, number: "fine" if number == 2 else fault) as (url, _):
        endpoint = Endpoint(url, "m", backoff_s=0.01, max_retries=2)
        assert ask(endpoint) == [Reply("fine", 100, 20)]
        assert (endpoint.usage.requests, endpoint.usage.retries, endpoint.usage.failures) == (3, 2, 0)
    with serve(lambda request, number: fault) as (url, requests):
        endpoint = Endpoint(url, "m", backoff_s=0.01, max_retries=2)
        (error,) = ask(endpoint)
        assert isinstance(error, EndpointError)
        assert (error.code, error.attempts, len(requests), endpoint.usage.failures) == (code, 3, 3, 1)


def test_a_refused_request_is_not_repeated_and_never_shows_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIF_TEST_KEY", "planted-secret")
    with serve(lambda request, number: (401, {}, "bad key planted-secret")) as (url, requests):
        (error,) = ask(Endpoint(url, "m", api_key_env="SIF_TEST_KEY", backoff_s=0.01))
    assert len(requests) == 1
    assert isinstance(error, EndpointError)
    assert "planted-secret" not in str(error)
    assert "[key]" in str(error)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(form: str) -> None:
    header = "0.4" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    with serve(lambda request, number: "ok" if number else (429, {"Retry-After": header}, "")) as (url, _):
        started = time.monotonic()
        assert ask(Endpoint(url, "m", backoff_s=30)) == [Reply("ok", 100, 20)]
        assert 0.3 < time.monotonic() - started < 10


def test_every_request_heeds_a_retry_after() -> None:
    times = []

    def answer(request: dict, number: int) -> object:
        times.append(time.monotonic())
        return (429, {"Retry-After": "0.5"}, "") if number == 0 else "ok"

    async def run(endpoint: Endpoint) -> None:
        async with endpoint:
            first = asyncio.create_task(endpoint.chat([]))
            await asyncio.sleep(0.2)
            await asyncio.gather(first, endpoint.chat([]))

    with serve(answer) as (url, _):
        asyncio.run(run(Endpoint(url, "m")))
    assert min(times[1:]) - times[0] > 0.4


def test_requests_are_spread_over_the_minute() -> None:
    times = []
    with serve(lambda request, number: times.append(time.monotonic()) or "ok") as (url, _):
        ask(Endpoint(url, "m", requests_per_minute=600), times=5)
    assert max(times) - min(times) > 0.35  # four gaps of a tenth of a second


def test_a_last_retry_after_holds_back_those_that_come() -> None:
    with serve(lambda request, number: "ok" if number else (429, {"Retry-After": "0.5"}, "")) as (url, _):
        endpoint = Endpoint(url, "m", max_retries=0)
        (error,) = ask(endpoint)
        assert isinstance(error, EndpointError)
        started = time.monotonic()
        assert ask(endpoint) == [Reply("ok", 100, 20)]
        assert time.monotonic() - started > 0.3


def test_a_retry_after_of_nothing_still_backs_off() -> None:
    with serve(lambda request, number: "ok" if number == 2 else (429, {"Retry-After": "0"}, "")) as (url, _):
        started = time.monotonic()
        assert ask(Endpoint(url, "m", backoff_s=0.2)) == [Reply("ok", 100, 20)]
        assert time.monotonic() - started > 0.25


def choice(message: Any, finish: str = "stop", **more: Any) -> tuple[int, dict[str, str], str]:
    body = {
        "choices": [{"message": message, "finish_reason": finish, **more}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }
    return 200, {}, json.dumps(body)


@pytest.mark.parametrize(
    ("said", "text", "code", "words"),
    [
        (choice({"content": None}), "", "", ""),
        (choice({"content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}), "one two", "", ""),
        (
            choice({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "a"}]}),
            "a",
            "",
            "",
        ),
        (choice({"content": [{"type": "reasoning", "text": "hm"}, "a"]}), "a", "", ""),
        (choice({"content": [{"type": "refusal", "refusal": "I won't."}]}), "", "refused", '"I won\'t."'),
        (choice({"content": None, "refusal": "I won't."}), "", "refused", '"I won\'t."'),
        (choice({"content": ""}, "content_filter"), "", "refused", "content_filter"),
        (choice({"content": None, "reasoning_content": "hm so"}), "", "no_content", "the text is in reasoning_content"),
        (choice({"content": " ", "reasoning": "hm so"}), " ", "no_content", "the text is in reasoning"),
        (choice({"content": "a", "reasoning_content": "hm so"}), "a", "", ""),
        (choice({"content": '{"a'}, "length"), '{"a', "cut_off", "finish_reason length"),
        (choice({"content": None, "reasoning": "hm"}, "length"), "", "cut_off", "while the model was still reasoning"),
        (choice({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls"), "", "no_content", "called a tool"),
        (
            (200, {}, '{"choices": [{"text": "legacy"}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}'),
            "legacy",
            "",
            "",
        ),
        (choice({"content": "half \ud83d of it"}), "half \ufffd of it", "", ""),
        (choice({"content": "\ud83d\ude00"}), "\U0001f600", "", ""),
    ],
)
def test_the_forms_of_a_reply(said: Any, text: str, code: str, words: str) -> None:
    """Whatever it holds, it is paid for."""
    with serve(lambda request, number: said) as (url, requests):
        endpoint = Endpoint(url, "m", max_retries=0)
        (reply,) = ask(endpoint)
    assert isinstance(reply, Reply), reply
    assert (reply.text, reply.code, reply.prompt_tokens, reply.completion_tokens) == (text, code, 7, 3)
    assert words in reply.reason
    assert bool(reply.reason) == bool(reply.code)
    assert (endpoint.usage.completion_tokens, len(requests)) == (3, 1)


def error(message: str, **more: Any) -> str:
    return json.dumps({"error": {"message": message, **more}})


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ((401, {}, error("bad key")), "setup", ["bad key", "SIF_TEST_KEY does not contain a key", "--api-key-env"]),
        ((403, {}, "<html><title>Access denied</title>" + "x" * 9999), "setup", ['"Access denied"']),
        ((400, {}, error("API key not valid. Please pass one.")), "setup", ["SIF_TEST_KEY"]),
        ((404, {}, error("The model `m` does not exist.")), "setup", ["--model", "model 'm'"]),
        ((400, {}, '{"error":{"message":"Model Not Exist"}}'), "setup", ["--model"]),
        ((400, {}, error("x", code="model_not_found")), "setup", ["--model"]),
        ((404, {}, '{"detail":"Not Found"}'), "setup", ["Not Found", "/v1/chat/completions", "--base-url"]),
        ((405, {}, ""), "setup", ["--base-url"]),
        ((301, {"Location": "https://there/v1"}, ""), "setup", ["a redirect to https://there/v1", "--base-url"]),
        ((501, {}, "no POST here"), "setup", ["no POST here"]),
        ((402, {}, error("Insufficient Balance")), "setup", ["Add credit"]),
        ((429, {}, error("You exceeded your quota.", code="insufficient_quota")), "setup", ["Add credit"]),
        ((400, {}, error("Your credit balance is too low")), "setup", ["Add credit"]),
        ((200, {}, error("No cookie auth credentials found", code=401)), "setup", ["SIF_TEST_KEY"]),
        ((200, {}, error("Unexpected endpoint or method. Returning 200 anyway")), "setup", ["--base-url"]),
        ((200, {}, error("No endpoints found that support image input", code=404)), "request", ["that support image input"]),
        (
            (400, {}, error("Provider returned error", metadata={"raw": error("too many pictures")})),
            "request",
            ["too many pictures"],
        ),
        ((403, {}, error("Your input was flagged by moderation")), "request", ["flagged"]),
        ((400, {}, error("x" * 500)), "request", ["xxx…"]),
        ((413, {}, "too large\nby far"), "request", ['"too large by far"']),
        ((415, {}, ""), "request", ["status 415"]),
        (
            (422, {}, '{"detail":[{"loc":["body","messages",1],"msg":"wanted text","input":"y"}]}'),
            "request",
            ["body.messages.1 wanted text"],
        ),
    ],
)
def test_what_waiting_cannot_mend(monkeypatch: pytest.MonkeyPatch, said: Any, kind: str, words: list[str]) -> None:
    monkeypatch.setenv("SIF_TEST_KEY", "planted-secret")
    with serve(lambda request, number: said) as (url, requests):
        endpoint = Endpoint(url, "m", api_key_env="SIF_TEST_KEY", backoff_s=0.01)
        outcomes = ask(endpoint, times=6)
    for outcome in outcomes:
        assert isinstance(outcome, EndpointError)
        assert outcome.kind == kind
        assert [word for word in [*words, url] if word not in str(outcome)] == []
        assert "planted" not in str(outcome)
        assert "\n" not in str(outcome)
        assert len(str(outcome)) < 700
    # The first request goes alone, and spares the others what it found out.
    assert len(requests) == (1 if kind == "setup" else 6)


def test_the_key_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIF_TEST_KEY", raising=False)
    with serve(lambda request, number: (401, {}, "")) as (url, _):
        (outcome,) = ask(Endpoint(url, "m", api_key_env="SIF_TEST_KEY"))
    assert "SIF_TEST_KEY is empty" in str(outcome)


def test_a_server_that_was_there_may_come_back() -> None:
    """A refused connection is a wrong address at first, and an outage later."""
    with serve(lambda request, number: "ok") as (url, _):
        endpoint = Endpoint(url, "m", max_retries=2, backoff_s=0.01)
        ask(endpoint)
    (outcome,) = ask(endpoint)
    assert isinstance(outcome, EndpointError)
    assert (outcome.kind, outcome.attempts) == ("outage", 3)


def test_errors_survive_pickling() -> None:
    again = pickle.loads(pickle.dumps(EndpointError("words", "status_401", 2, "setup")))
    assert (str(again), again.code, again.attempts, again.kind) == ("words", "status_401", 2, "setup")


class TestLearning:
    """What a server refuses is learnt once, for that field alone."""

    def run(self, url: str, times: int = 1, **parameters: Any) -> tuple[Endpoint, list[Any]]:
        endpoint = Endpoint(url, "m", max_retries=0)

        async def go() -> list[Any]:
            async with endpoint:
                return await asyncio.gather(*(endpoint.chat([], **parameters) for _ in range(times)), return_exceptions=True)

        return endpoint, asyncio.run(go())

    SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}

    @pytest.mark.parametrize(
        ("refused", "words", "sent"),
        [
            ({"temperature"}, {"message": "only 1", "param": "temperature"}, {"max_tokens": 9, "response_format": SCHEMA}),
            (
                {"max_tokens"},
                {"message": "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."},
                {"temperature": 0, "max_completion_tokens": 9, "response_format": SCHEMA},
            ),
            ({"max_tokens", "max_completion_tokens"}, None, {"temperature": 0, "response_format": SCHEMA}),
            (
                {"json_schema"},
                {"message": "This response_format type is unavailable now"},
                {"temperature": 0, "max_tokens": 9, "response_format": {"type": "json_object"}},
            ),
            ({"response_format"}, {"message": "bad request"}, {"temperature": 0, "max_tokens": 9}),
            ({"response_format"}, None, {"temperature": 0, "max_tokens": 9}),
            ({"temperature", "max_tokens"}, None, {"max_completion_tokens": 9, "response_format": SCHEMA}),
        ],
    )
    @pytest.mark.parametrize("status", [400, 422])
    def test_the_field_is_left_out_or_sent_otherwise(
        self, refused: set[str], words: dict[str, str] | None, sent: dict[str, Any], status: int
    ) -> None:
        def answer(request: dict[str, Any], number: int) -> Any:
            kinds = {"json_schema"} if request.get("response_format") == self.SCHEMA else set()
            named = sorted(refused & (request.keys() | kinds))
            if not named:
                return "fine"
            return status, {}, json.dumps({"error": words or {"message": f"unknown field: {named[0]}"}})

        with serve(answer) as (url, requests):
            endpoint, replies = self.run(url, 8, temperature=0, max_tokens=9, response_format=self.SCHEMA)
        assert [reply.text for reply in replies] == ["fine"] * 8
        fields = [
            {
                key: request[key]
                for key in request
                if key in ("temperature", "max_tokens", "max_completion_tokens", "response_format")
            }
            for request in requests
        ]
        # The first request learns, with one more for each step; the other seven profit.
        assert fields[-8:] == [sent] * 8
        assert len(requests) - 8 <= 3
        assert endpoint.usage.requests == len(requests)
        assert endpoint.usage.retries == len(requests) - 8

    def test_a_bad_request_turns_nothing_off(self) -> None:
        """Its refusal does not end when fields are left out, so these were not the cause."""

        def answer(request: dict[str, Any], number: int) -> Any:
            return (400, {}, error("the picture's temperature is odd")) if number < 3 else "fine"

        with serve(answer) as (url, requests):
            endpoint = Endpoint(url, "m", max_retries=0)

            async def go() -> list[Any]:
                async with endpoint:
                    asked = [{"temperature": 0, "response_format": self.SCHEMA}] * 2
                    return [await asyncio.gather(endpoint.chat([], **wish), return_exceptions=True) for wish in asked]

            (bad,), (good,) = asyncio.run(go())
        assert (bad.kind, bad.attempts, good.text) == ("request", 3, "fine")
        assert requests[-1]["temperature"] == 0
        assert requests[-1]["response_format"] == self.SCHEMA

    def test_what_was_taken_once_is_not_given_up(self) -> None:
        """A later refusal is about the one request, such as a bound that is too large for its prompt."""

        def answer(request: dict[str, Any], number: int) -> Any:
            if number == 1 or (number == 2 and "max_completion_tokens" in request):
                return 400, {}, error("max_tokens or max_completion_tokens is too large")
            return "fine"

        with serve(answer) as (url, requests):
            endpoint = Endpoint(url, "m", max_retries=0)

            async def go() -> None:
                async with endpoint:
                    for _ in range(3):
                        await endpoint.chat([], max_tokens=9)

            asyncio.run(go())
        assert ["max_tokens" in request for request in requests] == [True, True, False, False, True]

    def test_structured_output_that_worked_is_not_suspected(self) -> None:
        """A refusal that names no field costs one more request, but only as long as the server has never taken a schema."""
        with serve(lambda request, number: "fine" if number == 1 else (400, {}, error("no"))) as (url, requests):
            endpoint = Endpoint(url, "m", max_retries=0)

            async def go() -> list[Any]:
                async with endpoint:
                    asked = [{"temperature": 0}, *[{"response_format": self.SCHEMA}] * 2]
                    return [await asyncio.gather(endpoint.chat([], **wish), return_exceptions=True) for wish in asked]

            (_,), (good,), (bad,) = asyncio.run(go())
        assert (good.text, bad.kind, bad.attempts) == ("fine", "request", 1)
        assert ["response_format" in request for request in requests] == [False, True, True]

    def test_a_server_that_refuses_everything_is_asked_a_few_times(self) -> None:
        def answer(request: dict[str, Any], number: int) -> Any:
            return 400, {}, error("temperature, max_tokens, max_completion_tokens and response_format are odd")

        with serve(answer) as (url, requests):
            _, (outcome,) = self.run(url, temperature=0, max_tokens=9, response_format=self.SCHEMA)
        assert isinstance(outcome, EndpointError)
        assert len(requests) == 6  # as it stands; without temperature; max_tokens in two ways; the schema in two


class TestAddress:
    @pytest.mark.parametrize(
        ("given", "path"),
        [
            ("{}/v1", "/v1/chat/completions"),
            (" {}/v1/ ", "/v1/chat/completions"),
            ("{}/v1/chat/completions", "/v1/chat/completions"),
            ("{}/v1/chat/completions/", "/v1/chat/completions"),
            ("{}/v1#notes", "/v1/chat/completions"),
            (
                "{}/openai/deployments/gpt?api-version=2024-06-01",
                "/openai/deployments/gpt/chat/completions?api-version=2024-06-01",
            ),
            ("{}/openai/deployments/gpt/?api-version=1", "/openai/deployments/gpt/chat/completions?api-version=1"),
            ("{}/gpt/chat/completions?api-version=1&x=2", "/gpt/chat/completions?api-version=1&x=2"),
        ],
    )
    def test_the_path_that_is_asked(self, given: str, path: str) -> None:
        with serve(lambda request, number: "ok") as (url, requests):
            assert ask(Endpoint(given.format(url.removesuffix("/v1")), "m")) == [Reply("ok", 100, 20)]
        assert requests[0]["_path"] == path

    @pytest.mark.parametrize(
        ("query", "key", "header", "value"),
        [
            ("", "0123456789abcdef", "Authorization", "Bearer 0123456789abcdef"),
            ("?api-version=1", "0123456789abcdef", "api-key", "0123456789abcdef"),
            ("?api-version=1", "eyJ0eXAi.eyJhdWQi.c2ln", "Authorization", "Bearer eyJ0eXAi.eyJhdWQi.c2ln"),
        ],
    )
    def test_azure_gets_its_key_its_own_way(
        self, monkeypatch: pytest.MonkeyPatch, query: str, key: str, header: str, value: str
    ) -> None:
        monkeypatch.setenv("SIF_TEST_KEY", key)
        with serve(lambda request, number: "ok") as (url, requests):
            ask(Endpoint(url + query, "m", api_key_env="SIF_TEST_KEY"))
        sent = {name.lower(): text for name, text in requests[0]["_headers"].items()}
        assert sent[header.lower()] == value
        assert ("api-key" in sent) != ("authorization" in sent)

    @pytest.mark.parametrize("name", ["key", "api_key", "subscription-key", "access_token", "code", "sig"])
    def test_keys_in_the_query_are_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
            Endpoint(f"https://host/v1?api-version=1&{name}=planted", "m")
        assert "planted" not in str(caught.value)


def test_one_endpoint_serves_several_at_once() -> None:
    """Two who enter it in one loop, and one in another thread's."""

    async def user(endpoint: Endpoint) -> str:
        async with endpoint:
            first = (await endpoint.chat([])).text
            await asyncio.sleep(0.02)
            return first + (await endpoint.chat([])).text

    async def both(endpoint: Endpoint) -> list[str]:
        return await asyncio.gather(user(endpoint), user(endpoint), asyncio.to_thread(asyncio.run, user(endpoint)))

    with serve(lambda request, number: "ok") as (url, _):
        assert asyncio.run(both(Endpoint(url, "m"))) == ["okok"] * 3


def test_a_word_in_the_place_of_a_key_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIF_TEST_KEY", "none")
    with serve(lambda request, number: "none of them") as (url, _):
        assert ask(Endpoint(url, "m", api_key_env="SIF_TEST_KEY")) == [Reply("none of them", 100, 20)]


def test_cost() -> None:
    with serve(lambda request, number: "ok") as (url, _):
        endpoint = Endpoint(url, "m", prompt_price=10, completion_price=50)
        ask(endpoint, times=3)
    assert endpoint.usage.cost == pytest.approx(3 * (100 * 10 + 20 * 50) / 1e6)


def test_a_hanging_server_times_out() -> None:
    def hang(request: dict, number: int) -> str:
        time.sleep(1.0)
        return "late"

    with serve(hang) as (url, _):
        (error,) = ask(Endpoint(url, "m", timeout_s=0.2, max_retries=1, backoff_s=0.01))
    assert isinstance(error, EndpointError)
    assert (error.code, error.attempts) == ("timeout", 2)


def test_no_server_at_all() -> None:
    (error,) = ask(Endpoint("http://127.0.0.1:9/v1", "m", max_retries=5, backoff_s=9))
    assert isinstance(error, EndpointError)
    assert (error.code, error.kind, error.attempts) == ("connection", "setup", 1)
    assert "http://127.0.0.1:9/v1/chat/completions" in str(error)


def test_concurrency_is_bounded() -> None:
    running, most = 0, 0

    def count(request: dict, number: int) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.05)
        running -= 1
        return "ok"

    with serve(count) as (url, _):
        ask(Endpoint(url, "m", concurrency=3), times=12)
    assert 1 < most <= 3


KEY = "planted-secret-key-123"


@pytest.mark.parametrize(
    "fault",
    [
        (200, {}, f"<html>key {KEY} bad"),
        (401, {}, "x" * 290 + KEY),  # the message is cut after the key is taken out, not through it
        (500, {}, KEY),
    ],
)
def test_no_message_holds_the_key(monkeypatch: pytest.MonkeyPatch, fault: tuple) -> None:
    monkeypatch.setenv("SIF_TEST_KEY", f" {KEY}\r\n")  # as a file read into a variable has it
    with serve(lambda request, number: fault) as (url, requests):
        (error,) = ask(Endpoint(url, "m", api_key_env="SIF_TEST_KEY", max_retries=0))
    assert requests[0]["_headers"]["Authorization"] == f"Bearer {KEY}"
    assert isinstance(error, EndpointError)
    assert KEY[:8] not in str(error)


def test_a_key_that_no_header_can_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIF_TEST_KEY", "schlüssel")
    with pytest.raises(ConfigError, match="SIF_TEST_KEY") as caught:
        Endpoint("http://localhost/v1", "m", api_key_env="SIF_TEST_KEY")
    assert "schl" not in str(caught.value)


@pytest.mark.parametrize("tokens", ['"n/a"', "1e999", "-5", "null"])
def test_odd_token_counts_do_not_lose_the_reply(tokens: str) -> None:
    body = f'{{"choices": [{{"message": {{"content": "hi"}}}}], "usage": {{"prompt_tokens": {tokens}}}}}'
    with serve(lambda request, number: (200, {}, body)) as (url, _):
        assert ask(Endpoint(url, "m", max_retries=0)) == [Reply("hi", 0, 0)]


@pytest.mark.parametrize("options", [{"requests_per_minute": 0}, {"prompt_price": -1}, {"completion_price": float("nan")}])
def test_limits_that_make_no_sense(options: dict) -> None:
    with pytest.raises(ConfigError, match="must"):
        Endpoint("http://localhost/v1", "m", **options)


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"concurrency": 0}, {"max_retries": -1}])
def test_numbers_out_of_range(options: dict) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        Endpoint("http://localhost/v1", "m", **options)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "http://[::1",
        "ftp://host/v1",
        "ftp://me:secret@host/v1",
        "http://me:secret@host/v1",
        "http://host/v 1",
        "http://host/v1/completions",
        "http://host/v1/responses",
        "",
    ],
)
def test_addresses_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint(url, "m")
    assert "secret" not in str(caught.value)


def test_misuse() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(Endpoint("http://localhost/v1", "m").chat([]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Incorrect API key provided: sk-short12.", "Incorrect API key provided: [key]."),
        ("Incorrect API key provided: Bearer sk-short12", "Incorrect API key provided: Bearer [key]"),
        ("invalid key 'sk-short12'", "invalid key '[key]'"),
        ('{"api_key": "sk-short12"}', '{"api_key": "[key]"}'),
        ("A sk-short12 and a key", "A sk-short12 and a key"),  # a word of the reply, for all that is known
    ],
)
def test_a_short_key_is_taken_out_where_the_text_says_that_it_is_one(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-short12")

    async def ask(url: str) -> str:
        async with Endpoint(url, "m", max_retries=0) as endpoint:
            return (await endpoint.chat([{"role": "user", "content": "?"}])).text

    with serve(lambda request, number: text) as (url, _):
        assert asyncio.run(ask(url)) == shown
