"""A scikit-learn classifier whose `fit` is a search.

For example::

    model = automl_cxr.AutoChestXrayClassifier(time="15m")
    model.fit(table[["path"]], table["label"], groups=table["patient_id"])
    model.predict_proba(other_paths)
"""

from __future__ import annotations

import io
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from automl_cxr.api.estimator_inputs import as_files, read_images, write_dataset
from automl_cxr.api.locations import open_study
from automl_cxr.api.search import search
from automl_cxr.api.study import Study
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.table_columns import COLUMN_NAMES
from automl_cxr.errors import DataError, UsageError
from automl_cxr.results.classifier import Classifier
from automl_cxr.storage.urls import default_storage
from automl_cxr.tasks import ABSENT, MULTILABEL, PRESENT

_CHOSEN_BY_FIT = (
    *("data", "name", "test_fraction", "runs", "storage", "stream"),
    *(name for name in DataOptions.names() if name != "unknown_patients"),
)


class AutoChestXrayClassifier(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier of radiographs: ``fit`` runs a search, and the recommended classifier predicts.

    The search divides the images that ``fit`` receives into a training and a validation part by group, or into folds. It sets
    no test part aside, because the caller, such as ``cross_val_score``, tests the classifier on other images.

    Args:
        time: Wall time of the search, in seconds or as text such as "15m"; None for no limit.
        space: Search space; see ``automl_cxr.search``.
        image_size: Height and width to which the images are resized, in pixels.
        folds: Number of folds for cross-validation inside the search.
        seed: Random seed of the split, the proposals and the initial weights.
        executor: How trials run: "ray" (parallel, in worker processes) or "inline" (in this process).
        search_options: Further keywords of ``automl_cxr.search``, such as ``{"objective": "macro_auc", "trials": 20}``.
        image_column: Column of a table that contains the paths. [default: path, image or filename, or the only column]
        runs: Folder in which the study of each fit is kept. [default: a temporary folder, which is deleted with the estimator]
        verbose: Whether to print the progress of the search on stderr.

    Attributes:
        classes_: The labels, sorted; the order of the columns of ``predict_proba``. Of several findings, the names of the
            columns of ``y``, or their numbers.
        thresholds_: Of several findings, the probability from which ``predict`` returns 1 for each, (n_findings,); else None.
        study_: The study of the search, a ``Study``. A copy made by pickling has no study if ``runs`` is None.
        classifier_: The recommended classifier, as ``automl_cxr.predict`` takes it.
    """

    def __init__(
        self,
        *,
        time: float | str | None = "15m",
        space: str | None = None,
        image_size: int | None = None,
        folds: int | None = None,
        seed: int = 0,
        executor: str = "ray",
        search_options: Mapping[str, Any] | None = None,
        image_column: str | None = None,
        runs: str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        self.time = time
        self.space = space
        self.image_size = image_size
        self.folds = folds
        self.seed = seed
        self.executor = executor
        self.search_options = search_options
        self.image_column = image_column
        self.runs = runs
        self.verbose = verbose

    def fit(self, X: Any, y: Any, groups: Any = None) -> AutoChestXrayClassifier:  # noqa: N803 - scikit-learn's name
        """Search for the best classifier of labelled images.

        Args:
            X: A table with a column of paths, a sequence of paths, or an array of images (n, h, w), (n, h, w, 1) or
                (n, h, w, 3). Floats outside of 0..1 and 0..255 are scaled by their smallest and largest value.
            y: Class of each image, text or numbers; or a matrix of several findings, (n, n_findings): 1 (present), 0 (absent),
                or NaN or negative if it is not known. One column, (n, 1), contains classes, as
                ``sklearn.utils.multiclass.type_of_target`` defines it.
            groups: Patient of each image; images of a patient are not divided. [default: each image is a patient of its own]

        Returns:
            The estimator.

        Raises:
            DataError: The images or labels are unusable.
            UsageError: A parameter is impossible.
            StudyError: Every trial failed, or no trial ended in time.
        """
        if y is None:
            raise ValueError("AutoChestXrayClassifier requires y to be passed, but the target y is None.")
        targets = _read_targets(y)
        images = read_images(X, self.image_column)
        check_consistent_length(images, targets.table, groups)
        patients = None if groups is None else [str(group) for group in np.asarray(groups, dtype=object).tolist()]
        options = self._search_options()
        self._scale = images.scale
        folder, name = self._folders()
        data, layout = write_dataset(folder / f"{name}-data", images, targets.table, patients, self._scale)
        self.study_ = search(
            data=data,
            name=name,
            layout=layout,
            **targets.options,
            test_fraction=0,
            runs=folder,
            storage=default_storage(folder),
            stream=None if self.verbose else io.StringIO(),
            **options,
        )
        self.classifier_ = self.study_.classifier()
        self.classes_ = targets.classes
        self.thresholds_ = None if self.classifier_.thresholds is None else np.array(self.classifier_.thresholds)
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """Return the class of each image, (n,), or the decision on each finding, (n, n_findings); ``X`` as in ``fit``."""
        probabilities = self.predict_proba(X)
        if self.classifier_.is_multilabel:
            return (probabilities >= np.array(self.classifier_.thresholds)).astype(np.int64)
        return self.classes_[probabilities.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """Return the probability of each class or finding, float64 (n, n_classes), in the order of ``classes_``.

        Args:
            X: Images, as in ``fit``.

        Raises:
            NotFittedError: ``fit`` was not called.
            DataError: The images are unusable, or one of them cannot be read.
        """
        check_is_fitted(self, "classifier_")
        images = read_images(X, self.image_column)
        with as_files(images, self._scale) as files:
            probabilities, unreadable = self.classifier_.predict(files)
        if unreadable:
            position, reason = next(iter(unreadable.items()))
            raise DataError(
                f"Every image must be readable; {len(unreadable)} of {len(images)} are not, such as number {position} "
                f"({reason}). Remove them."
            )
        exact = probabilities.astype(np.float64)
        return exact if self.classifier_.is_multilabel else exact / exact.sum(axis=1, keepdims=True)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803 - scikit-learn's name
        """Return the share of the images that are predicted correctly.

        Of several findings, an image is predicted correctly if the decisions on all findings whose label is known are correct;
        images without a known label are not used. If all labels are known, this is scikit-learn's subset accuracy.

        Args:
            X: Images, as in ``fit``.
            y: Their classes or labels, as in ``fit``.
            sample_weight: Weight of each image, (n,).

        Raises:
            DataError: The images or labels are unusable.
        """
        check_is_fitted(self, "classifier_")
        if not self.classifier_.is_multilabel:
            return float(super().score(X, y, sample_weight))
        labels = _read_findings(y).table
        check_consistent_length(read_images(X, self.image_column), labels, sample_weight)
        if labels.shape[1] != len(self.classes_):
            raise DataError(
                f"Labels need a column for each of {len(self.classes_)} findings; received {labels.shape[1]}. Use those of fit."
            )
        is_known = labels.notna().to_numpy()
        is_right = ((self.predict(X) == labels.fillna(ABSENT).to_numpy(np.int64)) | ~is_known).all(axis=1)
        rows = is_known.any(axis=1)
        if not rows.any():
            raise DataError("A score needs a known label; received none. Pass labels that are 0 or 1.")
        return float(np.average(is_right[rows], weights=None if sample_weight is None else np.asarray(sample_weight)[rows]))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        tags.classifier_tags.multi_label = True
        tags.non_deterministic = True  # a search that is limited by time
        tags.no_validation = True  # of a number of features
        return tags

    def _search_options(self) -> dict[str, Any]:
        further = dict(self.search_options or {})
        own = ("time", "space", "image_size", "folds", "seed", "executor")
        for name in further:
            if name in _CHOSEN_BY_FIT:
                raise UsageError(f"search_options must not contain what fit chooses; received {name}. Omit it.")
            if name in own:
                raise UsageError(f"{name} is a parameter of the estimator; received it in search_options. Move it.")
        return {name: getattr(self, name) for name in own} | further

    def _folders(self) -> tuple[Path, str]:
        """Create the folder of the study and of its data; return the runs folder and the name of the study."""
        name = f"estimator-{uuid.uuid4().hex[:12]}"
        folder = self._new_temporary_folder() if self.runs is None else Path(self.runs).expanduser().absolute()
        (folder / f"{name}-data").mkdir(parents=True)
        return folder, name

    def _new_temporary_folder(self) -> Path:
        """Create a folder that is deleted with this estimator, at the end of the process, or when this is called again."""
        former = getattr(self, "_temporary", None)
        if former is not None:
            former()
        folder = Path(tempfile.mkdtemp(prefix="automl-cxr-"))
        self._temporary = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def __getstate__(self) -> dict[str, Any]:
        """Replace the files of the fitted classifier by their content."""
        state = dict(super().__getstate__())
        state.pop("_temporary", None)
        classifier: Classifier | None = state.pop("classifier_", None)
        if classifier is not None:
            state["_networks"] = [member.file.read_bytes() for member in classifier.members]
            state["_classifier"] = classifier
        study: Study | None = state.pop("study_", None)
        if study is not None and self.runs is not None:
            state["_study"] = (study.name, str(study.folder.parent))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Write the networks to a temporary folder, and open the study if its folder was chosen by the user and exists."""
        networks, classifier, study = (state.pop(name, None) for name in ("_networks", "_classifier", "_study"))
        super().__setstate__(state)
        if networks is not None:
            folder = self._new_temporary_folder()
            members = []
            for number, (member, content) in enumerate(zip(classifier.members, networks, strict=True)):
                file = folder / f"{number:05d}.keras"
                file.write_bytes(content)
                members.append(replace(member, file=file))
            self.classifier_ = replace(classifier, members=tuple(members))
        if study is not None and (Path(study[1]) / study[0]).is_dir():
            self.study_ = open_study(study[0], runs=study[1], storage=default_storage(Path(study[1])))


@dataclass(frozen=True, eq=False)
class _Targets:
    """The argument y of ``fit``.

    Attributes:
        classes: The labels, or the names or numbers of the findings.
        table: The labels of each image, with the columns of a table of labels.
        options: Keywords of the search.
    """

    classes: np.ndarray
    table: pd.DataFrame
    options: Mapping[str, Any]


def _read_targets(y: Any) -> _Targets:
    """Read classes, (n,), or label codes of findings, (n, n_findings).

    As in scikit-learn, one column (n, 1) contains classes, with a ``DataConversionWarning``.

    Raises:
        DataError: There is one class only, or a label of a finding is another number.
        ValueError: The labels are no classes.
    """
    if np.ndim(y) == 2 and np.shape(y)[1] > 1:
        return _read_findings(y)
    labels = column_or_1d(y, warn=True)
    check_classification_targets(labels)
    classes, encoded = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"A classifier needs images of two classes or more; received only one class, {classes[0]}.")
    names = _class_names(classes)
    return _Targets(classes, pd.DataFrame({"label": [names[code] for code in encoded]}), {"classes": names})


def _read_findings(y: Any) -> _Targets:
    columns = list(y.columns) if isinstance(y, pd.DataFrame) else list(range(np.shape(y)[1]))
    values = np.asarray(y.toarray() if hasattr(y, "toarray") else y, dtype=np.float64)
    is_known = values >= 0  # false for NaN
    if not np.isin(values[is_known], (ABSENT, PRESENT)).all():
        raise DataError(
            "Labels of findings must be 1 (present), 0 (absent), or NaN or negative if unknown; received values up to "
            f"{np.nanmax(values):g}. Pass classes as one column."
        )
    names = _finding_names(columns)
    table = pd.DataFrame(np.where(is_known, values, np.nan), columns=names).astype("Int64")
    return _Targets(np.array(columns), table, {"task": MULTILABEL, "findings": names, "min_positives": 0})


def _finding_names(columns: Sequence[Any]) -> list[str]:
    """Return a distinct name for each finding that no table uses for another column."""
    reserved = {name.casefold() for names in COLUMN_NAMES.values() for name in names}
    return [
        f"finding {name}" if isinstance(name, Number) or name.casefold() in reserved else name
        for name in (name if isinstance(name, Number) else str(name) for name in columns)
    ]


def _class_names(labels: np.ndarray) -> list[str]:
    """Return a distinct class name for each label; a number becomes a text that no table converts."""
    is_number = labels.dtype.kind in "iuf"
    names = [f"class {label}" if is_number else " ".join(str(label).split()) for label in labels.tolist()]
    is_distinct = all(names) and len({name.casefold() for name in names}) == len(names)
    return names if is_distinct else [f"{name} ({number})".strip() for number, name in enumerate(names)]
