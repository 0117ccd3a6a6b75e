"""The command line's side of promotion, against a real MLflow; the promoter is a few tags here."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from services.cli import app
from services.local import models
from services.local.models import Models, Version
from tests.ports import free_port


class MLflow:
    """The session's MLflow with a registered model of the test's own."""

    def __init__(self, url: str, name: str = "unused") -> None:
        self.url, self.name = url, name

    def ask(self, method: str, path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def version(self) -> str:
        """A new version."""
        made = self.ask("POST", "model-versions/create", name=self.name, source="s3://a/b")
        return str(made["model_version"]["version"])

    def alias(self, alias: str, version: str) -> None:
        """As MLflow's page does."""
        where = {"name": self.name, "alias": alias, "version": version}
        self.ask("POST", "registered-models/alias", **where)

    def tag(self, version: str, **tags: str) -> None:
        """As the promoter does."""
        for key, value in tags.items():
            dotted = "moodstream.rollout" + (f".{key}" if key != "state" else "")
            self.ask(
                "POST",
                "model-versions/set-tag",
                name=self.name,
                version=version,
                key=dotted,
                value=value,
            )


@pytest.fixture
def mlflow(mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MLflow]:
    """Without any version."""
    name = f"sentiment-{uuid4().hex[:8]}"
    monkeypatch.setattr(models, "MODEL_NAME", name)
    made = MLflow(mlflow_url, name)
    made.ask("POST", "registered-models/create", name=name)
    yield made
    made.ask("DELETE", "registered-models/delete", name=name)


def _run(mlflow: MLflow, *arguments: str) -> Result:
    variables = {
        "MOODSTREAM_MLFLOW_URL": mlflow.url,
        "MOODSTREAM_LOCAL_HOME": "/nowhere",
        "COLUMNS": "200",
    }
    return CliRunner().invoke(app, arguments, env=variables)


def test_versions_are_listed_newest_first_with_what_became_of_them(mlflow: MLflow) -> None:
    first, second = mlflow.version(), mlflow.version()
    mlflow.tag(first, role="champion", reason="it is [good]", at="2026-03-01T12:00:00+00:00")
    mlflow.tag(first, state="serving")
    mlflow.alias("champion", first)

    listed = Models(mlflow.url).versions()
    table = _run(mlflow, "models").stdout
    said = json.loads(_run(mlflow, "models", "--json").stdout)

    assert listed == [
        Version(second),
        Version(
            first,
            ("champion",),
            "serving",
            "champion",
            "it is [good]",
            "2026-03-01T12:00:00+00:00",
        ),
    ]
    assert "serving as champion" in table
    assert "it is [good]" in table
    assert [each["version"] for each in said["models"]] == [second, first]


def test_a_refused_version_is_promoted_anew_with_its_state_forgotten(mlflow: MLflow) -> None:
    version = mlflow.version()
    mlflow.tag(version, state="refused", role="champion", reason="quality")

    done = _run(mlflow, "promote", version, "--no-wait", "--json")

    (found,) = Models(mlflow.url).versions()
    assert json.loads(done.stdout) == {
        "version": version,
        "alias": "champion",
        "state": None,
        "reason": None,
    }
    assert (found.aliases, found.state) == (("champion",), None)


def test_promoting_follows_what_the_promoter_says_to_its_end(mlflow: MLflow) -> None:
    version = mlflow.version()
    said: list[str] = []

    def promoter(line: str) -> None:
        said.append(line)
        mlflow.tag(version, reason="it does not answer", state="rolled back")

    mlflow.alias("champion", version)
    mlflow.tag(version, role="champion", reason="version 2 replaces version 1", state="rolling out")
    before = Version(version)
    outcome = models._follow(
        Models(mlflow.url), before, lambda seen: models.outcome(seen, before, "champion"), promoter
    )

    assert said == ["rolling out: version 2 replaces version 1"]
    assert (outcome.state, outcome.reason) == ("rolled back", "it does not answer")
    assert not outcome.good


def test_rollback_gives_the_alias_to_the_version_before(mlflow: MLflow) -> None:
    first, second = mlflow.version(), mlflow.version()
    mlflow.tag(first, state="replaced", role="champion", at="2026-03-01T12:00:00+00:00")
    mlflow.alias("champion", second)

    done = _run(mlflow, "rollback", "--no-wait", "--json")

    assert json.loads(done.stdout)["version"] == first
    assert [each.aliases for each in Models(mlflow.url).versions()] == [(), ("champion",)]


def test_withdrawing_takes_the_alias_challenger_away(mlflow: MLflow) -> None:
    version = mlflow.version()
    _run(mlflow, "promote", version, "--alias", "challenger", "--no-wait")

    done, again = _run(mlflow, "withdraw", "--json"), _run(mlflow, "withdraw", "--json")

    assert done.exit_code == 0, done.output
    assert [each.aliases for each in Models(mlflow.url).versions()] == [()]
    assert again.exit_code == 1
    assert "no version is the challenger" in again.stderr


def test_what_cannot_be_promoted_is_said(mlflow: MLflow) -> None:
    version = mlflow.version()
    _run(mlflow, "promote", version, "--no-wait")

    unknown = _run(mlflow, "promote", "99")
    own = _run(mlflow, "promote", version, "--alias", "challenger")
    away = _run(MLflow(f"http://127.0.0.1:{free_port()}"), "models")

    assert (unknown.exit_code, own.exit_code, away.exit_code) == (1, 1, 1)
    assert f"no '99' of {mlflow.name!r}; there are {version}" in unknown.stderr
    assert "it cannot be its own challenger" in own.stderr
    assert "MOODSTREAM_MLFLOW_URL" in away.stderr
