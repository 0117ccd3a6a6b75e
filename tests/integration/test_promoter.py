"""The promoter as a real process between a real MLflow and a real Kubernetes API server with
KServe's definitions, beside a real examiner, in front of a real predictor. KServe's controller is
played by the test, which so decides how far a rollout has come.

The predictor always says that it serves version 7.
"""

import base64
import hmac
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest
import skops.io
import yaml
from kubernetes import client, config

from services.core.contract import LABELS
from services.core.examination import OUTPUT_KEY, PACKAGES, SIGNATURE
from services.core.model import MODEL_FILE, load_pipeline
from services.core.postgres import connect, transaction
from services.local.workloads import SAMPLE
from tests.apiserver import ApiServer
from tests.integration.conftest import PostgresHandle
from tests.integration.predictor import Predictor
from tests.ports import free_port
from tests.waiting import status, wait_until
from training.candidates import BASELINE, CANDIDATES
from training.readers import read

with warnings.catch_warnings():
    # mlflow and what it imports use what newer libraries deprecate.
    warnings.simplefilter("ignore")
    import mlflow
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")

ROOT = "s3://moodstream/mlflow"
VERSION = "moodstream.io/model-version"
STOP = "serving.kserve.io/stop"
RESOURCE = ("serving.kserve.io", "v1beta1")
NAME = "sentiment"
CHALLENGER = "sentiment-challenger"
SECRET = "of-the-webhook"  # noqa: S105 - of these tests alone
SECONDS = 120
# What the promoter logs of the champion without an alias.
NOTHING_ASKED = '"role": "champion", "detail": "no version has the alias"'
EXAMPLES = ["The new line is quick and clean, love it :)", "not what I paid for..."]


@pytest.fixture(scope="module")
def kubeconfig(api_server: ApiServer) -> Path:
    """Of an API server that these tests may fill."""
    return api_server.kubeconfig


@pytest.fixture(scope="module")
def logged(mlflow_url: str, predictor: Predictor) -> str:
    """MLflow's address of the predictor's own model, logged as training does it."""
    return _logged(mlflow_url, load_pipeline(predictor.folder / MODEL_FILE), predictor.folder)


@pytest.fixture(scope="module")
def nonsense(mlflow_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same of a model that takes each label for the next one."""
    sample = read(SAMPLE)
    wrong = dict(zip(LABELS, (*LABELS[1:], LABELS[0]), strict=True))
    labels = [wrong[label] for label in sample.labels]
    pipeline = CANDIDATES[BASELINE]().fit(list(sample.texts), labels)
    folder = tmp_path_factory.mktemp("nonsense")
    (folder / MODEL_FILE).parent.mkdir(parents=True)
    skops.io.dump(pipeline, folder / MODEL_FILE)
    return _logged(mlflow_url, pipeline, folder)


def _logged(url: str, pipeline: Any, folder: Path) -> str:
    mlflow.set_tracking_uri(url)
    mlflow.set_registry_uri(url)
    mlflow.set_experiment("promotion")
    columns = {
        part: Schema([ColSpec(kind, name) for kind, name in pairs])
        for part, pairs in SIGNATURE.items()
    }
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model",
            loader_module="training.pyfunc",
            data_path=str(folder / MODEL_FILE),
            signature=ModelSignature(**columns),
            input_example=pd.DataFrame({"text": EXAMPLES}),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in PACKAGES],
            metadata={OUTPUT_KEY: pipeline.predict_proba(EXAMPLES).tolist()},
        )
    return str(info.model_uri)


class Examiner:
    """The real one."""

    def __init__(self, folder: Path) -> None:
        self.models, self.port = folder / "models", free_port()
        self.models.mkdir()
        self._log = folder / "examiner.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            "MOODSTREAM_EXAMINER_PORT": str(self.port),
            "MOODSTREAM_EXAMINER_MODELS_DIR": str(self.models),
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.predictor.examiner"],
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: status(f"http://127.0.0.1:{self.port}/readyz") == 200, SECONDS)

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(SECONDS)


@pytest.fixture(scope="module")
def examiner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examiner]:
    """One for all."""
    examiner = Examiner(tmp_path_factory.mktemp("examiner"))
    examiner.start()
    yield examiner
    examiner.stop()


class Registry:
    """A registered model of the test's own."""

    def __init__(self, url: str, logged: str) -> None:
        self.url, self.name = url, f"model-{uuid4().hex[:8]}"
        self.client = MlflowClient(tracking_uri=url, registry_uri=url)
        self.logged = logged

    def register(self, logged: str | None = None) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(mlflow.register_model(logged or self.logged, self.name).version)

    def alias(self, version: str, alias: str = "champion") -> None:
        """What the page of MLflow does."""
        self.client.set_registered_model_alias(self.name, alias, version)

    def no_alias(self, alias: str = "champion") -> None:
        self.client.delete_registered_model_alias(self.name, alias)

    def said(self, version: str) -> tuple[str, str]:
        """State and reason on the version's page."""
        tags = self.client.get_model_version(self.name, version).tags
        return tags.get("moodstream.rollout", ""), tags.get("moodstream.rollout.reason", "")

    def state(self, version: str) -> str:
        return self.said(version)[0]


class Cluster:
    """A namespace with both InferenceServices without a model, and KServe's part in it."""

    def __init__(self, kubeconfig: Path) -> None:
        connection = config.new_client_from_config(str(kubeconfig))
        self._core = client.CoreV1Api(connection)
        self._apps = client.AppsV1Api(connection)
        self._resources = client.CustomObjectsApi(connection)
        self.namespace = f"promoter-{uuid4().hex[:8]}"
        self._where = (*RESOURCE, self.namespace, "inferenceservices")
        self._core.create_namespace({"metadata": {"name": self.namespace}})
        for name, stop in ((NAME, {}), (CHALLENGER, {STOP: "true"})):
            self._resources.create_namespaced_custom_object(
                *self._where,
                {
                    "apiVersion": "/".join(RESOURCE),
                    "kind": "InferenceService",
                    "metadata": {
                        "name": name,
                        "annotations": {"serving.kserve.io/deploymentMode": "Standard", **stop},
                    },
                    "spec": {
                        "predictor": {
                            "minReplicas": 1,
                            "model": {"modelFormat": {"name": "mlflow", "version": "3"}},
                        }
                    },
                },
            )

    def service(self, name: str = NAME) -> Any:
        return self._resources.get_namespaced_custom_object(*self._where, name)

    def asked(self, name: str = NAME) -> str | None:
        """The version that the InferenceService names; None while it is stopped."""
        annotations = self.service(name)["metadata"]["annotations"]
        return None if annotations.get(STOP) == "true" else annotations.get(VERSION)

    def uri(self) -> str | None:
        uri: str | None = self.service()["spec"]["predictor"]["model"].get("storageUri")
        return uri

    def edit(self, uri: str) -> None:
        """Somebody's hand."""
        self._resources.patch_namespaced_custom_object(
            *self._where,
            NAME,
            {"spec": {"predictor": {"model": {"storageUri": uri}}}},
            _content_type="application/merge-patch+json",
        )

    def events(self, name: str = NAME) -> list[str]:
        """Reason of each Event on the InferenceService, oldest first."""
        uid = self.service(name)["metadata"]["uid"]
        found = self._core.list_namespaced_event(
            self.namespace, field_selector=f"involvedObject.uid={uid}"
        ).items
        ordered = sorted(found, key=lambda event: int(event.metadata.resource_version))
        return [event.reason for event in ordered]

    def roll_out(self, name: str = NAME, available: int = 1, *, ready: bool = True) -> None:
        """KServe's part, for the version that the InferenceService names."""
        labels = {"app": name}
        annotations = {VERSION: self.asked(name)}
        deployment = {
            "metadata": {"name": f"{name}-predictor"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": annotations},
                    "spec": {"containers": [{"name": "kserve-container", "image": "none"}]},
                },
            },
        }
        with suppress(client.ApiException):
            self._apps.create_namespaced_deployment(self.namespace, deployment)
        patched = self._apps.patch_namespaced_deployment(
            f"{name}-predictor", self.namespace, deployment
        )
        counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": available}
        self._apps.patch_namespaced_deployment_status(
            f"{name}-predictor",
            self.namespace,
            {
                "status": {
                    "observedGeneration": patched.metadata.generation,
                    "availableReplicas": available,
                    **counts,
                }
            },
        )
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        self._resources.patch_namespaced_custom_object_status(
            *self._where,
            name,
            {"status": {"conditions": conditions}},
            _content_type="application/merge-patch+json",
        )

    def close(self) -> None:
        for name in (NAME, CHALLENGER):
            self._resources.delete_namespaced_custom_object(*self._where, name)
        self._core.delete_namespace(self.namespace)


class Rig:
    """One test's registry, cluster and warehouse, and its promoter."""

    def __init__(
        self,
        registry: Registry,
        cluster: Cluster,
        postgres: PostgresHandle,
        environment: dict[str, str],
        log: Path,
    ) -> None:
        self.registry, self.cluster, self.log = registry, cluster, log
        self._postgres = postgres
        self.port = free_port()
        self.environment = environment
        self.processes: list[subprocess.Popen[bytes]] = []
        self._logged_before = 0

    def start(self, **environment: str) -> "subprocess.Popen[bytes]":
        port = {"MOODSTREAM_SERVICE_PORT": str(self.port)}
        with self.log.open("ab") as log:
            self._logged_before = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", "services.promoter"],
                env=os.environ | self.environment | port | environment,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """SIGKILL to all."""
        for process in self.processes:
            process.kill()
            process.wait(SECONDS)
        self.processes.clear()

    def serve(self, version: str) -> None:
        """Until it is said to serve."""
        self.registry.alias(version)
        wait_until(lambda: self.cluster.asked() == version, SECONDS, f"version {version} asked for")
        self.cluster.roll_out()
        self.wait_state(version, "serving")

    def wait_state(self, version: str, state: str) -> None:
        wait_until(
            lambda: self.registry.state(version) == state, SECONDS, f"{state} of version {version}"
        )

    def wait_log(self, words: str) -> None:
        """Until the promoter that was started last has said so: what an earlier one said must not
        count.
        """
        wait_until(lambda: words in self._said(), SECONDS, f"{words!r} in {self.log}")

    def _said(self) -> str:
        return self.log.read_bytes()[self._logged_before :].decode()

    def wait_status(self, path: str, wanted: int) -> None:
        url = f"http://127.0.0.1:{self.port}{path}"
        wait_until(lambda: status(url) == wanted, SECONDS, f"{wanted} from {path}")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        connection = connect(self._postgres.settings, "test")
        with transaction(connection, 30) as cursor:
            cursor.execute(query)
            found = cursor.fetchall()
        connection.close()
        return found

    def journal(self) -> list[tuple[Any, ...]]:
        """Alias, version and state of each row, oldest first."""
        return self.rows("SELECT alias, version, state FROM promotions ORDER BY at, id")


@pytest.fixture
def rig(
    kubeconfig: Path,
    mlflow_url: str,
    logged: str,
    predictor: Predictor,
    examiner: Examiner,
    postgres: PostgresHandle,
    tmp_path: Path,
) -> Iterator[Rig]:
    """Everything but the promoter runs."""
    cluster = Cluster(kubeconfig)
    registry = Registry(mlflow_url, logged)
    warehouse = postgres.settings
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "MOODSTREAM_MLFLOW_URL": registry.url,
        "MOODSTREAM_INFERENCE_URL": predictor.url,
        "MOODSTREAM_CHALLENGER_URL": predictor.url,
        "MOODSTREAM_POSTGRES_HOST": warehouse.host,
        "MOODSTREAM_POSTGRES_PORT": str(warehouse.port),
        "MOODSTREAM_POSTGRES_DATABASE": warehouse.database,
        "MOODSTREAM_POSTGRES_USER": warehouse.user,
        "MOODSTREAM_POSTGRES_PASSWORD": warehouse.password.get_secret_value()
        if warehouse.password
        else "",
        "MOODSTREAM_GATE_FLOOR": "0.4",
        "MOODSTREAM_PROMOTER_MODEL_NAME": registry.name,
        "MOODSTREAM_PROMOTER_ARTIFACT_ROOT": ROOT,
        "MOODSTREAM_PROMOTER_NAMESPACE": cluster.namespace,
        "MOODSTREAM_PROMOTER_POLL_SECONDS": "0.2",
        "MOODSTREAM_PROMOTER_MODELS_DIR": str(examiner.models),
        "MOODSTREAM_PROMOTER_EXAMINER_URL": f"http://127.0.0.1:{examiner.port}",
        "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
    }
    rig = Rig(registry, cluster, postgres, environment, tmp_path / "promoter.log")
    yield rig
    rig.stop()
    cluster.close()


@pytest.fixture
def seventh(rig: Rig, predictor: Predictor) -> str:
    """The version that the session's predictor says it serves."""
    for version in iter(rig.registry.register, predictor.version):
        assert int(version) < int(predictor.version)
    return predictor.version


def test_a_version_is_examined_set_followed_verified_and_told_everywhere(
    rig: Rig, seventh: str, platform_home: Path
) -> None:
    rig.registry.client.update_model_version(rig.registry.name, seventh, "of the summer campaign")
    rig.start()
    rig.serve(seventh)

    uri = rig.cluster.uri()
    assert uri is not None
    files = platform_home / "mlflow" / "artifacts" / uri.removeprefix(f"{ROOT}/")
    assert (files / MODEL_FILE).is_file()
    page = partial(rig.registry.client.get_model_version, rig.registry.name, seventh)
    told = "of the summer campaign\n\n**moodstream:** serving as champion, "
    wait_until(lambda: page().description.startswith(told), SECONDS, "the version's description")
    assert page().tags["moodstream.rollout.role"] == "champion"
    wait_until(lambda: len(rig.journal()) == 2, SECONDS)
    assert rig.journal() == [
        ("champion", seventh, "rolling out"),
        ("champion", seventh, "serving"),
    ]
    [(checks,)] = rig.rows("SELECT checks FROM promotions WHERE state = 'rolling out'")
    assert [check["name"] for check in checks] == [
        "artifact", "contract", "versions", "example", "quality",
    ]  # fmt: skip
    assert rig.rows("SELECT count(*) FROM outbox WHERE kind = 'model.rollout'") == [(2,)]
    wait_until(lambda: rig.cluster.events() == ["ModelPromoted", "ModelServed"], SECONDS)
    for path in ("/readyz", "/livez", "/metrics"):
        rig.wait_status(path, 200)


@pytest.mark.parametrize("lacking", ["pods", "readiness"])
def test_a_rollout_is_not_over_before_pods_and_kserve_agree(
    rig: Rig, seventh: str, lacking: str
) -> None:
    rig.registry.alias(seventh)
    rig.start()
    wait_until(lambda: rig.cluster.asked() == seventh, SECONDS)

    rig.cluster.roll_out(available=0 if lacking == "pods" else 1, ready=lacking != "readiness")
    rig.wait_log(
        "0 of 1 pods are available" if lacking == "pods" else "InferenceService is not ready"
    )

    assert rig.registry.state(seventh) == "rolling out"
    rig.cluster.roll_out()
    rig.wait_state(seventh, "serving")


def test_nonsense_is_refused_with_the_figure_and_the_old_version_serves_on(
    rig: Rig, seventh: str, nonsense: str
) -> None:
    bad = rig.registry.register(nonsense)
    rig.start()
    rig.serve(seventh)
    before = rig.cluster.service()

    rig.registry.alias(bad)
    rig.wait_state(bad, "refused")

    _, reason = rig.registry.said(bad)
    assert reason.startswith("quality: macro recall 0.")
    assert "below the floor 0.400" in reason
    assert rig.registry.state(seventh) == "serving"
    wait_until(lambda: "ModelRefused" in rig.cluster.events(), SECONDS)
    assert rig.cluster.service() == before
    rig.wait_status("/readyz", 200)


def test_files_outside_our_mlflow_are_refused(rig: Rig, seventh: str) -> None:
    outside = rig.registry.client.create_model_version(rig.registry.name, "s3://elsewhere/model")
    rig.start()
    rig.serve(seventh)

    rig.registry.alias(str(outside.version))
    rig.wait_state(str(outside.version), "refused")

    assert rig.registry.said(str(outside.version))[1].startswith("source: ")
    assert rig.cluster.asked() == seventh


def test_past_the_deadline_the_last_good_version_comes_back_and_setting_the_alias_tries_again(
    rig: Rig, seventh: str
) -> None:
    eighth = rig.registry.register()
    rig.start(MOODSTREAM_PROMOTER_DEADLINE_SECONDS="15")
    rig.serve(seventh)

    rig.registry.alias(eighth)
    wait_until(lambda: rig.cluster.asked() == eighth, SECONDS)
    rig.cluster.roll_out()  # the predictor answers on with version 7
    rig.wait_state(eighth, "rolled back")
    wait_until(lambda: rig.cluster.asked() == seventh, SECONDS)
    rig.cluster.roll_out()
    _, reason = rig.registry.said(eighth)
    wait_until(lambda: "ModelRolledBack" in rig.cluster.events(), SECONDS)
    rig.stop()
    rig.start(MOODSTREAM_PROMOTER_DEADLINE_SECONDS="15")
    rig.wait_log("set the alias anew to try it again")
    after_restart = rig.cluster.asked()
    rig.registry.alias(seventh)
    rig.wait_log('"detail": "version 7 is served"')
    rig.registry.alias(eighth)
    wait_until(lambda: rig.cluster.asked() == eighth, SECONDS)

    assert "not served within 15 s: the predictor says that it serves version 7" in reason
    assert after_restart == seventh
    wait_until(lambda: rig.registry.state(seventh) == "serving", SECONDS)


def test_of_two_promotions_the_second_counts_and_the_alias_may_move_back(
    rig: Rig, seventh: str
) -> None:
    eighth, ninth = rig.registry.register(), rig.registry.register()
    rig.start()
    rig.serve(seventh)

    rig.registry.alias(eighth)
    wait_until(lambda: rig.cluster.asked() == eighth, SECONDS)
    rig.registry.alias(ninth)
    wait_until(lambda: rig.cluster.asked() == ninth, SECONDS)
    rig.wait_state(eighth, "replaced")
    rig.registry.alias(seventh)
    wait_until(lambda: rig.cluster.asked() == seventh, SECONDS)

    rig.wait_state(ninth, "replaced")
    assert rig.registry.state(seventh) == "serving"


def test_when_the_version_is_deleted_the_last_good_one_comes_back(rig: Rig, seventh: str) -> None:
    eighth = rig.registry.register()
    rig.start()
    rig.serve(seventh)
    rig.registry.alias(eighth)
    wait_until(lambda: rig.cluster.asked() == eighth, SECONDS)

    rig.registry.client.delete_model_version(rig.registry.name, eighth)

    wait_until(lambda: rig.cluster.asked() == seventh, SECONDS)
    rig.wait_status("/readyz", 200)


def test_deleting_the_alias_changes_nothing(rig: Rig, seventh: str) -> None:
    rig.start()
    rig.serve(seventh)
    before = rig.cluster.service()

    rig.registry.no_alias()
    rig.wait_log(NOTHING_ASKED)

    assert rig.cluster.service() == before


def test_what_somebody_changes_by_hand_is_put_right_and_said(rig: Rig, seventh: str) -> None:
    rig.start()
    rig.serve(seventh)
    wanted = rig.cluster.uri()

    rig.cluster.edit("s3://elsewhere/model")

    wait_until(lambda: rig.cluster.uri() == wanted, SECONDS)
    wait_until(lambda: "EditedByHand" in rig.cluster.events(), SECONDS)
    assert rig.registry.state(seventh) == "serving"


def test_a_promoter_killed_at_any_point_goes_on_where_it_was_and_tells_nothing_twice(
    rig: Rig, seventh: str
) -> None:
    rig.registry.alias(seventh)
    rig.start()
    wait_until(lambda: rig.cluster.asked() == seventh, SECONDS)
    rig.stop()
    rig.start()
    rig.wait_log("KServe has not begun the rollout yet")
    rig.stop()
    rig.cluster.roll_out()
    for _ in range(2):
        rig.start()
        rig.wait_state(seventh, "serving")
        wait_until(lambda: "ModelServed" in rig.cluster.events(), SECONDS)
        wait_until(lambda: len(rig.journal()) == 2, SECONDS)
        rig.stop()

    events = rig.cluster.events()

    assert events.count("ModelServed") == 1
    assert events.count("ModelPromoted") <= 1  # a kill may come before it is told
    assert [state for _, _, state in rig.journal()] == ["rolling out", "serving"]


def test_the_challenger_is_served_beside_the_champion_until_its_alias_goes(
    rig: Rig, seventh: str
) -> None:
    eighth = rig.registry.register()
    rig.start()
    rig.serve(seventh)

    rig.registry.alias(eighth, "challenger")
    wait_until(lambda: rig.cluster.asked(CHALLENGER) == eighth, SECONDS)
    during = rig.cluster.asked()
    rig.registry.no_alias("challenger")
    wait_until(lambda: rig.cluster.asked(CHALLENGER) is None, SECONDS)

    rig.wait_state(eighth, "replaced")
    assert during == rig.cluster.asked() == seventh
    wait_until(lambda: rig.cluster.events(CHALLENGER)[-1:] == ["ModelStopped"], SECONDS)


def test_the_examiner_is_waited_for(rig: Rig, seventh: str, examiner: Examiner) -> None:
    examiner.stop()
    rig.registry.alias(seventh)
    rig.start()
    rig.wait_log("promoter.cannot_look")
    untouched = rig.cluster.asked()

    examiner.start()

    wait_until(lambda: rig.cluster.asked() == seventh, SECONDS)
    assert untouched is None


def test_files_that_cannot_be_read_for_now_are_waited_for(
    rig: Rig, seventh: str, platform_home: Path
) -> None:
    artifacts = platform_home / "mlflow" / "artifacts"
    away = artifacts.with_name("artifacts-away")
    artifacts.rename(away)
    try:
        rig.registry.alias(seventh)
        rig.start()
        wait_until(
            lambda: "cannot_look" in rig.log.read_text() or rig.registry.state(seventh) != "",
            SECONDS,
        )
        untouched = rig.cluster.asked()
    finally:
        away.rename(artifacts)
    if rig.registry.state(seventh) == "refused":
        # An empty folder is not an outage: MLflow says that the version has no files.
        rig.registry.no_alias()
        rig.wait_log(NOTHING_ASKED)
        rig.registry.alias(seventh)

    wait_until(lambda: rig.cluster.asked() == seventh, SECONDS)
    assert untouched is None


def test_of_two_promoters_one_acts_and_the_other_takes_over(rig: Rig, seventh: str) -> None:
    first = rig.start()
    rig.serve(seventh)
    other = free_port()
    rig.start(MOODSTREAM_SERVICE_PORT=str(other))
    wait_until(lambda: status(f"http://127.0.0.1:{other}/readyz") == 200, SECONDS)
    eighth = rig.registry.register()

    first.kill()
    first.wait(SECONDS)
    rig.registry.alias(eighth)

    wait_until(lambda: rig.cluster.asked() == eighth, SECONDS)


def test_a_signed_word_of_mlflow_makes_it_look_at_once(rig: Rig, seventh: str) -> None:
    rig.start(MOODSTREAM_PROMOTER_POLL_SECONDS="3600", MOODSTREAM_PROMOTER_WEBHOOK_SECRET=SECRET)
    rig.wait_log(NOTHING_ASKED)
    rig.registry.alias(seventh)

    unsigned = _tell(rig, "of-somebody-else")
    untouched = rig.cluster.asked()
    signed = _tell(rig, SECRET)
    wait_until(lambda: rig.cluster.asked() == seventh, SECONDS)

    assert (unsigned, signed) == (401, 200)
    assert untouched is None


def _tell(rig: Rig, secret: str) -> int:
    """MLflow's words, signed as it signs them; the status of the answer."""
    said = {
        "entity": "model_version_alias",
        "action": "created",
        "data": {"name": rig.registry.name, "alias": "champion", "version": "7"},
    }
    body, written = json.dumps(said).encode(), str(int(time.time()))
    signed = hmac.digest(secret.encode(), f"1.{written}.".encode() + body, "sha256")
    request = urllib.request.Request(
        f"http://127.0.0.1:{rig.port}/hooks/mlflow",
        body,
        {
            "X-MLflow-Delivery-Id": "1",
            "X-MLflow-Timestamp": written,
            "X-MLflow-Signature": f"v1,{base64.b64encode(signed).decode()}",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def test_without_an_inference_service_or_an_alias_it_waits_ready(rig: Rig) -> None:
    rig.start(MOODSTREAM_PROMOTER_INFERENCE_SERVICE="nobody-made-this")
    rig.wait_log("the InferenceService does not exist yet")
    rig.wait_status("/readyz", 200)
    rig.stop()

    rig.start()

    rig.wait_log(NOTHING_ASKED)
    rig.wait_status("/readyz", 200)


class Doorway:
    """A TCP port that leads to a server, once it is open."""

    def __init__(self, host: str, port: int) -> None:
        self.port = free_port()
        self._beyond = (host, port)
        self._listener: socket.socket

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        # Closing alone would not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with listener, suppress(OSError):
            while True:
                near, _ = listener.accept()
                Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._beyond) as far:
            back = Thread(target=self._copy, args=(far, near), daemon=True)
            back.start()
            self._copy(near, far)
            back.join()

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
    rig.registry.alias(seventh)

    process = (
        rig.start(MOODSTREAM_MLFLOW_URL=f"http://127.0.0.1:{doorway.port}")
        if away == "MLflow"
        else rig.start(KUBECONFIG=str(elsewhere))
    )
    rig.wait_status("/readyz", 503)
    rig.wait_status("/livez", 200)
    untouched = rig.cluster.asked()
    doorway.open()
    wait_until(lambda: rig.cluster.asked() == seventh, SECONDS)

    assert untouched is None
    rig.wait_status("/readyz", 200)
    assert process.poll() is None
    rig.stop()
    doorway.close()


def test_sigterm_is_a_clean_stop(rig: Rig) -> None:
    process = rig.start()
    rig.wait_log("promoter.resting")

    process.terminate()

    assert process.wait(SECONDS) == 0
    assert "service.stopped" in rig.log.read_text()


def test_without_any_api_server_to_ask_the_start_ends_with_the_fix(rig: Rig) -> None:
    process = rig.start(KUBECONFIG="/nowhere")

    assert process.wait(SECONDS) == 2
    assert "set KUBECONFIG" in rig.log.read_text()
