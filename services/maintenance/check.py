"""Whether what the environment names can be reached from here: what `helm test` runs in a pod with
the settings of a service.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, TypeVar

import urllib3
from kafka.errors import KafkaError
from pydantic_settings import BaseSettings

from services.core.errors import MoodstreamError, TemporaryError
from services.core.inference import InferenceClient
from services.core.kafka import make_consumer
from services.core.postgres import connect, transaction
from services.core.settings import InferenceSettings, KafkaSettings, PostgresSettings, load
from services.maintenance.settings import CheckSettings

_REQUEST_SECONDS: Final = 5.0
_EXAMPLE: Final = "Is anybody there?"

Target = tuple[str, Callable[[], str]]
"""A name, and what asks it: the answer in a few words, or an error that says what is wrong."""

S = TypeVar("S", bound=BaseSettings)


class UnreachableError(MoodstreamError):
    """At least one target does not answer as it should."""


class NothingToCheckError(MoodstreamError):
    """The environment names nothing."""


def targets() -> list[Target]:
    """One for each address that the environment names; a default names nothing."""
    return list(_targets())


def _targets() -> Iterator[Target]:
    if (postgres := _named(PostgresSettings, "host")) is not None:
        yield f"postgres {postgres.host}:{postgres.port}", partial(_ask_postgres, postgres)
    if (kafka := _named(KafkaSettings, "bootstrap_servers")) is not None:
        yield f"kafka {kafka.bootstrap_servers}", partial(_ask_kafka, kafka)
    if (inference := _named(InferenceSettings, "url")) is not None:
        yield f"predictor {inference.url}", partial(_ask_predictor, inference)
    for url in filter(None, map(str.strip, load(CheckSettings).urls.split(","))):
        yield url, partial(_ask_http, url)


def _named(group: type[S], field: str) -> S | None:
    settings = load(group)
    return settings if field in settings.model_fields_set else None


def _ask_postgres(settings: PostgresSettings) -> str:
    connection = connect(settings, "moodstream check")
    try:
        with transaction(connection, _REQUEST_SECONDS) as cursor:
            cursor.execute("SELECT current_user, current_database()")
            ((user, database),) = cursor.fetchall()
    finally:
        connection.close()
    return f"{user} in {database}"


def _ask_kafka(settings: KafkaSettings) -> str:
    try:
        consumer = make_consumer(settings, group=None)
        try:
            partitions = consumer.partitions_for_topic(settings.posts_topic)
        finally:
            consumer.close()
    except KafkaError as exc:
        raise TemporaryError(f"Kafka: {exc}") from exc
    if not partitions:
        raise TemporaryError(f"no Kafka topic {settings.posts_topic!r}, or no right to see it")
    return f"{len(partitions)} partitions of {settings.posts_topic}"


def _ask_predictor(settings: InferenceSettings) -> str:
    scored = InferenceClient(settings).score([_EXAMPLE])
    return f"{scored.model_name} {scored.model_version}"


def _ask_http(url: str) -> str:
    try:
        answer = urllib3.request("GET", url, timeout=_REQUEST_SECONDS, retries=False)
    except urllib3.exceptions.HTTPError as exc:
        raise TemporaryError(f"no answer: {exc}") from exc
    if answer.status >= 300:
        raise TemporaryError(f"answered {answer.status}")
    return str(answer.status)
