"""The dashboard's API as it documents itself, and requests that no client library would send."""

import http.client
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from fastapi import FastAPI

from services.core.settings import InferenceSettings, PostgresSettings
from services.dashboard import explain, exports, history, rules
from services.dashboard.access import Guard
from services.dashboard.app import create_app
from services.dashboard.settings import DashboardSettings

_SECONDS = 30
_ANSWER_SECONDS = 5


def _application() -> FastAPI:
    """The dashboard as it is served, not started."""
    postgres = PostgresSettings()
    reader = history.Reader(postgres)
    routers = [
        history.router(reader),
        rules.router(postgres, reader),
        explain.router(explain.Explainer(InferenceSettings(), reader)),
        exports.router(postgres),
    ]
    return create_app(postgres, Guard(DashboardSettings()), routers, lambda: True)


def documented() -> dict[str, Any]:
    """The dashboard's OpenAPI document."""
    return _application().openapi()


def hidden() -> set[str]:
    """Paths that are served and not documented."""
    known = documented()["paths"]
    return {
        path
        for route in _application().routes
        if (path := getattr(route, "path", None)) is not None and path not in known
    }


def operations() -> list[tuple[str, str]]:
    """Every documented method and path, but for the stream that never ends."""
    return [
        (method.upper(), path)
        for path, methods in documented()["paths"].items()
        for method in methods
        if path != "/api/live"
    ]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def reason(self) -> str:
        """Why it was refused: every error is JSON that says so."""
        return str(orjson.loads(self.body)["problem"])


def ask(
    url: str,
    method: str,
    path: str,
    headers: Mapping[str, str | Sequence[str]] | None = None,
    body: bytes | None = None,
) -> Answer:
    """Sends the path and the headers as they are, several of a name where there are several. Unless
    told otherwise the request is one of the dashboard's own page.
    """
    server = urlsplit(url)
    own = {"Host": server.netloc, "Origin": url, "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(server.hostname or "", server.port, timeout=_SECONDS)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {**own, **(headers or {})}.items():
            for each in [value] if isinstance(value, str) else value:
                connection.putheader(name, each)
        if body is not None and "Content-Length" not in (headers or {}):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def connected(url: str) -> socket.socket:
    """A connection to do with what no client would; it waits a few seconds for an answer."""
    server = urlsplit(url)
    return socket.create_connection((server.hostname, server.port), timeout=_ANSWER_SECONDS)
