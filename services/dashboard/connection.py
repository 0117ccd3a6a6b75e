"""A client's connection to the dashboard, which ends when the client is too slow: uvicorn waits for
the rest of a request, and for who takes nothing of an answer, for ever.
"""

import asyncio
import socket
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)
"""Linux has it."""


class Connection(H11Protocol):
    """Ends unless each request is there, head and body, so long after the connection's beginning
    or the answer before it; and when the client takes nothing of what it is sent for as long. An
    answer may take any time.
    """

    seconds: float
    """How long; `connections` says it."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is expected."""
        super().connection_made(transport)
        if _USER_TIMEOUT is not None:
            # The kernel's, because ASGI hears nothing of what it has handed over already.
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, _USER_TIMEOUT, round(self.seconds * 1000)
            )
        self._expect()

    def data_received(self, data: bytes) -> None:
        """More of a request. Its deadline stays until it is whole."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """The next request is expected, unless it has come already."""
        super().on_response_complete()
        self._expect()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected any more."""
        self._forget()
        super().connection_lost(exc)

    def _look(self) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.more_body and not cycle.response_complete:
            self._forget()

    def _expect(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self._late)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.transport.get_write_buffer_size():
            # The last answer is on its way; whether it moves is the kernel's to say.
            self._expect()
        else:
            self.transport.abort()


def connections(seconds: float) -> type[Connection]:
    """What uvicorn makes of each connection."""

    class Timed(Connection):
        pass

    Timed.seconds = seconds
    return Timed
