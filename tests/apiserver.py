"""A real Kubernetes API server for tests: schemas, defaults and admission are its own; in a bare
one no controller runs, so objects are stored and nothing comes of them.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import urllib3

from tests.missing import missing
from tests.tools import harness, output, tool, versions

# Modules whose CRDs an API server may lack, by the name of one CRD, and where those are in each.
_MODULES = {
    "objectstores.barmancloud.cnpg.io": (
        "github.com/cloudnative-pg/plugin-barman-cloud",
        "BARMAN_PLUGIN_MODULE_VERSION",
        ("config/crd/bases/barmancloud.cnpg.io_objectstores.yaml",),
    ),
    "podmonitors.monitoring.coreos.com": (
        "github.com/prometheus-operator/prometheus-operator",
        "PROMETHEUS_OPERATOR_MODULE_VERSION",
        (
            "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        ),
    ),
}


class ApiServer:
    """One API server: for kubectl by its kubeconfig, for HTTP by an address that needs no keys."""

    def __init__(self, kubeconfig: Path, address: str) -> None:
        self.kubeconfig = kubeconfig
        self.address = address
        self._http = urllib3.PoolManager()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints; fails the test with its complaint when it fails."""
        return output("kubectl", f"--kubeconfig={self.kubeconfig}", *arguments, stdin=stdin)

    @contextmanager
    def namespace(self) -> Iterator[str]:
        """A namespace of the test's own: it takes restricted pods only, and warns of templates."""
        name = f"test-{uuid4().hex[:10]}"
        policy = "pod-security.kubernetes.io"
        labels = {f"{policy}/{mode}": "restricted" for mode in ("enforce", "warn")}
        namespace = {"apiVersion": "v1", "kind": "Namespace"}
        self.apply({**namespace, "metadata": {"name": name, "labels": labels}})
        try:
            yield name
        finally:
            self._http.request("DELETE", f"{self.address}/api/v1/namespaces/{name}")

    def apply(self, item: dict[str, Any], namespace: str = "") -> list[str]:
        """Applies an object server-side; returns the server's refusal or its warnings, if any."""
        answer = self._http.request(
            "PATCH",
            f"{self._collection(item, namespace)}/{item['metadata']['name']}"
            "?fieldManager=test&fieldValidation=Strict",
            body=json.dumps(item),
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        if answer.status >= 300:
            return [answer.json()["message"]]
        return re.findall(r'299 \S+ "((?:[^"\\]|\\.)*)"', answer.headers.get("Warning", ""))

    def delete_all_like(self, item: dict[str, Any], namespace: str) -> None:
        """Deletes all objects of this one's kind in a namespace."""
        answer = self._http.request("DELETE", self._collection(item, namespace))
        assert answer.status < 300, answer.json()["message"]

    def _collection(self, item: dict[str, Any], namespace: str) -> str:
        version, kind = item["apiVersion"], item["kind"]
        base = f"{self.address}/{'apis' if '/' in version else 'api'}/{version}"
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{base}{within}/{self._resource(base, kind)}"

    @cache  # noqa: B019  # there is one server in a session
    def _resource(self, base: str, kind: str) -> str:
        known = self._http.request("GET", base).json().get("resources", [])
        names: list[str] = [
            each["name"] for each in known if each["kind"] == kind and "/" not in each["name"]
        ]
        assert names, f"the API server knows no {kind} at {base}"
        return names[0]


@contextmanager
def api_server() -> Iterator[ApiServer]:
    """The one that MOODSTREAM_TEST_KUBECONFIG names, or the harness's, with every CRD we use."""
    kubeconfig = os.environ.get("MOODSTREAM_TEST_KUBECONFIG") or harness().get("KUBECONFIG")
    if not kubeconfig:
        missing("no API server here: set MOODSTREAM_TEST_KUBECONFIG")
    proxy = subprocess.Popen(
        [tool("kubectl"), f"--kubeconfig={kubeconfig}", "proxy", "--port=0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert proxy.stdout
        address = proxy.stdout.readline().split()[-1]
        server = ApiServer(Path(kubeconfig), f"http://{address}")
        there = server.kubectl("get", "crd", "--output=name")
        for crd, (module, version, files) in _MODULES.items():
            if crd not in there:
                _install(server, f"{module}@{versions()[version]}", files)
        yield server
    finally:
        proxy.terminate()
        proxy.communicate()


def _install(server: ApiServer, module: str, files: tuple[str, ...]) -> None:
    folder = json.loads(output("go", "mod", "download", "-json", module))["Dir"]
    paths = [f"--filename={folder}/{file}" for file in files]
    server.kubectl("apply", "--server-side", "--force-conflicts", *paths)
    server.kubectl("wait", "--for=condition=Established", "--timeout=60s", *paths)
