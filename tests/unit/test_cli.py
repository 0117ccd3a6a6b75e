"""The command line without anything running."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.cli import app

COMMANDS = (
    *("demo", "train", "evaluate", "predict", "replay-dead-letters", "status", "clean"),
    *("models", "promote", "rollback", "withdraw"),
)


def _run(home: Path, *arguments: str) -> Result:
    variables = {"MOODSTREAM_LOCAL_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200"}
    return CliRunner().invoke(app, arguments, env=variables)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_how_it_is_called_and_its_json_option(
    tmp_path: Path, command: str
) -> None:
    result = _run(tmp_path, command, "--help")

    assert result.exit_code == 0
    assert f"moodstream {command}" in result.stdout
    assert "--json" in result.stdout


def test_without_a_command_the_help_names_them_all(tmp_path: Path) -> None:
    result = _run(tmp_path)

    assert [command for command in COMMANDS if command not in result.output] == []


def test_the_status_of_a_folder_where_nothing_runs_is_an_answer_and_a_failure(
    tmp_path: Path,
) -> None:
    result = _run(tmp_path / "never-used", "status", "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[-1])["running"] is False
    assert not (tmp_path / "never-used").exists()


def test_clean_removes_the_state_and_may_be_repeated(tmp_path: Path) -> None:
    home = tmp_path / "state"
    (home / "kafka").mkdir(parents=True)

    first, second = _run(home, "clean", "--json"), _run(home, "clean", "--json")

    assert json.loads(first.stdout) == {"removed": str(home)}
    assert json.loads(second.stdout) == {"removed": None}
    assert not home.exists()


def test_clean_does_not_touch_a_folder_that_is_no_state_of_ours(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    result = _run(tmp_path, "clean")

    assert result.exit_code == 1
    assert "thesis.txt" in result.stderr
    assert (tmp_path / "thesis.txt").exists()


def test_a_wrong_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODSTREAM_LOCAL_KAFKA_PORT", "many")

    result = _run(tmp_path, "status")

    assert result.exit_code == 1
    assert "MOODSTREAM_LOCAL_KAFKA_PORT" in result.stderr
