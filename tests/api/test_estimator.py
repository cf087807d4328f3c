"""The scikit-learn estimator: scikit-learn's own checks, its inputs, and searches of a small network."""

import gc
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.multiclass import type_of_target

from automl_cxr import AutoChestXrayClassifier
from automl_cxr.api.estimator import _class_names, _read_targets
from automl_cxr.api.estimator_inputs import as_files, read_images, write_dataset
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.errors import DataError, UsageError

SPACE = 'family = "scratch"\nn_blocks = 2\nfilters = 4\ndense_units = 8\nlearning_rate = 0.01\n'


class OfFlatArrays(AutoChestXrayClassifier):
    """The same estimator with the tag of two-dimensional input, without which scikit-learn runs no check."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.three_d_array = False
        return tags


FITS_A_FLAT_ARRAY = "the check fits a two-dimensional array of numbers, which is refused, because its rows are no images"
EXPECTED_FAILURES = dict.fromkeys(
    [
        "check_classifier_data_not_an_array",
        "check_classifiers_classes",
        "check_classifiers_multilabel_output_format_decision_function",
        "check_classifiers_multilabel_output_format_predict",
        "check_classifiers_multilabel_output_format_predict_proba",
        "check_classifiers_multilabel_representation_invariance",
        "check_classifiers_train",
        "check_dict_unchanged",
        "check_dont_overwrite_parameters",
        "check_dtype_object",
        "check_estimators_dtypes",
        "check_estimators_fit_returns_self",
        "check_estimators_nan_inf",
        "check_estimators_overwrite_params",
        "check_estimators_pickle",
        "check_f_contiguous_array_estimator",
        "check_fit2d_1feature",
        "check_fit_check_is_fitted",
        "check_fit_idempotent",
        "check_fit_score_takes_y",
        "check_pipeline_consistency",
        "check_positive_only_tag_during_fit",
        "check_readonly_memmap_input",
        "check_supervised_y_2d",
    ],
    FITS_A_FLAT_ARRAY,
)


@parametrize_with_checks([OfFlatArrays()], expected_failed_checks=lambda _estimator: EXPECTED_FAILURES, xfail_strict=True)
def test_scikit_learn_checks_pass(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def images():
    """Draw 24 images of 12 patients: bright ones above, or dark ones; uint8 (24, 32, 32) and labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat([3, 7], 12)
    pixels = rng.integers(0, 60, (24, 32, 32)) + np.where(labels == 7, 160, 0)[:, None, None]
    order = rng.permutation(24)
    return pixels[order].astype(np.uint8), labels[order], np.array([f"p{row // 2}" for row in order])


@pytest.fixture(scope="module")
def estimator(tmp_path_factory):
    space = tmp_path_factory.mktemp("space") / "tiny.toml"
    space.write_text(SPACE)
    options = {"trials": 1, "epochs": 4, "batch_size": 4, "valid_fraction": 0.3}
    return AutoChestXrayClassifier(time=None, space=str(space), image_size=32, executor="inline", search_options=options)


@pytest.fixture(scope="module")
def fitted(estimator, images):
    pixels, labels, groups = images
    return clone(estimator).fit(pixels, labels, groups=groups)


class TestFitting:
    def test_numbers_are_predicted_as_labels(self, fitted, images):
        pixels, labels, _ = images
        assert fitted.classes_.tolist() == [3, 7]
        assert fitted.score(pixels, labels) > 0.9
        probabilities = fitted.predict_proba(pixels)
        assert probabilities.shape == (24, 2)
        assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-12)
        assert (fitted.predict(pixels[:5]) == fitted.predict(pixels)[:5]).all()

    @pytest.mark.slow
    def test_findings_are_decided_by_thresholds(self, estimator, images):
        pixels, labels = images[0], np.asarray(images[1])
        findings = np.stack([labels == labels[0], np.arange(len(labels)) % 3 == 0], axis=1).astype(float)
        findings[1, 1] = np.nan
        fitted = clone(estimator).fit(pixels, findings)
        probabilities = fitted.predict_proba(pixels)
        assert list(fitted.classes_) == [0, 1]
        assert fitted.predict(pixels).tolist() == (probabilities >= fitted.thresholds_).astype(int).tolist()
        assert probabilities.sum(axis=1) != pytest.approx(1)
        known, weights = np.nan_to_num(findings).astype(int), np.arange(24) + 1
        expected = accuracy_score(known, fitted.predict(pixels), sample_weight=weights)
        assert fitted.score(pixels, known, sample_weight=weights) == pytest.approx(expected)
        of_labels = fitted.predict(pixels).astype(float)
        of_labels[0] = 1 - of_labels[0]
        of_labels[1, 0], of_labels[2] = np.nan, -1
        assert fitted.score(pixels, of_labels) == pytest.approx(22 / 23), "image 0 is wrong, and image 2 has no label"
        with pytest.raises(DataError, match="each of 2 findings; received 3"):
            fitted.score(pixels, np.zeros((24, 3)))

    def test_all_images_are_used_for_training_and_validation(self, fitted):
        split = fitted.study_._store.split
        assert split.test == ()
        assert split.grouped
        assert len(split.train.images) + len(split.valid.images) == 24
        assert set(split.train.patients).isdisjoint(split.valid.patients)
        assert fitted.study_.recommended.trial == 0
        with pytest.raises(UsageError, match="has no test part"):
            fitted.study_.evaluate()

    @pytest.mark.long
    def test_a_pickled_copy_predicts_without_the_files_of_the_original(self, estimator, images):
        pixels, labels, groups = images
        original = clone(estimator).fit(pixels, labels, groups=groups)
        folder, expected = original.study_.folder, original.predict_proba(pixels)
        content = pickle.dumps(original)
        del original
        gc.collect()
        assert not folder.exists()
        copied = pickle.loads(content)
        assert copied.predict_proba(pixels) == pytest.approx(expected, abs=1e-6)
        assert not hasattr(copied, "study_")
        assert pickle.loads(pickle.dumps(copied)).predict(pixels).tolist() == copied.predict(pixels).tolist()

    def test_the_study_of_a_chosen_folder_is_kept(self, estimator, images, tmp_path):
        pixels, labels, _ = images
        model = clone(estimator).set_params(runs=tmp_path / "runs").fit(pixels, labels)
        name = model.study_.name
        copied = pickle.loads(pickle.dumps(model))
        del model
        gc.collect()
        assert copied.study_.name == name
        assert copied.study_.folder == tmp_path / "runs" / name

    @pytest.mark.long
    def test_it_is_cross_validated_by_group(self, estimator, images):
        pixels, labels, groups = images
        scores = cross_val_score(estimator, pixels, labels, groups=groups, cv=GroupKFold(2), params={"groups": groups})
        assert scores.shape == (2,)
        assert scores.mean() > 0.7


class TestParameters:
    def test_a_clone_has_the_same_parameters(self, estimator):
        assert clone(estimator).get_params() == estimator.get_params()
        assert clone(estimator).set_params(time="2h", folds=5).get_params()["time"] == "2h"

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"test_fraction": 0.2}, "what fit chooses; received test_fraction"), ({"seed": 1}, "seed is a parameter")],
    )
    def test_search_options_must_not_repeat_others(self, estimator, images, options, message):
        with pytest.raises(UsageError, match=message):
            clone(estimator).set_params(search_options=options).fit(images[0], images[1])

    def test_an_unfitted_estimator_cannot_predict(self, estimator, images):
        with pytest.raises(NotFittedError):
            clone(estimator).predict(images[0])

    def test_one_class_is_refused(self, estimator, images):
        with pytest.raises(DataError, match="only one class, 3"):
            estimator.fit(images[0][:3], [3, 3, 3])

    def test_the_package_is_imported_without_scikit_learn(self):
        code = "import sys, automl_cxr; assert 'sklearn' not in sys.modules; automl_cxr.AutoChestXrayClassifier"
        subprocess.run([sys.executable, "-c", code], check=True)


class TestInputs:
    @pytest.fixture
    def files(self, images, tmp_path):
        paths = [tmp_path / f"{number}.png" for number in range(6)]
        for path, pixels in zip(paths, images[0], strict=False):
            Image.fromarray(pixels).save(path)
        return paths

    def test_tables_and_sequences_of_paths_are_equal(self, files):
        table = pd.DataFrame({"age": range(6), "Path": files})
        expected = tuple(map(str, files))
        for given in (
            files,
            list(expected),
            np.array(expected),
            table,
            table[["Path"]],
            table["Path"],
            table[["Path"]].to_numpy(),
        ):
            assert read_images(given).paths == expected
        assert read_images(table.rename(columns={"Path": "scan"}), "scan").paths == expected

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([], "received float64 of shape"),
            (np.zeros((4, 5)), r"float64 of shape \(4, 5\)"),
            (np.zeros((4, 5, 6, 2)), r"shape \(4, 5, 6, 2\)"),
            (["no.png"], r"1 of 1 are not, such as .*no\.png \(missing\)"),
            (pd.DataFrame({"a": ["x"], "b": ["y"]}), "needs a column path|image|filename"),
        ],
    )
    def test_other_inputs_are_refused(self, given, message):
        with pytest.raises(DataError, match=message):
            read_images(given)

    def test_an_unknown_column_is_refused(self, files):
        with pytest.raises(DataError, match="no column 'scan'"):
            read_images(pd.DataFrame({"path": files}), "scan")

    @pytest.mark.parametrize("kind", ["array", "paths"])
    def test_labels_and_patients_stay_with_their_images(self, images, files, tmp_path, kind):
        given = read_images(images[0][:6] if kind == "array" else files[::-1])
        folder = tmp_path / "data"
        folder.mkdir()
        labels, patients = ["a", "class 2", "a", "class 2", "a", "a"], ["007", "x,y", "nan", "p", "p", "q"]
        root, layout = write_dataset(folder, given, pd.DataFrame({"label": labels}), patients, given.scale)
        table = load_dataset(root, DataOptions(layout=layout, classes=["class 2", "a"], unknown_patients="separate")).table
        order = range(6) if kind == "array" else range(5, -1, -1)
        assert table["label"].to_list() == [labels[row] for row in order]
        known = [patients[row] if patients[row] != "nan" else table["image"][position] for position, row in enumerate(order)]
        assert table["patient_id"].to_list() == known

    def test_floats_keep_the_scale_of_the_fit(self):
        bright = np.linspace(0, 4000, 2 * 8 * 8).reshape(2, 8, 8)
        fitted = read_images(bright)
        with as_files(read_images(bright[:1]), fitted.scale) as names:
            stored = np.load(str(names[0]).partition("#")[0])
        assert stored.max() == pytest.approx(255 * bright[0].max() / 4000, abs=1)
        with pytest.raises(DataError, match="largest value was 1;"), as_files(fitted, (0.0, 1.0)):
            pass

    @pytest.mark.parametrize("kind", ["array", "paths"])
    def test_labels_of_findings_stay_with_their_images(self, images, files, tmp_path, kind):
        given = read_images(images[0][:4] if kind == "array" else files[:4])
        (tmp_path / "data").mkdir()
        codes = np.array([[1, 0], [0, np.nan], [-1, 1], [1, 1]])
        targets = _read_targets(pd.DataFrame(codes, columns=["Mass", "view"]))
        root, layout = write_dataset(tmp_path / "data", given, targets.table, None, given.scale)
        dataset = load_dataset(root, DataOptions(layout=layout, **targets.options))
        assert dataset.classes == ("Mass", "finding view")  # tables use "view" for another column
        assert list(targets.classes) == ["Mass", "view"]
        assert dataset.labels_of(list(dataset.table["image"])).tolist() == [[1, 0], [0, -1], [-1, 1], [1, 1]]

    def test_labels_of_findings_that_are_no_codes_are_refused(self):
        with pytest.raises(DataError, match="received values up to 3"):
            _read_targets(np.array([[1, 3], [0, 0]]))

    @pytest.mark.parametrize("y", [[[1], [0], [1]], np.array([[0.0], [1.0], [0.0]]), pd.DataFrame({"Mass": [0, 1, 1]})])
    def test_one_column_contains_classes_as_in_scikit_learn(self, y):
        assert type_of_target(y) == "binary"
        with pytest.warns(DataConversionWarning, match="column-vector y"):
            targets = _read_targets(y)
        assert list(targets.table.columns) == ["label"]
        assert targets.classes.tolist() == [0, 1]
        assert type_of_target(np.hstack([y, y])) == "multilabel-indicator"
        assert _read_targets(np.hstack([y, y])).options["task"] == "multilabel"

    def test_class_names_are_distinct_texts(self):
        assert _class_names(np.array([0, 1])) == ["class 0", "class 1"]
        assert _class_names(np.array(["a b", "covid"])) == ["a b", "covid"]
        assert _class_names(np.array(["A", "a"])) == ["A (0)", "a (1)"]
