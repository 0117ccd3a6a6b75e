"""Retraining against a real MLflow and a real warehouse: what the gate lets through, corrected
labels, and an MLflow that fails in the middle.
"""

import csv
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.core.contract import CHALLENGER, CHAMPION, MODEL_NAME
from services.core.errors import TemporaryError
from services.core.evaluation import EVALUATION
from services.core.gate import GateSettings
from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings
from services.local.mlflow import MLflow
from services.local.postgres import Postgres
from services.local.process import PartError
from tests.integration.conftest import PostgresHandle
from tests.missing import missing
from tests.ports import free_port
from training.corrections import corrections
from training.readers import read
from training.settings import SAMPLE, TrainingSettings

with warnings.catch_warnings():
    # mlflow and what it imports use what newer libraries deprecate.
    warnings.simplefilter("ignore")
    from mlflow import MlflowClient

    from training.registry import Registry
    from training.train import train

# mlflow's own, at its first use.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")

ROWS = 600
LENIENT, STRICT = GateSettings(floor=0.4), GateSettings(floor=0.99)
_TRAINING_SECONDS = 600

POST = """
INSERT INTO posts (source, id, text, language, created_at, topics, kafka_partition, kafka_offset)
VALUES ('test', %s, %s, %s, now(), '{}', 0, %s)
"""
CORRECTION = """
INSERT INTO corrections (source, post_id, label, corrected_by, corrected_at)
VALUES ('test', %s, %s, 'Ada', '2026-03-01'::timestamptz + interval '1 hour' * %s)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres) -> Iterator[MLflow]:
    """An MLflow that these tests may stop and break."""
    postgres_server.create_database("mlflow_retraining")
    home = tmp_path_factory.mktemp("retraining")
    server = MLflow(home, free_port(), postgres_server.settings_of("mlflow_retraining"))
    try:
        server.start()
    except PartError as exc:
        missing(f"MLflow does not start here: {exc}")
    yield server
    server.process.stop()


@pytest.fixture
def client(server: MLflow) -> MlflowClient:
    """Of a registry that is empty at the start of the test."""
    client = MlflowClient(tracking_uri=server.url, registry_uri=server.url)
    if client.search_registered_models():
        client.delete_registered_model(MODEL_NAME)
    return client


@pytest.fixture
def registry(server: MLflow, client: MlflowClient) -> Registry:
    return Registry(server.url)


def write(path: Path, texts: Sequence[str], labels: Sequence[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    return path


@pytest.fixture
def good(tmp_path: Path) -> TrainingSettings:
    """Data that makes a fair model quickly."""
    sample = read(SAMPLE)
    path = write(tmp_path / "good.csv", sample.texts[:ROWS], sample.labels[:ROWS])
    return TrainingSettings(data=str(path), folds=2)


@pytest.fixture
def bad(tmp_path: Path) -> TrainingSettings:
    """Data from which there is nothing to learn."""
    sample = read(SAMPLE)
    labels = np.random.default_rng(0).permutation(sample.labels[:ROWS])
    path = write(tmp_path / "bad.csv", sample.texts[:ROWS], labels.tolist())
    return TrainingSettings(data=str(path), folds=2)


def promoting(settings: TrainingSettings) -> TrainingSettings:
    return settings.model_copy(update={"promote": True})


def test_a_version_that_passes_the_gate_waits_as_challenger_and_its_run_says_why(
    registry: Registry, client: MlflowClient, good: TrainingSettings
) -> None:
    first, second = (train(good, registry, LENIENT) for _ in range(2))

    assert registry.aliases() == {CHAMPION: first.version, CHALLENGER: second.version}
    assert (first.alias, second.alias) == (CHAMPION, CHALLENGER)
    assert second.gate == "it passes every check"
    assert [check.name for check in second.checks] == [
        "artifact",
        "contract",
        "versions",
        "example",
        "quality",
    ]
    version = client.get_model_version(MODEL_NAME, second.version)
    run = client.get_run(str(version.run_id))
    assert run.data.metrics["evaluation.macro_recall"] == second.evaluation_macro_recall
    assert run.data.tags["gate"] == version.tags["gate"] == "passed"
    assert "gate.json" in {file.path for file in client.list_artifacts(str(version.run_id))}
    # The champion was measured too, on the same posts, and learned from the same data.
    assert f"the champion's is {second.evaluation_macro_recall:.3f}" in second.checks[-1].detail


def test_a_first_version_that_is_refused_is_nobody(
    registry: Registry, client: MlflowClient, good: TrainingSettings
) -> None:
    result = train(good, registry, STRICT)

    assert result.alias is None
    assert result.gate.startswith("quality: macro recall ")
    assert registry.aliases() == {}
    tags = client.get_model_version(MODEL_NAME, result.version).tags
    assert tags["gate"] == result.gate


@pytest.mark.parametrize("promote", [False, True])
def test_a_refused_version_moves_no_alias(
    registry: Registry, good: TrainingSettings, bad: TrainingSettings, promote: bool
) -> None:
    champion = train(good, registry, LENIENT)
    registry.set_alias(CHALLENGER, champion.version)
    settings = promoting(bad) if promote else bad

    refused = train(settings, registry, GateSettings(floor=0.0))

    assert refused.alias is None
    assert "below the champion's" in refused.gate
    assert registry.aliases() == {CHAMPION: champion.version, CHALLENGER: champion.version}


def test_a_version_that_passes_is_promoted_where_a_setting_says_so(
    registry: Registry, good: TrainingSettings
) -> None:
    first, second = (train(promoting(good), registry, LENIENT) for _ in range(2))

    assert (first.alias, second.alias) == (CHAMPION, CHAMPION)
    assert registry.aliases() == {CHAMPION: second.version}


def test_nothing_is_learned_from_the_evaluation_set(
    registry: Registry, client: MlflowClient, good: TrainingSettings, tmp_path: Path
) -> None:
    held_out = read(EVALUATION)
    more = write(tmp_path / "more.csv", held_out.texts, held_out.labels)

    result = train(good.model_copy(update={"data": f"{good.data},{more}"}), registry, LENIENT)

    assert (result.rows, result.duplicates) == (ROWS, len(held_out.texts))


def test_another_evaluation_set_can_be_named(
    registry: Registry, good: TrainingSettings, tmp_path: Path
) -> None:
    learned = read(good.paths[0])
    other = write(tmp_path / "other.csv", learned.texts[:90], learned.labels[:90])

    result = train(good.model_copy(update={"evaluation": other}), registry, LENIENT)

    assert (result.rows, result.duplicates) == (ROWS - 90, 90)


def correct(settings: PostgresSettings, *posts: tuple[str, str | None, list[str]]) -> None:
    """Stores posts, each with its language and its corrections, the oldest first."""
    connection = connect(settings, "test")
    with transaction(connection, 30) as cursor:
        for number, (text, language, labels) in enumerate(posts):
            cursor.execute(POST, (str(number), text, language, number))
            for hour, label in enumerate(labels):
                cursor.execute(CORRECTION, (str(number), label, 10 * number + hour))
    connection.close()


def test_the_newest_correction_of_a_text_in_a_trained_language_counts(
    postgres: PostgresHandle,
) -> None:
    correct(
        postgres.settings,
        ("said once", "en", ["neutral"]),
        ("said twice", "en", ["positive", "negative"]),
        ("posted twice", "en", ["positive"]),
        ("posted twice", "en", ["neutral"]),
        ("auf Deutsch", "de", ["negative"]),
        ("in no language", None, ["negative"]),
        (" \n", "en", ["neutral"]),
        ("never corrected", "en", []),
    )

    found = corrections(postgres.settings)

    assert dict(zip(found.texts, found.labels, strict=True)) == {
        "said once": "neutral",
        "said twice": "negative",
        "posted twice": "neutral",
    }


def test_corrections_are_learned_from_and_win_over_the_files(
    registry: Registry, client: MlflowClient, good: TrainingSettings, postgres: PostgresHandle
) -> None:
    files = read(good.paths[0])
    correct(
        postgres.settings,
        (files.texts[0], "en", [next(x for x in ("positive", "neutral") if x != files.labels[0])]),
        ("a post that is new to the files", "en", ["neutral"]),
        (read(EVALUATION).texts[0], "en", ["neutral"]),
    )
    settings = good.model_copy(update={"corrections": True})

    result = train(settings, registry, LENIENT, postgres.settings)

    # One text is in the files as well, and one is of the evaluation set.
    assert (result.rows, result.corrections, result.duplicates) == (ROWS + 1, 2, 2)
    run = client.get_run(str(client.get_model_version(MODEL_NAME, result.version).run_id))
    assert run.data.params["data.corrections"] == "2"
    assert run.data.tags["data.name"] == "corrections, good.csv"


def test_without_corrections_in_the_database_the_files_are_the_data(
    registry: Registry, client: MlflowClient, good: TrainingSettings, postgres: PostgresHandle
) -> None:
    settings = good.model_copy(update={"corrections": True})

    result = train(settings, registry, LENIENT, postgres.settings)

    run = client.get_run(str(client.get_model_version(MODEL_NAME, result.version).run_id))
    assert result.corrections == 0
    assert run.data.tags["data.sha256"] == read(good.paths[0]).sha256


def job(server: MLflow, settings: TrainingSettings, **more: str) -> subprocess.Popen[str]:
    """Training as a process of its own that does not wait for an MLflow that is away."""
    return subprocess.Popen(
        [sys.executable, "-m", "training"],
        env=os.environ
        | {
            "MOODSTREAM_MLFLOW_URL": server.url,
            "MOODSTREAM_TRAINING_DATA": settings.data,
            "MOODSTREAM_TRAINING_FOLDS": "2",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }
        | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_corrections_that_cannot_be_read_end_the_job_before_it_trains(
    server: MLflow, client: MlflowClient, good: TrainingSettings
) -> None:
    running = job(
        server,
        good,
        MOODSTREAM_TRAINING_CORRECTIONS="true",
        MOODSTREAM_POSTGRES_HOST="127.0.0.1",
        MOODSTREAM_POSTGRES_PORT=str(free_port()),
    )
    out, err = running.communicate(timeout=_TRAINING_SECONDS)

    assert (running.returncode, out) == (1, "")
    assert "training: the corrections cannot be read from 127.0.0.1" in err
    assert "MOODSTREAM_POSTGRES_HOST" in err
    assert "training.candidate" not in err
    assert "Traceback" not in err
    assert not client.search_registered_models()


def test_an_mlflow_that_stops_while_a_model_is_trained_is_one_sentence(
    server: MLflow, good: TrainingSettings
) -> None:
    running = job(server, good)
    assert running.stderr is not None
    first_lines = []
    for line in running.stderr:
        first_lines.append(line)
        if "training.candidate" in line:
            break

    server.process.stop()
    try:
        out, err = running.communicate(timeout=_TRAINING_SECONDS)
    finally:
        server.start()

    said = "".join(first_lines) + err
    assert (running.returncode, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"training: MLflow at {server.url} has failed: ")
    assert "Traceback" not in said


def test_an_mlflow_that_cannot_write_its_files_is_one_sentence(
    server: MLflow,
    registry: Registry,
    good: TrainingSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    aside = server.artifacts.with_name("aside")
    server.artifacts.rename(aside)
    server.artifacts.write_text("a file where the folder was")

    try:
        with pytest.raises(TemporaryError, match=r"has failed.*room"):
            train(good, registry, LENIENT)
    finally:
        server.artifacts.unlink()
        aside.rename(server.artifacts)

    assert registry.aliases() == {}


def test_every_call_says_that_mlflow_is_away(
    server: MLflow, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    calls: list[Any] = [
        registry.aliases,
        lambda: registry.set_alias(CHAMPION, "1"),
        lambda: registry.version_of("1"),
        lambda: registry.fetch("1", tmp_path),
    ]

    server.process.stop()
    try:
        for call in calls:
            with pytest.raises(TemporaryError, match=r"MLflow at .* has failed"):
                call()
    finally:
        server.start()
