"""A stand-in for the Hugging Face hub on loopback, and a Python that takes it for the hub.

It speaks as much of the hub's interface as `datasets.load_dataset` and `huggingface_hub.snapshot_download` ask for. Those
are the real ones: `run_with` starts a Python whose `HF_ENDPOINT` is the stand-in, since both read it once, when imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(datasets: Mapping[str, Path], *, gated: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """Serve folders as datasets of the hub; yields its address and the paths asked for so far.

    Args:
        datasets: `owner/name` → the folder with its files.
        gated: names whose files are refused until their terms are accepted.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(body)

        def _answer(self, body: bytes = b"") -> None:
            url = urlsplit(self.path)
            asked.append(f"{self.command} {self.path}")
            parts = [unquote(part) for part in url.path.split("/") if part]
            at = 1 if parts[:1] == ["api"] else 0
            name = "/".join(parts[at + 1 : at + 3])
            if parts[at : at + 1] != ["datasets"] or name not in datasets:
                return self._fail(401 if at else 404, "RepoNotFound")
            rest = parts[at + 3 :]
            if at == 0:
                return self._file(name, "/".join(rest[2:])) if rest[:1] == ["resolve"] else self._fail(404, "")
            folder = datasets[name]
            match rest:
                case [] | ["revision", _]:
                    self._json(_info(name, folder))
                case ["tree", _, *path]:
                    recursive = parse_qs(url.query).get("recursive", ["false"])[0].lower() == "true"
                    if not folder.joinpath(*path).is_dir():
                        return self._fail(404, "EntryNotFound")
                    self._json([_entry(folder, found) for found in _below(folder.joinpath(*path), recursive)])
                case ["paths-info", _]:
                    text = body.decode()
                    wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
                    found = [folder / path for path in wanted]
                    self._json([_entry(folder, path) for path in found if path.exists()])
                case _:
                    self._fail(404, "")
            return None

        def _file(self, name: str, path: str) -> None:
            if name in gated:
                return self._fail(403, "GatedRepo")
            file = datasets[name] / path
            if not file.is_file():
                return self._fail(404, "EntryNotFound")
            content = file.read_bytes()
            first, last = 0, len(content) - 1
            status = 200
            if asks := self.headers.get("Range"):
                start, _, end = asks.removeprefix("bytes=").partition("-")
                first, last, status = int(start), min(int(end or last), last), 206
            headers = {
                "ETag": f'"{_hash(content)}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
                "Content-Type": "application/octet-stream",
            }
            if status == 206:
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self._send(status, headers, content[first : last + 1])
            return None

        def _json(self, value: Any) -> None:
            self._send(200, {"Content-Type": "application/json", "X-Repo-Commit": COMMIT}, json.dumps(value).encode())

        def _fail(self, status: int, code: str) -> None:
            headers = {"X-Error-Code": code, "X-Error-Message": code, "Content-Type": "application/json"}
            self._send(status, headers, json.dumps({"error": code}).encode())

        def _send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run_with(endpoint: str, home: Path, code: str) -> str:
    """What a Python prints that takes the stand-in for the hub, and `home` for the place of its caches.

    Raises:
        AssertionError: it failed; with what it wrote to its error output.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _info(name: str, folder: Path) -> dict[str, Any]:
    files = [path.relative_to(folder).as_posix() for path in _below(folder, True) if path.is_file()]
    return {
        "_id": "0",
        "id": name,
        "sha": COMMIT,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "lastModified": "2024-07-01T00:00:00.000Z",
        "siblings": [{"rfilename": file} for file in files],
    }


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    relative = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": relative}
    content = path.read_bytes()
    return {"type": "file", "oid": _hash(content)[:40], "size": len(content), "path": relative}


def _below(folder: Path, recursive: bool) -> list[Path]:
    return sorted(folder.rglob("*") if recursive else folder.iterdir())
