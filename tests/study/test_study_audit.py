"""The audit of a study's training and validation images, and its warnings in classifiers and model cards."""

import json

import pytest
from PIL import Image

from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.results.classifier import classifier_of_trial, load_ensemble
from automl_cxr.results.ensembles import build_ensemble
from automl_cxr.study.study_audit import load_audit
from automl_cxr.study.study_folder import claim_folder


@pytest.fixture
def marked(tmp_path):
    """Draw phantoms with a white square in a corner of two classes, a different corner in each."""
    folder = draw_phantoms(tmp_path / "marked", n_images=90, image_size=64, seed=2)
    for label, corner in (("opacity", (2, 0)), ("effusion", (50, 0))):
        for path in (folder / label).glob("*.png"):
            with Image.open(path) as source:
                image = source.convert("L")
            image.paste(255, (*corner, corner[0] + 12, corner[1] + 12))
            image.save(path)
    return folder


def test_the_audit_contains_no_image_of_the_test_part(prepare):
    prepared = prepare()
    audit, split = load_audit(prepared.store), prepared.store.split
    assert dict(audit.parts) == {"train": len(split.train.images), "valid": len(split.valid.images)}
    text = (prepared.store.folder / "audit.json").read_text()
    assert not any(f'"{image}"' in text for image in split.test)
    assert any("Shortcut baseline" in note for note in prepared.notes)


def test_a_continued_study_keeps_its_audit_and_repeats_the_message(prepare, marked):
    created = prepare(data=str(marked))
    file = created.store.folder / "audit.json"
    modification_time = file.stat().st_mtime_ns
    continued = prepare(data=str(marked))
    assert file.stat().st_mtime_ns == modification_time
    warnings = [note for note in created.notes if "The data contain a shortcut" in note]
    assert len(warnings) == 1
    assert warnings[0] in continued.notes


def test_folds_are_audited_too(prepare):
    prepared = prepare(folds=3, pruner="none")
    assert dict(load_audit(prepared.store).parts) == {"train": len(prepared.store.split.train.images)}


def test_an_audit_that_cannot_be_written_does_not_prevent_the_search(prepare, tmp_path):
    claim_folder("s", runs=tmp_path, storage=f"sqlite:///{tmp_path}/studies.db")
    (tmp_path / "s" / "audit.json" / "in-the-way").mkdir(parents=True)
    prepared = prepare()
    assert any("could not be audited" in note for note in prepared.notes)


@pytest.mark.long
def test_ensembles_and_model_cards_contain_the_warnings(prepare, quick_search, marked):
    prepared = prepare(data=str(marked))
    quick_search(prepared, trials=2)
    audit = load_audit(prepared.store)
    assert audit.warnings
    ensemble = build_ensemble(prepared.store, top=2, method="average")
    record = json.loads((ensemble.folder / "ensemble.json").read_text())
    assert record["warnings"] == list(audit.warnings)
    assert audit.warnings[0] in (ensemble.folder / "model_card.md").read_text()
    assert load_ensemble(ensemble.folder).warnings == audit.warnings


def test_a_classifier_of_a_trial_has_the_warnings_of_its_study(prepare, quick_search, marked):
    prepared = prepare(data=str(marked))
    quick_search(prepared, trials=1)
    assert classifier_of_trial(prepared.store).warnings == load_audit(prepared.store).warnings
