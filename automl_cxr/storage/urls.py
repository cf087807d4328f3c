"""Opens Optuna storages by URL.

sqlite:///studies.db                     a file on a local disk; the default
journal:///studies.log                   an append-only file, for a folder that several machines share
postgresql://user:password@host/name     a database server, for many searches at once
grpc://host:13000                        a proxy, `automl-cxr storage serve`, for searches that cannot reach the database

A path after three slashes is relative to the working directory; after four slashes it is absolute. As in every URL of a
database, the characters ? and % of a path or password are written %3F and %25, and @ and / of a password %40 and %2F.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import optuna
from filelock import FileLock
from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from automl_cxr.errors import StudyError, UsageError
from automl_cxr.storage.journal import JournalFile, JournalFileStorage
from automl_cxr.storage.passwords import without_password, without_password_of

_FILE_URL = re.compile(r"(sqlite|journal)(?:\+\w+)?:///")
_SQLITE_PARAMETERS = ("timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements")  # of SQLAlchemy
DEFAULT_FILE = "studies.db"
"""Name of the default storage in the runs folder."""
_DRIVER_REMEDIES = {
    "postgresql": "Install automl-cxr[postgres], and write the URL as postgresql://...",
    "mysql": "Install its package, such as mysqlclient for mysql:// or pymysql for mysql+pymysql://.",
    "grpc": "Install automl-cxr[grpc].",
}
_BUSY_SECONDS = 60.0  # to wait for another writer of a file
_CONNECT_SECONDS = 10  # to wait for a server


def default_storage(runs: Path) -> str:
    """Return the URL of the default storage: an SQLite file in the runs folder.

    Raises:
        UsageError: The path of the folder is not valid UTF-8.
    """
    try:
        return URL.create("sqlite", database=str(runs / DEFAULT_FILE)).render_as_string()  # encodes special characters
    except UnicodeEncodeError as error:
        raise UsageError(f"The path of the runs folder must be valid UTF-8; received {runs}. Choose another --runs.") from error


def absolute_storage(url: str) -> str:
    """Make the path in the URL of a file absolute, for a process with another working directory.

    Raises:
        UsageError: As for ``storage_file``.
    """
    file = storage_file(url)
    if file is None:
        return url
    return make_url(url).set(database=str(file.expanduser().absolute())).render_as_string(hide_password=False)


def storage_file(url: str) -> Path | None:
    """Return the file of an SQLite or journal storage; None for a server or an invalid URL.

    Raises:
        UsageError: The URL has parameters that the storage does not have, such as the end of a path that contains a "?".
    """
    match = _FILE_URL.match(url)
    if match is None:
        return None
    parameters = [pair.partition("=") for pair in url.partition("?")[2].split("&") if pair]
    unknown = [name for name, equals, _ in parameters if not equals or match[1] != "sqlite" or name not in _SQLITE_PARAMETERS]
    if unknown:
        raise UsageError(
            f"The URL of a file has no parameter '{unknown[0]}'; received {without_password(url)}. Write a ? of a path as %3F "
            "and a % as %25."
        )
    database = make_url(url).database
    return Path(database) if database else None


def is_missing(url: str) -> bool:
    """Return whether a storage is a file that does not exist."""
    file = storage_file(url)
    return file is not None and not file.exists()


def open_storage(url: str, *, busy_seconds: float = _BUSY_SECONDS) -> optuna.storages.BaseStorage:
    """Connect to a storage. An SQLite or journal file is created if it does not exist.

    Args:
        url: One of the forms above, or a MySQL database (mysql://...).
        busy_seconds: Seconds to wait for another writer of an SQLite or journal file.

    Raises:
        UsageError: The URL has an unknown scheme or is incomplete.
        StudyError: The storage cannot be reached, or its driver is not installed.
    """
    kind = url.partition("://")[0].partition("+")[0]
    if "://" not in url or kind not in _OPENERS:
        raise UsageError(
            "A storage is sqlite:///FILE, journal:///FILE, postgresql://USER:PASSWORD@HOST/NAME, mysql://... or "
            f"grpc://HOST:PORT; received {without_password(url)}."
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        return _OPENERS[kind](url, busy_seconds)
    except UsageError:
        raise
    except ImportError as error:
        remedy = _DRIVER_REMEDIES.get(kind, "Install the module that the message names.")
        raise StudyError(f"The driver of {kind} storages is not installed ({_reason(error, url)}). {remedy}") from error
    except (SQLAlchemyError, ValueError, KeyError, AssertionError, OSError, RuntimeError) as error:
        raise StudyError(
            f"The storage {without_password(url)} cannot be opened ({_reason(error, url)}). Check --storage."
        ) from error


def open_existing_storage(url: str) -> optuna.storages.BaseStorage:
    """Connect to a storage that exists.

    Raises:
        UsageError: The URL has an unknown scheme or is incomplete.
        StudyError: The storage does not exist or cannot be reached.
    """
    if is_missing(url):
        raise StudyError(
            f"The storage {without_password(url)} does not exist. Run a search first, or check --storage and --runs."
        )
    return open_storage(url)


def serve_storage(url: str, *, host: str, port: int, insecure: bool = False, on_ready: Callable[[], None]) -> None:
    """Serve a database to other machines through Optuna's gRPC proxy, until the process is interrupted.

    Args:
        url: URL of the storage, which must be a database.
        host: Address to listen on. The proxy has no login: everyone who can reach the address can read, change and delete
            all studies.
        port: Port to listen on.
        insecure: Accept an address that other machines can reach.
        on_ready: Called just before the first request can be answered.

    Raises:
        UsageError: The storage is a journal or a proxy, the address is not available, or other machines can reach it and
            ``insecure`` is not set.
        StudyError: The storage cannot be reached, or gRPC is not installed.
    """
    if url.startswith(("journal:", "grpc:")):
        raise UsageError(
            f"A proxy serves a database, such as sqlite:///FILE or postgresql://...; received {without_password(url)}."
        )
    if not (insecure or is_loopback(host)):
        raise UsageError(
            f"The proxy has no login: at {host}:{port} everyone who can reach this machine can read, change and delete all "
            f"studies. Connect the other machines through SSH (ssh -N -L {port}:localhost:{port} HOST) without --host, or add "
            "--insecure on a network that you trust."
        )
    storage = open_storage(url)
    try:
        with socket.socket() as probe:  # gRPC would share a port with another server
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise UsageError(f"The proxy cannot listen on {host}:{port} ({error}). Choose another --port or --host.") from error
    on_ready()
    try:
        with contextlib.suppress(KeyboardInterrupt), _experimental():  # Ctrl-C ends the server
            optuna.storages.run_grpc_proxy_server(storage, host=host, port=port)
    except ImportError as error:
        raise StudyError(f"gRPC is not installed ({_reason(error, url)}). Install automl-cxr[grpc].") from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


@contextlib.contextmanager
def explained_storage_errors() -> Iterator[None]:
    """Convert the errors of a storage that fails during use into a StudyError."""
    try:
        yield
    except Exception as error:
        if not is_storage_error(error):
            raise
        raise failed_storage(error) from error


def is_storage_error(error: BaseException) -> bool:
    """Return whether an error is that of a storage that fails during use."""
    return isinstance(error, (optuna.exceptions.StorageInternalError, SQLAlchemyError))


def is_read_only(error: BaseException | None) -> bool:
    """Return whether a write failed because the storage is read-only."""
    if isinstance(error, optuna.exceptions.StorageInternalError):
        return is_read_only(error.__cause__)
    cause = getattr(error, "orig", None) or error
    is_denied = isinstance(cause, OSError) and cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return is_denied or str(getattr(cause, "sqlite_errorname", "")).startswith("SQLITE_READONLY")


def failed_storage(error: BaseException) -> StudyError:
    """Return the error for a storage that failed during use."""
    return StudyError(
        f"The storage failed ({reason_of(error)}). Finished trials are kept; the same command continues the study."
    )


def reason_of(error: BaseException) -> str:
    """Return the first line of a storage's error message, without passwords."""
    cause = error.__cause__ or error
    details = getattr(cause, "details", None)  # of gRPC, whose str() has many lines
    text = str(details() if callable(details) else getattr(cause, "orig", None) or cause).strip()
    return without_password(text.splitlines()[0] if text else type(cause).__name__)


# ------------------------------------------------------------------------------------------------------ kinds of storages


def _create_parent(url: str) -> Path:
    file = storage_file(url)
    if file is None:
        raise UsageError(
            "A storage in a file is written like sqlite:///studies.db or journal:///studies.log; received "
            f"{without_password(url)}."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _open_sqlite(url: str, busy_seconds: float) -> optuna.storages.BaseStorage:
    """Open an SQLite file in its default rollback-journal mode; WAL mode needs memory shared between all processes."""
    file = _create_parent(url)
    # If two processes create the tables at the same time, they fail. In a read-only folder nothing is created.
    is_writable = os.access(file.parent, os.W_OK)
    with FileLock(file.with_name(f".{file.name}.lock")) if is_writable else contextlib.nullcontext():
        return _database(url, {"connect_args": {"timeout": busy_seconds}})


def _explain_read_only_folder(context: ExceptionContext) -> None:
    """Replace the error of SQLite for a folder in which it cannot create its journal: "unable to open database file"."""
    file = context.engine.url.database if context.engine is not None else None
    is_unopened = str(getattr(context.original_exception, "sqlite_errorname", "")).startswith("SQLITE_CANTOPEN")
    if is_unopened and file and not os.access(Path(file).parent, os.W_OK):
        raise DBAPIError(context.statement, None, OSError(errno.EROFS, os.strerror(errno.EROFS), file))


def _open_journal(url: str, busy_seconds: float) -> optuna.storages.BaseStorage:
    file = _create_parent(url)
    try:
        return JournalFileStorage(JournalFile(file, busy_seconds=busy_seconds))
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"it is not a journal of Optuna: {error}") from error


def _open_server(url: str, _busy_seconds: float) -> optuna.storages.BaseStorage:
    try:
        make_url(url)
    except (SQLAlchemyError, ValueError) as error:  # its message may contain a part of the password
        raise UsageError(
            f"The storage {without_password(url)} is not a valid database URL. Write special characters of a password as %40."
        ) from error
    settings: dict[str, object] = {"pool_pre_ping": True}  # the server may have been restarted since the last query
    if url.startswith(("postgresql://", "postgresql+psycopg")) and "connect_timeout" not in url:
        settings["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}
    try:
        return _database(url, settings)
    except (IntegrityError, ProgrammingError):
        return _database(url, settings)  # another process created the tables at the same time


def _database(url: str, settings: dict[str, object]) -> optuna.storages.BaseStorage:
    literal = url.replace("{", "{{").replace("}", "}}")  # Optuna formats the URL as a template
    storage = optuna.storages.RDBStorage(literal, engine_kwargs=settings)
    event.listen(storage.engine, "handle_error", _explain_read_only_folder)
    return optuna.storages.get_storage(storage)


def _open_grpc(url: str, _busy_seconds: float) -> optuna.storages.BaseStorage:
    match = re.fullmatch(r"grpc://([^/:]+|\[[^]]+\]):(\d+)/?", url)
    if match is None:
        raise UsageError(f"A gRPC storage is written like grpc://127.0.0.1:13000; received {without_password(url)}.")
    with _experimental():
        proxy = optuna.storages.GrpcStorageProxy(host=match[1], port=int(match[2]))
    try:
        proxy.wait_server_ready(timeout=_CONNECT_SECONDS)
    except ConnectionError as error:
        proxy.close()
        raise ConnectionError(f"no server responds within {_CONNECT_SECONDS} seconds") from error
    return proxy


_OPENERS: Mapping[str, Callable[[str, float], optuna.storages.BaseStorage]] = {
    "sqlite": _open_sqlite,
    "journal": _open_journal,
    "postgresql": _open_server,
    "mysql": _open_server,
    "grpc": _open_grpc,
}


@contextlib.contextmanager
def _experimental() -> Iterator[None]:
    """Suppress the warnings of Optuna about experimental features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _reason(error: BaseException, url: str) -> str:
    """Return the first line of an error message, without the password; a driver may repeat the URL in another form."""
    cause = error.__cause__ if isinstance(error, ImportError) and error.__cause__ else error
    text = str(getattr(cause, "orig", None) or cause).strip()
    line = text.splitlines()[0] if text else type(cause).__name__
    # The message of a failed import contains the name of a module, in which a short password may occur.
    return line if isinstance(error, ImportError) else without_password_of(url, line)
