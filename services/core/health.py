"""The three addresses of every service: /livez, /readyz, /metrics; beside them what a service takes
by POST.

Alive means making progress, not having healthy dependencies: a database outage must not restart
every pod. Ready means that the dependencies answer.
"""

import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

_SILENT_CLIENT_SECONDS: Final = 10.0
_MAX_BODY_BYTES: Final = 65_536
_LENGTH_DIGITS: Final = 9


class Progress:
    """Alive while `beat` is called at least every `limit_seconds`."""

    def __init__(self, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit_seconds
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """Says that the main loop went round."""
        self._last = self._clock()

    def problem(self) -> str | None:
        """Why the process should be restarted, or None."""
        silent = self._clock() - self._last
        return f"no progress for {silent:.0f} s" if silent > self._limit else None


Check = Callable[[], str | None]
"""Returns what is wrong in a few words, or None."""

Post = Callable[[Mapping[str, str], bytes], int]
"""Takes the headers, by their names in lower case, and the body; returns the HTTP status."""


class HealthServer:
    """Serves the three addresses, and those of `posts`, from a thread of its own, for as long as it
    is entered.
    """

    def __init__(
        self,
        bind: str,
        port: int,
        *,
        alive: Check,
        ready: Check,
        registry: CollectorRegistry = REGISTRY,
        posts: Mapping[str, Post] | None = None,
    ) -> None:
        answers: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/livez": lambda: _probe(alive()),
            "/readyz": lambda: _probe(ready()),
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
        }

        class Handler(BaseHTTPRequestHandler):
            timeout = _SILENT_CLIENT_SECONDS

            def do_GET(self) -> None:
                answer = answers.get(self.path.partition("?")[0])
                status, kind, body = (
                    answer() if answer else (404, "text/plain; charset=utf-8", b"not found\n")
                )
                self._answer(status, kind, body)

            def do_POST(self) -> None:
                self._answer(self._post(), "text/plain; charset=utf-8", b"")

            def _post(self) -> int:
                post = (posts or {}).get(self.path)
                if post is None:
                    return 404
                length = self.headers.get("Content-Length", "")
                if not (length.isascii() and length.isdigit()):
                    return 411
                if len(length) > _LENGTH_DIGITS or int(length) > _MAX_BODY_BYTES:
                    return 413
                headers = {name.lower(): value for name, value in self.headers.items()}
                return post(headers, self.rfile.read(int(length)))

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Probes come every few seconds; a line for each says nothing."""

        self._server = ThreadingHTTPServer((bind, port), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port really listened on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> "HealthServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _probe(problem: str | None) -> tuple[int, str, bytes]:
    status, text = (503, problem) if problem else (200, "ok")
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()
