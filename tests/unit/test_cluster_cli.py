"""The `moodstream cluster` commands without a cluster."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.cli import app
from tests.cluster_api import kubeconfig, program

_COMMANDS = ("up", "down", "status", "logs", "doctor")


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cluster", *arguments], env={"NO_COLOR": "1", "COLUMNS": "200"})


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kubectl's one context leads to a cluster that does not answer."""
    path = kubeconfig(tmp_path / "config", gone="http://127.0.0.1:9")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


@pytest.mark.parametrize("command", _COMMANDS)
def test_the_help_of_every_command_shows_how_it_is_called(command: str) -> None:
    result = _run(command, "--help")

    assert result.exit_code == 0
    assert f"moodstream cluster {command}" in result.stdout
    assert "--context" in result.stdout


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("command", ["status", "down", "logs"])
def test_a_cluster_that_does_not_answer_is_one_line_and_a_failure(command: str) -> None:
    result = _run(command, "--target", "current")

    assert result.exit_code == 1
    assert "http://127.0.0.1:9" in result.stderr
    assert "Fix: start that cluster, or KUBE_CONTEXT=NAME" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("nowhere")
def test_the_doctor_tells_scripts_what_is_wrong_and_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    program(folder, "kubectl", """echo '{"clientVersion": {"gitVersion": "v1.35.0"}}'""")
    program(folder, "helm", 'if [ "$1" = version ]; then echo v3.22.0; fi')
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")

    result = _run("doctor", "--target", "current", "--operators", "present", "--json")

    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert result.exit_code == 1
    assert checks["helm"]["fix"] is None
    assert checks["context"]["fix"] == "start that cluster, or KUBE_CONTEXT=NAME"


def test_a_target_that_there_is_not_is_refused_with_those_there_are() -> None:
    result = _run("up", "--target", "moon")

    assert result.exit_code == 2
    assert "kind" in result.stderr
    assert "current" in result.stderr
