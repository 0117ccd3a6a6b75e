"""The MLflow server's container: `prepare` before a start, then `serve`.

Every file in /run/mlflow/secrets becomes the environment variable of its name, so that no password
is in a pod's specification or a command line. The database's address is libpq's: PGHOST, PGDATABASE
and so on; the URL says only which driver to use.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_SECRETS: Final = Path("/run/mlflow/secrets")
_DATABASE: Final = "postgresql+psycopg2:///"
_MIGRATION_LOCK: Final = 6_185_301_447
"""PostgreSQL's advisory lock of this number is held by who migrates."""
_PATIENCE_SECONDS: Final = 120.0
_PAUSE_SECONDS: Final = 2.0


def main() -> None:
    """Runs one of the two; further arguments are for `mlflow server`."""
    _read_environment()
    match sys.argv[1:]:
        case ["prepare"]:
            prepare(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
        case ["serve", *arguments]:
            os.environ["MLFLOW_BACKEND_STORE_URI"] = _DATABASE
            command = [sys.executable, "-m", "mlflow", "server", *arguments]
            os.execv(sys.executable, command)  # noqa: S606 - a shell would not pass signals on
        case _:
            sys.exit("usage: server.py prepare | serve [OPTION OF mlflow server]...")


def prepare(artifacts: str) -> None:
    """Makes the bucket where it is missing, and brings the database to this MLflow's schema."""
    # Both are slow to import, and a server needs neither.
    from botocore.exceptions import BotoCoreError, ClientError
    from psycopg2 import OperationalError

    bucket = urlsplit(artifacts).netloc
    _patiently(f"bucket {bucket}", lambda: _make_bucket(bucket), (BotoCoreError, ClientError))
    _patiently(f"database {os.environ.get('PGHOST', '')}", _migrate, (OperationalError,))


def _make_bucket(bucket: str) -> None:
    import boto3
    from botocore.exceptions import ClientError

    client = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as exc:
        if exc.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        region = client.meta.region_name
        # S3 refuses its own first region as a place.
        place = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        client.create_bucket(Bucket=bucket, **({} if region == "us-east-1" else place))
        _say(f"made the bucket {bucket}")


def _migrate() -> None:
    import psycopg2
    from mlflow.db import commands

    # Several pods may start at once, and MLflow's migrations do not exclude each other.
    connection = psycopg2.connect("")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
        commands.main(["upgrade", _DATABASE], standalone_mode=False)
    finally:
        connection.close()
    _say("the database has the newest schema")


def _patiently(what: str, do: Callable[[], None], temporary: tuple[type[Exception], ...]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return do()
        except temporary as exc:
            said = f"{what}: {' '.join(str(exc).split())}"
            if time.monotonic() > deadline:
                sys.exit(said)
            _say(f"{said}; trying again")
            time.sleep(_PAUSE_SECONDS)


def _read_environment() -> None:
    for path in sorted(_SECRETS.glob("[!.]*")):
        os.environ[path.name] = path.read_text().rstrip("\n")
    # A ConfigMap's empty value means "none", which boto3 would take for an address.
    for name in [name for name, value in os.environ.items() if not value]:
        del os.environ[name]


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")


if __name__ == "__main__":
    main()
