"""The promoter's way to the Kubernetes API server: one InferenceService with its Deployment and its
Events. Of the promoter's modules only this one and `lease` know the client library.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from typing import Any, Final

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException, ConflictException, NotFoundException

from services.core.contract import VERSION_ANNOTATION
from services.core.errors import SettingsError, TemporaryError
from services.promoter.decide import (
    STARTED_ANNOTATION,
    STOP_ANNOTATION,
    Model,
    Target,
    target_of,
)

REQUEST_SECONDS: Final = 10.0
"""Deadline of one request to the API server."""

_INFERENCE_SERVICES: Final = ("serving.kserve.io", "v1beta1", "inferenceservices")
_DEPLOYMENTS: Final = ("apps", "v1", "deployments")
"""API group, version, and plural."""
_COMPONENT: Final = "moodstream-promoter"
_MERGE_PATCH: Final = "application/merge-patch+json"
_MESSAGE_CHARS: Final = 1_024
"""Longest note of an Event."""
_NAME_DIGITS: Final = 16


class ServedByKServe:
    """What one InferenceService serves. An optional one is stopped while it has no model.

    Every call raises TemporaryError while the API server is away or says no for now.
    """

    def __init__(self, namespace: str, name: str, *, optional: bool) -> None:
        """SettingsError when there is no API server to ask."""
        self._resources = client.CustomObjectsApi(connection())
        self._events = client.CoreV1Api(connection())
        self._namespace = namespace
        self._name = name
        self._optional = optional

    def look(self) -> Target | None:
        """The InferenceService as it is now; None when there is none."""
        with errors(f"InferenceService {self._name} cannot be read"):
            service = self._get(*_INFERENCE_SERVICES, self._name)
            if service is None:
                return None
            return target_of(service, self._get(*_DEPLOYMENTS, f"{self._name}-predictor"))

    def serve(self, model: Model, since: datetime) -> Target:
        """Sets both halves of the version, and since when, in one patch, so that no pod has one
        without the others; returns the InferenceService with them.
        """
        annotations = {
            VERSION_ANNOTATION: model.version,
            STARTED_ANNOTATION: since.astimezone(UTC).isoformat(),
        }
        if self._optional:
            annotations[STOP_ANNOTATION] = "false"
        return self._patch(annotations, {"predictor": {"model": {"storageUri": model.storage_uri}}})

    def stop(self) -> None:
        """KServe takes the pods away; what was served last stays named."""
        self._patch({STOP_ANNOTATION: "true"}, {})

    def tell(self, kind: str, target: Target, reason: str, message: str) -> None:
        """Tells people, as an Event of `kind` Normal or Warning on the InferenceService.

        The same once for each state of the InferenceService: the Event's name stands for both, so a
        promoter that was started again does not tell twice. Version and start are part of the
        state, because two rollouts may differ in annotations alone.
        """
        state = (target.uid, target.generation, target.version, target.started, target.stopped)
        name = sha256(repr((state, reason, message)).encode()).hexdigest()[:_NAME_DIGITS]
        now = datetime.now(UTC)
        group, version, _ = _INFERENCE_SERVICES
        event = client.CoreV1Event(
            metadata=client.V1ObjectMeta(name=f"{self._name}.{name}", namespace=self._namespace),
            involved_object=client.V1ObjectReference(
                api_version=f"{group}/{version}",
                kind="InferenceService",
                name=self._name,
                namespace=self._namespace,
                uid=target.uid,
            ),
            type=kind,
            reason=reason,
            message=message[:_MESSAGE_CHARS],
            source=client.V1EventSource(component=_COMPONENT),
            first_timestamp=now,
            last_timestamp=now,
            count=1,
        )
        cannot = f"nothing can be told about InferenceService {self._name}"
        with errors(cannot), suppress(ConflictException):
            self._events.create_namespaced_event(
                self._namespace, event, _request_timeout=REQUEST_SECONDS
            )

    def _patch(self, annotations: dict[str, str], spec: dict[str, Any]) -> Target:
        group, version, plural = _INFERENCE_SERVICES
        with errors(f"InferenceService {self._name} cannot be patched"):
            patched: Any = self._resources.patch_namespaced_custom_object(
                group,
                version,
                self._namespace,
                plural,
                self._name,
                {"metadata": {"annotations": annotations}, "spec": spec},
                field_manager=_COMPONENT,
                _content_type=_MERGE_PATCH,
                _request_timeout=REQUEST_SECONDS,
            )
        return target_of(patched, None)

    def _get(self, group: str, version: str, plural: str, name: str) -> Any:
        with suppress(NotFoundException):
            return self._resources.get_namespaced_custom_object(
                group, version, self._namespace, plural, name, _request_timeout=REQUEST_SECONDS
            )
        return None


@cache
def connection() -> client.ApiClient:
    """The process's one connection pool: inside a pod as its service account, else as KUBECONFIG
    says; SettingsError when neither is there.
    """
    settings = client.Configuration()
    try:
        config.load_incluster_config(  # type: ignore[no-untyped-call]  # not typed
            client_configuration=settings
        )
    except config.ConfigException:
        try:
            config.load_kube_config(  # type: ignore[no-untyped-call]  # not typed
                client_configuration=settings
            )
        except config.ConfigException as exc:
            raise SettingsError(
                f"no Kubernetes API server: run in a pod with a service account, or set KUBECONFIG "
                f"({exc})"
            ) from exc
    settings.retries = False
    return client.ApiClient(settings)


@contextmanager
def errors(cannot: str) -> Iterator[None]:
    """What the API server refuses, and its absence, as TemporaryError."""
    try:
        yield
    except ApiException as exc:
        raise TemporaryError(f"{cannot}: {exc.status} {exc.reason}: {_message(exc)}") from exc
    except urllib3.exceptions.HTTPError as exc:
        raise TemporaryError(f"the Kubernetes API server does not answer: {exc}") from exc


def _message(refusal: ApiException) -> str:
    """The API server's own sentence, or all that was answered."""
    try:
        return str(json.loads(refusal.body or "")["message"])
    except (KeyError, TypeError, ValueError):
        return str(refusal.body)
