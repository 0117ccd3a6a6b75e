"""The promoter's one module that knows the Kubernetes client library: reads the InferenceService
and its Deployment, patches the InferenceService, writes Events on it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException, ConflictException, NotFoundException

from services.core.errors import SettingsError, TemporaryError
from services.promoter.decide import VERSION_ANNOTATION, Champion, Target, target_of

_INFERENCE_SERVICES: Final = ("serving.kserve.io", "v1beta1", "inferenceservices")
_DEPLOYMENTS: Final = ("apps", "v1", "deployments")
"""API group, version, and plural."""
_COMPONENT: Final = "moodstream-promoter"
_REQUEST_SECONDS: Final = 10.0
_MERGE_PATCH: Final = "application/merge-patch+json"
_MESSAGE_CHARS: Final = 1_024
"""Longest note of an Event."""


class Cluster:
    """One InferenceService. Every call raises TemporaryError while the API server is away or says
    no for now.
    """

    def __init__(self, namespace: str, name: str) -> None:
        """Inside a pod as its service account, else as KUBECONFIG says; SettingsError when neither
        is there.
        """
        connection = _connection()
        self._resources = client.CustomObjectsApi(connection)
        self._events = client.CoreV1Api(connection)
        self._namespace = namespace
        self._name = name

    def look(self) -> Target | None:
        """The InferenceService as it is now; None when there is none."""
        with _errors("read"):
            service = self._get(*_INFERENCE_SERVICES, self._name)
            if service is None:
                return None
            return target_of(service, self._get(*_DEPLOYMENTS, f"{self._name}-predictor"))

    def promote(self, champion: Champion) -> Target:
        """Sets both halves of the version in one patch, so that no pod has one without the other;
        returns the InferenceService with them.
        """
        patch = {
            "metadata": {"annotations": {VERSION_ANNOTATION: champion.version}},
            "spec": {"predictor": {"model": {"storageUri": champion.storage_uri}}},
        }
        group, version, plural = _INFERENCE_SERVICES
        with _errors("patched"):
            patched: Any = self._resources.patch_namespaced_custom_object(
                group,
                version,
                self._namespace,
                plural,
                self._name,
                patch,
                field_manager=_COMPONENT,
                _content_type=_MERGE_PATCH,
                _request_timeout=_REQUEST_SECONDS,
            )
        return target_of(patched, None)

    def note(self, target: Target, reason: str, message: str) -> None:
        """Tells people that something went as it should, as an Event on the InferenceService."""
        self._tell("Normal", target, reason, message)

    def warn(self, target: Target, reason: str, message: str) -> None:
        """Tells people that something needs them, as an Event on the InferenceService."""
        self._tell("Warning", target, reason, message)

    def _tell(self, kind: str, target: Target, reason: str, message: str) -> None:
        """Once for each state of the InferenceService and reason: the Event's name says both, so a
        promoter that was started again does not tell twice. The version is part of the state,
        because two versions of one model differ in the annotation alone.
        """
        state = f"{target.uid[:8]}.{target.generation}.{target.version}"
        now = datetime.now(UTC)
        group, version, _ = _INFERENCE_SERVICES
        event = client.CoreV1Event(
            metadata=client.V1ObjectMeta(
                name=f"{self._name}.{state}.{reason.lower()}", namespace=self._namespace
            ),
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
        with _errors("told about"), suppress(ConflictException):
            self._events.create_namespaced_event(
                self._namespace, event, _request_timeout=_REQUEST_SECONDS
            )

    def _get(self, group: str, version: str, plural: str, name: str) -> Any:
        with suppress(NotFoundException):
            return self._resources.get_namespaced_custom_object(
                group, version, self._namespace, plural, name, _request_timeout=_REQUEST_SECONDS
            )
        return None


def _connection() -> client.ApiClient:
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
def _errors(done: str) -> Iterator[None]:
    try:
        yield
    except ApiException as exc:
        raise TemporaryError(
            f"the InferenceService cannot be {done}: {exc.status} {exc.reason}: {_message(exc)}"
        ) from exc
    except urllib3.exceptions.HTTPError as exc:
        raise TemporaryError(f"the Kubernetes API server does not answer: {exc}") from exc


def _message(refusal: ApiException) -> str:
    """The API server's own sentence, or all that was answered."""
    try:
        return str(json.loads(refusal.body or "")["message"])
    except (KeyError, TypeError, ValueError):
        return str(refusal.body)
