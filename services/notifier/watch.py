"""Judges the rules, and writes what begins and ends: alert and outbox row in one transaction, so
that neither is ever without the other. Of several notifiers the holder of a lock in the database
judges.
"""

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final

import orjson
from pydantic import ValidationError

from services.core.errors import TemporaryError
from services.core.postgres import Connection, Cursor, connect, transaction
from services.core.rules import Closed, Measurement, Open, Rule, judge, measure, reasons, summary
from services.core.settings import PostgresSettings
from services.notifier import metrics

log = logging.getLogger(__name__)

_LOCK: Final = 7_046_174
"""Key of the advisory lock that lets one notifier judge; any constant that no
other service has does."""
_SECONDS: Final = 30.0

_RULES: Final = "SELECT name, rule FROM rules ORDER BY name"

_STATE: Final = """
SELECT opened_at, closed_at FROM alerts WHERE rule = %s ORDER BY opened_at DESC, id DESC LIMIT 1
"""

_OPEN: Final = """
WITH opened AS (
    INSERT INTO alerts (rule, kind, topic, value, usual, posts, summary, opened_at)
    VALUES (%(rule)s, %(kind)s, %(topic)s, %(value)s, %(usual)s, %(posts)s, %(summary)s, %(at)s)
    ON CONFLICT DO NOTHING
    RETURNING id
)
INSERT INTO outbox (kind, payload)
SELECT 'alert.opened', %(payload)s::jsonb || jsonb_build_object('alert', id) FROM opened
"""

_CLOSE: Final = """
WITH closed AS (
    UPDATE alerts SET closed_at = %(at)s WHERE rule = %(rule)s AND closed_at IS NULL RETURNING id
)
INSERT INTO outbox (kind, payload)
SELECT 'alert.closed', %(payload)s::jsonb || jsonb_build_object('alert', id) FROM closed
"""

# A rule that is gone, or off, holds nothing open.
_FORGET: Final = """
UPDATE alerts SET closed_at = now() WHERE closed_at IS NULL AND NOT rule = ANY (%s)
"""


class Watch:
    """One connection that holds the lock, and judges. Not thread-safe."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self._connection: Connection | None = None
        self._said: dict[str, str] = {}

    def round(self) -> None:
        """Judges every rule once, if this notifier is the one that does. Raises TemporaryError."""
        leads = self._lead()
        metrics.LEADER.set(leads)
        if not leads:
            return
        for rule in self._rules():
            with self._transaction() as cursor:
                self._judge(cursor, rule)
        with self._transaction() as cursor:
            cursor.execute("SELECT count(*) FROM alerts WHERE closed_at IS NULL")
            metrics.OPEN.set(_one(cursor))

    def _lead(self) -> bool:
        """The lock lasts as long as the connection."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._settings, "moodstream-notifier")
        with self._transaction() as cursor:
            # Asked for again by its holder it is given again; it need not be counted.
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted "
                "AND objid = %(key)s AND pid = pg_backend_pid() AND database = "
                "(SELECT oid FROM pg_database WHERE datname = current_database())) "
                "OR pg_try_advisory_lock(%(key)s)",
                {"key": _LOCK},
            )
            return bool(_one(cursor))

    def _rules(self) -> list[Rule]:
        with self._transaction() as cursor:
            cursor.execute(_RULES)
            rows = cursor.fetchall()
            rules = list(self._readable(rows))
            watched = [rule.name for rule in rules if rule.kind != "model"]
            cursor.execute(_FORGET, (watched,))
        return [rule for rule in rules if rule.kind != "model"]

    def _readable(self, rows: Iterable[tuple[str, Any]]) -> Iterable[Rule]:
        """The rules that are on. One that this release cannot read is said once, and left alone."""
        for name, stored in rows:
            try:
                rule = Rule.model_validate(stored)
            except ValidationError as exc:
                if self._said.get(name) != str(stored):
                    self._said[name] = str(stored)
                    log.warning("rule.unreadable", extra={"rule": name, "reason": reasons(exc)})
                continue
            if rule.enabled:
                yield rule

    def _judge(self, cursor: Cursor, rule: Rule) -> None:
        cursor.execute("SELECT clock_timestamp()")
        at: datetime = _one(cursor)
        (found,) = measure(cursor, rule, [at])
        cursor.execute(_STATE, (rule.name,))
        last = cursor.fetchone()
        state: Open | Closed
        if last is None:
            state = Closed()
        else:
            opened, closed = last
            state = Open(opened) if closed is None else Closed(opened)
        decision = judge(rule, state, found)
        if decision is None:
            return
        parameters = _row(rule, found, decision)
        cursor.execute(_OPEN if decision == "open" else _CLOSE, parameters)
        if decision == "open":
            metrics.OPENED.labels(rule.kind).inc()
        log.info(f"alert.{decision}", extra={"rule": rule.name, "summary": parameters["summary"]})

    def _transaction(self) -> AbstractContextManager[Cursor]:
        if self._connection is None or self._connection.closed:
            # A new connection would judge without the lock.
            raise TemporaryError("PostgreSQL: the connection was lost")
        return transaction(self._connection, _SECONDS)


def _row(rule: Rule, found: Measurement, decision: str) -> dict[str, Any]:
    said = summary(rule, found)
    payload = {
        "rule": rule.name,
        "kind": rule.kind,
        "topic": rule.topic,
        "value": found.value,
        "usual": found.usual,
        "posts": found.posts,
        "summary": said,
        "at": found.at.isoformat(),
        "channels": list(rule.channels),
        "quiet": rule.quiet.model_dump(mode="json") if rule.quiet else None,
    }
    return {
        "rule": rule.name,
        "kind": rule.kind,
        "topic": rule.topic,
        "value": found.value,
        "usual": found.usual,
        "posts": found.posts,
        "summary": said,
        "at": found.at,
        "payload": orjson.dumps(payload).decode(),
    }


def _one(cursor: Cursor) -> Any:
    ((value,),) = cursor.fetchall()
    return value
