"""Writes docs/views.md from the comments in the database: `make docs`."""

import tempfile
from pathlib import Path
from typing import Final

from services.core.postgres import Cursor, connect, transaction
from tests.bench.warehouse import running

PAGE: Final = Path(__file__).with_name("views.md")
_SECONDS: Final = 30.0
_HEAD: Final = """# Views

The warehouse's views are its interface for Tableau, Metabase, Grafana and programs of yours.
They are kept: columns are added, never renamed, removed or given another type.
Times are `timestamptz`; a day is a day in UTC.
Connect as `moodstream-reader`, which may read everything and write nothing ([how](cluster.md)).
Tables that are not here may change with any release.
This page is written by `make docs` from the comments in the database.
"""

_TABLE: Final = "| column | type | meaning |\n| --- | --- | --- |\n"

_COLUMNS: Final = """
SELECT relname, obj_description(class.oid, 'pg_class') AS view_comment, attname,
    format_type(atttypid, atttypmod), col_description(class.oid, attnum)
FROM pg_class AS class JOIN pg_attribute ON attrelid = class.oid
WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped
ORDER BY relname, attnum
"""


def page(cursor: Cursor) -> str:
    """The whole page, from a database with the newest schema."""
    cursor.execute(_COLUMNS)
    parts, last = [_HEAD], None
    for view, meaning, column, kind, said in cursor.fetchall():
        if view != last:
            parts.append(f"\n## {view}\n\n{meaning}\n\n{_TABLE}")
            last = view
        parts.append(f"| `{column}` | {kind} | {said} |\n")
    return "".join(parts)


def main() -> None:
    """Starts a PostgreSQL for it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # PostgreSQL may run under another user.
        with running(Path(folder)) as postgres:
            connection = connect(postgres.settings, "docs")
            with transaction(connection, _SECONDS) as cursor:
                PAGE.write_text(page(cursor))
            connection.close()


if __name__ == "__main__":
    main()
