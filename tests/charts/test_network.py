"""The arrows of the design, and nothing else, pass the rendered NetworkPolicies."""

import pytest

from tests.charts.pods import pods
from tests.charts.policies import Place, allowed
from tests.charts.rendering import NAMESPACE, PROFILES, Case, everything, objects
from tests.tools import ROOT

KAFKA, REPLICATION, CONTROL = 9093, 9091, 9090
POSTGRES, POSTGRES_STATUS = 5432, 8000
OBJECT_STORE, MLFLOW, PREDICTOR, DASHBOARD = 9000, 5000, 8080, 9000
HTTPS, API, DNS = 443, 6443, 53

STRIMZI = ("kafka", "entity-operator", "strimzi")
CNPG = ("postgres", "postgres-job", "cnpg")

Edge = tuple[str, str, int]


def _strimzi(name: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/managed-by": "strimzi-cluster-operator",
        "app.kubernetes.io/part-of": "strimzi-moodstream",
        "strimzi.io/cluster": "moodstream",
        "strimzi.io/kind": "Kafka",
        "strimzi.io/name": f"moodstream-{name}",
    }


OTHERS = (
    Place("kafka", NAMESPACE, {**_strimzi("kafka"), "strimzi.io/component-type": "kafka"}),
    Place(
        "entity-operator",
        NAMESPACE,
        {**_strimzi("entity-operator"), "strimzi.io/component-type": "entity-operator"},
    ),
    Place("postgres", NAMESPACE, {"cnpg.io/cluster": "warehouse", "cnpg.io/podRole": "instance"}),
    Place("postgres-job", NAMESPACE, {"cnpg.io/cluster": "warehouse", "cnpg.io/jobRole": "initdb"}),
    Place("stranger", NAMESPACE, {"app": "stranger"}),
    Place("keda", "keda", {"app": "keda-operator"}),
    Place("cnpg", "cnpg-system", {"app.kubernetes.io/name": "cloudnative-pg"}),
    Place("strimzi", "strimzi-system", {"strimzi.io/kind": "cluster-operator"}),
    Place("prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"}),
    Place("visitor", "default", {"app": "visitor"}),
    Place("dns", "kube-system", {"k8s-app": "kube-dns"}),
    Place("api-server", address="10.96.0.1"),
    Place("internet", address="203.0.113.7"),
)
"""What is in no chart: the operators' pods, who must not come in, and what is outside."""

TARGETS = {
    "kafka": (KAFKA, REPLICATION, CONTROL),
    "postgres": (POSTGRES, POSTGRES_STATUS),
    "object-store": (OBJECT_STORE,),
    "mlflow": (MLFLOW,),
    "predictor": (PREDICTOR,),
    "challenger": (PREDICTOR,),
    "dashboard": (DASHBOARD,),
    "producer": (DASHBOARD,),
    "consumer": (DASHBOARD,),
    "promoter": (DASHBOARD,),
    "notifier": (DASHBOARD,),
    "api-server": (HTTPS, API),
    "internet": (HTTPS,),
}

ARROWS: frozenset[Edge] = frozenset(
    {
        ("producer", "kafka", KAFKA),
        ("consumer", "kafka", KAFKA),
        ("replay", "kafka", KAFKA),
        ("keda", "kafka", KAFKA),
        ("consumer", "predictor", PREDICTOR),
        ("promoter", "predictor", PREDICTOR),
        ("dashboard", "predictor", PREDICTOR),
        ("consumer", "challenger", PREDICTOR),
        ("backfill", "challenger", PREDICTOR),
        ("promoter", "challenger", PREDICTOR),
        ("consumer", "postgres", POSTGRES),
        ("dashboard", "postgres", POSTGRES),
        ("retention", "postgres", POSTGRES),
        ("notifier", "postgres", POSTGRES),
        ("lake", "postgres", POSTGRES),
        ("backfill", "postgres", POSTGRES),
        ("promoter", "postgres", POSTGRES),
        ("training", "postgres", POSTGRES),
        ("drift", "postgres", POSTGRES),
        ("mlflow", "postgres", POSTGRES),
        ("promoter", "mlflow", MLFLOW),
        ("mlflow", "promoter", DASHBOARD),
        ("training", "mlflow", MLFLOW),
        ("drift", "mlflow", MLFLOW),
    }
)
"""The design's; the object store is in or outside the cluster."""

STORING = ("mlflow", "predictor", "challenger", "lake", "backfill")
STORES: dict[str, frozenset[Edge]] = {
    "kind": frozenset((source, "object-store", OBJECT_STORE) for source in STORING),
    "production": frozenset(
        (source, target, HTTPS) for source in STORING for target in ("internet", "api-server")
    ),
}
"""An S3 outside may be at any address, so its port is open to every one."""

OPERATORS: frozenset[Edge] = frozenset(
    {
        *((one, "kafka", port) for one in STRIMZI for port in (KAFKA, REPLICATION, CONTROL)),
        *((one, "postgres", port) for one in CNPG for port in (POSTGRES, POSTGRES_STATUS)),
    }
)
"""Kafka's and PostgreSQL's pods among themselves, and those who run them."""

API_CLIENTS: frozenset[Edge] = frozenset(
    (source, target, port)
    for source in ("promoter", "entity-operator", "postgres", "postgres-job")
    for target, port in (("api-server", HTTPS), ("api-server", API), ("internet", HTTPS))
)
"""The API server is no pod and has no fixed address: its ports are open to every address."""

TESTS: frozenset[Edge] = frozenset(
    {
        ("moodstream-test", "predictor", PREDICTOR),
        ("moodstream-test", "dashboard", DASHBOARD),
        ("moodstream-test", "kafka", KAFKA),
        ("moodstream-test", "postgres", POSTGRES),
        ("mlflow-test", "mlflow", MLFLOW),
        ("platform-test", "kafka", KAFKA),
        ("platform-test", "postgres", POSTGRES),
    }
)
"""Of `helm test`."""


@pytest.mark.parametrize("profile", PROFILES)
def test_every_arrow_of_the_design_is_open(profile: str) -> None:
    wanted = ARROWS | STORES[profile] | OPERATORS | API_CLIENTS | TESTS

    closed = wanted - _open(everything(profile))

    assert closed == set()


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_else_is_open(profile: str) -> None:
    known = ARROWS | STORES[profile] | OPERATORS | API_CLIENTS | TESTS
    # On kind, whoever reaches the machine may open these pages.
    public = {"dashboard", "mlflow", "predictor"} if profile == "kind" else set()

    found = {edge for edge in _open(everything(profile)) - known if edge[1] not in public}

    assert found == set()


@pytest.mark.parametrize(("values", "goes"), [("x", True), ("bluesky", True), ("file", False)])
def test_only_a_producer_that_reads_from_the_internet_may_go_there(values: str, goes: bool) -> None:
    case = Case("moodstream", (ROOT / f"charts/moodstream/ci/{values}-values.yaml",))

    assert (("producer", "internet", HTTPS) in _open(objects(case))) is goes


def test_alerts_leave_the_cluster_only_for_channels_that_somebody_has_named() -> None:
    people = Case("moodstream", (ROOT / "charts/moodstream/ci/people-values.yaml",))
    ways_out = {(name, "internet", HTTPS) for name in ("notifier", "airtable")}

    assert ways_out <= _open(objects(people))
    assert not ways_out & _open(objects(Case("moodstream", ())))


def test_the_notifier_reaches_a_private_receiver_only_when_it_is_named() -> None:
    receiver = Place("receiver", NAMESPACE, {"app": "receiver"}, address="10.244.0.20")
    rendered = objects(Case("moodstream", (ROOT / "charts/moodstream/ci/people-values.yaml",)))
    policies = [item for item in rendered if item["kind"] == "NetworkPolicy"]
    (notifier,) = (place for place in _places(rendered) if place.name == "notifier")

    assert allowed(policies, NAMESPACE, notifier, receiver, 8080)
    assert not allowed(policies, NAMESPACE, notifier, receiver, HTTPS)


def test_prometheus_may_come_only_while_it_is_asked_for() -> None:
    case = Case("moodstream", (ROOT / "charts/moodstream/ci/monitoring-values.yaml",))
    scraped = {
        ("prometheus", name, DASHBOARD)
        for name in ("producer", "consumer", "dashboard", "notifier")
    }

    assert scraped <= _open(objects(case))
    assert not scraped & _open(objects(Case("moodstream", ())))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_pod_of_ours_may_ask_for_names(profile: str) -> None:
    rendered = everything(profile)
    policies = [item for item in rendered if item["kind"] == "NetworkPolicy"]
    places = _places(rendered)
    (dns,) = (place for place in places if place.name == "dns")

    mute = [
        place.name
        for place in places
        if place.namespace == NAMESPACE and not allowed(policies, NAMESPACE, place, dns, DNS)
    ]

    assert mute == []


def _places(rendered: tuple[dict, ...]) -> list[Place]:
    names = {pod: pod.name if pod.component == "test" else pod.component for pod in pods(rendered)}
    ours = [Place(name, NAMESPACE, pod.labels, pod.ports) for pod, name in names.items()]
    return [*ours, *OTHERS]


def _open(rendered: tuple[dict, ...]) -> set[Edge]:
    policies = [item for item in rendered if item["kind"] == "NetworkPolicy"]
    places = _places(rendered)
    return {
        (source.name, target.name, port)
        for target in places
        for port in TARGETS.get(target.name, ())
        for source in places
        if source.namespace
        and NAMESPACE in (source.namespace, target.namespace)
        and allowed(policies, NAMESPACE, source, target, port)
    }
