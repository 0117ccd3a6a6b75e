"""A Kubernetes API on a port of this machine that keeps objects in memory, and programs on the path
that answer as they are told: what services.cluster needs in order to be tested without a cluster.
"""

import json
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]


@dataclass
class Api:
    """What it holds, and what it was asked."""

    objects: dict[str, Object] = field(default_factory=dict)
    """By path."""
    refused: dict[str, str] = field(default_factory=dict)
    """Path of a collection to the message with which an object is refused."""
    texts: dict[str, str] = field(default_factory=dict)
    """Answers that are no objects, such as logs."""
    forbidden: set[str] = field(default_factory=set)
    """Resources that the person may not touch, for access reviews."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and address of every request."""
    url: str = ""

    def add(self, path: str, thing: Object) -> None:
        """An object at its path."""
        self.objects[path] = thing

    @property
    def changes(self) -> list[tuple[str, str]]:
        """Requests that would change something."""
        return [
            (method, address)
            for method, address in self.asked
            if method != "GET"
            and "dryRun=All" not in address
            and not address.startswith("/apis/authorization.k8s.io/")
        ]

    def answer(self, method: str, address: str, body: Object | None) -> tuple[int, Object | str]:
        """Status and body."""
        self.asked.append((method, address))
        parts = urlsplit(address)
        path, query = parts.path, parse_qs(parts.query)
        if path in self.texts:
            return 200, self.texts[path]
        if path in self.refused and method == "POST":
            return 403, {"message": self.refused[path]}
        if path == "/version":
            return 200, {"gitVersion": "v1.35.1"}
        if method == "POST":
            return self._create(path, body or {}, "dryRun" in query)
        if path in self.objects:
            return self._on_object(method, path, body or {})
        labels = query.get("labelSelector", [""])[0]
        inside = [
            thing
            for at, thing in self.objects.items()
            if at.rpartition("/")[0] == path and _has(thing, labels)
        ]
        known = inside or any(at.startswith(f"{path}/") for at in self.objects)
        return (200, {"items": inside}) if known else (404, {"message": f"no {path}"})

    def _create(self, path: str, body: Object, dry_run: bool) -> tuple[int, Object]:
        if path.endswith("/selfsubjectaccessreviews"):
            resource = body["spec"]["resourceAttributes"]["resource"]
            return 201, body | {"status": {"allowed": resource not in self.forbidden}}
        at = f"{path}/{body['metadata']['name']}"
        if at in self.objects:
            return 409, {"message": "already exists"}
        if not dry_run:
            self.objects[at] = body
        return 201, body

    def _on_object(self, method: str, path: str, body: Object) -> tuple[int, Object]:
        if method == "DELETE":
            return 200, self.objects.pop(path)
        if method == "PATCH":
            self.objects[path] = _merged(self.objects[path], body)
        return 200, self.objects[path]


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    """While entered, the API answers at `api.url`."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, answer = api.answer(self.command, self.path, body)
            payload = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PATCH = do_DELETE = _handle

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def kubeconfig(path: Path, **contexts: str) -> Path:
    """A kubectl configuration with contexts and their servers; the first is the current one."""
    names = list(contexts)
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": names[0],
                "clusters": [
                    {"name": name, "cluster": {"server": url}} for name, url in contexts.items()
                ],
                "users": [{"name": "somebody", "user": {"token": "a-token"}}],
                "contexts": [
                    {"name": name, "context": {"cluster": name, "user": "somebody"}}
                    for name in names
                ],
            }
        )
    )
    return path


def program(folder: Path, name: str, script: str) -> None:
    """A program on the path: it notes its arguments in NAME.calls, then runs the shell script."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$*" >> "{folder}/{name}.calls"\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


def calls(folder: Path, name: str) -> list[str]:
    """The arguments of each call of a program."""
    path = folder / f"{name}.calls"
    return path.read_text().splitlines() if path.exists() else []


def crd(name: str, *served: str) -> Object:
    """A CRD that serves these versions."""
    versions = [{"name": version, "served": True} for version in served]
    return {"metadata": {"name": name}, "spec": {"versions": versions}}


def node(cpu: str, memory: str) -> Object:
    """A ready node with so much to give."""
    return {
        "metadata": {"name": "node-1"},
        "spec": {},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _merged(thing: Object, patch: Object) -> Object:
    merged = dict(thing)
    for name, value in patch.items():
        if isinstance(value, dict):
            merged[name] = _merged(merged.get(name) or {}, value)
        elif value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged


def _has(thing: Object, selector: str) -> bool:
    labels = thing["metadata"].get("labels") or {}
    wanted = [part.partition("=") for part in selector.split(",") if part]
    return all(labels.get(name) == value for name, _, value in wanted)
