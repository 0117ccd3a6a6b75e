"""What strangers try on the dashboard's port: bodies without end, slow hands, tricks with paths and
headers, SQL, and tokens that are missing, wrong or taken back.
"""

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson
import pytest

from services.core.postgres import connect, transaction
from tests.hostile.asking import ask, connected, documented, hidden, operations
from tests.integration.conftest import PostgresHandle
from tests.integration.test_dashboard import serving, store
from tests.waiting import wait_until

VIEWER, EDITOR, OLD = "a-token-of-viewers", "a-token-of-editors", "a-token-of-last-year"
STRANGER = {"X-Forwarded-For": "192.0.2.1"}
"""Who does not come from this machine."""
AS_VIEWER = STRANGER | {"Authorization": f"Bearer {VIEWER}"}
AS_EDITOR = STRANGER | {"Authorization": f"Bearer {EDITOR}"}
_HUGE = 50_000_000

PUBLIC = {("GET", "/api/me")}
"""Documented addresses that need no role: this one says which role one has."""
PUBLIC_AND_NOT_DOCUMENTED = {
    "/", "/static", "/api/docs", "/api/openapi.json", "/livez", "/readyz", "/metrics",
}  # fmt: skip
READING = {("POST", "/api/try"), ("POST", "/api/rules/preview")}
"""Those that take a body and change nothing."""
ALL = [*operations(), ("GET", "/api/live")]
CHANGING = [each for each in ALL if each[0] != "GET" and each not in READING]


@pytest.fixture(scope="module")
def dashboard(warehouse: PostgresHandle) -> Iterator[str]:
    """Address of a dashboard with tokens and a proxy that signs people in."""
    store(warehouse, ["good morning", "bad trains"])
    with serving(
        warehouse,
        DASHBOARD_VIEWER_TOKEN=VIEWER,
        DASHBOARD_EDITOR_TOKEN=EDITOR,
        DASHBOARD_TRUSTED_PROXIES="10.244.0.0/16",
        DASHBOARD_EDITOR_GROUP="comms",
    ) as url:
        yield url


def filled(path: str, word: str = "nobody") -> str:
    """The path with its parameters."""
    return re.sub(r"{\w+}", quote(word, safe=""), path)


# Tokens.


def test_every_address_that_is_not_documented_is_known_to_be_public() -> None:
    assert hidden() == PUBLIC_AND_NOT_DOCUMENTED


@pytest.mark.parametrize("token", [None, "wrong", OLD, "", "\xff", VIEWER[:-1], f"{EDITOR}x"])
@pytest.mark.parametrize(("method", "path"), [each for each in ALL if each not in PUBLIC])
def test_without_a_good_token_a_stranger_gets_nothing(
    dashboard: str, method: str, path: str, token: str | None
) -> None:
    bearer = {} if token is None else {"Authorization": f"Bearer {token}"}

    answer = ask(dashboard, method, filled(path), STRANGER | bearer, b"{}")

    assert answer.status == 401
    assert "token" in answer.reason


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_with_a_viewers_token_nothing_is_changed(dashboard: str, method: str, path: str) -> None:
    answer = ask(dashboard, method, filled(path), AS_VIEWER, b"{}")

    assert answer.status == 401
    assert "editor" in answer.reason


@pytest.mark.parametrize(("method", "path"), operations())
def test_with_an_editors_token_every_address_answers(
    dashboard: str, method: str, path: str
) -> None:
    answer = ask(dashboard, method, filled(path), AS_EDITOR, b"{}")

    assert answer.status not in {401, 403, 405}


def test_a_token_that_was_taken_back_is_worth_nothing(warehouse: PostgresHandle) -> None:
    with serving(warehouse, DASHBOARD_VIEWER_TOKEN=OLD) as url:
        before = ask(url, "GET", "/api/now", STRANGER | {"Cookie": f"moodstream_token={OLD}"})
    with serving(warehouse, DASHBOARD_VIEWER_TOKEN=VIEWER) as url:
        after = [
            ask(url, "GET", "/api/now", STRANGER | {"Cookie": f"moodstream_token={OLD}"}),
            ask(url, "GET", "/api/now", STRANGER | {"Authorization": f"Bearer {OLD}"}),
            ask(url, "GET", f"/api/now?token={OLD}", STRANGER),
        ]

    assert before.status == 200
    assert [answer.status for answer in after] == [401, 401, 401]


# Headers.

SIGNED_IN = {"X-Forwarded-User": "ada", "X-Forwarded-Groups": "comms"}
FORGED: list[dict[str, str]] = [
    SIGNED_IN,
    {"X-Auth-Request-User": "ada", "X-Auth-Request-Groups": "comms"},
    SIGNED_IN | {"Forwarded": "for=10.244.0.7"},
    SIGNED_IN | {"X-Forwarded-For": "10.244.0.7"},
    SIGNED_IN | {"X-Real-IP": "10.244.0.7"},
    SIGNED_IN | {"X-Client-IP": "10.244.0.7", "True-Client-IP": "10.244.0.7"},
    {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "localhost"},
    {"X-Forwarded-For": "::1", "Host": "localhost"},
    {"X-Original-URL": "/livez", "X-Rewrite-URL": "/livez", "X-Forwarded-For": "192.0.2.1"},
]


@pytest.mark.parametrize("forged", FORGED)
def test_headers_of_a_stranger_give_no_rights(dashboard: str, forged: dict[str, str]) -> None:
    me = orjson.loads(ask(dashboard, "GET", "/api/me", forged).body)
    changed = ask(dashboard, "PUT", "/api/rules.yaml", forged, b"rules: []")

    assert me["user"] is None
    assert me["role"] != "editor"
    assert changed.status == 401


@pytest.mark.parametrize("override", ["X-HTTP-Method-Override", "X-Method-Override"])
def test_a_get_stays_a_get(dashboard: str, override: str) -> None:
    answer = ask(dashboard, "GET", "/api/rules.yaml", AS_EDITOR | {override: "PUT"})

    assert answer.headers["content-type"] == "application/yaml"


@pytest.mark.parametrize("name", ["Host", "Origin"])
@pytest.mark.parametrize("value", ["", "a:b:c", "evil/..", "localhost:99999999", "\xff", "[v1.x]"])
def test_an_address_that_is_none_is_refused_or_ignored(
    dashboard: str, name: str, value: str
) -> None:
    assert ask(dashboard, "PUT", "/api/rules.yaml", {name: value}, b"{}").status < 500


@pytest.mark.parametrize("headers", [{"Host": "["}, {"Origin": "http://["}], ids=["host", "origin"])
def test_half_an_ipv6_address_is_refused(dashboard: str, headers: dict[str, str]) -> None:
    assert ask(dashboard, "PUT", "/api/rules.yaml", headers, b"{}").status < 500


def test_two_lengths_of_one_body_are_refused(dashboard: str) -> None:
    twice = ask(dashboard, "POST", "/api/corrections", {"Content-Length": ["2", "20"]}, b"{}")
    chunked = {"Content-Length": "2", "Transfer-Encoding": "chunked"}
    both = ask(dashboard, "POST", "/api/corrections", chunked, b"0\r\n\r\n")

    assert (twice.status, both.status) == (400, 400)


def test_many_large_headers_harm_nobody(dashboard: str) -> None:
    headers = {f"X-{number}": "x" * 1_000 for number in range(60)}

    answer = ask(dashboard, "GET", "/api/now", AS_VIEWER | headers)

    assert answer.status in {200, 400, 431}
    assert ask(dashboard, "GET", "/livez").status == 200


@pytest.mark.parametrize(
    "path", ["/?token={}", "/api/now?topic={}", "/feeds/alerts.rss?topic={}", "/api/{}", "/{}"]
)
def test_line_ends_in_an_address_make_no_headers(dashboard: str, path: str) -> None:
    split = quote("a\r\nX-Injected: yes\r\n\r\n<script>")

    answer = ask(dashboard, "GET", path.format(split), AS_VIEWER)

    assert answer.status < 500
    assert "x-injected" not in {name.lower() for name in answer.headers}
    assert "\r" not in "".join(answer.headers.values())


def test_a_token_in_the_address_that_no_cookie_can_hold_is_refused(dashboard: str) -> None:
    assert ask(dashboard, "GET", "/?token=%E2%82%AC").status < 500


# Paths.

OUTSIDE = [
    "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/..%5capp.py",
    "/static/....//app.py", "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/%00",
    "/static/app.js%00.html", "/static/%ff", "/static/%252e%252e/app.py", "/static/" + "a" * 5_000,
    "//static/app.js", "//evil.example/%2e%2e", "/api/../app.py", "/api//now", "/static/",
    "/static/" + "../" * 20 + "etc/passwd", "/.git/config", "/static/.env", "*",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE, ids=range(len(OUTSIDE)))
def test_no_path_leads_out_of_the_pages_files(dashboard: str, path: str) -> None:
    answer = ask(dashboard, "GET", path)

    assert answer.status == 404
    assert answer.reason == "Not Found"


# Bodies.


@pytest.mark.parametrize(("method", "path"), [each for each in ALL if each[0] in {"POST", "PUT"}])
def test_a_stranger_is_refused_before_the_body_is_read(
    dashboard: str, method: str, path: str
) -> None:
    head = (
        f"{method} {filled(path)} HTTP/1.1\r\nHost: mood.example\r\nOrigin: http://mood.example\r\n"
        f"Content-Type: application/json\r\nContent-Length: {_HUGE}\r\n\r\n"
    )

    with connected(dashboard) as client:
        client.sendall(head.encode() + b" " * 1_000)
        answer = received(client)

    assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/corrections"),
        ("PUT", "/api/rules.yaml"),
        ("PUT", "/api/rules/a"),
        ("POST", "/api/rules/preview"),
        ("POST", "/api/try"),
    ],
)
def test_a_body_over_the_limit_is_a_413(dashboard: str, method: str, path: str) -> None:
    assert ask(dashboard, method, path, AS_EDITOR, b" " * 1_000_000).status == 413


def test_slow_clients_keep_nobody_from_being_served(dashboard: str) -> None:
    with ExitStack() as stack:
        for number in range(300):
            client = stack.enter_context(connected(dashboard))
            client.sendall(
                b"POST /api/corrections HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"[
                    : 20 + number
                ]
            )

        answers = [ask(dashboard, "GET", path, AS_VIEWER) for path in ("/livez", "/api/now")]

    assert [answer.status for answer in answers] == [200, 200]


# Slow clients.

_WHOLE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
_BODY = (
    b"POST /api/try HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
)
SLOW = {
    "nothing": b"",
    "half a head": b"GET /livez HTTP/1.1\r\nX: ",
    "half a body": _BODY + b"{",
    "half a head after an answer": _WHOLE + b"GET /livez HTTP/1.1\r\nX: ",
    "half a body after an answer": _WHOLE + _BODY + b"{",
    "half a body after a refusal": _BODY.replace(b"localhost", b"evil.example", 1) + b"{",
}


@pytest.fixture(scope="module")
def impatient(warehouse: PostgresHandle) -> Iterator[str]:
    """Address of a dashboard that waits for nobody longer than two seconds."""
    with serving(warehouse, DASHBOARD_CLIENT_SECONDS="2") as url:
        yield url


def taken(client: socket.socket, piece: bytes) -> bool:
    """Sends a piece more; says whether there is still somebody to send it to."""
    try:
        client.sendall(piece)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("begun", SLOW.values(), ids=SLOW)
def test_a_request_that_trickles_is_given_up(impatient: str, begun: bytes) -> None:
    with connected(impatient) as client:
        client.sendall(begun)

        wait_until(lambda: not taken(client, b"a"), 30, "a closed connection", every=0.2)

    assert ask(impatient, "GET", "/livez").status == 200


def test_connections_that_send_nothing_are_closed(impatient: str) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(impatient)) for _ in range(300)]

        for client in clients:
            client.settimeout(30)
            assert client.recv(1) == b""


def test_an_answer_that_nobody_takes_is_given_up(impatient: str) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", urlsplit(impatient).port))
        script = b"GET /static/lib/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        client.sendall(20 * script)  # 28 MB, more than the kernel would take

        wait_until(lambda: not taken(client, b"a"), 60, "a closed connection", every=0.2)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error(
    warehouse: PostgresHandle, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(warehouse) as url:
        with connected(url) as client:
            client.sendall(_BODY + b"{")
        assert ask(url, "GET", "/livez").status == 200

    assert '"level": "error"' not in capfd.readouterr().err


def test_four_sentences_are_tried_at_once_and_no_more(warehouse: PostgresHandle) -> None:
    body = orjson.dumps({"text": "good trains"})
    with ExitStack() as stack:
        predictor = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        predictor.settimeout(30)
        silent = f"http://127.0.0.1:{predictor.getsockname()[1]}"
        url = stack.enter_context(serving(warehouse, INFERENCE_URL=silent))
        pool = stack.enter_context(ThreadPoolExecutor())
        asked = [pool.submit(ask, url, "POST", "/api/try", {}, body) for _ in range(4)]
        for _ in asked:
            stack.enter_context(predictor.accept()[0])

        fifth = ask(url, "POST", "/api/try", {}, body)

        assert (fifth.status, fifth.headers["retry-after"]) == (503, "5")
        assert "too many sentences" in fifth.reason
        assert ["too many" in each.result().reason for each in asked] == [False] * 4
        predictor.close()
        assert "too many" not in ask(url, "POST", "/api/try", {}, body).reason


def test_a_slow_answer_is_nobodys_fault(impatient: str) -> None:
    with connected(impatient) as client:
        client.sendall(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")

        read = b""
        while read.count(b"event: ") < 5:  # one a second
            piece = client.recv(65_536)
            assert piece
            read += piece


def received(client: socket.socket) -> bytes:
    """The beginning of the answer; nothing when none comes."""
    try:
        return client.recv(4_096)
    except TimeoutError:
        return b""


# SQL.

NOBODY = "nobodywrotethis"
INJECTIONS = [
    "'; DROP TABLE posts; --", "' OR '1'='1", '"; DROP TABLE posts; --', "%", "_", "\\", "$$",
    "%(topic)s", "{0}", "nobody') OR pg_sleep(9) IS NULL --", "$1", "\\x00", "\u02bc OR 1=1",
]  # fmt: skip
WRITTEN = {
    "/api/corrections": {"source": "replay", "id": "0", "label": "neutral", "by": "Ada"},
    "/api/rules/preview": {"name": "a", "kind": "keyword", "threshold": 1, "keyword": "a"},
    "/api/rules/{name}": {"name": "a", "kind": "level", "threshold": 1, "topic": "a"},
}
_TIMES = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+Z|\d{4}-\d\d-\d\d|[A-Z][a-z]{2}, \d\d .* GMT")


def queries() -> list[tuple[str, str, str]]:
    """Every parameter of every documented address."""
    return [
        (method.upper(), path, parameter["name"])
        for path, methods in documented()["paths"].items()
        for method, operation in methods.items()
        for parameter in operation.get("parameters", ())
    ]


def put(dashboard: str, method: str, path: str, name: str, value: str) -> tuple[int, bytes]:
    """The answer with a parameter of this value, without times and without the value itself."""
    in_path = f"{{{name}}}" in path
    query = {} if in_path else {name: value}
    if path == "/api/export":
        query = {"what": "posts"} | query
    address = f"{filled(path, value if in_path else 'nobody')}?{urlencode(query)}"
    body = None if method == "GET" else orjson.dumps(WRITTEN.get(path, {}))
    answer = ask(dashboard, method, address, AS_EDITOR, body)
    return answer.status, _TIMES.sub(b"", answer.body) if answer.status == 200 else b""


def tables(warehouse: PostgresHandle) -> dict[str, int]:
    """How many rows each table has."""
    connection = connect(warehouse.settings, "test")
    with transaction(connection, 30) as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found = {}
        for (name,) in cursor.fetchall():
            cursor.execute(f'SELECT count(*) FROM "{name}"')  # noqa: S608 - the catalogue's names
            found[name] = (cursor.fetchone() or [0])[0]
    connection.close()
    return found


@pytest.mark.parametrize(("method", "path", "name"), queries())
def test_sql_in_a_parameter_is_a_word_that_nobody_wrote(
    dashboard: str, warehouse: PostgresHandle, method: str, path: str, name: str
) -> None:
    before = tables(warehouse)
    expected = put(dashboard, method, path, name, NOBODY)

    found = {value: put(dashboard, method, path, name, value) for value in INJECTIONS}

    assert found == dict.fromkeys(INJECTIONS, expected)
    assert expected[0] < 500
    assert before["posts"] == 2
    assert tables(warehouse) == before


def fields_of_bodies() -> list[tuple[str, str]]:
    return [(path, name) for path, body in WRITTEN.items() for name in body]


@pytest.mark.parametrize(("path", "name"), fields_of_bodies())
@pytest.mark.parametrize("value", INJECTIONS)
def test_sql_in_a_body_is_text_or_refused(
    dashboard: str, warehouse: PostgresHandle, path: str, name: str, value: str
) -> None:
    before = tables(warehouse)
    body: dict[str, Any] = WRITTEN[path] | {name: value}
    method = "PUT" if "{" in path else "POST"

    answer = ask(dashboard, method, filled(path, "a"), AS_EDITOR, orjson.dumps(body))

    assert answer.status in {200, 201, 404, 422}
    after = tables(warehouse)
    assert after.keys() == before.keys()
    assert after["posts"] == before["posts"] == 2


# Times and zones of which PostgreSQL knows nothing.


@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize(
    "path",
    ["/api/topics", "/api/posts", "/api/drivers", "/api/export?what=posts"],
)
def test_an_offset_that_postgresql_has_not_is_taken_or_refused(
    dashboard: str, path: str, name: str
) -> None:
    query = urlencode({name: "2026-01-01T00:00:00+23:00"})
    mark = "&" if "?" in path else "?"

    assert ask(dashboard, "GET", f"{path}{mark}{query}", AS_VIEWER).status < 500


@pytest.mark.parametrize("path", ["/api/promotions?since", "/api/alerts?since"])
def test_an_offset_of_the_first_moment_is_taken_or_refused(dashboard: str, path: str) -> None:
    moment = quote("2026-01-01T00:00:00+23:00")

    assert ask(dashboard, "GET", f"{path}={moment}", AS_VIEWER).status < 500


@pytest.mark.parametrize("zone", ["localtime", "posixrules", "right/Europe/Paris"])
@pytest.mark.parametrize("path", ["/api/series?step=day", "/api/export?what=days"])
def test_a_zone_that_postgresql_has_not_is_refused(dashboard: str, path: str, zone: str) -> None:
    assert ask(dashboard, "GET", f"{path}&zone={zone}", AS_VIEWER).status == 422


def test_a_preview_before_the_first_year_is_refused(dashboard: str) -> None:
    rule = orjson.dumps({"name": "a", "kind": "level", "threshold": 0.1})
    path = "/api/rules/preview?until=0001-01-01T00:00:00Z"

    assert ask(dashboard, "POST", path, AS_VIEWER, rule).status == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/api/rules/%00"), ("POST", "/api/deliveries/%00/replay")],
)
def test_nothing_is_called_nul(dashboard: str, method: str, path: str) -> None:
    assert ask(dashboard, method, path, AS_EDITOR).status in {404, 422}
