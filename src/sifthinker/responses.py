"""Read the response of a chat-completions server: the reply, or the fault and its remedy.

OpenAI-compatible servers differ: some send errors with status 200, content in typed parts, or reasoning in a separate field.
Only this module knows these variants.
"""

from __future__ import annotations

import codecs
import contextlib
import email.utils
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx2

from sifthinker.errors import FaultKind

# Temporary errors: these statuses below 500, and all from 500 on except `_LASTING`. 520 to 530 are Cloudflare's.
_PASSING = {408, 409, 425, 429, 499}
_LASTING = {501, 505, 511}
# Statuses that would meet every request: the key, account, address or model is wrong.
_SETUP = {401, 402, 403, 404, 405, 407, 410}

_LONGEST_QUOTE = 300
_LINE_END = re.compile(rb"\r\n|\n|\r")

_CUT_OFF = {"length", "max_tokens", "model_length", "model_context_window_exceeded"}
_FILTERED = {"content_filter", "safety", "prohibited_content", "recitation", "refusal", "blocklist"}

# Error codes of servers, for responses whose status is not specific.
_REQUEST_CODES = {"invalid_request_error", "bad_request", "content_policy_violation"}
_QUOTA_CODES = {
    "insufficient_quota", "insufficient_balance", "insufficient_user_quota", "billing_hard_limit_reached",
    "billing_not_active",
}  # fmt: skip
_KEY_CODES = {"invalid_api_key", "authentication_error", "permission_denied"}
_MODEL_CODES = {"model_not_found", "deploymentnotfound"}

_QUOTA_WORDS = re.compile(r"\bcredit balance\b|\binsufficient (?:balance|credits?|funds)\b", re.IGNORECASE)
_KEY_WORDS = re.compile(
    r"\bapi[ _-]?key\b.{0,40}\b(?:not valid|invalid|incorrect|expired|missing|required)\b"
    r"|\b(?:invalid|incorrect|expired|missing|no)\b.{0,20}\bapi[ _-]?key\b",
    re.IGNORECASE,
)
_MODEL_WORDS = re.compile(
    r"\bmodel\b.{0,120}\b(?:(?:does |do )?not exist|doesn['’]t exist|not found|not a valid model|is not loaded)\b"
    r"|\b(?:no such|unknown|invalid|not a valid) model\b(?! output)|\bmodel[ _]not[ _]found\b",
    re.IGNORECASE,
)
_ADDRESS_WORDS = re.compile(r"\bunexpected endpoint\b|\bHTTP request was sent to (?:an )?HTTPS port\b", re.IGNORECASE)
_FLAGGED_WORDS = re.compile(r"\bmoderation\b|\bflagged\b|\bcontent[ _-]?(?:filter|policy|management)\b", re.IGNORECASE)

Cause = Literal["", "key", "quota", "model", "address"]


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of a model on a server.

    Args:
        text: the model's text, unchanged except that unpaired surrogates are replaced.
        prompt_tokens: number of prompt tokens, as counted by the server.
        completion_tokens: number of completion tokens, as counted by the server.
        code: "" for a finished reply; `cut_off`, `refused` or `no_content` for an unfinished one; `partial` while the model
            is still writing.
        reason: explanation of the code.
        reasoning: text that the server's reasoning parser removed from the reply, or "".
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    code: str = ""
    reason: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """The reason why a response contains no reply.

    Args:
        code: see `errors.EndpointError`.
        message: description in one line, with the server's words.
        kind: see `errors.EndpointError`.
        passing: whether the same request may succeed a moment later.
        cause: cause of a fault of kind `setup`: the key, the account's quota, the model's name, or the address.
        words: the complete words of the server.
        field: the field of the request that the server reports as the cause, or "".
        wait_s: seconds that the server asks the client to wait, or None.
    """

    code: str
    message: str
    kind: FaultKind = "outage"
    passing: bool = True
    cause: Cause = ""
    words: str = ""
    field: str = ""
    wait_s: float | None = None


def read_response(response: httpx2.Response, redact: Callable[[str], str] = str) -> Reply | Fault:
    """Return the reply or the fault of a response. Never raises.

    Args:
        response: a response whose body has been read.
        redact: function that removes secrets from a text. It is applied before a text is shortened.
    """
    status = response.status_code
    try:
        text = redact(response.content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        text = redact(response.text)
    where = f"status {status}"
    if 300 <= status < 400 and "location" in response.headers:
        where += f", a redirect to {redact(response.headers['location'])}"
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return _no_json(response, text) if response.is_success else _fault(status, {}, where, text, response.headers)
    if not response.is_success:
        return _fault(status, _error_of(body), where, text, response.headers)
    error = _error_of(body) if isinstance(body, dict) and not body.get("choices") else {}
    if not error:
        choice = _first_choice(body)
        if choice is None:
            return Fault("bad_shape", f"expected choices[0] in the server's reply, got {_quoted(text)}", words=text)
        error = _error_of({"error": choice["error"]}) if choice.get("error") else {}
        if not error and _broke(choice):
            error = {"message": "finish_reason error"}
        if not error:
            return _read_choice(choice, body)
    return _fault(_status_of(error), error, f"{where} with an error in its body", text, response.headers, inside=True)


async def read_events(
    lines: AsyncIterator[str],
    headers: Mapping[str, str],
    grow: Callable[[Reply], None] | None = None,
    redact: Callable[[str], str] = str,
) -> Reply | Fault:
    """Return the reply or the fault of a stream of server-sent events.

    Args:
        lines: lines of the stream; see `lines_of`.
        headers: headers of the response.
        grow: function called with the reply so far whenever it has grown.
        redact: see `read_response`.
    Raises:
        httpx2.HTTPError: the connection breaks.
    """
    written = {"content": "", "reasoning_content": "", "refusal": ""}
    calls: Any = None
    choice: dict[str, Any] = {}
    usage: Any = None
    ended = False
    async for data in _events(lines):
        if data == "[DONE]":
            ended = True
            break
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            return Fault("not_json", f"an event in the stream is not JSON: {_quoted(redact(data))}", words=redact(data))
        part = _first_choice(event)
        error = _error_of(event) if part is None else {"message": "finish_reason error"} if _broke(part) else {}
        if part is not None and part.get("error"):
            error = _error_of({"error": part["error"]})
        if error:
            where = "an error in the stream"
            return _fault(_status_of(error), error, where, redact(data), headers, inside=True)
        usage = event.get("usage") or usage if isinstance(event, dict) else usage
        if part is None:
            continue
        choice |= {key: value for key, value in part.items() if value is not None and key != "delta"}
        given = part.get("delta")
        delta: dict[str, Any] = given if isinstance(given, dict) else {}
        content, refusal = delta.get("content"), delta.get("refusal")
        if isinstance(content, list):
            content = "".join(_part_text(piece) for piece in _parts(content))
        new = {
            "content": content if isinstance(content, str) else "",
            "reasoning_content": _reasoning(delta)[1],
            "refusal": refusal if isinstance(refusal, str) else "",
        }
        for name, more in new.items():
            written[name] += more
        calls = delta.get("tool_calls") or calls
        if grow is not None and (new["content"] or new["reasoning_content"]):
            text, reasoning = (_whole(redact(written[name])) for name in ("content", "reasoning_content"))
            grow(Reply(text, code="partial", reasoning=reasoning))
    if not choice and ended:
        return Fault("bad_shape", "the server's stream contains no choices[0]")
    if not ended and not choice.get("finish_reason"):
        return Fault("connection", "the stream ended before the reply was complete")
    return _read_choice({**choice, "message": {**written, "tool_calls": calls}}, {"usage": usage})


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the lines of an event stream, without their line ends.

    Lines end only at the line ends of the standard. `str.splitlines` would also split at characters such as U+2028, which
    replies may contain.

    Source: WHATWG HTML, section 9.2.5, "Parsing an event stream".
    """
    kept, begun = b"", False
    async for chunk in chunks:
        text = kept + chunk
        if not begun and len(text) >= len(codecs.BOM_UTF8):
            text, begun = text.removeprefix(codecs.BOM_UTF8), True
        # The next chunk may start with the line feed that belongs to this carriage return.
        held = b"\r" if text.endswith(b"\r") else b""
        *lines, kept = _LINE_END.split(text.removesuffix(held))
        kept += held
        for line in lines:
            yield line.decode(errors="replace")
    for line in _LINE_END.split(kept):
        yield line.decode(errors="replace")


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield the data of each event. An event may have several data lines.

    Some servers write no blank line between events. Then each data line is a complete event.
    """
    held: list[str] = []
    async for line in lines:
        if line.startswith("data:"):
            if held and (held == ["[DONE]"] or _is_json("\n".join(held))):
                yield "\n".join(held)
                held = []
            held.append(line.removeprefix("data:").strip())
        elif held and not line.strip():
            yield "\n".join(held)
            held = []
        # All other lines are keep-alive comments or event names.
    if held:
        yield "\n".join(held)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _fault(
    status: int, error: Mapping[str, Any], where: str, text: str, headers: Mapping[str, str], *, inside: bool = False
) -> Fault:
    """Classify an error by its status (0 if unknown), its code and its words.

    Routers wrap the error of the server behind them in a successful response. A 404 in there may concern only this request.
    """
    words = _words(error) or _page_title(text) or text
    codes = {str(error.get(name)).lower() for name in ("code", "type", "status") if error.get(name)}
    cause: Cause = ""
    if status:
        passing = status in _PASSING or (status >= 500 and status not in _LASTING)
    else:
        passing = not codes & _REQUEST_CODES
    if status == 402 or codes & _QUOTA_CODES or (not passing and _QUOTA_WORDS.search(words)):
        cause = "quota"
    elif _FLAGGED_WORDS.search(words) and not passing:
        pass  # moderation refuses this image or question, sometimes with status 403
    elif status in (401, 403, 407) or codes & _KEY_CODES or (status in (400, 422) and _KEY_WORDS.search(words)):
        cause = "key"
    elif codes & _MODEL_CODES or (status in (400, 404, 422) and _MODEL_WORDS.search(words)):
        cause = "model"
    elif _ADDRESS_WORDS.search(words) or (status in _SETUP and not inside) or status in _LASTING or 300 <= status < 400:
        cause = "address"
    kind: FaultKind = "setup" if cause else "outage" if passing else "request"
    return Fault(
        f"status_{status}" if status else "server_error",
        f"{where}: {_quoted(words)}" if words.strip() else where,
        kind,
        passing and not cause,
        cause,
        words,
        str(error.get("param") or ""),
        _wait_s(headers) if passing and not cause else None,
    )


def _no_json(response: httpx2.Response, text: str) -> Fault:
    """Return the fault of a successful response whose body is not JSON."""
    begins = text.lstrip("\ufeff \t\r\n")
    kind = response.headers.get("content-type", "")
    if begins.startswith(("data:", "event:")) or "event-stream" in kind:
        form = "an event stream (data: …), which the request did not ask for; a proxy may have turned it on"
    elif begins[:1] == "<" or "html" in kind:
        form = f"a web page ({_page_title(text) or 'HTML'}), perhaps from a proxy, a login page or a wrong address"
    elif not begins:
        return Fault("not_json", "the server's reply is empty")
    else:
        form = "not JSON"
    return Fault("not_json", f"the server's reply is {form}. It begins {_quoted(_first_line(begins))}", words=text)


def _status_of(error: Mapping[str, Any]) -> int:
    """Return the status in the body of an error, or 0. The status of the response itself is a success."""
    said = error.get("code")
    return int(said) if isinstance(said, int | str) and re.fullmatch(r"[1-5]\d\d", str(said)) else 0


def _broke(choice: Mapping[str, Any]) -> bool:
    """Return whether the server failed in the middle of this choice."""
    return choice.get("finish_reason") == "error"


def _first_choice(body: Any) -> dict[str, Any] | None:
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else None


def _read_choice(choice: Mapping[str, Any], body: Mapping[str, Any]) -> Reply | Fault:
    message = choice.get("message")
    if not isinstance(message, dict):
        message = {"content": choice["text"]} if isinstance(choice.get("text"), str) else None
    if message is None or not ("content" in message or "reasoning_content" in message or message.get("tool_calls")):
        return Fault("bad_shape", "the server's reply has no choices[0].message.content")
    content, refusal = message.get("content"), message.get("refusal")
    if isinstance(content, list):
        parts = _parts(content)
        refusal = refusal or next((part.get("refusal") for part in parts if part.get("type") == "refusal"), None)
        content = "".join(_part_text(part) for part in parts)
    if content is not None and not isinstance(content, str):
        return Fault("bad_shape", f"the reply's content must be text, got {type(content).__name__}")
    text = _whole(content or "")
    code, reason = _shortcoming(choice, message, text, refusal)
    usage = body.get("usage")
    tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    return Reply(text, *tokens, code, reason, _whole(_reasoning(message)[1]))


def _whole(text: str) -> str:
    """Replace unpaired surrogates in a text."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _reasoning(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return (field name, text) of a reply's reasoning, or ("", "")."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name]:
            return name, message[name]
    return "", ""


def _parts(content: list[Any]) -> list[dict[str, Any]]:
    return [part if isinstance(part, dict) else {"type": "text", "text": part} for part in content]


def _part_text(part: Mapping[str, Any]) -> str:
    """Return the text of one typed part; "" for thinking, images and other types."""
    text = part.get("text")
    if part.get("type", "text") not in ("text", "output_text"):
        return ""
    return text if isinstance(text, str) else ""


def _shortcoming(choice: Mapping[str, Any], message: Mapping[str, Any], text: str, refusal: Any) -> tuple[str, str]:
    """Return (code, reason) of an unfinished reply, ("", "") of a finished one."""
    finish = str(choice.get("finish_reason") or "").lower()
    if refusal:
        return "refused", f"the model refused: {_quoted(str(refusal))}"
    if finish in _FILTERED:
        return "refused", f"the server filtered the reply (finish_reason {finish})"
    name, said = _reasoning(message)
    blank = not text.strip()
    if finish in _CUT_OFF:
        where = " while the model was still reasoning" if blank and said else ""
        return "cut_off", f"the reply was cut off{where} (finish_reason {finish})"
    if blank and said:
        return "no_content", (
            f"the reply's content is empty, and the text is in {name} (it ends {_quoted(said[-60:])}). Serve the model with "
            "the reasoning parser of its family, or turn reasoning off"
        )
    if blank and message.get("tool_calls"):
        return "no_content", "the model called a tool instead of writing a reply. Serve it without tools"
    return "", ""


def _error_of(body: Any) -> dict[str, Any]:
    """Return the error in a body as one flat object, or {}."""
    if not isinstance(body, dict):
        return {}
    error = body.get("error") or body.get("errors")
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {**body, "message": error}
    if body.get("detail") or body.get("message"):
        return body
    return {}


def _words(error: Mapping[str, Any]) -> str:
    """Return the words of an error in one line, including those of a server behind a router."""
    said = list(_texts(error.get("message") or error.get("detail") or error.get("msg") or error.get("error_description")))
    metadata = error.get("metadata")
    if isinstance(metadata, dict) and metadata.get("raw"):
        raw = metadata["raw"]
        with contextlib.suppress(ValueError, RecursionError, TypeError):
            raw = _words(_error_of(json.loads(raw))) or raw
        said += _texts(raw)
    return ": ".join(dict.fromkeys(said))


def _texts(value: Any) -> Iterator[str]:
    """Yield the messages in an error field: text, or a list of {"loc": […], "msg": "…"}."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict) and isinstance(item.get("msg"), str):
                place = item.get("loc")
                yield " ".join([".".join(map(str, place)) if isinstance(place, list) else "", item["msg"]]).strip()
            elif isinstance(item, str):
                yield item
    elif isinstance(value, dict):
        yield from _texts(value.get("message") or value.get("msg"))


def _page_title(text: str) -> str:
    found = re.search(r"<title[^>]*>([^<]{1,200})", text[:20_000], re.IGNORECASE)
    return " ".join(found[1].split()) if found else ""


def _first_line(text: str) -> str:
    return text[:2000].strip().split("\n", 1)[0]


def _quoted(text: str) -> str:
    """Return a text as one short quoted line, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _LONGEST_QUOTE]).split())
    return f'"{line}"' if len(line) <= _LONGEST_QUOTE else f'"{line[:_LONGEST_QUOTE]}…"'


def _count(usage: Any, name: str) -> int:
    """Return a number of tokens; 0 if the server reports no valid number."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else 0


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait, or None. Reads Retry-After (seconds or date) and milliseconds."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        with contextlib.suppress(ValueError):
            return max(0.0, float(headers.get(name, "")) / 1000)
    header = headers.get("retry-after")
    if not header:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(header))
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
