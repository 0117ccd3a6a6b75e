"""The views are a contract: documented whole, kept, and readable by who may only read."""

import re
from uuid import uuid4

import pytest
from pydantic import SecretStr

from docs.views import PAGE, page
from services.core.postgres import NotAllowedError, connect, transaction
from services.core.settings import PostgresSettings
from services.local.postgres import _SUPERUSER, Postgres
from tests.integration.conftest import PostgresHandle

VIEWS = sorted(re.findall(r"^## (\w+)$", PAGE.read_text(), re.MULTILINE))


@pytest.fixture
def reader(postgres: PostgresHandle, postgres_server: Postgres) -> PostgresSettings:
    """A role that may read everything and write nothing, as the platform's chart makes it."""
    role = f"reader-{uuid4().hex[:8]}"
    connection = connect(postgres_server.settings_of("postgres", _SUPERUSER), "test")
    with transaction(connection, 10) as cursor:
        cursor.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'reads' IN ROLE pg_read_all_data")
    connection.close()
    return postgres.settings.model_copy(update={"user": role, "password": SecretStr("reads")})


def test_the_page_says_what_the_database_has(postgres: PostgresHandle) -> None:
    connection = connect(postgres.settings, "test")
    with transaction(connection, 10) as cursor:
        found = page(cursor)
    connection.close()

    assert "None" not in found, "a view or column has no comment: see 0007_comments"
    assert PAGE.read_text() == found, (
        "run: make docs; a column that is gone or changed breaks users"
    )


@pytest.mark.parametrize("view", VIEWS)
def test_who_may_only_read_reads_every_view(reader: PostgresSettings, view: str) -> None:
    connection = connect(reader, "test")
    with transaction(connection, 10) as cursor:
        cursor.execute(f"SELECT * FROM {view} LIMIT 1")  # noqa: S608 - a name of the page
        rows = cursor.fetchall()
    connection.close()

    assert rows == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM posts",
        "INSERT INTO rules (name, rule) VALUES ('a', '{}')",
        "UPDATE rollup_minute SET posts = 0",
        "DROP VIEW predictions",
        "CREATE TABLE mine (id integer)",
    ],
)
def test_who_may_only_read_writes_nothing(reader: PostgresSettings, statement: str) -> None:
    connection = connect(reader, "test")
    with pytest.raises(NotAllowedError), transaction(connection, 10) as cursor:
        cursor.execute(statement)
    connection.close()
