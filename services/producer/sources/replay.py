"""A file as a stream: CSV or JSON lines, plain or gzip, from a path or standard input, at a rate,
in a loop, or as fast as it goes. Nothing is ever dropped: a slow Kafka only makes it wait.

Columns or keys: text; also id, topics (or topic), language, created_at, author. Others are ignored.
A JSON line with the key `schema` is a whole post in our own format and keeps its source and id.
"""

import csv
import gzip
import hashlib
import io
import os
import re
import select
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final

from pydantic_core import from_json

from services.core.errors import BadPostError, SettingsError
from services.core.events import Post
from services.producer.settings import ReplaySettings
from services.producer.sources import (
    PAUSE_SECONDS,
    AuthorHash,
    Refusals,
    Running,
    TopicMatcher,
    make_post,
    primary_language,
)

_VARIABLE: Final = "MOODSTREAM_REPLAY_PATH"
_STDIN: Final = "-"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_BUFFER_BYTES: Final = 65_536
_CATCH_UP_SECONDS: Final = 0.5
"""After a longer wait for Kafka the schedule starts anew, instead of bursting to catch up."""

_MADE_ID_BYTES: Final = 6

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Timing:
    """Clocks and sleep, as parameters for tests."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Replay:
    """Posts from a file."""

    def __init__(
        self,
        settings: ReplaySettings,
        topics: TopicMatcher,
        author: AuthorHash,
        timing: Timing = Timing(),
    ) -> None:
        if not settings.path:
            raise SettingsError(f"{_VARIABLE}: name a CSV or JSON-lines file, or - for stdin")
        if settings.loop and settings.path == _STDIN:
            raise SettingsError("MOODSTREAM_REPLAY_LOOP: standard input cannot be read twice")
        self._settings = settings
        self._topics = topics
        self._author = author
        self._timing = timing
        self._refusals = Refusals()

    def posts(self, running: Running) -> Iterator[Post]:
        """The file's rows as posts; a row that cannot be one is counted, logged and skipped."""
        due = self._timing.clock()
        interval = 1 / self._settings.rate if self._settings.rate else 0.0
        for post in self._passes(running):
            if interval:
                due = max(due, self._timing.clock() - _CATCH_UP_SECONDS)
                while (left := due - self._timing.clock()) > 0:
                    if not running():
                        return
                    self._timing.sleep(min(left, PAUSE_SECONDS))
                due += interval
            if not running():
                return
            yield post

    def acknowledged(self, count: int) -> None:
        """A file needs no cursor: the same file gives the same ids."""

    def unready(self) -> str | None:
        """A file is always there."""
        return None

    def _passes(self, running: Running) -> Iterator[Post]:
        if not self._settings.loop:
            yield from self._one_pass(running, "")
            return
        begun = 0
        while running():
            # By the clock, so that a loop gives new posts after a restart too; in milliseconds,
            # because without a rate there are many passes in a second.
            begun = max(begun + 1, int(self._timing.now().timestamp() * 1_000))
            empty = True
            for post in self._one_pass(running, f"-{begun}"):
                empty = False
                yield post
            if empty:
                raise SettingsError(f"{_VARIABLE}: {self._settings.path} holds no usable post")

    def _one_pass(self, running: Running, suffix: str) -> Iterator[Post]:
        with self._opened(running) as file:
            for number, (line, row) in enumerate(self._rows(file), start=1):
                try:
                    if isinstance(row, BadPostError):
                        raise row
                    post = self._post(number, row, suffix)
                except BadPostError as exc:
                    self._refusals.add(exc.reason, exc.detail, line=line)
                    if not running():
                        return
                else:
                    yield post

    @contextmanager
    def _opened(self, running: Running) -> Iterator[IO[str]]:
        """The text of the file. Broken UTF-8 becomes surrogates, which no post may hold."""
        path = self._settings.path
        try:
            raw = (
                io.BufferedReader(_Stdin(running), _BUFFER_BYTES)
                if path == _STDIN
                else Path(path).open("rb")  # noqa: SIM115 - closed below
            )
        except OSError as exc:
            raise SettingsError(f"{_VARIABLE}: cannot read {path}: {exc.strerror}") from exc
        with raw:
            zipped = raw.peek(2)[:2] == _GZIP_MAGIC
            content: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
            with io.TextIOWrapper(
                content, encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as text:
                yield text

    def _rows(self, file: IO[str]) -> Iterator[tuple[int, Row | BadPostError]]:
        """Each row, or what is wrong with it, with the number of its last line."""
        path = self._settings.path
        try:
            blank, first = 0, ""
            for first in file:
                if first.strip():
                    break
                blank += 1
            read = _json_rows if first.lstrip().startswith("{") else _csv_rows
            for line, row in read(chain([first], file), path):
                yield blank + line, row
        except (OSError, EOFError, zlib.error) as exc:
            raise SettingsError(f"{_VARIABLE}: {path} is damaged: {exc}") from exc

    def _post(self, number: int, row: Row, suffix: str) -> Post:
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise BadPostError("no_text", "the row has no text")
        topics = _topics(row.get("topics") or row.get("topic"))
        if self._topics.topics:
            topics = self._topics(" ".join((text, *topics)))
        if "schema" in row:
            return make_post({**row, "id": f"{row.get('id')}{suffix}", "topics": topics})
        author = row.get("author")
        return make_post(
            {
                "source": "replay",
                "id": f"{row.get('id') or _made_id(number, text)}{suffix}",
                "text": text,
                "language": primary_language(row.get("language")) or self._settings.language,
                "created_at": _utc(row.get("created_at")) or self._timing.now(),
                "author": self._author("replay", str(author)) if author else None,
                "topics": topics,
            }
        )


Lines = Iterator[tuple[int, Row | BadPostError]]


def _json_rows(lines: Iterable[str], path: str) -> Lines:
    checked = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = from_json(line)
        except (ValueError, TypeError) as exc:  # TypeError: the surrogates of broken UTF-8
            yield number, BadPostError("malformed", str(exc))
            continue
        if not isinstance(row, dict):
            yield number, BadPostError("malformed", "not a JSON object")
            continue
        if not checked:
            _require_text(row, path)
            checked = True
        yield number, row


def _csv_rows(lines: Iterable[str], path: str) -> Lines:
    reader = csv.reader(lines)
    columns = [name.strip().lower() for name in next(reader, [])]
    if columns:
        _require_text(columns, path)
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield reader.line_num, BadPostError("malformed", str(exc))
            continue
        if values:
            yield reader.line_num, dict(zip(columns, values, strict=False))


def _require_text(names: Iterable[str], path: str) -> None:
    if "text" not in names:
        raise SettingsError(f"{_VARIABLE}: {path} has no 'text', only: {', '.join(names)}")


def _topics(value: object) -> tuple[str, ...]:
    """A list, or a text with the topics separated by comma, semicolon or bar."""
    parts = re.split(r"[,;|]", value) if isinstance(value, str) else value or ()
    if not isinstance(parts, list | tuple):
        raise BadPostError("invalid_post", "topics: neither a text nor a list")
    return tuple(dict.fromkeys(topic for part in parts if (topic := str(part).strip())))


def _made_id(number: int, text: str) -> str:
    """The same for the same row of the same file, under whatever name."""
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=_MADE_ID_BYTES)
    return f"{number}-{digest.hexdigest()}"


def _utc(value: object) -> object:
    """A time without a zone is taken as UTC; the schema judges everything else."""
    if isinstance(value, str):
        try:
            time_given = datetime.fromisoformat(value)
        except ValueError:
            return value
        return time_given if time_given.tzinfo else time_given.replace(tzinfo=UTC)
    return value


class _Stdin(io.RawIOBase):
    """Standard input that a stop can interrupt; a plain read would wait for the next line."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
            if not self._running():
                return 0
        return os.readv(sys.stdin.fileno(), [buffer])
