"""MLflow's webhook, registered with a real MLflow and delivered by it to the promoter's address."""

import warnings
from collections.abc import Iterator
from threading import Event
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet

from services.core.errors import TemporaryError
from services.core.health import HealthServer
from services.local.mlflow import MLflow
from services.local.postgres import Postgres
from services.promoter.hook import PATH, Hook
from services.promoter.registry import Registry
from tests.ports import free_port

with warnings.catch_warnings():
    # mlflow and what it imports use what newer libraries deprecate.
    warnings.simplefilter("ignore")
    from mlflow import MlflowClient

SECONDS = 60.0
KEY = "signs"


@pytest.fixture(scope="module")
def calling_url(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres
) -> Iterator[str]:
    """An MLflow that may call this machine."""
    postgres_server.create_database("mlflow_hook")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {
            "ALLOW_PRIVATE_IPS": "true",
            "ALLOWED_SCHEMES": "https,http",
            "SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "CACHE_TTL": "0",
            "REQUEST_MAX_RETRIES": "0",
        }.items():
            patched.setenv(f"MLFLOW_WEBHOOK_{name}", value)
        settings = postgres_server.settings_of("mlflow_hook")
        server = MLflow(tmp_path_factory.mktemp("mlflow"), free_port(), settings)
        server.start()
    yield server.url
    server.process.stop()


class Heard:
    """The promoter's address, and whether it was woken."""

    def __init__(self, model_name: str, secret: str = KEY) -> None:
        self.statuses: list[int] = []
        self.called = Event()
        self.wake = Event()
        self._hook = Hook(secret, model_name, self.wake)

    def __call__(self, headers: object, body: bytes) -> int:
        status = self._hook(headers, body)  # type: ignore[arg-type]  # as the server gives them
        self.statuses.append(status)
        self.called.set()
        return status


def listening(heard: Heard) -> HealthServer:
    return HealthServer("127.0.0.1", 0, alive=lambda: None, ready=lambda: None, posts={PATH: heard})


def registered(url: str) -> tuple[MlflowClient, str]:
    """A client, and a registered model with one version."""
    client, name = MlflowClient(tracking_uri=url, registry_uri=url), f"m-{uuid4().hex[:8]}"
    client.create_registered_model(name)
    run = client.create_run("0").info
    client.create_model_version(name, f"{run.artifact_uri}/model", run.run_id)
    return client, name


def test_an_alias_that_is_set_or_removed_wakes_the_promoter(calling_url: str) -> None:
    client, name = registered(calling_url)
    heard = Heard(name)
    with listening(heard) as server:
        Registry(calling_url, name).register_webhook(f"http://127.0.0.1:{server.port}{PATH}", KEY)

        client.set_registered_model_alias(name, "champion", "1")
        set_ = heard.wake.wait(SECONDS)
        heard.wake.clear()
        client.delete_registered_model_alias(name, "champion")
        removed = heard.wake.wait(SECONDS)

    assert (set_, removed) == (True, True)
    assert set(heard.statuses) == {200}


def test_registering_again_changes_address_and_secret_in_place(calling_url: str) -> None:
    client, name = registered(calling_url)
    registry = Registry(calling_url, name)
    heard = Heard(name, "another")
    with listening(heard) as server:
        registry.register_webhook("http://127.0.0.1:1/hooks/mlflow", KEY)
        registry.register_webhook(f"http://127.0.0.1:{server.port}{PATH}", "another")

        ours = [each for each in client.list_webhooks() if each.name == f"moodstream-{name}"]
        result = client.test_webhook(ours[0].webhook_id)
        client.set_registered_model_alias(name, "champion", "1")
        woken = heard.wake.wait(SECONDS)

    assert len(ours) == 1
    assert result.success
    assert woken


def test_a_delivery_that_is_signed_with_another_secret_wakes_nobody(calling_url: str) -> None:
    client, name = registered(calling_url)
    heard = Heard(name, "not what MLflow has")
    with listening(heard) as server:
        Registry(calling_url, name).register_webhook(f"http://127.0.0.1:{server.port}{PATH}", KEY)

        client.set_registered_model_alias(name, "champion", "1")
        called = heard.called.wait(SECONDS)

    assert called
    assert set(heard.statuses) == {401}
    assert not heard.wake.is_set()


def test_an_address_that_mlflow_refuses_is_named(mlflow_url: str) -> None:
    registry = Registry(mlflow_url, "m")

    with pytest.raises(TemporaryError, match="Invalid webhook URL"):
        registry.register_webhook("http://127.0.0.1:9000/hooks/mlflow", KEY)
