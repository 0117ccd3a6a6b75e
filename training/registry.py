"""The one module that knows MLflow: logs a training run, registers its model, moves aliases,
fetches versions.

The model is a skops file inside an MLflow model of the python_function flavour whose loader is
`training.pyfunc`. MLflow's own scikit-learn flavour is not used: it takes the list of trusted types
from the artifact itself, and asks for pytest.
"""

import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Final

# Read when mlflow is imported or at each request; some print over the command line's own output.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Files go through the server: it offers addresses in its object store, which nobody else may reach.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Half a minute for each request: a server that restarts is waited for, one that is gone is not.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")

import mlflow
import pandas as pd  # type: ignore[import-untyped]  # no stubs
import skops.io
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from sklearn.pipeline import Pipeline

from services.core.contract import INPUT_NAME, MODEL_NAME
from services.core.errors import MoodstreamError, TemporaryError
from services.core.examination import OUTPUT_KEY, SIGNATURE
from services.core.gate import Examination, Verdict
from services.core.model import MODEL_FILE, SentimentModel, load_pipeline

_EXPERIMENT: Final = "sentiment"
_HEALTH_SECONDS: Final = 10.0
_EXAMPLES: Final = ("The new line is quick and clean, love it :)", "not what I paid for...")
_MAX_REASON_CHARS: Final = 500
_UNKNOWN: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow answers about versions that are not there, and about names that can be none."""
_SIGNATURE: Final = ModelSignature(
    inputs=Schema([ColSpec(*column) for column in SIGNATURE["inputs"]]),
    outputs=Schema([ColSpec(*column) for column in SIGNATURE["outputs"]]),
)


class NoSuchVersionError(MoodstreamError):
    """The registry has no such version or alias."""


@dataclass(frozen=True)
class Run:
    """What is known about a trained model besides the model."""

    name: str
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    plots: Mapping[str, Figure]
    """By file name."""
    requirements: tuple[str, ...]
    """Pinned packages that the model needs."""
    tags: Mapping[str, str]
    """Also set on the registered version."""


class Registry:
    """One MLflow server, which becomes the default of this process. Every call raises
    TemporaryError when the server fails.
    """

    def __init__(self, url: str) -> None:
        """Asks for an answer at once; MLflow's client would try for longer."""
        try:
            with urllib.request.urlopen(  # noqa: S310 - the address is a setting, not input
                f"{url.rstrip('/')}/health", timeout=_HEALTH_SECONDS
            ):
                pass
        except (OSError, ValueError) as exc:
            raise TemporaryError(
                f"MLflow at {url} does not answer: {exc}; start it, or set MOODSTREAM_MLFLOW_URL"
            ) from exc
        # Not only for the fluent functions: a download asks the process's default server for parts.
        mlflow.set_tracking_uri(url)
        mlflow.set_registry_uri(url)
        self._url = url
        self._client = MlflowClient(tracking_uri=url, registry_uri=url)

    def register(self, run: Run, pipeline: Pipeline) -> str:
        """Logs the run and registers the pipeline; returns the new version."""
        with self._errors():
            return self._register(run, pipeline)

    def _register(self, run: Run, pipeline: Pipeline) -> str:
        mlflow.set_experiment(_EXPERIMENT)
        example_output = SentimentModel(pipeline, "unregistered").predict(_EXAMPLES).tolist()
        with (
            tempfile.TemporaryDirectory() as scratch,
            mlflow.start_run(run_name=run.name, log_system_metrics=False),
        ):
            mlflow.log_params(dict(run.parameters))
            mlflow.log_metrics(dict(run.metrics))
            mlflow.set_tags(dict(run.tags))
            for name, figure in run.plots.items():
                mlflow.log_figure(figure, name)
            # What MLflow says meanwhile is not for the terminal: our callers say what came of it.
            with redirect_stderr(StringIO()):
                info = mlflow.pyfunc.log_model(
                    name="model",
                    loader_module="training.pyfunc",
                    data_path=str(_dumped(pipeline, Path(scratch))),
                    signature=_SIGNATURE,
                    input_example=pd.DataFrame({INPUT_NAME: _EXAMPLES}),
                    pip_requirements=list(run.requirements),
                    registered_model_name=MODEL_NAME,
                    # The gate asks the model the input example again, where it is to be served.
                    metadata={OUTPUT_KEY: example_output},
                )
        version = str(info.registered_model_version)
        for key, value in run.tags.items():
            self._client.set_model_version_tag(MODEL_NAME, version, key, value)
        return version

    def record(self, version: str, examination: Examination, verdict: Verdict) -> None:
        """Says on the version and on its run what the gate has found."""
        tags = {"gate": "passed" if verdict.passed else verdict.reason[:_MAX_REASON_CHARS]}
        with self._errors():
            run_id = str(self._client.get_model_version(MODEL_NAME, version).run_id)
            if examination.macro_recall is not None:
                tags["evaluation.macro_recall"] = f"{examination.macro_recall:.4f}"
                self._client.log_metric(run_id, "evaluation.macro_recall", examination.macro_recall)
            checks = [asdict(check) for check in verdict.checks]
            self._client.log_dict(run_id, {"checks": checks}, "gate.json")
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)
                self._client.set_model_version_tag(MODEL_NAME, version, key, value)

    def aliases(self) -> dict[str, str]:
        """Alias to version; empty when nothing is registered yet."""
        with self._errors():
            try:
                aliases = self._client.get_registered_model(MODEL_NAME).aliases
            except MlflowException as exc:
                if exc.error_code not in _UNKNOWN:
                    raise
                return {}
        return {alias: str(version) for alias, version in aliases.items()}

    def set_alias(self, alias: str, version: str) -> None:
        """Points the alias at the version."""
        with self._errors():
            self._client.set_registered_model_alias(MODEL_NAME, alias, version)

    def version_of(self, selector: str) -> str:
        """The version that an alias or a version number names, or NoSuchVersionError."""
        version = self.aliases().get(selector, selector)
        with self._errors():
            try:
                return str(self._client.get_model_version(MODEL_NAME, version).version)
            except MlflowException as exc:
                if exc.error_code not in _UNKNOWN:
                    raise
                raise NoSuchVersionError(
                    f"the registry at {self._url} has no {selector!r} of {MODEL_NAME!r}; "
                    "train one first, or name another"
                ) from exc

    def fetch(self, selector: str, home: Path) -> Path:
        """The folder under `home` with the version that an alias or a number names; downloaded if
        it is not there yet. Its name is the version.
        """
        version = self.version_of(selector)
        folder = home / version
        if not folder.exists():
            home.mkdir(parents=True, exist_ok=True)
            with self._errors(), tempfile.TemporaryDirectory(dir=home) as scratch:
                downloaded = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"models:/{MODEL_NAME}/{version}",
                    dst_path=scratch,
                )
                # Appears whole or not at all.
                shutil.copytree(downloaded, Path(scratch) / "whole")
                (Path(scratch) / "whole").rename(folder)
        return folder

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What MLflow, its store or our own disk could not do, as a TemporaryError."""
        try:
            yield
        except (MlflowException, OSError) as exc:  # the HTTP client's errors are OSErrors
            why = (str(exc).splitlines() or [type(exc).__name__])[0][:_MAX_REASON_CHARS]
            raise TemporaryError(
                f"MLflow at {self._url} has failed: {why}; see that it runs and that its disks "
                "have room, then run this again"
            ) from exc


def _dumped(pipeline: Pipeline, scratch: Path) -> Path:
    """The pipeline as a file that the predictor will load: anything else is not registered."""
    path = scratch / MODEL_FILE.name
    skops.io.dump(pipeline, path)
    load_pipeline(path)
    return path
