"""Commands on a study with one damaged record: a result, or one line that is not an unexpected error; no file is changed."""

import contextlib
import io
import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_cxr import cli
from automl_cxr.results.classifier import load_ensemble
from automl_cxr.results.ensembles import build_ensemble
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.prepare import prepare_study
from tests.fuzzing.damage import NESTED, damaged_bytes, damaged_json, digests, result_or_error

RECORDS = (
    *("study.json", "split.json", "audit.json", "sources.json", "trials/00000/config.json", "ensembles/e/ensemble.json"),
    *("trials/00000/valid.npz", "image_hashes.npz"),
)
COMMANDS = (
    ("studies",),
    ("studies", "show", "s"),
    ("leaderboard", "s"),
    ("errors", "s", "--out", "errors.html"),
    ("ensemble", "apply", "s/ensembles/e", "s/trials/00000/valid.npz", "s/trials/00001/valid.npz", "--out", "applied.csv"),
    ("ensemble", "build", "s", "--members", "1,2", "--method", "average", "--name", "built"),
    ("report", "s", "--out", "report.html"),
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory, phantoms, quick_search):
    """Return the folder of a study of three trials without training, with an ensemble."""
    runs = tmp_path_factory.mktemp("runs")
    options = SearchOptions(space="scratch", data=str(phantoms), name="s", image_size=32, pruner="none")
    prepared = prepare_study(options, runs=runs, storage=f"sqlite:///{runs / 'studies.db'}", command="")
    quick_search(prepared, trials=3)
    build_ensemble(prepared.store, members=[0, 1], method="average", name="e")
    return runs / "s"


def run_command(runs, *arguments):
    """Run a command in a folder; return its exit code and what it printed to stderr."""
    errors = io.StringIO()
    with contextlib.chdir(runs), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = cli._run([*arguments, "--runs", str(runs)] if arguments[:2] != ("ensemble", "apply") else arguments)
    return code, errors.getvalue()


@st.composite
def damaged_text(draw, content):
    if draw(st.integers(0, 4)) == 0:
        return draw(NESTED).encode("utf-8", errors="surrogatepass")
    try:
        values = json.loads(content)
    except ValueError:
        return draw(damaged_bytes(content))
    return json.dumps(draw(damaged_json(values))).encode()


@pytest.mark.long
@settings(max_examples=settings.default.max_examples // 3)  # a command takes half a second
@given(st.sampled_from(RECORDS), st.sampled_from(COMMANDS), st.data())
def test_a_damaged_record_is_reported_in_one_line(study, record, command, data):
    file = study / record
    original = file.read_bytes()
    file.write_bytes(data.draw(damaged_text(original)))
    try:
        before = digests(study)
        code, message = run_command(study.parent, *command)
        assert digests(study) | before == digests(study)
    finally:
        file.write_bytes(original)
        shutil.rmtree(study / "ensembles" / "built", ignore_errors=True)
    assert code in (0, 1, 2), message
    assert "--debug shows the traceback" not in message
    assert code == 0 or message.startswith("automl-cxr: ")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_undamaged_study_is_read(study, command):
    code, message = run_command(study.parent, *command)
    assert code == 0, message
    shutil.rmtree(study / "ensembles" / "built", ignore_errors=True)


@given(st.data())
def test_a_damaged_ensemble_is_loaded_or_refused(study, data):
    file = study / "ensembles" / "e" / "ensemble.json"
    original = file.read_bytes()
    file.write_bytes(data.draw(damaged_text(original)))
    try:
        ensemble = result_or_error(load_ensemble, file.parent)
    finally:
        file.write_bytes(original)
    if ensemble is not None:
        assert len(ensemble.members) == 2
        assert all(16 <= member.image_size <= 2048 for member in ensemble.members)
