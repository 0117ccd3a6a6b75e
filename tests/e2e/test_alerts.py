"""A rule that holds reaches the program that somebody has named, once and signed."""

import base64
import json
import os
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.deployed import OWNED, Platform

_RECEIVER = "e2e-receiver"
_PORT = 8080
_PODS = {"app": _RECEIVER}
_NOTIFIER = {"app.kubernetes.io/component": "notifier"}
_ARRIVAL_SECONDS = 120


@pytest.fixture(scope="module")
def receiver(platform: Platform) -> Iterator[str]:
    """The pod of a program that takes webhooks, and that the notifier knows as a channel."""
    key = f"whsec_{base64.b64encode(os.urandom(32)).decode()}"
    channels = {"receiver": {"webhook": f"http://{_RECEIVER}:{_PORT}/", "secret": key}}
    named = {"name": _RECEIVER, "labels": OWNED}
    port = {"protocol": "TCP", "port": _PORT}
    pods = {"podSelector": {"matchLabels": _PODS}}
    for manifest in (
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": named,
            "stringData": {"channels.yaml": json.dumps({"channels": channels})},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": named,
            "spec": {"selector": _PODS, "ports": [port]},
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": named,
            "spec": {
                **pods,
                "policyTypes": ["Ingress"],
                "ingress": [
                    {"from": [{"podSelector": {"matchLabels": _NOTIFIER}}], "ports": [port]}
                ],
            },
        },
    ):
        platform.apply(manifest)
    pod = platform.start("moodstream-notifier", "receive.py", key, labels=_PODS)
    values = {
        "notifier": {"channelsSecret": _RECEIVER, "allowedHosts": [_RECEIVER]},
        "networkPolicy": {"egressTo": {"notifier": [{"to": [pods], "ports": [port]}]}},
    }
    with platform.upgraded("moodstream", values):
        yield pod


def test_a_rule_that_begins_to_hold_is_told_once_with_a_right_signature(
    platform: Platform, receiver: str
) -> None:
    """The posts are of an earlier day, so their topic has been silent since."""
    batch = platform.produce(10)
    platform.finish(batch.pod, 120)
    platform.wait_for_rows(batch, 10, 60)
    name = batch.prefix
    rule = {
        "name": name,
        "kind": "silence",
        "topic": batch.prefix,
        "threshold": 1,
        "channels": ["receiver"],
    }

    _change(platform, "PUT", f"rules/{name}", rule)
    try:
        platform.wait(
            lambda: bool(_received(platform, receiver, name)), _ARRIVAL_SECONDS, "a message"
        )
        with platform.forwarded("dashboard", 80) as address:
            alerts = _get(f"{address}/api/alerts")
        _change(platform, "POST", f"rules/{name}/test")
        platform.wait(
            lambda: len(_received(platform, receiver, name)) > 1, _ARRIVAL_SECONDS, "the test"
        )
    finally:
        _change(platform, "DELETE", f"rules/{name}")

    messages = _received(platform, receiver, name)
    assert [message["message"]["type"] for message in messages] == ["alert.opened", "alert.test"]
    assert all(message["genuine"] for message in messages)
    assert len({message["id"] for message in messages}) == len(messages)
    assert [alert["topic"] for alert in alerts if alert["rule"] == name] == [batch.prefix]


def _received(platform: Platform, receiver: str, rule: str) -> list[dict[str, Any]]:
    """What the receiver has got about the rule, in its order."""
    lines = platform.kubectl("logs", receiver, "--tail=-1").splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    return [message for message in messages if message["message"]["data"]["rule"] == rule]


def _change(platform: Platform, method: str, path: str, body: object = None) -> None:
    """As the dashboard's page does it for somebody who has given the editor's token."""
    with platform.forwarded("dashboard", 80) as address:
        headers = {"Content-Type": "application/json", "Origin": address}
        token = platform.secrets().get("moodstream-editor/editor_token")
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = b"" if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{address}/api/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30):
            pass


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)
