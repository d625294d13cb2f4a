"""One asynchronous client for OpenAI-compatible servers: timeout, bounded retries, rate, concurrency, tokens and cost.

The API key is read from an environment variable at the time of the call and appears in no message or representation.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from types import TracebackType
from typing import Any

import httpx2

from sifthinker.errors import ConfigError, EndpointError

_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
_LONGEST_BACKOFF_S = 60.0
_LONGEST_RETRY_AFTER_S = 600.0
_SHORTEST_SECRET = 12  # servers without keys are given words such as EMPTY, which replies may hold


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered: the text, and the tokens it counted."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Usage:
    """Running totals of one endpoint, and its prices of a million tokens."""

    requests: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_price: float = 0.0
    completion_price: float = 0.0

    @property
    def cost(self) -> float:
        """Of all tokens, in the currency of the prices."""
        return (self.prompt_tokens * self.prompt_price + self.completion_tokens * self.completion_price) / 1e6

    def add(self, more: Mapping[str, int]) -> None:
        """Add totals by name; names that are missing count as 0.

        Raises:
            AttributeError: an unknown name.
        """
        for name, value in more.items():
            setattr(self, name, getattr(self, name) + value)

    def since(self, earlier: Usage) -> dict[str, int]:
        """What was used between two copies: name → difference, without those that are 0."""
        differences = {name: getattr(self, name) - getattr(earlier, name) for name in self.__slots__}
        return {name: value for name, value in differences.items() if value}


@dataclass(slots=True)
class Endpoint:
    """A chat-completions server.

    Args:
        base_url: up to and including the version, for instance `http://127.0.0.1:8000/v1`.
        model: the model's name there.
        api_key_env: environment variable that holds the key; a server without keys needs none.
        timeout_s: of one request.
        max_retries: further requests after the first, on time-outs, broken connections, unreadable replies and statuses
            408, 409, 425, 429, 500, 502, 503, 504.
        concurrency: requests under way at once.
        requests_per_minute: no more requests than this, evenly spread; None for no limit.
        prompt_price: of a million prompt tokens, for `usage.cost`.
        completion_price: of a million completion tokens.
        backoff_s: wait before the first retry; it doubles with each, with jitter, up to 60 s. A Retry-After of the server
            is honoured up to ten minutes, by every request to it.
        transport: an httpx2 transport, for tests.
    Raises:
        ConfigError: base_url is no http(s) address or holds a password, the key cannot be sent, or a number is out of range.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = 120.0
    max_retries: int = 5
    concurrency: int = 8
    requests_per_minute: float | None = None
    prompt_price: InitVar[float] = 0.0
    completion_price: InitVar[float] = 0.0
    backoff_s: float = 1.0
    transport: httpx2.AsyncBaseTransport | None = None
    usage: Usage = field(default_factory=Usage)
    _client: httpx2.AsyncClient | None = field(default=None, repr=False)
    _gate: asyncio.Semaphore | None = field(default=None, repr=False)
    _not_before: float = field(default=0.0, repr=False)  # monotonic time before which no request may start

    def __post_init__(self, prompt_price: float, completion_price: float) -> None:
        try:
            address = httpx2.URL(self.base_url)
        except httpx2.InvalidURL:
            raise ConfigError("base_url is not an address; wanted for instance http://127.0.0.1:8000/v1") from None
        if address.scheme not in ("http", "https") or not address.host:
            raise ConfigError(f"base_url must start with http:// or https://, got {self.base_url!r}")
        if address.userinfo:
            raise ConfigError(f"base_url holds a user name or password; put a key into the variable {self.api_key_env}")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0) or self.concurrency < 1 or self.max_retries < 0:
            raise ConfigError("timeout and concurrency must be positive, and retries not negative")
        if self.requests_per_minute is not None and not self.requests_per_minute > 0:
            raise ConfigError(f"requests per minute must be positive, got {self.requests_per_minute}")
        if not (prompt_price >= 0 and completion_price >= 0):
            raise ConfigError("prices must not be negative")
        self.usage.prompt_price, self.usage.completion_price = prompt_price, completion_price
        self._key()  # a key that cannot be sent is better told before anything is asked

    async def __aenter__(self) -> Endpoint:
        limits = httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        self._client = httpx2.AsyncClient(timeout=self.timeout_s, transport=self.transport, limits=limits)
        self._gate = asyncio.Semaphore(self.concurrency)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()
        self._client = self._gate = None

    async def chat(self, messages: Sequence[Mapping[str, Any]], **parameters: Any) -> Reply:
        """One chat completion.

        Args:
            messages: in the server's own format.
            parameters: further fields of the request, for instance `temperature`.
        Raises:
            EndpointError: every attempt failed, or the server refused the request (a status that is not retried).
        """
        if self._client is None or self._gate is None:
            raise RuntimeError("use the endpoint inside `async with`")
        body = {"model": self.model, "messages": list(messages), **parameters}
        code, message = "", ""
        async with self._gate:
            for attempt in range(self.max_retries + 1):
                wait_s: float | None = None
                await self._turn()
                self.usage.requests += 1
                try:
                    response = await self._client.post(
                        f"{self.base_url.rstrip('/')}/chat/completions", json=body, headers=self._headers()
                    )
                except httpx2.TimeoutException:
                    code, message = "timeout", f"no answer within {self.timeout_s:g} s"
                except httpx2.HTTPError as error:
                    code, message = "connection", f"{type(error).__name__}: {error}"
                else:
                    if response.status_code == 200:
                        reply = _read_reply(response)
                        if isinstance(reply, Reply):
                            self.usage.prompt_tokens += reply.prompt_tokens
                            self.usage.completion_tokens += reply.completion_tokens
                            # What a server says is kept; should it quote the key, that is not.
                            return replace(reply, text=self._redact(reply.text))
                        code, message = reply
                    else:
                        code = f"status_{response.status_code}"
                        message = f"status {response.status_code}: {self._redact(response.text)[:300]}"
                        if response.status_code not in _RETRIED:
                            self.usage.failures += 1
                            raise EndpointError(
                                self._redact(f"{self.base_url} refused the request: {message}"), code, attempt + 1
                            )
                        wait_s = _retry_after_s(response.headers.get("retry-after"))
                        if wait_s:
                            # The server speaks of its load, not of this one request.
                            pause = asyncio.get_running_loop().time() + min(wait_s, _LONGEST_RETRY_AFTER_S)
                            self._not_before = max(self._not_before, pause)
                if attempt < self.max_retries:
                    self.usage.retries += 1
                    if not wait_s:  # a Retry-After is waited for where requests take their turn
                        wait_s = self.backoff_s * 2**attempt * random.uniform(0.5, 1.5)
                        await asyncio.sleep(min(wait_s, _LONGEST_BACKOFF_S))
        self.usage.failures += 1
        raise EndpointError(
            self._redact(f"{self.base_url} failed {self.max_retries + 1} times; the last: {message}"),
            code,
            self.max_retries + 1,
        )

    async def _turn(self) -> None:
        """Wait until a request may start."""
        loop = asyncio.get_running_loop()
        while (now := loop.time()) < self._not_before:
            await asyncio.sleep(self._not_before - now)
        if self.requests_per_minute is not None:
            self._not_before = now + 60 / self.requests_per_minute

    def _key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        if not key.isascii() or not (key.isprintable() or not key):
            raise ConfigError(f"the key in {self.api_key_env} has characters that no header can carry")
        return key

    def _headers(self) -> dict[str, str]:
        key = self._key()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _redact(self, text: str) -> str:
        """A text with our key taken out: some servers quote it back."""
        key = self._key()
        return text.replace(key, "[key]") if len(key) >= _SHORTEST_SECRET else text


def _read_reply(response: httpx2.Response) -> Reply | tuple[str, str]:
    """The reply, or (reason code, message)."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return (
            "not_json",
            f"the server's reply is not JSON: it begins {response.text[:1]!r}, {len(response.text)} characters",
        )
    try:
        text = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return "bad_shape", "the server's reply has no choices[0].message.content"
    if text is None:
        text = ""  # a refusal, or a model that ran out of tokens while it reasoned; both are paid for
    if not isinstance(text, str):
        return "bad_shape", f"the reply's content is {type(text).__name__}, wanted text"
    usage = body.get("usage")
    return Reply(text, _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))


def _count(usage: Any, name: str) -> int:
    """A number of tokens; 0 where the server states none that makes sense."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else 0


def _retry_after_s(header: str | None) -> float | None:
    """Seconds to wait that a Retry-After header asks for, in either of its forms; None without one."""
    if not header:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(header))
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
