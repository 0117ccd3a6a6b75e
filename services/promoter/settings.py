"""The promoter's own settings."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from services.core.contract import MODEL_NAME
from services.core.settings import group


class PromoterSettings(BaseSettings):
    """Which registered model's aliases decide what is served, and where that is served."""

    model_config = group("MOODSTREAM_PROMOTER_")

    model_name: str = Field(default=MODEL_NAME, min_length=1)
    """Name of the registered model in MLflow."""
    artifact_root: str = Field(
        default="s3://moodstream/mlflow", pattern=r"^([a-z0-9]+://[^/]|file:///[^/])"
    )
    """Where MLflow's server keeps its artifacts, as what serves them reads them: the server's
    --artifacts-destination.
    """
    namespace: str = Field(default="moodstream", min_length=1)
    """Kubernetes namespace of the InferenceServices and of the Lease."""
    inference_service: str = Field(default="sentiment", min_length=1)
    """Name of the InferenceService that serves the champion."""
    challenger_service: str = Field(default="sentiment-challenger", min_length=1)
    """Name of the InferenceService that serves the challenger."""
    poll_seconds: float = Field(default=3.0, gt=0)
    """Pause between two looks at the aliases."""
    deadline_seconds: float = Field(default=300.0, gt=0)
    """How long a version may take from being set to answering right; then the last good one is set
    again.
    """
    models_dir: Path = Path("/models")
    """Folder that promoter and examiner share; holds the versions that are examined."""
    examiner_url: str = "http://127.0.0.1:9100"
    """Base address of the examiner, without a path."""
    lease: str = Field(default="moodstream-promoter", min_length=1)
    """Name of the Lease whose holder acts."""
    webhook_secret: SecretStr | None = Field(default=None, min_length=1)
    """Key of the signatures on MLflow's webhook. Unset: the webhook is refused."""
    webhook_url: str | None = Field(default=None, pattern=r"^https?://")
    """Address of the promoter's /hooks/mlflow as MLflow reaches it. Set, with the secret: the
    promoter has MLflow call it.
    """
