"""The parts of services.cluster, each alone: against an API in memory and programs that are told
what to answer.
"""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from services.cluster import (
    charts,
    credentials,
    diagnosis,
    down,
    helm,
    images,
    kube,
    operators,
    parts,
    pin,
    registry,
    status,
    up,
)
from services.cluster.command import CommandError, run
from services.cluster.errors import ClusterError, NotReadyError
from services.cluster.kube import AwayError, Kube, RefusedError
from services.cluster.options import HOST_PORTS, LOADER_NONE, ROOT, Options, Profile, Target
from services.cluster.screen import Screen
from services.cluster.versions import versions
from services.cluster.wait import until
from tests.cluster_api import Api, calls, kubeconfig, program, serving

_SECRETS = "/api/v1/namespaces/moodstream/secrets"
_PODS = "/api/v1/namespaces/moodstream/pods"


@pytest.fixture
def api() -> Iterator[Api]:
    """An empty cluster."""
    with serving(Api()) as found:
        yield found


@pytest.fixture
def cluster(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kube:
    """Its client."""
    path = kubeconfig(tmp_path / "config", here=api.url)
    # The client has read the variable when it was imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return Kube("here")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs put here come first on the path."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    return folder


def _deployment(generation: int = 1, **status: int) -> kube.Object:
    return {
        "metadata": {"name": "consumer", "generation": generation, "labels": {}},
        "spec": {"replicas": 2},
        "status": {"observedGeneration": 1} | status,
    }


def _release(**changes: object) -> helm.Release:
    known: dict[str, object] = {
        "name": "keda",
        "chart": "oci://somewhere/keda",
        "namespace": "keda",
    }
    return helm.Release(**(known | {"version": "2.21.0"} | changes))  # type: ignore[arg-type]


# The API.


def test_what_is_not_there_is_none_and_a_kind_that_is_not_there_has_no_objects(
    cluster: Kube,
) -> None:
    assert cluster.find(kube.SECRETS, "absent") is None
    assert cluster.list(kube.KAFKAS) == []


def test_a_refused_object_comes_with_the_servers_own_words(api: Api, cluster: Kube) -> None:
    api.refused[_SECRETS] = "exceeded quota"

    with pytest.raises(RefusedError, match="exceeded quota"):
        cluster.create(kube.SECRETS, {"metadata": {"name": "a"}})


def test_a_dry_run_keeps_nothing(api: Api, cluster: Kube) -> None:
    cluster.create(kube.SECRETS, {"metadata": {"name": "a"}}, dry_run=True)

    assert cluster.find(kube.SECRETS, "a") is None
    assert api.changes == []


def test_a_service_without_a_ready_pod_is_away(api: Api, cluster: Kube) -> None:
    service = {
        "metadata": {"name": "mlflow"},
        "spec": {"selector": {"app": "mlflow"}, "ports": [{"port": 5000}]},
    }
    api.add("/api/v1/namespaces/moodstream/services/mlflow", service)

    with pytest.raises(AwayError, match="no pod of mlflow is ready"):
        cluster.http("mlflow", "/health")


@pytest.mark.parametrize(
    ("status", "waits_for"),
    [
        ({"updatedReplicas": 2, "replicas": 2, "readyReplicas": 2, "availableReplicas": 2}, None),
        ({"updatedReplicas": 1, "replicas": 2, "readyReplicas": 2}, "1 of 2 pods are new"),
        # The old pods still answer: ready, but not yet what was asked for.
        ({"updatedReplicas": 2, "replicas": 3, "readyReplicas": 3}, "2 of 2 pods are new"),
        ({"updatedReplicas": 2, "replicas": 2, "readyReplicas": 1}, "1 of 2 pods are ready"),
    ],
)
def test_a_rollout_ends_when_every_pod_is_new_and_ready(
    status: dict[str, int], waits_for: str | None
) -> None:
    assert kube.rollout(_deployment(**status)) == waits_for


def test_a_rollout_that_the_controller_has_not_seen_is_not_over() -> None:
    done = {"updatedReplicas": 2, "replicas": 2, "readyReplicas": 2, "availableReplicas": 2}

    assert kube.rollout(_deployment(generation=2, **done)) == "not noticed yet"


def test_a_condition_about_an_older_form_does_not_count() -> None:
    ready = {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}

    assert kube.condition({"metadata": {"generation": 1}, "status": ready}, "Ready") == "True"
    assert kube.condition({"metadata": {"generation": 2}, "status": ready}, "Ready") is None


# Secrets.


def test_secrets_are_made_once_and_then_left_alone(api: Api, cluster: Kube) -> None:
    first = credentials.create_missing(cluster)
    before = json.dumps(api.objects, sort_keys=True)

    second = credentials.create_missing(cluster)

    assert first == [
        "object-store",
        "warehouse-mlflow",
        "warehouse-reader",
        "warehouse-dashboard",
        "moodstream-author-key",
        "moodstream-editor",
        "moodstream-webhook",
    ]
    assert second == []
    assert json.dumps(api.objects, sort_keys=True) == before
    assert credentials.missing(cluster) == []


def test_a_secret_that_somebody_brought_stays_as_it_is(api: Api, cluster: Kube) -> None:
    theirs = {"metadata": {"name": "object-store"}, "data": {"AWS_ACCESS_KEY_ID": "dGhlaXJz"}}
    api.add(f"{_SECRETS}/object-store", theirs)

    made = credentials.create_missing(cluster)

    assert "object-store" not in made
    assert api.objects[f"{_SECRETS}/object-store"] == theirs


def test_no_two_secrets_share_a_value_and_each_stands_in_a_url(api: Api, cluster: Kube) -> None:
    credentials.create_missing(cluster)

    passwords = [
        base64.b64decode(value).decode()
        for thing in api.objects.values()
        for key, value in thing["data"].items()
        if key in ("password", "AWS_SECRET_ACCESS_KEY", "author_key", "editor_token")
    ]
    assert len(set(passwords)) == 6
    assert all(password.isalnum() and len(password) >= 32 for password in passwords)


def test_the_namespace_takes_restricted_pods_alone(api: Api, cluster: Kube) -> None:
    credentials.create_namespace(cluster)
    credentials.create_namespace(cluster)

    labels = api.objects["/api/v1/namespaces/moodstream"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_what_an_administrator_said_about_the_namespace_stays(api: Api, cluster: Kube) -> None:
    enforce = "pod-security.kubernetes.io/enforce"
    namespace = {"metadata": {"name": "moodstream", "labels": {enforce: "baseline"}}}
    api.objects["/api/v1/namespaces/moodstream"] = namespace

    level = credentials.create_namespace(cluster)

    labels = api.objects["/api/v1/namespaces/moodstream"]["metadata"]["labels"]
    assert level == labels[enforce] == "baseline"
    assert labels["pod-security.kubernetes.io/warn"] == "restricted"


@pytest.mark.parametrize(
    ("endpoint", "host", "https"),
    [
        ("http://object-store.moodstream.svc:9000", "object-store.moodstream.svc:9000", "0"),
        ("https://s3.eu-central-1.amazonaws.com", "s3.eu-central-1.amazonaws.com", "1"),
    ],
)
def test_kserve_gets_the_object_stores_host_without_a_scheme(
    endpoint: str, host: str, https: str
) -> None:
    said = credentials.kserve_annotations(endpoint, "eu-central-1")

    assert said["serving.kserve.io/s3-endpoint"] == host
    assert said["serving.kserve.io/s3-usehttps"] == https
    assert said["serving.kserve.io/s3-region"] == "eu-central-1"


# Charts and Helm.


@pytest.mark.parametrize(
    ("text", "number"), [("250m", 0.25), ("2", 2), (1, 1), ("512Mi", 512 * 2**20), ("1G", 1e9)]
)
def test_quantities_are_numbers(text: str | int, number: float) -> None:
    assert charts.quantity(text) == number


def test_what_custom_resources_ask_for_counts_times_their_instances() -> None:
    asked = {"resources": {"requests": {"cpu": "100m", "memory": "1Gi"}}}
    disk = {"requests": {"storage": "5Gi"}}
    database = {
        "kind": "Cluster",
        "spec": asked | {"instances": 3, "storage": {"resources": disk}},
    }
    suspended = {"kind": "CronJob", "spec": {"jobTemplate": {"spec": asked}}}

    cpus, memory = charts.requests([database, suspended])

    assert cpus == pytest.approx(0.3)
    assert memory == 3 * 2**30


def test_a_persons_values_stand_above_the_profiles(tmp_path: Path) -> None:
    (tmp_path / "platform.yaml").write_text("a: 1")

    release = charts.release("platform", Options(values=tmp_path), None)

    assert release.values[-1] == tmp_path / "platform.yaml"


def test_a_tag_of_digits_alone_reaches_the_chart_as_text(tools: Path) -> None:
    program(tools, "helm", "")

    helm.template(charts.release("mlflow", Options(), "123456789012"))

    (call,) = calls(tools, "helm")
    assert "--set-string image.tag=123456789012" in call


def test_helm_4_takes_over_what_controllers_have_written_and_helm_3_needs_no_word(
    tools: Path, cluster: Kube
) -> None:
    for version in ("v3.22.0", "v4.3.1"):
        program(tools, "helm", f'if [ "$1" = version ]; then echo {version}; fi')
        helm.apply(cluster, _release())

    third, fourth = [call for call in calls(tools, "helm") if call.startswith("upgrade")]
    assert "--force-conflicts" not in third
    assert fourth.endswith("--server-side=true --force-conflicts")
    assert "--kube-context here --namespace keda" in third


def test_a_revision_whose_helm_was_killed_does_not_block_the_next(
    api: Api, tools: Path, cluster: Kube
) -> None:
    program(tools, "helm", "echo v3.22.0")
    path = "/api/v1/namespaces/keda/secrets/sh.helm.release.v1.keda.v"
    for number, state in ((1, "deployed"), (2, "pending-upgrade")):
        labels = {"owner": "helm", "name": "keda", "status": state, "version": str(number)}
        name = f"sh.helm.release.v1.keda.v{number}"
        api.add(f"{path}{number}", {"metadata": {"name": name, "labels": labels}})

    helm.apply(cluster, _release())

    assert f"{path}1" in api.objects
    assert f"{path}2" not in api.objects


@pytest.mark.parametrize(
    ("listed", "values", "current"),
    [
        ("[{chart: keda-2.21.0, status: deployed}]", "{a: 1}", True),
        ("[{chart: keda-2.20.2, status: deployed}]", "{a: 1}", False),
        ("[{chart: keda-2.21.0, status: failed}]", "{a: 1}", False),
        ("[{chart: keda-2.21.0, status: deployed}]", "{a: 2}", False),
        ("[]", "", False),
    ],
)
def test_only_the_very_same_chart_and_values_are_not_installed_again(
    tools: Path, cluster: Kube, tmp_path: Path, listed: str, values: str, current: bool
) -> None:
    program(tools, "helm", f'case "$1" in list) echo "{listed}";; get) echo "{values}";; esac')
    file = tmp_path / "keda.yaml"
    file.write_text("a: 1")

    assert helm.is_current(cluster, _release(values=[file])) is current


def test_a_chart_of_an_https_repository_is_named_apart_from_it(tools: Path) -> None:
    program(tools, "helm", "")

    helm.template(_release(chart="https://charts.example/keda"))

    (call,) = calls(tools, "helm")
    assert "keda --repo https://charts.example --version 2.21.0" in call


def test_every_operators_chart_version_and_values_are_there() -> None:
    for operator in operators.installed(Profile.PRODUCTION):
        release = operator.release
        assert release.chart.startswith(("oci://", "https://"))
        assert all(path.exists() for path in release.values)


# Images.


def test_without_a_loader_nothing_is_built_and_the_charts_own_tag_is_meant() -> None:
    assert images.provide(LOADER_NONE, lambda _: None) is None


def test_what_the_build_says_is_said_and_its_failure_quoted(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tools, "build", "echo building producer >&2; exit 1")
    monkeypatch.setattr(images, "_BUILD", tools / "build")
    said: list[str] = []

    with pytest.raises(CommandError, match="failed:\n  building producer"):
        images.provide("kind", said.append)

    assert said[-1] == "building producer"


def test_a_loader_of_ones_own_gets_the_names_of_the_images(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "localhost/moodstream/producer:abc localhost/moodstream/consumer:abc"
    program(tools, "build", f"echo {names}")
    program(tools, "my-loader", "")
    monkeypatch.setattr(images, "_BUILD", tools / "build")

    tag = images.provide("my-loader --quiet", lambda _: None)

    assert tag == "abc"
    assert calls(tools, "my-loader") == [f"--quiet {names}"]


def test_kind_gets_only_the_images_that_its_nodes_lack(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tools, "build", "echo localhost/moodstream/a:1 localhost/moodstream/b:1")
    program(tools, "kind", 'if [ "$1" = get ]; then echo moodstream-control-plane; fi')
    there = '{"images": [{"repoTags": ["localhost/moodstream/a:1"]}, {"repoTags": null}]}'
    program(tools, "docker", f"if [ \"$1\" = exec ]; then echo '{there}'; fi")
    monkeypatch.setattr(images, "_BUILD", tools / "build")

    images.provide("kind", lambda _: None)

    (saved,) = [call for call in calls(tools, "docker") if call.startswith("save")]
    assert saved.endswith(" localhost/moodstream/b:1")
    assert "a:1" not in saved


# Readiness.


def test_kafka_waits_for_its_topics_and_says_which(api: Api, cluster: Kube) -> None:
    path = "/apis/kafka.strimzi.io/v1/namespaces/moodstream"
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    unready = {"conditions": [{"type": "Ready", "status": "False", "message": "no such broker"}]}
    api.add(f"{path}/kafkas/moodstream", _custom("Kafka", "moodstream", ready))
    api.add(f"{path}/kafkatopics/posts", _custom("KafkaTopic", "posts", unready))

    before = parts.kafka(cluster)
    api.add(f"{path}/kafkatopics/posts", _custom("KafkaTopic", "posts", ready))
    after = parts.kafka(cluster)

    assert before == "KafkaTopic posts: Ready: no such broker"
    assert after is None


def test_postgres_waits_for_its_instances_and_databases(api: Api, cluster: Kube) -> None:
    path = "/apis/postgresql.cnpg.io/v1/namespaces/moodstream"
    warehouse = _custom("Cluster", "warehouse", {"phase": "Setting up primary"})
    warehouse["spec"] = {"instances": 1}
    api.add(f"{path}/clusters/warehouse", warehouse)
    first = parts.postgres(cluster)
    warehouse["status"] = {"phase": "Cluster in healthy state", "readyInstances": 1}
    api.add(f"{path}/databases/mlflow", _custom("Database", "mlflow", {"message": "no role"}))
    second = parts.postgres(cluster)
    api.add(f"{path}/databases/mlflow", _custom("Database", "mlflow", {"applied": True}))

    assert first == "Setting up primary"
    assert second == "database mlflow: no role"
    assert parts.postgres(cluster) is None


def test_a_model_is_served_only_when_its_deployment_has_rolled_out_too(
    api: Api, cluster: Kube
) -> None:
    service = _custom(
        "InferenceService", "sentiment", {"conditions": [{"type": "Ready", "status": "True"}]}
    )
    api.add(
        "/apis/serving.kserve.io/v1beta1/namespaces/moodstream/inferenceservices/sentiment", service
    )
    without_model = parts.model(cluster, "3")
    service["metadata"]["annotations"] = {"moodstream.io/model-version": "2"}
    older = parts.model(cluster, "3")
    service["metadata"]["annotations"] = {"moodstream.io/model-version": "3"}
    deployment = _deployment(updatedReplicas=1, replicas=2, readyReplicas=2)
    deployment["metadata"]["labels"] = {"serving.kserve.io/inferenceservice": "sentiment"}
    api.add("/apis/apps/v1/namespaces/moodstream/deployments/sentiment-predictor", deployment)
    rolling = parts.model(cluster, "3")
    deployment["status"] |= {"updatedReplicas": 2, "availableReplicas": 2}

    assert without_model == "the promoter has not given it a model yet"
    assert older == "it has version 2, the champion is 3"
    assert rolling == "1 of 2 pods are new"
    assert parts.model(cluster, "3") is None


def test_a_first_training_run_is_the_cron_jobs_own() -> None:
    cron_job = {
        "metadata": {"name": "moodstream-training", "uid": "u-1"},
        "spec": {
            "suspend": True,
            "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"backoffLimit": 0}},
        },
    }

    job = up.first_run(cron_job, "5f")

    assert job["metadata"]["name"] == "moodstream-training-5f"
    assert job["metadata"]["labels"] == {"a": "b"}
    assert job["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    assert job["spec"] == {"backoffLimit": 0}


def test_a_training_run_that_has_just_been_made_is_not_made_again(api: Api, cluster: Kube) -> None:
    path = "/apis/batch/v1/namespaces/moodstream"
    cron_job = {"name": "moodstream-training", "uid": "u-1"}
    api.add(
        f"{path}/cronjobs/moodstream-training",
        {"metadata": cron_job, "spec": {"jobTemplate": {"spec": {}}}},
    )
    run_up = up._Up(Options(Target.CURRENT), Screen(Console(quiet=True), up.STEPS))
    run_up._cluster = cluster

    first = run_up._training_job()
    while_it_runs = run_up._training_job()
    failed = {"conditions": [{"type": "Failed", "status": "True"}]}
    api.objects[f"{path}/jobs/{first}"]["status"] = failed
    after_it_failed = run_up._training_job()

    assert while_it_runs == first
    assert after_it_failed != first


@pytest.mark.parametrize(
    ("status", "answer", "champion"),
    [
        (200, {"model_version": {"version": "3"}}, "3"),
        (400, {"error_code": "INVALID_PARAMETER_VALUE"}, None),
        (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}, None),
    ],
)
def test_the_registry_has_a_champion_or_none(
    cluster: Kube,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    answer: kube.Object,
    champion: str | None,
) -> None:
    monkeypatch.setattr(cluster, "http", lambda service, path: (status, answer))

    assert registry.champion(cluster) == champion


@pytest.mark.parametrize(("status", "error"), [(403, ClusterError), (503, AwayError)])
def test_a_registry_that_refuses_is_no_registry_without_a_champion(
    cluster: Kube, monkeypatch: pytest.MonkeyPatch, status: int, error: type[Exception]
) -> None:
    monkeypatch.setattr(cluster, "http", lambda service, path: (status, "Invalid Host header"))

    with pytest.raises(error, match="Invalid Host header"):
        registry.champion(cluster)


# Status.


def test_the_status_has_every_figure_that_could_be_found_out(
    api: Api, cluster: Kube, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_MEASURED_SECONDS", 0.1)
    figures = json.dumps(
        {
            "stored": 40,
            "dead_lettered": 2,
            "newest_age_seconds": 1.5,
            "open_alerts": 1,
            "undelivered": 3,
            "lake_until": "2026-11-22",
        }
    )
    program(tools, "kubectl", f"echo '{figures}'")
    labels = {"cnpg.io/cluster": "warehouse", "cnpg.io/instanceRole": "primary"}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    primary = {"metadata": {"name": "warehouse-1", "labels": labels}, "status": ready}
    api.add(f"{_PODS}/warehouse-1", primary)
    topic = _custom("KafkaTopic", "posts", ready) | {"spec": {"partitions": 6}}
    api.add("/apis/kafka.strimzi.io/v1/namespaces/moodstream/kafkatopics/posts", topic)
    trigger = {"metadata": {"topic": "posts", "lagThreshold": "50"}}
    scaled = _custom("ScaledObject", "moodstream-consumer", {"externalMetricNames": ["s0-kafka"]})
    api.add(
        "/apis/keda.sh/v1alpha1/namespaces/moodstream/scaledobjects/moodstream-consumer",
        scaled | {"spec": {"triggers": [trigger]}},
    )
    metric = "/apis/external.metrics.k8s.io/v1beta1/namespaces/moodstream/s0-kafka"
    api.texts[metric] = json.dumps({"items": [{"value": "300"}]})

    report = status.take(Options(Target.CURRENT))

    assert (report.lag, report.lag_is_capped) == (300, True)
    assert (report.stored, report.dead_lettered, report.rows_a_minute) == (40, 2, 0.0)
    assert report.summary()["lag"] == "300 or more"
    assert report.summary()["newest post"] == "2 s ago"
    assert (report.open_alerts, report.undelivered) == (1, 3)
    assert report.summary()["lake until"] == "2026-11-22"
    assert report.as_json()["parts"]["kafka"]["waits_for"] == "not installed"
    assert not report.ready


def test_a_job_whose_newest_run_has_failed_is_told(api: Api, cluster: Kube) -> None:
    path = "/apis/batch/v1/namespaces/moodstream"
    ours = {"app.kubernetes.io/part-of": "moodstream"}
    for name, labels in (("lake", ours), ("retention", ours), ("theirs", {})):
        api.add(f"{path}/cronjobs/{name}", {"metadata": {"name": name, "labels": labels}})
    failed = {"conditions": [{"type": "Failed", "status": "True"}]}
    for name, owner, day, ended in (
        ("lake-1", "lake", 1, {}),
        ("lake-2", "lake", 2, failed),
        ("retention-2", "retention", 2, {}),
        ("retention-1", "retention", 1, failed),
        ("theirs-1", "theirs", 1, failed),
    ):
        metadata = {
            "name": name,
            "creationTimestamp": f"2026-11-0{day}T00:00:00Z",
            "ownerReferences": [{"kind": "CronJob", "name": owner}],
        }
        api.add(f"{path}/jobs/{name}", {"metadata": metadata, "status": ended})

    assert parts.failed_runs(cluster) == {"lake": "lake-2"}


def test_the_status_of_an_empty_cluster_is_an_answer(
    cluster: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_MEASURED_SECONDS", 0.0)

    report = status.take(Options(Target.CURRENT))

    assert not report.ready
    assert report.stored is None
    assert report.champion is None


# What a person sees.


def test_a_condition_that_does_not_come_true_ends_with_what_it_waited_for() -> None:
    said: list[str] = []

    with pytest.raises(NotReadyError, match="Kafka is not ready after 0 s: KafkaTopic posts"):
        until("Kafka", lambda: "KafkaTopic posts", 0, said.append)

    assert said == ["Kafka: KafkaTopic posts"]


def test_a_part_that_is_away_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.cluster.wait._POLL_SECONDS", 0.0)
    answers = iter([AwayError("connection reset"), None])
    said: list[str] = []

    def condition() -> str | None:
        answer = next(answers)
        if isinstance(answer, AwayError):
            raise answer
        return answer

    until("registry", condition, 10, said.append)

    assert said == ["registry: connection reset"]


def test_without_a_terminal_steps_and_notes_are_plain_lines() -> None:
    output = io.StringIO()
    screen = Screen(Console(file=output), 2)

    with screen.step("cluster"):
        screen.note("[kind] the first time downloads")
    with pytest.raises(ZeroDivisionError), screen.step("charts"):
        raise ZeroDivisionError

    note, done, failed = output.getvalue().splitlines()
    assert note.strip() == "[kind] the first time downloads"
    assert done.startswith("[1/2] cluster  0.")
    assert failed.startswith("[2/2] charts  failed after 0.")


def test_the_diagnosis_has_the_warnings_the_last_words_and_the_next_command(
    api: Api, cluster: Kube
) -> None:
    waiting = {
        "name": "consumer",
        "ready": False,
        "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    }
    pod = {
        "metadata": {"name": "consumer-1"},
        "status": {"phase": "Running", "containerStatuses": [waiting]},
    }
    api.add(f"{_PODS}/consumer-1", pod)
    api.texts[f"{_PODS}/consumer-1/log"] = "no route to the database\n"
    event = {
        "metadata": {"name": "e"},
        "type": "Warning",
        "involvedObject": {"kind": "Pod", "name": "consumer-1"},
        "message": "Back-off restarting",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    api.add("/api/v1/namespaces/moodstream/events/e", event)

    text = "\n".join(diagnosis.lines(cluster, "moodstream"))

    assert "Pod consumer-1: Back-off restarting" in text
    assert "consumer-1, container consumer: CrashLoopBackOff, 4 restarts" in text
    assert "no route to the database" in text
    assert "kubectl --context here --namespace moodstream get pods" in text


def test_a_program_that_fails_is_quoted_and_a_missing_one_named(tools: Path) -> None:
    program(tools, "helm", "echo broken >&2; exit 3")

    with pytest.raises(CommandError, match="helm template failed:\n  broken"):
        run("helm", "template")
    with pytest.raises(CommandError, match="kubekubectl is not installed"):
        run("kubekubectl")


def test_in_a_terminal_a_note_is_no_line_of_its_own() -> None:
    output = io.StringIO()
    screen = Screen(Console(file=output, force_terminal=True, width=80), 1)

    with screen.step("cluster"):
        screen.note("kind")

    assert output.getvalue().splitlines()[-1].endswith(" s")
    assert "      kind\n" not in output.getvalue()


# Taking it down.


def test_topics_and_users_go_before_the_kafka_whose_operator_lets_them_go(
    api: Api, cluster: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        helm, "remove", lambda context, name, *_: api.asked.append(("uninstall", name))
    )
    path = "/apis/kafka.strimzi.io/v1/namespaces/moodstream"
    api.add(f"{path}/kafkatopics/posts", _custom("KafkaTopic", "posts", {}))
    api.add(f"{path}/kafkausers/moodstream-keda", _custom("KafkaUser", "moodstream-keda", {}))
    for name in charts.ORDER:
        labels = {"owner": "helm", "name": name, "status": "deployed", "version": "1"}
        api.add(f"{_SECRETS}/{name}", {"metadata": {"name": name, "labels": labels}})

    down.run(Options(Target.CURRENT), False, Screen(Console(quiet=True), down.STEPS))

    assert [step for step in api.asked if step[0] in ("uninstall", "DELETE")] == [
        ("uninstall", "moodstream"),
        ("uninstall", "mlflow"),
        ("DELETE", f"{path}/kafkatopics/posts"),
        ("DELETE", f"{path}/kafkausers/moodstream-keda"),
        ("uninstall", "platform"),
    ]


def test_the_namespace_goes_only_when_asked_for(api: Api, cluster: Kube) -> None:
    path = "/api/v1/namespaces/moodstream"
    api.add(path, {"metadata": {"name": "moodstream"}})

    down.run(Options(Target.CURRENT), False, Screen(Console(quiet=True), down.STEPS))
    stays = path in api.objects
    down.run(Options(Target.CURRENT), True, Screen(Console(quiet=True), down.STEPS))

    assert stays
    assert path not in api.objects


def test_what_no_operator_lets_go_is_let_go(
    api: Api, cluster: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(down, "_GONE_SECONDS", 0.0)
    topic = _custom("KafkaTopic", "posts", {})
    topic["metadata"] |= {"deletionTimestamp": "now", "finalizers": ["strimzi.io/topic-operator"]}
    path = "/apis/kafka.strimzi.io/v1/namespaces/moodstream/kafkatopics/posts"
    api.add(path, topic)
    output = io.StringIO()

    down._let_go(cluster, (kube.KAFKA_TOPICS,), Screen(Console(file=output), 1))

    assert "finalizers" not in api.objects[path]["metadata"]
    assert "KafkaTopic posts: its operator does not answer" in output.getvalue()


# What is beside the code.


def test_kind_maps_the_ports_that_the_commands_tell_people() -> None:
    config = yaml.safe_load((ROOT / "kind-config.yaml").read_text())

    (node,) = config["nodes"]
    mapped = {port["hostPort"] for port in node["extraPortMappings"]}
    assert mapped == set(HOST_PORTS.values())
    assert {port["listenAddress"] for port in node["extraPortMappings"]} == {"127.0.0.1"}


def test_the_plugins_of_k9s_have_keys_of_their_own_and_name_the_context() -> None:
    plugins = yaml.safe_load((ROOT / "manifests" / "k9s" / "plugins.yaml").read_text())["plugins"]

    assert len({plugin["shortCut"] for plugin in plugins.values()}) == len(plugins)
    assert all("$CONTEXT" in plugin["args"][1] for plugin in plugins.values())


def test_the_page_about_the_cluster_names_every_setting_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text()
    block = makefile.split("# The cluster:")[1].split("CLUSTER_ARGS")[0]
    settings = re.findall(r"^([A-Z_0-9]+) \?=", block, re.MULTILINE)
    page = (ROOT / "docs" / "cluster.md").read_text()

    assert len(settings) == 8
    assert [name for name in settings if f"| `{name}` |" not in page] == []


# Digests.

_DIGEST = f"sha256:{'ab' * 32}"


def test_a_digest_follows_its_image_and_replaces_an_older_one() -> None:
    text = "image: quay.io/minio/minio:R1\nother: quay.io/minio/minio:R10\n"

    once = pin.pinned(text, "quay.io/minio/minio:R1", f"sha256:{'cd' * 32}")
    twice = pin.pinned(once, "quay.io/minio/minio:R1", _DIGEST)

    assert twice == f"image: quay.io/minio/minio:R1@{_DIGEST}\nother: quay.io/minio/minio:R10\n"


def test_what_is_no_digest_is_never_written(tools: Path) -> None:
    for tool in ("crane", "skopeo", "docker"):
        program(tools, tool, "echo not-a-digest")

    with pytest.raises(pin.ClusterError, match="crane answers 'not-a-digest'"):
        pin.digest("quay.io/minio/minio:R1")


def test_the_second_tool_is_asked_when_the_first_has_no_answer(tools: Path) -> None:
    program(tools, "crane", "exit 1")
    program(tools, "skopeo", f"echo {_DIGEST}")

    assert pin.digest("quay.io/minio/minio:R1") == _DIGEST


def test_images_that_the_profile_does_not_name_are_told(tmp_path: Path) -> None:
    (tmp_path / "platform.yaml").write_text("image: a:1\n")

    unnamed = pin.write(tmp_path, {"a:1": _DIGEST, "b:1": _DIGEST})

    assert unnamed == ["b:1"]
    assert (tmp_path / "platform.yaml").read_text() == f"image: a:1@{_DIGEST}\n"


def test_every_image_of_the_versions_has_a_tag_and_a_proof_above_it() -> None:
    text = (charts.ROOT / "versions.env").read_text()

    for image in pin.images(versions()):
        assert ":" in image.rpartition("/")[2], image
        assert not image.endswith(":latest")
    blocks = text.split("\n")
    third_party = [n for n, line in enumerate(blocks) if "_IMAGE=" in line]
    assert all(blocks[n - 1].startswith("#") for n in third_party)


def _custom(kind: str, name: str, status: dict[str, object]) -> kube.Object:
    return {"kind": kind, "metadata": {"name": name}, "spec": {}, "status": status}
