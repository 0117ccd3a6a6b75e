"""A chart looks for the APIs that it needs before anything is changed."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import urllib3
import yaml

from tests.apiserver import ApiServer
from tests.tools import ROOT, run

Hide = Callable[[str], AbstractContextManager[Path]]


@pytest.fixture
def without(api_server: ApiServer, tmp_path: Path) -> Hide:
    """Gives a kubeconfig for the API server with one API group out of sight."""

    @contextmanager
    def hide(group: str) -> Iterator[Path]:
        with ThreadingHTTPServer(("127.0.0.1", 0), _handler(api_server.address, group)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            entry = {"server": f"http://127.0.0.1:{server.server_port}"}
            kubeconfig = {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": entry}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": ""}}],
            }
            path = tmp_path / "kubeconfig"
            path.write_text(yaml.safe_dump(kubeconfig))
            try:
                yield path
            finally:
                server.shutdown()

    return hide


@pytest.mark.parametrize(
    ("chart", "api", "named"),
    [
        ("platform", "kafka.strimzi.io/v1", "Strimzi"),
        ("platform", "postgresql.cnpg.io/v1", "CloudNativePG"),
        ("moodstream", "serving.kserve.io/v1beta1", "KServe"),
        ("moodstream", "keda.sh/v1alpha1", "KEDA"),
        ("platform", "monitoring.coreos.com/v1", "monitoring.enabled"),
        ("mlflow", "monitoring.coreos.com/v1", "monitoring.enabled"),
        ("moodstream", "monitoring.coreos.com/v1", "monitoring.enabled"),
    ],
)
def test_what_the_cluster_lacks_is_named(
    chart: str, api: str, named: str, without: Hide, api_server: ApiServer
) -> None:
    group = api.partition("/")[0]
    settings = "monitoring.enabled=true" if group == "monitoring.coreos.com" else ""
    with api_server.namespace() as namespace, without(group) as kubeconfig:
        # Every namespace of a cluster has it; a bare API server does not make it.
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        api_server.apply(account, namespace)

        refused = run(
            "helm",
            "install",
            chart,
            str(ROOT / "charts" / chart),
            f"--namespace={namespace}",
            f"--kubeconfig={kubeconfig}",
            "--dry-run=server",
            f"--set={settings}",
        )

    assert refused.returncode != 0
    assert api in refused.stderr
    assert named in refused.stderr


def _handler(address: str, hidden: str) -> type[BaseHTTPRequestHandler]:
    http = urllib3.PoolManager()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Without the client's Accept the server lists its groups in the plain form.
            answer = http.request("GET", address + self.path)
            body = answer.data
            if self.path.split("?")[0] == "/apis":
                groups = json.loads(body)
                groups["groups"] = [g for g in groups["groups"] if g["name"] != hidden]
                body = json.dumps(groups).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
