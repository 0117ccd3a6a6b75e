"""What is published is acknowledged; what is not is counted; memory stays bounded."""

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from queue import Queue
from typing import Any

import pytest

with warnings.catch_warnings():
    # kafka-python loads its schemas with a function that Python 3.11 deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.errors import (
        KafkaTimeoutError,
        MessageSizeTooLargeError,
        TopicAuthorizationFailedError,
    )
    from kafka.future import Future

    from services.producer.app import Patience, publish_all
    from services.producer.publish import Publisher, PublishError
from services.core.errors import SettingsError
from services.core.events import Post, decode
from services.core.settings import load
from services.producer.metrics import totals
from services.producer.settings import ProducerSettings
from services.producer.sources import (
    AuthorHash,
    Backoff,
    Running,
    TopicMatcher,
    from_thread,
    primary_language,
)

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def post(number: int) -> Post:
    return Post(source="replay", id=str(number), text=f"text {number}", created_at=NOW)


class Answer(Future):  # type: ignore[misc]  # the library has no types
    """A future whose waiting costs no time."""

    def get(self, timeout: float | None = None) -> None:
        if not self.is_done:
            raise KafkaTimeoutError


class FakeKafka:
    """A Kafka producer that answers when told to, or at once."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.sent: list[tuple[bytes, bytes]] = []
        self.answers: list[Answer] = []
        self.at_once = at_once
        self.errors: dict[str, Exception] = {}
        """By text of the post: raised by send."""
        self.most_in_flight = 0

    def send(self, topic: str, value: bytes, key: bytes) -> Answer:
        text = decode(value, NOW).text
        if text in self.errors:
            raise self.errors.pop(text)
        self.sent.append((key, value))
        answer = Answer()
        self.answers.append(answer)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.at_once:
            answer.success(None)
        return answer

    @property
    def in_flight(self) -> int:
        return sum(not answer.is_done for answer in self.answers)

    def acknowledge_one(self) -> None:
        next(answer for answer in self.answers if not answer.is_done).success(None)

    def close(self, timeout: float) -> None:
        self.closed = True


class FakeSource:
    """Gives posts and remembers how many were acknowledged."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.acknowledged_posts = 0

    def posts(self, running: Running) -> Iterator[Post]:
        for number in range(self.count):
            if not running():
                return
            yield post(number)

    def acknowledged(self, count: int) -> None:
        self.acknowledged_posts += count

    def unready(self) -> str | None:
        return None


def publisher(
    kafka: FakeKafka,
    *,
    patient: Callable[[], bool] = lambda: True,
    max_in_flight: int = 3,
    acknowledged: Callable[[int], None] = lambda count: None,
) -> Publisher:
    made = Publisher(
        lambda: kafka, "posts", max_in_flight, acknowledged=acknowledged, patient=patient
    )
    made.connect()
    return made


@pytest.fixture(name="counted")
def _counted() -> Callable[[], Counter[str]]:
    before = totals()

    def since() -> Counter[str]:
        now = totals()
        now.subtract(before)
        return +now

    return since


Counted = Callable[[], Counter[str]]


def test_every_post_is_sent_with_its_key_and_counted_once_acknowledged(counted: Counted) -> None:
    kafka, source = FakeKafka(at_once=True), FakeSource(5)
    patience = Patience(threading.Event(), 1.0)

    publish_all(
        source,
        publisher(kafka, patient=patience.until_drained, acknowledged=source.acknowledged),
        patience,
    )

    assert [key for key, _ in kafka.sent] == [f"replay/{n}".encode() for n in range(5)]
    assert [decode(value, NOW) for _, value in kafka.sent] == [post(n) for n in range(5)]
    assert counted() == {"published": 5}
    assert source.acknowledged_posts == 5


def test_no_more_than_the_limit_is_ever_in_flight(counted: Counted) -> None:
    kafka = FakeKafka()

    def acknowledge_one_while_waiting() -> bool:
        if kafka.in_flight:
            kafka.acknowledge_one()
        return True

    sending = publisher(kafka, patient=acknowledge_one_while_waiting, max_in_flight=3)
    for number in range(20):
        sending.publish(post(number))
    sending.finish()

    assert kafka.most_in_flight == 3
    assert counted() == {"published": 20}


def test_posts_are_acknowledged_to_the_source_in_order_however_kafka_answers() -> None:
    kafka, told = FakeKafka(), []
    sending = publisher(kafka, acknowledged=told.append)
    for number in range(3):
        sending.publish(post(number))

    kafka.answers[1].success(None)
    sending.settle()
    first = list(told)
    kafka.answers[0].success(None)
    sending.settle()

    assert first == []
    assert told == [2]


@pytest.mark.parametrize("at_send", [True, False])
def test_a_record_that_is_too_large_is_refused_and_its_neighbours_go_on(
    counted: Counted, at_send: bool
) -> None:
    kafka, told = FakeKafka(), []
    sending = publisher(kafka, acknowledged=told.append)
    if at_send:
        kafka.errors["text 1"] = MessageSizeTooLargeError()

    for number in range(3):
        sending.publish(post(number))
    if not at_send:
        kafka.answers.pop(1).failure(MessageSizeTooLargeError())
    for answer in kafka.answers:
        answer.success(None)
    sending.finish()

    assert counted() == {"published": 2, "refused": 1}
    assert sum(told) == 3


def test_an_answer_that_no_wait_changes_ends_the_process_and_counts_the_rest(
    counted: Counted,
) -> None:
    kafka = FakeKafka()
    sending = publisher(kafka)
    sending.publish(post(0))
    sending.publish(post(1))

    kafka.answers[0].failure(TopicAuthorizationFailedError())
    with pytest.raises(PublishError, match="TopicAuthorizationFailed"):
        sending.settle()
    with pytest.raises(PublishError):
        sending.finish()

    assert counted() == {"failed": 2}
    assert kafka.closed


def test_after_a_stop_only_what_kafka_never_acknowledged_counts_as_failed(
    counted: Counted,
) -> None:
    kafka = FakeKafka()
    questions = iter([True, True, False])
    sending = publisher(kafka, patient=lambda: next(questions))
    for number in range(3):
        sending.publish(post(number))

    kafka.acknowledge_one()
    sending.finish()

    assert counted() == {"published": 1, "failed": 2}


def test_a_missing_kafka_topic_is_waited_for(counted: Counted) -> None:
    kafka = FakeKafka(at_once=True)
    kafka.errors["text 0"] = KafkaTimeoutError()
    sending = publisher(kafka)

    sending.publish(post(0))
    sending.finish()

    assert counted() == {"published": 1}


def test_a_kafka_that_is_away_at_the_start_is_waited_for_until_the_stop() -> None:
    tries = iter([KafkaTimeoutError(), KafkaTimeoutError()])
    questions = iter([True, True, False])

    def make() -> Any:
        raise next(tries)

    waiting = Publisher(
        make, "posts", 1, acknowledged=lambda count: None, patient=lambda: next(questions)
    )

    assert waiting.unready() == "Kafka does not answer"
    assert waiting.connect() is False


def test_waiting_has_no_limit_before_a_stop_and_the_drain_deadline_after_it() -> None:
    stop = threading.Event()
    patience = Patience(stop, drain_seconds=0.0)

    before = patience.until_drained()
    stop.set()

    assert before
    assert not patience.until_drained()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I love COFFEE!", ("coffee",)),
        ("#coffee and New  York", ("coffee", "new york")),
        ("coffeehouse in newyork", ()),
        ("c++ is (c++)", ("c++",)),
    ],
)
def test_a_text_is_about_the_topics_it_contains_as_words(
    text: str, expected: tuple[str, ...]
) -> None:
    assert TopicMatcher(("coffee", "new york", "c++"))(text) == expected


def test_an_author_is_a_hash_that_needs_the_key() -> None:
    hashed = AuthorHash(b"key")("x", "42")

    assert len(hashed) == 32
    assert hashed == AuthorHash(b"key")("x", "42")
    assert hashed != AuthorHash(b"other")("x", "42")
    assert hashed != AuthorHash(b"key")("bluesky", "42")


@pytest.mark.parametrize(
    ("tag", "code"),
    [("en-GB", "en"), ("EN", "en"), ("fil", "fil"), ("und", None), ("", None), (None, None)],
)
def test_a_language_tag_becomes_its_primary_part(tag: object, code: str | None) -> None:
    assert primary_language(tag) == code


def test_topics_are_a_comma_separated_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODSTREAM_PRODUCER_TOPICS", " coffee, new york ,")

    assert load(ProducerSettings).topics == ("coffee", "new york")


@pytest.mark.parametrize("topics", ["*", "tea,Tea", "x" * 101, ",".join(map(str, range(33)))])
def test_topics_that_no_post_may_carry_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, topics: str
) -> None:
    monkeypatch.setenv("MOODSTREAM_PRODUCER_TOPICS", topics)

    with pytest.raises(SettingsError, match="MOODSTREAM_PRODUCER_TOPICS"):
        load(ProducerSettings)


def test_the_death_of_a_reading_thread_is_raised_after_what_it_read() -> None:
    queue: Queue[int] = Queue()

    def read(ended: threading.Event) -> None:
        queue.put(1)
        raise RuntimeError("broken")

    items = from_thread(queue, read, lambda: True)

    assert next(items) == 1
    with pytest.raises(RuntimeError, match="broken"):
        next(items)


def test_after_a_stop_what_was_read_already_still_comes() -> None:
    queue: Queue[int] = Queue()
    read_all = threading.Event()

    def read(ended: threading.Event) -> None:
        for number in range(3):
            queue.put(number)
        read_all.set()
        ended.wait()

    def running() -> bool:
        assert read_all.wait(10)
        return False

    assert list(from_thread(queue, read, running)) == [0, 1, 2]


def test_waits_double_up_to_the_limit_and_start_anew_after_success() -> None:
    backoff = Backoff(chance=lambda: 0.5)

    waits = [backoff.next(1, 5) for _ in range(4)]
    backoff.reset()

    assert waits == [1, 2, 4, 5]
    assert backoff.next(1, 5) == 1
