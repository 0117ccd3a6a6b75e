"""Large answers of PostgreSQL in constant memory: a cursor that stays on the server."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from services.core.postgres import Cursor

_ROWS: Final = 1_000
"""Rows in memory at a time: 1 MB of posts, 40 MB when all are as long as can be."""


def batches(
    cursor: Cursor, query: str, parameters: Mapping[str, Any], silence_seconds: int
) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a query within a transaction, some at a time and never an empty list, all as of
    one moment. The server ends the transaction when the next batch is not asked for within
    `silence_seconds`.
    """
    # Otherwise the few seconds that core gives a client, which a slow reader of ours would exceed.
    cursor.execute(
        "SET LOCAL idle_in_transaction_session_timeout = %s", (f"{silence_seconds * 1000}ms",)
    )
    cursor.execute(f"DECLARE batches NO SCROLL CURSOR FOR {query}", parameters)
    while True:
        cursor.execute("FETCH %s FROM batches", (_ROWS,))
        if not (rows := cursor.fetchall()):
            cursor.execute("CLOSE batches")
            return
        yield rows
