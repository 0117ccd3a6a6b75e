"""A file as a stream: every format, the schedule, the loop, and rows that are no posts."""

import gzip
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.core.errors import SettingsError
from services.core.events import Post, encode
from services.producer.metrics import totals
from services.producer.settings import ReplaySettings
from services.producer.sources import AuthorHash, TopicMatcher
from services.producer.sources.replay import Replay, Timing

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CSV = "id,label,text,topic,language,created_at,author\n" + (
    '7,positive,"so, happy",coffee;tea,en-GB,2026-10-01T08:00:00,ann\n8,neutral,just a day,,,,\n'
)
HUMAN_RATED = Path(__file__).parents[3] / "shared" / "data" / "human_rated_posts.csv"


class Clock:
    """Time that only passes while someone sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def timing(self) -> Timing:
        return Timing(now=lambda: NOW, clock=lambda: self.seconds, sleep=self.sleep)


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "posts"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


Write = Callable[[str | bytes], Path]


def replay(path: Path | str, *topics: str, clock: Clock | None = None, **settings: Any) -> Replay:
    return Replay(
        ReplaySettings(path=str(path), **settings),
        TopicMatcher(topics),
        AuthorHash(b"key"),
        (clock or Clock()).timing(),
    )


def posts(source: Replay) -> list[Post]:
    return list(source.posts(lambda: True))


def first(count: int, source: Replay) -> list[Post]:
    stream = source.posts(lambda: True)
    return [next(stream) for _ in range(count)]


def refused_by(action: Callable[[], Any]) -> tuple[Any, int]:
    before = totals()["refused"]
    return action(), totals()["refused"] - before


def test_a_csv_row_becomes_a_post_with_all_that_the_file_says(write: Write) -> None:
    known, bare = posts(replay(write(CSV)))

    assert known == Post(
        source="replay",
        id="7",
        text="so, happy",
        language="en",
        created_at=datetime(2026, 10, 1, 8, tzinfo=UTC),
        author=AuthorHash(b"key")("replay", "ann"),
        topics=("coffee", "tea"),
    )
    assert bare == Post(source="replay", id="8", text="just a day", language="en", created_at=NOW)


def test_json_lines_say_the_same_as_csv(write: Write) -> None:
    rows = [
        {
            "id": 7,
            "text": "so, happy",
            "topics": ["coffee", "tea"],
            "language": "en-GB",
            "created_at": "2026-10-01T08:00:00Z",
            "author": "ann",
        },
        {"id": "8", "text": "just a day"},
    ]
    from_csv = posts(replay(write(CSV)))

    from_json = posts(replay(write("\n".join(json.dumps(row) for row in rows))))

    assert from_json == from_csv


def test_a_post_in_our_own_format_comes_through_unchanged(write: Write) -> None:
    original = Post(
        source="bluesky", id="3k@did", text="hi", created_at=NOW, author="ab", topics=("tea",)
    )

    assert posts(replay(write(encode(original)))) == [original]


@pytest.mark.parametrize("content", [CSV, '{"id": "7", "text": "hi"}\n{"id": "8", "text": "ho"}'])
def test_gzip_and_a_byte_order_mark_are_told_apart_by_content(write: Write, content: str) -> None:
    plain = posts(replay(write(content)))

    marked = posts(replay(write(b"\xef\xbb\xbf" + content.encode())))
    zipped = posts(replay(write(gzip.compress(content.encode()))))

    assert len(plain) == 2
    assert zipped == marked == plain


def test_standard_input_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, CSV.encode())
    os.close(writing)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)

        assert [post.id for post in posts(replay("-"))] == ["7", "8"]


def test_a_stop_ends_the_wait_for_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "w"):
        monkeypatch.setattr("sys.stdin", stdin)

        assert list(replay("-").posts(lambda: False)) == []


def test_rows_without_ids_get_the_same_ids_each_time_under_any_name(
    write: Write, tmp_path: Path
) -> None:
    path = write("text\nsame words\nsame words\nothers\n")
    before = [post.id for post in posts(replay(path))]

    again = [post.id for post in posts(replay(path.rename(tmp_path / "renamed")))]

    assert again == before
    assert len(set(before)) == 3


def test_each_pass_of_a_loop_is_new_posts_also_after_a_restart(write: Write) -> None:
    path = write(CSV)
    later = Clock()
    source = replay(path, loop=True)
    restarted = Replay(
        ReplaySettings(path=str(path), loop=True),
        TopicMatcher(()),
        AuthorHash(b"key"),
        Timing(now=lambda: NOW + timedelta(seconds=1), sleep=later.sleep),
    )

    # Five hundred passes within that second.
    ids = [post.id for post in first(1_000, source) + first(4, restarted)]

    assert len(set(ids)) == 1_004
    assert all(number.split("-")[0] in {"7", "8"} for number in ids)


def test_a_loop_over_nothing_usable_is_an_error_not_a_hot_loop(write: Write) -> None:
    with pytest.raises(SettingsError, match="no usable post"):
        posts(replay(write("text\n \n"), loop=True))


def test_posts_come_at_the_rate_evenly(write: Write) -> None:
    clock = Clock()
    source = replay(write("text\n" + "word\n" * 11), clock=clock, rate=4)

    times = [clock.seconds for _ in source.posts(lambda: True)]

    assert times == pytest.approx([number / 4 for number in range(11)])


def test_after_a_long_wait_for_kafka_posts_do_not_burst(write: Write) -> None:
    clock = Clock()
    stream = replay(write("text\n" + "word\n" * 20), clock=clock, rate=4).posts(lambda: True)
    next(stream)
    clock.seconds = 100.0

    times = [clock.seconds for _ in stream]

    assert sum(time <= 100.01 for time in times) <= 4


def test_a_stop_ends_a_wait_for_the_next_turn(write: Write) -> None:
    clock = Clock()
    answers = iter([True, False])
    source = replay(write("text\nfirst\nsecond\n"), clock=clock, rate=0.001)

    texts = [post.text for post in source.posts(lambda: next(answers))]

    assert texts == ["first"]
    assert clock.seconds < 1


POISON: list[tuple[str, str | bytes, int]] = [
    ("no text", "id,text\n1,good\n2,\n3,also good\n", 1),
    ("too few columns", "id,text\n1,good\n2\n3,also good\n", 1),
    ("invalid UTF-8", b"id,text\n1,good\n2,b\xffad\n3,also good\n", 1),
    ("a null character", "id,text\n1,good\n2,b\0ad\n3,also good\n", 1),
    ("a huge field", f"id,text\n1,good\n2,{'x' * 200_000}\n3,also good\n", 1),
    ("a long text", f"id,text\n1,good\n2,{'x' * 10_001}\n3,also good\n", 1),
    ("a wrong time", "id,text,created_at\n1,good,\n2,bad,soon\n3,also good,\n", 1),
    ("broken JSON", '{"text": "good"}\n{"text": \n{"text": "also good"}\n', 1),
    ("a JSON list", '{"text": "good"}\n["text"]\n{"text": "also good"}\n', 1),
    ("a JSON number as text", '{"text": "good"}\n{"text": 5}\n{"text": "also good"}\n', 1),
    ("a lone surrogate", '{"text": "good"}\n{"text": "\\ud800"}\n{"text": "also good"}\n', 1),
    ("deep JSON", '{"text": "good"}\n{"text":' + "[" * 10_000 + '\n{"text": "also good"}', 1),
    ("odd topics", '{"text": "good"}\n{"text": "b", "topics": 5}\n{"text": "also good"}', 1),
    ("our format, broken", '{"text": "good"}\n{"schema": 1}\n{"text": "also good"}\n', 1),
]


@pytest.mark.parametrize(
    ("content", "bad_rows"), [row[1:] for row in POISON], ids=[row[0] for row in POISON]
)
def test_a_row_that_is_no_post_is_counted_and_its_neighbours_come(
    write: Write, content: str | bytes, bad_rows: int
) -> None:
    found, refused = refused_by(lambda: posts(replay(write(content))))

    assert [post.text for post in found] == ["good", "also good"]
    assert refused == bad_rows


def test_a_refused_row_is_logged_with_its_line(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    posts(replay(write('\ntext\n"two\nlines"\n""\n')))

    assert [record.__dict__["line"] for record in caplog.records] == [5]


def test_followed_topics_are_found_in_the_text_and_in_the_files_topics(write: Write) -> None:
    content = "text,topic\nTea please,\nplain,coffee\nmilk,milk\n"

    found = posts(replay(write(content), "tea", "coffee"))

    assert [post.topics for post in found] == [("tea",), ("coffee",), ()]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,tweet\n1,hello\n", "id, tweet"),
        ('{"body": "hello"}\n', "body"),
        (gzip.compress(b"text\n" + os.urandom(10_000).hex().encode())[:-500], "damaged"),
    ],
)
def test_a_file_that_cannot_be_replayed_names_the_variable_and_what_it_has(
    write: Write, content: str | bytes, said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        posts(replay(write(content)))

    assert "MOODSTREAM_REPLAY_PATH" in str(caught.value)


def test_a_missing_file_and_no_file_are_settings_errors(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MOODSTREAM_REPLAY_PATH: cannot read"):
        posts(replay(tmp_path / "absent.csv"))
    with pytest.raises(SettingsError, match="MOODSTREAM_REPLAY_PATH: name"):
        replay("")
    with pytest.raises(SettingsError, match="MOODSTREAM_REPLAY_LOOP"):
        replay("-", loop=True)


def test_every_human_rated_post_is_replayed() -> None:
    if not HUMAN_RATED.exists():
        pytest.skip(f"{HUMAN_RATED} is not here")

    found, refused = refused_by(lambda: posts(replay(HUMAN_RATED)))

    assert (len({post.id for post in found}), refused) == (4200, 0)
