"""The page about backups: what it dumps, its own command brings back."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.core.postgres import connect, transaction
from services.local.postgres import _BINARIES, Postgres
from tests import pages
from tests.integration.conftest import PostgresHandle
from tests.integration.warehouse import add_posts
from tests.tools import ROOT

_PAGE = ROOT / "docs" / "how-to" / "back-up-and-restore.md"
_POSTS = 500


def _rows(postgres: PostgresHandle, query: str) -> list[tuple[object, ...]]:
    connection = connect(postgres.settings, "test")
    with transaction(connection, 30) as cursor:
        cursor.execute(query)
        found = cursor.fetchall()
    connection.close()
    return found


def _run(server: Postgres, program: str, database: str, file: Path) -> None:
    """The page's command for the warehouse, without kubectl, on another database."""
    words = next(call.words for call in pages.calls(_PAGE) if program in call.words)
    arguments = [
        database if word == "moodstream" else word for word in words[words.index(program) + 1 :]
    ]
    settings = server.settings_of(database, "postgres")
    assert settings.password is not None
    connection = {
        "PGHOST": settings.host,
        "PGPORT": str(settings.port),
        "PGUSER": settings.user,
        "PGPASSWORD": settings.password.get_secret_value(),
    }
    dumps = program == "pg_dump"
    with file.open("wb" if dumps else "rb") as stream:
        done = subprocess.run(
            [str(_BINARIES / program), *arguments],
            env=os.environ | connection,
            stdin=None if dumps else stream,
            stdout=stream if dumps else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("lost", ["DELETE FROM posts", "DROP TABLE posts CASCADE"])
def test_a_dump_brings_back_posts_counts_and_views(
    postgres_server: Postgres, postgres: PostgresHandle, tmp_path: Path, lost: str
) -> None:
    add_posts(postgres.settings, datetime(2026, 5, 1, tzinfo=UTC), _POSTS)
    days = _rows(postgres, "SELECT * FROM sentiment_by_day ORDER BY 1, 2")
    dump = tmp_path / "moodstream.dump"

    _run(postgres_server, "pg_dump", postgres.settings.database, dump)
    connection = connect(postgres.settings, "test")
    with transaction(connection, 30) as cursor:
        cursor.execute(lost)
    connection.close()
    _run(postgres_server, "pg_restore", postgres.settings.database, dump)

    assert _rows(postgres, "SELECT count(*) FROM posts") == [(_POSTS,)]
    assert _rows(postgres, "SELECT * FROM sentiment_by_day ORDER BY 1, 2") == days
    assert _rows(postgres, "SELECT * FROM rollup_errors") == []
