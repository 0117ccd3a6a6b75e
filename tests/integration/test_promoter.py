"""The promoter as a real process between a real MLflow and a real Kubernetes API server with
KServe's definitions, in front of a real predictor. KServe's controller is played by the test, which
so decides how far a rollout has come.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
import yaml
from kubernetes import client, config

from services.core.model import MODEL_FILE
from tests.apiserver import ApiServer
from tests.integration.predictor import Predictor
from tests.ports import free_port
from tests.waiting import status, wait_until

with warnings.catch_warnings():
    # mlflow and what it imports use what newer libraries deprecate.
    warnings.simplefilter("ignore")
    import mlflow
    from mlflow import MlflowClient

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")

ROOT = "s3://moodstream/mlflow"
VERSION = "moodstream.io/model-version"
RESOURCE = ("serving.kserve.io", "v1beta1")
NAME = "sentiment"
SECONDS = 120


@pytest.fixture(scope="module")
def kubeconfig(api_server: ApiServer) -> Path:
    """Of an API server that these tests may fill."""
    return api_server.kubeconfig


@pytest.fixture(scope="module")
def logged(mlflow_url: str, predictor: Predictor) -> str:
    """MLflow's address of a logged model."""
    mlflow.set_tracking_uri(mlflow_url)
    mlflow.set_registry_uri(mlflow_url)
    mlflow.set_experiment("promotion")
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model",
            loader_module="training.pyfunc",
            data_path=str(predictor.folder / MODEL_FILE),
            pip_requirements=["skops"],
        )
    return str(info.model_uri)


class Registry:
    """A registered model of the test's own."""

    def __init__(self, url: str, logged: str) -> None:
        self.url, self.name = url, f"model-{uuid4().hex[:8]}"
        self._client = MlflowClient(tracking_uri=url, registry_uri=url)
        self.logged = logged

    def register(self) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(mlflow.register_model(self.logged, self.name).version)

    def champion(self, version: str) -> None:
        self._client.set_registered_model_alias(self.name, "champion", version)

    def no_champion(self) -> None:
        self._client.delete_registered_model_alias(self.name, "champion")


class Cluster:
    """A namespace with an InferenceService without a model, and KServe's part in it."""

    def __init__(self, kubeconfig: Path) -> None:
        connection = config.new_client_from_config(str(kubeconfig))
        self._core = client.CoreV1Api(connection)
        self._apps = client.AppsV1Api(connection)
        self.resources = client.CustomObjectsApi(connection)
        self.namespace = f"promoter-{uuid4().hex[:8]}"
        self.where = (*RESOURCE, self.namespace, "inferenceservices")
        self._core.create_namespace({"metadata": {"name": self.namespace}})
        self.resources.create_namespaced_custom_object(
            *self.where,
            {
                "apiVersion": "/".join(RESOURCE),
                "kind": "InferenceService",
                "metadata": {
                    "name": NAME,
                    "annotations": {"serving.kserve.io/deploymentMode": "Standard"},
                },
                "spec": {
                    "predictor": {
                        "minReplicas": 1,
                        "model": {"modelFormat": {"name": "mlflow", "version": "3"}},
                    }
                },
            },
        )

    def service(self) -> Any:
        return self.resources.get_namespaced_custom_object(*self.where, NAME)

    def served(self) -> tuple[str | None, str | None]:
        """The version and the address that the InferenceService names."""
        service = self.service()
        model = service["spec"]["predictor"]["model"]
        return service["metadata"]["annotations"].get(VERSION), model.get("storageUri")

    def events(self) -> list[tuple[str, str]]:
        """Type and reason of each Event on the InferenceService, oldest first."""
        uid = self.service()["metadata"]["uid"]
        found = self._core.list_namespaced_event(
            self.namespace, field_selector=f"involvedObject.uid={uid}"
        ).items
        return [
            (event.type, event.reason)
            for event in sorted(found, key=lambda event: int(event.metadata.resource_version))
        ]

    def roll_out(self, available: int = 1, *, ready: bool = True) -> None:
        """KServe's part, for the version that the InferenceService names."""
        version, _ = self.served()
        labels = {"app": NAME}
        deployment = {
            "metadata": {"name": f"{NAME}-predictor"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": {VERSION: version}},
                    "spec": {"containers": [{"name": "kserve-container", "image": "none"}]},
                },
            },
        }
        with suppress(client.ApiException):
            self._apps.create_namespaced_deployment(self.namespace, deployment)
        patched = self._apps.patch_namespaced_deployment(
            f"{NAME}-predictor", self.namespace, deployment
        )
        self._apps.patch_namespaced_deployment_status(
            f"{NAME}-predictor",
            self.namespace,
            {
                "status": {
                    "observedGeneration": patched.metadata.generation,
                    "replicas": 1,
                    "updatedReplicas": 1,
                    "readyReplicas": available,
                    "availableReplicas": available,
                }
            },
        )
        self._status(conditions=[{"type": "Ready", "status": "True" if ready else "False"}])

    def fail_to_load(self, message: str) -> None:
        """KServe's part when the model's files cannot be read."""
        self._status(
            modelStatus={
                "transitionStatus": "BlockedByFailedLoad",
                "lastFailureInfo": {"reason": "ModelLoadFailed", "message": message},
                "states": {"activeModelState": "", "targetModelState": "FailedToLoad"},
                "copies": {"failedCopies": 1, "totalCopies": 1},
            }
        )

    def _status(self, **fields: Any) -> None:
        self.resources.patch_namespaced_custom_object_status(
            *self.where,
            NAME,
            {"status": fields},
            _content_type="application/merge-patch+json",
        )

    def close(self) -> None:
        self.resources.delete_namespaced_custom_object(*self.where, NAME)
        self._core.delete_namespace(self.namespace)


class Rig:
    """One test's registry and cluster, and its promoter."""

    def __init__(
        self, registry: Registry, cluster: Cluster, kubeconfig: Path, predictor_url: str, log: Path
    ) -> None:
        self.registry, self.cluster, self.log = registry, cluster, log
        self.port = free_port()
        self.environment = {
            "KUBECONFIG": str(kubeconfig),
            "MOODSTREAM_MLFLOW_URL": registry.url,
            "MOODSTREAM_INFERENCE_URL": predictor_url,
            "MOODSTREAM_PROMOTER_MODEL_NAME": registry.name,
            "MOODSTREAM_PROMOTER_ARTIFACT_ROOT": ROOT,
            "MOODSTREAM_PROMOTER_NAMESPACE": cluster.namespace,
            "MOODSTREAM_PROMOTER_POLL_SECONDS": "0.2",
            "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
            "MOODSTREAM_SERVICE_PORT": str(self.port),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.promoter"],
                env=os.environ | self.environment | environment,
                stdout=log,
                stderr=log,
            )
        return self.process

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(SECONDS)

    def said(self) -> list[str]:
        """The events of the log."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith("{")]

    def wait_said(self, event: str, times: int = 1) -> None:
        wait_until(lambda: self.said().count(event) >= times, SECONDS, f"{event} in {self.log}")

    def wait_status(self, path: str, wanted: int) -> None:
        url = f"http://127.0.0.1:{self.port}{path}"
        wait_until(lambda: status(url) == wanted, SECONDS, f"{wanted} from {path}")


@pytest.fixture
def rig(
    kubeconfig: Path, mlflow_url: str, logged: str, predictor: Predictor, tmp_path: Path
) -> Iterator[Rig]:
    """Everything but the promoter runs."""
    cluster = Cluster(kubeconfig)
    registry = Registry(mlflow_url, logged)
    rig = Rig(registry, cluster, kubeconfig, predictor.url, tmp_path / "promoter.log")
    yield rig
    rig.stop()
    cluster.close()


@pytest.fixture
def seventh(rig: Rig, predictor: Predictor) -> str:
    """A version that the session's predictor says it serves."""
    for version in iter(rig.registry.register, predictor.version):
        assert int(version) < int(predictor.version)
    return predictor.version


def test_the_version_with_the_alias_is_set_followed_and_verified(
    rig: Rig, seventh: str, platform_home: Path
) -> None:
    generation = rig.cluster.service()["metadata"]["generation"]
    rig.registry.champion(seventh)

    rig.start()
    wait_until(lambda: rig.cluster.served()[0] == seventh, SECONDS)
    rig.wait_said("promoter.waiting")
    before = rig.cluster.events()
    rig.cluster.roll_out()
    rig.wait_said("promoter.served")

    _, uri = rig.cluster.served()
    assert uri is not None
    files = platform_home / "mlflow" / "artifacts" / uri.removeprefix(f"{ROOT}/")
    assert (files / MODEL_FILE).is_file()
    assert rig.cluster.service()["metadata"]["generation"] == generation + 1
    assert before == [("Normal", "ModelPromoted")]
    wait_until(lambda: ("Normal", "ModelServed") in rig.cluster.events(), SECONDS)
    rig.wait_status("/readyz", 200)
    rig.wait_status("/livez", 200)
    rig.wait_status("/metrics", 200)


def test_it_is_served_only_once_the_predictor_says_so(rig: Rig, seventh: str) -> None:
    other = rig.registry.register()
    rig.registry.champion(other)
    rig.start()
    rig.wait_said("promoter.waiting")

    rig.cluster.roll_out()
    wait_until(
        lambda: f"the predictor answers with version {seventh}" in rig.log.read_text(), SECONDS
    )
    not_yet = rig.said()
    rig.registry.champion(seventh)
    wait_until(lambda: rig.cluster.served()[0] == seventh, SECONDS)
    rig.cluster.roll_out()
    rig.wait_said("promoter.served")

    assert "promoter.served" not in not_yet
    reasons = [reason for _, reason in rig.cluster.events()]
    wait_until(lambda: ("Normal", "ModelServed") in rig.cluster.events(), SECONDS)
    assert reasons[:2] == ["ModelPromoted", "ModelPromoted"]


@pytest.mark.parametrize("lacking", ["pods", "readiness"])
def test_a_rollout_is_not_over_before_pods_and_kserve_agree(
    rig: Rig, seventh: str, lacking: str
) -> None:
    rig.registry.champion(seventh)
    rig.start()
    wait_until(lambda: rig.cluster.served()[0] == seventh, SECONDS)

    rig.cluster.roll_out(available=0 if lacking == "pods" else 1, ready=lacking != "readiness")
    sentence = "0 of 1 pods are available" if lacking == "pods" else "InferenceService is not ready"
    wait_until(lambda: sentence in rig.log.read_text(), SECONDS)

    assert "promoter.served" not in rig.said()
    rig.cluster.roll_out()
    rig.wait_said("promoter.served")


def test_a_model_that_cannot_be_loaded_becomes_a_warning_on_the_inference_service(
    rig: Rig, seventh: str
) -> None:
    rig.registry.champion(seventh)
    rig.start()
    wait_until(lambda: rig.cluster.served()[0] == seventh, SECONDS)

    rig.cluster.fail_to_load("403 from the object store")
    wait_until(lambda: ("Warning", "RolloutStalled") in rig.cluster.events(), SECONDS)

    assert rig.process is not None
    assert rig.process.poll() is None
    rig.wait_status("/readyz", 200)


def test_deleting_the_alias_changes_nothing(rig: Rig, seventh: str) -> None:
    rig.registry.champion(seventh)
    rig.start()
    wait_until(lambda: rig.cluster.served()[0] == seventh, SECONDS)
    rig.cluster.roll_out()
    rig.wait_said("promoter.served")
    before = rig.cluster.service()

    rig.registry.no_champion()
    rig.wait_said("promoter.resting")

    assert rig.cluster.service() == before


def test_a_promoter_killed_at_any_point_goes_on_where_it_was_and_tells_nothing_twice(
    rig: Rig, seventh: str
) -> None:
    rig.registry.champion(seventh)
    rig.start()
    wait_until(lambda: rig.cluster.served()[0] == seventh, SECONDS)
    rig.stop()
    rig.start()
    rig.wait_said("promoter.waiting")
    rig.stop()
    rig.cluster.roll_out()
    for times in (1, 2):
        rig.start()
        rig.wait_said("promoter.served", times)
        wait_until(lambda: ("Normal", "ModelServed") in rig.cluster.events(), SECONDS)
        rig.stop()

    events = rig.cluster.events()

    assert rig.said().count("promoter.promoted") <= 1
    assert events.count(("Normal", "ModelServed")) == 1
    assert events.count(("Normal", "ModelPromoted")) <= 1  # a kill may come before it is told


def test_what_somebody_changes_by_hand_is_put_back(rig: Rig, seventh: str) -> None:
    rig.registry.champion(seventh)
    rig.start()
    wait_until(lambda: rig.cluster.served()[0] == seventh, SECONDS)
    wanted = rig.cluster.served()

    patch = {"spec": {"predictor": {"model": {"storageUri": "s3://elsewhere/model"}}}}
    rig.cluster.resources.patch_namespaced_custom_object(
        *rig.cluster.where, NAME, patch, _content_type="application/merge-patch+json"
    )

    wait_until(lambda: rig.cluster.served() == wanted, SECONDS)


def test_without_a_model_or_an_inference_service_it_waits_ready(rig: Rig) -> None:
    rig.start(MOODSTREAM_PROMOTER_INFERENCE_SERVICE="nobody-made-this")
    rig.wait_said("promoter.waiting")
    rig.wait_status("/readyz", 200)
    rig.stop()

    rig.start()

    rig.wait_said("promoter.resting")
    rig.wait_status("/readyz", 200)


class Doorway:
    """A TCP port that leads to a server, once it is open."""

    def __init__(self, host: str, port: int) -> None:
        self.port = free_port()
        self._beyond = (host, port)

    def open(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(self._beyond)
            for one, other in ((near, far), (far, near)):
                Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError), one.makefile("rb", 0) as source, other.makefile("wb", 0) as sink:
            shutil.copyfileobj(source, sink, 65_536)
        with suppress(OSError):
            other.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("away", ["MLflow", "the API server"])
def test_what_is_away_is_waited_for_alive_and_named(
    rig: Rig, seventh: str, away: str, kubeconfig: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(kubeconfig.read_text())
    server = content["clusters"][0]["cluster"]
    address = rig.registry.url if away == "MLflow" else server["server"]
    host, port = address.split("://")[1].split(":")
    doorway = Doorway(host, int(port.strip("/")))
    server["server"] = f"https://127.0.0.1:{doorway.port}"
    elsewhere = tmp_path / "kubeconfig"
    elsewhere.write_text(yaml.safe_dump(content))
    rig.registry.champion(seventh)

    process = (
        rig.start(MOODSTREAM_MLFLOW_URL=f"http://127.0.0.1:{doorway.port}")
        if away == "MLflow"
        else rig.start(KUBECONFIG=str(elsewhere))
    )
    rig.wait_said("promoter.cannot_look")
    rig.wait_status("/readyz", 503)
    rig.wait_status("/livez", 200)
    untouched = rig.cluster.served()
    doorway.open()
    wait_until(lambda: rig.cluster.served()[0] == seventh, SECONDS)

    assert untouched == (None, None)
    rig.wait_status("/readyz", 200)
    assert process.poll() is None


def test_sigterm_is_a_clean_stop(rig: Rig) -> None:
    process = rig.start()
    rig.wait_said("promoter.resting")

    process.terminate()

    assert process.wait(SECONDS) == 0
    assert rig.said()[-1] == "service.stopped"


def test_without_any_api_server_to_ask_the_start_ends_with_the_fix(rig: Rig) -> None:
    process = rig.start(KUBECONFIG="/nowhere")

    assert process.wait(SECONDS) == 2
    assert "set KUBECONFIG" in rig.log.read_text()
