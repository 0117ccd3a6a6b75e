"""The post's schema: what is decoded, and that whatever else arrives is refused with a reason."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.core.contract import MAX_TEXT_CHARS
from services.core.errors import BadPostError
from services.core.events import MAX_RECORD_BYTES, Post, decode, encode, json_schema

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def raw(**changes: Any) -> bytes:
    fields = {
        "schema": 1,
        "source": "replay",
        "id": "1",
        "text": "late again",
        "created_at": "2026-03-01T11:59:00Z",
    }
    return json.dumps(fields | changes).encode()


def reason_of(value: bytes | None) -> str:
    with pytest.raises(BadPostError) as caught:
        decode(value, NOW)
    return caught.value.reason


def test_a_post_survives_encoding_and_decoding() -> None:
    post = Post(
        source="x",
        id="17",
        text='naïve 😀 \\ " \t\n',
        language="en",
        created_at=NOW,
        author="ab" * 16,
        topics=("trains", "food"),
    )

    assert decode(encode(post), NOW) == post


def test_unknown_fields_are_ignored_so_that_a_field_can_be_added() -> None:
    assert decode(raw(mood="new"), NOW).text == "late again"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"", "invalid_json"),
        (b"hello", "invalid_json"),
        (b"[" * 10_000 + b"]" * 10_000, "invalid_json"),
        (raw().replace(b"late", b'"}{'), "invalid_json"),
        (raw(text="x" * 2 * 1024 * 1024), "too_large"),
        (raw().replace(b"late", b"\xff\xfe"), "invalid_utf8"),
        (raw().replace(b"late", b"\\ud800"), "invalid_json"),
        (raw(text="a\0b"), "invalid_field"),
        (raw(id="a\0b"), "invalid_field"),
        (raw(topics=["a\0b"]), "invalid_field"),
        (raw(schema=2), "unsupported_schema"),
        (b"{}", "missing_field"),
        (raw(text=""), "invalid_field"),
        (raw(text=None), "invalid_field"),
        (raw(text=17), "invalid_field"),
        (raw(text="x" * (MAX_TEXT_CHARS + 1)), "invalid_field"),
        (raw(source="No Such"), "invalid_field"),
        (raw(created_at="2026-03-01T11:59:00"), "invalid_field"),
        (raw(created_at="1970-01-01T00:00:00Z"), "invalid_field"),
        (raw(created_at="2026-03-03T00:00:00Z"), "invalid_field"),
        (raw(created_at=2**70), "invalid_field"),
        (raw(language="English"), "invalid_field"),
        (raw(topics=["*"]), "invalid_field"),
        (raw(topics=["a", "a"]), "invalid_field"),
    ],
)
def test_what_can_never_be_stored_is_refused_with_its_reason(
    value: bytes | None, reason: str
) -> None:
    assert reason_of(value) == reason


@given(st.binary(max_size=300))
def test_no_bytes_at_all_raise_anything_else(value: bytes) -> None:
    with pytest.raises(BadPostError):
        decode(value, NOW)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["schema", "source", "id", "text", "language", "created_at", "author", "topics"]
        ),
        json_values,
    )
)
def test_any_json_object_is_a_post_or_a_dead_letter(changes: dict[str, Any]) -> None:
    try:
        post = decode(raw(**changes), NOW)
    except BadPostError:
        return

    assert decode(encode(post), NOW) == post


def test_a_lone_surrogate_cannot_become_a_post_on_the_producers_side() -> None:
    with pytest.raises(ValidationError):
        Post(source="replay", id="1", text="\ud800", created_at=NOW)


def test_records_of_one_post_share_their_key() -> None:
    first = decode(raw(), NOW)
    edited = decode(raw(text="edited"), NOW)

    assert first.key == edited.key == b"replay/1"


def test_a_clock_may_be_a_little_ahead() -> None:
    ahead = (NOW + timedelta(hours=2)).isoformat()

    assert decode(raw(created_at=ahead), NOW).created_at == NOW + timedelta(hours=2)


def test_the_largest_post_fits_into_the_largest_record() -> None:
    post = Post(source="replay", id="1", text="😀" * MAX_TEXT_CHARS, created_at=NOW)

    assert len(encode(post)) < MAX_RECORD_BYTES


def test_the_json_schema_names_every_field() -> None:
    assert set(json.loads(json_schema())["properties"]) == {
        "schema", "source", "id", "text", "language", "created_at", "author", "topics",
    }  # fmt: skip
