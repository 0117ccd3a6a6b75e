"""The Kubernetes API: objects as plain dictionaries, pod logs, and HTTP to a Service through the
API server. The only module that imports the Kubernetes client.
"""

import http.client
import json
import logging
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.stream import portforward

from services.cluster.errors import ClusterError
from services.cluster.options import NAMESPACE

Object = dict[str, Any]

_ANSWER_SECONDS: Final = (5.0, 30.0)
"""To connect, and to answer."""
_FIELD_MANAGER: Final = "moodstream-cluster"
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_TOO_MANY: Final = 429
_QUOTED_CHARS: Final = 400


class RefusedError(ClusterError):
    """The API server does not accept an object, or may not show it."""


class AwayError(ClusterError):
    """The API server, or what is asked through it, does not answer."""


@dataclass(frozen=True)
class Resource:
    """One kind of object, as the API addresses it."""

    api: str
    plural: str

    def path(self, namespace: str | None, name: str = "") -> str:
        """The address of one object, or of all."""
        root = "/api/" if "/" not in self.api else "/apis/"
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{self.api}{scope}/{self.plural}" + (f"/{name}" if name else "")


NODES: Final = Resource("v1", "nodes")
NAMESPACES: Final = Resource("v1", "namespaces")
PODS: Final = Resource("v1", "pods")
EVENTS: Final = Resource("v1", "events")
SECRETS: Final = Resource("v1", "secrets")
CONFIG_MAPS: Final = Resource("v1", "configmaps")
SERVICES: Final = Resource("v1", "services")
DEPLOYMENTS: Final = Resource("apps/v1", "deployments")
STATEFUL_SETS: Final = Resource("apps/v1", "statefulsets")
JOBS: Final = Resource("batch/v1", "jobs")
CRON_JOBS: Final = Resource("batch/v1", "cronjobs")
STORAGE_CLASSES: Final = Resource("storage.k8s.io/v1", "storageclasses")
CRDS: Final = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")
ACCESS_REVIEWS: Final = Resource("authorization.k8s.io/v1", "selfsubjectaccessreviews")
KAFKAS: Final = Resource("kafka.strimzi.io/v1", "kafkas")
KAFKA_TOPICS: Final = Resource("kafka.strimzi.io/v1", "kafkatopics")
KAFKA_USERS: Final = Resource("kafka.strimzi.io/v1", "kafkausers")
CLUSTERS: Final = Resource("postgresql.cnpg.io/v1", "clusters")
DATABASES: Final = Resource("postgresql.cnpg.io/v1", "databases")
SCALED_OBJECTS: Final = Resource("keda.sh/v1alpha1", "scaledobjects")
INFERENCE_SERVICES: Final = Resource("serving.kserve.io/v1beta1", "inferenceservices")
SERVING_RUNTIMES: Final = Resource("serving.kserve.io/v1alpha1", "servingruntimes")
OBJECT_STORES: Final = Resource("barmancloud.cnpg.io/v1", "objectstores")
ISSUERS: Final = Resource("cert-manager.io/v1", "issuers")


def contexts() -> tuple[list[str], str | None]:
    """The contexts that kubectl knows, and the current one."""
    try:
        known, current = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except ConfigException:
        return [], None
    return sorted(context["name"] for context in known), current["name"] if current else None


class Kube:
    """One cluster, by its kubectl context."""

    def __init__(self, context: str) -> None:
        self.context = context
        # A failed connection is our error's matter, not a warning of a library's.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        try:
            settings = client.Configuration()
            config.load_kube_config(  # type: ignore[no-untyped-call]
                context=context, client_configuration=settings
            )
        except ConfigException as exc:
            raise ClusterError(f"kubectl context {context}: {exc}") from exc
        settings.retries = False
        self._client = client.ApiClient(settings)
        self.server = str(settings.host)

    def version(self) -> str:
        """Of the API server, as v1.35.1."""
        return str(self._ask("GET", "/version")["gitVersion"])

    def find(
        self, resource: Resource, name: str, namespace: str | None = NAMESPACE
    ) -> Object | None:
        """One object, or None where it, or its kind, does not exist."""
        return self._ask_or_none("GET", resource.path(namespace, name))

    def list(
        self, resource: Resource, namespace: str | None = NAMESPACE, labels: str = ""
    ) -> list[Object]:
        """All objects with the labels; none where their kind does not exist."""
        query = {"labelSelector": labels} if labels else {}
        found = self._ask_or_none("GET", resource.path(namespace), query=query)
        return list(found["items"]) if found else []

    def get(self, path: str, query: dict[str, str] | None = None) -> Object | None:
        """Any address of the API; None where it does not exist."""
        return self._ask_or_none("GET", path, query=query)

    def create(
        self,
        resource: Resource,
        body: Object,
        namespace: str | None = NAMESPACE,
        dry_run: bool = False,
    ) -> Object:
        """Makes the object; `dry_run` asks everything that decides about it, and keeps nothing."""
        query = {"dryRun": "All"} if dry_run else {}
        return self._ask("POST", resource.path(namespace), body=body, query=query)

    def create_if_absent(
        self, resource: Resource, body: Object, namespace: str | None = NAMESPACE
    ) -> bool:
        """Whether it was not there before."""
        path = resource.path(namespace)
        status, answer = self._send("POST", path, body=body)
        if status == _CONFLICT:
            return False
        _check(status, answer, f"POST {path}")
        return True

    def patch(
        self, resource: Resource, name: str, body: Object, namespace: str | None = NAMESPACE
    ) -> Object | None:
        """Merges the body into the object; None where there is none."""
        return self._ask_or_none(
            "PATCH",
            resource.path(namespace, name),
            body=body,
            query={"fieldManager": _FIELD_MANAGER},
            content_type="application/merge-patch+json",
        )

    def delete(self, resource: Resource, name: str, namespace: str | None = NAMESPACE) -> None:
        """Asks for the object's end; without it, nothing happens."""
        body = {"propagationPolicy": "Background"}
        self._ask_or_none("DELETE", resource.path(namespace, name), body=body)

    def logs(
        self,
        pod: str,
        container: str,
        lines: int,
        namespace: str = NAMESPACE,
        previous: bool = False,
    ) -> str:
        """The last lines of a container; empty where there are none."""
        query = {"container": container, "tailLines": str(lines)}
        if previous:
            query["previous"] = "true"
        status, answer = self._send("GET", PODS.path(namespace, pod) + "/log", query=query)
        return answer.decode(errors="replace") if status == http.HTTPStatus.OK else ""

    def http(
        self, service: str, path: str, body: Object | None = None, namespace: str = NAMESPACE
    ) -> tuple[int, Any]:
        """Status and JSON that a Service answers: a POST with a body, else a GET. Goes through the
        API server to one ready pod, so neither a NetworkPolicy nor a missing port of this machine
        stands in the way.
        """
        found = self.find(SERVICES, service, namespace)
        if found is None:
            raise AwayError(f"there is no Service {service} in {namespace}")
        pod, port = self._endpoint(found, namespace)
        try:
            forwarded = portforward(
                client.CoreV1Api(self._client).connect_get_namespaced_pod_portforward,
                pod,
                namespace,
                ports=str(port),
                _request_timeout=_ANSWER_SECONDS[1],
            )
        except ApiException as exc:
            raise AwayError(f"{service}: no way to {pod}: {_short(str(exc.reason))}") from exc
        sock = forwarded.socket(port)
        sock.settimeout(_ANSWER_SECONDS[1])
        # The name that the Service is called by in the cluster: MLflow accepts no other.
        host = f"{service}:{found['spec']['ports'][0]['port']}"
        try:
            return _exchange(sock, host, path, body)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise AwayError(f"{service}{path}: {exc or type(exc).__name__}") from exc
        finally:
            forwarded.close()

    def _endpoint(self, service: Object, namespace: str) -> tuple[str, int]:
        name = service["metadata"]["name"]
        selector = ",".join(f"{k}={v}" for k, v in service["spec"].get("selector", {}).items())
        ready = [pod for pod in self.list(PODS, namespace, selector) if is_ready(pod)]
        if not ready:
            raise AwayError(f"no pod of {name} is ready")
        port = service["spec"]["ports"][0]
        target = port.get("targetPort", port["port"])
        if isinstance(target, str):
            target = next(
                declared["containerPort"]
                for container in ready[0]["spec"]["containers"]
                for declared in container.get("ports", [])
                if declared.get("name") == target
            )
        return ready[0]["metadata"]["name"], int(target)

    def _ask(self, method: str, path: str, **arguments: Any) -> Object:
        status, answer = self._send(method, path, **arguments)
        _check(status, answer, f"{method} {path}")
        parsed: Object = json.loads(answer)
        return parsed

    def _ask_or_none(self, method: str, path: str, **arguments: Any) -> Object | None:
        status, answer = self._send(method, path, **arguments)
        if status == _NOT_FOUND:
            return None
        _check(status, answer, f"{method} {path}")
        parsed: Object = json.loads(answer)
        return parsed

    def _send(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, bytes]:
        parameters = self._client.param_serialize(
            method,
            path + (f"?{urlencode(query)}" if query else ""),
            header_params={"Accept": "*/*", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._client.call_api(*parameters, _request_timeout=_ANSWER_SECONDS)
            return int(answer.status), bytes(answer.read())  # type: ignore[no-untyped-call]
        except ApiException as exc:
            raise AwayError(f"the Kubernetes API at {self.server}: {exc.reason}") from exc
        except urllib3.exceptions.HTTPError as exc:
            raise AwayError(
                f"the Kubernetes API at {self.server} (context {self.context}) does not answer: "
                f"{_short(str(exc))}"
            ) from exc


def is_ready(thing: Object) -> bool:
    """Whether a pod, a node or a custom resource says Ready of its newest form, and stays."""
    return condition(thing, "Ready") == "True" and "deletionTimestamp" not in thing["metadata"]


def condition(thing: Object, name: str) -> str | None:
    """The status of a condition; None where it is not there, or is about an older form."""
    status = thing.get("status") or {}
    generation = thing["metadata"].get("generation")
    observed = status.get("observedGeneration", generation)
    if generation is not None and observed is not None and observed < generation:
        return None
    for found in status.get("conditions") or []:
        if found.get("type") == name:
            return str(found.get("status"))
    return None


def why(thing: Object) -> str:
    """What an object that is not ready says about it, in a few words."""
    for found in (thing.get("status") or {}).get("conditions") or []:
        if found.get("status") != "True" and (found.get("message") or found.get("reason")):
            return _short(f"{found['type']}: {found.get('message') or found['reason']}")
    return "not ready yet"


def rollout(deployment: Object) -> str | None:
    """What a Deployment's rollout still waits for; None when every pod is the newest and ready."""
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return "not noticed yet"
    updated, ready = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
    if updated < wanted or status.get("replicas", 0) > updated:
        return f"{updated} of {wanted} pods are new"
    if ready < wanted or status.get("availableReplicas", 0) < wanted:
        return f"{ready} of {wanted} pods are ready"
    return None


def _exchange(sock: Any, host: str, path: str, body: Object | None) -> tuple[int, Any]:
    payload = b"" if body is None else json.dumps(body).encode()
    head = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"Host: {host}",
        "Accept: application/json",
        "Connection: close",
    ]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
    sock.sendall("\r\n".join([*head, "", ""]).encode() + payload)
    response = http.client.HTTPResponse(sock)
    response.begin()
    text = response.read()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text.decode(errors="replace")


def _check(status: int, answer: bytes, what: str) -> None:
    if status < http.HTTPStatus.BAD_REQUEST:
        return
    try:
        message = json.loads(answer)["message"]
    except (ValueError, KeyError, TypeError):
        message = answer.decode(errors="replace")
    away = status >= http.HTTPStatus.INTERNAL_SERVER_ERROR or status == _TOO_MANY
    raise (AwayError if away else RefusedError)(f"{what}: {status} {_short(str(message))}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _QUOTED_CHARS else f"{line[:_QUOTED_CHARS]} ..."
