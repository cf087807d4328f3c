"""Scores of saved models on the images of an external site."""

import math
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from automl_cxr.data import decode
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.errors import DataError, UsageError
from automl_cxr.results import external_predictions
from automl_cxr.results.classifier import load_ensemble
from automl_cxr.results.evaluation import evaluate
from automl_cxr.results.external_predictions import predict_site
from automl_cxr.results.external_sites import open_sites
from automl_cxr.scoring.confusion import confusion_matrix, f1_per_class
from automl_cxr.scoring.metrics import METRICS, metrics_for
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.image_hashes import HASHES_FILE


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    return draw_phantoms(tmp_path_factory.mktemp("sites") / "hospital", n_images=30, image_size=48, seed=9)


def trials_of(table):
    """Return the rows of the trials of a leaderboard, without the ensembles above them."""
    trials = table[table["rank"].notna()].reset_index(drop=True).infer_objects()
    trials.attrs = table.attrs
    return trials


def test_saved_models_are_scored_on_external_images_and_predict_once(finished, hospital, monkeypatch):
    steps = []
    table = trials_of(finished.leaderboard(external=[hospital], on_progress=lambda *counts: steps.append(counts)))
    n_models = steps[-1][1]  # three trials, and the ensembles of other tests that have networks
    assert n_models >= 3
    assert steps == [(number, n_models) for number in range(1, n_models + 1)]
    assert table["hospital:macro_f1"].notna().tolist() == table["has_model"].tolist()
    for row in table[table["has_model"]].to_dict(orient="records"):
        (file,) = (finished.folder / "external").glob(f"*/{row['trial']:05d}.npz")
        predictions = Predictions.from_npz(file)
        assert len(predictions) == 30
        defined = metrics_for(predictions.classes, normal_class=1)
        for name, metric in ((name, metric) for name, metric in defined.items() if name in METRICS):
            assert row[f"hospital:{name}"] == metric.function(predictions.labels, predictions.probabilities, 1)
        assert row["hospital:macro_f1_low"] <= row["hospital:macro_f1"] <= row["hospital:macro_f1_high"]
        assert row["worst_site"] == min(row["macro_f1"], row["hospital:macro_f1"])
        assert row["worst_at"] == ("validation" if row["macro_f1"] < row["hospital:macro_f1"] else "hospital")
    assert any("hospital are not" in note for note in table.attrs["notes"])
    monkeypatch.setattr(external_predictions, "predict_classifier", None)
    sorted_table = trials_of(finished.leaderboard(external=[hospital], sort="worst_site"))
    scores = [score for score in sorted_table["worst_site"] if not math.isnan(score)]
    assert scores == sorted(table["worst_site"].dropna(), reverse=True)
    assert math.isnan(sorted_table["worst_site"].iloc[-1]), "a trial without a model is last"


def test_unreadable_images_are_left_out_and_counted(finished, hospital, tmp_path):
    clinic = tmp_path / "clinic"
    shutil.copytree(hospital, clinic)
    next((clinic / "normal").glob("*.png")).write_bytes(b"no picture")
    table = trials_of(finished.leaderboard(external=[clinic]))
    assert table["clinic:n_images"].dropna().tolist() == [29, 29, 29]
    assert any("1 of 30 images of clinic cannot be read and are excluded" in note for note in table.attrs["notes"])


def test_the_predictions_equal_those_of_the_classifier(finished, hospital):
    (site,) = open_sites([hospital])
    predictions = predict_site(finished._store, site).by_model
    number = finished.best.number
    files = [hospital / image for image in predictions[number].ids]
    expected, _ = finished.classifier(number).predict(files)
    assert np.abs(predictions[number].probabilities - expected).max() < 1e-5


@pytest.fixture(scope="module")
def ensemble(finished):
    return finished.ensemble(top=2, method="average", name="on sites")


def test_ensembles_are_scored_above_the_trials_without_a_rank(finished, ensemble, hospital):
    table = finished.leaderboard(external=[hospital], n_resamples=50)
    row = table[table["trial"] == "ensemble on sites"].iloc[0]
    assert math.isnan(row["rank"])
    files = sorted(path.relative_to(hospital).as_posix() for path in hospital.rglob("*.png"))
    probabilities, _ = load_ensemble(ensemble.folder).predict([hospital / file for file in files])
    labels = np.array([finished._store.spec.classes.index(file.partition("/")[0]) for file in files])
    assert row["hospital:macro_f1"] == pytest.approx(METRICS["macro_f1"].function(labels, probabilities, 1))
    assert (row["hospital:n_images"], row["hospital:n_classes"]) == (30, 3)
    assert row["macro_f1"] == ensemble.methods.set_index("method").loc["average", "out_of_fold"]
    assert row["worst_site"] == min(row["macro_f1"], row["hospital:macro_f1"])
    assert any(note.startswith("The recommended classifier is ") for note in table.attrs["notes"])
    assert "ensemble on sites" not in set(finished.leaderboard()["trial"])


def test_an_ensemble_with_a_changed_model_is_not_scored(finished, ensemble, hospital, tmp_path):
    folder = shutil.copytree(ensemble.folder, finished.folder / "ensembles" / "damaged")
    try:
        next(folder.glob("members/*.keras")).write_bytes(b"no model")
        table = finished.leaderboard(external=[hospital], n_resamples=20)
    finally:
        shutil.rmtree(folder)
    assert "ensemble damaged" not in set(table["trial"])
    assert any("Ensemble damaged is not scored on external sites" in note for note in table.attrs["notes"])


def test_a_classifier_is_evaluated_on_a_site_with_a_part_of_the_classes(finished, ensemble, hospital, tmp_path):
    for name, other in (("normal", "healthy"), ("effusion", "effusion")):
        shutil.copytree(hospital / name, tmp_path / "clinic" / other)
    n_opened = len(finished._store.test_opened())
    found = finished.evaluate(ensemble, external=tmp_path / "clinic", class_map="healthy=normal")
    assert (found.place, len(found.predictions), found.classifier) == ("site clinic", 20, "ensemble on sites")
    assert list(found.per_class.index) == ["effusion", "normal"]
    assert found.per_class["images"].tolist() == found.confusion.sum(axis=1).tolist() == [10, 10]
    assert list(found.confusion.columns) == list(finished._store.spec.classes)
    assert "recall_opacity" not in found.scores
    interval = found.intervals["macro_f1"]
    assert interval.low <= found.scores["macro_f1"] <= interval.high
    assert "2 of 3 classes (effusion, normal; none of opacity)" in found.notes[0]
    assert len(finished._store.test_opened()) == n_opened
    table = finished.leaderboard(external=[tmp_path / "clinic"], class_map={"healthy": "normal"}, n_resamples=20)
    row = table[table["trial"] == "ensemble on sites"].iloc[0]
    assert row["clinic:macro_f1"] == found.scores["macro_f1"]


def test_a_site_is_not_combined_with_a_part_and_has_no_images_of_the_study(finished, hospital, phantoms):
    with pytest.raises(UsageError, match=r"received both\. Omit --split and --data"):
        finished.evaluate(external=hospital, part="test")
    with pytest.raises(UsageError, match="received no site"):
        finished.evaluate(class_map="a=b")
    with pytest.raises(DataError, match="identical to images of study 'done'"):
        finished.evaluate(external=phantoms)


def test_sites_that_do_not_match_the_study_are_refused(finished, hospital, phantoms, tmp_path):
    with pytest.raises(DataError, match="60 of 60 images of data are identical to images of study 'done'"):
        finished.leaderboard(external=[phantoms])
    mixed = tmp_path / "mixed"
    shutil.copytree(hospital, mixed)
    shutil.copy(next((phantoms / "normal").glob("*.png")), mixed / "normal" / "renamed.png")
    (mixed / "metadata.csv").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"1 of 31 images of mixed are identical .*, such as normal/renamed\.png"):
        finished.leaderboard(external=[mixed])
    with pytest.raises(UsageError, match="Rename one"):
        finished.leaderboard(external=[hospital, hospital])
    with pytest.raises(DataError, match="must exist"):
        finished.leaderboard(external=[tmp_path / "nowhere"])


def test_a_site_with_a_part_of_the_classes_is_scored_on_them(finished, hospital, tmp_path):
    for name, other in (("normal", "healthy"), ("effusion", "effusion"), ("opacity", "other")):
        shutil.copytree(hospital / name, tmp_path / "clinic" / other)
    options = {"external": [tmp_path / "clinic"], "class_map": "healthy=normal,other=", "n_resamples": 20}
    table = finished.leaderboard(metric="recall_opacity", **options)
    trials = trials_of(table)
    row = trials[trials["has_model"]].iloc[0]
    site = open_sites([tmp_path / "clinic"], options["class_map"])[0].for_study(finished._store)
    predictions = predict_site(finished._store, site).by_model[row["trial"]]
    assert len(predictions) == 20
    scores = [METRICS[name].function(predictions.labels, predictions.probabilities, 1) for name in ("accuracy", "fnfr")]
    assert [row["clinic:accuracy"], row["clinic:fnfr"]] == scores
    present = [predictions.classes.index(name) for name in ("effusion", "normal")]
    f1 = f1_per_class(confusion_matrix(predictions.labels, predictions.predicted, 3))[present]
    assert row["clinic:macro_f1"] == pytest.approx(f1.mean())
    assert not math.isnan(row["clinic:macro_auc"])
    assert (row["clinic:n_images"], row["clinic:n_classes"]) == (20, 2)
    assert math.isnan(row["clinic:recall_opacity"]), "a metric of an absent class"
    notes = "\n".join(table.attrs["notes"])
    assert "2 of 3 classes (effusion, normal; none of opacity)" in notes
    assert "10 of 30 images of clinic (other) are not used" in notes


class TestOwnImages:
    """The study's own images are recognised by their stored content hashes."""

    @pytest.fixture
    def search(self, prepare, quick_search):
        def search(data):
            prepared = prepare(data=str(data))
            quick_search(prepared, trials=1)
            return prepared.store

        return search

    @pytest.fixture
    def data(self, phantoms, tmp_path):
        return shutil.copytree(phantoms, tmp_path / "data")

    def write_site(self, store, data, folder):
        """Copy the test part of a study as a site, under other names."""
        for number, image in enumerate(store.split.test):
            target = folder / image.split("/", maxsplit=1)[0] / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data / image, target)
        return folder

    def test_the_test_part_is_refused_after_the_data_were_moved(self, search, data, tmp_path):
        store = search(data)
        site = self.write_site(store, data, tmp_path / "site")
        shutil.rmtree(data)
        n_test = len(store.split.test)
        with pytest.raises(DataError, match=f"{n_test} of {n_test} images of site are identical to images of study 's'"):
            predict_site(store, *open_sites([site]))

    def test_the_test_part_is_refused_if_the_images_are_rows_of_an_array(self, search, phantoms, tmp_path):
        files = sorted(phantoms.rglob("*.png"))
        images = np.stack([decode.decode_image(file) for file in files])
        labels = [file.parent.name for file in files]

        def write(name, rows):
            (tmp_path / name).mkdir()
            np.save(tmp_path / name / "images.npy", images[rows])
            table = pd.DataFrame({"label": [labels[row] for row in rows]})
            table.to_csv(tmp_path / name / "images.csv", index=False)
            return tmp_path / name / "images.npy"

        store = search(write("data", range(len(files))))
        rows = sorted((int(image.rpartition("#")[2]) for image in store.split.test), reverse=True)
        site = write("clinic", rows)
        shutil.rmtree(tmp_path / "data")
        with pytest.raises(DataError, match=f"{len(rows)} of {len(rows)} images of images are identical"):
            predict_site(store, *open_sites([site]))

    def test_each_image_of_a_site_is_read_once_and_no_own_image(self, search, data, hospital, monkeypatch):
        store = search(data)
        n_read = Counter()
        read = decode.read_image_file

        def count(path):
            n_read[path] += 1
            return read(path)

        for module in ("automl_cxr.data.decoding_threads", "automl_cxr.data.content_hashes"):
            monkeypatch.setattr(f"{module}.read_image_file", count)
        clinic = shutil.copytree(hospital, data.parent / "clinic")
        shutil.copy(data / store.split.test[0], clinic / "normal" / "0.png")
        (clinic / "metadata.csv").unlink(missing_ok=True)
        with pytest.raises(DataError, match="1 of 31 images of clinic"):
            predict_site(store, *open_sites([clinic]))
        assert set(n_read) == set(clinic.rglob("*.png"))
        assert set(n_read.values()) == {1}

    @pytest.mark.slow
    def test_a_study_of_an_earlier_version_needs_its_images_once(self, search, data, hospital, tmp_path):
        store = search(data)
        site = self.write_site(store, data, tmp_path / "site")
        (store.folder / HASHES_FILE).unlink()
        data.rename(tmp_path / "moved")
        with pytest.raises(DataError, match=r"its images are not at .*data or have changed\. Run `automl-cxr evaluate s"):
            predict_site(store, *open_sites([hospital]))
        (tmp_path / "moved").rename(data)
        with pytest.raises(DataError, match="are identical to images"):
            predict_site(store, *open_sites([site]))
        assert (store.folder / HASHES_FILE).is_file()


def test_an_evaluation_stores_the_hashes_of_a_study_of_an_earlier_version(finished, phantoms, tmp_path):
    store = finished._store
    content = (store.folder / HASHES_FILE).read_bytes()
    (store.folder / HASHES_FILE).unlink()
    evaluate(store, finished.classifier(), part="valid", data=str(shutil.copytree(phantoms, tmp_path / "moved")))
    assert (store.folder / HASHES_FILE).read_bytes() == content
