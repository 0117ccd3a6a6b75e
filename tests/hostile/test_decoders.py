"""Every decoder of what strangers write, fed with what hypothesis makes up: it gives what can be
stored, or refuses with the error that its callers know.
"""

import base64
import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.consumer.batch import Record, ScoredBatch, decode_batch
from services.consumer.store import Store
from services.core.contract import MAX_TEXT_CHARS, MAX_TEXTS_PER_REQUEST
from services.core.errors import BadPostError, SettingsError, TemporaryError
from services.core.events import MAX_RECORD_BYTES, Post, decode, encode
from services.core.postgres import Connection, connect
from services.core.rules import Rule, RulesError, read_yaml, write_yaml
from services.core.settings import PostgresSettings
from services.dashboard.corrections import BadCorrectionsError, correct
from services.dashboard.history import BadRequestError, Filters, Reader, posts
from services.etl.delete import notice
from services.notifier.settings import Channel, read_channels
from services.predictor import protocol
from services.producer.settings import BlueskySettings, ReplaySettings, XSettings
from services.producer.sources import AuthorHash, TopicMatcher
from services.producer.sources.bluesky import Bluesky
from services.producer.sources.replay import Replay
from services.producer.sources.x import X
from tests.integration.conftest import PostgresHandle
from tests.ports import free_port

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

BOUNDED = settings(derandomize=True, max_examples=150)


any_text = st.text() | st.sampled_from(
    ["\0", "\ud800", "\ufeff", "\\N", "\\.", "\u202e", "'; DROP TABLE posts; --", "=1+1", "1e400"]
)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.just(10**30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
# Those that PostgreSQL has; the others have tests of their own.
offsets = st.integers(-959, 959).map(lambda minutes: timedelta(minutes=minutes))
moments = st.datetimes(datetime(1999, 12, 31), datetime(2026, 3, 3)).flatmap(
    lambda moment: offsets.map(lambda offset: moment.replace(tzinfo=timezone(offset)).isoformat())
)


def dumped(value: Any) -> bytes:
    """JSON with lone surrogates and numbers that are none, as other programs write it."""
    return json.dumps(value).encode()


def fields(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with these fields, each as it should be, missing, or anything else."""
    return st.fixed_dictionaries(
        {}, optional={name: strategy | any_json for name, strategy in known.items()}
    )


# Posts as they come: each field at its limits, all of them mostly good.
stored_posts = st.fixed_dictionaries(
    {
        "source": st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True),
        "text": st.text(min_size=1)
        | st.text(min_size=1).map(lambda text: (text * 10_000)[:10_000]),
        "created_at": moments,
    },
    optional={
        "language": st.from_regex(r"[a-z]{2,3}", fullmatch=True) | st.none(),
        "author": st.text(max_size=64),
        "topics": st.lists(st.text(min_size=1, max_size=100), max_size=32, unique=True),
    },
)


@pytest.fixture(scope="module")
def store(warehouse: PostgresHandle) -> Iterator[Callable[[list[bytes]], list[tuple[Any, ...]]]]:
    """Takes records in as the consumer does, and gives back what the warehouse holds of them."""
    writer = Store(warehouse.settings, "hostile")
    reader: Connection = connect(warehouse.settings, "test")
    offset = writer.place("posts", 0, 0, 0)

    def take(values: list[bytes]) -> list[tuple[Any, ...]]:
        nonlocal offset
        records = [Record("posts", 0, offset + i, 0, None, value) for i, value in enumerate(values)]
        batch = decode_batch(0, "posts", {0: records}, {0: offset}, NOW)
        scored = range(len(batch.posts))
        rows = np.tile(np.array([0.1, 0.2, 0.7], dtype=np.float32), (len(scored), 1))
        writer.write(ScoredBatch(batch, scored, [], rows, "sentiment", "1"))
        first, offset = offset, offset + len(values)
        with reader, reader.cursor() as cursor:
            cursor.execute(
                "SELECT source, id, text, language, created_at, author, topics FROM posts "
                "WHERE kafka_offset >= %s ORDER BY kafka_offset",
                (first,),
            )
            return cursor.fetchall()

    yield take
    writer.close()
    reader.close()


numbers = count()


@given(st.lists(stored_posts, min_size=1, max_size=8))
@settings(BOUNDED, max_examples=60)
def test_every_post_that_decodes_is_stored_and_reads_back_the_same(
    store: Callable[[list[bytes]], list[tuple[Any, ...]]], contents: list[dict[str, Any]]
) -> None:
    values = [dumped(content | {"id": f"{next(numbers)} \\ \t\n'"}) for content in contents]
    decoded = []
    for value in values:
        with suppress(BadPostError):
            decoded.append(decode(value, NOW))

    rows = store(values)

    assert rows == [
        (p.source, p.id, p.text, p.language, p.created_at, p.author, list(p.topics))
        for p in decoded
    ]


@pytest.mark.parametrize(
    "offset",
    [
        *["+16:00", "-16:00", "+23:59"],
        *("+01:02:03", "+01:02:03.5", "+23:59:59.9"),
    ],
)
def test_an_offset_that_postgresql_has_not_stops_nothing(
    store: Callable[[list[bytes]], list[tuple[Any, ...]]], offset: str
) -> None:
    content = {"source": "bluesky", "id": offset, "text": "hi"}

    rows = store([dumped(content | {"created_at": f"2026-02-28T10:00:00{offset}"})])

    assert len(rows) <= 1


@given(stored_posts)
@BOUNDED
def test_what_a_producer_encodes_the_consumer_decodes(content: dict[str, Any]) -> None:
    try:
        post = Post.model_validate(content | {"id": "1"})
        decode(encode(post), NOW)
    except (ValidationError, BadPostError):
        return

    assert len(encode(post)) < MAX_RECORD_BYTES
    assert decode(encode(post), NOW) == post
    assert "\0" not in f"{post.text}{post.id}{post.author}{post.topics}"


# What sources send.

rules_of_x = st.lists(fields(tag=st.just("moodstream:trains"), id=st.just("1")), max_size=3)
x_lines = fields(
    data=fields(
        id=st.just("17"),
        text=any_text,
        note_tweet=fields(text=any_text),
        created_at=moments,
        lang=st.just("en"),
        author_id=st.just("2"),
    ),
    matching_rules=rules_of_x,
    errors=any_json,
)


def queued(source: X) -> Iterator[Post]:
    while not source._queue.empty():
        yield source._queue.get_nowait()


@pytest.fixture(scope="module")
def x(tmp_path_factory: pytest.TempPathFactory) -> X:
    xs = XSettings(bearer_token="of the test")  # type: ignore[arg-type]  # noqa: S106 - of the test
    state = tmp_path_factory.mktemp("x")
    return X(xs, TopicMatcher(["trains"]), AuthorHash(b"key"), state, 10)


@given(x_lines.map(dumped) | st.binary())
@example(b"[" * 100_000)
@BOUNDED
def test_no_line_of_x_ends_its_stream(x: X, line: bytes) -> None:
    assert x._take(line) is True
    for post in queued(x):
        assert encode(post)


@given(x_lines)
@BOUNDED
def test_what_x_sends_and_we_publish_is_what_the_consumer_takes(x: X, line: dict[str, Any]) -> None:
    x._take(dumped(line))

    for post in queued(x):
        published = decode(encode(post), post.created_at)
        assert (published.text, published.topics) == (post.text, ("trains",))


jetstream = fields(
    did=st.just("did:plc:1"),
    kind=st.just("commit"),
    commit=fields(
        operation=st.just("create"),
        collection=st.just("app.bsky.feed.post"),
        rkey=st.just("3k"),
        record=fields(text=any_text, langs=st.lists(st.just("en")), createdAt=moments),
    ),
)


@pytest.fixture(scope="module")
def bluesky(tmp_path_factory: pytest.TempPathFactory) -> Bluesky:
    state = tmp_path_factory.mktemp("bluesky")
    return Bluesky(BlueskySettings(), TopicMatcher(()), AuthorHash(b"key"), state, 10)


times = st.none() | st.integers(-(10**18), 10**18) | st.integers(0, 2 * 10**15) | any_text


@given(
    st.tuples(jetstream, times).map(lambda both: dumped(both[0] | {"time_us": both[1]}))
    | st.binary()
)
@example(b"[" * 100_000)
@settings(BOUNDED, max_examples=400)
def test_no_message_of_jetstream_ends_its_stream(bluesky: Bluesky, message: bytes) -> None:
    with suppress(BadPostError):
        post = bluesky._event(message).post
        assert post is None or encode(post)


@pytest.mark.parametrize("time_us", ["1e400", "1e300", "1" * 30, "1" * 400])
def test_a_time_that_no_clock_has_does_not_end_jetstreams_stream(
    bluesky: Bluesky, time_us: str
) -> None:
    record = '"record": {"text": "hi"}, "operation": "create", "collection": "app.bsky.feed.post"'
    commit = f'"kind": "commit", "did": "d", "commit": {{{record}, "rkey": "3k"}}'

    with pytest.raises(BadPostError):
        bluesky._event(f'{{"time_us": {time_us}, {commit}}}')


@given(st.text() | moments, st.integers(10**15, 17 * 10**14))
@settings(BOUNDED, max_examples=400)
def test_what_bluesky_sends_and_we_publish_is_what_the_consumer_takes(
    bluesky: Bluesky, claimed: str, time_us: int
) -> None:
    record = {"text": "hi", "createdAt": claimed}
    commit = {"operation": "create", "collection": "app.bsky.feed.post", "rkey": "3k"}
    event = {
        "did": "d",
        "time_us": time_us,
        "kind": "commit",
        "commit": commit | {"record": record},
    }

    post = bluesky._event(dumped(event)).post

    assert post is not None
    published = decode(encode(post), datetime.now(UTC))
    assert published.created_at == post.created_at


rows_of_files = fields(
    text=any_text,
    id=any_text,
    topics=any_text | st.lists(any_text),
    language=any_text,
    created_at=moments,
    author=any_text,
    schema=st.just(1),
)


def lines_of(rows: list[dict[str, Any]]) -> bytes:
    return b"\n".join(dumped(row) for row in rows)


def table_of(rows: list[dict[str, Any]]) -> bytes:
    written = io.StringIO()
    writer = csv.DictWriter(written, ["text", "id", "topics", "language", "created_at", "author"])
    writer.writeheader()
    for row in rows:
        writer.writerow({name: row.get(name) for name in writer.fieldnames})
    return written.getvalue().encode(errors="surrogatepass")


some_rows = st.lists(rows_of_files, max_size=4)


@given(
    some_rows.map(lines_of)
    | some_rows.map(lines_of).map(lambda lines: b'{"text": "first"}\n' + lines)
    | some_rows.map(table_of)
    | st.binary().filter(lambda content: b"{" not in content)
    | st.binary().map(lambda content: b"text,id\n" + content)
)
@settings(BOUNDED, max_examples=400)
def test_a_file_of_anything_gives_posts_or_says_what_is_wrong_with_it(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "replayed"
    path.write_bytes(content)
    replay = Replay(ReplaySettings(path=str(path)), TopicMatcher(()), AuthorHash(b"key"))

    with suppress(SettingsError):
        for post in replay.posts(lambda: True):
            assert encode(post)


def test_a_json_line_that_is_no_utf8_is_skipped_and_the_next_one_read(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "caf\xe9"}\n{"text": "three"}\n')
    replay = Replay(ReplaySettings(path=str(path)), TopicMatcher(()), AuthorHash(b"key"))

    assert [post.text for post in replay.posts(lambda: True)] == ["one", "three"]


# What clients of the predictor and the dashboard send.

tensors = fields(
    name=st.just("text"),
    datatype=st.just("BYTES"),
    shape=st.lists(st.integers(0, 3), max_size=2),
    data=st.lists(any_text | any_json, max_size=3),
    parameters=any_json,
)
v2_bodies = fields(
    id=any_text, inputs=st.lists(tensors, max_size=2), outputs=st.lists(fields(name=any_text))
)
v1_bodies = fields(instances=st.lists(any_text | fields(text=any_text), max_size=3))


@pytest.mark.parametrize("parse", [protocol.parse_v1, protocol.parse_v2])
@given(body=(v1_bodies | v2_bodies | any_json).map(dumped) | st.binary())
@example(body=b"[" * 100_000)
@settings(BOUNDED, max_examples=300)
def test_a_predictors_body_is_a_request_within_its_limits_or_refused(
    parse: Callable[[bytes], protocol.Request], body: bytes
) -> None:
    try:
        request = parse(body)
    except protocol.BadRequestError as refused:
        str(refused).encode()  # it is what the client is told
        return

    assert 1 <= len(request.texts) <= MAX_TEXTS_PER_REQUEST
    assert all(type(text) is str and len(text) <= MAX_TEXT_CHARS for text in request.texts)
    assert set(request.outputs) <= set(protocol.OUTPUTS)


rules = fields(
    name=st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    kind=st.sampled_from(
        ["level", "change", "volume", "negative_share", "keyword", "silence", "model"]
    ),
    topic=any_text,
    threshold=st.floats(),
    release=st.floats(),
    direction=st.sampled_from(["below", "above"]),
    window_minutes=st.integers(),
    min_posts=st.integers(),
    keyword=any_text,
    states=st.lists(st.just("refused")),
    cooldown_minutes=st.integers(),
    quiet=fields(start=st.just("22:00"), end=st.just("07:00"), zone=any_text),
    channels=st.lists(any_text, max_size=3),
    enabled=st.booleans(),
)


@given(rules.map(dumped) | st.binary())
@settings(BOUNDED, max_examples=400)
def test_a_rule_is_one_that_is_kept_as_it_is_or_refused(body: bytes) -> None:
    try:
        rule = Rule.model_validate_json(body)
    except ValidationError:
        return

    assert Rule.model_validate(orjson.loads(orjson.dumps(rule.model_dump(mode="json")))) == rule
    assert read_yaml(write_yaml([rule])) == [rule]
    assert "\0" not in repr(rule.model_dump())


YAML_PIECES = [
    "rules:", "channels:", " ", "  ", "\n", "- ", "[", "]", "{", "}", "name: a", "threshold: 1",
    "kind: level", ",", "? ", ": ", "&a ", "*a", "<<: ", "!!set ", "!!omap ", "!!binary ", "'", '"',
    "\\ud800", "1_000", "0x", ".inf", "~", "%YAML 1.1", "---", "...", "#", "\t", "\0", ">",
]  # fmt: skip
yaml_pieces = st.lists(st.sampled_from(YAML_PIECES), max_size=14).map("".join)


@given(yaml_pieces | rules.map(lambda rule: yaml.safe_dump({"rules": [rule]})) | st.text())
@settings(BOUNDED, max_examples=600)
def test_yaml_gives_rules_or_says_what_is_wrong_with_them(text: str) -> None:
    try:
        found = read_yaml(text)
    except RulesError as refused:
        str(refused).encode()  # it is what the editor is told
        return

    assert read_yaml(write_yaml(found)) == found


YAML_THAT_BREAKS = {
    "an integer that is none": "rules: [!!int foo]",
    "a date that is none": "rules: [2001-99-99]",
    "a timestamp that is none": "rules: [!!timestamp foo]",
    "a truth that is none": "rules: [!!bool foo]",
    "a number of 5,000 digits": f"rules: [{'1' * 5_000}]",
    "lists in lists": "[" * 3_000,
    "a name that no answer can hold": 'rules: [{name: "\\ud800"}]',
}


@pytest.mark.parametrize("text", YAML_THAT_BREAKS.values(), ids=YAML_THAT_BREAKS.keys())
def test_yaml_that_its_library_stumbles_over_is_refused(text: str) -> None:
    with pytest.raises(RulesError) as refused:
        read_yaml(text)

    assert str(refused.value).encode()


channels = st.dictionaries(
    any_text, fields(webhook=any_text, apprise=any_text, secret=any_text), max_size=3
)


@given(
    channels.map(lambda found: yaml.safe_dump({"channels": found}).encode())
    | yaml_pieces.map(str.encode)
    | st.binary()
)
@settings(BOUNDED, max_examples=300)
def test_a_file_of_channels_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "channels.yaml"
    path.write_bytes(content)

    with suppress(SettingsError):
        assert all(isinstance(channel, Channel) for channel in read_channels(path).values())


corrections = st.lists(
    st.tuples(any_text, any_text, any_text | st.sampled_from(["negative", "positive"])), max_size=4
)


def corrections_file(rows: list[tuple[str, ...]]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerows([("source", "id", "label"), *rows])
    return written.getvalue().encode(errors="surrogatepass")


@given(
    corrections.map(corrections_file)
    | st.binary().map(lambda content: b"source,id,label\n" + content)
    | st.binary()
)
@settings(BOUNDED, max_examples=300)
def test_a_file_of_corrections_goes_to_the_database_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "corrections.csv"
    path.write_bytes(content)
    nowhere = PostgresSettings(host="127.0.0.1", port=CLOSED)

    with pytest.raises((BadCorrectionsError, TemporaryError)):
        correct(nowhere, path, "Ada")


CLOSED = free_port()


def cursor_of(place: Any) -> str:
    return base64.urlsafe_b64encode(dumped(place)).decode().rstrip("=")


@pytest.fixture(scope="module")
def reader(warehouse: PostgresHandle) -> Reader:
    return Reader(warehouse.settings)


@given(
    st.tuples(moments | any_json, any_json | any_text, any_json | any_text).map(cursor_of)
    | any_json.map(cursor_of)
    | st.text()
)
@settings(BOUNDED, max_examples=300)
def test_a_cursor_of_anything_is_a_place_or_refused(reader: Reader, cursor: str) -> None:
    with suppress(BadRequestError):
        assert posts(reader, Filters(), "newest", cursor, 1).posts is not None


@pytest.mark.parametrize(
    "offset",
    [
        *["+16:00", "-16:00", "+23:59", "+01:02:03.5"],
        "+01:02:03",
    ],
)
def test_a_cursor_with_an_offset_that_postgresql_has_not_is_a_place_or_refused(
    reader: Reader, offset: str
) -> None:
    with suppress(BadRequestError):
        posts(reader, Filters(), "newest", cursor_of([f"2026-03-01T00:00:00{offset}", "a", "b"]), 1)


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.mark.parametrize("named", ["x/\0", "x/\ud800"])
def test_a_deletion_notice_of_what_no_post_can_be_called_is_refused(
    warehouse: PostgresHandle, named: str
) -> None:
    with pytest.raises(SettingsError):
        notice(warehouse.settings, [named])


@given(st.lists(words | st.tuples(words, words).map("/".join), max_size=3))
@BOUNDED
def test_a_deletion_notice_names_a_post_or_is_refused(
    warehouse: PostgresHandle, named: list[str]
) -> None:
    with suppress(SettingsError):
        assert notice(warehouse.settings, named) <= len(named)
