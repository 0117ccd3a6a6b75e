"""The promoter's adapters against a real MLflow, a real PostgreSQL and a real Kubernetes API server
with KServe's definitions.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import urllib3
from kubernetes.config import kube_config

from services.core.contract import CHALLENGER, CHAMPION, RolloutState
from services.core.errors import TemporaryError
from services.core.gate import Check
from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings
from services.promoter import cluster, registry
from services.promoter.cluster import ServedByKServe
from services.promoter.decide import Model
from services.promoter.journal import Journal
from services.promoter.registry import RefusedFilesError, Registry
from tests.apiserver import ApiServer
from tests.integration.conftest import PostgresHandle

with warnings.catch_warnings():
    # mlflow and what it imports use what newer libraries deprecate.
    warnings.simplefilter("ignore")
    import mlflow
    from mlflow import MlflowClient

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")

AT = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
SERVING, ROLLING_OUT = RolloutState.SERVING, RolloutState.ROLLING_OUT


class RegisteredModel:
    """A registered model of the test's own, as people handle it."""

    def __init__(self, url: str) -> None:
        self.url, self.name = url, f"model-{uuid4().hex[:8]}"
        self.client = MlflowClient(tracking_uri=url, registry_uri=url)
        self.client.create_registered_model(self.name)
        self.registry = Registry(url, self.name)

    def version(self, files: dict[str, bytes] | None = None, source: str | None = None) -> str:
        """Registers one with these files, or with those that are at `source`."""
        run = self.client.create_run("0").info
        folder = f"{run.artifact_uri}/model"
        for name, content in (files or {}).items():
            path = f"{folder.removeprefix('mlflow-artifacts:')}/{name}"
            assert (
                urllib3.request("PUT", f"{self.url}{ARTIFACTS}{path}", body=content).status == 200
            )
        found = (source, None) if source else (folder, run.run_id)
        return str(self.client.create_model_version(self.name, *found).version)

    def alias(self, version: str, alias: str = CHAMPION) -> None:
        self.client.set_registered_model_alias(self.name, alias, version)

    def page(self, version: str) -> tuple[dict[str, str], str, int]:
        """Tags, description and time of the last change."""
        found = self.client.get_model_version(self.name, version)
        return found.tags, found.description or "", found.last_updated_timestamp


@pytest.fixture
def model(mlflow_url: str) -> RegisteredModel:
    return RegisteredModel(mlflow_url)


# The registry.


def test_without_model_or_alias_nothing_is_wanted(model: RegisteredModel) -> None:
    model.version()
    nobody = Registry(model.url, "nobody-made-this")

    for observed in (model.registry.observe(CHAMPION), nobody.observe(CHAMPION)):
        assert observed == registry.Observed(None, None, (), ())


def test_the_alias_names_what_is_wanted_and_tags_say_what_became_of_it(
    model: RegisteredModel,
) -> None:
    old, new = model.version(), model.version()
    model.alias(new)
    model.registry.tell(old, CHAMPION, SERVING, "served", AT)
    model.registry.tell(new, CHAMPION, ROLLING_OUT, "on its way", AT + timedelta(1))

    observed = model.registry.observe(CHAMPION)

    assert observed.wanted is not None
    assert observed.serving is not None
    assert (observed.wanted.version, observed.wanted.state) == (new, ROLLING_OUT)
    assert observed.wanted.at == AT + timedelta(1)
    assert observed.wanted.download_uri.startswith("mlflow-artifacts:/0/")
    assert (observed.serving.version, observed.serving.at) == (old, AT)
    assert observed.rolling == (observed.wanted,)
    assert observed.outdated == ()
    assert model.registry.observe(CHALLENGER) == registry.Observed(None, None, (), ())


def test_what_was_said_in_one_role_is_nothing_in_the_other(model: RegisteredModel) -> None:
    version = model.version()
    model.alias(version)
    model.registry.tell(version, CHALLENGER, SERVING, "served", AT)

    observed = model.registry.observe(CHAMPION)

    assert observed.wanted is not None
    assert (observed.wanted.state, observed.wanted.at) == (None, None)
    assert observed.serving is None


def test_of_two_that_are_said_to_serve_the_later_one_does(model: RegisteredModel) -> None:
    first, second = model.version(), model.version()
    model.registry.tell(second, CHAMPION, SERVING, "served", AT)
    model.registry.tell(first, CHAMPION, SERVING, "served", AT + timedelta(seconds=1))

    observed = model.registry.observe(CHAMPION)

    assert observed.serving is not None
    assert observed.serving.version == first
    assert [each.version for each in observed.outdated] == [second]


def test_tags_that_people_have_written_break_nothing(model: RegisteredModel) -> None:
    version = model.version()
    model.alias(version)
    for tag, value in {"": "served?", ".role": CHAMPION, ".at": "yesterday"}.items():
        model.client.set_model_version_tag(model.name, version, f"moodstream.rollout{tag}", value)

    observed = model.registry.observe(CHAMPION)

    assert observed.wanted is not None
    assert (observed.wanted.state, observed.wanted.at) == (None, None)


def test_a_deleted_version_is_wanted_by_nobody_and_told_nothing(model: RegisteredModel) -> None:
    version = model.version()
    model.alias(version)
    model.registry.tell(version, CHAMPION, SERVING, "served", AT)
    assert model.registry.observe(CHAMPION).wanted is not None

    model.client.delete_model_version(model.name, version)
    observed = model.registry.observe(CHAMPION)
    model.registry.tell(version, CHAMPION, RolloutState.REPLACED, "gone", AT)

    assert observed == registry.Observed(None, None, (), ())


def test_it_is_said_in_tags_and_behind_what_people_wrote(model: RegisteredModel) -> None:
    version = model.version()
    model.client.update_model_version(model.name, version, "Trained on *spring*.\n\nMine.")

    model.registry.tell(version, CHAMPION, RolloutState.REFUSED, "quality: too low\nby far", AT)
    tags, description, _ = model.page(version)

    assert tags == {
        "moodstream.rollout": "refused",
        "moodstream.rollout.role": "champion",
        "moodstream.rollout.reason": "quality: too low by far",
        "moodstream.rollout.at": AT.isoformat(),
    }
    assert description == (
        "Trained on *spring*.\n\nMine.\n\n**moodstream:** refused as champion, "
        "2030-01-02 03:04:05 UTC: quality: too low by far"
    )


def test_what_is_said_already_is_not_written_again(model: RegisteredModel) -> None:
    version = model.version()
    model.registry.tell(version, CHAMPION, SERVING, "served", AT)
    before = model.page(version)

    model.registry.tell(version, CHAMPION, SERVING, "served", AT)

    assert model.page(version) == before


def test_a_description_that_leaves_no_room_is_kept(model: RegisteredModel) -> None:
    version = model.version()
    model.client.update_model_version(model.name, version, "x" * 4_990)

    model.registry.tell(version, CHAMPION, RolloutState.REFUSED, "why " * 5_000, AT)
    tags, description, _ = model.page(version)

    assert description == "x" * 4_990
    assert len(tags["moodstream.rollout.reason"]) == 1_000


# A version's files.


def test_files_are_downloaded_once_and_whole(model: RegisteredModel, tmp_path: Path) -> None:
    files = {"MLmodel": b"flavors: {}", "data/model.skops": b"\0" * 100_000}
    version = model.version(files)

    folder = model.registry.download(version, tmp_path / "models")
    first = folder.stat().st_ino
    again = model.registry.download(version, tmp_path / "models")

    assert folder == again == tmp_path / "models" / version
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert again.stat().st_ino == first
    assert [each.name for each in folder.parent.iterdir()] == [version]
    assert folder.stat().st_mode & 0o005 == 0o005


def test_a_logged_model_is_downloaded(model: RegisteredModel, tmp_path: Path) -> None:
    data = tmp_path / "model.skops"
    data.write_bytes(b"weights")
    mlflow.set_tracking_uri(model.url)
    mlflow.set_registry_uri(model.url)
    mlflow.set_experiment("adapters")
    with mlflow.start_run(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="training.pyfunc",
            data_path=str(data),
            pip_requirements=["skops"],
        )
        version = str(mlflow.register_model(logged.model_uri, model.name).version)

    folder = model.registry.download(version, tmp_path / "models")

    assert (folder / "MLmodel").is_file()
    (found,) = folder.rglob("model.skops")
    assert found.read_bytes() == b"weights"


def test_only_asked_for_folders_and_what_is_not_the_promoters_stay(
    model: RegisteredModel, tmp_path: Path
) -> None:
    first, second, third = (model.version({"f": b"x"}) for _ in range(3))
    (tmp_path / "lost+found").mkdir()
    (tmp_path / f".{third}.partial").mkdir()  # a download that was killed
    for version in (first, second):
        model.registry.download(version, tmp_path, keep=[first])

    model.registry.download(third, tmp_path, keep=[first])

    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["lost+found", first, third])


def test_a_folder_of_another_process_is_downloaded_anew(
    model: RegisteredModel, tmp_path: Path
) -> None:
    version = model.version({"f": b"x"})
    stale = tmp_path / version / "stale"
    stale.parent.mkdir()
    stale.touch()

    folder = model.registry.download(version, tmp_path)

    assert [each.name for each in folder.iterdir()] == ["f"]


def test_a_version_without_files_is_refused(model: RegisteredModel, tmp_path: Path) -> None:
    with pytest.raises(RefusedFilesError, match="no files"):
        model.registry.download(model.version(), tmp_path)


def test_files_on_another_server_are_never_asked_for(
    model: RegisteredModel, tmp_path: Path
) -> None:
    elsewhere = model.version(source="s3://elsewhere/model")

    with pytest.raises(RefusedFilesError, match="s3://elsewhere/model"):
        model.registry.download(elsewhere, tmp_path)


def test_too_large_or_too_many_files_are_refused_before_they_are_downloaded(
    model: RegisteredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = model.version({"a": b"x" * 600, "b/c": b"x" * 600})

    for limit, value, words in (("_MAX_BYTES", 1_000, "larger"), ("_MAX_FILES", 2, "more than 2")):
        with monkeypatch.context() as patched:
            patched.setattr(registry, limit, value)
            with pytest.raises(RefusedFilesError, match=words):
                model.registry.download(version, tmp_path)

    assert not (tmp_path / version).exists()
    assert model.registry.download(version, tmp_path).is_dir()


class Proxy:
    """MLflow as seen when its storage is away: `fault` is what becomes of the files."""

    def __init__(self, url: str) -> None:
        self.fault: str | None = None
        self.silence = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                about_files = "/mlflow-artifacts/artifacts" in self.path
                listing = "/artifacts?" in self.path
                if about_files and proxy.fault == "silence":
                    proxy.silence.wait()
                    return
                if about_files and (
                    proxy.fault == "500" or (proxy.fault == "500 for a file" and not listing)
                ):
                    self.send_error(500)
                    return
                answer = urllib3.request("GET", url + self.path)
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", str(len(answer.data)))
                self.end_headers()
                self.wfile.write(answer.data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def proxy(mlflow_url: str) -> Iterator[Proxy]:
    proxy = Proxy(mlflow_url)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield proxy
    proxy.silence.set()
    proxy.server.shutdown()
    proxy.server.server_close()
    thread.join()


@pytest.mark.parametrize("fault", ["500", "500 for a file", "silence"])
def test_storage_that_is_away_is_waited_for_and_leaves_no_half_folder(
    model: RegisteredModel,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    version = model.version({"a": b"x"})
    through = Registry(proxy.url, model.name)
    proxy.fault = fault

    with pytest.raises(TemporaryError, match="MLflow at"):
        through.download(version, tmp_path)
    half = (tmp_path / version).exists()
    proxy.fault = None

    assert not half
    assert (through.download(version, tmp_path) / "a").read_bytes() == b"x"


def test_an_mlflow_that_is_away_is_waited_for(tmp_path: Path) -> None:
    away = Registry("http://127.0.0.1:1", "m")

    for call in (
        lambda: away.observe(CHAMPION),
        lambda: away.tell("1", CHAMPION, SERVING, "served", AT),
        lambda: away.download("1", tmp_path),
        lambda: away.register_webhook("https://example.org", "s"),
    ):
        with pytest.raises(TemporaryError, match="MLflow at"):
            call()


# The journal.

CHECKS = (Check("artifact", True, "skops"), Check("quality", False, "half a pair \ud800, a NUL \0"))


def rows(settings: PostgresSettings, query: str) -> list[tuple[Any, ...]]:
    with closing(connect(settings, "test")) as connection, transaction(connection, 10) as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def test_a_change_of_state_is_one_row_and_one_message(postgres: PostgresHandle) -> None:
    for journal in (Journal(postgres.settings), Journal(postgres.settings)):
        for _ in range(2):
            journal.record(CHAMPION, "7", RolloutState.REFUSED, "too low\0", CHECKS, AT)
            journal.record(CHAMPION, "7", RolloutState.REFUSED, "x", (), AT + timedelta(1))
            journal.flush()

    found = rows(
        postgres.settings,
        "SELECT alias, version, state, reason, checks, at FROM promotions ORDER BY at",
    )
    told = rows(postgres.settings, "SELECT kind, payload FROM outbox ORDER BY id")
    said = [
        {"name": "artifact", "passed": True, "detail": "skops"},
        {"name": "quality", "passed": False, "detail": "half a pair ?, a NUL \\0"},
    ]
    assert found == [
        ("champion", "7", "refused", "too low\\0", said, AT),
        ("champion", "7", "refused", "x", [], AT + timedelta(1)),
    ]
    assert [kind for kind, _ in told] == ["model.rollout"] * 2
    assert told[0][1] == {
        "alias": "champion",
        "version": "7",
        "state": "refused",
        "reason": "too low\\0",
        "at": AT.isoformat(),
    }


def test_a_database_that_is_away_gets_the_rows_later(
    postgres: PostgresHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    away = postgres.settings.model_copy(update={"port": 1})
    journal = Journal(away, clock=lambda: now)
    journal.record(CHAMPION, "7", SERVING, "served", (), AT)

    journal.flush()
    monkeypatch.setattr(journal, "_settings", postgres.settings)
    journal.flush()
    too_soon = rows(postgres.settings, "SELECT count(*) FROM promotions")
    now = 31.0
    journal.flush()

    assert too_soon == [(0,)]
    assert rows(postgres.settings, "SELECT version FROM promotions") == [("7",)]


def test_of_very_many_rows_the_newest_are_kept(postgres: PostgresHandle) -> None:
    journal = Journal(postgres.settings)
    for version in range(1_005):
        journal.record(CHAMPION, str(version), SERVING, "served", (), AT)

    journal.flush()

    query = "SELECT count(*), min(version::int) FROM promotions"
    assert rows(postgres.settings, query) == [(1_000, 5)]


def test_without_a_database_nothing_is_kept() -> None:
    journal = Journal(None)

    journal.record(CHAMPION, "7", SERVING, "served", (), AT)
    journal.flush()


# The cluster.

RESOURCE = "inferenceservices.serving.kserve.io"


class Service:
    """An InferenceService in a namespace of the test's own."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server, self.namespace = server, namespace
        model = {"modelFormat": {"name": "mlflow", "version": "3"}}
        service = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "sentiment", "annotations": {"kept": "yes"}},
            "spec": {"predictor": {"minReplicas": 1, "model": model}},
        }
        assert server.apply(service, namespace) == []

    def get(self, path: str) -> str:
        return self.server.kubectl(
            "get",
            RESOURCE,
            "sentiment",
            f"--namespace={self.namespace}",
            f"--output=jsonpath={path}",
        )

    def events(self) -> list[str]:
        return self.server.kubectl(
            "get",
            "events",
            f"--namespace={self.namespace}",
            "--output=jsonpath={range .items[*]}{.type} {.reason} {.message}{'\\n'}{end}",
        ).splitlines()


@pytest.fixture
def service(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    # The library reads the variable KUBECONFIG when it is imported.
    location = "KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(kube_config, location, str(api_server.kubeconfig))
    cluster.connection.cache_clear()
    with api_server.namespace() as namespace:
        yield Service(api_server, namespace)
    cluster.connection().close()
    cluster.connection.cache_clear()


SEVEN = Model("7", "s3://moodstream/mlflow/7")


@pytest.mark.parametrize("optional", [False, True])
def test_a_model_is_set_in_one_patch(service: Service, optional: bool) -> None:
    served = ServedByKServe(service.namespace, "sentiment", optional=optional)
    before = served.look()

    target = served.serve(SEVEN, AT)

    assert before is not None
    assert (before.version, before.storage_uri, before.started) == (None, None, None)
    assert target == served.look()
    assert target.serves(SEVEN)
    assert target.started == AT
    assert target.generation == before.generation + 1
    assert service.get("{.spec.predictor.minReplicas}{.metadata.annotations.kept}") == "1yes"
    stop = service.get(r"{.metadata.annotations.serving\.kserve\.io/stop}")
    assert stop == ("false" if optional else "")


def test_a_stopped_service_is_started_by_the_next_model(service: Service) -> None:
    served = ServedByKServe(service.namespace, "sentiment", optional=True)

    served.serve(SEVEN, AT)
    served.stop()
    stopped = served.look()
    started = served.serve(SEVEN, AT)

    assert stopped is not None
    assert (stopped.stopped, started.stopped) == (True, False)


def test_what_does_not_exist_is_none_and_cannot_be_set(service: Service) -> None:
    served = ServedByKServe(service.namespace, "nobody-made-this", optional=False)

    assert served.look() is None
    with pytest.raises(TemporaryError, match="nobody-made-this cannot be patched: 404"):
        served.serve(SEVEN, AT)


def test_people_are_told_the_same_once_for_each_state(service: Service) -> None:
    served = ServedByKServe(service.namespace, "sentiment", optional=False)
    target = served.serve(Model("made by hand, Ü", "s3://x"), AT)

    for message in ("version 8: too low", "version 8: too low", "version 9: too low"):
        served.tell("Warning", target, "ModelRefused", message)
    served.tell("Normal", served.serve(SEVEN, AT), "ModelServed", "x" * 5_000)

    assert sorted(service.events()) == [
        f"Normal ModelServed {'x' * 1_024}",
        "Warning ModelRefused version 8: too low",
        "Warning ModelRefused version 9: too low",
    ]
