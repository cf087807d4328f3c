"""Studies of several findings: their specification, split and audit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.errors import StudyMismatchError, UsageError
from automl_cxr.records import SplitRecord
from automl_cxr.results.study_data import load_study_dataset
from automl_cxr.study.prepare import PreparedStudy
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.study_audit import load_audit

Prepare = Callable[..., PreparedStudy]
NAMES = ("Mass", "Edema", "Hernia")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of phantoms with three findings; one is rare, and some labels are unknown or uncertain."""
    folder = draw_phantoms(tmp_path_factory.mktemp("findings"), n_images=60, image_size=32, seed=0)
    random = np.random.default_rng(0)
    rows = ["path,patient_id," + ",".join(NAMES)]
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        codes = [random.choice(["1", "0", "", "-1"], p=(0.4, 0.4, 0.1, 0.1)) for _ in NAMES[:2]]
        rows.append(f"{path.relative_to(folder).as_posix()},P{number // 2},{','.join(codes)},{int(number < 2)}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder / "labels.csv"


@pytest.mark.slow
def test_a_study_of_findings_is_prepared_and_continued(prepare: Prepare, findings: Path) -> None:
    prepared = prepare(data=findings)
    spec, split = prepared.store.spec, prepared.store.split
    assert (spec.task, spec.classes, spec.normal_class) == ("multilabel", ("Mass", "Edema"), None)
    assert spec.objectives == ("macro_auc",)
    assert spec.constants["task"] == "multilabel"
    assert StudySpec.from_json(spec.to_json()) == spec
    assert SplitRecord.from_json(split.to_json()) == split
    dataset = load_study_dataset(prepared.store)
    assert dataset.classes == spec.classes
    assert dataset.labels_of(split.train.images).tolist() == np.asarray(split.train.labels).tolist()
    assert not set(split.train.patients) & set(split.valid.patients)
    assert any("'Hernia' (patients with it: 1" in note for note in prepared.notes)
    audit = load_audit(prepared.store)
    assert audit is not None
    assert audit.is_multilabel
    again = prepare(data=None)
    assert not again.is_new
    assert again.store.spec == spec


def test_the_findings_are_part_of_the_specification(prepare: Prepare, findings: Path) -> None:
    spec = prepare(data=findings, findings=("Edema", "Mass"), objective="macro_average_precision", folds=3).store.spec
    assert (spec.classes, spec.objectives, spec.folds) == (("Edema", "Mass"), ("macro_average_precision",), 3)
    with pytest.raises(StudyMismatchError, match="with findings Edema, Mass; received Mass, Edema"):
        prepare(data=None, findings=("Mass", "Edema"))
    with pytest.raises(StudyMismatchError, match="min_positives"):
        prepare(data=None, min_positives=1)


def test_changed_labels_are_another_data_set(prepare: Prepare, findings: Path, tmp_path: Path) -> None:
    prepare(data=findings)
    changed = findings.with_name("changed.csv")
    first, row, *others = findings.read_text().splitlines()
    path, patient, *codes = row.split(",")
    flipped = {"1": "0", "0": "", "": "-1", "-1": "1"}[codes[0]]
    changed.write_text("\n".join([first, ",".join([path, patient, flipped, *codes[1:]]), *others]))
    try:
        with pytest.raises(StudyMismatchError, match="its data changed"):
            prepare(data=changed)
    finally:
        changed.unlink()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normal_class": "Mass"}, "--normal-class applies to images with one class each"),
        ({"objective": "accuracy"}, "not defined for several findings"),
        ({"require": "accuracy>=0.5"}, "not defined for several findings"),
        ({"findings": ("Mass",), "classes": ("Mass", "Edema")}, "both choose what is predicted"),
    ],
)
def test_settings_that_findings_do_not_have_create_no_study(
    prepare: Prepare, findings: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(data=findings, **options)
    assert not list(tmp_path.glob("**/study.json"))


def test_a_record_without_a_task_is_of_classes(prepare: Prepare) -> None:
    spec = prepare().store.spec
    values = json.loads(spec.to_json())
    for name in ("task", "findings", "min_positives", "missing"):
        del values[name]
    assert StudySpec.from_json(json.dumps(values)) == spec
    assert (spec.task, spec.is_multilabel, spec.objective) == ("multiclass", False, "macro_f1")
    with pytest.raises(StudyMismatchError, match="with task 'multiclass'; received 'multilabel'"):
        dataclasses.replace(spec, task="multilabel").require_same(spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fixed": {"imbalance": "oversample"}}, "received oversample. Use imbalance=none"),
        ({"space": "fused"}, "contains none at --image-size 32"),
        ({"fixed": {"task": "multiclass"}}, "'task' belongs to the study"),
    ],
)
def test_impossible_settings_are_refused_before_images_are_decoded(
    prepare: Prepare, findings: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], message: str
) -> None:
    monkeypatch.setattr("automl_cxr.study.prepare.load_images", lambda *_: pytest.fail("images are decoded"))
    with pytest.raises(UsageError, match=message):
        prepare(data=findings, **options)


def test_targets_of_uncertain_labels_can_be_set_for_findings(prepare: Prepare, findings: Path) -> None:
    assert prepare(data=findings, fixed={"uncertain_targets": "ones,zeros"}).store.spec.fixed["uncertain_targets"]
