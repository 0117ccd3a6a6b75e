"""The predictor's own settings, and the arguments by which KServe overrides them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings

from services.core.contract import MODEL_NAME
from services.core.settings import group

_ARGUMENTS: Final = {"model_name": str, "model_dir": Path, "http_port": int, "grpc_port": int}
"""As ServingRuntimes pass them, underscores included."""


class PredictorSettings(BaseSettings):
    """Which model is served, under which name, and where."""

    model_config = group("MOODSTREAM_PREDICTOR_")

    model_dir: Path = Path("/mnt/models")
    """Folder of one model version, as downloaded from the registry. Without the folder the
    predictor waits, alive but not ready.
    """
    model_name: str = Field(default=MODEL_NAME, min_length=1)
    """Name in the addresses and in each answer."""
    model_version: str | None = None
    """Version in each answer. Unset: what the folder says, the registered version or MLflow's
    model id.
    """
    http_port: int = Field(default=8080, ge=1, le=65535)
    """TCP port of REST, probes and metrics."""
    grpc_port: int = Field(default=8081, ge=1, le=65535)
    """TCP port of gRPC."""
    socket_fds: tuple[int, ...] = ()
    """File descriptors of listening sockets that the parent hands down, as JSON: [7, 8]. REST is
    served on these instead of on http_port, by several processes at once where they share one.
    """
    leave_seconds: float = Field(default=5.0, ge=0)
    """How long a predictor that was told to stop serves on, no longer ready and ending each
    connection with its next answer, so that its callers find another one; part of drain_seconds.
    """


def with_arguments(settings: PredictorSettings, arguments: Sequence[str]) -> PredictorSettings:
    """The settings with what the command line says; arguments that we do not know are KServe's."""
    parser = argparse.ArgumentParser("predictor", argument_default=argparse.SUPPRESS)
    for name, kind in _ARGUMENTS.items():
        parser.add_argument(f"--{name}", type=kind)
    known, _ = parser.parse_known_args(arguments)
    return settings.model_copy(update=vars(known))
