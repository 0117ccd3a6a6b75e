"""The three addresses of a service."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from services.core.health import HealthServer, Progress


class Switches:
    """What is wrong with the service under test, if anything."""

    alive: str | None = None
    ready: str | None = None


@pytest.fixture(name="switches")
def _switches() -> Switches:
    return Switches()


@pytest.fixture(name="server")
def _server(switches: Switches) -> Iterator[HealthServer]:
    registry = CollectorRegistry()
    Counter("beans", "Counted beans.", registry=registry).inc(3)
    with HealthServer(
        "127.0.0.1",
        0,
        alive=lambda: switches.alive,
        ready=lambda: switches.ready,
        registry=registry,
    ) as server:
        yield server


def get(server: HealthServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def test_a_healthy_service_says_ok(server: HealthServer) -> None:
    assert get(server, "/livez") == (200, "ok\n")
    assert get(server, "/readyz") == (200, "ok\n")


def test_an_unready_service_stays_alive_and_says_why(
    server: HealthServer, switches: Switches
) -> None:
    switches.ready = "store: PostgreSQL is away"

    assert get(server, "/livez") == (200, "ok\n")
    assert get(server, "/readyz") == (503, "store: PostgreSQL is away\n")


def test_metrics_are_served_in_prometheus_text(server: HealthServer) -> None:
    status, body = get(server, "/metrics")

    assert status == 200
    assert "beans_total 3.0" in body


def test_another_path_is_not_found(server: HealthServer) -> None:
    assert get(server, "/../etc/passwd")[0] == 404


def test_silence_beyond_the_limit_is_a_problem_until_the_next_beat() -> None:
    now = 0.0
    progress = Progress(10, clock=lambda: now)

    now = 10.5
    stuck = progress.problem()
    progress.beat()

    assert stuck == "no progress for 10 s"
    assert progress.problem() is None
