"""Rules and what came of them: kept, tried on the past, tested; alerts and deliveries looked at.
The notifier does the rest; the two meet in the database.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, ValidationError

from services.core.errors import MoodstreamError
from services.core.postgres import Cursor, NotAllowedError, connect, transaction
from services.core.rules import Episode, Rule, preview, read_yaml, reasons, write_yaml
from services.core.settings import PostgresSettings
from services.dashboard import problems
from services.dashboard.access import Visitor, editor, viewer
from services.dashboard.history import Moment, Reader, Word, rows

_SECONDS: Final = 30.0
_MOST: Final = 200
_MOST_BYTES: Final = 256 * 1024
_PREVIEW_DAYS: Final = 7


class InvalidRuleError(MoodstreamError):
    """A rule that makes no sense; the message says which part."""


class TooLargeError(MoodstreamError):
    """A body over the limit."""


class NoSuchError(MoodstreamError):
    """There is no rule or delivery of that name."""


class Alert(BaseModel):
    """A time in which a rule held."""

    model_config = ConfigDict(frozen=True)

    id: int
    rule: str
    kind: str
    topic: str
    value: float | None
    usual: float | None
    posts: int
    summary: str
    opened_at: datetime
    closed_at: datetime | None


class Attempt(BaseModel):
    """One try to send."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    status: int | None
    problem: str | None
    seconds: float


class Delivery(BaseModel):
    """One message to one channel, with every try."""

    model_config = ConfigDict(frozen=True)

    id: str
    channel: str
    kind: str
    title: str
    state: str
    """pending, delivered or failed."""
    tries: int
    next_at: datetime | None
    created_at: datetime
    delivered_at: datetime | None
    attempts: list[Attempt]


class Channel(BaseModel):
    """Where messages can go."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    refused: bool
    """The receiver answered that it wants no more."""


_RULES: Final = "SELECT rule FROM rules ORDER BY name"
_PUT: Final = """
INSERT INTO rules (name, rule, changed_by) VALUES (%(name)s, %(rule)s, %(by)s)
ON CONFLICT (name) DO UPDATE SET rule = excluded.rule, changed_by = excluded.changed_by,
    changed_at = clock_timestamp()
"""
_ALERTS: Final = """
SELECT id, rule, kind, topic, value, usual, posts, summary, opened_at, closed_at FROM alerts
WHERE opened_at >= coalesce(%(since)s::timestamptz, '-infinity') OR closed_at IS NULL
ORDER BY opened_at DESC, id DESC LIMIT %(most)s
"""
_DELIVERIES: Final = """
SELECT id::text, channel, kind, payload->'data'->>'title' AS title, state, tries,
    CASE WHEN state = 'pending' THEN next_at END AS next_at, created_at, delivered_at,
    coalesce((
        SELECT jsonb_agg(jsonb_build_object('at', at, 'status', status, 'problem', problem,
                                            'seconds', seconds) ORDER BY at)
        FROM delivery_attempts WHERE delivery = deliveries.id
    ), '[]') AS attempts
FROM deliveries ORDER BY created_at DESC LIMIT %(most)s
"""
_REPLAY: Final = """
UPDATE deliveries SET state = 'pending', tries = 0, next_at = now() WHERE id::text = %(id)s
"""
_TEST: Final = "INSERT INTO outbox (kind, payload) VALUES ('alert.test', %(payload)s)"


def router(postgres: PostgresSettings, reader: Reader) -> APIRouter:
    """The addresses of all this: reading for viewers, changing for editors."""
    api = APIRouter(prefix="/api", dependencies=[Depends(viewer)], tags=["alerts"])
    may_write = Annotated[Visitor, Depends(editor)]

    def write(action: Callable[[Cursor], int]) -> int:
        """One transaction; says how many rows it changed."""
        connection = connect(postgres, "moodstream-rules")
        try:
            with transaction(connection, _SECONDS) as cursor:
                return action(cursor)
        except NotAllowedError as exc:
            raise NotAllowedError(
                f"{exc}; let the dashboard's role write rules: python -m services.maintenance "
                "migrate, with MOODSTREAM_MAINTENANCE_DASHBOARD_ROLE"
            ) from None
        finally:
            connection.close()

    def put(cursor: Cursor, rule: Rule, by: str | None) -> None:
        stored = orjson.dumps(rule.model_dump(mode="json")).decode()
        cursor.execute(_PUT, {"name": rule.name, "rule": stored, "by": by})

    def stored() -> list[Rule]:
        return [Rule.model_validate(row["rule"]) for row in reader.rows(_RULES, {})]

    @api.get("/rules")
    def get_rules() -> list[Rule]:
        """All rules, by name."""
        return stored()

    @api.get(
        "/rules.yaml",
        responses={200: {"content": {"application/yaml": {}}}},
        response_class=Response,
    )
    def get_yaml() -> Response:
        """The same as YAML."""
        return Response(write_yaml(stored()), media_type="application/yaml")

    @api.put("/rules.yaml", responses=problems.documented(413, 415))
    async def put_yaml(request: Request, who: may_write) -> dict[str, int]:
        """Takes these rules and no others."""
        rules = read_yaml((await _body(request)).decode("utf-8", "replace"))

        def replace(cursor: Cursor) -> int:
            cursor.execute(
                "DELETE FROM rules WHERE NOT name = ANY (%s)", ([rule.name for rule in rules],)
            )
            for rule in rules:
                put(cursor, rule, who.user)
            return len(rules)

        return {"rules": await run_in_threadpool(write, replace)}

    @api.put("/rules/{name}", responses=problems.documented(413, 415))
    async def put_rule(name: str, request: Request, who: may_write) -> Rule:
        """Stores a rule under its name."""
        rule = _rule(await _body(request))
        if rule.name != name:
            raise InvalidRuleError(f"name: the address says {name[:64]!r}, the rule {rule.name!r}")

        def store(cursor: Cursor) -> int:
            put(cursor, rule, who.user)
            return 1

        await run_in_threadpool(write, store)
        return rule

    @api.delete(
        "/rules/{name}",
        status_code=204,
        dependencies=[Depends(editor)],
        responses=problems.documented(404),
    )
    def delete_rule(name: Word) -> None:
        """Removes a rule; its alert, if one is open, ends."""

        def remove(cursor: Cursor) -> int:
            cursor.execute("DELETE FROM rules WHERE name = %s", (name,))
            return cursor.rowcount

        if not write(remove):
            raise NoSuchError(f"there is no rule {name[:64]!r}")

    @api.post("/rules/preview", responses=problems.documented(413))
    async def preview_rule(
        request: Request,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> list[Episode]:
        """When a rule would have held, in the last 7 days unless told otherwise. Stores nothing."""
        rule = _rule(await _body(request))
        if rule.kind == "model":
            raise InvalidRuleError("kind: a model rule tells what happens, it has no past to try")
        end = until or datetime.now(UTC)
        begin = since or end - timedelta(days=_PREVIEW_DAYS)
        if begin >= end:
            raise InvalidRuleError("since: it must be before until")

        def held() -> list[Episode]:
            with reader.transaction() as cursor:
                return preview(cursor, rule, begin, end)

        return await run_in_threadpool(held)

    @api.post(
        "/rules/{name}/test",
        status_code=202,
        dependencies=[Depends(editor)],
        responses=problems.documented(404, 415),
    )
    def test_rule(name: str) -> dict[str, list[str]]:
        """Sends a message to the rule's channels, whatever is so; says which."""
        rule = next((rule for rule in stored() if rule.name == name), None)
        if rule is None:
            raise NoSuchError(f"there is no rule {name[:64]!r}")
        payload = {
            "rule": rule.name,
            "kind": rule.kind,
            "topic": rule.topic,
            "summary": "This is a test: nothing happened.",
            "at": datetime.now(UTC).isoformat(),
            "channels": list(rule.channels),
        }

        def send(cursor: Cursor) -> int:
            cursor.execute(_TEST, {"payload": orjson.dumps(payload).decode()})
            return 1

        write(send)
        return {"channels": list(rule.channels)}

    @api.get("/alerts")
    def get_alerts(since: Moment | None = None) -> list[Alert]:
        """The newest 200 alerts since a moment, and all that are open, newest first."""
        return [
            Alert.model_validate(row)
            for row in reader.rows(_ALERTS, {"since": since, "most": _MOST})
        ]

    @api.get("/channels")
    def get_channels() -> list[Channel]:
        """The channels that the notifier has, without their secrets."""
        with reader.transaction() as cursor:
            found = rows(
                cursor,
                "SELECT name, kind, refused_at IS NOT NULL AS refused FROM channels ORDER BY name",
                {},
            )
        return [Channel.model_validate(row) for row in found]

    @api.get("/deliveries")
    def get_deliveries(
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 50,
    ) -> list[Delivery]:
        """The newest messages with every try."""
        return [Delivery.model_validate(row) for row in reader.rows(_DELIVERIES, {"most": limit})]

    @api.post(
        "/deliveries/{ident}/replay",
        status_code=202,
        dependencies=[Depends(editor)],
        responses=problems.documented(404, 415),
    )
    def replay(ident: Word) -> dict[str, str]:
        """Sends a message again, with the same id; the tries begin anew."""

        def again(cursor: Cursor) -> int:
            cursor.execute(_REPLAY, {"id": ident})
            return cursor.rowcount

        if not write(again):
            raise NoSuchError("there is no such delivery")
        return {"id": ident}

    return api


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise TooLargeError(f"rules have at most {_MOST_BYTES // 1024} KB")
    return bytes(body)


def _rule(body: bytes) -> Rule:
    try:
        return Rule.model_validate_json(body)
    except ValidationError as exc:
        raise InvalidRuleError(reasons(exc)) from None
