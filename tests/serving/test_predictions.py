"""Predictions, heat maps and descriptions of a running server."""

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from automl_cxr import api
from automl_cxr.api import classifiers
from automl_cxr.results.explain.explanation import explain
from automl_cxr.serving.known_images import KnownImages
from tests.serving.conftest import png


def test_pictures_have_the_probabilities_and_decisions_of_predict(client, classifier, phantoms):
    files = sorted(phantoms.rglob("*.png"))[:5]
    table, _ = api.predict(classifier, files, abstain=0.5)
    for file, row in zip(files, table.to_dict(orient="records"), strict=True):
        answer = client.post("/predict", files={"file": file.read_bytes()}).json()
        assert answer["probabilities"] == pytest.approx(
            {name: row[f"probability_{name}"] for name in classifier.classes}, abs=1e-6
        )
        assert answer["decision"] == [row["class"]]
        abstention = answer["abstention"]
        assert "|".join(abstention["plausible"]) == row["set"]
        assert abstention["decision"] == list(filter(None, [row["decision"]]))
        assert abstention["abstains"] == (row["decision"] == "")
        assert answer["image_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert "Research use only" in answer["use"]
        assert answer["heatmap"] is None


def test_a_dicom_file_has_the_probabilities_of_predict(client, classifier, radiograph):
    file = radiograph(WindowCenter=1000, WindowWidth=900, PhotometricInterpretation="MONOCHROME1")
    row = api.predict(classifier, [file])[0].iloc[0]
    answer = client.post("/predict", files={"file": file.read_bytes()}).json()
    assert answer["probabilities"] == pytest.approx({name: row[f"probability_{name}"] for name in classifier.classes}, abs=1e-6)
    assert answer["has_report"]
    assert answer["warnings"] == []


def test_images_that_wait_are_predicted_together_without_a_change(client):
    contents = [png(seed=seed) for seed in range(13)]
    one_by_one = [client.post("/predict", files={"file": content}).json()["probabilities"] for content in contents]
    with ThreadPoolExecutor(13) as threads:
        together = list(threads.map(lambda content: client.post("/predict", files={"file": content}).json(), contents))
    for alone, answer in zip(one_by_one, together, strict=True):
        assert answer["probabilities"] == pytest.approx(alone, abs=1e-6)


def test_images_of_the_study_are_recognised_in_any_request(client, finished):
    split = finished._store.split
    for image, warning in ((split.train.images[0], "trained or selected on this image"), (split.test[0], "a test image")):
        file = Path(finished._store.spec.data) / image
        assert [warning in text for text in client.post("/predict", files={"file": file.read_bytes()}).json()["warnings"]] == [
            True
        ]
    assert client.post("/predict", files={"file": png(seed=9)}).json()["warnings"] == []


def test_the_use_of_test_images_is_recorded_once(finished, classifier, monkeypatch):
    opened = []

    def serve(_classifier, _options, *, record_test_use, on_ready):
        known = KnownImages(classifier, record_test_use)
        split = finished._store.split
        for image in split.test[:3]:
            content = (Path(finished._store.spec.data) / image).read_bytes()
            opened.extend(known.warnings_of(hashlib.sha256(content).digest()))

    monkeypatch.setattr(classifiers, "serve_classifier", serve)
    before = len(finished._store.test_opened())
    api.serve(classifier, on_ready=print)
    assert len(set(opened)) == 1
    assert "recorded as evaluation" in opened[0]
    assert len(finished._store.test_opened()) == before + 1


def test_test_images_of_a_study_that_cannot_be_changed_have_a_warning(classifier, monkeypatch):
    warnings = []
    monkeypatch.setattr(classifiers, "serve_classifier", lambda *_, record_test_use, **__: warnings.extend(record_test_use()))
    monkeypatch.setattr(
        classifiers.sealed_images, "record_test_images", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system"))
    )
    api.serve(classifier, on_ready=print)
    assert "not recorded, because the study cannot be changed" in warnings[0]


def test_the_heat_map_is_that_of_explain(client, classifier, phantoms):
    file = sorted(phantoms.rglob("*.png"))[0]
    expected = explain(classifier, [file], class_name=classifier.classes[1])[0]
    answer = client.post(
        "/predict", params={"heatmap": True, "explain": classifier.classes[1]}, files={"file": file.read_bytes()}
    ).json()
    overlay = Image.open(BytesIO(base64.b64decode(answer["heatmap"]["overlay_png"])))
    radiograph = Image.open(BytesIO(base64.b64decode(answer["radiograph_png"])))
    assert overlay.tobytes() == Image.fromarray(expected.pixels).tobytes()
    assert radiograph.tobytes() == Image.fromarray(expected.radiograph).tobytes()
    assert answer["heatmap"]["explained"] == classifier.classes[1]
    assert answer["heatmap"]["outside"] == pytest.approx(expected.outside)


def test_without_a_class_the_predicted_one_is_explained(client):
    answer = client.post("/predict", params={"heatmap": True}, files={"file": png()}).json()
    assert answer["heatmap"]["explained"] == answer["decision"][0]


def test_the_classifier_is_described(client, classifier):
    described = client.get("/classifier").json()
    assert (described["study"], described["classes"]) == ("done", list(classifier.classes))
    assert described["coverage"] == 0.5
    assert described["versions"]["automl-cxr"]
    assert client.get("/health").json() == {"status": "ok"}


def test_all_pages_are_served_without_another_host(client):
    for path in ("/", "/docs", "/static/page.js", "/static/page.css", "/docs-assets/swagger-ui-bundle.js"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        if not path.startswith("/docs-assets"):
            assert "https://" not in answer.text, path


def test_the_schema_names_the_answers_and_their_media_types(client):
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "application/dicom"}
    assert set(operation["responses"]) >= {"401", "413", "415", "422", "503"}
    assert operation["security"]
