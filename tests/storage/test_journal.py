import contextlib
import os
import signal
import subprocess
import sys
import time

import optuna
import pytest

from automl_cxr.storage.journal import JournalFile
from automl_cxr.storage.urls import open_storage


def open_journal(path, busy_seconds=60.0):
    return JournalFile(path, busy_seconds=busy_seconds)


def test_an_incomplete_line_is_removed_by_the_next_writer(tmp_path):
    path = tmp_path / "x.log"
    open_journal(path).append_logs([{"a": 1}, {"b": 2}])
    for incomplete in ('{"c": ', "x" * 10_000):
        with path.open("a") as file:
            file.write(incomplete)
        assert list(open_journal(path).read_logs(0)) == [{"a": 1}, {"b": 2}]
    open_journal(path).append_logs([{"d": 4}])
    assert list(open_journal(path).read_logs(0)) == [{"a": 1}, {"b": 2}, {"d": 4}]
    assert list(open_journal(path).read_logs(2)) == [{"d": 4}]


def test_a_reader_continues_at_its_position(tmp_path):
    path = tmp_path / "x.log"
    reader, writer = open_journal(path), open_journal(path)
    for number in range(5):
        writer.append_logs([{"n": number}])
        assert list(reader.read_logs(number)) == [{"n": number}]
    assert list(reader.read_logs(5)) == []
    assert len(list(reader.read_logs(0))) == 5


def test_a_full_disk_leaves_complete_lines(tmp_path):
    path = tmp_path / "x.log"
    journal = open_journal(path)
    journal.append_logs([{"a": 1}])
    code = (
        "import resource, signal, sys; from pathlib import Path; from automl_cxr.storage.journal import JournalFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))\n"
        "try: JournalFile(Path(sys.argv[1]), busy_seconds=1).append_logs([{'b': 'x' * 100}])\n"
        "except OSError: print('full')"
    )
    completed = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert completed.stdout == "full\n"
    assert path.read_bytes() == b'{"a":1}\n'


def test_the_lock_is_released_by_a_killed_process_and_not_by_a_suspended_one(tmp_path):
    path = tmp_path / "x.log"
    code = (
        "import sys, time; from pathlib import Path; from automl_cxr.storage.journal import JournalFile\n"
        "journal = JournalFile(Path(sys.argv[1]), busy_seconds=1); journal._lock.acquire()\n"
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    os.kill(holder.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        open_journal(path, busy_seconds=0.2).append_logs([{"a": 1}])
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    started = time.monotonic()
    open_journal(path, busy_seconds=5).append_logs([{"a": 1}])
    assert time.monotonic() - started < 2


def test_a_transaction_is_one_append_or_none(tmp_path):
    path = tmp_path / "x.log"
    journal = open_journal(path)
    with journal.transaction():
        journal.append_logs([{"a": 1}])
        journal.append_logs([{"b": 2}])
        assert path.read_bytes() == b""
    assert list(journal.read_logs(0)) == [{"a": 1}, {"b": 2}]
    with contextlib.suppress(ZeroDivisionError), journal.transaction():
        journal.append_logs([{"c": 3}])
        raise ZeroDivisionError
    assert len(list(journal.read_logs(0))) == 2


def test_the_backend_of_optuna_reads_the_journal(tmp_path):
    study = optuna.create_study(storage=open_storage(f"journal:///{tmp_path / 'x.log'}"), study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    optuna_storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "x.log")))
    assert optuna.load_study(study_name="s", storage=optuna_storage).get_trials() == study.get_trials()
