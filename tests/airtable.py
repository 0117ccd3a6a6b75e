"""A server that speaks the part of Airtable's Web API that moodstream uses, with its limits: 10
records a write, 5 requests a second for a base, and 30 s of 429 for one too many.

https://airtable.com/developers/web/api/update-multiple-records and .../rate-limits
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "pat-of-the-test"  # noqa: S105 - of the test
BASE = "app0123456789abcd"
FIELDS = {
    "topic": "text",
    "day": "date",
    "posts": "number",
    "negative": "number",
    "neutral": "number",
    "positive": "number",
    "unscored": "number",
    "average_score": "number",
    "standard_error": "number",
}
_MOST_RECORDS = 10
_MOST_KEYS = 3
_REQUESTS_A_SECOND = 5
_PENALTY_SECONDS = 30.0


class Airtable:
    """One base with one table, and what was asked of it."""

    def __init__(self, clock: Callable[[], float], fields: dict[str, str]) -> None:
        self.url = ""
        self.table = "Sentiment"
        self.records: dict[str, dict[str, Any]] = {}
        self.statuses: list[int] = []
        self.outages: list[int] = []
        """Statuses that the next requests are answered with, once each."""
        self._clock = clock
        self._fields = fields
        self._lock = threading.Lock()
        self._times: list[float] = []
        self._refused_until = float("-inf")

    def use_up(self) -> None:
        """Somebody else sends as many requests as the base takes in this second, and one more."""
        for _ in range(_REQUESTS_A_SECOND + 1):
            self._too_fast()

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of one request."""
        with self._lock:
            status, found = self._answer(method, path, token, body)
            self.statuses.append(status)
            return status, found

    def _answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        if token != f"Bearer {TOKEN}":
            return 401, _error("AUTHENTICATION_REQUIRED", "Authentication required")
        if self._too_fast():
            return 429, {"errors": [{"error": "RATE_LIMIT_REACHED", "message": "Rate limit"}]}
        if self.outages:
            return self.outages.pop(0), _error("SERVICE_UNAVAILABLE", "try again")
        if unquote(urlsplit(path).path) != f"/v0/{BASE}/{self.table}":
            return 404, {"error": "NOT_FOUND"}
        if method == "GET":
            return 200, {
                "records": [
                    {"id": key, "createdTime": "2026-01-01T00:00:00.000Z", "fields": fields}
                    for key, fields in self.records.items()
                ]
            }
        return self._upsert(json.loads(body))

    def _too_fast(self) -> bool:
        now = self._clock()
        if now < self._refused_until:
            return True
        self._times = [at for at in self._times if at > now - 1] + [now]
        if len(self._times) > _REQUESTS_A_SECOND:
            self._refused_until = now + _PENALTY_SECONDS
            self._times = []
            return True
        return False

    def _upsert(self, asked: dict[str, Any]) -> tuple[int, Any]:
        keys = asked["performUpsert"]["fieldsToMergeOn"]
        if not 1 <= len(asked["records"]) <= _MOST_RECORDS:
            return 422, _error("INVALID_REQUEST", "You can upsert at most 10 records per request")
        if not 1 <= len(keys) <= _MOST_KEYS:
            return 422, _error("INVALID_REQUEST", "fieldsToMergeOn takes 1 to 3 fields")
        for record in asked["records"]:
            for name, value in record["fields"].items():
                if name not in self._fields:
                    return 422, _error("UNKNOWN_FIELD_NAME", f'Unknown field name: "{name}"')
                if not _fits(self._fields[name], value):
                    return 422, _error("INVALID_VALUE_FOR_COLUMN", f'Field "{name}": {value!r}')
            if len(self._matching(record["fields"], keys)) > 1:
                return 422, _error("INVALID_RECORDS", "More than one record matches")
        created, updated = [], []
        for record in asked["records"]:
            if found := self._matching(record["fields"], keys):
                (key,) = found
                updated.append(key)
            else:
                key = f"rec{len(self.records):014}"
                self.records[key] = {}
                created.append(key)
            self.records[key] |= record["fields"]
        return 200, {
            "createdRecords": created,
            "updatedRecords": updated,
            "records": [
                {
                    "id": key,
                    "createdTime": "2026-01-01T00:00:00.000Z",
                    "fields": self.records[key],
                }
                for key in (*created, *updated)
            ],
        }

    def _matching(self, fields: dict[str, Any], keys: list[str]) -> list[str]:
        return [
            key
            for key, there in self.records.items()
            if all(there.get(name) == fields[name] for name in keys)
        ]


def _fits(kind: str, value: object) -> bool:
    if value is None:
        return True
    if kind == "number":
        return isinstance(value, int | float)
    if kind == "date":
        return isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value) is not None
    return isinstance(value, str)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message}}


@contextmanager
def airtable(
    clock: Callable[[], float], fields: dict[str, str] | None = None
) -> Iterator[Airtable]:
    """The server; `clock` counts the seconds of its limits."""
    base = Airtable(clock, FIELDS if fields is None else fields)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization", "")
            status, found = base.answer(self.command, self.path, token, body)
            content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = _serve
        do_PATCH = _serve

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    base.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield base
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
