"""Who may correct a label through the dashboard. Pure; called before a request's body is read.

A browser sends what any page asks it to, so a request must come from our own page: a JSON body (a
form cannot send one) and an Origin that is the address asked. Without a token only this machine may
write; its name in the address must be this machine's too, or a page on a name that an attacker
points at 127.0.0.1 would pass for ours.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

_SCHEME: Final = "bearer "
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip")
"""A request with one of these came through a proxy, from who knows where."""

OPEN: Final = "open"
WITH_TOKEN: Final = "token"  # noqa: S105 - a word of the API, not a secret
CLOSED: Final = "closed"


@dataclass(frozen=True)
class Refusal:
    """Why a request is not taken, as an HTTP status and a sentence."""

    status: int
    problem: str


def access(client: str | None, headers: Mapping[str, str], token: str | None) -> str:
    """What a client may do about corrections: OPEN, WITH_TOKEN or CLOSED. `headers` has lower-case
    names.
    """
    if token is not None:
        return WITH_TOKEN
    return OPEN if _is_this_machine(client, headers) else CLOSED


def refusal(client: str | None, headers: Mapping[str, str], token: str | None) -> Refusal | None:
    """Why this client may not correct a label with this request; None when it may."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return Refusal(415, "send JSON, with Content-Type: application/json")
    origin = headers.get("origin")
    # Only a browser can be made to send what its user did not write, and it names the origin.
    if origin is None and token is None:
        return Refusal(403, "send an Origin header with the dashboard's own address")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        return Refusal(403, f"a page of {origin} may not correct labels here")
    if token is not None:
        given = headers.get("authorization", "")
        if not given.lower().startswith(_SCHEME) or not hmac.compare_digest(
            given[len(_SCHEME) :].strip().encode(), token.encode()
        ):
            return Refusal(401, "a correction needs the token: Authorization: Bearer TOKEN")
        return None
    if not _is_this_machine(client, headers):
        return Refusal(
            403,
            "corrections are taken from the dashboard's own machine only; for others set "
            "MOODSTREAM_DASHBOARD_CORRECTIONS_TOKEN where the dashboard runs",
        )
    return None


def _is_this_machine(client: str | None, headers: Mapping[str, str]) -> bool:
    if client is None or any(name in headers for name in _FORWARDED):
        return False
    name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    return _is_loopback(client) and (name == "localhost" or _is_loopback(name))


def _is_loopback(address: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback
