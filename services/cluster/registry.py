"""MLflow's registry, through the cluster."""

from typing import Any, Final

from services.cluster.errors import ClusterError
from services.cluster.kube import AwayError, Kube
from services.core.contract import CHAMPION, MODEL_NAME, ROLLOUT_REASON_TAG, ROLLOUT_TAG

_SERVICE: Final = "mlflow"
_API: Final = "/api/2.0/mlflow"
_OK: Final = 200
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500


def champion(cluster: Kube) -> str | None:
    """The champion's version; None when no version has the alias, or there is no model yet."""
    version, _ = named(cluster, CHAMPION)
    return version


def named(cluster: Kube, alias: str) -> tuple[str | None, str | None]:
    """The version with the alias, and what the promoter says about it; None where there is
    none.
    """
    path = f"{_API}/registered-models/alias?name={MODEL_NAME}&alias={alias}"
    status, answer = cluster.http(_SERVICE, path)
    if status == _OK:
        found = answer["model_version"]
        return str(found["version"]), _said(found)
    code = answer.get("error_code") if isinstance(answer, dict) else None
    # An alias that is not there is a 400 in MLflow, a model that is not there a 404.
    if status == _NOT_FOUND or code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return None, None
    problem = f"MLflow answers {status} about the alias {alias}: {answer}"
    raise (AwayError if status >= _SERVER_ERROR else ClusterError)(problem)


def _said(version: dict[str, Any]) -> str | None:
    tags = {tag["key"]: tag["value"] for tag in version.get("tags", ())}
    state, reason = tags.get(ROLLOUT_TAG), tags.get(ROLLOUT_REASON_TAG)
    return f"{state}: {reason}" if state else None
