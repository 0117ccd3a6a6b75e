"""The command-line tools that tests run, and where they come from."""

import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.missing import missing

ROOT = Path(__file__).parents[1]
_HARNESS = ROOT.parent / "shared" / "cluster" / "cluster"
_VENV = ROOT / ".venv"
_INSTALLED = ":".join([f"{_VENV}/bin", os.environ.get("PATH", ""), f"{_VENV}/checkov/bin"])


def tool(name: str) -> str:
    """The path of a program: from .venv/bin, from PATH or from the harness."""
    found = shutil.which(name, path=_INSTALLED) or shutil.which(name, path=harness().get("PATH"))
    return found or missing(f"{name} is not on this machine")


def run(*command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs one of the tools to its end; the caller judges its result."""
    return subprocess.run(
        [tool(command[0]), *command[1:]], input=stdin, capture_output=True, text=True, check=False
    )


def output(*command: str, stdin: str | None = None) -> str:
    """What one of the tools prints; fails the test with its complaint when it fails."""
    result = run(*command, stdin=stdin)
    assert result.returncode == 0, f"{shlex.join(command[:6])} ...: {result.stderr.strip()}"
    return result.stdout


@cache
def harness() -> dict[str, str]:
    """KUBECONFIG and PATH of a bare API server with the operators' CRDs; empty where none can be.

    It is left running: the next session finds it, and others may be using it.
    """
    if not _HARNESS.exists() or os.geteuid() != 0:
        return {}
    started = subprocess.run(
        [_HARNESS, "envtest", "up"], stdout=subprocess.PIPE, text=True, check=True
    )
    words = shlex.split(started.stdout)
    pairs = (word.split("=", 1) for word in words if "=" in word)
    return {name: value.replace("$PATH", os.environ["PATH"]) for name, value in pairs}


@cache
def versions() -> dict[str, str]:
    """What versions.env says."""
    lines = (ROOT / "versions.env").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: value.split("#")[0].strip().strip("\"'") for name, value in pairs}


def documents(text: str) -> list[dict[str, Any]]:
    """The objects of a stream of YAML documents."""
    return [document for document in yaml.load_all(text, _LOADER) if document]


# The C loader is ten times as fast, and some builds of PyYAML lack it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
