"""Which findings a multi-label data set has, and the label codes of its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import automl_cxr
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.tasks import ABSENT, PRESENT, UNCERTAIN, UNKNOWN

HEADER = "path,patient_id,No Finding,Mass,Edema"
# Each row occurs for several patients: stated, blank, uncertain, and blank entries of an image without a finding.
ROWS = ("0,1,1", "0,1,", ",0,-1", "1,,", ",,1", "0,0,0")
CODES = [
    [PRESENT, PRESENT],
    [PRESENT, UNKNOWN],
    [ABSENT, UNCERTAIN],
    [ABSENT, ABSENT],
    [UNKNOWN, PRESENT],
    [ABSENT, ABSENT],
]


def write(folder: Path, rows: list[str], header: str = HEADER, name: str = "labels.csv") -> Path:
    (folder / name).write_text("\n".join([header, *rows, ""]))
    for row in rows:
        Image.linear_gradient("L").resize((16, 16)).save(folder / row.split(",")[0])
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path, [f"{n:02}.png,P{n // 2},{ROWS[n % 6]}" for n in range(24)])


def codes(dataset: Dataset, n: int = 6) -> list[list[int]]:
    return dataset.labels_of(list(dataset.table["image"]))[:n].tolist()


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset(root, DataOptions(min_positives=options.pop("min_positives", 1), **options))


def test_labels_are_present_absent_unknown_or_uncertain(root: Path) -> None:
    dataset = load(root)
    assert (dataset.task, dataset.classes) == ("multilabel", ("Mass", "Edema")), "No Finding is derived"
    assert codes(dataset) == CODES
    assert (dataset.n_uncertain, dataset.n_missing) == (4, 8)
    assert list(dataset.table["label"][:6]) == ["Mass|Edema", "Mass", "", "No Finding", "Edema", "No Finding"]
    assert dataset.labels_of(["04.png", "00.png"]).tolist() == [CODES[4], CODES[0]]


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"uncertain": "zeros"}, {(2, 1): ABSENT}),
        ({"uncertain": "ones"}, {(2, 1): PRESENT}),
        ({"missing": "absent"}, {(1, 1): ABSENT, (4, 0): ABSENT}),
    ],
)
def test_uncertain_and_missing_labels_are_treated_as_the_user_chooses(
    root: Path, options: dict[str, str], changed: dict[tuple[int, int], int]
) -> None:
    expected = np.array(CODES)
    for place, code in changed.items():
        expected[place] = code
    assert codes(load(root, **options)) == expected.tolist()


def test_findings_are_chosen_and_ordered(root: Path) -> None:
    dataset = load(root, findings=("edema", "Mass"))
    assert dataset.classes == ("Edema", "Mass")
    assert codes(dataset) == [row[::-1] for row in CODES]
    assert load(root, task="multilabel", classes=("Edema", "Mass")).classes == ("Edema", "Mass"), "as a study records them"
    only = load(root, findings=("Edema",))
    assert codes(only) == [[row[1]] for n, row in enumerate(CODES) if n != 1] + [[PRESENT]], "unknown images are left out"
    assert any("4 of 24 images have no label of a used finding" in note for note in only.notes)
    with pytest.raises(UnknownNameError, match=r"Unknown finding 'Masses'\. Did you mean 'Mass'"):
        load(root, findings=("Masses",))
    with pytest.raises(UsageError, match="named once; received Mass, mass"):
        load(root, findings=("Mass", "mass"))


def test_no_finding_can_be_asked_for(root: Path) -> None:
    stated = load(root, findings=("No Finding", "Mass"))
    # A blank entry of No Finding is absent beside a finding, and otherwise unknown.
    assert [row[0] for row in codes(stated)] == [ABSENT, ABSENT, UNKNOWN, PRESENT, ABSENT, ABSENT]
    text = (root / "labels.csv").read_text().replace("No Finding,", "").splitlines()
    (root / "labels.csv").write_text("\n".join([text[0], *(",".join(np.delete(row.split(","), 2)) for row in text[1:])]))
    derived = load(root, findings=("No Finding",))
    assert len(derived.table) == 24 - 4, "without the images of which nothing is known"
    assert [row[0] for row in codes(derived, 5)] == [ABSENT, ABSENT, UNCERTAIN, ABSENT, PRESENT]


def test_findings_with_few_patients_are_named_and_left_out(root: Path) -> None:
    common = load(root, min_positives=5)
    assert common.classes == ("Edema",), "its 8 images belong to 8 patients, and the 8 images of Mass to 4"
    assert any("left out" in note and "'Mass' (patients with it: 4, " in note for note in common.notes)
    assert load(root, findings=("Mass", "Edema"), min_positives=4).classes == ("Mass", "Edema")


def test_equal_new_names_join_findings(root: Path) -> None:
    joined = load(root, class_map={"Mass": "Opacity", "Edema": "Opacity"})
    assert joined.classes == ("Opacity",)
    assert codes(joined) == [[PRESENT], [PRESENT], [UNCERTAIN], [ABSENT], [PRESENT], [ABSENT]]
    assert load(root, class_map={"Mass": ""}).classes == ("Edema",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"finding": "Mass", "task": "multilabel"}, "--finding chooses one class .* name the one finding with --findings"),
        ({"findings": ("Mass",), "task": "multiclass"}, "--findings chooses several outputs; received --task multiclass"),
        ({"task": "multilable"}, "Unknown task 'multilable'. Did you mean 'multilabel'"),
        ({"missing": "zero"}, "Unknown choice for missing labels 'zero'"),
        ({"min_positives": -1}, "0 or more; received -1"),
        ({"min_positives": 12}, "needs 12 patients with it and 12 without it; received .* with --min-positives"),
        ({"task": "multiclass"}, "Each image needs one label with --task multiclass; received 24 images"),
    ],
)
def test_contradictory_choices_are_refused(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        load(root, **options)


def test_columns_with_sums_of_one_are_classes(tmp_path: Path) -> None:
    rows = [f"{n}.png,P{n},{n % 2},{1 - n % 2},0" for n in range(8)]
    assert load(write(tmp_path, rows)).task == "multiclass"
    rows[0] = "0.png,P0,0,0,0"
    assert load(write(tmp_path, rows)).task == "multilabel"
    rows[0] = "0.png,P0,0,1,1"
    assert load(write(tmp_path, rows)).task == "multilabel"
    assert load(tmp_path, finding="Mass").task == "multiclass"


def test_one_column_can_be_a_finding(tmp_path: Path) -> None:
    write(tmp_path, [f"{n}.png,P{n},{n % 2}" for n in range(8)], "path,patient_id,Mass")
    assert load(tmp_path / "labels.csv").classes == ("0", "1")
    dataset = load(tmp_path, task="multilabel")
    assert (dataset.classes, codes(dataset, 2)) == (("Mass",), [[0], [1]])


def test_findings_that_a_table_does_not_list_are_unknown(tmp_path: Path) -> None:
    write(tmp_path, [f"a{n}.png,{n % 2},{n // 2 % 2}" for n in range(8)], "path,Mass,Edema", "train.csv")
    write(tmp_path, [f"b{n}.png,{n % 2},{n // 2 % 2}" for n in range(4)], "path,Mass,Nodule", "test.csv")
    dataset = load(tmp_path, findings=("Mass", "Edema"))
    assert dataset.labels_of(["a3.png", "b3.png"]).tolist() == [[PRESENT, PRESENT], [PRESENT, UNKNOWN]]


def test_classes_of_folders_can_be_findings(tmp_path: Path) -> None:
    for n in range(12):
        (tmp_path / ("covid", "normal", "effusion")[n % 3]).mkdir(exist_ok=True)
        Image.new("L", (16, 16), n).save(tmp_path / ("covid", "normal", "effusion")[n % 3] / f"{n}.png")
    dataset = load(tmp_path, task="multilabel")
    assert dataset.classes == ("covid", "effusion")
    assert dataset.labels_of(list(dataset.table["image"])).tolist() == [[1, 0]] * 4 + [[0, 1]] * 4 + [[0, 0]] * 4


def test_the_normal_form_is_read_identically(root: Path, tmp_path: Path) -> None:
    found = automl_cxr.inspect(root, save=tmp_path / "saved.csv", min_positives=1)
    assert found.classes.iloc[0].to_dict() == {
        "finding": "Mass", "positives": 8, "negatives": 12, "uncertain": 0, "unknown": 4, "patients": 4, "prevalence": 0.4,
        "unreadable": 0,
    }  # fmt: skip
    (root / "labels.csv").unlink()
    again = load_dataset(tmp_path / "saved.csv", DataOptions(min_positives=1))
    assert found.findings is not None
    assert again.findings is not None
    assert again.findings.equals(found.findings)
    assert again.table["patient_id"].tolist() == found.images["patient_id"].tolist()


LABEL_AMONG_FINDINGS = [f"{n:02}.png,P{n // 2},{n % 2},{int(n % 3 == 0)},{int(n % 4 == 0)}" for n in range(24)]
WITH_LABEL = "path,patient_id,label,Mass,Edema"


def test_a_label_of_0_and_1_beside_findings_is_a_finding(tmp_path: Path) -> None:
    root = write(tmp_path, LABEL_AMONG_FINDINGS, WITH_LABEL)
    dataset = load(root)
    assert (dataset.task, dataset.classes) == ("multilabel", ("label", "Mass", "Edema"))
    (note,) = (note for note in dataset.notes if "so it is a finding" in note)
    assert "'label' of labels.csv is one of 3 columns" in note
    assert "--label-column label" in note
    for options in ({"label_column": "label"}, {"task": "multiclass"}, {"classes": ("0", "1")}):
        of_classes = load(root, **options)
        assert (of_classes.task, of_classes.classes) == ("multiclass", ("0", "1"))
        assert not any("so it is a finding" in note for note in of_classes.notes)
    assert load(root, findings=("Mass", "Edema")).classes == ("Mass", "Edema")


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("path,patient_id,label,Mass", "{label},{label}"),  # one other column
        ("path,patient_id,label,male,smoker", "{label},1,0"),  # properties of patients
        ("path,patient_id,label,Mass,Edema", "{label},{label},{other}"),  # each image has one class
        ("path,patient_id,label,Mass,Edema", "class {label},1,{other}"),  # names
    ],
)
def test_a_label_that_is_not_one_of_several_findings_is_the_class(tmp_path: Path, header: str, row: str) -> None:
    rows = [f"{n:02}.png,P{n // 2},{row.format(label=n % 2, other=1 - n % 2)}" for n in range(24)]
    assert load(write(tmp_path, rows, header)).task == "multiclass"
