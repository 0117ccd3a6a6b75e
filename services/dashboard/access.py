"""Who may read and who may write through the dashboard. Called before a request's body is read.

A browser sends what any page asks it to, so a request that writes must come from our own page: a
body that no form can send, and an Origin that is the address asked. Without a token only this
machine may write; its name in the address must be this machine's too, or a page on a name that an
attacker points at 127.0.0.1 would pass for ours.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from fastapi import Request
from pydantic import SecretStr

from services.core.errors import MoodstreamError
from services.dashboard.settings import DashboardSettings

COOKIE: Final = "moodstream_token"
_SCHEME: Final = "bearer "
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip")
"""A request with one of these came through a proxy, from who knows where."""
_USER: Final = ("x-forwarded-user", "x-auth-request-user")
_GROUPS: Final = ("x-forwarded-groups", "x-auth-request-groups")
_WRITTEN: Final = frozenset({"application/json", "application/yaml"})
_BODIES: Final = frozenset({"POST", "PUT", "PATCH"})


class Role(StrEnum):
    """What somebody may do; an editor may read too."""

    VIEWER = "viewer"
    EDITOR = "editor"


class Writing(StrEnum):
    """How this client comes to write."""

    OPEN = "open"
    TOKEN = "token"  # noqa: S105 - a word of the API, not a secret
    CLOSED = "closed"


@dataclass(frozen=True)
class Visitor:
    """Who asks."""

    role: Role | None
    """None: nobody who may even read."""
    user: str | None
    """The name that a trusted proxy gives."""
    writing: Writing
    """open: may now; token: with the editor's token; closed: not from here."""


class AccessError(MoodstreamError):
    """A request that is not taken, with its HTTP status."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


class Guard:
    """Knows the tokens and the proxies. Without state of its own."""

    def __init__(self, settings: DashboardSettings) -> None:
        self._settings = settings

    def visitor(self, client: str | None, headers: Mapping[str, str], token: str | None) -> Visitor:
        """Who asks, by the peer's address, the headers (lower-case names) and the token given."""
        settings = self._settings
        proxied = self._is_proxy(client)
        user, groups = _signed_in(headers) if proxied else (None, frozenset())
        local = not proxied and _is_this_machine(client, headers)
        if _same(token, settings.editor_token):
            role: Role | None = Role.EDITOR
        elif user is not None:
            member = bool(settings.editor_group) and settings.editor_group in groups
            role = Role.EDITOR if member else Role.VIEWER
        elif local and settings.editor_token is None:
            role = Role.EDITOR
        elif local or settings.reading == "open" or _same(token, settings.viewer_token):
            role = Role.VIEWER
        else:
            role = None
        if role == Role.EDITOR:
            writing = Writing.OPEN
        else:
            writing = Writing.TOKEN if settings.editor_token is not None else Writing.CLOSED
        return Visitor(role, user, writing)

    def read(self, client: str | None, headers: Mapping[str, str], token: str | None) -> Visitor:
        """Who reads. Raises AccessError for somebody who may not."""
        visitor = self.visitor(client, headers, token)
        if visitor.role is not None:
            return visitor
        if self._settings.viewer_token is None and self._settings.editor_token is None:
            raise AccessError(
                403,
                "this dashboard is read on its own machine only; for others set "
                "MOODSTREAM_DASHBOARD_VIEWER_TOKEN where it runs",
            )
        raise AccessError(
            401, "the dashboard needs a token: open it with ?token=TOKEN, or send it as a Bearer"
        )

    def write(
        self, method: str, client: str | None, headers: Mapping[str, str], token: str | None
    ) -> Visitor:
        """Who writes. Raises AccessError for somebody who may not, or for a request that another
        page may have had a browser send.
        """
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method in _BODIES and kind not in _WRITTEN:
            raise AccessError(415, "send JSON, with Content-Type: application/json")
        origin = headers.get("origin")
        # Only a browser can be made to send what its user did not write, and it names the origin.
        bearer = _bearer(headers) is not None
        if origin is None and not bearer:
            raise AccessError(403, "send an Origin header with the dashboard's own address")
        if origin is not None and _split(origin).netloc.lower() != headers.get("host", "").lower():
            raise AccessError(403, f"a page of {origin} may not write here")
        visitor = self.visitor(client, headers, token)
        if visitor.role == Role.EDITOR:
            return visitor
        if visitor.writing == Writing.TOKEN:
            raise AccessError(401, "this needs the editor's token: Authorization: Bearer TOKEN")
        raise AccessError(
            403,
            "this is taken from the dashboard's own machine only; for others set "
            "MOODSTREAM_DASHBOARD_EDITOR_TOKEN where the dashboard runs",
        )

    def _is_proxy(self, client: str | None) -> bool:
        address = _address(client)
        return address is not None and any(
            address in network for network in self._settings.trusted_proxies
        )


def viewer(request: Request) -> Visitor:
    """FastAPI dependency: somebody who may read."""
    return _guard(request).read(_client(request), request.headers, _token(request))


def editor(request: Request) -> Visitor:
    """FastAPI dependency: somebody who may write."""
    return _guard(request).write(request.method, _client(request), request.headers, _token(request))


def visitor(request: Request) -> Visitor:
    """FastAPI dependency: anybody."""
    return _guard(request).visitor(_client(request), request.headers, _token(request))


def _guard(request: Request) -> Guard:
    guard: Guard = request.app.state.guard
    return guard


def _client(request: Request) -> str | None:
    return request.client.host if request.client else None


def _token(request: Request) -> str | None:
    """In the header, the page's cookie, or the address of a GET: spreadsheets and feed readers can
    send nothing else.
    """
    if (given := _bearer(request.headers)) is not None:
        return given
    if request.method in {"GET", "HEAD"} and (given := request.query_params.get("token")):
        return given
    return request.cookies.get(COOKIE)


def _bearer(headers: Mapping[str, str]) -> str | None:
    given = headers.get("authorization", "")
    return given[len(_SCHEME) :].strip() if given.lower().startswith(_SCHEME) else None


def _signed_in(headers: Mapping[str, str]) -> tuple[str | None, frozenset[str]]:
    """User and groups, as a proxy names them."""
    user = next((headers[name] for name in _USER if headers.get(name)), None)
    groups = ",".join(headers.get(name, "") for name in _GROUPS)
    return user, frozenset(group.strip() for group in groups.split(",") if group.strip())


def _same(given: str | None, wanted: SecretStr | None) -> bool:
    return (
        given is not None
        and wanted is not None
        and hmac.compare_digest(given.encode(), wanted.get_secret_value().encode())
    )


def _is_this_machine(client: str | None, headers: Mapping[str, str]) -> bool:
    if any(name in headers for name in _FORWARDED):
        return False
    name = _split(f"//{headers.get('host', '')}").hostname or ""
    address, named = _address(client), _address(name)
    return (
        address is not None
        and address.is_loopback
        and (name == "localhost" or (named is not None and named.is_loopback))
    )


def _split(address: str) -> SplitResult:
    """Empty for what is no address, as half an IPv6 one."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _address(text: str | None) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(text or "")
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed
