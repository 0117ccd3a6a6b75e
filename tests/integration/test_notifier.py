"""The notifier over a real warehouse, with a receiver that checks the signature."""

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from services.core.postgres import connect, transaction
from services.core.rules import Rule
from tests.integration.conftest import PostgresHandle
from tests.integration.test_dashboard import HOSTILE, TOKEN, execute, serving
from tests.integration.test_history import put
from tests.integration.test_maintenance import postgres_variables
from tests.ports import free_port
from tests.waiting import status, wait_until

KEY = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
SECONDS = 60
RULE = {
    "name": "wave",
    "kind": "level",
    "topic": "trains",
    "threshold": -0.2,
    "min_posts": 5,
    "channels": ["hook"],
}


class Receiver:
    """A webhook's other end: keeps what it got, verified, and answers what it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.unsigned = 0
        self.answer: Callable[[int], tuple[int, dict[str, str]]] = lambda number: (200, {})
        self.answers = threading.Event()
        """While it is not set, nobody gets an answer."""
        self.answers.set()
        self._asked = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    Webhook(KEY).verify(body.decode(), dict(self.headers.items()))
                except Exception:
                    receiver.unsigned += 1
                receiver._asked += 1
                code, headers = receiver.answer(receiver._asked)
                receiver.answers.wait(SECONDS)
                receiver.got.append((self.headers["webhook-id"], json.loads(body)))
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/catch"

    def types(self) -> list[str]:
        return [message["type"] for _, message in self.got]

    def close(self) -> None:
        self.answers.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


class Notifier:
    """The process, with one channel `hook`."""

    def __init__(self, postgres: PostgresHandle, folder: Path, url: str) -> None:
        self._postgres, self._folder, self._url = postgres, folder, url
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, **settings: str) -> "subprocess.Popen[bytes]":
        channels = self._folder / "channels.yaml"
        channels.write_text(f"channels: {{hook: {{webhook: '{self._url}', secret: '{KEY}'}}}}\n")
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "services.notifier"],
            env=os.environ
            | postgres_variables(self._postgres.settings)
            | {
                "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
                "MOODSTREAM_SERVICE_PORT": str(port),
                "MOODSTREAM_NOTIFIER_CHANNELS": str(channels),
                "MOODSTREAM_NOTIFIER_JUDGE_SECONDS": "0.2",
                "MOODSTREAM_NOTIFIER_GAP_SECONDS": "0",
                "MOODSTREAM_NOTIFIER_ALLOWED_HOSTS": "127.0.0.1",
            }
            | settings,
        )
        self.processes.append(process)
        wait_until(lambda: status(f"http://127.0.0.1:{port}/readyz") == 200, SECONDS)
        return process

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(SECONDS)


@pytest.fixture
def notifier(postgres: PostgresHandle, tmp_path: Path, receiver: Receiver) -> Iterator[Notifier]:
    notifier = Notifier(postgres, tmp_path, receiver.url)
    yield notifier
    notifier.stop()


def ask(postgres: PostgresHandle, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
    connection = connect(postgres.settings, "test")
    with transaction(connection, 30) as cursor:
        cursor.execute(sql, arguments or None)
        found = cursor.fetchall()
    connection.close()
    return found


def keep(postgres: PostgresHandle, **rule: Any) -> None:
    stored = Rule.model_validate(rule).model_dump_json()
    execute(postgres, "INSERT INTO rules (name, rule) VALUES (%s, %s)", rule["name"], stored)


def raise_alert(postgres: PostgresHandle) -> None:
    """An outbox row as the judge writes it."""
    raise_alerts(postgres, 1)


def raise_alerts(postgres: PostgresHandle, count: int) -> None:
    """So many outbox rows, which the notifier sees all at once."""
    payloads = [
        {
            "rule": f"rule-{number}", "kind": "level", "topic": "trains", "value": -0.5,
            "usual": None, "posts": 9, "summary": "trains: low",
            "at": datetime.now(UTC).isoformat(), "channels": ["hook"], "quiet": None,
        }
        for number in range(count)
    ]  # fmt: skip
    execute(
        postgres,
        "INSERT INTO outbox (kind, payload) SELECT 'alert.opened', jsonb_array_elements(%s::jsonb)",
        json.dumps(payloads),
    )


def states(postgres: PostgresHandle) -> list[tuple[str, int]]:
    return [
        (state, tries)
        for state, tries in ask(postgres, "SELECT state, tries FROM deliveries ORDER BY created_at")
    ]


def test_a_sudden_negative_wave_is_told_exactly_once_and_so_is_its_end(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    keep(postgres, **RULE)
    now = datetime.now(UTC)
    put(postgres, ["lovely"] * 10, now - timedelta(minutes=10))
    notifier.start()
    for _ in range(4):
        put(postgres, ["terrible"] * 10, datetime.now(UTC), "negative")
    wait_until(lambda: receiver.types() == ["alert.opened"], SECONDS)
    put(postgres, ["terrible"] * 10, datetime.now(UTC), "negative")
    put(postgres, ["lovely"] * 200, datetime.now(UTC))
    wait_until(lambda: len(receiver.got) == 2, SECONDS)
    # A second notifier, and another look, change nothing.
    notifier.start()
    put(postgres, ["lovely"], datetime.now(UTC))
    wait_until(lambda: len(states(postgres)) == 2, SECONDS)

    (_, opened), (_, closed) = receiver.got
    assert receiver.unsigned == 0
    assert (opened["type"], closed["type"]) == ("alert.opened", "alert.closed")
    assert opened["data"]["rule"] == "wave"
    assert opened["data"]["value"] < -0.2
    assert opened["data"]["posts"] >= 5
    assert "trains" in opened["data"]["text"]
    assert all(not isinstance(value, dict | list) for value in opened["data"].values())
    assert ask(postgres, "SELECT count(*), count(closed_at) FROM alerts") == [(1, 1)]


def test_two_notifiers_tell_once(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    keep(postgres, **RULE)
    first = notifier.start()
    notifier.start()
    put(postgres, ["terrible"] * 10, datetime.now(UTC), "negative")
    wait_until(lambda: receiver.types() == ["alert.opened"], SECONDS)

    first.kill()
    first.wait(SECONDS)
    execute(postgres, "DELETE FROM rules")

    # The one that stood by has taken over: it ends what no rule holds open.
    wait_until(
        lambda: ask(postgres, "SELECT count(*) FROM alerts WHERE closed_at IS NULL") == [(0,)],
        SECONDS,
    )
    assert len({ident for ident, _ in receiver.got}) == 1


def test_a_receiver_that_is_down_gets_it_when_it_is_back(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    receiver.answer = lambda number: (500, {}) if number == 1 else (204, {})
    notifier.start()
    raise_alert(postgres)

    wait_until(lambda: states(postgres) == [("delivered", 2)], SECONDS)

    assert len({ident for ident, _ in receiver.got}) == 1
    assert ask(postgres, "SELECT status FROM delivery_attempts ORDER BY at") == [(500,), (204,)]


def test_a_notifier_killed_while_it_sends_sends_again_with_the_same_id(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    receiver.answers.clear()
    process = notifier.start()
    raise_alert(postgres)
    wait_until(lambda: receiver._asked == 1, SECONDS)
    process.kill()
    process.wait(SECONDS)
    receiver.answers.set()
    wait_until(lambda: len(receiver.got) == 1, SECONDS)
    # Its claim would pass by itself; the test does not wait for that.
    execute(postgres, "UPDATE deliveries SET next_at = now()")

    notifier.start()
    wait_until(lambda: states(postgres) == [("delivered", 2)], SECONDS)

    assert len(receiver.got) == 2
    assert len({ident for ident, _ in receiver.got}) == 1


def test_a_slow_receiver_is_given_up_for_now(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    receiver.answers.clear()
    notifier.start(MOODSTREAM_NOTIFIER_SEND_SECONDS="1")
    raise_alert(postgres)

    problems = "SELECT problem FROM delivery_attempts ORDER BY at"
    wait_until(lambda: len(ask(postgres, problems)) > 0, SECONDS)

    problem = ask(postgres, problems)[0][0]
    assert "127.0.0.1" in problem
    assert "/catch" not in problem
    assert [state for state, _ in states(postgres)] == ["pending"]


def test_who_asks_to_wait_is_left_alone_that_long(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    receiver.answer = lambda number: (429, {"Retry-After": "3600"})
    notifier.start()
    raise_alert(postgres)

    wait_until(lambda: ask(postgres, "SELECT count(*) FROM delivery_attempts") == [(1,)], SECONDS)

    wait = "SELECT extract(epoch FROM next_at - now())::int FROM deliveries"
    assert 3_400 < ask(postgres, wait)[0][0] <= 3_600


def test_who_wants_no_more_gets_no_more(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    receiver.answer = lambda number: (410, {})
    notifier.start()
    raise_alert(postgres)
    wait_until(lambda: states(postgres) == [("failed", 1)], SECONDS)
    raise_alert(postgres)
    wait_until(lambda: len(states(postgres)) == 2, SECONDS)

    with serving(postgres) as url, urllib.request.urlopen(f"{url}/api/channels") as answer:
        channels = json.load(answer)

    assert channels == [{"name": "hook", "kind": "webhook", "refused": True}]
    assert [state for state, _ in states(postgres)] == ["failed", "failed"]
    assert len(receiver.got) == 1


def test_a_redirect_is_not_followed(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    receiver.answer = lambda number: (302, {"Location": "http://169.254.169.254/latest"})
    notifier.start()
    raise_alert(postgres)

    answers = "SELECT DISTINCT status FROM delivery_attempts"
    wait_until(lambda: ask(postgres, answers) == [(302,)], SECONDS)

    assert [state for state, _ in states(postgres)] == ["pending"]


def test_a_storm_is_one_message(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    notifier.start(MOODSTREAM_NOTIFIER_GAP_SECONDS="4")
    raise_alert(postgres)
    wait_until(lambda: len(receiver.got) == 1, SECONDS)
    raise_alerts(postgres, 30)
    wait_until(lambda: len(receiver.got) == 2, SECONDS)

    _, storm = receiver.got[1]
    assert (storm["type"], storm["data"]["count"]) == ("alert.several", 30)
    assert ask(postgres, "SELECT count(*) FROM outbox WHERE delivered_at IS NULL") == [(0,)]


def test_in_quiet_hours_nothing_is_sent_and_nothing_is_lost(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    def hours(begin: int, end: int) -> dict[str, str]:
        now = datetime.now(UTC)
        clock = [(now + timedelta(hours=h)).strftime("%H:%M") for h in (begin, end)]
        return {"start": clock[0], "end": clock[1]}

    keep(postgres, **RULE, quiet=hours(-1, 2))
    notifier.start()
    put(postgres, ["terrible"] * 10, datetime.now(UTC), "negative")
    wait_until(
        lambda: ask(postgres, "SELECT payload ? 'waiting' FROM outbox") == [(True,)], SECONDS
    )
    held = list(receiver.got)

    execute(
        postgres,
        "UPDATE outbox SET payload = payload || "
        "jsonb_build_object('quiet', %s::jsonb, 'not_before', now())",
        json.dumps(hours(-3, -1)),
    )
    wait_until(lambda: receiver.types() == ["alert.opened"], SECONDS)

    assert held == []


def test_what_becomes_of_a_model_version_is_told_to_whom_it_concerns(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    keep(postgres, name="models", kind="model", channels=["hook"], states=["refused"])
    notifier.start()
    for version, state in (("8", "serving"), ("9", "refused")):
        payload = {
            "alias": "champion", "version": version, "state": state, "reason": HOSTILE,
            "at": datetime.now(UTC).isoformat(), "checks": [],
        }  # fmt: skip
        execute(
            postgres,
            "INSERT INTO outbox (kind, payload) VALUES ('model.rollout', %s)",
            json.dumps(payload),
        )

    wait_until(lambda: len(receiver.got) == 1, SECONDS)

    _, message = receiver.got[0]
    assert (message["type"], message["data"]["title"]) == (
        "model.rollout",
        "Model version 9 refused",
    )
    assert message["data"]["text"] == HOSTILE
    wait_until(
        lambda: ask(postgres, "SELECT count(*) FROM outbox WHERE delivered_at IS NULL") == [(0,)],
        SECONDS,
    )


def test_while_the_database_is_away_nothing_is_lost(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    notifier.start()
    raise_alert(postgres)
    wait_until(lambda: len(receiver.got) == 1, SECONDS)
    postgres.stop()
    postgres.start()
    raise_alert(postgres)

    wait_until(lambda: len(receiver.got) == 2, SECONDS)

    assert receiver.unsigned == 0


def call(
    url: str, method: str, path: str, body: object = None, kind: str = "application/json"
) -> tuple[int, Any]:
    """Status and answer, asked as the page asks."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Origin": url} | ({"Content-Type": kind} if data is not None else {})
    request = urllib.request.Request(f"{url}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
            json_like = "json" in answer.headers.get("Content-Type", "")
            return answer.status, json.loads(text) if text and json_like else text.decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def test_rules_are_kept_tried_and_removed_over_the_api(postgres: PostgresHandle) -> None:
    now = datetime.now(UTC)
    put(postgres, ["terrible"] * 10, now - timedelta(hours=3), "negative")
    put(postgres, ["lovely"] * 10, now - timedelta(hours=2))

    with serving(postgres) as url:
        kept = call(url, "PUT", "/api/rules/wave", RULE)
        listed = call(url, "GET", "/api/rules")[1]
        as_yaml = call(url, "GET", "/api/rules.yaml")[1]
        tried = call(url, "POST", "/api/rules/preview", RULE)[1]
        tested = call(url, "POST", "/api/rules/wave/test", {})
        refused = [
            call(url, "PUT", "/api/rules/other", RULE),
            call(url, "PUT", "/api/rules/wave", RULE | {"threshold": "low"}),
            call(url, "PUT", "/api/rules/wave", b"{"),
            call(url, "DELETE", "/api/rules/nobody"),
            call(url, "POST", "/api/rules/nobody/test", {}),
            call(url, "PUT", "/api/rules.yaml", b"rules: [", "application/yaml"),
            call(url, "POST", "/api/deliveries/nobody/replay", {}),
        ]
        replaced = call(
            url, "PUT", "/api/rules.yaml", b"rules: [{name: m, kind: model}]", "application/yaml"
        )
        left = [rule["name"] for rule in call(url, "GET", "/api/rules")[1]]
        removed = call(url, "DELETE", "/api/rules/m")[0]

    assert kept[0] == 200
    assert [rule["name"] for rule in listed] == ["wave"]
    assert as_yaml.startswith("rules:\n- name: wave\n")
    assert len(tried) == 1
    assert tried[0]["value"] == pytest.approx(-0.6)
    assert tried[0]["closed_at"] is not None
    assert tested == (202, {"channels": ["hook"]})
    assert [code for code, _ in refused] == [422, 422, 422, 404, 404, 422, 404]
    assert all(answer["problem"] for _, answer in refused)
    assert replaced == (200, {"rules": 1})
    assert left == ["m"]
    assert removed == 204


def test_a_test_reaches_the_channel_and_a_delivery_is_sent_again_by_hand(
    postgres: PostgresHandle, notifier: Notifier, receiver: Receiver
) -> None:
    keep(postgres, **RULE)
    notifier.start(MOODSTREAM_NOTIFIER_GAP_SECONDS="3600")

    with serving(postgres) as url:
        call(url, "POST", "/api/rules/wave/test", {})
        wait_until(lambda: receiver.types() == ["alert.test"], SECONDS)
        wait_until(
            lambda: call(url, "GET", "/api/deliveries")[1][0]["state"] == "delivered", SECONDS
        )
        (delivery,) = call(url, "GET", "/api/deliveries")[1]
        again = call(url, "POST", f"/api/deliveries/{delivery['id']}/replay", {})
        wait_until(lambda: len(receiver.got) == 2, SECONDS)

    assert again[0] == 202
    assert delivery["attempts"][0]["status"] == 200
    assert len({ident for ident, _ in receiver.got}) == 1


def test_where_reading_is_open_nobody_changes_rules(postgres: PostgresHandle) -> None:
    keep(postgres, **RULE)

    with serving(postgres, DASHBOARD_EDITOR_TOKEN=TOKEN) as url:
        codes = [
            call(url, "PUT", "/api/rules/wave", RULE)[0],
            call(url, "DELETE", "/api/rules/wave")[0],
            call(url, "POST", "/api/rules/wave/test", {})[0],
            call(url, "PUT", "/api/rules.yaml", b"rules: []", "application/yaml")[0],
            call(url, "GET", "/api/rules")[0],
        ]

    assert codes == [401, 401, 401, 401, 200]
