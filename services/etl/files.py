"""The lake's files: one Parquet file a day, in a folder or an object store. The one module that
knows where they are.

A day is one file because only a single object is replaced at once everywhere: a reader finds the
old day or the new one. It is written beside the days, checked, and only then put in its place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import Final
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from services.core.errors import MoodstreamError, SettingsError, TemporaryError
from services.etl.settings import AwsSettings, LakeSettings

SCHEMA: Final = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("created_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("author", pa.string()),
        pa.field("topics", pa.list_(pa.string()), nullable=False),
        pa.field("label", pa.string()),
        pa.field("p_negative", pa.float32()),
        pa.field("p_neutral", pa.float32()),
        pa.field("p_positive", pa.float32()),
        pa.field("score", pa.float32()),
        pa.field("model_name", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("stored_at", pa.timestamp("us", "UTC"), nullable=False),
    ]
)
"""A post and its prediction; no prediction: null. A file is sorted by created_at, source, id."""
COLUMNS: Final = tuple(SCHEMA.names)

_DAYS: Final = "posts"
_STAGING: Final = "_staging"
"""Beside the days; readers of a data set pass over names that begin so."""
_FILE: Final = "part-0.parquet"
_BATCH_ROWS: Final = 10_000
_REVISION: Final = b"moodstream.revision"


class LakeError(MoodstreamError):
    """The lake is not as the warehouse remembers it; the message says what to do."""


class Files:
    """The files of one lake. Its methods raise TemporaryError when the store is away or refuses."""

    def __init__(self, settings: LakeSettings, aws: AwsSettings) -> None:
        if settings.uri is None:
            raise SettingsError("MOODSTREAM_LAKE_URI is not set: say where the lake is")
        self.uri: Final = settings.uri
        scheme, _, path = settings.uri.partition("://")
        self._root = path.rstrip("/")
        self._fs: fs.FileSystem
        if scheme == "file":
            self._fs = fs.LocalFileSystem()
            return
        endpoint_scheme, _, endpoint = (settings.s3_endpoint or "").rstrip("/").partition("://")
        secret = aws.secret_access_key
        self._fs = fs.S3FileSystem(
            access_key=aws.access_key_id,
            secret_key=secret.get_secret_value() if secret else None,
            region=aws.default_region,
            scheme=endpoint_scheme or "https",
            endpoint_override=endpoint or None,
        )

    def days(self) -> dict[date, int]:
        """The size in bytes of each day's file."""
        selector = fs.FileSelector(f"{self._root}/{_DAYS}", allow_not_found=True, recursive=True)
        with _outages():
            found = self._fs.get_file_info(selector)
        return {
            date.fromisoformat(info.path.split("/")[-2].removeprefix("day=")): info.size
            for info in found
            if info.type == fs.FileType.File and info.base_name == _FILE
        }

    def revision(self, day: date) -> int:
        """The revision that a day's file says it is."""
        with _outages(), self._fs.open_input_file(self._path(day)) as file:
            metadata = pq.read_metadata(file).metadata or {}
        return int(metadata.get(_REVISION, 0))

    def read(
        self, day: date, columns: tuple[str, ...] = COLUMNS, since: datetime | None = None
    ) -> Iterator[pa.RecordBatch]:
        """A day's rows, batch by batch, in the file's order; what lies well before `since` is
        passed over.
        """
        with _outages(), self._fs.open_input_file(self._path(day)) as file:
            parquet = pq.ParquetFile(file)
            groups = [
                group
                for group in range(parquet.num_row_groups)
                if since is None or _last_of(parquet, group) >= since
            ]
            yield from parquet.iter_batches(_BATCH_ROWS, groups, list(columns))

    def write(self, day: date, revision: int, batches: Iterator[pa.RecordBatch]) -> int:
        """Replaces a day's file by these rows, at once; gives its size in bytes."""
        staged = f"{self._root}/{_STAGING}/{uuid4().hex}.parquet"
        schema = SCHEMA.with_metadata({_REVISION: str(revision).encode()})
        rows = 0
        with _outages():
            self._fs.create_dir(f"{self._root}/{_STAGING}")
            with pq.ParquetWriter(
                staged, schema, filesystem=self._fs, compression="zstd"
            ) as writer:
                for batch in batches:
                    writer.write_batch(batch)
                    rows += batch.num_rows
            with self._fs.open_input_file(staged) as file:
                size, written = file.size(), pq.read_metadata(file).num_rows
            if written != rows:
                raise LakeError(f"{staged} holds {written} rows of {rows}; run this again")
            self._fs.create_dir(f"{self._root}/{_DAYS}/day={day}")
            self._fs.move(staged, self._path(day))
        return int(size)

    def remove(self, day: date) -> None:
        """Removes a day of which nothing is left."""
        with _outages():
            self._fs.delete_file(self._path(day))

    def sweep(self) -> None:
        """Removes what writers that were cut off have left. Only the holder of the lake's lock may
        call it.
        """
        with _outages():
            self._fs.create_dir(f"{self._root}/{_STAGING}")
            self._fs.delete_dir_contents(f"{self._root}/{_STAGING}")

    def _path(self, day: date) -> str:
        return f"{self._root}/{_DAYS}/day={day}/{_FILE}"


def _last_of(parquet: pq.ParquetFile, group: int) -> datetime:
    """The newest created_at in a row group."""
    column = parquet.metadata.row_group(group).column(COLUMNS.index("created_at"))
    newest: datetime = column.statistics.max
    return newest


@contextmanager
def _outages() -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as exc:
        raise LakeError(f"a file of the lake is damaged, restore it: {exc}") from exc
    except OSError as exc:
        raise TemporaryError(f"the lake's store: {exc}") from exc
