"""The injector itself: what each mode of the proxy does to a connection."""

import socket
import time
from collections.abc import Iterator
from threading import Thread

import pytest

from services.local.net import ADDRESS, accepts
from tests.faults.proxy import Proxy
from tests.waiting import wait_until

PATIENCE_SECONDS = 10


class Echo:
    """A server that answers what it is sent, and remembers it."""

    def __init__(self) -> None:
        self.received = b""
        self._listener = socket.create_server((ADDRESS, 0))
        self.port = self._listener.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while chunk := connection.recv(1_024):
                self.received += chunk
                connection.sendall(chunk)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    """A connection that works before the fault."""
    with socket.create_connection((ADDRESS, proxy.port), PATIENCE_SECONDS) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        yield client


def test_down_cuts_connections_and_refuses_new_ones_until_it_is_healed(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.down()

    assert client.recv(100) == b""
    assert not accepts(proxy.port)
    proxy.heal()
    assert accepts(proxy.port)


def test_hang_passes_nothing_until_it_is_healed(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.hang()
    client.sendall(b"late")
    client.settimeout(0.5)
    with pytest.raises(TimeoutError):
        client.recv(100)
    reached = echo.received

    proxy.heal()
    client.settimeout(PATIENCE_SECONDS)

    assert client.recv(100) == b"late"
    assert reached == b"hello"


def test_delay_and_trickle_make_answers_late_and_slow(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.3)
    began = time.monotonic()
    client.sendall(b"abc")
    delayed, late = client.recv(100), time.monotonic() - began
    proxy.heal()
    proxy.trickle(0.1)
    client.sendall(b"abc")

    assert (delayed, late >= 0.3) == (b"abc", True)
    assert [client.recv(100) for _ in range(3)] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("forward", [True, False])
def test_cut_ends_the_connection_on_its_pattern_alone(
    proxy: Proxy, client: socket.socket, echo: Echo, forward: bool
) -> None:
    proxy.cut(b"COMMIT", forward=forward)
    client.sendall(b"other")
    other = client.recv(100)
    client.sendall(b"COMMIT")
    ended = client.recv(100)

    wait_until(lambda: proxy.cuts == 1, PATIENCE_SECONDS, "a cut")
    assert (other, ended) == (b"other", b"")
    assert (b"COMMIT" in echo.received) == forward
