"""Everything that would stop the platform from coming up, found before anything is changed. Each
problem comes with its fix, in one line.
"""

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import urllib3

from services.cluster import charts, command, credentials, helm, kind, kube, operators
from services.cluster.errors import ClusterError
from services.cluster.kube import Kube, Object
from services.cluster.options import (
    HOST_PORTS,
    KIND_CLUSTER,
    KIND_CONTEXT,
    LOADER_KIND,
    NAMESPACE,
    OperatorsFrom,
    Options,
    Target,
)

_GIB: Final = 2.0**30
_KIND_CPUS: Final = 4
_KIND_MEMORY: Final = 7.5 * _GIB
"""A machine of 8 GB has a little less to give."""
_DISK: Final = 20 * _GIB
"""The node's image, ours and those of the parts."""
_INOTIFY: Final = {"max_user_instances": 512, "max_user_watches": 524_288}
"""What kind's own documentation asks for."""
_INOTIFY_FOLDER: Final = Path("/proc/sys/fs/inotify")
_HELM: Final = (3, 13)
_KUBECTL: Final = (1, 30)
_KIND: Final = (0, 31)
_KUBERNETES: Final = (1, 30)
_ANSWER_SECONDS: Final = 3.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    detail: str
    fix: str | None = None
    """What to do about it; None: nothing, it is well."""

    @property
    def well(self) -> bool:
        """Whether nothing has to be done."""
        return self.fix is None

    def __str__(self) -> str:
        line = " ".join(f"{self.name}: {self.detail}".split())
        return line if self.fix is None else f"{line}. Fix: {self.fix}"


class PreflightError(ClusterError):
    """The platform would not come up here."""

    def __init__(self, checks: list[Check]) -> None:
        lines = "\n".join(f"  {check}" for check in checks if not check.well)
        super().__init__(f"nothing was changed, because the platform would not come up:\n{lines}")


def run(options: Options) -> Iterator[Check]:
    """Every check, in the order in which they depend on each other: a tool that is missing ends
    it, and so does a cluster that does not answer.
    """
    tools = list(_tools(options))
    yield from tools
    try:
        charts.check_values(options)
    except charts.ValuesError as exc:
        yield Check("values", str(exc), "name a folder with such files, or leave VALUES out")
        return
    if not all(check.well for check in tools):
        return
    rendered, check = _rendered(options)
    yield check
    docker = None
    if options.target is Target.KIND or options.builds:
        docker, check = _docker()
        yield check
    if options.target is Target.KIND and not _elsewhere(options) and not kind.exists():
        if docker is not None:
            yield from machine(docker, _INOTIFY_FOLDER)
        yield from ports()
        yield Check("context", f"{KIND_CONTEXT}, with a new kind cluster {KIND_CLUSTER}")
        if rendered is not None:
            yield from _external_store(None, rendered)
        return
    cluster, check = connect(options)
    yield check
    if cluster is None:
        return
    try:
        yield from in_cluster(cluster, options, rendered)
    except kube.AwayError as exc:
        yield Check("Kubernetes", str(exc), "try again when it answers: kubectl get nodes")


def connect(options: Options) -> tuple[Kube | None, Check]:
    """The cluster, if its API answers."""
    if _elsewhere(options):
        detail = f"{options.context} is not the kind cluster's, which is {KIND_CONTEXT}"
        return None, Check("context", detail, "CLUSTER=current, or leave KUBE_CONTEXT out")
    known, current = kube.contexts()
    default = KIND_CONTEXT if options.target is Target.KIND else current
    wanted = options.context or default
    if wanted is None:
        fix = "kubectl config use-context NAME, or KUBE_CONTEXT=NAME"
        return None, Check("context", "kubectl has no current context", fix)
    if wanted not in known:
        listed = ", ".join(known) or "none"
        detail = f"kubectl knows no context {wanted}; it knows: {listed}"
        if options.target is Target.KIND:
            lost = f"kind export kubeconfig --name {KIND_CLUSTER}"
            return None, Check("context", detail, f"make cluster-up; if it is up: {lost}")
        return None, Check("context", detail, "KUBE_CONTEXT=NAME with one of these")
    try:
        cluster = Kube(wanted)
        version = cluster.version()
    except ClusterError as exc:
        return None, Check("context", str(exc), "start that cluster, or KUBE_CONTEXT=NAME")
    detail = f"{wanted} at {cluster.server}, Kubernetes {version}"
    if _pair(version) < _KUBERNETES:
        return None, Check("context", detail, f"Kubernetes {_dotted(_KUBERNETES)} or later")
    return cluster, Check("context", detail)


def _elsewhere(options: Options) -> bool:
    """Whether a kind cluster is meant, but the context of another is named."""
    return options.target is Target.KIND and options.context not in (None, KIND_CONTEXT)


def in_cluster(
    cluster: Kube, options: Options, rendered: dict[str, list[Object]] | None
) -> Iterator[Check]:
    """What a cluster that answers must have."""
    yield from _operators(cluster, options)
    yield from _rights(cluster, options)
    yield _storage(cluster)
    if rendered is not None:
        objects = [thing for chart in rendered.values() for thing in chart]
        yield room(cluster, *charts.requests(objects))
        yield from _external_store(cluster, rendered)


def machine(docker: Object, inotify: Path) -> Iterator[Check]:
    """Whether Docker's machine, which is a virtual one on macOS, can hold the kind cluster."""
    cpus, memory = int(docker["NCPU"]), float(docker["MemTotal"])
    detail = f"{cpus} CPUs for Docker, {_KIND_CPUS} needed"
    more = "give Docker more, or use a larger machine with CLUSTER=current"
    yield Check("CPU", detail, more if cpus < _KIND_CPUS else None)
    detail = f"{memory / _GIB:.1f} GiB for Docker, {_KIND_MEMORY / _GIB:.1f} needed"
    yield Check("memory", detail, more if memory < _KIND_MEMORY else None)
    folder = Path(docker.get("DockerRootDir", "/"))
    # In a virtual machine the folder is not one of this machine.
    free = shutil.disk_usage(folder if folder.exists() else Path.home()).free
    detail = f"{free / _GIB:.0f} GiB free, {_DISK / _GIB:.0f} needed"
    yield Check("disk", detail, "docker system prune, or free some" if free < _DISK else None)
    for name, least in _INOTIFY.items():
        path = inotify / name
        if path.exists():
            value = int(path.read_text())
            fix = f"sudo sysctl fs.inotify.{name}={least}" if value < least else None
            yield Check(f"inotify {name}", f"{value}, {least} needed", fix)


def ports() -> Iterator[Check]:
    """Whether the ports that kind maps are free here."""
    for name, port in HOST_PORTS.items():
        fix = None if _is_free(port) else f"stop what listens there: lsof -i :{port}"
        yield Check(f"port {port}", f"for {name}", fix)


def room(cluster: Kube, cpus: float, memory: float) -> Check:
    """Whether the nodes have so much to give, beside what runs there already."""
    nodes = [
        node
        for node in cluster.list(kube.NODES, None)
        if kube.condition(node, "Ready") == "True" and not node["spec"].get("unschedulable")
    ]
    free_cpus = sum(charts.quantity(node["status"]["allocatable"]["cpu"]) for node in nodes)
    free_memory = sum(charts.quantity(node["status"]["allocatable"]["memory"]) for node in nodes)
    for pod in cluster.list(kube.PODS, None):
        ours = pod["metadata"]["namespace"] == NAMESPACE
        if ours or pod["status"].get("phase") in ("Succeeded", "Failed"):
            continue
        for container in pod["spec"]["containers"]:
            asked = (container.get("resources") or {}).get("requests") or {}
            free_cpus -= charts.quantity(asked.get("cpu", 0))
            free_memory -= charts.quantity(asked.get("memory", 0))
    detail = (
        f"{len(nodes)} ready nodes have {free_cpus:.1f} CPUs and {free_memory / _GIB:.1f} GiB to "
        f"give; the platform asks for {cpus:.1f} and {memory / _GIB:.1f}"
    )
    short = free_cpus < cpus or free_memory < memory
    return Check("room", detail, "add a node, or ask for less in VALUES" if short else None)


def _tools(options: Options) -> Iterator[Check]:
    needed: dict[str, tuple[tuple[int, int], Callable[[], tuple[int, int]], str]] = {
        "kubectl": (_KUBECTL, _kubectl_version, "https://kubernetes.io/docs/tasks/tools"),
        "helm": (_HELM, helm.version, "https://helm.sh/docs/intro/install"),
    }
    if options.target is Target.KIND or options.image_loader == LOADER_KIND:
        needed["kind"] = (_KIND, kind.version, "https://kind.sigs.k8s.io")
    for name, (least, version, page) in needed.items():
        if not command.found(name):
            yield Check(name, "not installed", f"install {_dotted(least)} or later: {page}")
            continue
        try:
            found = version()
        except command.CommandError as exc:
            yield Check(name, str(exc), f"install {_dotted(least)} or later: {page}")
            continue
        fix = f"install {_dotted(least)} or later: {page}" if found < least else None
        yield Check(name, _dotted(found), fix)
    if options.target is Target.KIND or options.builds:
        there = command.found("docker")
        fix = None if there else "install it: https://docs.docker.com/engine/install"
        yield Check("docker", "installed" if there else "not installed", fix)
    loader = options.image_loader.split(" ")[0]
    if options.builds and loader != LOADER_KIND and not command.found(loader):
        yield Check("LOADER", f"there is no program {loader}", "LOADER=kind, none or a command")


def _rendered(options: Options) -> tuple[dict[str, list[Object]] | None, Check]:
    try:
        return charts.render(options), Check("values", f"profile {options.profile}")
    except command.CommandError as exc:
        return None, Check("values", str(exc), "correct the value that is named")


def _docker() -> tuple[Object | None, Check]:
    try:
        found: Object = json.loads(
            command.run("docker", "info", "--format", "{{json .}}", seconds=_ANSWER_SECONDS * 10)
        )
    except (command.CommandError, ValueError) as exc:
        return None, Check("Docker", str(exc), "start Docker, and see that: docker info")
    # Without its daemon, docker info ends well and tells of the client alone.
    if not found.get("ServerVersion"):
        problems = "; ".join(found.get("ServerErrors") or ["it does not answer"])
        return None, Check("Docker", problems, "start Docker, and see that: docker info")
    return found, Check("Docker", f"{found['ServerVersion']} answers")


def _operators(cluster: Kube, options: Options) -> Iterator[Check]:
    if options.operators is OperatorsFrom.PRESENT:
        for operator in operators.needed(options.profile):
            problem = operators.problem(cluster, operator)
            fix = f"install {operator.name}, or OPERATORS=install" if problem else None
            yield Check(operator.name, problem or "answers", fix)
        return
    for operator in operators.installed(options.profile):
        foreign = operators.foreign(cluster, operator)
        detail = "installed by something else" if foreign else operator.release.version
        yield Check(operator.name, detail, "OPERATORS=present" if foreign else None)


def _rights(cluster: Kube, options: Options) -> Iterator[Check]:
    """Whether this person may do what takes the most privilege: the namespace's Pod Security
    labels, and CRDs where operators are installed.
    """
    asked = [("Pod Security", "patch", "", "namespaces")]
    if options.operators is OperatorsFrom.INSTALL:
        asked.append(("CRDs", "create", "apiextensions.k8s.io", "customresourcedefinitions"))
    for name, verb, group, resource in asked:
        attributes = {"verb": verb, "group": group, "resource": resource}
        review = cluster.create(
            kube.ACCESS_REVIEWS,
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "metadata": {},
                "spec": {"resourceAttributes": attributes},
            },
            None,
        )
        allowed = bool(review["status"]["allowed"])
        detail = f"you may {'' if allowed else 'not '}{verb} {resource}"
        yield Check(name, detail, None if allowed else "ask an administrator of the cluster")


def _storage(cluster: Kube) -> Check:
    default = "storageclass.kubernetes.io/is-default-class"
    names = [
        found["metadata"]["name"]
        for found in cluster.list(kube.STORAGE_CLASSES, None)
        if (found["metadata"].get("annotations") or {}).get(default) == "true"
    ]
    fix = None if names else "mark one with the annotation " + default
    return Check("storage", f"default StorageClass {', '.join(names) or 'is missing'}", fix)


def _external_store(cluster: Kube | None, rendered: dict[str, list[Object]]) -> Iterator[Check]:
    """Whether an S3 that is not ours is there, and its keys with it."""
    endpoint = charts.object_store(rendered["platform"])
    parts = urlsplit(endpoint or "")
    host = parts.hostname or ""
    if not host or host.startswith(f"{credentials.OBJECT_STORE}.{NAMESPACE}."):
        return
    if cluster is None or cluster.find(kube.SECRETS, credentials.OBJECT_STORE) is None:
        fix = (
            f"kubectl create namespace {NAMESPACE}; kubectl --namespace {NAMESPACE} create secret "
            f"generic {credentials.OBJECT_STORE} with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
        yield Check("S3", f"no Secret {credentials.OBJECT_STORE} with the keys of {endpoint}", fix)
    labels = host.split(".")
    if len(labels) > 2 and labels[2] == "svc":
        there = _is_service(cluster, labels[0], labels[1])
        detail = "is a Service" if there else "is no Service of this cluster"
    else:
        there = _answers(str(endpoint))
        detail = "answers" if there else "does not answer from here"
    wrong = "correct the object store's endpoint in platform.yaml"
    yield Check("S3", f"{endpoint} {detail}", None if there else wrong)


def _is_service(cluster: Kube | None, name: str, namespace: str) -> bool:
    return cluster is not None and cluster.find(kube.SERVICES, name, namespace) is not None


def _kubectl_version() -> tuple[int, int]:
    found = json.loads(command.run("kubectl", "version", "--client", "--output", "json"))
    return _pair(str(found["clientVersion"]["gitVersion"]))


def _pair(version: str) -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _answers(url: str) -> bool:
    """Whether HTTP is spoken there. A connection alone says little: a proxy takes any."""
    try:
        with urllib3.PoolManager(timeout=_ANSWER_SECONDS, retries=False) as http:
            http.request("GET", url, redirect=False)
    except urllib3.exceptions.HTTPError:
        return False
    return True
