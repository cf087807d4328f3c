"""The pattern of --patients, and proposals of one."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.errors import UsageError

WriteFolders = Callable[..., Path]


def patients_of(dataset: Dataset) -> dict[str, str]:
    return dict(zip(dataset.table["image"], dataset.table["patient_id"], strict=True))


@pytest.mark.parametrize(
    ("pattern", "patients"),
    [
        (r"patient\d+", ["patient1", "patient2"]),
        (r"^[^/]+/([^/]+)/", ["patient1", "patient2"]),
        (r"^(\d+)_", ["7", "8"]),
        (r"(?P<patient>\d)/s", ["1", "2"]),
        (r"nobody(\d)|patient(\d)", ["1", "2"]),  # the group that matched
    ],
)
def test_a_pattern_matches_the_path_or_the_start_of_the_name(
    write_folders: WriteFolders, pattern: str, patients: list[str]
) -> None:
    root = write_folders(["a/patient1/s1/7_img.png", "b/patient2/s1/8_img.png"])
    assert list(patients_of(load_dataset(root, DataOptions(patients=pattern))).values()) == patients


def test_a_pattern_that_matches_no_path_is_refused(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "b/2.png"])
    with pytest.raises(UsageError, match=r"must match paths below .* no patient for any of 2, such as 'a/1\.png'"):
        load_dataset(root, DataOptions(patients="person"))


def proposed_option(dataset: Dataset, root: Path) -> str | None:
    """Return the value of --patients in the proposed command."""
    for note in dataset.notes:
        if found := re.search("`(automl-cxr data inspect .*)`", note):
            *command, value = shlex.split(found[1])
            assert command == ["automl-cxr", "data", "inspect", str(root), "--patients"]
            return value
    return None


NAMES = {
    "folder of a patient": ("{label}/patient{patient:03d}/study{n}/img.png", r"patient\d+"),
    "capital and separator": ("{label}/Patient_{patient}/{n}.png", r"Patient_\d+"),
    "MIMIC-CXR": ("{label}/files/p10/p{patient:08d}/s{patient}{n}/x{n}.png", r"\bp\d{{8}}\b"),
    "BIDS": ("{label}/sub-A{patient}/ses-{n}/x.png", r"\bsub-[A-Za-z0-9]+"),
    "name": ("{label}/person{patient}_bacteria_{n}.png", r"person\d+"),
    "folder below the class": ("{label}/{patient}X/study{n}/img.png", r"^[^/]+/([^/]+)/"),
    "number before a counter": ("{label}/{patient:08d}_{n:03d}.png", r"(?:^|/)(\d+)[-_ ][^/]*$"),
    "text before a counter": ("{label}/A{patient}B_{n}.png", r"([^/]*\d[^/]*?)[-_ ]\d+\.[^./]+$"),
}


@pytest.mark.parametrize(("template", "pattern"), NAMES.values(), ids=NAMES)
def test_a_pattern_that_groups_images_is_proposed_with_the_command(
    write_folders: WriteFolders, template: str, pattern: str
) -> None:
    images = [template.format(label="ab"[patient % 2], patient=patient, n=n) for patient in range(6) for n in range(2)]
    root = write_folders(images)
    dataset = load_dataset(root)
    assert not dataset.patients_known
    assert proposed_option(dataset, root) == pattern.format()
    named = patients_of(load_dataset(root, DataOptions(patients=proposed_option(dataset, root))))
    assert len(set(named.values())) == 6


@pytest.mark.parametrize(
    "images",
    [
        [f"{label}/img_{n}.png" for label in "ab" for n in range(8)],  # the name of the class before a counter
        [f"{label}/patient{n}.png" for label in "ab" for n in range(8)],  # one image of each
        [f"{label}/images/{n}.png" for label in "ab" for n in range(8)],
        [f"{label}/shard{shard}/x{n}{shard}.png" for label in "ab" for shard in range(2) for n in range(25)],
    ],
)
def test_no_pattern_is_proposed_for_other_groups(write_folders: WriteFolders, images: list[str]) -> None:
    root = write_folders(images)
    assert proposed_option(load_dataset(root), root) is None


def test_a_pattern_for_a_part_of_the_images_says_how_many(write_folders: WriteFolders) -> None:
    images = [f"a/person{patient}_{n}.png" for patient in range(6) for n in range(2)] + [f"b/IM-{n}.png" for n in range(6)]
    dataset = load_dataset(write_folders(images))
    assert any("group 12 of 18 images into 6 patients, if 'person0' in 'a/person0_0.png' is one" in n for n in dataset.notes)


@pytest.mark.parametrize(("n_patients", "is_doubtful"), [(24, True), (23, False)])
def test_a_patient_for_each_image_is_doubtful(write_folders: WriteFolders, n_patients: int, is_doubtful: bool) -> None:
    root = write_folders([f"{n}.png" for n in range(24)])
    rows = [f"{n}.png,{'ab'[n % 2]},p{n % n_patients}" for n in range(24)]
    (root / "labels.csv").write_text("\n".join(["path,label,patient_id", *rows]) + "\n")
    assert any("Each of the 24 images with a patient has another one" in n for n in load_dataset(root).notes) is is_doubtful
