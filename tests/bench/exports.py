"""How much memory and time an export of many posts takes: `python -m tests.bench.exports`.

A dashboard of its own for each format, so that each has its own peak; the client counts the bytes.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.core import warehouse
from services.core.postgres import connect, transaction
from services.core.settings import PostgresSettings
from services.dashboard.exports import MOST_XLSX_ROWS, Format
from services.local.postgres import Postgres
from tests.ports import free_port
from tests.waiting import status, wait_until

_FILL = """
INSERT INTO posts (source, id, text, language, created_at, topics, label, p_negative, p_neutral,
                   p_positive, model_name, model_version, kafka_partition, kafka_offset)
SELECT 'replay', (1000000000000000000 + n)::text,
       repeat(md5(n::text) || ' ', 1 + n %% 6), 'en',
       '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 second', '{trains,tea}',
       (ARRAY['negative', 'neutral', 'positive'])[n %% 3 + 1]::sentiment, 0.1, 0.2, 0.7,
       'sentiment', '1', 0, n
FROM generate_series(1, %s) AS n
"""
"""Texts of 33 to 198 characters, 115 on average."""


def fill(postgres: PostgresSettings, posts: int) -> None:
    """So many posts in an empty warehouse."""
    connection = connect(postgres, "bench")
    with transaction(connection, 600) as cursor:
        cursor.execute(_FILL, (posts,))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE posts")
    connection.close()


@contextmanager
def dashboard(postgres: PostgresSettings, environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Address and process of a dashboard over this warehouse."""
    port = free_port()
    password = postgres.password
    process = subprocess.Popen(
        [sys.executable, "-m", "services.dashboard"],
        env=environment
        | {
            "MOODSTREAM_POSTGRES_HOST": postgres.host,
            "MOODSTREAM_POSTGRES_PORT": str(postgres.port),
            "MOODSTREAM_POSTGRES_DATABASE": postgres.database,
            "MOODSTREAM_POSTGRES_USER": postgres.user,
            "MOODSTREAM_POSTGRES_PASSWORD": password.get_secret_value() if password else "",
            "MOODSTREAM_SERVICE_BIND": "127.0.0.1",
            "MOODSTREAM_SERVICE_PORT": str(port),
        },
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: status(f"{url}/livez") == 200, 60, "the dashboard")
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(30)


def peak_megabytes(process: int) -> float:
    """The most memory that a process ever had (RSS)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def measure(postgres: PostgresSettings, form: Format, folder: Path) -> dict[str, Any]:
    """One export of every post."""
    with dashboard(postgres, {"TMPDIR": str(folder)}) as (url, process):
        before = peak_megabytes(process)
        started, first, size = time.perf_counter(), None, 0
        with urllib.request.urlopen(f"{url}/api/export?what=posts&format={form}") as answer:
            while piece := answer.read(65_536):
                first = first or time.perf_counter() - started
                size += len(piece)
        return {
            "peak_megabytes": round(peak_megabytes(process)),
            "idle_megabytes": round(before),
            "seconds": round(time.perf_counter() - started, 1),
            "first_byte_seconds": round(first or 0, 2),
            "file_megabytes": round(size / 1e6),
        }


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", type=int, default=1_000_000)
    parser.add_argument("--formats", default=",".join(Format))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        server = Postgres(Path(home), free_port())
        server.start()
        try:
            warehouse.upgrade(server.settings)
            fill(server.settings, options.posts)
            found = {
                form: measure(server.settings, Format(form), Path(home))
                for form in options.formats.split(",")
                if form != Format.XLSX or options.posts < MOST_XLSX_ROWS
            }
        finally:
            server.process.stop()
    sys.stdout.write(f"{json.dumps({'posts': options.posts, 'exports': found}, indent=2)}\n")


if __name__ == "__main__":
    main()
