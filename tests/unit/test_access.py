"""Who may read and who may write, by client, address and headers."""

from typing import Any

import pytest

from services.dashboard.access import AccessError, Guard, Role, Writing
from services.dashboard.settings import DashboardSettings

EDITOR = "correct-horse-battery"
VIEWER = "staple-of-the-viewers"
OWN = {
    "host": "localhost:18000",
    "origin": "http://localhost:18000",
    "content-type": "application/json",
}
PROXY = "10.244.0.7"
SIGNED_IN = {"host": "mood.example.org", "x-forwarded-user": "ada", "x-forwarded-for": "192.0.2.1"}


def guard(**settings: Any) -> Guard:
    return Guard(DashboardSettings(**settings))


def writes(
    client: str | None,
    headers: dict[str, str],
    token: str | None = None,
    method: str = "POST",
    **settings: Any,
) -> int | None:
    """The refusal's status; None when the request is taken."""
    try:
        guard(**settings).write(method, client, headers, token)
    except AccessError as exc:
        return exc.status
    return None


def reads(
    client: str | None, headers: dict[str, str], token: str | None = None, **settings: Any
) -> int | None:
    try:
        guard(**settings).read(client, headers, token)
    except AccessError as exc:
        return exc.status
    return None


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_our_own_page_on_this_machine_may_do_everything(client: str) -> None:
    assert writes(client, OWN) is None
    assert reads(client, OWN) is None
    assert guard().visitor(client, OWN, None).writing == Writing.OPEN


@pytest.mark.parametrize("client", ["10.1.2.3", "::ffff:10.1.2.3", "fe80::1", None, "testclient"])
def test_another_machine_may_nothing_without_a_token(client: str | None) -> None:
    assert writes(client, OWN) == 403
    assert reads(client, OWN) == 403
    assert guard().visitor(client, OWN, None).writing == Writing.CLOSED


def test_where_reading_is_open_another_machine_reads_and_does_not_write() -> None:
    assert reads("10.1.2.3", OWN, reading="open") is None
    assert writes("10.1.2.3", OWN, reading="open") == 403


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_what_came_through_a_proxy_is_not_from_this_machine(header: str) -> None:
    assert writes("127.0.0.1", OWN | {header: "127.0.0.1"}) == 403
    assert reads("127.0.0.1", OWN | {header: "127.0.0.1"}) == 403


def test_a_name_that_an_attacker_points_at_this_machine_is_not_this_machine() -> None:
    rebound = OWN | {"host": "evil.example:18000", "origin": "http://evil.example:18000"}

    assert writes("127.0.0.1", rebound) == 403
    assert reads("127.0.0.1", rebound) == 403


@pytest.mark.parametrize("editor", [None, EDITOR])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost:1", "null", "http://localhost:18000.evil"]
)
def test_a_page_from_elsewhere_may_not_write(origin: str, editor: str | None) -> None:
    headers = OWN | {"origin": origin, "authorization": f"Bearer {EDITOR}"}

    assert writes("127.0.0.1", headers, EDITOR, editor_token=editor) == 403


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
def test_what_a_form_can_send_is_not_taken(kind: str) -> None:
    assert writes("127.0.0.1", OWN | {"content-type": kind}) == 415


def test_a_deletion_has_no_body_and_needs_no_type() -> None:
    headers = {"host": OWN["host"], "origin": OWN["origin"]}

    assert writes("127.0.0.1", headers, method="DELETE") is None


def test_without_an_origin_only_a_token_in_the_header_tells_a_program_from_a_page() -> None:
    without = {name: value for name, value in OWN.items() if name != "origin"}
    bearer = without | {"authorization": f"Bearer {EDITOR}"}

    assert writes("127.0.0.1", without) == 403
    # A cookie is sent by the browser, whoever asks it to.
    assert writes("10.1.2.3", without, EDITOR, editor_token=EDITOR) == 403
    assert writes("10.1.2.3", bearer, EDITOR, editor_token=EDITOR) is None


@pytest.mark.parametrize("given", [None, "", "wrong", EDITOR + " ", VIEWER])
def test_where_an_editors_token_is_set_everybody_needs_it_to_write(given: str | None) -> None:
    tokens = {"editor_token": EDITOR, "viewer_token": VIEWER}

    assert writes("127.0.0.1", OWN, given, **tokens) == 401
    assert guard(**tokens).visitor("127.0.0.1", OWN, given).writing == Writing.TOKEN


@pytest.mark.parametrize(
    ("given", "status"), [(None, 401), ("wrong", 401), (VIEWER, None), (EDITOR, None)]
)
def test_from_elsewhere_either_token_lets_one_read(given: str | None, status: int | None) -> None:
    tokens = {"editor_token": EDITOR, "viewer_token": VIEWER}

    assert reads("10.1.2.3", {"host": "mood.example.org"}, given, **tokens) == status


def test_the_editors_token_opens_the_door_from_anywhere() -> None:
    published = {
        "host": "mood.example.org",
        "origin": "https://mood.example.org",
        "content-type": "application/json; charset=utf-8",
        "x-forwarded-for": "10.1.2.3",
    }

    assert writes("10.244.0.9", published, EDITOR, editor_token=EDITOR) is None


def test_whom_a_trusted_proxy_has_signed_in_reads_and_its_editors_write() -> None:
    settings = {"trusted_proxies": "10.244.0.0/16, fd00::/8", "editor_group": "comms"}
    editor = SIGNED_IN | {"x-forwarded-groups": "staff,comms"}

    one = guard(**settings).visitor(PROXY, SIGNED_IN, None)
    other = guard(**settings).visitor(PROXY, editor, None)

    assert (one.role, one.user, one.writing) == (Role.VIEWER, "ada", Writing.CLOSED)
    assert (other.role, other.user, other.writing) == (Role.EDITOR, "ada", Writing.OPEN)


@pytest.mark.parametrize("client", ["10.1.2.3", "127.0.0.1"])
def test_anybody_elses_word_about_who_has_signed_in_is_not_believed(client: str) -> None:
    headers = SIGNED_IN | {"x-forwarded-groups": "comms"}
    settings = {"trusted_proxies": "10.244.0.0/16", "editor_group": "comms"}

    assert guard(**settings).visitor(client, headers, None).role is None


def test_a_proxy_on_this_machine_does_not_make_its_visitors_local() -> None:
    settings = {"trusted_proxies": "127.0.0.0/8"}

    assert reads("127.0.0.1", OWN, **settings) == 403


def test_a_token_is_never_in_what_is_printed_of_the_settings() -> None:
    assert EDITOR not in repr(DashboardSettings(editor_token=EDITOR))  # type: ignore[arg-type]
