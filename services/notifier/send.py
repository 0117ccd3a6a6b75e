"""One try to deliver one message: by Standard Webhooks to machines, by apprise to people.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

A webhook's address comes from the operator, but what its name resolves to does not: the address is
checked on the connected socket, before a byte is sent, so a name that changes its answer between
check and use reaches nothing inside.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv6Address, ip_address
from threading import Timer, local
from typing import Any, Final
from urllib.parse import urlsplit

import apprise
import orjson
import urllib3
from pydantic import SecretStr
from standardwebhooks import Webhook
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from services.core.errors import MoodstreamError
from services.notifier.settings import Channel

_ANSWER_BYTES: Final = 4_096
_GONE: Final = 410
_TEXT_CHARACTERS: Final = 3_000


@dataclass(frozen=True)
class Outcome:
    """What became of one try."""

    status: int | None
    """Of the receiver's answer; None without one."""
    problem: str | None
    """Why it was not delivered; None: it was."""
    retry_after: float | None = None
    """Seconds that the receiver asks to wait."""
    refused: bool = False
    """The receiver wants no more, ever (410)."""


class PrivateAddressError(MoodstreamError):
    """A webhook leads to an address that is not on the internet."""


_CONNECTED: Final = local()
"""`sockets`: what this thread has connected to in the try that is under way."""


@contextmanager
def _cut_after(seconds: float) -> Iterator[None]:
    """Cuts the connections of the block after so many seconds, however slowly the other end goes
    on: urllib3's timeouts are for each read.
    """
    sockets: list[socket.socket] = []

    def cut() -> None:
        for connected in sockets:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    timer = Timer(seconds, cut)
    _CONNECTED.sockets = sockets
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for connected in sockets:
            connected.close()


def _bounded(connected: socket.socket) -> socket.socket:
    # A copy: TLS takes the socket itself over.
    _CONNECTED.sockets.append(connected.dup())
    return connected


class _Bounded(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _bounded(super()._new_conn())


class _BoundedTLS(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _bounded(super()._new_conn())


class _Guarded(_Bounded):
    def _new_conn(self) -> socket.socket:
        return _checked(super()._new_conn())


class _GuardedTLS(_BoundedTLS):
    def _new_conn(self) -> socket.socket:
        return _checked(super()._new_conn())


def _checked(connected: socket.socket) -> socket.socket:
    try:
        check_peer(connected)
    except PrivateAddressError:
        connected.close()
        raise
    return connected


def _pools(plain: type[HTTPConnection], tls: type[HTTPSConnection]) -> urllib3.PoolManager:
    pools = urllib3.PoolManager()
    pools.pool_classes_by_scheme = {
        "http": type("_Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("_TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
    }
    return pools


def check_peer(connected: socket.socket) -> None:
    """Raises PrivateAddressError unless the other end is on the internet."""
    peer = ip_address(connected.getpeername()[0].partition("%")[0])
    mapped = peer.ipv4_mapped if isinstance(peer, IPv6Address) else None
    if not (mapped or peer).is_global or peer.is_multicast:
        raise PrivateAddressError(
            "the address is a private one; name its host in MOODSTREAM_NOTIFIER_ALLOWED_HOSTS "
            "if it is yours"
        )


class Sender:
    """Sends. Thread-safe."""

    def __init__(self, seconds: float, allowed_hosts: frozenset[str]) -> None:
        self._seconds = seconds
        self._allowed = allowed_hosts

    def send(self, channel: Channel, ident: str, payload: dict[str, Any]) -> Outcome:
        """One try; never raises. `ident` is the same for every try of one message."""
        if channel.webhook is not None:
            return self._webhook(channel.webhook.get_secret_value(), channel.secret, ident, payload)
        return self._people(channel.apprise, payload)

    def _webhook(
        self, url: str, secret: SecretStr | None, ident: str, payload: dict[str, Any]
    ) -> Outcome:
        host = (urlsplit(url).hostname or "").lower()
        allowed = host in self._allowed
        if urlsplit(url).scheme != "https" and not allowed:
            return Outcome(
                None,
                "the address is not https; name its host in MOODSTREAM_NOTIFIER_ALLOWED_HOSTS if "
                "it is in your own network",
            )
        body = orjson.dumps(payload)
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "moodstream",
            "webhook-id": ident,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        try:
            if secret is not None:
                signer = Webhook(secret.get_secret_value())
                headers["webhook-signature"] = signer.sign(ident, now, body.decode())
            # Connections of its own: a channel's messages are a minute apart.
            connections = (_Bounded, _BoundedTLS) if allowed else (_Guarded, _GuardedTLS)
            with (
                _cut_after(self._seconds),
                _pools(*connections) as pools,
                pools.request(
                    "POST",
                    url,
                    body=body,
                    headers=headers,
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    timeout=urllib3.Timeout(total=self._seconds),
                ) as answer,
                # The status is the answer; what follows it is nobody's.
                suppress(urllib3.exceptions.HTTPError, OSError),
            ):
                answer.read(_ANSWER_BYTES)
        except PrivateAddressError as exc:
            return Outcome(None, str(exc))
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
            # The exception's own words hold the address, which is a secret.
            return Outcome(None, f"{type(exc).__name__}: {host} does not answer as it should")
        if 200 <= answer.status < 300:
            return Outcome(answer.status, None)
        return Outcome(
            answer.status,
            f"{host} answered {answer.status}",
            _retry_after(answer.headers.get("Retry-After"), now),
            answer.status == _GONE,
        )

    def _people(self, address: SecretStr | None, payload: dict[str, Any]) -> Outcome:
        asset = apprise.AppriseAsset(secure_logging=True)
        target = apprise.Apprise(asset=asset)
        data = payload["data"]
        try:
            if address is None or not target.add(address.get_secret_value()):
                return Outcome(None, "apprise cannot read the address; see its documentation")
            told = target.notify(
                title=data["title"],
                body=data["text"][:_TEXT_CHARACTERS],
                body_format=apprise.NotifyFormat.TEXT,
            )
        except Exception as exc:  # Plugins raise what they like.
            return Outcome(None, f"apprise: {type(exc).__name__}")
        return Outcome(None, None if told else "the service did not take the message")


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds, from seconds or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())
