"""The lake's pieces that need no database: settings, files, and counting."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from services.core.errors import SettingsError
from services.core.settings import load
from services.etl.aggregates import Aggregate, count
from services.etl.files import SCHEMA, Files, LakeError
from services.etl.settings import AwsSettings, LakeSettings

DAY = date(2026, 3, 1)
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(LakeSettings(uri=f"file://{tmp_path}"), AwsSettings())


def batch(first: int, rows: int, label: str | None = "positive", topics: int = 2) -> pa.RecordBatch:
    scored = label is not None
    return pa.RecordBatch.from_pylist(
        [
            {
                "source": "replay",
                "id": str(number),
                "text": "fine",
                "language": "en",
                "created_at": MIDNIGHT + timedelta(seconds=number),
                "author": None,
                "topics": ["rail", "strike"][:topics],
                "label": label,
                "p_negative": 0.25 if scored else None,
                "p_neutral": 0.0 if scored else None,
                "p_positive": 0.75 if scored else None,
                "score": 0.5 if scored else None,
                "model_name": "sentiment" if scored else None,
                "model_version": "1" if scored else None,
                "stored_at": MIDNIGHT,
            }
            for number in range(first, first + rows)
        ],
        schema=SCHEMA,
    )


def ids(files: Files) -> list[str]:
    return [id_ for each in files.read(DAY) for id_ in each.column("id").to_pylist()]


def test_a_day_is_replaced_whole(files: Files) -> None:
    files.write(DAY, 1, iter([batch(0, 3)]))
    size = files.write(DAY, 2, iter([batch(3, 2), batch(5, 1)]))

    assert ids(files) == ["3", "4", "5"]
    assert files.revision(DAY) == 2
    assert files.days() == {DAY: size}


def test_a_writer_that_fails_leaves_the_day_as_it_was(files: Files, tmp_path: Path) -> None:
    files.write(DAY, 1, iter([batch(0, 3)]))

    def broken() -> Iterator[pa.RecordBatch]:
        yield batch(3, 3)
        raise RuntimeError("the database is gone")

    with pytest.raises(RuntimeError, match="gone"):
        files.write(DAY, 2, broken())
    left = list((tmp_path / "_staging").iterdir())
    files.sweep()

    assert ids(files) == ["0", "1", "2"]
    assert len(left) == 1
    assert list((tmp_path / "_staging").iterdir()) == []


def test_what_lies_well_before_is_passed_over(files: Files) -> None:
    files.write(DAY, 1, iter([batch(0, 10), batch(10, 10), batch(20, 10)]))

    read = [
        row
        for each in files.read(DAY, ("id",), since=MIDNIGHT + timedelta(seconds=15))
        for row in each.column("id").to_pylist()
    ]

    assert read == [str(number) for number in range(10, 30)]


def test_a_damaged_file_is_named_as_such(files: Files, tmp_path: Path) -> None:
    files.write(DAY, 1, iter([batch(0, 3)]))
    (path,) = tmp_path.rglob("part-0.parquet")
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(LakeError, match="damaged, restore it"):
        ids(files)


def test_a_post_counts_once_for_all_and_once_for_each_topic(files: Files) -> None:
    files.write(
        DAY, 1, iter([batch(0, 3), batch(3, 2, "negative", topics=1), batch(5, 1, None, topics=0)])
    )

    counted = count(files, DAY)

    assert counted == {
        "*": Aggregate(6, 2, 0, 3, 1, 0.5),
        "rail": Aggregate(5, 2, 0, 3, 0, 0.5),
        "strike": Aggregate(3, 0, 0, 3, 0, 0.5),
    }


def test_a_topic_without_a_scored_post_has_no_average(files: Files) -> None:
    files.write(DAY, 1, iter([batch(0, 1, None, topics=1)]))

    assert count(files, DAY)["rail"] == Aggregate(1, 0, 0, 0, 1, None)


def test_aggregates_agree_within_rounding_and_only_then() -> None:
    one = Aggregate(3, 1, 1, 1, 0, 0.5)

    assert one.agrees(Aggregate(3, 1, 1, 1, 0, 0.500001))
    assert not one.agrees(Aggregate(3, 1, 1, 1, 0, 0.5001))
    assert not one.agrees(Aggregate(4, 1, 1, 1, 1, 0.5))
    assert not one.agrees(Aggregate(3, 1, 1, 1, 0, None))
    assert not one.agrees(None)


@pytest.mark.parametrize("uri", ["", "/tmp/lake", "file://relative", "gs://bucket", "s3://"])  # noqa: S108
def test_an_address_that_is_none_is_refused_by_its_variable(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOODSTREAM_LAKE_URI", uri)

    with pytest.raises(SettingsError, match="MOODSTREAM_LAKE_URI"):
        load(LakeSettings)


def test_without_an_address_there_is_no_lake_to_write() -> None:
    with pytest.raises(SettingsError, match="MOODSTREAM_LAKE_URI is not set"):
        Files(LakeSettings(), AwsSettings())


def test_keys_of_the_store_may_be_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aws_access_key_id").write_text("key")
    (tmp_path / "aws_secret_access_key").write_text("secret")
    monkeypatch.setenv("MOODSTREAM_SECRETS_DIR", str(tmp_path))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)

    settings = load(AwsSettings)

    assert settings.access_key_id == "key"
    assert settings.secret_access_key is not None
    assert settings.secret_access_key.get_secret_value() == "secret"
