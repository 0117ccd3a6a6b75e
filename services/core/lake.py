"""What the lake's jobs and the retention must agree on: one of them at a time touches the posts of
a day that the lake holds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from services.core.errors import TemporaryError
from services.core.postgres import Connection, connect, transaction
from services.core.settings import PostgresSettings

_LOCK: Final = 7_046_172
"""Key of the advisory lock; any constant does."""
_TRANSACTION_SECONDS: Final = 60.0


@contextmanager
def exclusive(settings: PostgresSettings, application: str) -> Iterator[Connection]:
    """A connection that holds the lake's lock: whoever writes with it still has the lock, because
    the server takes it back only with the connection.

    Raises TemporaryError when another job has the lock or the database is away.
    """
    connection = connect(settings, application)
    try:
        with transaction(connection, _TRANSACTION_SECONDS) as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))
            if cursor.fetchone() != (True,):
                raise TemporaryError(
                    "another job of the lake, or a prune, is at work; run this again when it is "
                    "done"
                )
        yield connection
    finally:
        connection.close()
