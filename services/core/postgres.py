"""The one module that knows the PostgreSQL client library: connections that fail in bounded time,
and their errors.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Final

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from sqlalchemy import URL

from services.core.errors import MoodstreamError, TemporaryError
from services.core.settings import PostgresSettings

__all__ = [
    "Connection",
    "Cursor",
    "NotAllowedError",
    "connect",
    "sqlalchemy_url",
    "transaction",
]

_CONNECT_SECONDS: Final = 5
_TCP_USER_TIMEOUT_MILLISECONDS: Final = 10_000
_KEEPALIVE_SECONDS: Final = 5
_FROZEN_CLIENT_MILLISECONDS: Final = 5_000
"""The server ends a transaction whose client has fallen silent: a process that is frozen, or on a
machine that is gone, would hold its row locks for ever and block whoever takes over its work.
"""
_OUTAGES: Final = (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.InternalError)
"""Errors of the surroundings, not of the data: lost connections, shutdowns, deadlocks, full disks,
read-only servers.
"""


class NotAllowedError(MoodstreamError):
    """The role may not do this; the message names the table."""


def connect(settings: PostgresSettings, application: str) -> Connection:
    """A connection to a server that accepts writes. Raises TemporaryError when there is none."""
    password = settings.password
    try:
        return psycopg2.connect(
            host=settings.host,
            port=settings.port,
            dbname=settings.database,
            user=settings.user,
            password=password.get_secret_value() if password else None,
            sslmode=settings.sslmode,
            application_name=application,
            connect_timeout=_CONNECT_SECONDS,
            tcp_user_timeout=_TCP_USER_TIMEOUT_MILLISECONDS,
            keepalives_idle=_KEEPALIVE_SECONDS,
            target_session_attrs="read-write",
            options="-c timezone=UTC "
            f"-c idle_in_transaction_session_timeout={_FROZEN_CLIENT_MILLISECONDS}",
        )
    except _OUTAGES as exc:
        raise TemporaryError(f"PostgreSQL: {exc}".strip()) from exc


def sqlalchemy_url(settings: PostgresSettings) -> URL:
    """The same server for libraries on SQLAlchemy. Rendered, it holds the password."""
    password = settings.password
    return URL.create(
        "postgresql+psycopg2",
        username=settings.user,
        password=password.get_secret_value() if password else None,
        host=settings.host,
        port=settings.port,
        database=settings.database,
        query={"sslmode": settings.sslmode},
    )


@contextmanager
def transaction(connection: Connection, deadline_seconds: float) -> Iterator[Cursor]:
    """One transaction: committed at the end of the block, rolled back on any error.

    Raises NotAllowedError, or TemporaryError when the server is away, refuses for now, or has not
    finished at the deadline. The outcome of a commit that was cut off is unknown: the caller must
    be able to repeat the block. The connection is closed after a TemporaryError, because the
    library keeps calling a dead one open.
    """
    timer = Timer(deadline_seconds, _cut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        with connection.cursor() as cursor:
            yield cursor
        connection.commit()
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn) as exc:
        connection.close()
        raise TemporaryError(
            f"PostgreSQL: {str(exc).splitlines()[0]}: the schema is older than this release; "
            "run python -m services.maintenance migrate"
        ) from exc
    except (*_OUTAGES, psycopg2.errors.ReadOnlySqlTransaction) as exc:
        connection.close()
        raise TemporaryError(f"PostgreSQL: {exc}".strip()) from exc
    except psycopg2.errors.InsufficientPrivilege as exc:
        connection.rollback()
        raise NotAllowedError(f"PostgreSQL: {str(exc).splitlines()[0]}") from exc
    except BaseException:
        connection.rollback()
        raise
    finally:
        timer.cancel()


def _cut(connection: Connection) -> None:
    """Ends a call that hangs in a frozen server: its kernel still acknowledges, so no TCP timeout
    does.
    """
    if not connection.closed:
        with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
