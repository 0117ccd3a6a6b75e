"""MLflow's registry, through the cluster."""

from typing import Final

from services.cluster.errors import ClusterError
from services.cluster.kube import AwayError, Kube
from services.core.contract import MODEL_NAME

CHAMPION: Final = "champion"
_SERVICE: Final = "mlflow"
_OK: Final = 200
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500


def champion(cluster: Kube) -> str | None:
    """The version with the alias; None when no version has it, or there is no model yet."""
    path = f"/api/2.0/mlflow/registered-models/alias?name={MODEL_NAME}&alias={CHAMPION}"
    status, answer = cluster.http(_SERVICE, path)
    if status == _OK:
        return str(answer["model_version"]["version"])
    code = answer.get("error_code") if isinstance(answer, dict) else None
    # An alias that is not there is a 400 in MLflow, a model that is not there a 404.
    if status == _NOT_FOUND or code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return None
    problem = f"MLflow answers {status} about the alias {CHAMPION}: {answer}"
    raise (AwayError if status >= _SERVER_ERROR else ClusterError)(problem)
