"""Corrections over a real warehouse: through the dashboard's API and from a file."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from services.cli import app
from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings
from services.dashboard.corrections import Correction, ForbiddenError, store
from services.local.postgres import _SUPERUSER, Postgres
from services.maintenance.rights import allow_dashboard
from tests.integration.conftest import PostgresHandle
from tests.integration.test_dashboard import serving
from tests.integration.test_dashboard import store as store_posts
from tests.integration.test_maintenance import maintain, postgres_variables, result

TOKEN = "a-token-of-the-test"  # noqa: S105 - of the test


def query(settings: PostgresSettings, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
    connection = connect(settings, "test")
    with transaction(connection, 30) as cursor:
        cursor.execute(sql, arguments or None)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


def stored(postgres: PostgresHandle) -> list[tuple[Any, ...]]:
    return query(
        postgres.settings,
        "SELECT source, post_id, label, predicted_label, model_version, corrected_by "
        "FROM corrections ORDER BY id",
    )


def post(url: str, body: bytes | dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and answer of a correction sent as the page sends it; headers replace its own."""
    sent = {"Content-Type": "application/json", "Origin": url} | headers
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/api/corrections", data, sent)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


CORRECTION = {"source": "replay", "id": "0", "label": "negative", "by": "Ada"}


def test_a_correction_is_stored_with_who_and_what_the_model_had_said(
    postgres: PostgresHandle,
) -> None:
    store_posts(postgres, ["oh great, late again"])

    with serving(postgres) as url:
        answer = post(url, CORRECTION | {"by": " Ada "})
        with urllib.request.urlopen(f"{url}/api/snapshot") as snapshot:
            newest = json.load(snapshot)["newest"][0]

    assert answer == (201, CORRECTION)
    assert stored(postgres) == [("replay", "0", "negative", "positive", "1", "Ada")]
    assert (newest["label"], newest["corrected_label"], newest["corrected_by"]) == (
        "positive",
        "negative",
        "Ada",
    )


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"id": "nobody"}, 404),
        ({"label": "angry"}, 422),
        ({"label": None}, 422),
        ({"by": "  "}, 422),
        ({"by": "a\u0000b"}, 422),
        ({"id": "\ud800"}, 422),
        ({"extra": 1}, 422),
        ({"by": "x" * 10_000}, 413),
    ],
)
def test_what_is_no_correction_is_refused_with_a_sentence(
    postgres: PostgresHandle, change: dict[str, Any], status: int
) -> None:
    store_posts(postgres, ["fine"])

    with serving(postgres) as url:
        code, answer = post(url, CORRECTION | change)

    assert code == status
    assert answer["problem"]
    assert stored(postgres) == []


def test_a_page_from_elsewhere_stores_nothing(postgres: PostgresHandle) -> None:
    store_posts(postgres, ["fine"])

    with serving(postgres) as url:
        statuses = [
            post(url, CORRECTION, Origin="http://evil.example")[0],
            post(url, CORRECTION, Host="evil.example", Origin="http://evil.example")[0],
            post(url, CORRECTION, **{"Content-Type": "text/plain"})[0],
            post(url, CORRECTION, **{"X-Forwarded-For": "10.0.0.1"})[0],
            post(url, b"[" * 1_000)[0],
        ]

    assert statuses == [403, 403, 415, 403, 422]
    assert stored(postgres) == []


def test_with_a_token_everybody_needs_it(postgres: PostgresHandle) -> None:
    store_posts(postgres, ["fine"])

    with serving(postgres, DASHBOARD_EDITOR_TOKEN=TOKEN) as url:
        without = post(url, CORRECTION)[0]
        wrong = post(url, CORRECTION, Authorization="Bearer something-else")[0]
        right = post(url, CORRECTION, Authorization=f"Bearer {TOKEN}")[0]

    assert (without, wrong, right) == (401, 401, 201)


def reader(postgres: PostgresHandle, server: Postgres) -> PostgresSettings:
    """A role as the platform chart's reader: it may read everything and write nothing."""
    role = f"reader-{uuid4().hex[:8]}"
    query(
        server.settings_of("postgres", _SUPERUSER),
        f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'reads' IN ROLE pg_read_all_data",
    )
    return postgres.settings.model_copy(update={"user": role, "password": SecretStr("reads")})


def test_a_role_that_may_only_read_corrects_once_the_migration_lets_it(
    postgres: PostgresHandle, postgres_server: Postgres
) -> None:
    store_posts(postgres, ["fine"])
    correction = Correction.model_validate(CORRECTION)
    role = reader(postgres, postgres_server)
    with pytest.raises(ForbiddenError, match="GRANT INSERT ON corrections TO"):
        store(role, [correction])

    migrated = result(
        maintain("migrate", postgres.settings, MOODSTREAM_MAINTENANCE_DASHBOARD_ROLE=role.user)
    )
    store(role, [correction])

    assert migrated["dashboard_may_write"] == role.user
    assert allow_dashboard(postgres.settings, role.user)
    assert len(stored(postgres)) == 1


def test_a_role_that_is_not_there_does_not_hold_up_the_migration(postgres: PostgresHandle) -> None:
    assert not allow_dashboard(postgres.settings, "nobody'; DROP TABLE posts; --")


def correct(postgres: PostgresHandle, home: Path, text: str, by: str = "Ada") -> Result:
    """`moodstream correct` on a file with that text."""
    path = home / "labels.csv"
    path.write_text(text, encoding="utf-8")
    variables = postgres_variables(postgres.settings) | {
        "MOODSTREAM_LOCAL_HOME": str(home / "state"),
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }
    return CliRunner().invoke(app, ["correct", str(path), "--by", by, "--json"], env=variables)


def test_a_file_of_corrections_is_stored(postgres: PostgresHandle, tmp_path: Path) -> None:
    store_posts(postgres, ["one", "two", "three"])

    done = correct(
        postgres,
        tmp_path,
        '\ufeffsource,id,note,label\nreplay,0,"two\nlines",neutral\nreplay,2,,negative\n',
    )

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1]) == {"corrections": 2}
    assert stored(postgres) == [
        ("replay", "0", "neutral", "positive", "1", "Ada"),
        ("replay", "2", "negative", "positive", "1", "Ada"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source,id,label\nreplay,0,neutral\nreplay,9,neutral\n", "line 3: no post replay/9"),
        ("source,id,label\nreplay,0,neutral\nreplay,1,angry\n", "line 3: label: "),
        ("source,id,label\nreplay,0,neutral\nreplay\n", "line 3: id: "),
        ("source,id\nreplay,0\n", "line 1: no column label"),
        ("source,id,label\n", "no corrections in it"),
        ("", "line 1: no column source, id, label"),
        ('source,id,label\nreplay,0,neutral\nreplay,"1"x,neutral\n', "line 3: "),
    ],
)
def test_a_file_with_one_bad_line_stores_nothing_and_names_the_line(
    postgres: PostgresHandle, tmp_path: Path, text: str, said: str
) -> None:
    store_posts(postgres, ["one", "two"])

    done = correct(postgres, tmp_path, text)

    assert done.exit_code == 1
    assert said in done.stderr
    assert stored(postgres) == []


def test_nobody_corrects_without_a_name(postgres: PostgresHandle, tmp_path: Path) -> None:
    store_posts(postgres, ["one"])

    done = correct(postgres, tmp_path, "source,id,label\nreplay,0,neutral\n", by=" ")

    assert done.exit_code == 1
    assert "line 2: by: " in done.stderr
