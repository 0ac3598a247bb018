"""A small HTTP server in front of a folder or of another server, which fails as stores do, on a schedule."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

Fault = Literal["503", "drop", "damage", "short"]


class Troubled(ThreadingHTTPServer):
    """Answers out of `folder` (with ranges) or from `backend`; the next requests for tars meet `faults`, in order."""

    daemon_threads = True

    def __init__(self, folder: Path | None = None, backend: tuple[str, int] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.backend = folder, backend
        self.faults: list[Fault | None] = []
        self.tar_requests: list[str] = []  # the Range of each
        self.puts: list[str] = []
        self.knows_ranges = True
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, path: str, span: str) -> Fault | None:
        with self.guard:
            if not path.partition("?")[0].endswith(".tar"):
                return None
            self.tar_requests.append(span)
            return self.faults.pop(0) if self.faults else None


class _Handler(BaseHTTPRequestHandler):
    server: Troubled
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command in ("PUT", "POST"):
            self.server.puts.append(self.path.partition("?")[0])
        status, headers, content = self._from_folder() if self.server.folder else self._from_backend(body)
        fault = self.server.fault(self.path, self.headers.get("Range", "")) if self.command == "GET" else None
        if fault == "503":
            status, headers, content = 503, {}, b"<Error><Code>SlowDown</Code></Error>"
        length = headers.pop("Content-Length", str(len(content)))
        if fault == "damage":
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault == "short":
            content = content[: len(content) // 2]
            length = str(len(content))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if fault == "drop":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def _from_folder(self) -> tuple[int, dict[str, str], bytes]:
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            return 404, {}, b""
        content = path.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None or not self.server.knows_ranges:
            return 200, {"Accept-Ranges": "bytes", "Content-Length": str(len(content))}, content
        start, stop = int(span[1]), int(span[2] or len(content) - 1) + 1
        return 206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}, content[start:stop]

    def _from_backend(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.server.backend)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        dropped = ("connection", "transfer-encoding", "date", "server")
        headers = {name.title(): value for name, value in answer.getheaders() if name.lower() not in dropped}
        connection.close()
        return answer.status, headers, content


@contextmanager
def serving(folder: Path | None = None, backend: tuple[str, int] | None = None) -> Iterator[Troubled]:
    """Yield a running server."""
    server = Troubled(folder, backend)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
