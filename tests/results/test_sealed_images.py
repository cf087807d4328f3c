"""Predictions and explanations of test images are recorded as evaluations on the test part."""

import shutil

import pytest

from automl_cxr import api


@pytest.fixture
def study(finished, tmp_path):
    """Copy the study, because the tests record evaluations."""
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    return api.copy_study(finished.name, "copy", runs=finished.folder.parent, runs_to=tmp_path, storage_to=storage)


def opened(study):
    return [entry["what"] for entry in study._store.test_opened()]


def test_predicted_test_images_are_recorded(study, phantoms, tmp_path):
    test, classifier, before = study._store.split.test, study.classifier(), opened(study)
    (tmp_path / "images").mkdir()
    for number, image in enumerate((*test[:2], *study._store.split.valid.images[:3])):
        shutil.copy(phantoms / image, tmp_path / "images" / f"{number}.png")
    table, _ = api.predict(classifier, [tmp_path / "images"])
    (note,) = table.attrs["notes"]
    assert f"2 of the images are in the test part of study '{study.name}'" in note
    assert opened(study) == [*before, f"{classifier.name}, predictions of 2 test images"]
    table, _ = api.predict(classifier, [phantoms / image for image in study._store.split.train.images[:2]])
    assert table.attrs["notes"] == []
    assert len(opened(study)) == len(before) + 1


def test_explained_test_images_are_recorded(study, phantoms):
    before = opened(study)
    study.explain([phantoms / study._store.split.test[0]])
    study.explain([phantoms / study._store.split.valid.images[0]])
    assert len(opened(study)) == len(before) + 1


def test_an_ensemble_whose_study_is_missing_says_that_the_use_is_not_recorded(study, phantoms, tmp_path):
    ensemble = study.ensemble(top=1)
    folder = shutil.copytree(ensemble.folder, tmp_path / "elsewhere" / "mine")
    table, _ = api.predict(api.open_classifier(folder), [phantoms / study._store.split.test[0]], runs=tmp_path / "elsewhere")
    assert "This is not recorded, because the study was not found" in table.attrs["notes"][0]
