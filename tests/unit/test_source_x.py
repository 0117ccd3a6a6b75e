"""The real Tweepy client against a server that speaks the filtered stream's protocol, with its
faults.
"""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from services.core.errors import SettingsError
from services.core.events import Post
from services.producer.metrics import totals
from services.producer.settings import XSettings
from services.producer.sources import AuthorHash, TopicMatcher
from services.producer.sources.x import Timing, X, XError
from tests.waiting import wait_until

NOW = datetime(2026, 11, 15, tzinfo=UTC)
QUICK = Timing(
    silence=1.0,
    first_network=0.01,
    most_network=0.02,
    first_http=0.01,
    most_http=0.02,
    first_429=0.02,
    budget_check=0.01,
)
DEADLINE_SECONDS = 20.0


def line(number: int, *, tag: str = "moodstream:coffee", **data: Any) -> bytes:
    tweet = {
        "id": str(number),
        "text": f"coffee {number}",
        "lang": "en",
        "author_id": "42",
        "created_at": "2026-11-15T10:00:00.000Z",
        **data,
    }
    return json.dumps({"data": tweet, "matching_rules": [{"id": "1", "tag": tag}]}).encode()


class Connection:
    """What the server can do on one stream connection."""

    def __init__(self, handler: BaseHTTPRequestHandler, finished: threading.Event) -> None:
        self._handler = handler
        self._finished = finished

    def status(self, code: int, body: str = "{}", **headers: str) -> None:
        """Answers without a stream."""
        self._handler.send_response(code)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.send_header("Content-Length", str(len(body)))
        self._handler.end_headers()
        self._handler.wfile.write(body.encode())

    def open(self) -> None:
        """Starts a stream."""
        self._handler.send_response(200)
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()

    def send(self, *lines: bytes) -> None:
        """One chunk for each line; b"" is a keep-alive."""
        for content in lines:
            chunk = content + b"\r\n"
            self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))

    def close_cleanly(self) -> None:
        """The end of the chunked body, as X does on its restarts."""
        self._handler.wfile.write(b"0\r\n\r\n")

    def hang(self) -> None:
        """Half-open: neither a byte nor an end."""
        self._finished.wait()


Script = Callable[[Connection], None]


class FakeX:
    """Rules and scripted stream connections; the last script repeats."""

    def __init__(self) -> None:
        self.rules: list[dict[str, str]] = []
        self.rule_errors: list[dict[str, str]] = []
        self.rules_status = 200
        self.scripts: list[Script] = []
        self.connects: list[float] = []
        self.paths: list[str] = []
        self.tokens: set[str | None] = set()
        self._ids = itertools.count(1)
        self._finished = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.paths.append(self.path)
                fake.tokens.add(self.headers["Authorization"])
                connection = Connection(self, fake._finished)
                if "/rules" in self.path:
                    answer = {"data": fake.rules} if fake.rules else {"meta": {}}
                    connection.status(fake.rules_status, json.dumps(answer))
                    return
                number = len(fake.connects)
                fake.connects.append(time.monotonic())
                self.close_connection = True
                fake.scripts[min(number, len(fake.scripts) - 1)](connection)

            def do_POST(self) -> None:
                change = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.change_rules(change)
                answer = {"errors": fake.rule_errors} if fake.rule_errors else {"meta": {}}
                Connection(self, fake._finished).status(201, json.dumps(answer))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that goes away is part of most tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def change_rules(self, change: dict[str, Any]) -> None:
        for rule in change.get("add", ()):
            self.rules.append({**rule, "id": str(next(self._ids))})
        gone = change.get("delete", {}).get("ids", ())
        self.rules = [rule for rule in self.rules if rule["id"] not in gone]

    def __enter__(self) -> "FakeX":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        # A source under test goes on reconnecting in its daemon thread; it finds nobody.
        self._finished.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(name="fake")
def _fake() -> Iterator[FakeX]:
    with FakeX() as fake:
        yield fake


def source(
    fake: FakeX,
    state_dir: Path,
    *,
    topics: tuple[str, ...] = ("coffee",),
    budget: int = 1000,
    queue_posts: int = 100,
    timing: Timing = QUICK,
    now: Callable[[], datetime] = lambda: NOW,
) -> X:
    settings = XSettings(bearer_token=SecretStr("secret"), url=fake.url, monthly_read_budget=budget)
    return X(
        settings,
        TopicMatcher(topics),
        AuthorHash(b"key"),
        state_dir,
        queue_posts,
        timing,
        now,
    )


def until(done: Callable[[], bool]) -> Callable[[], bool]:
    """A `running` that says stop once `done`, and fails the test at the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS

    def running() -> bool:
        assert time.monotonic() < deadline, "nothing happened before the deadline"
        return not done()

    return running


def take(count: int, stream: X) -> list[Post]:
    """The next posts; then the source is left as a stop leaves it."""
    posts: list[Post] = []
    iterator = stream.posts(until(lambda: len(posts) >= count))
    for post in iterator:
        posts.append(post)
    return posts


def opened(*lines: bytes) -> Script:
    """Sends the lines and then only keep-alives, as a healthy stream does."""

    def run(connection: Connection) -> None:
        connection.open()
        connection.send(*lines)
        while not connection._finished.wait(0.1):
            connection.send(b"")

    return run


def test_a_matched_post_comes_with_text_topic_time_language_and_hashed_author(
    fake: FakeX, tmp_path: Path
) -> None:
    fake.scripts = [opened(line(1))]
    stream = source(fake, tmp_path)

    posts = take(1, stream)

    assert posts == [
        Post(
            source="x",
            id="1",
            text="coffee 1",
            language="en",
            created_at=datetime(2026, 11, 15, 10, tzinfo=UTC),
            author=AuthorHash(b"key")("x", "42"),
            topics=("coffee",),
        )
    ]
    assert fake.tokens == {"Bearer secret"}
    assert any("tweet.fields=created_at" in path for path in fake.paths)
    assert stream.unready() is None


def test_a_long_post_comes_whole_and_an_undetermined_language_as_none(
    fake: FakeX, tmp_path: Path
) -> None:
    fake.scripts = [opened(line(1, lang="und", note_tweet={"text": "all of it"}))]

    (post,) = take(1, source(fake, tmp_path))

    assert (post.text, post.language) == ("all of it", None)


def test_rules_are_kept_in_step_and_foreign_rules_left_alone(fake: FakeX, tmp_path: Path) -> None:
    fake.change_rules(
        {
            "add": [
                {"value": '"tea" -is:retweet', "tag": "moodstream:tea"},
                {"value": "old syntax", "tag": "moodstream:coffee"},
                {"value": '"milk" -is:retweet', "tag": "moodstream:milk"},
                {"value": "theirs", "tag": "someone"},
                {"value": "untagged"},
            ]
        }
    )
    fake.scripts = [opened(line(1))]

    take(1, source(fake, tmp_path, topics=("coffee", "tea", 'new "york"')))

    assert sorted((rule["value"], rule.get("tag")) for rule in fake.rules) == [
        ('"coffee" -is:retweet', "moodstream:coffee"),
        ('"new  york " -is:retweet', 'moodstream:new "york"'),
        ('"tea" -is:retweet', "moodstream:tea"),
        ("theirs", "someone"),
        ("untagged", None),
    ]


def test_posts_for_foreign_rules_are_paid_for_but_not_published(
    fake: FakeX, tmp_path: Path
) -> None:
    fake.scripts = [opened(line(1, tag="someone"), line(2))]

    posts = take(1, source(fake, tmp_path))

    assert [post.id for post in posts] == ["2"]
    assert json.loads((tmp_path / "x-read-budget.json").read_text())["posts"] == 2


def test_a_refused_rule_ends_the_source_with_the_reason(fake: FakeX, tmp_path: Path) -> None:
    fake.rule_errors = [{"title": "UnprocessableEntity", "value": "coffee"}]

    with pytest.raises(XError, match=r"MOODSTREAM_PRODUCER_TOPICS.*UnprocessableEntity"):
        take(1, source(fake, tmp_path))


def test_after_clean_closes_it_comes_back_but_not_in_a_hot_loop(
    fake: FakeX, tmp_path: Path
) -> None:
    def close(connection: Connection) -> None:
        connection.open()
        connection.close_cleanly()

    timing = Timing(first_network=0.05, most_network=0.2)
    fake.scripts = [close, close, close, close, opened(line(1))]

    posts = take(1, source(fake, tmp_path, timing=timing))

    gaps = [after - before for before, after in itertools.pairwise(fake.connects)]
    assert [post.id for post in posts] == ["1"]
    assert all(gap >= least for gap, least in zip(gaps, (0.037, 0.075, 0.15, 0.15), strict=True))


def test_a_dropped_connection_is_opened_again(fake: FakeX, tmp_path: Path) -> None:
    def drop(connection: Connection) -> None:
        connection.open()
        connection.send(line(1))

    fake.scripts = [drop, opened(line(2))]

    posts = take(2, source(fake, tmp_path))

    assert [post.id for post in posts] == ["1", "2"]


def test_a_half_open_connection_is_left_after_the_silence(fake: FakeX, tmp_path: Path) -> None:
    def half_open(connection: Connection) -> None:
        connection.open()
        connection.send(line(1))
        connection.hang()

    fake.scripts = [half_open, opened(line(2))]

    posts = take(2, source(fake, tmp_path))

    assert [post.id for post in posts] == ["1", "2"]
    assert fake.connects[1] - fake.connects[0] >= QUICK.silence


def test_keep_alives_hold_a_quiet_connection(fake: FakeX, tmp_path: Path) -> None:
    def quiet(connection: Connection) -> None:
        connection.open()
        for _ in range(10):
            connection.send(b"")
            connection._finished.wait(0.2)
        connection.send(line(1))
        connection.hang()

    fake.scripts = [quiet]

    take(1, source(fake, tmp_path))

    assert len(fake.connects) == 1


@pytest.mark.parametrize(
    "bad",
    [
        b"<html><body>502 Bad Gateway</body></html>",
        b"[]",
        b'{"data": {"id": "9"}, "matching_rules": [{"tag": "moodstream:coffee"}]}',
        b'{"data": 5, "matching_rules": [{"tag": "moodstream:coffee"}]}',
        b'{"data": {}, "matching_rules": 7}',
        b"\xff\xfe",
        b'{"data":' + b"[" * 5000,
        line(9, text="x" * 10_001),
        line(9, created_at="yesterday"),
        line(9, note_tweet=None),
    ],
)
def test_a_line_that_is_no_post_is_counted_and_the_stream_goes_on(
    fake: FakeX, tmp_path: Path, bad: bytes
) -> None:
    before = totals()["refused"]
    fake.scripts = [opened(bad, line(1))]

    posts = take(1, source(fake, tmp_path))

    assert [post.id for post in posts] == ["1"]
    assert len(fake.connects) == 1
    assert totals()["refused"] - before == 1


def test_a_notice_from_x_is_no_post_and_costs_nothing(fake: FakeX, tmp_path: Path) -> None:
    notice = b'{"errors": [{"title": "operational-disconnect"}]}'
    fake.scripts = [opened(notice, line(1))]

    posts = take(1, source(fake, tmp_path))

    assert [post.id for post in posts] == ["1"]
    assert json.loads((tmp_path / "x-read-budget.json").read_text())["posts"] == 1


def test_duplicates_keep_one_name_so_that_the_warehouse_can_tell(
    fake: FakeX, tmp_path: Path
) -> None:
    fake.scripts = [opened(line(1), line(1))]

    first, second = take(2, source(fake, tmp_path))

    assert first.key == second.key == b"x/1"


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "MOODSTREAM_X_BEARER_TOKEN"), (403, "developer console")],
)
@pytest.mark.parametrize("where", ["rules", "stream"])
def test_a_refused_token_or_app_ends_the_source_saying_what_to_do(
    fake: FakeX, tmp_path: Path, status: int, advice: str, where: str
) -> None:
    fake.rules_status = status if where == "rules" else 200
    fake.scripts = [lambda connection: connection.status(status, '{"detail": "because"}')]

    with pytest.raises(XError, match=advice):
        take(1, source(fake, tmp_path))


def test_a_rate_limit_is_waited_out_until_the_time_that_x_names(
    fake: FakeX, tmp_path: Path
) -> None:
    reset = int(time.time()) + 3

    def limited(connection: Connection) -> None:
        connection.status(429, x_rate_limit_reset=str(reset))

    fake.scripts = [limited, opened(line(1))]

    take(1, source(fake, tmp_path, now=lambda: datetime.now(UTC)))

    assert len(fake.connects) == 2
    assert fake.connects[1] - fake.connects[0] >= 0.9
    assert time.time() >= reset


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_tried_again_after_growing_waits(
    fake: FakeX, tmp_path: Path, status: int
) -> None:
    def busy(connection: Connection) -> None:
        connection.status(status)

    timing = Timing(first_http=0.05, most_http=0.4, first_429=0.05)
    fake.scripts = [busy, busy, busy, opened(line(1))]

    take(1, source(fake, tmp_path, timing=timing))

    gaps = [after - before for before, after in itertools.pairwise(fake.connects)]
    assert all(gap >= least for gap, least in zip(gaps, (0.037, 0.075, 0.15), strict=True))


def test_the_stream_stops_when_the_budget_is_used_up_and_says_why(
    fake: FakeX, tmp_path: Path
) -> None:
    fake.scripts = [opened(*(line(number) for number in range(10)))]
    stream = source(fake, tmp_path, budget=3)

    posts = list(stream.posts(until(lambda: "budget of 3" in str(stream.unready()))))

    assert [post.id for post in posts] == ["0", "1", "2"]
    assert len(fake.connects) == 1


def test_a_used_up_budget_outlives_the_process(fake: FakeX, tmp_path: Path) -> None:
    fake.scripts = [opened(line(1), line(2))]
    take(2, source(fake, tmp_path, budget=2))
    restarted = source(fake, tmp_path, budget=2)

    posts = list(restarted.posts(until(lambda: "budget of 2" in str(restarted.unready()))))

    assert posts == []
    assert len(fake.connects) == 1


def test_a_crash_forgets_no_post_that_was_paid_for(fake: FakeX, tmp_path: Path) -> None:
    fake.scripts = [opened(line(1), line(2))]
    crashed = source(fake, tmp_path).posts(until(lambda: False))
    next(crashed)
    next(crashed)

    recorded = json.loads((tmp_path / "x-read-budget.json").read_text())

    assert recorded["month"] == "2026-11"
    assert recorded["posts"] >= 2


def test_the_next_month_has_a_new_budget(fake: FakeX, tmp_path: Path) -> None:
    (tmp_path / "x-read-budget.json").write_text('{"month": "2026-11", "posts": 5}')
    fake.scripts = [opened(line(1))]
    today = [NOW]
    stream = source(fake, tmp_path, budget=5, now=lambda: today[0])

    list(stream.posts(until(lambda: "budget of 5" in str(stream.unready()))))
    today[0] = datetime(2026, 12, 1, tzinfo=UTC)
    posts = take(1, stream)

    assert [post.id for post in posts] == ["1"]


def test_a_budget_file_that_cannot_be_read_is_not_guessed_at(fake: FakeX, tmp_path: Path) -> None:
    (tmp_path / "x-read-budget.json").write_text("{")

    with pytest.raises(SettingsError, match="MOODSTREAM_PRODUCER_STATE_DIR"):
        source(fake, tmp_path)


def test_posts_beyond_the_queue_are_dropped_and_counted_not_waited_for(
    fake: FakeX, tmp_path: Path
) -> None:
    before = totals()
    fake.scripts = [opened(*(line(number) for number in range(20)), b"the end")]
    stopped = threading.Event()
    stream = source(fake, tmp_path, queue_posts=5).posts(until(stopped.is_set))

    posts = [next(stream)]
    wait_until(lambda: totals()["refused"] > before["refused"], DEADLINE_SECONDS)
    stopped.set()
    posts.extend(stream)

    # Whether the first one is taken before the queue is full is up to the scheduler; a sixth is
    # whichever came next.
    ids = [int(post.id) for post in posts]
    assert ids[:5] == [0, 1, 2, 3, 4]
    assert ids == sorted(set(ids))
    assert len(posts) in {5, 6}
    assert totals()["dropped"] - before["dropped"] == 20 - len(posts)


def test_the_token_is_in_no_log_at_any_level(
    fake: FakeX, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    fake.scripts = [lambda connection: connection.status(503), opened(line(1))]

    take(1, source(fake, tmp_path))

    assert "x.connected" in caplog.text
    assert "secret" not in caplog.text


def test_without_topics_there_is_nothing_to_ask_x_for(fake: FakeX, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MOODSTREAM_PRODUCER_TOPICS"):
        source(fake, tmp_path, topics=())
