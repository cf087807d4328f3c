"""Tables of public data sets: one row for each, which the reader of tables follows.

Column names are compared regardless of case and separators. The sources are the files of the data sets' publishers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from automl_cxr.data.table_columns import COLUMN_NAMES, Columns

_CHEXPERT = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"),
)


@dataclass(frozen=True)
class Join:
    """A further table of a data set.

    Attributes:
        pattern: Name pattern of its file; several are separated by a vertical bar, and the first that exists is used.
        keys: Columns by which the rows are matched.
        other_key: The one column of the further table that contains the key, if its name differs.
        suffix: What follows the key in ``other_key``.
    """

    pattern: str
    keys: tuple[str, ...]
    other_key: str = ""
    suffix: str = ""


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """How the tables of a data set are read.

    Attributes:
        name: Name for ``--layout``.
        description: Description for messages.
        tables: Name pattern of each table with the part that it lists; the first one must exist. Alternatives are separated by
            vertical bars.
        header: Names of columns that the first table must have.
        columns: Accepted names of columns, where they differ from the general ones.
        findings: Names of the columns of findings; empty for a label column.
        positions: Names of the columns of a table without a header.
        joins: Further tables.
        labels: Class of each label, where they differ.
        patient: Regular expression for the patient in the listed path; empty if a column contains the patients.
        keep: Columns with the texts of the rows to use.
        unlabelled: Labels that do not state a finding.
        id_pattern: Regular expression for the name of the image in the column of images; empty for the whole text.
        joined_views: Whether all columns with an accepted name of the view are used.
        part_lists: Names of text files beside the table that list the images of a part, with the part; later ones take
            precedence.
        image_folders: How the names of the folders of images begin, of which a data folder must have one; other folders may be
            classes, into which a user has sorted the images. Empty if this is not checked.
        empty_last_name: As in ``csv_io.read_text_table``.
        unique_names: Whether names are unique in the data set, so that of several files with a name the first is used.
    """

    name: str
    description: str = ""
    tables: tuple[tuple[str, str], ...] = ()
    header: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    joins: tuple[Join, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    patient: str = ""
    keep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unlabelled: frozenset[str] = frozenset()
    id_pattern: str = ""
    joined_views: bool = False
    part_lists: Mapping[str, str] = field(default_factory=dict)
    image_folders: tuple[str, ...] = ()
    empty_last_name: bool = False
    unique_names: bool = False

    @property
    def names(self) -> Columns:
        """Accepted names of all columns."""
        return {**COLUMN_NAMES, **self.columns}


GENERAL = TableFormat(name="csv")

PUBLIC_SETS = (
    TableFormat(
        name="chexpert",
        description="CheXpert: train.csv and valid.csv beside folders of patients",
        tables=(("train.csv", "train"), ("valid.csv", "valid"), ("test_labels.csv|test.csv", "test")),
        header=("Path", "Pleural Effusion", "Support Devices"),
        columns={"view": ("AP/PA", "Frontal/Lateral")},
        findings=_CHEXPERT,
        patient=r"patient\d+",
        joined_views=True,
    ),
    TableFormat(
        name="mimic",
        description="MIMIC-CXR-JPG: the tables split, metadata and chexpert or negbio beside the folder files",
        tables=(("mimic-cxr-*-split.csv*", ""),),
        header=("dicom_id", "study_id", "subject_id", "split"),
        columns={"image": ("dicom_id",), "patient_id": ("subject_id",), "view": ("ViewPosition",)},
        findings=_CHEXPERT,
        joins=(
            Join("mimic-cxr-*-metadata.csv*", ("dicom_id",)),
            Join("mimic-cxr-*-chexpert.csv*|mimic-cxr-*-negbio.csv*", ("subject_id", "study_id")),
        ),
    ),
    TableFormat(
        name="padchest",
        description="PadChest: PADCHEST_chest_x_ray_images_labels*.csv beside the images",
        tables=(("*chest_x_ray_images_labels*|PADCHEST*.csv*", ""),),
        header=("ImageID", "Labels", "PatientID", "Projection"),
        columns={"image": ("ImageID",), "label": ("Labels",), "view": ("Projection",)},
        unlabelled=frozenset({"exclude", "unchanged", "suboptimal study"}),
    ),
    TableFormat(
        name="vindr",
        description="VinDr-CXR: image_labels_train.csv and image_labels_test.csv beside folders of images",
        tables=(("image_labels_train.csv", "train"), ("image_labels_test.csv", "test")),
        header=("image_id", "No finding"),
        columns={"image": ("image_id",)},
    ),
    TableFormat(
        name="vindr-kaggle",
        description="VinBigData on Kaggle: train.csv with a row for each box and reader",
        tables=(("train.csv", ""),),
        header=("image_id", "class_name", "class_id", "rad_id"),
        columns={"image": ("image_id",), "label": ("class_name",)},
    ),
    TableFormat(
        name="rsna",
        description="RSNA Pneumonia Detection Challenge: stage_2_train_labels.csv beside folders of DICOM files",
        tables=(("stage_2_train_labels.csv|stage_1_train_labels.csv", ""),),
        header=("patientId", "Target"),
        columns={"image": ("patientId",), "label": ("Target",)},
        joins=(Join("stage_*_detailed_class_info.csv", ("patientId",)),),
        labels={"1": "Lung Opacity", "0": "no Lung Opacity"},
    ),
    TableFormat(
        name="covidx",
        description="COVIDx: train.txt, val.txt and test.txt beside folders of images",
        tables=(("train.txt", "train"), ("val.txt", "valid"), ("test.txt", "test")),
        positions=("patient_id", "image", "label", "source"),
        columns={"image": ("image",)},
    ),
    TableFormat(
        name="ieee8023",
        description="ieee8023/covid-chestxray-dataset: metadata.csv beside the folder images",
        tables=(("metadata.csv", ""),),
        header=("patientid", "finding", "modality", "folder", "filename"),
        columns={"image": ("filename",), "label": ("finding",)},
        keep={"modality": ("X-ray",)},
    ),
    TableFormat(
        name="siim-covid",
        description="SIIM-FISABIO-RSNA COVID-19: train_image_level.csv and train_study_level.csv beside the folder train",
        tables=(("train_image_level.csv", ""),),
        header=("id", "StudyInstanceUID"),
        columns={"image": ("id",)},
        findings=("Negative for Pneumonia", "Typical Appearance", "Indeterminate Appearance", "Atypical Appearance"),
        joins=(Join("train_study_level.csv", ("StudyInstanceUID",), other_key="id", suffix="_study"),),
        id_pattern="^(.+)_image$",
    ),
    TableFormat(
        name="indiana",
        description="Indiana University collection: indiana_projections.csv and indiana_reports.csv beside the images",
        tables=(("indiana_projections.csv", ""),),
        header=("uid", "filename", "projection"),
        columns={"image": ("filename",), "label": ("Problems",), "patient_id": ("uid",)},  # a patient has one report
        joins=(Join("indiana_reports.csv", ("uid",)),),
        unlabelled=frozenset(
            {"No Indexing", "no indexing", *(f"{word}echnical Quality of Image Unsatisfactory" for word in "Tt")}
        ),
    ),
    TableFormat(
        name="nih",
        description="NIH ChestX-ray14: Data_Entry*.csv or sample_labels.csv beside folders of images, optionally with "
        "train_val_list.txt and test_list.txt",
        tables=(("Data_Entry*.csv|sample_labels.csv", ""),),
        header=("Image Index", "Finding Labels"),
        columns={"image": ("Image Index",), "label": ("Finding Labels",)},
        part_lists={"train_val_list.txt": "train", "test_list.txt": "test"},
        image_folders=("images", "sample"),
        empty_last_name=True,  # OriginalImage[Width,Height] is split at its comma, and the header ends in a comma
        unique_names=True,
    ),
)
