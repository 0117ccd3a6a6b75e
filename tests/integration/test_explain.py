"""Why the model says what it says, asked of a real predictor over a real warehouse."""

import json
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.core.contract import LABELS
from services.core.errors import TemporaryError
from services.core.settings import InferenceSettings
from services.dashboard.explain import Explainer, tokens
from services.dashboard.history import Reader
from tests.integration.conftest import PostgresHandle
from tests.integration.predictor import Predictor
from tests.integration.test_dashboard import HOSTILE, serving
from tests.integration.test_history import put


@pytest.fixture
def explainer(postgres: PostgresHandle, predictor: Predictor) -> Explainer:
    return Explainer(InferenceSettings(url=predictor.url), Reader(postgres.settings))


def test_the_word_that_makes_a_sentence_negative_weighs_most(explainer: Explainer) -> None:
    text = "😀😀 the train was terrible today"

    said = explainer.sentence(text)

    units = text.encode("utf-16-le")
    words = {units[2 * w.start : 2 * w.end].decode("utf-16-le"): w.weight for w in said.words}
    assert min(words, key=lambda word: words[word]) == "terrible"
    assert words["terrible"] < -0.1
    assert said.score == pytest.approx(said.p_positive - said.p_negative, abs=1e-6)
    assert said.model_version == Predictor.version


def test_the_drivers_are_the_words_of_the_posts_by_weight_and_number(
    explainer: Explainer, postgres: PostgresHandle
) -> None:
    now = datetime.now(UTC)
    put(postgres, ["the coffee is terrible"] * 6 + ["awful queue #fail"] * 3, now, "negative")
    put(postgres, ["the coffee is wonderful ❤️", "love the coffee"] * 4, now)
    put(postgres, ["wonderful"] * 5, now - timedelta(days=3))

    found = explainer.drivers("*", None, None)

    negative = {driver.word: driver for driver in found.negative}
    positive = {driver.word: driver for driver in found.positive}
    assert found.posts == 17
    assert negative["terrible"].effect < 0 < positive["love"].effect
    assert found.model_version == Predictor.version
    assert {"terrible", "awful"} <= set(negative)
    assert {"wonderful", "love"} <= set(positive)
    assert negative["terrible"].posts == 6
    assert negative["terrible"].weight < 0 < positive["love"].weight
    assert "the" not in {**negative, **positive}
    assert explainer.drivers("nobody", None, None).positive == []


def test_a_new_version_is_asked_anew(
    explainer: Explainer, postgres: PostgresHandle, predictor: Predictor
) -> None:
    put(postgres, ["terrible"] * 3, datetime.now(UTC), "negative")
    put(postgres, ["lovely"] * 3, datetime.now(UTC))
    explainer.drivers("*", None, None)
    explainer._version = "of another model"
    explainer._weights["terrible"] = 1.0

    (driver,) = explainer.drivers("trains", None, None).negative

    assert driver.word == "terrible"
    assert explainer._version == predictor.version


def test_without_a_predictor_the_answer_says_so(postgres: PostgresHandle) -> None:
    away = Explainer(InferenceSettings(url="http://127.0.0.1:9"), Reader(postgres.settings))
    put(postgres, ["terrible"] * 3, datetime.now(UTC))

    with pytest.raises(TemporaryError, match="predictor"):
        away.sentence("fine")
    with pytest.raises(TemporaryError, match="predictor"):
        away.drivers("*", None, None)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"text": "fine"}, 200),
        ({"text": HOSTILE}, 200),
        ({"text": "   "}, 200),
        ({"text": "a " * 400}, 200),
        ({"text": "x" * 2_000}, 200),
        ({"text": ""}, 422),
        ({"text": "x" * 2_001}, 422),
        ({"text": None}, 422),
        ({"text": "\x00"}, 422),
        ({}, 422),
    ],
)
def test_any_text_has_an_answer(
    postgres: PostgresHandle, predictor: Predictor, body: dict[str, Any], status: int
) -> None:
    with serving(postgres, INFERENCE_URL=predictor.url) as url:
        request = urllib.request.Request(
            f"{url}/api/try", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as answer:
                found, said = answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                found, said = exc.code, json.load(exc)

    assert found == status
    assert said["label"] in LABELS if status == 200 else said["problem"]


def test_hashtags_and_emoji_stay_whole_and_links_and_names_are_left_out() -> None:
    text = "@ada Don't #LoveTrains 👩🏽‍🚀 ❤️ :-) https://example.org/x 2026 <b>"

    assert [(word, kind) for word, kind, _, _ in tokens(text)] == [
        ("Don't", "word"),
        ("#LoveTrains", "hashtag"),
        ("👩🏽‍🚀", "emoji"),
        ("❤️", "emoji"),
        (":-)", "emoji"),
        ("b", "word"),
    ]
