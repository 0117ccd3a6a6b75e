"""What became of versions, in the warehouse: a row in `promotions` for the dashboard, one in the
outbox for the notifier. A copy: the memory is in MLflow, so a row may come late but holds nothing
up.
"""

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final

from psycopg2.extras import execute_batch

from services.core.contract import RolloutState
from services.core.gate import Check
from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings

log = logging.getLogger(__name__)

_KIND: Final = "model.rollout"
_QUEUE_ROWS: Final = 1_000
_TRANSACTION_SECONDS: Final = 3.0
_AGAIN_SECONDS: Final = 30.0
"""Pause after a failure: one that has to be waited for must not come at each round."""

_INSERT: Final = """
WITH inserted AS (
    INSERT INTO promotions (alias, version, state, reason, checks, at)
    VALUES (%(alias)s, %(version)s, %(state)s, %(reason)s, %(checks)s, %(at)s)
    ON CONFLICT DO NOTHING
    RETURNING 1
)
INSERT INTO outbox (kind, payload) SELECT %(kind)s, %(payload)s FROM inserted
"""

_Key = tuple[str, str, RolloutState, datetime]


class Journal:
    """Rows that are still to be written, and those that were. Not thread-safe."""

    def __init__(
        self, settings: PostgresSettings | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Without settings everything is forgotten."""
        self._settings = settings
        self._clock = clock
        self._queue: OrderedDict[_Key, dict[str, Any]] = OrderedDict()
        self._written: OrderedDict[_Key, None] = OrderedDict()
        self._not_before = 0.0

    def record(
        self,
        alias: str,
        version: str,
        state: RolloutState,
        reason: str,
        checks: Sequence[Check],
        at: datetime,
    ) -> None:
        """Keeps a row for the next `flush`; the oldest goes when a thousand wait. Recording again
        what was recorded, by this process or another, changes nothing.
        """
        key = (alias, version, state, at)
        if self._settings is None or key in self._queue or key in self._written:
            return
        said = {
            "alias": alias,
            "version": version,
            "state": state.value,
            "reason": _clean(reason),
            "at": at.astimezone(UTC).isoformat(),
        }
        found = [
            {"name": check.name, "passed": check.passed, "detail": _clean(check.detail)}
            for check in checks
        ]
        self._queue[key] = said | {
            "checks": json.dumps(found),
            "kind": _KIND,
            "payload": json.dumps(said),
        }
        if len(self._queue) > _QUEUE_ROWS:
            self._queue.popitem(last=False)

    def flush(self) -> None:
        """Writes what is kept, in one transaction. While PostgreSQL is away it stays kept, and is
        tried again half a minute later at the earliest. Takes seconds at most, raises nothing.
        """
        if self._settings is None or not self._queue or self._clock() < self._not_before:
            return
        try:
            with (
                closing(connect(self._settings, "moodstream-promoter")) as connection,
                transaction(connection, _TRANSACTION_SECONDS) as cursor,
            ):
                execute_batch(cursor, _INSERT, list(self._queue.values()))
        except Exception as exc:  # whatever refuses a copy must not hold up what it is a copy of
            self._not_before = self._clock() + _AGAIN_SECONDS
            log.warning("journal.kept", extra={"rows": len(self._queue), "detail": str(exc)})
            return
        self._written.update(dict.fromkeys(self._queue))
        self._queue.clear()
        while len(self._written) > _QUEUE_ROWS:
            self._written.popitem(last=False)


def _clean(text: str) -> str:
    """What PostgreSQL's text and jsonb take: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "\\0").encode(errors="replace").decode()
