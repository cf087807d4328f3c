"""The dashboard: computed notes, figures and trial pages, and what is written to the storage."""

import dataclasses
import io
import json
import uuid

import pytest
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import TrialState
from optuna_dashboard import get_note, save_note

from automl_cxr import api
from automl_cxr.results.dashboard.augmented_storage import AugmentedStorage, TrialArtifacts
from automl_cxr.results.dashboard.dashboard_attributes import artifact_id_of, parse_artifact_id
from automl_cxr.results.dashboard.serving import dashboard_app
from automl_cxr.results.dashboard.trial_page import FIGURES, PAGE_FILE, render_trial_page


def connect_client(study):
    """Return a function that sends a request to the dashboard and returns status, headers and body."""
    app = dashboard_app(study._store.study._storage, study.folder.parent)

    def request(path, method="GET", body=None):
        payload = json.dumps(body).encode() if body is not None else b""
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "x", "SERVER_PORT": "80"}
        environ |= {"wsgi.input": io.BytesIO(payload), "wsgi.url_scheme": "http", "wsgi.errors": io.StringIO()}
        environ |= {"CONTENT_LENGTH": str(len(payload)), "CONTENT_TYPE": "application/json"}
        status = []
        response = app(environ, lambda code, headers, *_: status.append((code, dict(headers))))
        return int(status[0][0][:3]), status[0][1], b"".join(response)

    return request


def details_of(request, study):
    return json.loads(request(f"/api/studies/{study._store.study._study_id}")[2])


def test_optuna_dashboard_has_the_route_of_a_study_and_reads_the_recorded_attributes(finished):
    request = connect_client(finished)
    code, headers, body = request(f"/api/studies/{finished._store.study._study_id}")
    assert (code, headers["Content-Type"].partition(";")[0]) == (200, "application/json"), (
        "optuna-dashboard no longer answers /api/studies/<id>: change STUDY_ROUTE in dashboard_attributes.py to its new path."
    )
    details = json.loads(body)
    assert details["note"]["body"], (
        "optuna-dashboard does not read the note recorded through save_note: compare its _note.py and _serializer.py with "
        "DashboardAttributes in dashboard_attributes.py."
    )
    assert details["plotly_graph_objects"], "the same for save_plotly_graph_object"
    assert details["trials"][finished.best.number]["artifacts"], "the same for optuna.artifacts.upload_artifact"


def test_a_trial_has_a_note_and_a_page_with_its_figures(finished):
    request, best = connect_client(finished), finished.best
    details = details_of(request, finished)
    trial = details["trials"][best.number]
    assert f"**macro_f1 {best.score:.6g}**: rank 1 of 4" in trial["note"]["body"]
    assert "We searched two hyperparameters" in details["note"]["body"]
    assert {plot["id"] for plot in details["plotly_graph_objects"]} >= {"learning-curves", "confusion", "roc", "cost"}
    assert [artifact["filename"] for artifact in trial["artifacts"]] == [PAGE_FILE]
    path = f"/artifacts/{details['trials'][0]['study_id']}/{trial['trial_id']}/{trial['artifacts'][0]['artifact_id']}"
    assert f"[Figures of this trial]({path})" in trial["note"]["body"]
    code, headers, page = request(path)
    assert (code, headers["Content-Type"]) == (200, "text/html"), "the route of artifacts rejects ids such as 1-a"
    assert page.decode().count("Plotly.newPlot(") == len(FIGURES)
    for title in (f"Trial {best.number}: macro_f1", "Loss of trial", "Confusions: trial", "ROC: trial", "Reliability: trial"):
        assert title in page.decode()


def test_a_trial_without_predictions_has_the_figure_of_its_scores(finished):
    copy = api.copy_study("done", "stopped", runs=finished.folder.parent)
    trial = copy._store.study.ask()
    trial.report(0.25, step=1)
    copy._store.study.tell(trial, state=TrialState.PRUNED)
    page = render_trial_page(copy._store, trial.number)
    assert page.count("Plotly.newPlot(") == 1
    assert "has no predictions" in page
    details = details_of(connect_client(copy), copy)["trials"][trial.number]
    assert "[Figures of this trial](" in details["note"]["body"]


def test_nothing_is_written_to_the_storage(finished):
    request, storage = connect_client(finished), finished._store.study._storage
    study_id = finished._store.study._study_id
    before = storage.get_study_system_attrs(study_id)
    details_of(request, finished)
    assert storage.get_study_system_attrs(study_id) == before
    assert not any("artifacts" in key for trial in finished._store.study.trials for key in trial.system_attrs)
    assert not (finished.folder.parent / ".artifacts").exists()


def test_notes_of_the_user_replace_computed_ones(finished):
    copy = api.copy_study("done", "noted", runs=finished.folder.parent)
    request, study = connect_client(copy), copy._store.study
    computed = details_of(request, copy)
    study_id, number = study._study_id, copy.best.number
    assert computed["note"]["version"] == 1
    response = request(f"/api/studies/{study_id}/note", "PUT", {"body": "short", "version": 2})
    assert response[0] == 204
    assert details_of(request, copy)["note"] == {"version": 2, "body": "short"}
    trial = details_of(request, copy)["trials"][number]
    assert trial["note"] == computed["trials"][number]["note"], "the notes of trials are still computed"


def test_a_note_saved_by_another_program_replaces_the_longer_computed_one(finished):
    copy = api.copy_study("done", "noted-elsewhere", runs=finished.folder.parent)
    save_note(copy._store.study, "mine")
    assert details_of(connect_client(copy), copy)["note"]["body"] == get_note(copy._store.study) == "mine"


def test_a_study_without_files_is_shown_unchanged(tmp_path, finished):
    storage = AugmentedStorage(finished._store.study._storage, tmp_path)
    study_id = finished._store.study._study_id
    before = finished._store.study._storage.get_study_system_attrs(study_id)
    storage.load_augmented_study(study_id)
    assert storage.get_study_system_attrs(study_id) == before
    assert storage.get_all_trials(study_id) == finished._store.study.get_trials()
    with pytest.raises(ArtifactNotFound):
        TrialArtifacts(storage, tmp_path).open_reader(artifact_id_of(study_id, 0))


def test_the_reason_of_a_damaged_study_is_shown_and_logged_once(finished, caplog):
    copy = api.copy_study("done", "damaged-record", runs=finished.folder.parent)
    intact = (copy.folder / "study.json").read_text()
    (copy.folder / "study.json").write_text("{")
    storage = AugmentedStorage(copy._store.study._storage, finished.folder.parent)
    study_id, reason = copy._store.study._study_id, f"The study's file {copy.folder / 'study.json'} is damaged"
    for _ in range(2):
        storage.load_augmented_study(study_id)
        storage._augmentations[study_id] = dataclasses.replace(storage._augmentations[study_id], computed_at=-1e9)
    assert [reason in record.getMessage() for record in caplog.records] == [True]
    assert reason in details_of(connect_client(copy), copy)["note"]["body"]
    assert json.loads(connect_client(copy)("/api/studies")[2])["study_summaries"]
    (copy.folder / "study.json").write_text(intact)
    assert "We searched two hyperparameters" in details_of(connect_client(copy), copy)["note"]["body"]


def test_the_page_of_a_trial_with_damaged_predictions_shows_the_reason(finished):
    copy = api.copy_study("done", "damaged-trial", runs=finished.folder.parent)
    damaged = copy.folder / "trials" / f"{copy.best.number:05d}" / "valid.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    artifacts = TrialArtifacts(AugmentedStorage(copy._store.study._storage, finished.folder.parent), finished.folder.parent)
    page = artifacts.open_reader(artifact_id_of(copy._store.study._study_id, copy.best.number)).read().decode()
    assert str(damaged) in page


def test_files_that_users_attach_are_stored_in_the_runs_folder(tmp_path, finished):
    store = TrialArtifacts(AugmentedStorage(finished._store.study._storage, tmp_path), tmp_path)
    artifact_id = str(uuid.uuid4())
    store.write(artifact_id, io.BytesIO(b"letters"))
    with store.open_reader(artifact_id) as file:
        assert file.read() == b"letters"
    store.remove("1-0")  # a trial page: there is no file to remove
    store.remove(artifact_id)
    with pytest.raises(ArtifactNotFound):
        store.open_reader(artifact_id)


def test_ids_of_trial_pages_differ_from_ids_of_uploads():
    assert parse_artifact_id(artifact_id_of(31, 4000)) == (31, 4000)
    assert parse_artifact_id(str(uuid.uuid4())) is None
