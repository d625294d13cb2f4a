from __future__ import annotations

import asyncio
import time
from email.utils import formatdate

import pytest

from sifthinker.endpoint import Endpoint, Reply
from sifthinker.errors import ConfigError, EndpointError

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


def test_a_reply_without_content_is_paid_and_empty() -> None:
    body = '{"choices": [{"message": {"content": null}}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}'
    with serve(lambda request, number: (200, {}, body)) as (url, _):
        endpoint = Endpoint(url, "m")
        assert ask(endpoint) == [Reply("", 7, 3)]
    assert endpoint.usage.completion_tokens == 3


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
    (error,) = ask(Endpoint("http://127.0.0.1:9/v1", "m", max_retries=1, backoff_s=0.01))
    assert isinstance(error, EndpointError)
    assert error.code == "connection"


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


@pytest.mark.parametrize("url", ["localhost:8000", "http://[::1", "ftp://host/v1", "http://me:secret@host/v1", ""])
def test_addresses_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint(url, "m")
    assert "secret" not in str(caught.value)


def test_misuse() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(Endpoint("http://localhost/v1", "m").chat([]))
