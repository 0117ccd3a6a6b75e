"""Where posts come from. A source is one class with the three methods below, in a module of its
own; here is also what sources share.
"""

import hmac
import logging
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, Final, Protocol, TypeVar

from pydantic import ValidationError

from services.core.errors import BadPostError, SettingsError
from services.core.events import Post
from services.producer.metrics import POSTS

log = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.1
"""How long a source waits, at most, between two calls of `running`."""
_AUTHOR_HASH_CHARS: Final = 32
_LOGGED_REFUSALS: Final = 20
"""So many refused posts are logged one by one; the metric counts all of them."""

Running = Callable[[], bool]
"""Says that the source is alive and asks whether it should go on; False ends it."""


class Source(Protocol):
    """A stream of posts."""

    def posts(self, running: Running) -> Iterator[Post]:
        """Blocks for the next post, calling `running` every PAUSE_SECONDS while it waits; ends
        when the source does or `running` says so. Raises what makes going on pointless.
        """
        ...

    def acknowledged(self, count: int) -> None:
        """Kafka holds `count` more posts, in the order in which they were yielded."""
        ...

    def unready(self) -> str | None:
        """Why no posts come in, or None."""
        ...


class TopicMatcher:
    """Which of the followed topics a text is about: those it contains as words, in any case."""

    def __init__(self, topics: Iterable[str]) -> None:
        self.topics = tuple(topics)
        self._patterns = [(topic, _pattern(topic)) for topic in self.topics]

    def __call__(self, text: str) -> tuple[str, ...]:
        """The topics found, in the order of the settings."""
        return tuple(topic for topic, pattern in self._patterns if pattern.search(text))


def _pattern(topic: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in topic.split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)


class AuthorHash:
    """The keyed hash that stands for an author; without the key it cannot be tied to anyone."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, source: str, author: str) -> str:
        """32 hexadecimal digits of HMAC-SHA256."""
        message = f"{source}:{author}".encode(errors="surrogatepass")
        return hmac.digest(self._key, message, "sha256").hex()[:_AUTHOR_HASH_CHARS]


def primary_language(tag: object) -> str | None:
    """The ISO 639 part of a language tag such as en-GB; None when there is none to speak of."""
    code = tag.partition("-")[0].strip().lower() if isinstance(tag, str) else ""
    return code if re.fullmatch("[a-z]{2,3}", code) and code != "und" else None


def make_post(fields: Mapping[str, Any]) -> Post:
    """Raises BadPostError when they are no post."""
    try:
        return Post.model_validate(fields)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in error["loc"])
        raise BadPostError("invalid_post", f"{field}: {error['msg']}") from None


class Refusals:
    """Counts what can never be a post, and logs the first of them."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, reason: str, detail: str, **where: object) -> None:
        """`where` names the place in the source."""
        POSTS.labels("refused", reason).inc()
        self._count += 1
        if self._count <= _LOGGED_REFUSALS:
            log.warning("post.refused", extra={"reason": reason, "detail": detail, **where})


Item = TypeVar("Item")


def from_thread(
    queue: "Queue[Item]", read: Callable[[Event], None], running: Running
) -> Iterator[Item]:
    """Yields what `read`, in a thread of its own, puts into the queue, until it returns or raises
    (raised here too: the thread never dies unnoticed) or a stop. What is queued by then still
    comes. `read` is given an event that says when nobody listens any more.
    """
    errors: list[BaseException] = []
    ended = Event()

    def run() -> None:
        try:
            read(ended)
        except BaseException as exc:
            errors.append(exc)

    thread = Thread(target=run, name="source", daemon=True)
    thread.start()
    try:
        while running():
            alive = thread.is_alive()
            try:
                yield queue.get(timeout=PAUSE_SECONDS)
            except Empty:
                if not alive:
                    break
        for _ in range(queue.qsize()):
            yield queue.get()
    finally:
        ended.set()
    if errors:
        raise errors[0]


class Backoff:
    """Waits that double, with jitter, so that clients do not return all at once."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._seconds = 0.0

    def next(self, first: float, most: float) -> float:
        """Seconds to wait, from `first` to `most`, give or take a quarter."""
        self._seconds = min(most, max(first, self._seconds * 2))
        return self._seconds * (0.75 + self._chance() / 2)

    def reset(self) -> None:
        """The last try went well."""
        self._seconds = 0.0


def state_file(folder: Path, name: str) -> Path:
    """The path of a file that lasts; its folder is made and found writable now, not later."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ".writable", "")
    except OSError as exc:
        raise SettingsError(
            f"MOODSTREAM_PRODUCER_STATE_DIR: cannot write to {folder}: {exc.strerror}"
        ) from exc
    return folder / name


def write_atomically(path: Path, text: str) -> None:
    """A crash leaves the old content or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
