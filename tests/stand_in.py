"""A small OpenAI-compatible server on loopback that answers as a test tells it to."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any], int], "str | bytes | tuple[int, dict[str, str], str] | Iterator[str]"]


@contextmanager
def serve(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve chat completions; yields the base URL and the list of requests so far (headers under `_headers`).

    Args:
        answer: (request, its number from 0) → the reply's text, or (status, headers, body) as they stand, or bytes after
            which the connection is reset, or an iterator of pieces of a stream of events, sent as they come; it is closed
            when the client has gone.
    """
    requests: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(requests)
                requests.append({**body, "_headers": dict(self.headers), "_path": self.path})
            said = answer(body, number)
            if isinstance(said, bytes):
                self.wfile.write(said)
                self.wfile.flush()
                # Closing with a linger of 0 s resets the connection.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            if isinstance(said, Iterator):
                self._stream(said)
                return
            if isinstance(said, str):
                reply = {
                    "choices": [{"message": {"role": "assistant", "content": said}}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 20},
                }
                said = 200, {}, json.dumps(reply)
            status, headers, text = said
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text.encode())))
            with contextlib.suppress(OSError):  # the client gave up
                self.end_headers()
                self.wfile.write(text.encode())

        def _stream(self, pieces: Any) -> None:
            self.close_connection = True  # which ends the stream
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.end_headers()
            with contextlib.suppress(OSError), contextlib.closing(pieces):
                for piece in pieces:
                    self.wfile.write(piece.encode())
                    self.wfile.flush()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # the connection was reset, or the client gave up
                super().finish()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def event(content: str | None = None, finish: str | None = None, **delta: Any) -> str:
    """One event of a stream."""
    words = {} if content is None else {"content": content}
    body = {"choices": [{"index": 0, "delta": {**words, **delta}, "finish_reason": finish}]}
    return f"data: {json.dumps(body)}\n\n"


USAGE = 'data: {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 20}}\n\n'
DONE = "data: [DONE]\n\n"


def told(pieces: Iterable[str]) -> Iterator[str]:
    """A whole stream of events with these pieces of text."""
    yield event("", role="assistant")
    yield from map(event, pieces)
    yield event(finish="stop")
    yield USAGE + DONE


def focuses(request: dict[str, Any]) -> int:
    """How many focuses a teacher's request shows: one picture each."""
    return sum(part["type"] == "image_url" for part in request["messages"][1]["content"])


def explain(request: dict[str, Any], number: int) -> str:
    """A teacher that passes every check, whatever it is asked: `serve(explain)`."""
    told = request["messages"][1]["content"][0]["text"]
    return thoughts(request, told.split("True answer: ")[1].split("\n")[0])


def thoughts(request: dict[str, Any], answer: str) -> str:
    """A reply that passes every check."""
    return json.dumps({"thoughts": [f"I look at part {n + 1}." for n in range(focuses(request))], "answer": answer})
