"""A TCP proxy on this machine that breaks connections in the ways that networks and servers do."""

import contextlib
import socket
import time
from collections.abc import Iterator
from threading import Event, Lock, Thread
from typing import Final

from services.local.net import ADDRESS
from tests.ports import free_port

_CHUNK_BYTES: Final = 65_536


class Proxy:
    """Stands in front of a port. Its faults last until `heal`.

    down     connections are cut, and refused like those to a server that is gone
    hang     connections are accepted and stay open; no byte passes in either direction
    delay    each chunk of an answer comes so many seconds late
    trickle  answers come byte by byte, with so many seconds between two bytes
    cut      the first request that holds the pattern ends its connection, before or after the
             server got it; the answer never arrives
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.cuts = 0
        """Connections that `cut` has ended."""
        self.passed = 0
        """Bytes of answers that reached a client."""
        self._target_port = target_port
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = Lock()
        self._flowing = Event()
        self._flowing.set()
        self._delay_seconds = self._trickle_seconds = 0.0
        self._pattern, self._forward, self._cuts_left = b"", True, 0

    def __enter__(self) -> "Proxy":
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self._flowing.set()

    def down(self) -> None:
        """The server is gone."""
        if self._listener is not None:
            # A close alone would leave the port open while the thread is inside accept().
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _end(connection)

    def hang(self) -> None:
        """Nothing passes, nothing closes."""
        self._flowing.clear()

    def delay(self, seconds: float) -> None:
        """Answers are late."""
        self._delay_seconds = seconds

    def trickle(self, seconds: float) -> None:
        """Answers come byte by byte."""
        self._trickle_seconds = seconds

    def cut(self, pattern: bytes, *, forward: bool, times: int = 1) -> None:
        """Ends the next connections on which a request holds the pattern."""
        self._pattern, self._forward, self._cuts_left = pattern, forward, times

    def heal(self) -> None:
        """Everything passes again."""
        self._delay_seconds = self._trickle_seconds = 0.0
        self._cuts_left = 0
        self._flowing.set()
        if self._listener is None:
            self._listen()

    def _listen(self) -> None:
        self._listener = socket.create_server((ADDRESS, self.port))
        Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((ADDRESS, self._target_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            ends = client, server, Event()
            requests = Thread(target=self._pump_requests, args=ends, daemon=True)
            answers = Thread(target=self._pump_answers, args=ends, daemon=True)
            requests.start()
            answers.start()
            Thread(
                target=self._close, args=(client, server, requests, answers), daemon=True
            ).start()

    def _close(
        self, client: socket.socket, server: socket.socket, requests: Thread, answers: Thread
    ) -> None:
        requests.join()
        answers.join()
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()

    def _pump_requests(self, client: socket.socket, server: socket.socket, swallow: Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(_CHUNK_BYTES):
                self._flowing.wait()
                if self._cuts_left and self._pattern in chunk:
                    self._cuts_left -= 1
                    if not self._forward:
                        self.cuts += 1
                        break
                    swallow.set()
                server.sendall(chunk)
        _end(client)
        _end(server)

    def _pump_answers(self, client: socket.socket, server: socket.socket, swallow: Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := server.recv(_CHUNK_BYTES):
                self._flowing.wait()
                if swallow.is_set():
                    # The answer is the proof that the server has done what was asked.
                    self.cuts += 1
                    break
                for piece in self._slowed(chunk):
                    client.sendall(piece)
                    self.passed += len(piece)
        _end(client)
        _end(server)

    def _slowed(self, chunk: bytes) -> Iterator[bytes]:
        if self._delay_seconds:
            time.sleep(self._delay_seconds)
        if not self._trickle_seconds:
            yield chunk
            return
        for byte in chunk:
            time.sleep(self._trickle_seconds)
            yield bytes([byte])


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
