"""From the outbox to the channels, at least once: a message gets a row with an id that never
changes, then tries until one succeeds.

What the outbox holds is handed over in one transaction, coalesced: everything that waits for a
channel becomes one message, and a channel gets one message at a time with a pause between. A try is
claimed by moving its next try into the future; a notifier that is killed between sending and
writing it down leaves a message that is sent again, with the same id.
"""

import logging
import random
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from pydantic import ValidationError

from services.core.contract import RolloutState
from services.core.events import ALL_TOPICS
from services.core.postgres import Connection, Cursor, connect, transaction
from services.core.rules import Quiet, Rule
from services.core.settings import PostgresSettings
from services.notifier import metrics
from services.notifier.send import Outcome, Sender
from services.notifier.settings import Channel, NotifierSettings

log = logging.getLogger(__name__)

SCHEDULE: Final = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before each try, as Standard Webhooks recommends."""
_JITTER: Final = 0.1
_MOST_WAIT: Final = 86_400.0
_SECONDS: Final = 30.0
_CLAIM_SECONDS: Final = 90
"""Longer than a try can take: a claim that is this old belongs to nobody."""
_AT_ONCE: Final = 4
_HANDED_OVER: Final = 500
_LINES: Final = 20
_KINDS: Final = ("alert.opened", "alert.closed", "alert.test", "model.rollout")

_WAITING: Final = """
SELECT id, kind, payload, created_at FROM outbox
WHERE delivered_at IS NULL AND kind = ANY (%s)
    AND (NOT payload ? 'waiting' OR payload->'waiting' ?| %s)
    AND coalesce((payload->>'not_before')::timestamptz, '-infinity') <= now()
ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
"""

# A channel that had a message a moment ago, or has one under way, waits.
_BUSY: Final = """
SELECT DISTINCT channel FROM deliveries
WHERE state = 'pending' AND tries = 0 OR created_at > now() - make_interval(secs => %s)
"""

_MESSAGE: Final = """
INSERT INTO deliveries (channel, kind, payload, next_at, state) VALUES (%s, %s, %s, %s, %s)
"""
_DONE: Final = "UPDATE outbox SET delivered_at = now() WHERE id = ANY (%s)"
_LEFT: Final = "UPDATE outbox SET payload = payload || %s WHERE id = %s"

_CLAIM: Final = """
UPDATE deliveries SET next_at = now() + make_interval(secs => %s), tries = tries + 1
WHERE id IN (
    SELECT id FROM deliveries WHERE state = 'pending' AND next_at <= now() AND channel = ANY (%s)
    ORDER BY next_at LIMIT %s FOR UPDATE SKIP LOCKED
)
RETURNING id::text, channel, payload, tries
"""

_ATTEMPT: Final = """
INSERT INTO delivery_attempts (delivery, status, problem, seconds) VALUES (%s, %s, %s, %s)
"""
_DELIVERED: Final = """
UPDATE deliveries SET state = 'delivered', delivered_at = now() WHERE id = %s
"""
_FAILED: Final = "UPDATE deliveries SET state = 'failed' WHERE id = %s"
_AGAIN: Final = """
UPDATE deliveries SET next_at = now() + make_interval(secs => %s) WHERE id = %s
"""
_REFUSED: Final = """
WITH refused AS (UPDATE channels SET refused_at = now() WHERE name = %(name)s)
UPDATE deliveries SET state = 'failed' WHERE channel = %(name)s AND state = 'pending'
"""

_CHANNELS: Final = """
INSERT INTO channels (name, kind) SELECT * FROM unnest(%s::text[], %s::text[])
ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, seen_at = now(), refused_at = NULL
"""
_GONE: Final = "DELETE FROM channels WHERE NOT name = ANY (%s)"

_PENDING: Final = """
SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8
FROM deliveries WHERE state = 'pending'
"""


@dataclass(frozen=True)
class News:
    """One outbox row for one channel."""

    kind: str
    at: datetime
    data: dict[str, Any]


class Deliverer:
    """Hands over and sends. Not thread-safe; each try runs in a thread of its own."""

    def __init__(
        self,
        postgres: PostgresSettings,
        settings: NotifierSettings,
        channels: Mapping[str, Channel],
        sender: Sender | None = None,
    ) -> None:
        self._postgres = postgres
        self._settings = settings
        self._channels = channels
        self._sender = sender or Sender(settings.send_seconds, settings.allowed_hosts)
        # Spreads retries; nothing secret.
        self._chance = random.Random().random  # noqa: S311
        self._connection: Connection | None = None
        self._named = False

    def round(self) -> None:
        """Hands over what waits, then sends what is due. Raises TemporaryError; nothing is lost
        then.
        """
        with transaction(self._open(), _SECONDS) as cursor:
            if not self._named:
                self._name_channels(cursor)
            self._hand_over(cursor)
        self._named = True
        with transaction(self._open(), _SECONDS) as cursor:
            cursor.execute("SELECT name FROM channels WHERE refused_at IS NULL")
            willing = [name for (name,) in cursor.fetchall() if name in self._channels]
            cursor.execute(_CLAIM, (_CLAIM_SECONDS, willing, _AT_ONCE))
            due = cursor.fetchall()
            cursor.execute(_PENDING)
            ((pending, oldest),) = cursor.fetchall()
        metrics.PENDING.set(pending)
        metrics.OLDEST_SECONDS.set(oldest)
        if due:
            with ThreadPoolExecutor(len(due)) as threads:
                for _ in threads.map(self._try, due):
                    pass

    def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._postgres, "moodstream-deliverer")
        return self._connection

    def _name_channels(self, cursor: Cursor) -> None:
        names = list(self._channels)
        cursor.execute(_CHANNELS, (names, [self._channels[name].kind for name in names]))
        cursor.execute(_GONE, (names,))

    def _hand_over(self, cursor: Cursor) -> None:
        """Outbox rows become messages; a row stays as long as one of its channels is busy or its
        quiet hours last.
        """
        cursor.execute(_BUSY, (self._settings.gap_seconds,))
        busy = {name for (name,) in cursor.fetchall()}
        cursor.execute("SELECT name FROM channels WHERE refused_at IS NOT NULL")
        refused = {name for (name,) in cursor.fetchall()}
        busy -= refused
        free = [name for name in self._channels if name not in busy]
        # What waits for busy channels alone is left out, or it would keep the rest from its turn.
        cursor.execute(_WAITING, (list(_KINDS), free, _HANDED_OVER))
        rows = cursor.fetchall()
        if not rows:
            return
        models = _model_channels(cursor)
        now = datetime.now(UTC)
        news: dict[str, list[News]] = {}
        done = []
        for number, kind, payload, at in rows:
            wanted = _wanted(kind, payload, models, now)
            waiting = [name for name in wanted.later if name in self._channels]
            for name in wanted.now:
                if name not in self._channels:
                    log.warning("channel.unknown", extra={"channel": name, "kind": kind})
                elif name in busy and kind != "alert.test":
                    waiting.append(name)
                else:
                    news.setdefault(name, []).append(News(kind, at, _flat(kind, payload)))
            if waiting:
                left = {"waiting": waiting, "not_before": wanted.until}
                cursor.execute(_LEFT, (orjson.dumps(left).decode(), number))
            else:
                done.append(number)
        for name, items in news.items():
            message = coalesce(items, self._settings.dashboard_url)
            # Whoever wants no more gets no more; it can be seen, and sent again by hand.
            state = "failed" if name in refused else "pending"
            content = orjson.dumps(message).decode()
            cursor.execute(_MESSAGE, (name, message["type"], content, now, state))
        cursor.execute(_DONE, (done,))

    def _try(self, due: tuple[str, str, dict[str, Any], int]) -> None:
        """One try of one message, written down on a connection of its own."""
        ident, name, payload, tries = due
        started = time.monotonic()
        outcome = self._sender.send(self._channels[name], f"msg_{ident.replace('-', '')}", payload)
        seconds = time.monotonic() - started
        metrics.SECONDS.observe(seconds)
        metrics.ATTEMPTS.labels(name, "failed" if outcome.problem else "delivered").inc()
        if outcome.problem:
            log.warning(
                "delivery.failed",
                extra={"channel": name, "delivery": ident, "reason": outcome.problem, "try": tries},
            )
        connection = connect(self._postgres, "moodstream-delivery")
        try:
            with transaction(connection, _SECONDS) as cursor:
                cursor.execute(_ATTEMPT, (ident, outcome.status, outcome.problem, seconds))
                self._settle(cursor, ident, name, tries, outcome)
        finally:
            connection.close()

    def _settle(self, cursor: Cursor, ident: str, name: str, tries: int, outcome: Outcome) -> None:
        if outcome.problem is None:
            cursor.execute(_DELIVERED, (ident,))
        elif outcome.refused:
            cursor.execute(_FAILED, (ident,))
            cursor.execute(_REFUSED, {"name": name})
        elif (wait := next_wait(tries, outcome.retry_after, self._chance())) is None:
            cursor.execute(_FAILED, (ident,))
        else:
            cursor.execute(_AGAIN, (wait, ident))


def next_wait(tries: int, retry_after: float | None, chance: float) -> float | None:
    """Seconds until the next try after so many; None: that was the last one. `chance` is 0 to 1 and
    keeps many messages that failed together from coming again together.
    """
    if tries >= len(SCHEDULE):
        return None
    planned = SCHEDULE[tries] * (1 + _JITTER * (2 * chance - 1))
    return min(max(planned, retry_after or 0.0), _MOST_WAIT)


def coalesce(items: list[News], dashboard_url: str) -> dict[str, Any]:
    """One message, of type alert.opened, alert.closed, alert.test, model.rollout or, for several
    things at once, alert.several. Its `data` is flat: a name, a text or a number.
    """
    last = items[-1]
    data = dict(last.data)
    kind = last.kind
    if len(items) > 1:
        kind = "alert.several"
        lines = [f"{item.data['title']}: {item.data['text']}" for item in items]
        more = len(lines) - _LINES
        data["title"] = f"{len(items)} things happened"
        data["text"] = "\n".join(lines[:_LINES] + ([f"and {more} more"] if more > 0 else []))
    data["count"] = len(items)
    data["url"] = dashboard_url
    return {"type": kind, "timestamp": last.at.astimezone(UTC).isoformat(), "data": data}


@dataclass(frozen=True)
class _Wanted:
    now: tuple[str, ...]
    later: tuple[str, ...] = ()
    until: datetime | None = None
    """When the quiet hours of those later ones end."""


def _wanted(
    kind: str, payload: Mapping[str, Any], models: Iterable[Rule], now: datetime
) -> _Wanted:
    """Channels that are to be told of an outbox row."""
    left = payload.get("waiting")
    if kind == "model.rollout":
        told: dict[str, datetime | None] = {}
        for rule in models:
            if payload.get("state") in {state.value for state in rule.states}:
                quiet = rule.quiet.until(now) if rule.quiet is not None else None
                for name in rule.channels:
                    # A channel of two rules is told as soon as one of them lets it.
                    before = told.get(name, quiet)
                    told[name] = min(before, quiet) if before and quiet else None
        names = [name for name in told if left is None or name in left]
        ends = [end for name in names if (end := told[name]) is not None]
        return _Wanted(
            tuple(name for name in names if told[name] is None),
            tuple(name for name in names if told[name] is not None),
            min(ends, default=None),
        )
    names = list(payload.get("channels") or ()) if left is None else list(left)
    quiet_hours = payload.get("quiet")
    if quiet_hours and kind != "alert.test":
        end = Quiet.model_validate(quiet_hours).until(now)
        if end is not None:
            return _Wanted((), tuple(names), end)
    return _Wanted(tuple(names))


def _model_channels(cursor: Cursor) -> list[Rule]:
    """The rules about model versions that are on."""
    cursor.execute("SELECT rule FROM rules WHERE rule->>'kind' = 'model'")
    found = []
    for (stored,) in cursor.fetchall():
        try:
            rule = Rule.model_validate(stored)
        except ValidationError:
            continue
        if rule.enabled:
            found.append(rule)
    return found


_TITLES: Final = {
    "alert.opened": "Alert {rule}",
    "alert.closed": "Over: {rule}",
    "alert.test": "Test of {rule}",
}
_ROLLOUTS: Final = {
    RolloutState.REFUSED: "Model version {version} refused",
    RolloutState.ROLLED_BACK: "Model version {version} rolled back",
    RolloutState.SERVING: "Model version {version} serves as {alias}",
    RolloutState.ROLLING_OUT: "Model version {version} rolls out as {alias}",
    RolloutState.REPLACED: "Model version {version} replaced",
}


def _flat(kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What a message says of an outbox row: the same keys for every kind, so that a no-code tool
    maps them once.
    """
    if kind == "model.rollout":
        title = _ROLLOUTS[RolloutState(payload["state"])].format(**payload)
        text, topic = str(payload.get("reason", "")), ALL_TOPICS
    else:
        title = _TITLES[kind].format(rule=payload["rule"])
        text, topic = str(payload["summary"]), payload["topic"]
    return {
        "title": title,
        "text": text,
        "rule": payload.get("rule", ""),
        "rule_kind": payload.get("kind", "model"),
        "topic": topic,
        "value": payload.get("value"),
        "usual": payload.get("usual"),
        "posts": payload.get("posts"),
        "model_version": payload.get("version", ""),
        "model_state": payload.get("state", ""),
        "at": payload["at"],
    }
