import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

import automl_cxr
from automl_cxr.data.audit.record import Audit
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.data_audit.audit import audit_dataset
from automl_cxr.results.audit_page import audit_sections
from automl_cxr.results.html_page import Pictures, render_page


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return draw_phantoms(tmp_path_factory.mktemp("plain") / "data", n_images=150, image_size=96, seed=5)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Draw phantoms with letters in a corner of one class."""
    folder = draw_phantoms(tmp_path_factory.mktemp("marked") / "data", n_images=150, image_size=96, seed=5)
    for path in (folder / "effusion").glob("*.png"):
        with Image.open(path) as source:
            image = source.convert("L")
        ImageDraw.Draw(image).text((4, 4), "AP", fill=255, font_size=14)
        image.save(path)
    return folder


def test_phantoms_have_no_shortcut(plain):
    audit = audit_dataset(load_dataset(plain))
    assert audit.shortcut.low < 0.5
    assert not audit.shortcut.is_warning
    assert audit.warnings == ()
    assert audit.duplicates.empty
    assert "Shortcut baseline" in repr(audit)


def test_a_marker_in_one_class_is_reported(marked):
    audit = audit_dataset(load_dataset(marked))
    assert audit.shortcut.is_warning
    best = audit.statistics.iloc[0]
    assert best["statistic"] == "lettering_top_left"
    assert "effusion" in best["separates"]
    assert best["share"] > 0.95
    rates = audit.burnt_in_text.set_index("place").loc["top_left"]
    assert rates["effusion"] > 0.9
    assert rates["normal"] < 0.05
    assert [warning.split(":")[0] for warning in audit.warnings[:1]] == ["The data contain a shortcut"]
    assert any("at the top left" in warning and "effusion" in warning for warning in audit.warnings)


def test_an_audit_round_trips_through_json(marked):
    audit = audit_dataset(load_dataset(marked))
    assert Audit.from_json(audit.to_json()) == audit
    assert json.loads(audit.to_json())["shortcut"]["n_folds"] == 5


def test_a_class_of_one_patient_has_no_baseline_and_a_note(write_pictures):
    audit = audit_dataset(load_dataset(write_pictures({"a": 1, "b": 4})))
    assert audit.shortcut is None
    assert audit.statistics.empty
    assert audit.baseline == ""
    assert any("No shortcut baseline" in note for note in audit.notes)
    assert Audit.from_json(audit.to_json()) == audit


@pytest.fixture
def write_pictures(tmp_path):
    def write(counts):
        rng = np.random.default_rng(0)
        for name, count in counts.items():
            (tmp_path / name).mkdir()
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(tmp_path / name / f"{number}.png")
        return tmp_path

    return write


def test_statistics_of_many_images_are_those_of_a_sample(marked):
    copies = [marked / "effusion" / name for name in ("copy1.png", "copy2.png")]
    first = min((marked / "effusion").glob("*.png"))
    for copy in copies:
        copy.write_bytes(first.read_bytes())
    dataset, progress = load_dataset(marked), []
    audit = audit_dataset(dataset, max_measured=60, on_progress=lambda *counts: progress.append(counts))
    for copy in copies:
        copy.unlink()
    assert any("a random sample of 60 of 152 images" in note for note in audit.notes)
    assert sum(sum(counts.values()) for counts in audit.formats.values()) == 60
    assert sum(audit.n_images) == 152
    assert audit.shortcut.is_warning
    assert len(audit.found_duplicates) == 2
    assert {(152, 152), (60, 60)} <= set(progress)


@pytest.mark.slow
def test_the_aspect_ratio_separates_covid_from_no_finding_in_real_radiographs(test_data):
    audit = automl_cxr.audit(test_data / "data" / "covid3")
    assert audit.shortcut.is_warning
    ratio = audit.statistics.set_index("statistic").loc["aspect_ratio"]
    assert ratio["separates"] == "covid from no_finding"
    assert ratio["share"] > 0.98
    assert list(audit.duplicates["image"]) == ["no_finding/00002658_002.jpg"]


def test_pages_show_pairs_of_images_unless_the_files_are_missing(write_pictures):
    folder = write_pictures({"a": 3, "b": 3})
    (folder / "b" / "copy.png").write_bytes((folder / "a" / "0.png").read_bytes())
    audit = audit_dataset(load_dataset(folder))
    assert len(audit.conflicts) == 1
    sections = {section.title: section for section in audit_sections(audit)}
    pictures = [part for part in sections["Duplicates"].parts if isinstance(part, Pictures)]
    assert pictures[0].pictures[0].pixels.shape == (200, 404)
    assert "a/0.png (a) and b/copy.png (b)" in render_page("Audit", list(sections.values()))
    (folder / "b" / "copy.png").unlink()
    assert "b/copy.png" in render_page("Audit", audit_sections(audit))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Draw images with two findings, of which one has a bright corner, and a copy with a contradicting label."""
    folder = tmp_path_factory.mktemp("several")
    random = np.random.default_rng(0)
    rows = ["path,patient_id,Tube,Mass"]
    for number in range(80):
        pixels = random.integers(0, 120, (96, 96), np.uint8)
        has_tube, has_mass = number % 3 == 0, number % 4 < 2
        if has_tube:
            pixels[:12, :12] = 255
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        rows.append(f"{number:02}.png,P{number // 2},{int(has_tube)},{'' if number % 10 == 9 else int(has_mass)}")
    for number, mass in ((0, 0), (9, 1)):  # the mass of image 0 is present, and that of image 9 is unknown
        (folder / f"copy{number}.png").write_bytes((folder / f"{number:02}.png").read_bytes())
        rows.append(f"copy{number}.png,C{number},{int(number % 3 == 0)},{mass}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def test_the_shortcut_of_each_finding_is_reported(several):
    audit = audit_dataset(load_dataset(several))
    scores = audit.shortcut_by_finding.set_index("finding")
    assert (audit.n_all, list(scores["images"])) == (82, [29, 37])
    assert scores.loc["Tube", "low"] > 0.95
    assert scores.loc["Mass", "low"] < 0.6
    assert audit.shortcut.macro_auc == pytest.approx(scores["auc"].mean())
    warning = audit.warnings[0]
    assert "single findings, 'Tube' " in warning
    assert "Mass" not in warning
    assert audit.statistics.set_index("statistic").loc["brightness_top_left", "Tube"] == 1
    assert Audit.from_json(audit.to_json()) == audit
    assert "ROC AUC of the shortcut baseline" in render_page("Audit", audit_sections(audit))


def test_copies_with_contradicting_findings_are_dropped(several, tmp_path):
    audit = automl_cxr.audit(several, fix=tmp_path / "clean.csv")
    assert len(audit.duplicates) == 2
    assert audit.conflicts[["image", "conflicting"]].to_numpy().tolist() == [["copy0.png", "Mass"]]
    clean = load_dataset(tmp_path / "clean.csv")
    assert set(audit_dataset(load_dataset(several)).duplicates["image"]) == {"copy0.png", "copy9.png"}
    assert len(clean.table) == 79
    assert not {"00.png", "copy0.png"} & {image.rpartition("/")[2] for image in clean.table["image"]}
    kept = next(image for image in clean.table["image"] if image.endswith("/09.png"))
    assert clean.labels_of([kept]).tolist() == [[1, -1]]


def with_metadata(folder, age_of):
    """Write the phantoms' metadata.csv with a random sex and an age that ``age_of`` returns for the label."""
    rng = np.random.default_rng(0)
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    patients = table.drop_duplicates("patient_id").set_index("patient_id")["label"]
    table["sex"] = table["patient_id"].map({patient: rng.choice(["F", "M"]) for patient in patients.index})
    table["age"] = table["patient_id"].map({patient: age_of(label, rng) for patient, label in patients.items()})
    table.to_csv(folder / "metadata.csv", index=False)
    return folder


def test_metadata_that_predict_the_class_are_reported(tmp_path):
    folder = draw_phantoms(tmp_path / "data", n_images=120, image_size=32, seed=5)
    audit = audit_dataset(load_dataset(with_metadata(folder, lambda label, _rng: 70 if label == "effusion" else 30)))
    assert audit.metadata_columns == ("sex", "age")
    assert audit.metadata_shortcut.is_warning
    assert "a logistic regression on sex and age, without the image, reaches macro-F1" in audit.metadata_baseline
    assert any(warning.startswith("The metadata predict the labels without the image") for warning in audit.warnings)
    assert Audit.from_json(audit.to_json()) == audit
    shown = render_page("Audit", audit_sections(audit))
    assert "Metadata baseline" in shown


def test_metadata_without_a_relation_to_the_class_are_no_warning(tmp_path):
    folder = draw_phantoms(tmp_path / "data", n_images=120, image_size=32, seed=5)
    audit = audit_dataset(load_dataset(with_metadata(folder, lambda _label, rng: int(rng.integers(20, 90)))))
    assert audit.metadata_shortcut.low < 0.45
    assert not audit.metadata_shortcut.is_warning


def test_metadata_baseline_of_findings(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["path,sex,mass,edema"]
    for number in range(80):
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        mass = number % 2
        rows.append(f"{number}.png,{'F' if (number // 2) % 10 < 9 * mass else 'M'},{mass},{rng.integers(2)}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    audit = audit_dataset(load_dataset(tmp_path, DataOptions(task="multilabel")))
    aucs = audit.metadata_by_finding.set_index("finding")["auc"]
    assert aucs["mass"] > 0.85
    assert abs(aucs["edema"] - 0.5) < 0.2
    assert "of single findings, 'mass'" in " ".join(audit.warnings)


def test_data_without_metadata_have_no_metadata_baseline(plain):
    audit = audit_dataset(load_dataset(plain))
    assert audit.metadata_shortcut is None
    assert audit.metadata_baseline == ""
