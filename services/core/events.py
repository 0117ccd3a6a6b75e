"""The post: the one event that producers write to Kafka and consumers read, as versioned JSON.

A reader ignores fields it does not know, so a field may be added within a version; a changed
meaning is a new version. Decoding never fails with anything but BadPostError, whatever the bytes.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from services.core.contract import MAX_TEXT_CHARS
from services.core.errors import BadPostError

SCHEMA_VERSION: Final = 1
MAX_RECORD_BYTES: Final = 262_144
"""Largest encoded post; beyond it a record is a dead letter without being parsed."""
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
"""A time that stays one in UTC."""
MAX_CLOCK_SKEW: Final = timedelta(days=1)
"""How far a post's own time may lie in the future before it is called wrong."""


Storable = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
"""PostgreSQL cannot store U+0000. The parser itself refuses lone surrogates, which UTF-8 cannot
encode.
"""
Topic = Annotated[Storable, Field(min_length=1, max_length=100)]

ALL_TOPICS: Final = "*"
"""Stands for every post in the rollups; no topic may be called so."""


def _utc(moment: datetime) -> datetime:
    """PostgreSQL has no offsets of 16 hours and more, and none with seconds; others do."""
    return moment.astimezone(UTC)


class Post(BaseModel):
    """One message from a source. `(source, id)` names it for ever."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    schema_version: Literal[1] = Field(alias="schema", default=SCHEMA_VERSION)
    source: Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,31}$")]
    """Which source it came from: replay, x, bluesky."""
    id: Annotated[Storable, Field(min_length=1, max_length=256)]
    """The source's own id, unique within the source."""
    text: Annotated[Storable, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
    """What was written."""
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")] | None = None
    """ISO 639 code that the source gave; None when it gave none."""
    created_at: Annotated[AwareDatetime, Field(ge=EARLIEST, lt=_LATEST), AfterValidator(_utc)]
    """When it was posted, by the source's clock."""
    author: Annotated[Storable, Field(max_length=64)] | None = None
    """Keyed hash of the author's id; None when the source names none."""
    topics: Annotated[tuple[Topic, ...], Field(max_length=32)] = ()
    """What it was collected for; each once."""

    @property
    def key(self) -> bytes:
        """The Kafka record key: all records of one post share a partition."""
        return f"{self.source}/{self.id}".encode()


def encode(post: Post) -> bytes:
    """The JSON form of a post, as written to Kafka."""
    return post.model_dump_json(by_alias=True, exclude_none=True).encode()


def decode(value: bytes | None, now: datetime) -> Post:
    """Parses one record's value; `now` bounds how far in the future a post may lie.

    Raises BadPostError with reason tombstone, too_large, invalid_utf8, invalid_json,
    unsupported_schema, missing_field or invalid_field.
    """
    if value is None:
        raise BadPostError("tombstone", "the record has no value")
    if len(value) > MAX_RECORD_BYTES:
        raise BadPostError("too_large", f"{len(value)} bytes, the limit is {MAX_RECORD_BYTES}")
    try:
        post = Post.model_validate_json(value)
    except ValidationError as exc:
        raise _why(exc, value) from None
    if post.created_at > now + MAX_CLOCK_SKEW:
        raise BadPostError("invalid_field", f"created_at: {post.created_at} is in the future")
    topics = post.topics
    if topics and (ALL_TOPICS in topics or (len(topics) > 1 and len(set(topics)) < len(topics))):
        raise BadPostError("invalid_field", f"topics: must differ from each other and {ALL_TOPICS}")
    return post


def _why(exc: ValidationError, value: bytes) -> BadPostError:
    error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in error["loc"])
    message = f"{field}: {error['msg']}"[:500] if field else error["msg"][:500]
    if error["type"] == "json_invalid":
        try:
            value.decode()
        except UnicodeDecodeError:
            return BadPostError("invalid_utf8", message)
        return BadPostError("invalid_json", message)
    if field == "schema":
        return BadPostError("unsupported_schema", message)
    if error["type"] == "missing":
        return BadPostError("missing_field", message)
    return BadPostError("invalid_field", message)


def json_schema() -> str:
    """The JSON Schema of a post, for other programs that write to Kafka."""
    return json.dumps(Post.model_json_schema(by_alias=True), indent=2)
