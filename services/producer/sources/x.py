"""X API v2 filtered stream through Tweepy, under a supervisor.

https://docs.x.com/x-api/posts/filtered-stream/introduction

Tweepy 4.17 reconnects without a pause after a clean close, ignores x-rate-limit-reset, and ends for
good, silently, on an exception in a callback or one line that is no JSON. So here it makes one
connection at a time, its callbacks never raise, and this module decides when to connect again.

Every post read costs money: a budget per calendar month is written ahead to disk and ends the
stream. X disconnects a slow reader, so the reader never waits: what Kafka is too slow for is
dropped and counted.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Full, Queue
from threading import Event, Lock
from typing import Any, Final

import requests
import tweepy
from pydantic_core import from_json

from services.core.errors import BadPostError, MoodstreamError, SettingsError
from services.core.events import Post
from services.producer.metrics import BUDGET_LEFT, CONNECTS, POSTS
from services.producer.settings import XSettings
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

_TWEEPY_HOST: Final = "https://api.twitter.com"
"""Hard-coded in Tweepy."""
_TAG: Final = "moodstream:"
"""Rules tagged so are ours; all others are left alone."""
_BUDGET_FILE: Final = "x-read-budget.json"
_RESERVED_POSTS: Final = 100
"""Counted as read in advance, so that a crash never forgets a post that was paid for."""
_FIELDS: Final = "created_at,lang,author_id,note_tweet"
_DETAIL_CHARS: Final = 300


class XError(MoodstreamError):
    """X refuses for good; waiting changes nothing."""


_ADVICE: Final = {
    400: "X does not understand the request (400): check MOODSTREAM_PRODUCER_TOPICS.",
    401: "X does not know the bearer token (401): set MOODSTREAM_X_BEARER_TOKEN to a valid one.",
    403: "X does not let this app read the filtered stream (403): attach it to a project with "
    "access and credits in the developer console.",
}
"""Answers that no waiting changes, and what to do about them."""


@dataclass(frozen=True)
class Timing:
    """Waits in seconds. The defaults are X's rules; tests are quicker."""

    silence: float = 21.0
    """X sends a line every 20 s; longer silence is a dead connection."""
    first_network: float = 0.25
    most_network: float = 32.0
    """With the doubling, below X's limit of 50 connections in 15 minutes."""
    first_http: float = 5.0
    most_http: float = 320.0
    first_429: float = 60.0
    steady: float = 60.0
    """A connection that lasted so long was a good one: the waits start anew."""
    budget_check: float = 30.0


class ReadBudget:
    """How many posts may still be read this month. Thread-safe."""

    def __init__(self, path: Path, posts: int, now: Callable[[], datetime]) -> None:
        self._path = path
        self._limit = posts
        self._now = now
        self._lock = Lock()
        self._closed = False
        self._month, self._reserved = _load_budget(path)
        self._used = self._reserved

    def left(self) -> int:
        """Posts that may still be read in the current month."""
        with self._lock:
            month = f"{self._now():%Y-%m}"
            if month != self._month:
                self._month, self._used, self._reserved = month, 0, 0
            left = max(0, self._limit - self._used)
            BUDGET_LEFT.set(left)
            return left

    def take(self) -> None:
        """One post was read."""
        with self._lock:
            self._used += 1
            if self._used > self._reserved and not self._closed:
                self._write(self._used + _RESERVED_POSTS - 1)

    def close(self) -> None:
        """Gives back what is reserved and was not read."""
        with self._lock:
            self._closed = True
            self._write(self._used)

    def _write(self, posts: int) -> None:
        self._reserved = posts
        write_atomically(self._path, json.dumps({"month": self._month, "posts": posts}))


def _load_budget(path: Path) -> tuple[str, int]:
    try:
        record = json.loads(path.read_text())
        return str(record["month"]), int(record["posts"])
    except FileNotFoundError:
        return "", 0
    except (ValueError, KeyError, TypeError) as exc:
        raise SettingsError(
            f"MOODSTREAM_PRODUCER_STATE_DIR: {path} does not say how many posts were read this "
            "month; correct it, or delete it to start from 0"
        ) from exc


class X:
    """Posts from the filtered stream."""

    def __init__(
        self,
        settings: XSettings,
        topics: TopicMatcher,
        author: AuthorHash,
        state_dir: Path,
        queue_posts: int,
        timing: Timing = Timing(),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not topics.topics:
            raise SettingsError(
                "MOODSTREAM_PRODUCER_TOPICS: name at least one; X sends only what is asked for"
            )
        # At level DEBUG, Tweepy logs the bearer token.
        logging.getLogger("tweepy").setLevel(logging.WARNING)
        self._settings = settings
        self._topics = topics.topics
        self._author = author
        self._timing = timing
        self._now = now
        self._refusals = Refusals()
        self._queue: Queue[Post] = Queue(queue_posts)
        self._problem: str | None = "not connected yet"
        self._budget = ReadBudget(
            state_file(state_dir, _BUDGET_FILE), settings.monthly_read_budget, now
        )

    def posts(self, running: Running) -> Iterator[Post]:
        """What matches the rules, as long as the budget lasts. Raises XError."""
        try:
            yield from from_thread(self._queue, self._read, running)
        finally:
            self._budget.close()

    def acknowledged(self, count: int) -> None:
        """X has no cursor."""

    def unready(self) -> str | None:
        """Why no posts come in, or None."""
        return self._problem

    def _read(self, ended: Event) -> None:
        """Connects again and again, at X's pace. Raises XError."""
        backoff = Backoff()
        rules_in_step = False
        while self._wait_for_budget(ended):
            session = _Session(self._settings.url.rstrip("/"), self._timing.silence)
            client = _Client(
                self._settings.bearer_token.get_secret_value(),
                session,
                connected=self._connected,
                take=lambda line: self._take(line) and not ended.is_set(),
            )
            begun = time.monotonic()
            try:
                if not rules_in_step:
                    _keep_rules_in_step(client, self._topics)
                    rules_in_step = True
                client.filter(tweet_fields=_FIELDS)
                answer, problem = client.refusal, client.problem
            except tweepy.HTTPException as exc:
                answer, problem = exc.response, str(exc)
            except (requests.RequestException, ValueError) as exc:
                answer, problem = None, repr(exc)
            if time.monotonic() - begun > self._timing.steady:
                backoff.reset()
            if self._budget.left():
                seconds = self._pause(answer, problem, backoff)
                self._problem = f"X: {problem}"
                log.warning("x.disconnected", extra={"problem": problem, "retry_seconds": seconds})
                ended.wait(seconds)

    def _pause(self, answer: requests.Response | None, problem: str, backoff: Backoff) -> float:
        """Seconds until the next try, by X's rules for each kind of failure. Raises XError."""
        timing = self._timing
        if answer is None:
            return backoff.next(timing.first_network, timing.most_network)
        advice = _ADVICE.get(answer.status_code)
        if advice:
            raise XError(f"{advice} X says: {problem}")
        if answer.status_code != requests.codes.too_many_requests:
            return backoff.next(timing.first_http, timing.most_http)
        reset = answer.headers.get("x-rate-limit-reset", "")
        until = float(reset) - self._now().timestamp() if reset.isdigit() else 0.0
        pause = backoff.next(timing.first_429, timing.most_http)
        return until if until > 0 else pause

    def _wait_for_budget(self, ended: Event) -> bool:
        """Whether to read on; returns as soon as that is decided."""
        told = False
        while not self._budget.left() and not ended.is_set():
            self._problem = (
                f"the read budget of {self._settings.monthly_read_budget} posts for "
                f"{self._now():%Y-%m} is used up; MOODSTREAM_X_MONTHLY_READ_BUDGET raises it"
            )
            if not told:
                log.error("x.budget_used_up", extra={"problem": self._problem})
                told = True
            ended.wait(self._timing.budget_check)
        return not ended.is_set()

    def _connected(self) -> None:
        self._problem = None

    def _take(self, line: bytes) -> bool:
        """One line of the stream; whether to read on."""
        try:
            self._take_post(line)
        except BadPostError as exc:
            self._refusals.add(exc.reason, exc.detail)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            self._refusals.add("malformed", repr(exc))
        return self._budget.left() > 0

    def _take_post(self, line: bytes) -> None:
        message = from_json(line)
        if not isinstance(message, dict):
            raise BadPostError("malformed", "not a JSON object")
        if "data" not in message:
            log.warning("x.notice", extra={"notice": str(message)[:_DETAIL_CHARS]})
            return
        self._budget.take()
        data = message["data"]
        tags = {rule.get("tag") for rule in message.get("matching_rules", ())}
        topics = tuple(topic for topic in self._topics if _TAG + topic in tags)
        if not topics:
            return
        post = make_post(
            {
                "source": "x",
                "id": data["id"],
                # Texts over 280 characters are whole only here.
                "text": data.get("note_tweet", data)["text"],
                "language": primary_language(data.get("lang")),
                "created_at": data["created_at"],
                "author": self._author("x", data["author_id"]) if "author_id" in data else None,
                "topics": topics,
            }
        )
        try:
            self._queue.put_nowait(post)
        except Full:
            POSTS.labels("dropped", "kafka_too_slow").inc()


class _Session(requests.Session):
    """Tweepy's requests, sent to the configured address, none without a timeout."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        super().__init__()
        self._url = url
        self._timeout_seconds = timeout_seconds

    def request(  # type: ignore[override]  # keyword arguments are passed on as they come
        self, method: str, url: str, **options: Any
    ) -> requests.Response:
        options["timeout"] = self._timeout_seconds
        self.answer = super().request(method, self._url + url.removeprefix(_TWEEPY_HOST), **options)
        return self.answer


class _Client(tweepy.StreamingClient):  # type: ignore[misc]  # the library has no types
    """One connection: `filter` returns when it ends, however it ends."""

    def __init__(
        self,
        bearer_token: str,
        session: _Session,
        *,
        connected: Callable[[], None],
        take: Callable[[bytes], bool],
    ) -> None:
        super().__init__(bearer_token, max_retries=0)
        self.session = session
        self._connected = connected
        self._take = take
        self.refusal: requests.Response | None = None
        self.problem = "X closed the stream"

    def on_connect(self) -> None:
        """Makes this the last round of Tweepy's own loop."""
        self.max_retries = -1
        CONNECTS.labels("x").inc()
        log.info("x.connected")
        self._connected()

    def on_data(self, raw_data: bytes) -> None:
        """Hands the line over as it is; Tweepy's own parser ends the stream on a bad one."""
        if not self._take(raw_data):
            self.disconnect()

    def on_request_error(self, status_code: int) -> None:
        """Any status but 200."""
        self.refusal = self.session.answer
        self.problem = f"{status_code} {self.session.answer.text[:_DETAIL_CHARS]}"
        self.disconnect()

    def on_connection_error(self) -> None:
        """Also the end of X's patience with us, or ours with a silent connection."""
        self.problem = "the connection broke or fell silent"
        self.disconnect()

    def on_exception(self, exception: Exception) -> None:
        """What Tweepy would end on silently, such as a TLS error."""
        self.problem = repr(exception)


def _keep_rules_in_step(client: _Client, topics: tuple[str, ...]) -> None:
    """Makes our rules at X those of the topics. Raises XError for a rule that X refuses."""
    wanted = {(_rule(topic), _TAG + topic) for topic in topics}
    present = {
        (rule.value, rule.tag): rule.id
        for rule in client.get_rules().data or ()
        if (rule.tag or "").startswith(_TAG)
    }
    stale = [present[rule] for rule in present.keys() - wanted]
    missing = [tweepy.StreamRule(*rule) for rule in sorted(wanted - present.keys())]
    if stale:
        client.delete_rules(stale)
    if missing:
        errors = client.add_rules(missing).errors
        if errors:
            raise XError(f"X refuses a rule for MOODSTREAM_PRODUCER_TOPICS: {errors}")
    log.info("x.rules_in_step", extra={"added": len(missing), "deleted": len(stale)})


def _rule(topic: str) -> str:
    """The exact phrase. Reposts would be paid for and counted again and again."""
    phrase = topic.replace('"', " ")
    return f'"{phrase}" -is:retweet'
