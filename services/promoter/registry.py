"""The promoter's one module that knows MLflow: which version an alias names, and where its files
are. Needs no more than mlflow-skinny.
"""

import os
from dataclasses import dataclass

# Read when mlflow is imported or at each request. The library would try for minutes; we look again
# at the next round.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from services.core.errors import TemporaryError

_ABSENT = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class Registered:
    """A version of the registered model."""

    version: str
    download_uri: str
    """Folder with its files, as MLflow's clients read it."""


class Registry:
    """One registered model of one MLflow server. Every call raises TemporaryError while the server
    is away.
    """

    def __init__(self, url: str, model_name: str) -> None:
        self._url = url
        self._model_name = model_name
        self._client = MlflowClient(tracking_uri=url, registry_uri=url)

    def named(self, alias: str) -> Registered | None:
        """The version that the alias names; None when there is no such alias, or no model yet."""
        try:
            aliases = self._client.get_registered_model(self._model_name).aliases
            if alias not in aliases:
                return None
            version = str(aliases[alias])
            uri = self._client.get_model_version_download_uri(self._model_name, version)
        except MlflowException as exc:
            if exc.error_code == _ABSENT:
                return None
            raise TemporaryError(f"MLflow at {self._url}: {exc}") from exc
        return Registered(version, str(uri))
