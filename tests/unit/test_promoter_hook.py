"""MLflow's webhook: who may wake the promoter."""

import base64
import hmac
import http.client
import json
from collections.abc import Mapping
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.health import HealthServer
from services.promoter.hook import PATH, Hook, verify

KEY = "signs"
NOW = 1_900_000_000.0


def signed(body: bytes, secret: str = KEY, at: float = NOW) -> dict[str, str]:
    """The headers of MLflow's delivery of a body."""
    content = f"d-1.{at:.0f}.".encode() + body
    digest = base64.b64encode(hmac.digest(secret.encode(), content, "sha256")).decode()
    return {
        "x-mlflow-delivery-id": "d-1",
        "x-mlflow-timestamp": f"{at:.0f}",
        "x-mlflow-signature": f"v1,{digest}",
    }


def said(entity: str = "model_version_alias", action: str = "created", name: str = "m") -> bytes:
    data = {"name": name, "alias": "champion", "version": "7"}
    return json.dumps({"entity": entity, "action": action, "data": data}).encode()


@given(st.binary(), st.integers(-300, 300))
def test_what_mlflow_has_signed_within_five_minutes_is_good(body: bytes, age: int) -> None:
    assert verify(KEY, signed(body, at=NOW - age), body, NOW)


@given(st.binary(), st.integers(301) | st.integers(max_value=-301))
def test_an_old_signature_or_one_of_the_future_is_refused(body: bytes, age: int) -> None:
    assert not verify(KEY, signed(body, at=NOW - age), body, NOW)


@given(st.binary(), st.binary(), st.text(min_size=1))
def test_another_body_or_another_secret_is_refused(body: bytes, other: bytes, secret: str) -> None:
    headers = signed(body)

    assert verify(KEY, headers, other, NOW) == (body == other)
    assert verify(secret, headers, body, NOW) == (secret == KEY)


@given(
    st.dictionaries(
        st.sampled_from(["x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature"]),
        st.text(),
    )
)
def test_no_headers_break_the_check(forged: Mapping[str, str]) -> None:
    assert not verify(KEY, signed(b"", at=NOW - 1_000) | forged, b"", NOW)


@pytest.mark.parametrize(
    ("body", "woken"),
    [
        (said(), True),
        (said(action="deleted"), True),
        (said(action="updated"), False),
        (said(entity="model_version_tag"), False),
        (said(name="other"), False),
        (b"[]", False),
        (b"\xff", False),
        (b'{"entity": "model_version_alias", "action": {}, "data": 1}', False),
    ],
)
def test_only_an_alias_of_the_model_wakes(body: bytes, woken: bool) -> None:
    wake = Event()

    status = Hook(KEY, "m", wake, lambda: NOW)(signed(body), body)

    assert (status, wake.is_set()) == (200, woken)


def test_a_wrong_signature_is_unauthorized_and_wakes_nobody() -> None:
    wake = Event()

    status = Hook(KEY, "m", wake, lambda: NOW)(signed(said(), "other"), said())

    assert (status, wake.is_set()) == (401, False)


def post(port: int, path: str, body: bytes, headers: Mapping[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.putrequest("POST", path)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (PATH, signed(said()) | {"Content-Length": str(len(said()))}, 200),
        (PATH, {"Content-Length": str(len(said()))}, 401),
        (PATH, signed(said()), 411),
        (PATH, {"Content-Length": "-1"}, 411),
        (PATH, {"Content-Length": "65537"}, 413),
        (PATH, {"Content-Length": "9" * 5_000}, 413),
        ("/livez", {"Content-Length": "0"}, 404),
    ],
)
def test_the_address_takes_bounded_signed_bodies(
    path: str, headers: Mapping[str, str], status: int
) -> None:
    wake = Event()
    hook = Hook(KEY, "m", wake, lambda: NOW)

    with HealthServer(
        "127.0.0.1", 0, alive=lambda: None, ready=lambda: None, posts={PATH: hook}
    ) as server:
        answered = post(server.port, path, said() if status in (200, 401) else b"", headers)

    assert answered == status
    assert wake.is_set() == (status == 200)


def test_a_service_without_posts_takes_none() -> None:
    with HealthServer("127.0.0.1", 0, alive=lambda: None, ready=lambda: None) as server:
        assert post(server.port, PATH, b"", {"Content-Length": "0"}) == 404
