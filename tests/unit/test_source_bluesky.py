"""Jetstream over a real websocket, with its faults: nothing lost, the cursor never ahead."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from services.core.errors import SettingsError
from services.core.events import Post
from services.producer.metrics import totals
from services.producer.settings import BlueskySettings
from services.producer.sources import AuthorHash, TopicMatcher
from services.producer.sources.bluesky import Bluesky, Timing

BASE_US = int(datetime(2026, 11, 15, 12, tzinfo=UTC).timestamp() * 1e6)
SECOND_US = 1_000_000
OVERLAP_US = 5 * SECOND_US
QUICK = Timing(silence=1.0, first_retry=0.01, most_retry=0.02)
DEADLINE_SECONDS = 20.0


def event(number: int, *, commit: dict[str, Any] | None = None, **record: Any) -> str:
    """The post `number`, created `number` seconds after noon."""
    return json.dumps(
        {
            "did": f"did:plc:{number}",
            "time_us": BASE_US + number * SECOND_US,
            "kind": "commit",
            "commit": {
                "rev": "r",
                "operation": "create",
                "collection": "app.bsky.feed.post",
                "rkey": f"3k{number:04}",
                "record": {
                    "$type": "app.bsky.feed.post",
                    "createdAt": "2026-11-15T11:59:59.5Z",
                    "langs": ["en-US", "de"],
                    "text": f"text {number}",
                    **record,
                },
                "cid": "c",
                **(commit or {}),
            },
        }
    )


Script = Callable[[ServerConnection], None]


class FakeJetstream:
    """Scripted connections; the last script repeats."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.queries: list[dict[str, list[str]]] = []
        self.finished = threading.Event()
        self._server: Server = serve(self._serve, "127.0.0.1", 0)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/subscribe"

    @property
    def cursors(self) -> list[int | None]:
        """The cursor of each connection."""
        given = [query.get("cursor") for query in self.queries]
        return [int(values[0]) if values else None for values in given]

    def hold(self, *messages: str | bytes) -> Script:
        """Sends the messages and stays silent."""

        def run(socket: ServerConnection) -> None:
            for message in messages:
                socket.send(message)
            self.finished.wait(DEADLINE_SECONDS)

        return run

    def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        number = len(self.queries)
        self.queries.append(parse_qs(urlparse(socket.request.path).query))
        try:
            self.scripts[min(number, len(self.scripts) - 1)](socket)
        except ConnectionClosed:
            return

    def __enter__(self) -> "FakeJetstream":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.finished.set()
        self._server.shutdown()
        self._thread.join()


@pytest.fixture(name="fake")
def _fake() -> Iterator[FakeJetstream]:
    with FakeJetstream() as fake:
        yield fake


def source(
    fake: FakeJetstream,
    state_dir: Path,
    *topics: str,
    languages: tuple[str, ...] = (),
    queue_posts: int = 100,
) -> Bluesky:
    return Bluesky(
        BlueskySettings(url=fake.url, languages=languages),
        TopicMatcher(topics),
        AuthorHash(b"key"),
        state_dir,
        queue_posts,
        QUICK,
    )


def until(done: Callable[[], bool]) -> Callable[[], bool]:
    """A `running` that says stop once `done`, and fails the test at the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS

    def running() -> bool:
        assert time.monotonic() < deadline, "nothing happened before the deadline"
        return not done()

    return running


def take(count: int, stream: Bluesky) -> list[Post]:
    """The next posts; then the source is left as a stop leaves it."""
    posts: list[Post] = []
    for post in stream.posts(until(lambda: len(posts) >= count)):
        posts.append(post)
    return posts


def texts(posts: list[Post]) -> list[str]:
    return [post.text for post in posts]


def cursor(state_dir: Path) -> int | None:
    """What is on disk, in seconds after noon."""
    path = state_dir / "bluesky-cursor"
    return (int(path.read_text()) - BASE_US) // SECOND_US if path.exists() else None


def test_a_new_post_comes_with_its_own_id_time_language_and_hashed_author(
    fake: FakeJetstream, tmp_path: Path
) -> None:
    fake.scripts = [fake.hold(event(1))]
    stream = source(fake, tmp_path)

    posts = take(1, stream)

    assert posts == [
        Post(
            source="bluesky",
            id="3k0001@did:plc:1",
            text="text 1",
            language="en",
            created_at=datetime(2026, 11, 15, 11, 59, 59, 500_000, tzinfo=UTC),
            author=AuthorHash(b"key")("bluesky", "did:plc:1"),
        )
    ]
    assert fake.queries == [{"wantedCollections": ["app.bsky.feed.post"]}]
    assert stream.unready() is None


@pytest.mark.parametrize(
    "other",
    [
        json.dumps({"did": "d", "time_us": BASE_US, "kind": "identity", "identity": {}}),
        json.dumps({"did": "d", "time_us": BASE_US, "kind": "account", "account": {}}),
        event(1, commit={"operation": "update"}),
        json.dumps(
            {
                "did": "d",
                "time_us": BASE_US,
                "kind": "commit",
                "commit": {"operation": "delete", "collection": "app.bsky.feed.post"},
            }
        ),
        event(1, commit={"collection": "app.bsky.feed.like"}),
        event(1, text=" "),
    ],
)
def test_what_is_no_new_post_with_a_text_is_passed_over(
    fake: FakeJetstream, tmp_path: Path, other: str
) -> None:
    before = totals()["refused"]
    fake.scripts = [fake.hold(other, event(2))]

    assert texts(take(1, source(fake, tmp_path))) == ["text 2"]
    assert totals()["refused"] == before


@pytest.mark.parametrize(
    "bad",
    [
        "<html>",
        "[]",
        "5",
        '{"kind": "commit"}',
        '{"time_us": "x", "kind": "commit"}',
        '{"time_us": 1, "kind": "commit", "commit": 5}',
        '{"a":' + "[" * 5000,
        b"\xff\xfe",
        event(1, text=None),
        event(1, text="x" * 10_001),
        event(1, text="nul \0"),
        event(1, langs=5),
        event(1, commit={"record": None}),
    ],
)
def test_a_malformed_message_is_counted_and_the_stream_goes_on(
    fake: FakeJetstream, tmp_path: Path, bad: str | bytes
) -> None:
    before = totals()["refused"]
    fake.scripts = [fake.hold(bad, event(2))]

    assert texts(take(1, source(fake, tmp_path))) == ["text 2"]
    assert totals()["refused"] - before == 1
    assert len(fake.queries) == 1


@pytest.mark.parametrize(
    "claimed", ["soon", "", None, "1970-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "2026-11-15"]
)
def test_a_wrong_clock_is_replaced_by_jetstreams(
    fake: FakeJetstream, tmp_path: Path, claimed: str | None
) -> None:
    fake.scripts = [fake.hold(event(1, createdAt=claimed))]

    (post,) = take(1, source(fake, tmp_path))

    assert post.created_at == datetime(2026, 11, 15, 12, 0, 1, tzinfo=UTC)


def test_only_followed_topics_and_languages_are_kept(fake: FakeJetstream, tmp_path: Path) -> None:
    fake.scripts = [
        fake.hold(
            event(1, text="tea"),
            event(2, text="Tee und tea", langs=["de"]),
            event(3, text="milk"),
            event(4, text="Coffee, tea", langs=[]),
            event(5, text="Coffee, tea"),
        )
    ]

    posts = take(2, source(fake, tmp_path, "tea", "coffee", languages=("en",)))

    assert [(post.text, post.topics) for post in posts] == [
        ("tea", ("tea",)),
        ("Coffee, tea", ("tea", "coffee")),
    ]


def test_a_lost_connection_is_resumed_a_little_before_the_last_event(
    fake: FakeJetstream, tmp_path: Path
) -> None:
    def drop(socket: ServerConnection) -> None:
        socket.send(event(1))
        socket.send(event(2))
        socket.close()

    fake.scripts = [drop, fake.hold(event(3))]

    posts = take(3, source(fake, tmp_path))

    assert texts(posts) == ["text 1", "text 2", "text 3"]
    assert fake.cursors == [None, BASE_US + 2 * SECOND_US - OVERLAP_US]


def test_a_silent_connection_is_left(fake: FakeJetstream, tmp_path: Path) -> None:
    fake.scripts = [fake.hold(event(1)), fake.hold(event(2))]

    posts = take(2, source(fake, tmp_path))

    assert texts(posts) == ["text 1", "text 2"]


def test_an_absent_server_is_tried_again_and_named(tmp_path: Path) -> None:
    with FakeJetstream() as fake:
        gone = source(fake, tmp_path)

    posts = list(gone.posts(until(lambda: "Jetstream" in str(gone.unready()))))

    assert posts == []


def test_the_cursor_on_disk_never_passes_what_kafka_holds(
    fake: FakeJetstream, tmp_path: Path
) -> None:
    fake.scripts = [fake.hold(event(1), event(2), event(3))]
    stream = source(fake, tmp_path)
    take(3, stream)

    seen = [cursor(tmp_path)]
    stream.acknowledged(1)
    seen.append(cursor(tmp_path))
    stream.acknowledged(2)
    seen.append(cursor(tmp_path))

    assert seen == [None, 1, 3]


def test_a_restart_resumes_from_the_cursor_on_disk(fake: FakeJetstream, tmp_path: Path) -> None:
    fake.scripts = [fake.hold(event(1), event(2)), fake.hold(event(3))]
    first = source(fake, tmp_path)
    take(2, first)
    first.acknowledged(1)

    take(1, source(fake, tmp_path))

    assert fake.cursors == [None, BASE_US + SECOND_US - OVERLAP_US]


def test_the_cursor_moves_on_though_no_post_is_wanted(fake: FakeJetstream, tmp_path: Path) -> None:
    fake.scripts = [fake.hold(*(event(number) for number in range(1, 9)))]
    stream = source(fake, tmp_path, "unheard-of")

    list(stream.posts(until(lambda: cursor(tmp_path) is not None)))

    assert (cursor(tmp_path) or 0) >= 1


def test_unwanted_posts_move_the_cursor_only_behind_acknowledged_ones(
    fake: FakeJetstream, tmp_path: Path
) -> None:
    fake.scripts = [fake.hold(event(1, text="tea"), event(3), event(5, text="tea"))]
    stream = source(fake, tmp_path, "tea")
    take(2, stream)
    before = cursor(tmp_path)

    stream.acknowledged(1)

    assert (before, cursor(tmp_path)) == (None, 3)


def test_a_reader_waits_for_kafka_and_loses_nothing(fake: FakeJetstream, tmp_path: Path) -> None:
    before = totals()["dropped"]
    fake.scripts = [fake.hold(*(event(number) for number in range(50)))]
    stream = source(fake, tmp_path, queue_posts=2)

    posts = take(50, stream)

    assert texts(posts) == [f"text {number}" for number in range(50)]
    assert totals()["dropped"] == before


def test_an_unreadable_cursor_starts_live(fake: FakeJetstream, tmp_path: Path) -> None:
    (tmp_path / "bluesky-cursor").write_text("garbage")
    fake.scripts = [fake.hold(event(1))]

    take(1, source(fake, tmp_path))

    assert fake.cursors == [None]


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")

    with pytest.raises(SettingsError, match="MOODSTREAM_BLUESKY_URL"):
        Bluesky(BlueskySettings(url="http://x"), TopicMatcher(()), AuthorHash(b""), tmp_path, 1)
    with pytest.raises(SettingsError, match="MOODSTREAM_PRODUCER_STATE_DIR"):
        Bluesky(BlueskySettings(), TopicMatcher(()), AuthorHash(b""), file / "below", 1)
