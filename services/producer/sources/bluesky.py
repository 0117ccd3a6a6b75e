"""Bluesky's public stream, Jetstream v1, over a websocket; no account, no key.

https://github.com/bluesky-social/jetstream

At least once: the cursor on disk never passes a post that Kafka has not acknowledged. A slow
Kafka makes the reader wait; the server then disconnects it, and it comes back to the same place.
Jetstream keeps 24 hours or more.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any, Final
from urllib.parse import urlencode

from pydantic_core import from_json
from websockets.exceptions import InvalidURI, WebSocketException
from websockets.sync.client import connect
from websockets.uri import parse_uri

from services.core.errors import BadPostError, SettingsError
from services.core.events import EARLIEST, Post
from services.producer.metrics import CONNECTS
from services.producer.settings import BlueskySettings
from services.producer.sources import (
    AuthorHash,
    Backoff,
    Refusals,
    Running,
    TopicMatcher,
    from_thread,
    make_post,
    primary_language,
    state_file,
    write_atomically,
)

log = logging.getLogger(__name__)

_COLLECTION: Final = "app.bsky.feed.post"
_CURSOR_FILE: Final = "bluesky-cursor"
_OVERLAP_US: Final = 5_000_000
"""Jetstream's clock is not strictly ordered across its servers: go back a little on each resume."""
_MARK_US: Final = 1_000_000
"""The cursor moves at least so often, in stream time, though no post is wanted."""
_SAVE_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 1.0
_AHEAD: Final = timedelta(minutes=1)
"""A post's own clock may be ahead of Jetstream's by so much."""


@dataclass(frozen=True)
class Timing:
    """Waits in seconds, as parameters for tests."""

    open: float = 10.0
    silence: float = 30.0
    """The network writes dozens of posts a second: silence is a dead connection."""
    first_retry: float = 0.5
    most_retry: float = 30.0
    steady: float = 10.0
    """A connection that lasted so long was a good one: the waits start anew."""


@dataclass(frozen=True)
class _Event:
    """A wanted post, or None just to say how far the stream has come."""

    time_us: int
    post: Post | None


class Bluesky:
    """Posts from Jetstream."""

    def __init__(
        self,
        settings: BlueskySettings,
        topics: TopicMatcher,
        author: AuthorHash,
        state_dir: Path,
        queue_posts: int,
        timing: Timing = Timing(),
    ) -> None:
        try:
            parse_uri(settings.url)
        except InvalidURI as exc:
            raise SettingsError(f"MOODSTREAM_BLUESKY_URL: {exc}") from exc
        self._settings = settings
        self._topics = topics
        self._author = author
        self._timing = timing
        self._refusals = Refusals()
        self._queue: Queue[_Event] = Queue(queue_posts)
        self._problem: str | None = "not connected yet"
        self._cursor_path = state_file(state_dir, _CURSOR_FILE)
        self._read_to = self._cursor = _load_cursor(self._cursor_path)
        self._unacknowledged: deque[int] = deque()
        self._marked = 0
        self._saved_at = 0.0
        self._ended = False

    def posts(self, running: Running) -> Iterator[Post]:
        """Every wanted post from the cursor on."""
        for event in from_thread(self._queue, self._read, running):
            if event.post is not None:
                self._unacknowledged.append(event.time_us)
                yield event.post
            elif self._unacknowledged:
                self._unacknowledged[-1] = event.time_us
            else:
                self._advance(event.time_us)
        self._ended = True

    def acknowledged(self, count: int) -> None:
        """Moves the cursor behind the posts that Kafka holds."""
        for _ in range(count):
            self._advance(self._unacknowledged.popleft())

    def unready(self) -> str | None:
        """Why no posts come in, or None."""
        return self._problem

    def _advance(self, time_us: int) -> None:
        self._cursor = max(self._cursor, time_us)
        if self._ended or time.monotonic() - self._saved_at > _SAVE_SECONDS:
            self._saved_at = time.monotonic()
            write_atomically(self._cursor_path, str(self._cursor))

    def _read(self, ended: Event) -> None:
        """Follows the stream through every disconnection."""
        backoff = Backoff()
        while not ended.is_set():
            begun = time.monotonic()
            try:
                self._follow(ended)
            except (OSError, WebSocketException) as exc:
                self._problem = f"Jetstream: {str(exc) or type(exc).__name__}"
                log.warning("bluesky.disconnected", extra={"error": repr(exc)})
            if time.monotonic() - begun > self._timing.steady:
                backoff.reset()
            ended.wait(backoff.next(self._timing.first_retry, self._timing.most_retry))

    def _follow(self, ended: Event) -> None:
        """One connection, until it raises."""
        query: list[tuple[str, str | int]] = [("wantedCollections", _COLLECTION)]
        if self._read_to:
            query.append(("cursor", self._read_to - _OVERLAP_US))
        with connect(
            f"{self._settings.url}?{urlencode(query)}",
            open_timeout=self._timing.open,
            close_timeout=_CLOSE_SECONDS,
            compression=None,
        ) as socket:
            CONNECTS.labels("bluesky").inc()
            log.info("bluesky.connected", extra={"cursor": self._read_to})
            while not ended.is_set():
                message = socket.recv(timeout=self._timing.silence)
                self._problem = None
                try:
                    event = self._event(message)
                except BadPostError as exc:
                    self._refusals.add(exc.reason, exc.detail)
                    continue
                if event.post is not None or event.time_us >= self._marked + _MARK_US:
                    self._marked = event.time_us
                    self._queue.put(event)
                self._read_to = max(self._read_to, event.time_us)

    def _event(self, message: str | bytes) -> _Event:
        try:
            event = from_json(message)
            time_us, kind = int(event["time_us"]), event["kind"]
            if kind != "commit" or event["commit"]["operation"] != "create":
                return _Event(time_us, None)
            commit = event["commit"]
            if commit["collection"] != _COLLECTION:
                return _Event(time_us, None)
            return _Event(time_us, self._post(time_us, event["did"], commit))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as exc:
            raise BadPostError("malformed", repr(exc)) from exc

    def _post(self, time_us: int, did: str, commit: dict[str, Any]) -> Post | None:
        """None: a post that nobody follows."""
        record = commit["record"]
        text = record["text"]
        topics = self._topics(text)
        language = primary_language(next(iter(record.get("langs") or ()), None))
        if (
            not text.strip()
            or (self._topics.topics and not topics)
            or (self._settings.languages and language not in self._settings.languages)
        ):
            return None
        return make_post(
            {
                "source": "bluesky",
                # The time-ordered part first keeps new rows together in the warehouse's index.
                "id": f"{commit['rkey']}@{did}",
                "text": text,
                "language": language,
                "created_at": _created_at(record.get("createdAt"), time_us),
                "author": self._author("bluesky", did),
                "topics": topics,
            }
        )


def _created_at(claimed: object, time_us: int) -> datetime:
    """The author's clock, unless it is wrong beyond doubt; then Jetstream's."""
    received = datetime.fromtimestamp(time_us / 1e6, UTC)
    try:
        created = datetime.fromisoformat(str(claimed))
    except ValueError:
        return received
    if created.tzinfo is None or not EARLIEST <= created <= received + _AHEAD:
        return received
    return created


def _load_cursor(path: Path) -> int:
    """0: none yet, start with what comes in now."""
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except ValueError:
        log.warning("bluesky.cursor_unreadable", extra={"path": str(path), "effect": "starts live"})
        return 0
