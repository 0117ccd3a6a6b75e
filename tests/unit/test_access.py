"""Who may correct a label, by client, address and headers."""

import pytest

from services.dashboard.access import CLOSED, OPEN, WITH_TOKEN, access, refusal

TOKEN = "correct-horse-battery"  # noqa: S105 - of the test
OWN = {
    "host": "localhost:18000",
    "origin": "http://localhost:18000",
    "content-type": "application/json",
}


def status(client: str | None, headers: dict[str, str], token: str | None = None) -> int | None:
    refused = refusal(client, headers, token)
    return refused.status if refused else None


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_our_own_page_on_this_machine_may(client: str) -> None:
    assert status(client, OWN) is None
    assert access(client, OWN, None) == OPEN


@pytest.mark.parametrize("client", ["10.1.2.3", "::ffff:10.1.2.3", "fe80::1", None, "testclient"])
def test_another_machine_may_not_without_a_token(client: str | None) -> None:
    assert status(client, OWN) == 403
    assert access(client, OWN, None) == CLOSED


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_what_came_through_a_proxy_is_not_from_this_machine(header: str) -> None:
    assert status("127.0.0.1", OWN | {header: "127.0.0.1"}) == 403


def test_a_name_that_an_attacker_points_at_this_machine_is_not_this_machine() -> None:
    rebound = OWN | {"host": "evil.example:18000", "origin": "http://evil.example:18000"}

    assert status("127.0.0.1", rebound) == 403


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost:1", "null", "http://localhost:18000.evil"]
)
def test_a_page_from_elsewhere_may_not(origin: str, token: str | None) -> None:
    headers = OWN | {"origin": origin, "authorization": f"Bearer {TOKEN}"}

    assert status("127.0.0.1", headers, token) == 403


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
def test_what_a_form_can_send_is_not_taken(kind: str) -> None:
    assert status("127.0.0.1", OWN | {"content-type": kind}) == 415


def test_without_an_origin_only_the_token_tells_a_program_from_a_page() -> None:
    without = {name: value for name, value in OWN.items() if name != "origin"}

    assert status("127.0.0.1", without) == 403
    assert status("10.1.2.3", without | {"authorization": f"Bearer {TOKEN}"}, TOKEN) is None


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN])
def test_where_a_token_is_set_everybody_needs_it(given: str | None) -> None:
    headers = OWN if given is None else OWN | {"authorization": given}

    assert status("127.0.0.1", headers, TOKEN) == 401
    assert access("127.0.0.1", headers, TOKEN) == WITH_TOKEN


def test_the_token_opens_the_door_from_anywhere() -> None:
    published = {
        "host": "mood.example.org",
        "origin": "https://mood.example.org",
        "content-type": "application/json; charset=utf-8",
        "authorization": f"bearer {TOKEN}",
        "x-forwarded-for": "10.1.2.3",
    }

    assert status("10.244.0.9", published, TOKEN) is None
