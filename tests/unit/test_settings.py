"""Settings: read once, typed, and an error that names the variable."""

from pathlib import Path

import pytest

from services.core.errors import SettingsError
from services.core.settings import KafkaSettings, PostgresSettings, load


def test_a_wrong_value_is_refused_with_the_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODSTREAM_POSTGRES_PORT", "many")

    with pytest.raises(SettingsError, match="MOODSTREAM_POSTGRES_PORT"):
        load(PostgresSettings)


def test_a_secret_can_be_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "moodstream_postgres_password").write_text("from a file")
    monkeypatch.setenv("MOODSTREAM_SECRETS_DIR", str(tmp_path))

    password = load(PostgresSettings).password

    assert password is not None
    assert password.get_secret_value() == "from a file"


def test_a_secret_does_not_show_in_a_printed_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODSTREAM_KAFKA_PASSWORD", "hunter2")

    assert "hunter2" not in repr(load(KafkaSettings))
