"""Decoding and resizing of image files for the networks of a classifier."""

import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from automl_cxr import api
from automl_cxr.data.dataset import load_image_paths
from automl_cxr.ensemble.combiners import WeightedAverage
from automl_cxr.errors import DataError
from automl_cxr.results.classifier import Classifier, LoadedClassifier, Member, classifier_of_trial, load_ensemble


@pytest.fixture(scope="module")
def trial(finished) -> Classifier:
    return classifier_of_trial(finished._store)


def with_fits(classifier: Classifier, *fits: str) -> Classifier:
    member = classifier.members[0]
    members = tuple(Member(member.file, member.image_size, fit) for fit in fits)
    rule = WeightedAverage(np.ones(len(fits)))
    return Classifier(
        "changed", classifier.study, classifier.split_digest, members, rule, classifier.classes, classifier.predictions
    )


def test_each_member_gets_the_image_with_its_own_fit(trial, tmp_path):
    wide = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (32, 1))
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide[:, 32:64]).save(tmp_path / "centre.png")
    files = [tmp_path / "wide.png", tmp_path / "centre.png"]
    stretched, padded, cropped = (with_fits(trial, fit).predict(files)[0] for fit in ("stretch", "pad", "crop"))
    assert cropped[0] == pytest.approx(cropped[1], abs=1e-6)
    assert not np.allclose(stretched[0], padded[0], atol=1e-6)
    averaged = with_fits(trial, "pad", "crop").predict(files)[0]
    assert averaged == pytest.approx((padded + cropped) / 2, abs=1e-6)


def test_the_mirrored_view_does_not_depend_on_the_side(finished, trial, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture[:, ::-1]).save(tmp_path / "mirrored.png")
    files = [tmp_path / "a.png", tmp_path / "mirrored.png"]
    plain, averaged = trial.predict(files)[0], trial.with_mirrored_view().predict(files)[0]
    assert averaged[0] == pytest.approx(plain.mean(axis=0), abs=1e-6)
    assert averaged[1] == pytest.approx(averaged[0], abs=1e-6)
    folder = finished.ensemble(top=1, method="average", name="mirrored", mirrored=True).folder
    opened = load_ensemble(folder)
    assert opened.mirrored
    assert opened.with_mirrored_view() is opened
    loaded = LoadedClassifier(opened)
    assert loaded.predict([picture])[0] == pytest.approx(opened.predict(files)[0][0], abs=1e-6)


def test_old_records_without_a_fit_are_stretched(finished, trial):
    assert trial.members[0].fit == "stretch"
    ensemble = finished.ensemble(top=2, method="average", name="fits")
    record = json.loads((ensemble.folder / "ensemble.json").read_text())
    for row in record["members"]:
        row.pop("fit", None)
    (ensemble.folder / "ensemble.json").write_text(json.dumps(record))
    assert {member.fit for member in load_ensemble(ensemble.folder).members} == {"stretch"}
    record["members"][1]["fit"] = "pad"
    (ensemble.folder / "ensemble.json").write_text(json.dumps(record))
    assert [member.fit for member in load_ensemble(ensemble.folder).members] == ["stretch", "pad"]
    record["members"][1]["fit"] = "squash"
    (ensemble.folder / "ensemble.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="Unknown fit 'squash'"):
        load_ensemble(ensemble.folder)


def test_an_array_gets_a_row_for_each_image(trial, tmp_path):
    images = np.random.default_rng(0).random((300, 40, 32, 1))
    np.save(tmp_path / "images.npy", images)
    table, problems = api.predict(trial, [tmp_path / "images.npy"])
    assert problems == {}
    assert list(table["image"][[0, 12, 299]]) == [f"{tmp_path}/images.npy#{row:03d}" for row in (0, 12, 299)]
    Image.fromarray(np.rint(255 * images[299, :, :, 0]).astype(np.uint8)).save(tmp_path / "last.png")
    as_file, _ = api.predict(trial, [tmp_path / "last.png"])
    assert as_file.iloc[0, 2:].to_list() == pytest.approx(table.iloc[299, 2:].to_list(), abs=1e-6)


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_images(trial, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (1024, 32, 32, 1)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    files, _ = load_image_paths([tmp_path / "images.npy"])
    two_members = with_fits(trial, "stretch", "crop")
    two_members.predict(files[:256])  # allocates graphs and pools once

    def peak_memory(batch):
        tracemalloc.start()
        two_members.predict(batch)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    n_bytes_of_further_images = 512 * 2 * 32 * 32  # 512 images in two fits
    assert peak_memory(files) - peak_memory(files[:512]) < n_bytes_of_further_images / 2
