"""The challenger's shadow: which posts it takes, and that nothing it does reaches the consumer."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.consumer import shadow as module
from services.consumer.batch import Record, ScoredBatch, decode_batch
from services.consumer.pipeline import Pipeline
from services.consumer.settings import ConsumerSettings
from services.consumer.shadow import Sampled, Seconds, Shadow, is_sampled, open_shadow, sample
from services.core.errors import TemporaryError
from services.core.events import Post, encode
from services.core.inference import (
    FailedTextsError,
    InferenceClient,
    RejectedTextsError,
    Scored,
)
from services.core.settings import (
    ChallengerSettings,
    InferenceSettings,
    KafkaSettings,
    PostgresSettings,
)
from tests.waiting import wait_until

SECONDS = 30.0


class FakeModel:
    """Answers every text with the same row, unless told to do something else first."""

    def __init__(self, version: str, do: Callable[[], None] = lambda: None) -> None:
        self.version, self.do = version, do
        self.is_ready = True
        self.asked: list[list[str]] = []

    def score(self, texts: Sequence[str]) -> Scored:
        self.asked.append(list(texts))
        self.do()
        rows = np.tile(np.array([0.2, 0.5, 0.3], dtype=np.float32), (len(texts), 1))
        return Scored(rows, "sentiment", self.version)

    def ready(self) -> bool:
        return self.is_ready


class FakeSink:
    """Keeps what is written, unless told to do something else first."""

    def __init__(self, do: Callable[[], None] = lambda: None) -> None:
        self.do = do
        self.written: list[tuple[list[Sampled], Scored, Seconds | None]] = []

    def write(self, posts: Sequence[Sampled], scored: Scored, seconds: Seconds | None) -> None:
        self.do()
        self.written.append((list(posts), scored, seconds))

    def close(self) -> None: ...

    def posts(self) -> int:
        return sum(len(posts) for posts, _, _ in self.written)


class Steps:
    """A clock that gains half a second each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def scored_batch(first: int, count: int, version: str = "1") -> ScoredBatch:
    """Every second post is in a language that is not scored; the champion calls the rest
    positive.
    """
    now = datetime.now(UTC)
    posts = [
        Post(source="replay", id=str(first + i), text=f"text {first + i}", created_at=now)
        for i in range(count)
    ]
    records = [Record("posts", 0, i, 0, None, encode(post)) for i, post in enumerate(posts)]
    batch = decode_batch(0, "posts", {0: records}, {0: 0}, now)
    scored = range(0, count, 2)
    rows = np.tile(np.array([0.1, 0.2, 0.7], dtype=np.float32), (len(scored), 1))
    unscored = range(1, count, 2)
    return ScoredBatch(batch, scored, unscored, rows, "sentiment", version)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds in production takes none here."""
    monkeypatch.setattr(module, "_GATHER_SECONDS", 0.001)
    monkeypatch.setattr(module, "_AWAY_SECONDS", 0.001)


@pytest.fixture
def entered() -> Iterator[Callable[..., Shadow]]:
    """Starts shadows that have found their challenger, and stops them after the test."""
    with ExitStack() as stack:

        def start(*arguments: Any, **named: Any) -> Shadow:
            shadow = stack.enter_context(Shadow(*arguments, **named))
            wait_until(lambda: shadow._open, SECONDS, every=0.001)
            return shadow

        yield start


def dropped(reason: str) -> float:
    name = "moodstream_consumer_shadow_dropped_posts_total"
    return REGISTRY.get_sample_value(name, {"reason": reason}) or 0.0


def test_the_sample_is_the_share_of_the_posts_and_depends_on_nothing_but_their_keys() -> None:
    keys = [f"x/{1_790_000_000_000_000_000 + 12_582_912 * i}".encode() for i in range(20_000)]

    tenth = {key for key in keys if is_sampled(key, 0.1)}
    half = {key for key in keys if is_sampled(key, 0.5)}

    assert 0.09 < len(tenth) / len(keys) < 0.11
    assert tenth < half
    assert tenth == {key for key in reversed(keys) if is_sampled(key, 0.1)}
    assert not any(is_sampled(key, 0) for key in keys)
    assert all(is_sampled(key, 1) for key in keys)


def test_a_sample_holds_scored_posts_with_what_the_champion_said_of_each() -> None:
    batch = scored_batch(0, 5)
    batch.probabilities[1] = (0.9, 0.1, 0.0)

    taken = sample(batch, 1)

    assert [(post.id, post.champion_label) for post in taken] == [
        ("0", "positive"),
        ("2", "negative"),
        ("4", "positive"),
    ]
    assert taken[1].champion_score == pytest.approx(-0.9)
    assert taken[1].text == "text 2"
    assert {post.champion_version for post in taken} == {"1"}


def test_what_is_offered_is_scored_by_the_challenger_and_written(
    entered: Callable[..., Shadow],
) -> None:
    sink, challenger = FakeSink(), FakeModel("2")
    shadow = entered(FakeModel("1"), challenger, sink, 1.0)

    shadow.offer(scored_batch(0, 4))
    wait_until(lambda: sink.posts() == 2, SECONDS, every=0.001)

    posts, scored, _ = sink.written[0]
    assert [post.id for post in posts] == ["0", "2"]
    assert scored.model_version == "2"
    assert challenger.asked == [["text 0", "text 2"]]


def test_both_models_are_timed_on_the_same_texts_and_the_champion_only_now_and_then(
    entered: Callable[..., Shadow],
) -> None:
    sink, champion = FakeSink(), FakeModel("1")
    steps = Steps()
    shadow = entered(champion, FakeModel("2"), sink, 1.0, clock=steps)

    shadow.offer(scored_batch(0, 4))
    wait_until(lambda: sink.posts() == 2, SECONDS, every=0.001)
    shadow.offer(scored_batch(4, 4))
    wait_until(lambda: sink.posts() == 4, SECONDS, every=0.001)

    assert [seconds for _, _, seconds in sink.written] == [Seconds(0.5, 0.5), None]
    assert champion.asked == [["text 0", "text 2"]]


def test_a_champion_that_changed_meanwhile_is_not_timed(entered: Callable[..., Shadow]) -> None:
    sink = FakeSink()
    shadow = entered(FakeModel("3"), FakeModel("2"), sink, 1.0)

    shadow.offer(scored_batch(0, 4))
    wait_until(lambda: sink.posts() == 2, SECONDS, every=0.001)

    assert sink.written[0][2] is None


def test_posts_of_two_champions_are_never_written_together(entered: Callable[..., Shadow]) -> None:
    sink, hold = FakeSink(), threading.Event()
    shadow = entered(FakeModel("1"), FakeModel("2", lambda: assert_set(hold)), sink, 1.0)
    shadow.offer(scored_batch(0, 2))
    shadow.offer(scored_batch(2, 2, version="3"))
    shadow.offer(scored_batch(4, 2))

    hold.set()
    wait_until(lambda: sink.posts() == 3, SECONDS, every=0.001)

    versions = [{post.champion_version for post in posts} for posts, _, _ in sink.written]
    assert all(len(found) == 1 for found in versions)
    assert {"1", "3"} == set.union(*versions)


def assert_set(event: threading.Event) -> None:
    assert event.wait(SECONDS)


def test_an_offer_to_a_challenger_that_hangs_returns_at_once_and_what_finds_no_room_is_counted(
    entered: Callable[..., Shadow],
) -> None:
    hold, before = threading.Event(), dropped("busy")
    challenger = FakeModel("2", lambda: assert_set(hold))
    shadow = entered(FakeModel("1"), challenger, FakeSink(), 1.0)
    shadow.offer(scored_batch(0, 2))
    wait_until(lambda: challenger.asked != [], SECONDS, every=0.001)

    offered, batch = 0, scored_batch(0, 2_000)
    while dropped("busy") == before:
        shadow.offer(batch)
        offered += 1

    assert not hold.is_set()
    assert offered == 5
    assert dropped("busy") - before == 1_000
    hold.set()


@pytest.mark.parametrize(
    "error",
    [
        TemporaryError("does not answer"),
        FailedTextsError("500"),
        RejectedTextsError("400"),
        RuntimeError("a bug"),
    ],
)
def test_what_the_challenger_cannot_score_is_dropped_and_the_next_posts_are_tried_again(
    entered: Callable[..., Shadow], error: Exception
) -> None:
    sink, challenger, before = FakeSink(), FakeModel("2"), dropped("challenger")

    def fail() -> None:
        challenger.do = lambda: None
        raise error

    challenger.do = fail
    shadow = entered(FakeModel("1"), challenger, sink, 1.0)

    shadow.offer(scored_batch(0, 2))
    wait_until(lambda: dropped("challenger") == before + 1, SECONDS, every=0.001)
    wait_until(lambda: offered_again(shadow, sink), SECONDS, every=0.001)

    assert sink.written[0][0][0].id == "2"


@pytest.mark.parametrize("error", [TemporaryError("PostgreSQL: gone"), ValueError("no such table")])
def test_a_database_that_refuses_costs_the_comparison_some_posts_and_no_more(
    entered: Callable[..., Shadow], error: Exception
) -> None:
    sink, before = FakeSink(), dropped("database")

    def fail() -> None:
        sink.do = lambda: None
        raise error

    sink.do = fail
    shadow = entered(FakeModel("1"), FakeModel("2"), sink, 1.0)

    shadow.offer(scored_batch(0, 2))
    wait_until(lambda: dropped("database") == before + 1, SECONDS, every=0.001)
    wait_until(lambda: offered_again(shadow, sink), SECONDS, every=0.001)

    assert sink.written[0][0][0].id == "2"


def offered_again(shadow: Shadow, sink: FakeSink) -> bool:
    """Whether a post that is offered now and then has arrived."""
    shadow.offer(scored_batch(2, 1))
    return sink.posts() > 0


def test_without_a_challenger_nothing_is_taken_until_there_is_one() -> None:
    sink, challenger = FakeSink(), FakeModel("2")
    challenger.is_ready = False
    before = dropped("busy"), dropped("challenger")

    with Shadow(FakeModel("1"), challenger, sink, 1.0) as shadow:
        batch = scored_batch(0, 2_000)
        for _ in range(10):
            shadow.offer(batch)
        challenger.is_ready = True
        wait_until(lambda: shadow._open, SECONDS, every=0.001)
        shadow.offer(scored_batch(0, 2))
        wait_until(lambda: sink.posts() == 1, SECONDS, every=0.001)

    assert challenger.asked == [["text 0"]]
    assert (dropped("busy"), dropped("challenger")) == before


def test_a_stop_does_not_wait_for_a_challenger_that_hangs(
    monkeypatch: pytest.MonkeyPatch, entered: Callable[..., Shadow]
) -> None:
    monkeypatch.setattr(module, "_STOP_SECONDS", 0.01)
    hold = threading.Event()
    challenger = FakeModel("2", lambda: assert_set(hold))
    shadow = entered(FakeModel("1"), challenger, FakeSink(), 1.0)
    shadow.offer(scored_batch(0, 2))
    wait_until(lambda: challenger.asked != [], SECONDS, every=0.001)

    shadow.__exit__(None, None, None)

    assert not hold.is_set()
    hold.set()


def test_there_is_a_shadow_only_where_the_settings_name_a_challenger_and_a_share() -> None:
    inference, postgres = InferenceSettings(), PostgresSettings()
    nobody, somebody = ChallengerSettings(url=None), ChallengerSettings(url="http://challenger")

    assert open_shadow(inference, nobody, postgres, 0.1) is None
    assert open_shadow(inference, somebody, postgres, 0) is None
    assert open_shadow(inference, somebody, postgres, 0.1) is not None


def test_the_pipeline_offers_what_is_stored() -> None:
    offered: list[ScoredBatch] = []

    class Recorder(Shadow):
        def __init__(self) -> None: ...

        def offer(self, scored: ScoredBatch) -> None:
            offered.append(scored)

    pipeline = Pipeline(
        KafkaSettings(),
        PostgresSettings(),
        ConsumerSettings(),
        InferenceClient(InferenceSettings()),
        Recorder(),
    )
    batch = scored_batch(0, 2)

    pipeline._account(batch, {"stored": 2})

    assert offered == [batch]
