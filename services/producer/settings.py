"""The producer's own settings: what to follow, and one group for each source."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from services.core.events import ALL_TOPICS
from services.core.settings import group

_MAX_TOPICS = 32
_MAX_TOPIC_CHARS = 100


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(word for word in (part.strip() for part in value.split(",")) if word)
    return value


def _checked(topics: tuple[str, ...]) -> tuple[str, ...]:
    if ALL_TOPICS in topics:
        raise ValueError(f"{ALL_TOPICS!r} stands for all posts and cannot be a topic")
    if len({topic.casefold() for topic in topics}) != len(topics):
        raise ValueError("a topic is named twice")
    if len(topics) > _MAX_TOPICS:
        raise ValueError(f"at most {_MAX_TOPICS} topics")
    if any(len(topic) > _MAX_TOPIC_CHARS for topic in topics):
        raise ValueError(f"a topic has at most {_MAX_TOPIC_CHARS} characters")
    return topics


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A comma-separated list."""


class ProducerSettings(BaseSettings):
    """What is followed, where it comes from, and how much may wait for Kafka."""

    model_config = group("MOODSTREAM_PRODUCER_")

    source: Literal["replay", "x", "bluesky"] = "replay"
    """Where posts come from: replay (a file), x or bluesky."""
    topics: Annotated[Words, AfterValidator(_checked)] = ()
    """Comma-separated keywords to follow. Empty: for replay the file's topic column, for bluesky
    every post; x needs at least one.
    """
    author_key: SecretStr | None = None
    """Key of the hash that stands for authors. Unset: a new one at each start, so that an author
    cannot be recognised across restarts.
    """
    state_dir: Path = Path(".moodstream/producer")
    """Folder that keeps the read budget of x and the cursor of bluesky across restarts."""
    max_in_flight: int = Field(default=10_000, ge=1)
    """Most posts that wait for Kafka's acknowledgement, and most that a live source may queue
    behind them; they bound the memory.
    """


class ReplaySettings(BaseSettings):
    """A file as a stream: CSV or JSON lines, plain or gzip, told apart by content."""

    model_config = group("MOODSTREAM_REPLAY_")

    path: str = ""
    """The file; - is standard input. Its ids must be unique over all files replayed into one
    warehouse; without an id column they are made of row number and text.
    """
    rate: float = Field(default=0.0, ge=0)
    """Posts per second; 0: as fast as it goes."""
    loop: bool = False
    """Start again at the end, each pass as new posts."""
    language: str = Field(default="en", pattern="^[a-z]{2,3}$")
    """ISO 639 code of posts for which the file gives none."""


class XSettings(BaseSettings):
    """The filtered stream of X API v2. Every post read costs money."""

    model_config = group("MOODSTREAM_X_")

    bearer_token: SecretStr = Field(min_length=1)
    """App-only bearer token from the developer console."""
    monthly_read_budget: int = Field(default=10_000, ge=1)
    """Posts that may be read in a calendar month (UTC); then the stream stops until the next."""
    url: str = "https://api.x.com"
    """Base address of the API."""


class BlueskySettings(BaseSettings):
    """Jetstream, Bluesky's public stream; it needs no account and no key."""

    model_config = group("MOODSTREAM_BLUESKY_")

    url: str = "wss://jetstream2.us-east.bsky.network/subscribe"
    """Address of a Jetstream server's v1 endpoint."""
    languages: Words = ()
    """Comma-separated ISO 639 codes to keep. Empty: all."""
