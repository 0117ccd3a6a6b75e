"""The dashboard with a role of its own: it does what people do there, and nothing else."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from services.core.postgres import NotAllowedError
from services.core.settings import PostgresSettings
from services.local.postgres import Postgres
from services.maintenance.rights import allow_dashboard
from tests.integration.conftest import PostgresHandle
from tests.integration.test_corrections import query, reader
from tests.integration.test_dashboard import serving

RULE = {"name": "silent", "kind": "silence", "threshold": 30, "channels": ["ops"]}


@pytest.fixture
def role(postgres: PostgresHandle, postgres_server: Postgres) -> PostgresSettings:
    """The dashboard's, after a migration."""
    role = reader(postgres, postgres_server)
    assert allow_dashboard(postgres.settings, role.user)
    return role


@pytest.fixture
def dashboard(postgres: PostgresHandle, role: PostgresSettings) -> Iterator[str]:
    """The address of one that runs with this role."""
    with serving_as(postgres, role) as url:
        yield url


def serving_as(postgres: PostgresHandle, role: PostgresSettings) -> AbstractContextManager[str]:
    assert role.password is not None
    password = role.password.get_secret_value()
    return serving(postgres, POSTGRES_USER=role.user, POSTGRES_PASSWORD=password)


def ask(dashboard: str, method: str, path: str, body: object = None) -> int:
    request = urllib.request.Request(
        f"{dashboard}/api/{path}",
        json.dumps(body).encode() if body is not None else b"",
        {"Content-Type": "application/json", "Origin": dashboard},
        method=method,
    )
    try:
        with urllib.request.urlopen(request) as answer:
            status: int = answer.status
    except urllib.error.HTTPError as exc:
        with exc:
            raise AssertionError(f"{exc.code}: {exc.read()!r}") from exc
    return status


def test_rules_are_written_tested_and_removed(dashboard: str, postgres: PostgresHandle) -> None:
    written = [
        ask(dashboard, "PUT", "rules/silent", RULE),
        ask(dashboard, "PUT", "rules/silent", RULE | {"threshold": 60}),
        ask(dashboard, "POST", "rules/silent/test"),
        ask(dashboard, "DELETE", "rules/silent"),
    ]

    assert written == [200, 200, 202, 204]
    assert query(postgres.settings, "SELECT kind FROM outbox") == [("alert.test",)]
    assert query(postgres.settings, "SELECT * FROM rules") == []


def test_a_message_is_sent_again(dashboard: str, postgres: PostgresHandle) -> None:
    [(ident,)] = query(
        postgres.settings,
        "INSERT INTO deliveries (channel, kind, payload, state, tries)"
        " VALUES ('ops', 'alert.test', '{}', 'failed', 10) RETURNING id::text",
    )

    status = ask(dashboard, "POST", f"deliveries/{ident}/replay")

    assert status == 202
    assert query(postgres.settings, "SELECT state, tries FROM deliveries") == [("pending", 0)]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM posts",
        "DELETE FROM corrections",
        "UPDATE outbox SET payload = '{}'",
        "UPDATE deliveries SET payload = '{}'",
        "DELETE FROM delivery_attempts",
        "INSERT INTO alerts (rule, kind, topic, posts, summary, opened_at)"
        " VALUES ('r', 'k', '*', 0, 's', now())",
        "UPDATE rollup_minute SET posts = 0",
        "CREATE TABLE mine ()",
    ],
)
def test_what_is_not_done_in_the_dashboard_is_refused(
    role: PostgresSettings, statement: str
) -> None:
    with pytest.raises(NotAllowedError):
        query(role, statement)


def test_a_role_without_these_rights_is_told_what_to_do(
    postgres: PostgresHandle, postgres_server: Postgres
) -> None:
    only_reads = reader(postgres, postgres_server)

    with (
        serving_as(postgres, only_reads) as dashboard,
        pytest.raises(AssertionError, match=r"403.*MOODSTREAM_MAINTENANCE_DASHBOARD_ROLE"),
    ):
        ask(dashboard, "PUT", "rules/silent", RULE)
