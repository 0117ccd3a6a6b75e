"""Channels, retries and messages of the notifier."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import pytest

from services.core.errors import SettingsError
from services.notifier.deliver import SCHEDULE, News, coalesce, next_wait
from services.notifier.send import PrivateAddressError, Sender, check_peer
from services.notifier.settings import Channel, read_channels

HOOK = "https://hooks.example.org/catch/1/secret-part"


def test_channels_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "channels.yaml"
    path.write_text(
        f"channels:\n  zap: {{webhook: '{HOOK}'}}\n  team: {{apprise: 'slack://a/b/c'}}\n"
    )

    channels = read_channels(path)

    assert {name: channel.kind for name, channel in channels.items()} == {
        "zap": "webhook",
        "team": "apprise",
    }
    assert "secret-part" not in repr(channels)
    assert read_channels(None) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("channels: [", "not YAML"),
        ("zap: 1", "mapping under channels"),
        ("channels: {zap: {}}", "zap: .*either webhook or apprise"),
        (f"channels: {{zap: {{webhook: '{HOOK}', apprise: 'slack://secret-part'}}}}", "either"),
        ("channels: {zap: {webhook: 'ftp://secret-part'}}", "https"),
        ("channels: {zap: {apprise: 'json://secret-part'}}", "json is not one of"),
        ("channels: {zap: {apprise: 'syslog://secret-part'}}", "syslog is not one of"),
        ("channels: {zap: {apprise: 'slack://a/b/c?attach=/etc/secret-part'}}", "attachments"),
    ],
)
def test_a_channel_that_cannot_be_is_named_without_its_secret(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "channels.yaml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=said) as raised:
        read_channels(path)

    assert "secret-part" not in str(raised.value)
    with pytest.raises(SettingsError, match="MOODSTREAM_NOTIFIER_CHANNELS"):
        read_channels(tmp_path / "nothing")


def test_tries_follow_the_schedule_and_end() -> None:
    waits = [next_wait(tries, None, 0.5) for tries in range(1, len(SCHEDULE) + 1)]

    assert waits == [*SCHEDULE[1:], None]
    assert next_wait(1, None, 0.0) == 4.5
    assert next_wait(1, 120.0, 0.5) == 120.0
    assert next_wait(3, 120.0, 0.5) == 1_800
    assert next_wait(1, 1e9, 0.5) == 86_400


def news(number: int) -> News:
    data = {"title": f"Alert {number}", "text": "text", "rule": f"rule-{number}"}
    return News("alert.opened", datetime(2026, 3, 10, tzinfo=UTC), data)


def test_one_thing_is_told_as_it_is_and_a_storm_is_one_message() -> None:
    one, storm = coalesce([news(1)], "http://d"), coalesce([news(n) for n in range(50)], "")

    assert (one["type"], one["data"]["title"], one["data"]["count"]) == (
        "alert.opened",
        "Alert 1",
        1,
    )
    assert (storm["type"], storm["data"]["title"], storm["data"]["count"]) == (
        "alert.several",
        "50 things happened",
        50,
    )
    assert storm["data"]["text"].endswith("and 30 more")
    assert all(not isinstance(value, dict | list) for value in storm["data"].values())


def test_the_check_looks_at_the_address_that_is_connected() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as connected,
        pytest.raises(PrivateAddressError, match="ALLOWED_HOSTS"),
    ):
        check_peer(connected)


@pytest.mark.parametrize(
    "address",
    [
        "https://127.0.0.1:{port}/",
        "https://localhost:{port}/",
        "https://[::ffff:127.0.0.1]:{port}/",
    ],
)
def test_a_private_address_gets_not_one_byte(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        url = address.format(port=server.getsockname()[1])
        channel = Channel.model_validate({"webhook": url})

        outcome = Sender(5, frozenset()).send(channel, "msg_1", {"data": {}})

        accepted, _ = server.accept()
        accepted.settimeout(5)
        got = accepted.recv(1)
        accepted.close()

    assert outcome.problem is not None
    assert "private" in outcome.problem
    assert got == b""


def test_without_tls_only_a_host_that_is_allowed_is_asked() -> None:
    channel = Channel.model_validate({"webhook": "http://hooks.example.org/secret-part"})

    outcome = Sender(5, frozenset()).send(channel, "msg_1", {"data": {}})

    assert "not https" in (outcome.problem or "")
    assert "secret-part" not in (outcome.problem or "")


@contextmanager
def answering(*parts: bytes, pause: float = 0.0) -> Iterator[tuple[int, list[bytes]]]:
    """A server for one connection that answers these parts; its port, and what it was sent."""
    got: list[bytes] = []

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            connected, _ = server.accept()
            with connected:
                connected.settimeout(5)
                got.append(connected.recv(65_536))
                while b"\r\n\r\n" in got[0] and got[0].endswith(b"\r\n\r\n"):
                    got[0] += connected.recv(65_536)
                for part in parts:
                    connected.sendall(part)
                    time.sleep(pause)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        thread = Thread(target=serve, args=(server,))
        thread.start()
        yield server.getsockname()[1], got
    thread.join(10)


@pytest.mark.parametrize("delivered", [False, True], ids=["in its status", "in its body"])
def test_an_answer_that_comes_byte_by_byte_ends_at_the_deadline(delivered: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    drops = [head, *[b"x"] * 100] if delivered else [bytes([byte]) for byte in head]
    with answering(*drops, pause=0.3) as (port, _):
        channel = Channel.model_validate({"webhook": f"http://127.0.0.1:{port}/"})
        started = time.monotonic()

        outcome = Sender(2, frozenset({"127.0.0.1"})).send(channel, "msg_1", {"data": {}})

        seconds = time.monotonic() - started
    assert (outcome.problem is None) == delivered
    assert 1.9 < seconds < 9


@pytest.mark.parametrize("code", [200, 500])
def test_people_are_told_title_and_text_by_apprise(code: int) -> None:
    answer = f"HTTP/1.1 {code} Said\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    with answering(answer) as (port, got):
        channel = Channel.model_validate(
            {"apprise": f"mmost://127.0.0.1:{port}/tokentokentokentoken"}
        )
        payload = {"data": {"title": "Alert wave", "text": "trains: 46 % negative <b>"}}

        outcome = Sender(5, frozenset()).send(channel, "msg_1", payload)

    head, _, body = got[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hooks/tokentokentokentoken ")
    assert json.loads(body)["text"].split("\r\n") == ["Alert wave", "trains: 46 % negative <b>"]
    assert (outcome.problem is None) == (code == 200)
