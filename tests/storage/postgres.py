"""A PostgreSQL server for tests, in a temporary folder and on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INSTALLATION_HINT = "needs the binaries of PostgreSQL: apt-get install postgresql"


def find_binaries() -> Path | None:
    """Return the folder of initdb and pg_ctl; that of the newest version if there are several."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


@dataclass(frozen=True)
class PostgresServer:
    """A server that can be stopped and restarted.

    Attributes:
        url: URL of its storage.
        folder: Folder of the database and its log.
        port: Port on 127.0.0.1.
    """

    url: str
    folder: Path
    port: int

    def start(self) -> None:
        settings = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c max_connections=200"
        )
        self._run("pg_ctl", "start", "--wait", "-D", self.folder / "data", "-l", self.folder / "log", "-o", settings)

    def stop(self) -> None:
        """Stop the server without waiting for its clients, as at a restart of the machine."""
        self._run("pg_ctl", "stop", "--wait", "-m", "fast", "-D", self.folder / "data")

    def empty(self) -> None:
        """Drop the contents of the database."""
        from sqlalchemy import create_engine, text

        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        engine.dispose()

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run([find_binaries() / program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, **_account())


@contextlib.contextmanager
def postgres_server(folder: Path) -> Iterator[PostgresServer]:
    """Create a database in a folder and serve it. The password contains characters that a URL must escape."""
    folder.mkdir(parents=True)
    if "user" in _account():
        account = pwd.getpwnam(_account()["user"])
        os.chown(folder, account.pw_uid, account.pw_gid)
        for parent in folder.parents:
            if parent.owner() == "root" and parent.stat().st_mode & 0o001 == 0:
                parent.chmod(parent.stat().st_mode | 0o011)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = PostgresServer(f"postgresql://tester:p%40ss%7Bw%7D@127.0.0.1:{port}/postgres", folder, port)
    secret = folder / "secret"
    secret.write_text("p@ss{w}\n")
    secret.chmod(0o644)
    server._run(
        "initdb", "-D", folder / "data", "-U", "tester", "-A", "scram-sha-256", "--pwfile", secret, "-E", "UTF8", "--no-sync"
    )
    server.start()
    try:
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):  # it may be stopped already
            server.stop()


def _account() -> dict[str, str]:
    """Return the account of the server and its working folder. PostgreSQL refuses to run as root."""
    return {"user": "nobody", "cwd": "/"} if os.geteuid() == 0 else {"cwd": "/"}
