"""Asynchronous client for OpenAI-compatible servers: timeouts, retries, rate limit, concurrency, token counts and cost.

The API key is read from an environment variable for each request. It appears in no message and no `repr`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import re
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from types import TracebackType
from typing import Any

import httpx2

from sifthinker.ask_settings import ServerSettings
from sifthinker.errors import ConfigError, EndpointError
from sifthinker.responses import Fault, Reply, lines_of, read_events, read_response

_log = logging.getLogger(__name__)

_LONGEST_BACKOFF_S = 60.0
_LONGEST_RETRY_AFTER_S = 600.0
_SHORTEST_SECRET = 12  # shorter keys are often words such as EMPTY, which replies may contain
_SAYS_KEY = r"\bBearer\s+|\b(?:api[ _-]?)?key\b[^\w\n]{0,4}(?:(?:provided|is)[^\w\n]{1,4})?"

_CHAT = "/chat/completions"
_OTHER_ROUTE = re.compile(r"/(?:completions|responses|embeddings|models|messages)$")
_SECRET_NAME = re.compile(r"(?:^|[_-])(?:key|apikey|token|secret|password|pwd|sig|signature|code|auth)$", re.IGNORECASE)
_ENTRA_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
# Other words for the field response_format in the error messages of servers.
_STRUCTURED = re.compile(r"\bjson_(?:schema|object)\b|\bstructured[ _-]outputs?\b|\bguided[ _]|\bgrammar\b", re.IGNORECASE)


@dataclass(slots=True)
class Usage:
    """Running totals of one endpoint, and its prices per million tokens."""

    requests: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_price: float = 0.0
    completion_price: float = 0.0

    @property
    def cost(self) -> float:
        """Cost of all tokens, in the currency of the prices."""
        return (self.prompt_tokens * self.prompt_price + self.completion_tokens * self.completion_price) / 1e6

    def add(self, more: Mapping[str, int]) -> None:
        """Add totals by name; missing names count as 0.

        Raises:
            AttributeError: an unknown name.
        """
        for name, value in more.items():
            setattr(self, name, getattr(self, name) + value)

    def since(self, earlier: Usage) -> dict[str, int]:
        """Return the usage since an earlier copy: name → difference, without zeros."""
        differences = {name: getattr(self, name) - getattr(earlier, name) for name in self.__slots__}
        return {name: value for name, value in differences.items() if value}


@dataclass(slots=True)
class _Session:
    """State of an endpoint that is open in one event loop."""

    client: httpx2.AsyncClient
    gate: asyncio.Semaphore
    met: asyncio.Event  # set when the outcome of the first request is known; until then the others wait
    scouting: bool = False
    stopped: EndpointError | None = None  # error of the first request if no other request can succeed either
    users: int = 0


@dataclass(slots=True)
class Endpoint:
    """A chat-completions server.

    The endpoint adapts to the server. If the server refuses a field of the request, such as `temperature`, the field is sent
    in another form or left out: `max_completion_tokens` instead of `max_tokens`; JSON without a schema instead of a schema,
    then free text. If the server answers that request, later requests use the same form. The first request runs alone; the
    others wait for its result.

    Args:
        base_url: address up to the version, for instance `http://127.0.0.1:8000/v1`. The query of an Azure address
            (`…/openai/deployments/NAME?api-version=…`) is kept, and such a server gets the key in the header `api-key`.
        model: name of the model on the server.
        api_key_env: environment variable that contains the key; not needed for a server without keys.
        timeout_s: timeout of one request, in seconds.
        max_retries: maximum number of retries after timeouts, broken connections, unreadable replies, the statuses 408, 409,
            425, 429 and 499, and all statuses from 500 except 501, 505 and 511.
        concurrency: maximum number of simultaneous requests.
        requests_per_minute: maximum rate, evenly spread; None for no limit.
        prompt_price: price of a million prompt tokens, for `usage.cost`.
        completion_price: price of a million completion tokens.
        backoff_s: wait before the first retry. It doubles with each retry, with jitter, up to 60 s. After a Retry-After
            header, every request waits, for at most ten minutes.
        transport: an httpx2 transport, for tests.
    Raises:
        ConfigError: base_url is not an http(s) address, contains a password or key, or ends in another route; the key has
            characters that no header can carry; or a number is out of range.
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
    _url: str = field(default="", repr=False)
    _azure: bool = field(default=False, repr=False)
    _sessions: dict[asyncio.AbstractEventLoop, _Session] = field(default_factory=dict, repr=False)
    _not_before: float = field(default=0.0, repr=False)  # monotonic time before which no request may start
    _met: bool = field(default=False, repr=False)  # the server has accepted a connection
    _forms: dict[str, int] = field(
        default_factory=dict, repr=False
    )  # field → index of the form in `_forms_of` that the server accepts
    _taken: set[tuple[str, int]] = field(default_factory=set, repr=False)  # (field, form) of answered requests

    def __post_init__(self, prompt_price: float, completion_price: float) -> None:
        self.base_url, self._url = _read_address(self.base_url, self.api_key_env)
        self._azure = "api-version" in httpx2.URL(self._url).params
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0) or self.concurrency < 1 or self.max_retries < 0:
            raise ConfigError(
                "timeout and concurrency must be positive, and retries must not be negative, got timeout "
                f"{self.timeout_s}, concurrency {self.concurrency} and retries {self.max_retries}"
            )
        if self.requests_per_minute is not None and not self.requests_per_minute > 0:
            raise ConfigError(f"requests per minute must be positive, got {self.requests_per_minute}")
        if not (prompt_price >= 0 and completion_price >= 0):
            raise ConfigError(f"prices must not be negative, got {prompt_price} and {completion_price}")
        self.usage.prompt_price, self.usage.completion_price = prompt_price, completion_price
        self._key()  # report an unusable key before the first request

    async def __aenter__(self) -> Endpoint:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            limits = httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
            client = httpx2.AsyncClient(timeout=self.timeout_s, transport=self.transport, limits=limits)
            session = self._sessions[loop] = _Session(client, asyncio.Semaphore(self.concurrency), asyncio.Event())
            if self._met:
                session.met.set()
        session.users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        session = self._sessions[loop]
        session.users -= 1
        if not session.users:
            del self._sessions[loop]
            await session.client.aclose()

    async def chat(self, messages: Sequence[Mapping[str, Any]], needed: Collection[str] = (), /, **parameters: Any) -> Reply:
        """Request one chat completion.

        Args:
            messages: messages in the server's own format.
            needed: names of fields that must be sent as they are.
            parameters: further fields of the request, for instance `temperature`. If the server refuses a field that is not
                in `needed`, the field is sent in another form or left out.
        Raises:
            EndpointError: every attempt failed, or the server refused the request. Its `kind` describes the remedy.
        """
        return await self._gated(messages, parameters, needed)

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], needed: Collection[str] = (), /, **parameters: Any
    ) -> AsyncGenerator[Reply, None]:
        """Request one chat completion and yield the growing reply, with code `partial`; the complete reply comes last.

        A caller that is slower than the server misses some partial replies. A broken stream is a failed attempt: the retry
        starts from the beginning. A server that does not stream yields only the complete reply.

        Args:
            messages: see `chat`.
            needed: see `chat`.
            parameters: see `chat`.
        Raises:
            EndpointError: see `chat`.
        """
        growing: list[Reply] = []  # the reply so far, if it has grown since the last yield
        changed = asyncio.Event()

        def grow(reply: Reply) -> None:
            growing[:] = [reply]
            changed.set()

        asked = {**parameters, "stream": True, "stream_options": {"include_usage": True}}
        whole = asyncio.create_task(self._gated(messages, asked, needed, grow))
        whole.add_done_callback(lambda _: changed.set())
        try:
            while not whole.done():
                await changed.wait()
                changed.clear()
                if growing:
                    yield growing.pop()
            yield await whole
        finally:
            whole.cancel()
            await asyncio.gather(whole, return_exceptions=True)

    async def _gated(
        self,
        messages: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
        needed: Collection[str],
        grow: Callable[[Reply], None] | None = None,
    ) -> Reply:
        """Send a request when it is its turn. For a streamed reply, `grow` is called with the reply so far."""
        session = self._sessions.get(asyncio.get_running_loop())
        if session is None:
            raise RuntimeError("use the endpoint inside `async with`")
        async with session.gate:
            scout = not (session.scouting or session.met.is_set())
            if scout:
                session.scouting = True
            elif not session.met.is_set():
                await session.met.wait()
                if session.stopped is not None:
                    raise session.stopped
            try:
                return await self._chat(session, messages, parameters, needed, grow)
            except EndpointError as error:
                if scout and error.kind == "setup" and not session.met.is_set():
                    session.stopped = error
                raise
            finally:
                if scout:
                    session.met.set()

    async def _chat(
        self,
        session: _Session,
        messages: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
        needed: Collection[str],
        grow: Callable[[Reply], None] | None,
    ) -> Reply:
        forms = dict(self._forms)
        requests = retries = 0
        while True:
            await self._turn()
            self.usage.requests += 1
            requests += 1
            body: dict[str, Any] = {"model": self.model, "messages": list(messages)}
            for name, value in parameters.items():
                body |= _forms_of(name, value)[forms.get(name, 0)]
            outcome = await self._ask(session.client, body, grow)
            if isinstance(outcome, Reply):
                self._learn(parameters, forms)
                session.met.set()
                self.usage.prompt_tokens += outcome.prompt_tokens
                self.usage.completion_tokens += outcome.completion_tokens
                # Keep the server's words, except for a quoted key.
                return replace(
                    outcome,
                    text=self._redact(outcome.text),
                    reason=self._redact(outcome.reason),
                    reasoning=self._redact(outcome.reasoning),
                )
            if self._adapt(outcome, {name: value for name, value in parameters.items() if name not in needed}, forms):
                self.usage.retries += 1
                continue
            if not outcome.passing or retries == self.max_retries:
                break
            session.met.set()
            retries += 1
            self.usage.retries += 1
            if outcome.wait_s:
                # Retry-After is about the load of the server, so all requests wait, not only this one.
                self._pause(outcome.wait_s)
            else:
                await asyncio.sleep(min(self.backoff_s * 2 ** (retries - 1) * random.uniform(0.5, 1.5), _LONGEST_BACKOFF_S))
        if outcome.wait_s:
            self._pause(outcome.wait_s)
        self.usage.failures += 1
        tried = f"failed {requests} times. Last error: " if outcome.passing and requests > 1 else ""
        raise EndpointError(
            self._redact(f"{self._url} (model {self.model!r}): {tried}{outcome.message}{self._advice(outcome)}"),
            outcome.code,
            requests,
            outcome.kind,
        )

    async def _ask(
        self, client: httpx2.AsyncClient, body: Mapping[str, Any], grow: Callable[[Reply], None] | None
    ) -> Reply | Fault:
        """Send one request."""
        try:
            if body.get("stream"):
                async with client.stream("POST", self._url, json=body, headers=self._headers()) as response:
                    if response.is_success and "event-stream" in response.headers.get("content-type", ""):
                        self._met = True
                        return await read_events(lines_of(response.aiter_bytes()), response.headers, grow, self._redact)
                    await response.aread()
            else:
                response = await client.post(self._url, json=body, headers=self._headers())
        except httpx2.HTTPError as error:
            message = f"no answer within {self.timeout_s:g} s" if isinstance(error, httpx2.TimeoutException) else ""
            code = "timeout" if message else "connection"
            message = message or f"{type(error).__name__}: {error}".strip(": ")
            # Without any earlier connection, the address is probably wrong. Otherwise the server will come back.
            if not self._met and isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
                return Fault(code, f"cannot connect: {message}", "setup", passing=False, cause="address")
            self._met = True
            return Fault(code, message)
        self._met = True
        return read_response(response, self._redact)

    def _adapt(self, fault: Fault, parameters: Mapping[str, Any], forms: dict[str, int]) -> bool:
        """Choose another form for the field that a server refuses. Return False if there is no such field or form."""
        if fault.code not in ("status_400", "status_422"):
            return False
        places: dict[int, str] = {}
        for name, value in parameters.items():
            choices, now = _forms_of(name, value), forms.get(name, 0)
            if now == len(choices) - 1:
                continue
            for sent in choices[now]:
                if re.split(r"[.\[]", fault.field)[0] == sent:
                    places[-1] = name
                found = re.search(rf"(?<!\w){re.escape(sent)}(?!\w)", fault.words)
                if found is None and sent == "response_format":
                    found = _STRUCTURED.search(fault.words)
                if found:
                    places.setdefault(found.start(), name)
        if places:
            name = places[min(places)]
            forms[name] = max(forms.get(name, 0) + 1, self._forms.get(name, 0))
            return True
        # Servers without structured output do not always name the field that they refuse.
        name, now = "response_format", forms.get("response_format", 0)
        if fault.kind == "request" and name in parameters and (name, now) not in self._taken:
            last = len(_forms_of(name, parameters[name])) - 1
            forms[name] = last
            return now < last
        return False

    def _learn(self, parameters: Mapping[str, Any], forms: Mapping[str, int]) -> None:
        """Remember the forms of the fields in a request that was answered."""
        for name, value in parameters.items():
            form, known = forms.get(name, 0), self._forms.get(name, 0)
            # If the server accepted the known form before, it refused only the content of this request.
            if form > known and (name, known) not in self._taken:
                self._forms[name] = form
                sent = _forms_of(name, value)[form]
                now = f"sent as {', '.join(sent)}" if sent else "left out"
                _log.warning(
                    "%s refuses the field %s for the model %s. From now on it is %s", self._url, name, self.model, now
                )
            self._taken.add((name, form))

    def _advice(self, fault: Fault) -> str:
        """Return how to fix a fault of the setup, as a further sentence."""
        if fault.cause == "key":
            what = "does not contain a key that the server accepts" if self._key() else "is empty"
            return f". The environment variable {self.api_key_env} {what}. Set it, or choose another one (--api-key-env)"
        if fault.cause == "quota":
            return f". Add credit to the account of the key in {self.api_key_env}, or use another server (--base-url)"
        if fault.cause == "model":
            return ". Set model (--model) to the name of a model on this server"
        if fault.cause == "address":
            return ". Check that the server is running, and check base_url (--base-url) and model (--model)"
        return ""

    def _pause(self, wait_s: float) -> None:
        """Delay all requests."""
        until = asyncio.get_running_loop().time() + min(wait_s, _LONGEST_RETRY_AFTER_S)
        self._not_before = max(self._not_before, until)

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
            raise ConfigError(
                f"the API key in {self.api_key_env} contains characters that are not printable ASCII. Set it again"
            )
        return key

    def _headers(self) -> dict[str, str]:
        key = self._key()
        if not key:
            return {}
        # Azure expects keys in the header api-key, but Entra ID tokens in Authorization. Some Azure gateways refuse requests
        # with both headers.
        if self._azure and not _ENTRA_TOKEN.fullmatch(key):
            return {"api-key": key}
        return {"Authorization": f"Bearer {key}"}

    def _redact(self, text: str) -> str:
        """Replace the API key in a text, because some servers quote it. A short key only after words such as "key"."""
        key = self._key()
        if not key:
            return text
        if len(key) >= _SHORTEST_SECRET:
            return text.replace(key, "[key]")
        return re.sub(rf"({_SAYS_KEY}){re.escape(key)}(?!\w)", r"\1[key]", text, flags=re.IGNORECASE)


def _forms_of(name: str, value: Any) -> list[dict[str, Any]]:
    """Return the forms of a request field in the order to try; the last one leaves the field out."""
    forms = [{name: value}]
    if name == "max_tokens":
        forms.append({"max_completion_tokens": value})
    elif name == "response_format" and value["type"] == "json_schema":
        forms.append({name: {"type": "json_object"}})
    return [*forms, {}]


def _read_address(base_url: str, api_key_env: str) -> tuple[str, str]:
    """Return (normalised base URL, URL of chat completions)."""
    bare = base_url.strip()
    try:
        address = httpx2.URL(bare)
    except httpx2.InvalidURL:
        raise ConfigError("base_url is not an address. Expected for instance http://127.0.0.1:8000/v1") from None
    secret = next((name for name in address.params if _SECRET_NAME.search(name)), None)
    if address.userinfo or secret:
        what = f"a secret ({secret}=…)" if secret else "a user name or password"
        raise ConfigError(
            f"base_url contains {what}. Remove it, and put the API key into the environment variable {api_key_env}"
        )
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigError(f"base_url must start with http:// or https://, got {bare!r}")
    if re.search(r"\s", bare):
        raise ConfigError(f"base_url must not contain white space, got {bare!r}")
    path, mark, query = bare.partition("#")[0].partition("?")
    path = path.rstrip("/").removesuffix(_CHAT).rstrip("/")
    route = _OTHER_ROUTE.search(path)
    if route:
        raise ConfigError(
            f"base_url ends in {route[0]}, expected the address before that, for instance http://127.0.0.1:8000/v1. "
            f"{_CHAT} is appended to it"
        )
    return f"{path}{mark}{query}", f"{path}{_CHAT}{mark}{query}"


def open_endpoint(settings: ServerSettings, **more: Any) -> Endpoint:
    """Return the client for the server in the settings.

    Args:
        settings: settings of the server and the model.
        more: further arguments of `Endpoint`, for instance prices.
    Raises:
        ConfigError: the settings have no model, or see `Endpoint`.
    """
    if settings.model is None:
        raise ConfigError(
            f"{settings.base_url}: model is missing. Set model (--model) to the name of a model on this server"
        )
    return Endpoint(
        settings.base_url,
        settings.model,
        api_key_env=settings.api_key_env,
        timeout_s=settings.timeout_s,
        max_retries=settings.retries,
        concurrency=settings.concurrency,
        **more,
    )
