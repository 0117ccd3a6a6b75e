"""Passwords and keys that no operator makes: generated once, kept only in the cluster."""

import base64
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from services.cluster.kube import CONFIG_MAPS, NAMESPACES, SECRETS, Kube, Object
from services.cluster.options import NAMESPACE

OBJECT_STORE: Final = "object-store"
RESTRICTED: Final = "restricted"
_BYTES: Final = 24
_FERNET_BYTES: Final = 32
_KSERVE: Final = "serving.kserve.io"
_LABELS: Final = {"app.kubernetes.io/part-of": "moodstream"}
_POD_SECURITY: Final = {
    f"pod-security.kubernetes.io/{mode}": RESTRICTED for mode in ("enforce", "audit", "warn")
}
_ENFORCED: Final = "pod-security.kubernetes.io/enforce"


def create_namespace(cluster: Kube) -> str:
    """Ours, in which only restricted pods may run; the Pod Security level that is enforced. What an
    administrator has said about a namespace that is there already stays.
    """
    body: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster.create_if_absent(NAMESPACES, body, None)
    found = (cluster.find(NAMESPACES, NAMESPACE, None) or body)["metadata"].get("labels") or {}
    said: dict[str, str] = {key: found[key] for key in _POD_SECURITY if key in found}
    labels = _LABELS | _POD_SECURITY | said
    cluster.patch(NAMESPACES, NAMESPACE, {"metadata": {"labels": labels}}, None)
    return labels[_ENFORCED]


def create_missing(cluster: Kube) -> list[str]:
    """Makes the Secrets that are not there, and leaves the others alone; the names of the new."""
    return [
        name
        for name, (kind, values) in _wanted().items()
        if cluster.find(SECRETS, name) is None
        and cluster.create_if_absent(SECRETS, _secret(name, kind, values))
    ]


def missing(cluster: Kube) -> list[str]:
    """Secrets that are not there."""
    return [name for name in _wanted() if cluster.find(SECRETS, name) is None]


def tell_kserve(cluster: Kube) -> None:
    """Says on the object store's Secret where the store is, as KServe wants to read it."""
    found = cluster.find(CONFIG_MAPS, OBJECT_STORE)
    if found is None:
        return
    annotations = kserve_annotations(found["data"]["endpoint"], found["data"].get("region", ""))
    cluster.patch(SECRETS, OBJECT_STORE, {"metadata": {"annotations": annotations}})


def kserve_annotations(endpoint: str, region: str) -> dict[str, str]:
    """An S3 endpoint in KServe's words: the host has no scheme."""
    parts = urlsplit(endpoint)
    https = parts.scheme == "https"
    said = {
        f"{_KSERVE}/s3-endpoint": parts.netloc,
        f"{_KSERVE}/s3-usehttps": "1" if https else "0",
        f"{_KSERVE}/s3-verifyssl": "1" if https else "0",
        f"{_KSERVE}/s3-useanoncredential": "false",
    }
    return said | ({f"{_KSERVE}/s3-region": region} if region else {})


def _wanted() -> dict[str, tuple[str, dict[str, str]]]:
    basic = "kubernetes.io/basic-auth"
    return {
        OBJECT_STORE: (
            "Opaque",
            {"AWS_ACCESS_KEY_ID": "moodstream", "AWS_SECRET_ACCESS_KEY": _generated()},
        ),
        "warehouse-mlflow": (basic, {"username": "mlflow", "password": _generated()}),
        "warehouse-reader": (basic, {"username": "moodstream-reader", "password": _generated()}),
        "warehouse-dashboard": (
            basic,
            {"username": "moodstream-dashboard", "password": _generated()},
        ),
        "moodstream-author-key": ("Opaque", {"author_key": _generated()}),
        "moodstream-editor": ("Opaque", {"editor_token": _generated()}),
        "moodstream-webhook": (
            "Opaque",
            {"webhook_secret": _generated(), "encryption_key": _fernet_key()},
        ),
    }


def _generated() -> str:
    # Hexadecimal: it stands unquoted in a URL and in a shell.
    return secrets.token_hex(_BYTES)


def _fernet_key() -> str:
    # As cryptography's Fernet wants it: MLflow encrypts the secrets of its webhooks with it.
    return base64.urlsafe_b64encode(secrets.token_bytes(_FERNET_BYTES)).decode()


def _secret(name: str, kind: str, values: Mapping[str, str]) -> Object:
    labels = dict(_LABELS)
    if kind.endswith("basic-auth"):
        # CloudNativePG follows a change of such a Secret at once.
        labels["cnpg.io/reload"] = "true"
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": labels},
        "type": kind,
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }
