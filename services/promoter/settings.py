"""The promoter's own settings."""

from pydantic import Field
from pydantic_settings import BaseSettings

from services.core.contract import MODEL_NAME
from services.core.settings import group


class PromoterSettings(BaseSettings):
    """Which alias decides what is served, and where that is served."""

    model_config = group("MOODSTREAM_PROMOTER_")

    model_name: str = Field(default=MODEL_NAME, min_length=1)
    """Name of the registered model in MLflow."""
    alias: str = Field(default="champion", min_length=1)
    """The alias whose version is served."""
    artifact_root: str = Field(default="s3://moodstream/mlflow", pattern=r"^[a-z0-9]+://[^/]+")
    """Where MLflow's server keeps its artifacts, as the InferenceService reads them: the server's
    --artifacts-destination.
    """
    namespace: str = Field(default="moodstream", min_length=1)
    """Kubernetes namespace of the InferenceService."""
    inference_service: str = Field(default="sentiment", min_length=1)
    """Name of the InferenceService."""
    poll_seconds: float = Field(default=10.0, gt=0)
    """Pause between two looks at the alias. A rollout under way is followed every 2 s."""
