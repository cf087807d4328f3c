"""A PostgreSQL server for tests, from Debian's package: in a temporary folder, on a free port of this machine."""

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

HOW_TO_GET = "needs the binaries of PostgreSQL: apt-get install postgresql"


def find_binaries() -> Path | None:
    """Find the folder of initdb and pg_ctl, the newest version's if there are several."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


@dataclass(frozen=True)
class PostgresServer:
    """A server that can be stopped and started again.

    Attributes:
        url: The storage that it keeps.
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
        """Stop it as if the machine were restarted: nobody is waited for."""
        self._run("pg_ctl", "stop", "--wait", "-m", "fast", "-D", self.folder / "data")

    def empty(self) -> None:
        """Drop whatever is in the database."""
        from sqlalchemy import create_engine, text

        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        engine.dispose()

    def _run(self, program: str, *words: object) -> None:
        subprocess.run([find_binaries() / program, *map(str, words)], check=True, stdout=subprocess.DEVNULL, **_as_nobody())


@contextlib.contextmanager
def postgres_server(folder: Path) -> Iterator[PostgresServer]:
    """Make a database in a folder and serve it; the password holds what a URL has to escape."""
    folder.mkdir(parents=True)
    if "user" in _as_nobody():
        account = pwd.getpwnam(_as_nobody()["user"])
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
        with contextlib.suppress(subprocess.CalledProcessError):  # it is stopped already
            server.stop()


def _as_nobody() -> dict[str, str]:
    """Name the account that the server runs as: PostgreSQL refuses to be run by root."""
    return {"user": "nobody", "cwd": "/"} if os.geteuid() == 0 else {"cwd": "/"}
