"""The contract of all storages: the same search gives the same record, and errors are one line."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from automl_cxr.api import locate
from automl_cxr.errors import StudyError, UsageError
from automl_cxr.records import TrialState
from automl_cxr.storage.urls import (
    absolute_storage,
    is_missing,
    open_existing_storage,
    open_storage,
    serve_storage,
)
from automl_cxr.study.store import StudyStore

KINDS = ["sqlite", "journal", "grpc", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(params=KINDS)
def url(request, tmp_path):
    """Return the URL of an empty storage of each kind."""
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path / 'other folder' / 'studies.db'}"
        case "journal":
            return f"journal:///{tmp_path / 'other folder' / 'studies.log'}"
        case "grpc":
            return request.getfixturevalue("proxy").url
        case _:
            server = request.getfixturevalue("postgres")
            server.empty()
            return server.url


def search_with_interruption(prepared, quick_search):
    """Search with a failing trial, an interrupted and resumed trial, and early stopping."""

    def interrupt_or_fail(proposal, epoch):
        if proposal.number == 1:
            raise ValueError("no such luck")
        if proposal.number == 4 and epoch == 2 and not (prepared.store.folder / "interrupted").exists():
            (prepared.store.folder / "interrupted").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick_search(prepared, trials=12, between_epochs=interrupt_or_fail)
    listener = quick_search(prepared, trials=12, between_epochs=interrupt_or_fail)
    assert listener.resumed == [4]
    assert listener.storage_errors == []


@pytest.mark.long
def test_the_same_search_gives_the_same_record_in_every_storage(prepare, quick_search, url, tmp_path):
    reference = prepare(name="reference", pruner="asha", epochs=3)
    search_with_interruption(reference, quick_search)
    prepared = prepare(storage=url, pruner="asha", epochs=3)
    search_with_interruption(prepared, quick_search)
    store = StudyStore.open("s", runs=tmp_path, storage=url)
    assert store.records() == reference.store.records()
    assert store.records() == prepared.store.records()
    assert {record.state for record in store.records()} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED}
    assert [record.number for record in store.ranked()] == [record.number for record in reference.store.ranked()]
    reference_trials, trials = (s.study.get_trials() for s in (reference.store, store))
    for trial, other in zip(reference_trials, trials, strict=True):
        assert {**trial.user_attrs, "driver": ""} == {**other.user_attrs, "driver": ""}
        assert trial.system_attrs == other.system_attrs
        assert trial.distributions == other.distributions
    assert StudyStore.find("t", runs=tmp_path, storage=url) is None
    with pytest.raises(StudyError, match="Its studies: s"):
        StudyStore.open("t", runs=tmp_path, storage=url)


@pytest.mark.slow
def test_the_dashboard_reads_every_storage(prepare, url):
    from optuna_dashboard import wsgi

    prepare(storage=url)
    statuses = []
    request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies", "SERVER_NAME": "x", "SERVER_PORT": "1"}
    request |= {"QUERY_STRING": "", "wsgi.url_scheme": "http", "wsgi.errors": sys.stderr}
    response = b"".join(wsgi(open_existing_storage(url))(request, lambda status, *_: statuses.append(status)))
    assert statuses == ["200 OK"]
    assert [study["study_name"] for study in json.loads(response)["study_summaries"]] == ["s"]


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_paths_are_made_absolute_and_a_missing_file_is_a_missing_storage(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate(storage=f"{kind}:///here/x")[1] == f"{kind}:///{tmp_path}/here/x"
    assert absolute_storage(f"{kind}:///~/x") == f"{kind}:///{tmp_path}/x"
    assert absolute_storage(f"{kind}:////x") == f"{kind}:////x"
    assert is_missing(f"{kind}:///here/x")
    with pytest.raises(StudyError, match="Run a search first"):
        open_existing_storage(f"{kind}:///here/x")
    open_storage(f"{kind}:///here/x{{1}}")  # Optuna interprets braces as a template
    assert (tmp_path / "here" / "x{1}").is_file()


@pytest.mark.parametrize("name", ["a?b", "50%41", "a#b", "a b", "c:d@e", "a&b=c", "{x}", "ü", "~", "%"])
def test_a_runs_folder_may_have_any_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for runs in (Path(name), tmp_path / name):
        folder, url = locate(runs=os.path.join(".", runs))
        assert absolute_storage(url) == url
        assert is_missing(url) is not (folder / "studies.db").exists()
        open_storage(url)
        assert (folder / "studies.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == [".studies.db.lock", "studies.db"]


def test_a_runs_folder_that_no_url_can_contain_is_refused(tmp_path):
    with pytest.raises(UsageError, match="valid UTF-8"):
        locate(runs=tmp_path / os.fsdecode(b"\xff"))


@pytest.mark.parametrize(
    "url", ["sqlite:///a?b/studies.db", "sqlite:///a?b=c/studies.db", "journal:///a?timeout=3", "sqlite:///a?timeout"]
)
def test_a_question_mark_in_a_typed_path_is_not_ignored(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (absolute_storage, is_missing, open_storage, open_existing_storage):
        with pytest.raises(UsageError, match="as %3F"):
            use(url)
    assert list(tmp_path.iterdir()) == []
    open_storage("sqlite:///a%3Fb?timeout=3")
    assert (tmp_path / "a?b").is_file()


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("sqlit:///x", UsageError, "journal:///FILE"),
        ("studies.db", UsageError, "sqlite:///FILE"),
        ("redis://me:secret@host", UsageError, r"received redis://me:\*\*\*@host"),
        ("sqlite://", UsageError, "written like sqlite:///studies.db"),
        ("journal://studies.log", UsageError, "written like sqlite:///studies.db"),
        ("grpc://host", UsageError, r"written like grpc://127.0.0.1:13000"),
        (
            "mysql+nosuch://me:a secret@host/x?sslpassword=secret too",
            StudyError,
            r"me:\*\*\*@host/x\?sslpassword=\*\*\* cannot",
        ),
        ("postgresql://me:secret@or:more@[x", UsageError, "special characters of a password as %40"),
        ("postgresql://me:secret@127.0.0.1:1/x", StudyError, r"postgresql://me:\*\*\*@127.0.0.1:1/x .*refused"),
        ("postgresql+psycopg2://me:secret@host/x", StudyError, r"automl-cxr\[postgres\]"),
        ("postgresql+psycopg2://me:p@host/x", StudyError, r"\(No module named 'psycopg2'\)\. Install"),
        ("mysql+nosuch://me:secret@host/x", StudyError, "cannot be opened"),
    ],
)
def test_errors_are_one_line_without_the_password(url, error, message):
    with pytest.raises(error, match=message) as raised:
        open_storage(url)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_are_not_storages_are_rejected(tmp_path):
    (tmp_path / "x").write_text('{"a": 1}\n')
    with pytest.raises(StudyError, match="not a journal of Optuna"):
        open_storage(f"journal:///{tmp_path / 'x'}")
    with pytest.raises(StudyError, match="cannot be opened"):
        open_storage(f"journal:///{tmp_path}")


def test_a_proxy_without_a_server_is_reported(monkeypatch):
    monkeypatch.setattr("automl_cxr.storage.urls._CONNECT_SECONDS", 0.2)
    with pytest.raises(StudyError, match="no server responds"):
        open_storage("grpc://127.0.0.1:1")


def test_a_study_records_its_command_without_the_password(prepare):
    assert "secret" not in prepare(command="search --storage postgresql://me:secret@host/x").store.spec.command


def test_a_proxy_that_other_machines_can_reach_must_be_asked_for(tmp_path):
    url = f"sqlite:///{tmp_path / 'x'}"
    for host in ("0.0.0.0", "192.0.2.1", "::", "example.org"):
        with pytest.raises(UsageError, match=r"no login.*ssh.*--insecure"):
            serve_storage(url, host=host, port=13000, on_ready=pytest.fail)
    assert is_missing(url)
    with pytest.raises(UsageError, match="cannot listen"):  # an address that this machine does not have
        serve_storage(url, host="192.0.2.1", port=13000, insecure=True, on_ready=pytest.fail)


def test_a_proxy_serves_only_databases_on_a_free_port(tmp_path):
    for url in (f"journal:///{tmp_path / 'x'}", "grpc://127.0.0.1:13000"):
        with pytest.raises(UsageError, match="serves a database"):
            serve_storage(url, host="127.0.0.1", port=1, on_ready=lambda: None)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with pytest.raises(UsageError, match="Choose another --port"):
            serve_storage(
                f"sqlite:///{tmp_path / 'x'}", host="127.0.0.1", port=listening.getsockname()[1], on_ready=lambda: None
            )


@pytest.mark.long
@pytest.mark.parametrize("url", ["sqlite", "journal", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
def test_writers_share_a_storage_while_the_dashboard_reads_it(url, tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.writers",
        "--writers",
        "4",
        "--trials",
        "6",
        "--at",
        url,
        "--runs",
        str(tmp_path),
    ]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "| 4 | 24 |" in completed.stdout
