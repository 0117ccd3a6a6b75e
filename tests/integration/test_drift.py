"""Drift over a real warehouse with a champion from a real MLflow: a planted shift is seen, and none
is not.
"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from services.core.contract import CHAMPION, LABELS, MODEL_NAME, labels_of
from services.core.model import SentimentModel, load
from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings
from services.local.mlflow import MLflow
from services.local.postgres import Postgres
from services.local.process import PartError
from tests.integration.conftest import PostgresHandle
from tests.missing import missing
from tests.ports import free_port
from training.candidates import BASELINE, CANDIDATES
from training.readers import read
from training.settings import SAMPLE

with warnings.catch_warnings():
    # mlflow and what it imports use what newer libraries deprecate.
    warnings.simplefilter("ignore")
    from mlflow import MlflowClient

    from training.drift import MAX_POSTS_PER_DAY, SCORE, VOCABULARY, Drift, drift
    from training.registry import Registry, Run

# mlflow's own, at its first use.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")

POSTS_PER_DAY = 400
LAST = date(2026, 3, 20)
TEXTS = read(SAMPLE).texts

INSERT = """
INSERT INTO posts (source, id, text, language, created_at, topics, label, p_negative, p_neutral,
                   p_positive, model_name, model_version, kafka_partition, kafka_offset)
SELECT 'test', %(prefix)s || number, text, 'en',
       %(day)s::date + interval '1 minute' * (number %% 1440),
       '{}', label::sentiment, negative, neutral, positive, 'sentiment', %(version)s, 0, number
FROM unnest(%(texts)s::text[], %(labels)s::text[], %(negative)s::real[], %(neutral)s::real[],
            %(positive)s::real[])
     WITH ORDINALITY AS post (text, label, negative, neutral, positive, number)
"""


@pytest.fixture(scope="module")
def mlflow_of_our_own(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres
) -> Iterator[str]:
    """Address of an MLflow whose champion is the sample's."""
    postgres_server.create_database("mlflow_drift")
    home = tmp_path_factory.mktemp("drift")
    server = MLflow(home, free_port(), postgres_server.settings_of("mlflow_drift"))
    try:
        server.start()
    except PartError as exc:
        missing(f"MLflow does not start here: {exc}")
    sample = read(SAMPLE)
    registry = Registry(server.url)
    run = Run("baseline", {}, {}, {}, ("scikit-learn",), {})
    version = registry.register(run, CANDIDATES[BASELINE]().fit(sample.texts, sample.labels))
    registry.set_alias(CHAMPION, version)
    yield server.url
    server.process.stop()


@pytest.fixture(scope="module")
def champion(mlflow_of_our_own: str, tmp_path_factory: pytest.TempPathFactory) -> SentimentModel:
    return load(Registry(mlflow_of_our_own).fetch(CHAMPION, tmp_path_factory.mktemp("models")))


def store(
    settings: PostgresSettings, champion: SentimentModel, day: date, texts: Sequence[str]
) -> None:
    """The texts as posts of the day that the champion has scored."""
    probabilities = champion.predict(texts)
    connection = connect(settings, "test")
    with transaction(connection, 30) as cursor:
        cursor.execute(
            INSERT,
            {
                "prefix": f"{day}-",
                "day": day,
                "version": champion.version,
                "texts": list(texts),
                "labels": labels_of(probabilities),
                **{label: probabilities[:, i].tolist() for i, label in enumerate(LABELS)},
            },
        )
    connection.close()


def drawn(day: date, count: int = POSTS_PER_DAY) -> list[str]:
    """Texts of an ordinary day."""
    chosen = np.random.default_rng(day.toordinal()).choice(len(TEXTS), count)
    return [TEXTS[i] for i in chosen]


def shifted(day: date) -> list[str]:
    """Texts of a day on which all are cross, in words that nobody has used before."""
    return [
        f"zorblax quimble is awful, {text} I hate it, worst vintrik ever" for text in drawn(day)
    ]


def days(count: int) -> list[date]:
    """The last of them is LAST."""
    return [LAST - timedelta(days=back) for back in range(count - 1, -1, -1)]


def rows(settings: PostgresSettings) -> list[tuple[Any, ...]]:
    connection = connect(settings, "test")
    with transaction(connection, 30) as cursor:
        cursor.execute(
            "SELECT day, model_version, measure, posts, mean, psi FROM drift ORDER BY day, measure"
        )
        found = cursor.fetchall()
    connection.close()
    return found


def of(found: Sequence[Drift], day: date, measure: str) -> Drift:
    return next(each for each in found if (each.day, each.measure) == (day, measure))


def test_a_shifted_day_is_told_from_an_ordinary_one(
    postgres: PostgresHandle, champion: SentimentModel
) -> None:
    *ordinary, last = days(9)
    for day in ordinary:
        store(postgres.settings, champion, day, drawn(day))
    store(postgres.settings, champion, last, shifted(last))

    found = drift(postgres.settings, champion, [ordinary[-1], last])

    for measure in (SCORE, VOCABULARY):
        same, apart = of(found, ordinary[-1], measure), of(found, last, measure)
        assert same.psi is not None
        assert apart.psi is not None
        assert same.psi < 0.1
        assert apart.psi > 0.25
        assert apart.mean < same.mean
        assert same.posts == POSTS_PER_DAY


def test_a_second_run_corrects_the_rows_of_the_first(
    postgres: PostgresHandle, champion: SentimentModel
) -> None:
    *before, last = days(3)
    for day in before:
        store(postgres.settings, champion, day, drawn(day))
    store(postgres.settings, champion, last, drawn(last)[:10])
    first = drift(postgres.settings, champion, [last])
    early = rows(postgres.settings)
    store(postgres.settings, champion, last + timedelta(days=1), drawn(last)[:10])

    again = drift(postgres.settings, champion, [last, last + timedelta(days=1)])

    assert [(row[0], row[2]) for row in early] == [(last, SCORE), (last, VOCABULARY)]
    assert again[:2] == first
    assert rows(postgres.settings)[:2] == early
    assert len(rows(postgres.settings)) == 4


def test_too_few_posts_have_no_index_and_none_have_no_row(
    postgres: PostgresHandle, champion: SentimentModel
) -> None:
    empty, first, last = days(3)
    store(postgres.settings, champion, first, drawn(first, 199))
    store(postgres.settings, champion, last, drawn(last))

    found = drift(postgres.settings, champion, [empty, first, last])

    assert {(each.day, each.posts, each.psi) for each in found} == {
        (first, 199, None),
        (last, POSTS_PER_DAY, None),
    }
    assert {row[5] for row in rows(postgres.settings)} == {None}


def test_scores_are_the_champions_own_and_words_are_everyones(
    postgres: PostgresHandle, champion: SentimentModel
) -> None:
    before, last = days(2)
    predecessor = SentimentModel(champion.pipeline, "0")
    store(postgres.settings, predecessor, before, drawn(before))
    store(postgres.settings, champion, last, drawn(last))

    found = drift(postgres.settings, champion, [before, last])

    assert [(each.day, each.measure) for each in found] == [
        (before, VOCABULARY),
        (last, SCORE),
        (last, VOCABULARY),
    ]
    assert of(found, last, SCORE).psi is None
    assert of(found, last, VOCABULARY).psi is not None


def test_a_large_day_is_measured_on_the_same_sample_each_time(
    postgres: PostgresHandle, champion: SentimentModel
) -> None:
    store(postgres.settings, champion, LAST, drawn(LAST, MAX_POSTS_PER_DAY + 100))

    first, again = (drift(postgres.settings, champion, [LAST]) for _ in range(2))

    assert of(first, LAST, VOCABULARY).posts == MAX_POSTS_PER_DAY
    assert again == first


def run(mlflow_url: str, settings: PostgresSettings) -> subprocess.CompletedProcess[str]:
    """The job as a process of its own."""
    password = settings.password
    return subprocess.run(
        [sys.executable, "-m", "training.drift"],
        env=os.environ
        | {
            "MOODSTREAM_MLFLOW_URL": mlflow_url,
            "MOODSTREAM_DRIFT_DAYS": "3",
            "MOODSTREAM_POSTGRES_HOST": settings.host,
            "MOODSTREAM_POSTGRES_PORT": str(settings.port),
            "MOODSTREAM_POSTGRES_DATABASE": settings.database,
            "MOODSTREAM_POSTGRES_USER": settings.user,
            "MOODSTREAM_POSTGRES_PASSWORD": password.get_secret_value() if password else "",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_job_measures_the_last_complete_days_and_prints_what_it_stored(
    postgres: PostgresHandle, champion: SentimentModel, mlflow_of_our_own: str
) -> None:
    # The day before yesterday is among the last three even when a day begins meanwhile.
    day = datetime.now(UTC).date() - timedelta(days=2)
    store(postgres.settings, champion, day, drawn(day))

    done = run(mlflow_of_our_own, postgres.settings)

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["model_version"] == champion.version
    assert [(row["day"], row["measure"]) for row in result["drift"]] == [
        (str(day), SCORE),
        (str(day), VOCABULARY),
    ]
    assert len(rows(postgres.settings)) == 2


def test_without_a_database_the_job_ends_with_one_line(
    postgres: PostgresHandle, mlflow_of_our_own: str
) -> None:
    away = postgres.settings.model_copy(update={"port": free_port()})

    done = run(mlflow_of_our_own, away)

    assert done.returncode == 1
    assert "drift: PostgreSQL: " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_champion_the_job_says_so(
    postgres: PostgresHandle, mlflow_of_our_own: str, champion: SentimentModel
) -> None:
    client = MlflowClient(tracking_uri=mlflow_of_our_own, registry_uri=mlflow_of_our_own)
    client.delete_registered_model_alias(MODEL_NAME, CHAMPION)

    done = run(mlflow_of_our_own, postgres.settings)

    Registry(mlflow_of_our_own).set_alias(CHAMPION, champion.version)
    assert done.returncode == 1
    assert "has no 'champion'" in done.stderr
    assert "Traceback" not in done.stderr
