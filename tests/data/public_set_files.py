"""Small copies of public data sets and of data as people keep them: names, columns and folders, with random pictures."""

from __future__ import annotations

import csv
import gzip
import io
import json
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from openpyxl import Workbook
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian

N = 12
CHEXPERT_FINDINGS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"),
)
_RADIOGRAPH, _CT = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.2"
_REPORT = "1.2.840.10008.5.1.4.1.1.88.11"
_NIH_HEADER = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "View Position")


def pictures(root: Path, paths: Iterable[str]) -> None:
    """Write a different grey picture at each path."""
    for seed, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(file, format="PNG" if file.suffix != ".jpg" else "JPEG")


def table(path: Path, rows: Iterable[Sequence[object]], separator: str = ",") -> None:
    """Write a table; compressed if its name ends in .gz."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def dicom(path: Path, *, patient: str, view: str = "", modality: str = "DX", kind: str = _RADIOGRAPH) -> None:
    """Write a DICOM file of 8 bits; a report has no picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, kind
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{zlib.crc32(str(path).encode())}"
    file = pydicom.dataset.FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    file.PatientID, file.Modality, file.ViewPosition = patient, modality, view
    if kind != _REPORT:
        file.Rows, file.Columns, file.SamplesPerPixel, file.PhotometricInterpretation = 8, 9, 1, "MONOCHROME2"
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
        file.PixelData = np.random.default_rng(len(path.name)).integers(0, 256, (8, 9), dtype=np.uint8).tobytes()
    file.save_as(path, enforce_file_format=True)


# Public data sets


def chexpert(root: Path, folder: str = "CheXpert-v1.0-small", tables: str = "CheXpert-v1.0-small") -> None:
    """Write 12 frontal and 12 lateral images of 12 patients; each third patient has an uncertain effusion."""
    head = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS]
    for part, first in (("train", 1), ("valid", 64541)):
        rows = [head]
        for n in range(6):
            for view in ("frontal", "lateral"):
                path = f"{part}/patient{first + n:05}/study1/view1_{view}.jpg"
                states = dict.fromkeys(CHEXPERT_FINDINGS, "") | {"Pleural Effusion": ("1.0", "0.0", "-1.0")[n % 3]}
                states |= {"Support Devices": "1.0"}
                listed = f"CheXpert-v1.0-small/{path}"
                rows.append([listed, "F", 60, view.title(), "PA" if view == "frontal" else "", *states.values()])
                pictures(root, [f"{folder}/{path}"])
        table(root / tables / f"{part}.csv", rows)


def chexpert_batches(root: Path) -> None:
    """Write CheXpert as the large version is distributed: the tables are in one of several folders."""
    tables = "CheXpert-v1.0 batch 1 (validate & csv)"
    chexpert(root, "CheXpert-v1.0 batch 2 (train 1)", tables)
    (root / "CheXpert-v1.0 batch 2 (train 1)" / "valid").rename(root / tables / "valid")


def mimic(root: Path, tables: str = "2.0.0") -> None:
    """Write 8 studies of 8 patients, half of them with two views, as a recursive download stores them."""
    split = [["dicom_id", "study_id", "subject_id", "split"]]
    meta = [["dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition"]]
    labels = [["subject_id", "study_id", *CHEXPERT_FINDINGS]]
    for n in range(8):
        subject, study = 10000032 + n, 50414267 + n
        states = dict.fromkeys(CHEXPERT_FINDINGS, "") | {"Edema": ("1.0", "0.0")[n % 2], "Fracture": "1.0"}
        labels.append([subject, study, *states.values()])
        for view in ("PA", "LATERAL")[: 1 + n % 2]:
            image = f"{n:08x}-{view.lower()}"
            pictures(root, [f"2.0.0/files/p10/p{subject}/s{study}/{image}.jpg"])
            split.append([image, study, subject, "validate" if n == 3 else "test" if n > 5 else "train"])
            meta.insert(1, [image, subject, study, "CHEST (PA AND LAT)", view])
    for name, rows in (("split", split), ("metadata", meta), ("chexpert", labels), ("negbio", labels)):
        table(root / tables / f"mimic-cxr-2.0.0-{name}.csv.gz", rows)
    (root / "robots.txt").write_text("User-agent: *\nDisallow: /\n")


def mimic_apart(root: Path) -> None:
    """Write the tables of MIMIC-CXR-JPG in a folder beside that of the images."""
    mimic(root, "tables")


def padchest(root: Path, folders: bool = True, suffix: str = "") -> None:
    """Write 12 images of 6 patients, of which 3 are excluded and 3 have no label."""
    texts = ["['normal']", "['pneumonia', 'COPD signs']", "['exclude']", ""] * 3
    rows = [["", "ImageID", "ImageDir", "PatientID", "Projection", "MethodLabel", "Labels"]]
    views = ("PA", "L", "AP_horizontal", "COSTAL")
    rows += [[n, f"{n}_a.png", n % 2, n // 2, views[n % 4], "Physician", text] for n, text in enumerate(texts)]
    table(root / f"PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv{suffix}", rows)
    pictures(root, [f"{n % 2 if folders else 'images-224'}/{n}_a.png" for n in range(N)])


def padchest_flat(root: Path) -> None:
    """Write PadChest with all images in one folder and a compressed table."""
    padchest(root, folders=False, suffix=".gz")


def padchest_packed(root: Path) -> None:
    """Write PadChest with images in archives."""
    padchest(root)
    for folder in ("0", "1"):
        with zipfile.ZipFile(root / f"{folder}.zip", "w") as archive:
            for path in sorted((root / folder).iterdir()):
                archive.write(path, path.name)
                path.unlink()
        (root / folder).rmdir()


def vindr(root: Path) -> None:
    """Write 12 images; two of three readers see pneumonia on each second one, and one reader a nodule."""
    names = ["Nodule/Mass", "Pneumonia", "No finding"]
    train, test = [["image_id", "rad_id", *names]], [["image_id", *names]]
    for n in range(8):
        train += [[f"{n:032x}", f"R{r}", int(r == 2), n % 2 * (r < 2), 1 - n % 2 * (r < 2)] for r in range(3)]
    test += [[f"{n:032x}", 0, n % 2, 1 - n % 2] for n in range(8, N)]
    table(root / "annotations" / "image_labels_train.csv", train)
    table(root / "annotations" / "image_labels_test.csv", test)
    pictures(root, [f"{'train' if n < 8 else 'test'}/{n:032x}.dicom" for n in range(N)])


def vindr_kaggle(root: Path) -> None:
    """Write 12 images of which 8 have boxes of three readers; two of them see a mass on each second one."""
    rows = [["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]]
    for n in range(8):
        for reader in range(3):
            is_ill = n % 2 and reader < 2
            rows += [[f"{n:032x}", "Mass" if is_ill else "No finding", 1, f"R{reader}", 1, 2, 3, 4]] * (1 + is_ill)
    table(root / "train.csv", rows)
    pictures(root, [f"{'train' if n < 8 else 'test'}/{n:032x}.dicom" for n in range(N)])


def rsna(root: Path) -> None:
    """Write 12 images with labels, half of them with two boxes, and one without labels."""
    rows, kinds = [["patientId", "x", "y", "width", "height", "Target"]], [["patientId", "class"]]
    for n in range(N):
        rows += [[f"{n:08x}", box, 2, 3, 4, 1] for box in range(2)] if n % 2 else [[f"{n:08x}", "", "", "", "", 0]]
        kinds.append([f"{n:08x}", ("Normal", "Lung Opacity", "No Lung Opacity / Not Normal", "Lung Opacity")[n % 4]])
        dicom(root / "stage_2_train_images" / f"{n:08x}.dcm", patient=f"{n:08x}", view="AP" if n % 3 else "PA")
    dicom(root / "stage_2_test_images" / "ff.dcm", patient="ff")
    table(root / "stage_2_train_labels.csv", rows)
    table(root / "stage_2_detailed_class_info.csv", kinds)


def nih(root: Path) -> None:
    """Write 12 images of 4 patients in two folders, with lists of parts."""
    findings = ("No Finding", "Effusion|Mass", "Atelectasis")
    rows = [[f"{n // 3 + 1:08}_{n % 3:03}.png", findings[n % 3], n % 3, n // 3 + 1, ("PA", "AP")[n % 2]] for n in range(N)]
    table(root / "Data_Entry_2017.csv", [_NIH_HEADER, *rows])
    pictures(root, [f"images_00{n // 6 + 1}/images/{row[0]}" for n, row in enumerate(rows)])
    (root / "train_val_list.txt").write_text("\n".join(str(row[0]) for row in rows[:9]))
    (root / "test_list.txt").write_text("\n".join(str(row[0]) for row in rows[9:]))


def covidx(root: Path) -> None:
    """Write 12 images in three parts; positive images have 3 patients."""
    parts = {"train": range(6), "val": range(6, 8), "test": range(8, N)}
    for part, numbers in parts.items():
        lines = [f"p{n // 4 if n % 2 else n + 90} {n}.png {'positive' if n % 2 else 'negative'} ricord" for n in numbers]
        (root / f"{part}.txt").write_text("\n".join(lines))
        pictures(root, [f"{part}/{n}.png" for n in numbers])


def ieee8023(root: Path) -> None:
    """Write 12 images of 6 patients, of which one has no label yet and two are computed tomographies; and a mask."""
    rows = [["patientid", "finding", "view", "modality", "folder", "filename", "clinical_notes"]]
    for n in range(N):
        finding = "todo" if n == 0 else ("Pneumonia/Viral/COVID-19", "No Finding")[n % 2]
        rows.append([n // 2 + 3, finding, ("PA", "L")[n % 3 == 1], "CT" if n > 9 else "X-ray", "images", f"{n}.png", "a,\nb"])
    table(root / "metadata.csv", rows)
    pictures(root, [*(f"images/{n}.png" for n in range(N)), "annotations/lungVAE-masks/1_mask.png"])


def siim_covid(root: Path) -> None:
    """Write 12 studies with one image each, and two images without labels."""
    images, studies = [["id", "boxes", "label", "StudyInstanceUID"]], [["id", "Negative for Pneumonia", "Typical Appearance"]]
    for n in range(N):
        images.append([f"{n:012x}_image", "", "none 1 0 0 1 1", f"study{n}"])
        studies.insert(1, [f"study{n}_study", int(n % 2 == 0), n % 2])
    table(root / "train_image_level.csv", images)
    table(root / "train_study_level.csv", studies)
    pictures(root, [*(f"train/study{n}/series/{n:012x}.dcm" for n in range(N)), *(f"test/s{n}/s/{n}.dcm" for n in range(2))])


def tuberculosis(root: Path) -> None:
    """Write the Montgomery set: 12 images with masks and readings."""
    names = [f"MCUCXR_{n:04}_{n % 2}" for n in range(N)]
    pictures(root, [f"{folder}/{name}.png" for folder in ("CXR_png", "ManualMask/leftMask") for name in names])
    table(root / "ClinicalReadings" / f"{names[0]}.txt", [["Patient's Sex: F"], ["normal"]])
    (root / "CXR_png" / "Thumbs.db").write_bytes(b"x")


def present_tuberculosis(root: Path) -> None:
    """Write the Shenzhen set as it is distributed now: a table of findings in free text beside the images and masks."""
    names = [f"CHNCXR_{n:04}_{n % 2}.png" for n in range(N)]
    pictures(root, [f"images/{name}" for name in names])
    pictures(root, [f"mask/{name[:-4]}_mask.png" for name in names])
    table(root / "shenzhen_metadata.csv", [["study_id", "sex", "age", "findings"], *([name, "M", 40, name] for name in names)])


def both_tuberculosis(root: Path) -> None:
    """Write the Montgomery and the Shenzhen set in one folder."""
    tuberculosis(root / "MontgomerySet")
    pictures(root, [f"ChinaSet_AllFiles/CXR_png/CHNCXR_{n:04}_{n % 2}.png" for n in range(N)])


def radiography(root: Path) -> None:
    """Write the COVID-19 Radiography Database: images, masks and a workbook for each class."""
    for label in ("COVID", "Normal", "Viral Pneumonia"):
        folder = root / "COVID-19_Radiography_Dataset" / label
        pictures(folder, [f"{kind}/{label}-{n}.png" for kind in ("images", "masks") for n in range(4)])
        workbook(folder.parent / f"{label}.metadata.xlsx", {"Sheet1": [["FILE NAME", "FORMAT"], [f"{label}-0", "PNG"]]})


def kermany(root: Path) -> None:
    """Write the paediatric set: 48 images, of which 8 for validation; half of them with a person in the name."""
    for part, n_images in (("train", 12), ("val", 4), ("test", 8)):
        names = [f"NORMAL/IM-{n:04}-0001.jpeg" for n in range(n_images)]
        names += [f"PNEUMONIA/person{n // 2}{part}_bacteria_{n}.jpeg" for n in range(n_images)]
        pictures(root / "chest_xray" / part, names)
    (root / "chest_xray" / ".DS_Store").write_bytes(b"x")
    (root / "__MACOSX" / "chest_xray" / "train" / "NORMAL").mkdir(parents=True)
    (root / "__MACOSX" / "chest_xray" / "train" / "NORMAL" / "._IM-0000-0001.jpeg").write_bytes(b"x")


def bimcv(root: Path, labels: str = "derivatives/labels/labels_posi.tsv") -> None:
    """Write 12 images of 4 subjects as BIDS names them, with lists of findings in a table in another folder."""
    texts = ["['normal']", "['COVID 19', 'pneumonia']", "['pneumonia']"]
    rows = [["PatientID", "ReportID", "filename", "Labels", "view"]]
    for n in range(N):
        subject, session = f"sub-S{3044 + n // 3:05}", f"ses-E{6000 + n:05}"
        name = f"{subject}_{session}_run-1_bp-chest_{'vp-ap' if n % 2 else 'vp-ll'}_cr.png"
        rows.append([subject, n, name, texts[n % 3], "ap" if n % 2 else "ll"])
        pictures(root, [f"{subject}/{session}/mod-rx/{name}"])
        (root / subject / session / "mod-rx" / name).with_suffix(".json").write_text("{}")
    table(root / labels, rows, "\t")


def bimcv_table(root: Path) -> None:
    """Write the same with the table beside the subjects."""
    bimcv(root, "labels_posi.tsv")


def siim_acr(root: Path) -> None:
    """Write 12 DICOM files of 6 patients with the run lengths of a mask, one of them with two masks; and two without labels."""
    rows = [["ImageId", " EncodedPixels"]]
    for n in range(N):
        name = f"1.2.276.0.7230010.3.1.4.8323329.{n}"
        dicom(root / "dicom-images-train" / f"1.2.{n}" / f"1.3.{n}" / f"{name}.dcm", patient=f"p{n // 2}", view="PA")
        rows.append([name, " -1" if n % 2 else f" {n + 9} 5 3000 6"])
    rows.append([rows[1][0], " 99 4"])
    for n in range(2):
        dicom(root / "dicom-images-test" / f"1.4.{n}" / f"1.5.{n}" / f"1.6.{n}.dcm", patient=f"q{n}", view="PA")
    table(root / "train-rle.csv", rows)


def object_cxr(root: Path) -> None:
    """Write 12 images with a column of boxes, which is empty for half of them."""
    rows = [[f"{n:05}.jpg", "" if n % 2 else f"2 {n} 200 300 400;0 1 2 3 4"] for n in range(N)]
    table(root / "train.csv", [["image_name", "annotation"], *rows])
    pictures(root, [f"train/{row[0]}" for row in rows])


def indiana(root: Path) -> None:
    """Write the Indiana collection: two images of each report in one table, and the reports, whose images are not named."""
    files = [[n, f"{n}_IM-{n}-{view}001.dcm.png", name] for n in range(N) for view, name in ((1, "Frontal"), (2, "Lateral"))]
    problems = ("normal", "Opacity;Cardiomegaly", "Cardiomegaly", "No Indexing")
    reports = [[n, problems[n % 4], "Xray Chest PA and Lateral", f"text {n}"] for n in range(N)]
    table(root / "indiana_projections.csv", [["uid", "filename", "projection"], *files])
    table(root / "indiana_reports.csv", [["uid", "Problems", "image", "findings"], *reports])
    pictures(root, [f"images/images_normalized/{row[1]}" for row in files])


def jsrt(root: Path) -> None:
    """Write raw files of the Japanese set, which have no header."""
    for n in range(4):
        file = root / "All247images" / f"JPC{'LN'[n % 2]}N{n:03}.IMG"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(np.arange(n, 4096 + n, dtype=">u2").tobytes())


def arrays(root: Path) -> None:
    """Write images and labels as arrays for two parts."""
    for part, n_images in (("train", N), ("test", 6)):
        values = np.random.default_rng(n_images).integers(0, 256, (n_images, 8, 8), dtype=np.uint8)
        np.save(root / f"X_{part}.npy", values)
        np.save(root / f"y_{part}.npy", np.arange(n_images) % 2)


def archive_of_arrays(root: Path) -> None:
    """Write images and several findings of two parts in one file, as MedMNIST does."""
    found = {}
    for part, n_images in (("train", N), ("test", 6)):
        found[f"{part}_images"] = np.random.default_rng(n_images).integers(0, 256, (n_images, 8, 8), dtype=np.uint8)
        found[f"{part}_labels"] = np.array([[n % 2, n % 3 == 0, 1] for n in range(n_images)], dtype=np.uint8)
    np.savez(root / "data.npz", **found)


# Data of hospitals and people


def hospital(root: Path) -> None:
    """Write an export of 6 patients without suffixes: two views each, a slice, a report and an index; labels in a table."""
    rows = [["path", "diagnosis"]]
    for n in range(6):
        for place, view in enumerate(("PA", "LL")):
            path = f"DICOM/PA{n:06}/ST000000/SE{place:06}/IM000001"
            dicom(root / path, patient=f"{100 + n}", view=view)
            rows.append([path, ("normal", "pneumonia")[n % 2]])
        for place, (modality, kind) in enumerate((("CT", _CT), ("SR", _REPORT)), start=2):
            path = f"DICOM/PA{n:06}/ST000000/SE{place:06}/IM000001"
            dicom(root / path, patient=f"{100 + n}", modality=modality, kind=kind)
            rows.append([path, "normal"])
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 100)
    table(root / "labels.csv", rows)


def workbook(path: Path, sheets: dict[str, Sequence[Sequence[object]]]) -> None:
    """Write an Excel workbook."""
    book = Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def _own(root: Path, names: Sequence[str] = ()) -> list[list[str]]:
    """Write 12 images and return their paths with labels."""
    paths = list(names) or [f"images/scan {n:02}.png" for n in range(N)]
    pictures(root, paths)
    return [[path, ("normal", "pneumonia")[n % 2]] for n, path in enumerate(paths)]


def accents(root: Path) -> None:
    """Write names with accents that are encoded as macOS does in the files and as other systems do in the table."""
    rows = _own(root, [unicodedata.normalize("NFD", f"images/Röntgen {n:02}.png") for n in range(N)])
    table(root / "labels.csv", [["path", "label"], *([unicodedata.normalize("NFC", path), label] for path, label in rows)])


def other_names(root: Path) -> None:
    """Write a table whose columns have names of another language, beside other debris of a shared folder."""
    rows = [[path, label, f"P{n // 4}{n % 2}"] for n, (path, label) in enumerate(_own(root))]
    table(root / "daten.csv", [["Bilddatei", "Befund", "Patientennummer"], *rows])
    (root / "~$daten.xlsx").write_bytes(b"\5user" + b"\0" * 100)
    (root / "images" / "desktop.ini").write_text("[x]")


def several_findings(root: Path) -> None:
    """Write labels with a semicolon between findings."""
    texts = ["normal", "Effusion;Mass", "Mass", "Effusion"] * 3
    table(root / "labels.csv", [["path", "label"], *([row[0], text] for row, text in zip(_own(root), texts, strict=True))])


def numbered_parts(root: Path) -> None:
    """Write a column split with numbers."""
    table(root / "labels.csv", [["path", "label", "split"], *([*row, n % 3] for n, row in enumerate(_own(root)))])


def title_line(root: Path) -> None:
    """Write a table with a line above its header."""
    table(root / "labels.csv", [["Our labels 2024"], ["path", "label"], *_own(root)])


def two_sheets(root: Path) -> None:
    """Write a workbook with a second sheet."""
    workbook(root / "labels.xlsx", {"labels": [["path", "label"], *_own(root)], "notes": [["by me"]]})


def json_labels(root: Path) -> None:
    """Write labels in another format than a table."""
    (root / "labels.json").write_text(json.dumps(_own(root)))


def images_of_a_table(root: Path) -> None:
    """Write the images in a folder of their own, and the table in the folder above."""
    table(root / "labels.csv", [["path", "label"], *_own(root)])
    (root / "images").rename(root / "data")


def sources(root: Path) -> None:
    """Write folders of two sources, of which one has a further class."""
    labels = {"github": ("covid", "normal", "tuberculosis"), "kaggle": ("covid", "normal")}
    pictures(root, [f"{source}/{label}/{n}.png" for source, found in labels.items() for label in found for n in range(6)])


def sexes(root: Path) -> None:
    """Write class folders that are divided by sex and by projection."""
    folders = [f"{label}/{sex}/{view}" for label in ("covid", "normal") for sex in ("female", "male") for view in ("PA", "AP")]
    pictures(root, [f"{folder}/{n}.png" for folder in folders for n in range(2)])


def extra_folders(root: Path) -> None:
    """Write class folders beside folders of figures."""
    pictures(root, [f"{folder}/{n}.png" for folder in ("normal", "pneumonia", "figures", "train_preview") for n in range(6)])


def packed(root: Path) -> None:
    """Write a data set that is still an archive."""
    with zipfile.ZipFile(root / "chests.zip", "w") as archive:
        archive.writestr("chests/normal/1.png", b"x")
