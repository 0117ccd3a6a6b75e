"""The scoring stage: who is to blame for a rejected request."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.consumer.batch import Batch, Record, decode_batch
from services.consumer.score import score_batch
from services.core.errors import TemporaryError
from services.core.events import Post, encode
from services.core.inference import FailedTextsError, RejectedTextsError, Scored

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def record(offset: int, value: bytes | None) -> Record:
    return Record("posts", 0, offset, 0, None, value)


def batch_of(texts: Sequence[str], language: str | None = "en") -> Batch:
    posts = [
        Post(source="replay", id=str(i), text=text, language=language, created_at=NOW)
        for i, text in enumerate(texts)
    ]
    records = [record(i, encode(post)) for i, post in enumerate(posts)]
    return decode_batch(0, "posts", {0: records}, {0: 0}, NOW)


class FakeModel:
    """Scores everything but the texts it holds to be poison."""

    def __init__(
        self, poison: Sequence[str] = (), error: type[Exception] = RejectedTextsError
    ) -> None:
        self.poison, self.error = set(poison), error
        self.calls = 0

    def score(self, texts: Sequence[str]) -> Scored:
        self.calls += 1
        if self.poison & set(texts):
            raise self.error("one of them is poison")
        rows = np.array([[len(text), 0, 0] for text in texts], dtype=np.float32)
        return Scored(rows.reshape(-1, 3), "sentiment", "1")


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_exactly_the_poisonous_posts_become_dead_letters(count: int, poison: set[int]) -> None:
    texts = [f"text {i}" for i in range(count)]
    model = FakeModel([texts[i] for i in poison if i < count])

    scored = score_batch(batch_of(texts), model.score, lambda: True, {"en"})

    assert {letter.record.offset for letter in scored.dead_letters} == {
        i for i in poison if i < count
    }
    assert sorted(scored.scored) == [i for i in range(count) if i not in poison]
    assert [row[0] for row in scored.probabilities] == [len(texts[i]) for i in scored.scored]


def test_a_healthy_batch_is_one_request() -> None:
    model = FakeModel()

    score_batch(batch_of(["a"] * 2000), model.score, lambda: True, {"en"})

    assert model.calls == 1


def test_a_500_from_a_ready_server_is_traced_to_its_text() -> None:
    model = FakeModel(["b"], FailedTextsError)

    scored = score_batch(batch_of(["a", "b", "c"]), model.score, lambda: True, {"en"})

    assert [letter.reason for letter in scored.dead_letters] == ["rejected_by_model"]


def test_a_500_from_a_server_that_is_not_ready_blames_no_record() -> None:
    model = FakeModel(["b"], FailedTextsError)

    with pytest.raises(TemporaryError):
        score_batch(batch_of(["a", "b", "c"]), model.score, lambda: False, {"en"})


@pytest.mark.parametrize("language", ["fr", None])
def test_a_post_in_another_language_is_kept_but_not_guessed(language: str | None) -> None:
    model = FakeModel()

    scored = score_batch(batch_of(["bonjour"], language), model.score, lambda: True, {"en"})

    assert (scored.scored, scored.unscored, model.calls) == ([], [0], 0)


def test_records_before_the_position_or_of_another_owner_are_left_out() -> None:
    run = [record(offset, None) for offset in range(5, 10)]

    batch = decode_batch(0, "posts", {0: run, 1: run}, {0: 7}, NOW)

    assert [letter.record.offset for letter in batch.dead_letters] == [7, 8, 9]
    assert set(batch.spans) == {0}


def test_a_bad_record_does_not_touch_its_neighbours() -> None:
    good = encode(Post(source="replay", id="1", text="fine", created_at=NOW))
    run = [record(0, good), record(1, b"{"), record(2, None), record(3, good)]

    batch = decode_batch(0, "posts", {0: run}, {0: 0}, NOW)

    assert [r.offset for r in batch.records] == [0, 3]
    assert [letter.reason for letter in batch.dead_letters] == ["invalid_json", "tombstone"]
    assert (batch.spans[0].next, batch.spans[0].records) == (4, 4)
