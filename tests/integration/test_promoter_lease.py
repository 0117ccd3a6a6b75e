"""Who of several promoters acts, decided at a real Kubernetes API server. Time is the test's: each
candidate is told how late it is.
"""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client
from kubernetes.config import kube_config

from services.core.errors import TemporaryError
from services.promoter import cluster
from services.promoter.lease import Lease
from tests.apiserver import ApiServer
from tests.waiting import wait_until

NAME = "moodstream-promoter"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Place:
    """A namespace, and a clock that all candidates in it read."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.clock = Clock()
        self._server, self._namespace = server, namespace
        self._candidates: list[Lease] = []

    def candidate(self, identity: str) -> Lease:
        lease = Lease(self._namespace, NAME, identity, self.clock)
        self._candidates.append(lease)
        return lease

    def spec(self) -> Any:
        found = self._server.kubectl(
            "get", "lease", NAME, f"--namespace={self._namespace}", "--output=json"
        )
        return json.loads(found)["spec"]

    def edit(self, **spec: Any) -> None:
        patch = json.dumps({"spec": spec})
        self._server.kubectl(
            "patch", "lease", NAME, f"--namespace={self._namespace}", "--type=merge", "-p", patch
        )

    def close(self) -> None:
        for candidate in self._candidates:
            candidate.release()


@pytest.fixture
def place(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    # The library reads the variable KUBECONFIG when it is imported.
    location = "KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(kube_config, location, str(api_server.kubeconfig))
    # A holder renews by itself, by the real clock. Only one test here waits for that.
    monkeypatch.setattr("services.promoter.lease._RENEW_SECONDS", 3_600.0)
    cluster.connection.cache_clear()
    with api_server.namespace() as namespace:
        place = Place(api_server, namespace)
        yield place
        place.close()
    cluster.connection().close()
    cluster.connection.cache_clear()


def test_the_first_one_holds_it_and_says_so(place: Place) -> None:
    first, second = place.candidate("first"), place.candidate("second")

    held = [first.held(), second.held(), first.held()]

    assert held == [True, False, True]
    spec = place.spec()
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("first", 15)
    assert spec["leaseTransitions"] == 0
    assert spec["renewTime"] == spec["acquireTime"]


def test_one_that_was_released_is_free_at_once(place: Place) -> None:
    first, second = place.candidate("first"), place.candidate("second")
    assert first.held()

    first.release()
    between = place.spec()
    held = second.held(), first.held()

    assert between["holderIdentity"] == ""
    assert held == (True, False)
    assert place.spec()["leaseTransitions"] == 1


def test_a_silent_holder_is_replaced_once_it_was_seen_silent_for_its_duration(
    place: Place,
) -> None:
    first, second = place.candidate("first"), place.candidate("second")
    # A clock that is years off means nothing: only how long it stays unchanged does.
    assert first.held()
    place.edit(renewTime="2001-01-01T00:00:00.000000Z")

    held = []
    for now in (1_000.0, 1_014.9, 1_015.0):
        place.clock.now = now
        held.append(second.held())

    assert held == [False, False, True]
    assert place.spec()["holderIdentity"] == "second"


def test_a_holder_that_renews_stays(place: Place) -> None:
    first, second = place.candidate("first"), place.candidate("second")

    held = []
    for _ in range(4):
        held.append((first.held(), second.held()))
        place.clock.now += 10.0

    assert held == [(True, False)] * 4
    assert place.spec()["leaseTransitions"] == 0


def test_a_holder_renews_by_itself_while_nobody_asks_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.promoter.lease._RENEW_SECONDS", 0.1)
    first = place.candidate("first")

    assert first.held()
    acquired = place.spec()["acquireTime"]

    wait_until(lambda: place.spec()["renewTime"] > acquired, 30, "a renewal")
    assert place.spec()["acquireTime"] == acquired


def test_a_holder_that_was_replaced_while_it_slept_knows_before_it_acts(place: Place) -> None:
    first, second = place.candidate("first"), place.candidate("second")
    assert first.held()
    assert not second.held()
    place.clock.now += 15.0

    assert second.held()
    assert not first.held()


def test_the_same_identity_takes_its_lease_up_again_at_once(place: Place) -> None:
    assert place.candidate("pod-0").held()

    assert place.candidate("pod-0").held()

    assert place.spec()["leaseTransitions"] == 0


def test_of_two_that_take_it_at_the_same_time_one_gets_it(place: Place) -> None:
    first, second = place.candidate("first"), place.candidate("second")
    first.held()
    first.release()

    # Both have read the Lease before either writes: the second write must find it changed.
    stale = second._get()
    assert stale is not None
    assert first.held()

    assert not second._put(stale)
    assert place.spec()["holderIdentity"] == "first"


def test_an_api_server_that_is_away_is_waited_for_and_stops_the_holder_in_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = place.candidate("first")
    assert first.held()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        away = client.ApiClient(client.Configuration(host=host))
        away.configuration.retries = False
    with monkeypatch.context() as patched:
        patched.setattr(first, "_resources", client.CustomObjectsApi(away))
        place.clock.now += 9.9
        still = first.held()
        place.clock.now += 0.1
        with pytest.raises(TemporaryError, match="does not answer"):
            first.held()
    away.close()

    assert still
    assert first.held()
