"""Each public data set, and data as people keep them: understood with the right counts, or refused with the words to type."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import automl_cxr
from automl_cxr.errors import AutomlCxrError
from tests.data import public_set_files as files


@dataclass(frozen=True)
class Seen:
    """What ``inspect`` reports. ``patients`` is None if they are unknown."""

    layout: str
    images: dict[str, int]
    patients: int | None = None
    parts: dict[str, int] = field(default_factory=dict)
    views: dict[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One command: the files, the options, the part of the data that is named, and what is expected.

    A text is a regular expression for the refusal. For several findings, the images are those with each finding.
    """

    name: str
    build: Callable[[Path], None]
    expected: Seen | str
    options: dict[str, Any] = field(default_factory=dict)
    folder: str = ""


EFFUSION = {"finding": "Pleural Effusion"}
KEEP = {"min_positives": 1}
MULTICLASS = {"task": "multiclass"}
EFFUSIONS = {"Pleural Effusion": 8, "no Pleural Effusion": 8}
ROWS = [
    Row(
        "chexpert",
        files.chexpert,
        Seen(
            "chexpert",
            {"Pleural Effusion": 8},
            12,
            {"train": 4, "valid": 4},
            {"PA": 12, "lateral": 12},
            r"left out .*: 'Support Devices' \(patients with it: 12, without it: 0\); no patient with 'Enlarged Card",
        ),
        KEEP,
    ),
    Row(
        "chexpert, one finding",
        files.chexpert,
        Seen(
            "chexpert",
            EFFUSIONS,
            8,
            {"train": 8, "valid": 8},
            {"PA": 8, "lateral": 8},
            "is uncertain for 8 and missing for 0 of 24 images: they are not used",
        ),
        EFFUSION,
    ),
    Row(
        "chexpert, uncertain as ones, frontal",
        files.chexpert,
        Seen(
            "chexpert",
            {"Pleural Effusion": 8, "no Pleural Effusion": 4},
            12,
            {"train": 6, "valid": 6},
            {"PA": 12},
            r"12 of 24 images are not used \(--projections PA,AP\): 12 lateral",
        ),
        EFFUSION | {"uncertain": "ones", "projections": ("PA", "AP")},
    ),
    Row(
        "chexpert, batches",
        files.chexpert_batches,
        r"naming its folder, '\S.* batch 1 \(validate & csv\)', with --images \S+ if",
    ),
    Row(
        "chexpert, batches, as proposed",
        files.chexpert_batches,
        Seen("chexpert", EFFUSIONS, 8, {"train": 8, "valid": 8}, {"PA": 8, "lateral": 8}),
        EFFUSION | {"images": "."},
        "CheXpert-v1.0 batch 1 (validate & csv)",
    ),
    Row("chexpert, folder of patients", files.chexpert, r"Use the folder above, .*-small \(layout chexpert\)", {}, "*/train"),
    Row(
        "mimic",
        files.mimic,
        Seen(
            "mimic",
            {"Edema": 4},
            8,
            {"train": 3, "valid": 0, "test": 1},
            {"PA": 8, "lateral": 4},
            r"12 images with findings in mimic-cxr-2\.0\.0-split\.csv\.gz, 4 of them with several \('Fracture' 12, 'Edema' 4\)",
        ),
        KEEP,
    ),
    Row(
        "mimic, one finding",
        files.mimic,
        Seen(
            "mimic",
            {"Edema": 4, "no Edema": 8},
            8,
            {"train": 7, "valid": 2, "test": 3},
            {"PA": 8, "lateral": 4},
            "data are read from the only folder, 2.0.0",
        ),
        {"finding": "Edema"},
    ),
    Row(
        "mimic, tables apart",
        files.mimic_apart,
        "none of 12 images can be used, .*Name their folder with --images",
        {},
        "tables",
    ),
    Row(
        "mimic, tables apart, as proposed",
        files.mimic_apart,
        Seen("mimic", {"Edema": 4, "no Edema": 8}, 8, {"train": 7, "valid": 2, "test": 3}, {"PA": 8, "lateral": 4}),
        {"finding": "Edema", "images": "."},
        "tables",
    ),
    Row(
        "padchest",
        files.padchest,
        Seen("padchest", {"COPD signs": 3, "pneumonia": 3}, 3, {}, {"PA": 3, "lateral": 3}, r"task multilabel"),
        KEEP,
    ),
    Row(
        "padchest, findings with few patients",
        files.padchest,
        r"5 patients with it and 5 without it; received 'COPD signs' \(patients with it: 3.* rarer .* --min-positives 3",
    ),
    Row(
        "padchest, one finding",
        files.padchest,
        Seen("padchest", {"no pneumonia": 3, "pneumonia": 3}, 3, {}, {"PA": 3, "lateral": 3}, "missing for 6 of 12 images"),
        {"finding": "pneumonia"},
    ),
    Row(
        "padchest, flat",
        files.padchest_flat,
        Seen("padchest", {"no pneumonia": 3, "pneumonia": 3}, 3, {}, {"PA": 3, "lateral": 3}),
        {"finding": "pneumonia"},
    ),
    Row("padchest, archives", files.padchest_packed, r"none of 12 images .* Unpack the archives 0\.zip, 1\.zip"),
    Row(
        "vindr", files.vindr, Seen("vindr", {"No finding": 6, "Pneumonia": 6}, None, {"train": 8, "test": 4}, note="3 readers")
    ),
    Row(
        "vindr-kaggle", files.vindr_kaggle, Seen("vindr-kaggle", {"Mass": 4, "No finding": 4}, note="4 images on disk are not")
    ),
    Row(
        "rsna",
        files.rsna,
        Seen(
            "rsna",
            {"Lung Opacity": 6, "no Lung Opacity": 6},
            12,
            {},
            {"PA": 4, "AP": 8},
            "1 images on disk are not listed in stage_2_train_labels.csv and are not used.",
        ),
    ),
    Row(
        "rsna, detailed classes",
        files.rsna,
        Seen("rsna", {"Lung Opacity": 6, "No Lung Opacity / Not Normal": 3, "Normal": 3}, 12, views={"PA": 4, "AP": 8}),
        {"label_column": "class"},
    ),
    Row(
        "nih",
        files.nih,
        Seen("nih", {"Atelectasis": 4, "Effusion": 4, "Mass": 4}, 4, {"train": 9, "test": 3}, {"PA": 6, "AP": 6}),
        KEEP,
    ),
    Row(
        "nih, one finding",
        files.nih,
        Seen("nih", {"Mass": 4, "no Mass": 8}, 4, {"train": 9, "test": 3}, {"PA": 6, "AP": 6}),
        {"finding": "Mass"},
    ),
    Row(
        "nih, folder of images",
        files.nih,
        r"Use the folder above, .* \(layout nih\); or the table .* 'Image Index'",
        {},
        "images_001",
    ),
    Row(
        "covidx",
        files.covidx,
        Seen("covidx", {"negative": 6, "positive": 6}, 9, {"train": 6, "valid": 2, "test": 4}),
    ),
    Row(
        "ieee8023",
        files.ieee8023,
        Seen(
            "ieee8023",
            {"No Finding": 5, "Pneumonia/Viral/COVID-19": 4},
            5,
            {},
            {"PA": 6, "lateral": 3},
            "^1 images on disk are not listed in metadata.csv",
        ),
    ),
    Row(
        "siim-covid",
        files.siim_covid,
        Seen("siim-covid", {"Negative for Pneumonia": 6, "Typical Appearance": 6}, note="2 images on disk are not listed"),
    ),
    Row(
        "tuberculosis",
        files.tuberculosis,
        Seen("tuberculosis", {"normal": 6, "tuberculosis": 6}, note=r"not used: ManualMask/leftMask \(12\)"),
    ),
    Row(
        "tuberculosis, present form",
        files.present_tuberculosis,
        Seen("tuberculosis", {"normal": 6, "tuberculosis": 6}, note=r"not used: mask \(12\)"),
    ),
    Row(
        "tuberculosis, label by hand",
        files.tuberculosis,
        Seen("names", {"0": 6, "1": 6}, note="12 of 24 images are masks"),
        {"label_regex": r"^MCUCXR_\d+_(\d)"},
    ),
    Row("tuberculosis, folder of images", files.tuberculosis, r"folder above, .* \(layout tuberculosis\)", {}, "CXR_png"),
    Row("tuberculosis, both", files.both_tuberculosis, r"data sets of their own \(ChinaSet_AllFiles: tub.* Use one of them, "),
    Row(
        "radiography",
        files.radiography,
        Seen("radiography", {"COVID": 4, "Normal": 4, "Viral Pneumonia": 4}, note="12 files in mask folders"),
    ),
    Row(
        "kermany",
        files.kermany,
        Seen(
            "split-folders",
            {"NORMAL": 24, "PNEUMONIA": 24},
            None,
            {"train": 24, "valid": 8, "test": 16},
            note=r"24 of 48 images into 6 patients.* --patients 'person\\d\+",
        ),
    ),
    Row(
        "kermany, new split",
        files.kermany,
        Seen("split-folders", {"NORMAL": 24, "PNEUMONIA": 24}, 12, note=r"not used \(--resplit\): train 24, valid 8, test 16"),
        {"patients": r"person\d+[a-z]+", "unknown_patients": "separate", "resplit": True},
    ),
    Row("bimcv", files.bimcv, r"are numbers or identifiers.* --labels \S+/labels_posi\.tsv --path-column filename"),
    Row(
        "bimcv, table beside it",
        files.bimcv_table,
        Seen("csv", {"COVID 19": 4, "pneumonia": 8}, 4, {}, {"AP": 6, "lateral": 6}),
        KEEP,
    ),
    Row(
        "bimcv, one finding",
        files.bimcv_table,
        Seen("csv", {"no pneumonia": 4, "pneumonia": 8}, 4, {}, {"AP": 6, "lateral": 6}),
        {"finding": "pneumonia"},
    ),
    Row("siim-acr", files.siim_acr, r"storage folders \(dicom-images-test, dicom-images-train\).* --path-column ImageId"),
    Row(
        "siim-acr, as proposed",
        files.siim_acr,
        Seen("csv", {"EncodedPixels": 6, "no EncodedPixels": 6}, 6, {}, {"PA": 12}),
        {"label_column": "EncodedPixels"},
    ),
    Row("object-cxr", files.object_cxr, r"the only folder with images.* --labels \S+/train\.csv --path-column image_name"),
    Row(
        "object-cxr, as proposed",
        files.object_cxr,
        Seen("csv", {"annotation": 6, "no annotation": 6}),
        {"labels": "train.csv"},
    ),
    Row(
        "indiana",
        files.indiana,
        Seen("indiana", {"Opacity": 6, "Cardiomegaly": 12}, 9, {}, {"frontal": 9, "lateral": 9}, "6 rows of .* not used"),
        KEEP,
    ),
    Row(
        "indiana, frontal",
        files.indiana,
        Seen(
            "indiana",
            {"no Cardiomegaly": 3, "Cardiomegaly": 6},
            9,
            {},
            {"frontal": 9},
            r"9 of 18 images are not used \(--projections frontal\): 9 lateral",
        ),
        {"finding": "Cardiomegaly", "projections": ("frontal",)},
    ),
    Row(
        "jsrt",
        files.jsrt,
        r"found none in '[^']+', but 4 other files, such as 'All247images/\S+\.IMG' .* Convert images to PNG",
    ),
    Row("arrays", files.arrays, Seen("arrays", {"0": 9, "1": 9}, None, {"train": 12, "test": 6})),
    Row(
        "archive of arrays",
        files.archive_of_arrays,
        Seen(
            "arrays",
            {"class 0": 9, "class 1": 6},
            None,
            {"train": 10, "test": 5},
            note=r"'class 2' \(patients with it: 18",
        ),
    ),
    Row("archive of arrays, one class", files.archive_of_arrays, r"with --task multiclass; .*--finding 'class 2'", MULTICLASS),
    Row(
        "archive of arrays, one finding",
        files.archive_of_arrays,
        Seen("arrays", {"class 0": 9, "no class 0": 9}, None, {"train": 12, "test": 6}),
        {"finding": "class 0"},
    ),
    Row(
        "hospital",
        files.hospital,
        Seen(
            "csv",
            {"normal": 6, "pneumonia": 6},
            6,
            {},
            {"PA": 6, "lateral": 6},
            r"12 of 24 files are not radiographs .*: 6 CT images, 6 structured reports \(SR\)",
        ),
    ),
    Row("accents", files.accents, Seen("csv", {"normal": 6, "pneumonia": 6})),
    Row(
        "other names",
        files.other_names,
        r"--path-column Bilddatei --label-column NAME \(its columns are Bilddatei, Befund, Pat",
    ),
    Row(
        "other names, as proposed",
        files.other_names,
        Seen("csv", {"normal": 6, "pneumonia": 6}, 6),
        {"label_column": "Befund", "patient_column": "Patientennummer"},
    ),
    Row(
        "several findings",
        files.several_findings,
        Seen("csv", {"Effusion": 6, "Mass": 6}, note=r"3 of them with several \('Effusion' 6, 'Mass' 6, 'normal' 3\)"),
    ),
    Row(
        "several findings, one of them",
        files.several_findings,
        Seen("csv", {"Mass": 6, "no Mass": 6}),
        {"finding": "mass"},
    ),
    Row("numbered parts", files.numbered_parts, "must contain train, valid or test; received '0', '1', '2'.*--resplit"),
    Row(
        "numbered parts, new split",
        files.numbered_parts,
        Seen("csv", {"normal": 6, "pneumonia": 6}, note="a split is made as without --resplit"),
        {"resplit": True},
    ),
    Row("title line", files.title_line, r"Not used: labels\.csv \(.*line 2 of .* has 2 instead of 1"),
    Row("two sheets", files.two_sheets, r"Not used: labels\.xlsx \(.*several sheets \(labels, notes\)"),
    Row("json", files.json_labels, r"--labels FILE; or labels in the names .* Not used: labels\.json \(save it as CSV\)"),
    Row(
        "images without their table",
        files.images_of_a_table,
        r"no labels\. Use the table .* --labels \S+/labels\.csv",
        {},
        "data",
    ),
    Row("sources", files.sources, r"folders that contain the folders covid, normal, .* --label-regex '\^\[\^/\]\+/"),
    Row(
        "sources, as proposed",
        files.sources,
        Seen("names", {"covid": 12, "normal": 12, "tuberculosis": 6}),
        {"label_regex": "^[^/]+/([^/]+)/"},
    ),
    Row("sexes", files.sexes, Seen("folders", {"covid": 8, "normal": 8}, None, {}, {"PA": 8, "AP": 8})),
    Row("extra folders", files.extra_folders, r"\(figures, train_preview\)\. Use the others, with --classes normal,pneumonia;"),
    Row("archive in a folder", files.packed, r"found none in '[^']+', but the archive chests\.zip\. Unpack it there"),
    Row("archive", files.packed, r"received the archive '\S+chests\.zip'\. Unpack it", {}, "chests.zip"),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_data_are_understood_or_refused_with_the_words_to_type(tmp_path: Path, row: Row) -> None:
    row.build(tmp_path)
    data = next(tmp_path.glob(row.folder)) if row.folder else tmp_path
    options = {name: str(tmp_path / value) if name in ("images", "labels") else value for name, value in row.options.items()}
    if isinstance(row.expected, str):
        with pytest.raises(AutomlCxrError, match=row.expected) as caught:
            automl_cxr.inspect(data, **options)
        assert "\n" not in str(caught.value)
        return
    found = automl_cxr.inspect(data, **options)
    seen = Seen(
        found.layout,
        {name: int(n) for name, n, *_ in found.classes.itertuples(index=False)},
        found.n_patients,
        {part: int(found.splits[part].sum()) for part in found.splits.columns[1:]},
        {name: n for name, n in found.views.items() if name != "unknown"},
        row.expected.note,
    )
    assert seen == row.expected
    assert any(re.search(row.expected.note, note) for note in ("", *found.notes)), found.notes
