"""The dashboard's view of a storage: pictures, notes and figures that stand in no storage."""

import io
import json
import uuid
import xml.etree.ElementTree as ET

import pandas as pd
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna_dashboard import wsgi

from automl_cxr import api
from automl_cxr.results.dashboard.augmented_storage import AugmentedStorage, TrialArtifacts
from automl_cxr.results.dashboard.drawing import Line, draw_lines, draw_matrix
from automl_cxr.results.dashboard.serving import _looking
from automl_cxr.results.dashboard.trial_pictures import PICTURES

EVIL = "</svg><script>alert(1)</script>"


@pytest.fixture
def dashboard(finished):
    """The dashboard over the finished study's storage; gives what asks it, the study's number and the view."""
    store, runs = finished._store, finished.folder.parent
    shown = AugmentedStorage(store.study._storage, runs)
    app = _looking(wsgi(shown, artifact_store=TrialArtifacts(shown, runs)), shown.load_augmented_study)

    def ask(path, method="GET", body=None):
        sent = json.dumps(body).encode() if body is not None else b""
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "x", "SERVER_PORT": "80"}
        environ |= {"wsgi.input": io.BytesIO(sent), "wsgi.url_scheme": "http", "wsgi.errors": io.StringIO()}
        environ |= {"CONTENT_LENGTH": str(len(sent)), "CONTENT_TYPE": "application/json"}
        status = []
        answer = app(environ, lambda code, headers, *_: status.append((code, dict(headers))))
        return int(status[0][0][:3]), status[0][1], b"".join(answer)

    return ask, store.study._study_id, shown


def test_a_trial_has_its_pictures_and_its_note(finished, dashboard):
    ask, study_id, _ = dashboard
    best = finished.best
    details = json.loads(ask(f"/api/studies/{study_id}")[2])
    trial = details["trials"][best.number]
    assert f"**macro_f1 {best.score:.6g}**: rank 1 of 4" in trial["note"]["body"]
    assert "We searched two hyperparameters" in details["note"]["body"]
    assert {plot["id"] for plot in details["plotly_graph_objects"]} >= {"learning-curves", "confusion", "roc", "cost"}
    assert [artifact["filename"] for artifact in trial["artifacts"]] == list(PICTURES)
    for artifact in trial["artifacts"]:
        code, headers, picture = ask(f"/artifacts/{study_id}/{trial['trial_id']}/{artifact['artifact_id']}")
        assert (code, headers["Content-Type"]) == (200, "image/svg+xml")
        assert ET.fromstring(picture).tag.endswith("svg")


def test_nothing_is_written_for_it(finished, dashboard):
    ask, study_id, _ = dashboard
    before = finished._store.study._storage.get_study_system_attrs(study_id)
    ask(f"/api/studies/{study_id}")
    assert finished._store.study._storage.get_study_system_attrs(study_id) == before
    assert not any("artifacts" in key for trial in finished._store.study.trials for key in trial.system_attrs)
    assert not (finished.folder.parent / ".artifacts").exists()


def test_a_note_of_the_user_goes_before_ours(finished):
    copy = api.copy_study("done", "noted", runs=finished.folder.parent)
    shown = AugmentedStorage(copy._store.study._storage, finished.folder.parent)
    study_id = copy._store.study._study_id
    shown.load_augmented_study(study_id)
    ours = shown.get_study_system_attrs(study_id)
    assert ours["dashboard:note_ver"] == 1
    shown.set_study_system_attr(study_id, "dashboard:note_ver", 2)
    shown.set_study_system_attr(study_id, "dashboard:note_str:0", "mine")
    theirs = shown.get_study_system_attrs(study_id)
    assert (theirs["dashboard:note_ver"], theirs["dashboard:note_str:0"]) == (2, "mine")
    assert {key for key in ours if key.startswith("dashboard:") and ":note_" in key} <= set(theirs)


def test_a_study_without_files_is_shown_as_it_is(tmp_path, finished):
    shown = AugmentedStorage(finished._store.study._storage, tmp_path)
    study_id = finished._store.study._study_id
    shown.load_augmented_study(study_id)
    assert "dashboard:note_ver" not in shown.get_study_system_attrs(study_id)
    assert shown.get_all_trials(study_id) == finished._store.study.get_trials()
    with pytest.raises(ArtifactNotFound):
        TrialArtifacts(shown, tmp_path).open_reader(f"{study_id:x}-0-0")


def test_files_that_users_attach_are_kept_beside(tmp_path, finished):
    store = TrialArtifacts(AugmentedStorage(finished._store.study._storage, tmp_path), tmp_path)
    attached = str(uuid.uuid4())
    store.write(attached, io.BytesIO(b"letters"))
    with store.open_reader(attached) as file:
        assert file.read() == b"letters"
    store.remove("1-0-0")  # a drawn picture: there is nothing to remove
    store.remove(attached)
    with pytest.raises(ArtifactNotFound):
        store.open_reader(attached)


def test_drawings_escape_texts_and_bear_gaps():
    line = Line(EVIL, [1, 2, 3, 4], [0.5, float("nan"), 0.7, 0.9])
    matrix = pd.DataFrame([[3, 1], [0, 4]], index=[EVIL, "b"], columns=[EVIL, "b"])
    for picture in (
        draw_lines(EVIL, [line], x=EVIL, y="y"),
        draw_matrix(EVIL, matrix, rows=EVIL, columns="c"),
        draw_lines("none", [Line("empty", [], [])], x="x", y="y"),
    ):
        root = ET.fromstring(picture)
        assert not [element for element in root.iter() if element.tag.endswith("script")]
    drawn = ET.fromstring(draw_lines("t", [line], x="x", y="y"))
    tags = [element.tag.rpartition("}")[2] for element in drawn.iter()]
    assert (tags.count("circle"), tags.count("polyline")) == (1, 1)
