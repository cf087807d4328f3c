"""Classifiers of radiographs: the model of one trial, or an ensemble of several models and their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from automl_cxr.architectures import TABLE
from automl_cxr.data.decode import DEFAULT_FIT, check_fit, decode_image_in_pool, decoder_warnings_off, fit_square
from automl_cxr.data.feature_table import FeatureTable
from automl_cxr.ensemble.combiner_protocol import Combiner
from automl_cxr.ensemble.combiners import WeightedAverage, combiner_from_record
from automl_cxr.errors import DataError, StudyError, UnknownNameError, UnreadableImageError, UsageError
from automl_cxr.html_tables import facts_table, note_line, title_line, warning_line
from automl_cxr.io import sha256_of_file
from automl_cxr.prefetch import Prefetched
from automl_cxr.results.recommendation_record import Recommendation, load_recommendation
from automl_cxr.results.study_data import load_trial_config
from automl_cxr.scoring.operating_points import OperatingPoint, point_from_record
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.source_overlap import source_warnings
from automl_cxr.study.store import PREDICTIONS_FILE, StudyStore
from automl_cxr.study.study_audit import load_audit
from automl_cxr.text_records import parse_json_object

_BATCH_SIZE = 256  # images that are decoded and predicted together; limits the memory use
_MODEL_BYTES = 2**30  # size limit of the models that are loaded together; images are decoded again for the next models
_DECODING_THREADS = 4
ENSEMBLE_FILE = "ensemble.json"
_Square = tuple[int, str]  # image size and fit


@dataclass(frozen=True)
class Member:
    """One network of a classifier.

    Attributes:
        file: The Keras model file.
        image_size: Height and width of the network's input, in pixels.
        fit: How an image is resized to the input: "stretch", "pad" or "crop"; "features" if the input is a row of a table of
            features. ``image_size`` is then the number of features.
        network: Family and backbones, for display.
    """

    file: Path
    image_size: int
    fit: str = DEFAULT_FIT
    network: str = ""

    @property
    def square(self) -> _Square:
        """Image size and fit of the network's input."""
        return self.image_size, self.fit

    @property
    def input_text(self) -> str:
        """The network's input for display, such as "224 pixels, stretch"."""
        return f"{self.image_size} features" if self.fit == TABLE else f"{self.image_size} pixels, {self.fit}"


@dataclass(frozen=True)
class Classifier:
    """One or several networks, the rule that combines their probabilities, and their classes.

    Attributes:
        name: Name in messages and records.
        study: Name of the study.
        split_digest: Digest of the split on which the networks were trained and selected.
        members: The networks.
        rule: Combiner of the probabilities of the members.
        classes: Class names in the order of the columns.
        predictions: File with the predictions by which the classifier was selected: for the validation part, or with folds the
            out-of-fold predictions.
        folder: Folder of an ensemble; None for a trial.
        mirrored: Whether the probabilities of each network are averaged over an image and its mirror image.
        warnings: Warnings about the images: the audit, and models from which the study started that used its test images.
            Results that are derived from the classifier repeat them.
        notes: Messages for the user about the choice of the classifier.
        thresholds: For findings, the probability from which each counts as present, chosen on the images of ``predictions``;
            None for classes.
        operating_points: Thresholds that were chosen for stated aims; those of findings are also in ``thresholds``.
        features: The table of features from which images are predicted, and the folder of the images; None if it is not open,
            and for networks that take images.
    """

    name: str
    study: str
    split_digest: str
    members: tuple[Member, ...]
    rule: Combiner
    classes: tuple[str, ...]
    predictions: Path
    folder: Path | None = None
    mirrored: bool = False
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    thresholds: tuple[float, ...] | None = None
    operating_points: tuple[OperatingPoint, ...] = ()
    features: tuple[FeatureTable, Path] | None = None

    def _repr_html_(self) -> str:
        facts = {
            "study": self.study,
            "findings" if self.is_multilabel else "classes": ", ".join(self.classes),
            "networks": len(self.members),
            "architectures": ", ".join(dict.fromkeys(member.network for member in self.members if member.network)) or None,
            "input": ", ".join(dict.fromkeys(member.input_text for member in self.members)),
            "mirrored view averaged": self.mirrored,
            "thresholds": ", ".join(f"{name} {value:.4g}" for name, value in self.decision_thresholds.items()) or None,
            "folder": self.folder,
        }
        lines = [*map(warning_line, self.warnings), *map(note_line, self.notes)]
        return title_line(f"Classifier {self.name}") + facts_table(facts) + "".join(lines)

    @property
    def takes_features(self) -> bool:
        """Whether the input of the networks is a row of a table of features instead of an image."""
        return self.members[0].fit == TABLE

    @property
    def is_multilabel(self) -> bool:
        """Whether ``classes`` are findings, of which an image may have several."""
        return self.thresholds is not None

    @property
    def threshold_array(self) -> np.ndarray | None:
        """The thresholds as float64 (n_classes,); None for classes."""
        return None if self.thresholds is None else np.array(self.thresholds, np.float64)

    @property
    def decision_thresholds(self) -> dict[str, float]:
        """The threshold of each class or finding that is decided: all findings, or the classes with an operating point."""
        if self.thresholds is not None:
            return dict(zip(self.classes, self.thresholds, strict=True))
        return {point.name: point.threshold for point in self.operating_points}

    def with_mirrored_view(self) -> Classifier:
        """Return the same classifier with probabilities that are averaged over an image and its mirror image.

        Raises:
            UsageError: Its networks take features; or it has operating points, which were chosen for the probabilities of the
                images alone.
        """
        self.require_pixels("The mirrored view")
        if self.operating_points and not self.mirrored:
            raise UsageError(
                f"The operating points of {self.name} were chosen for the images alone; received --mirrored. Omit it, or build "
                "an ensemble without --operating-point."
            )
        return self if self.mirrored else replace(self, name=f"{self.name}, mirrored view averaged", mirrored=True)

    def with_features(self, table: FeatureTable, root: Path) -> Classifier:
        """Return the same classifier, which predicts images from a table of features.

        Args:
            table: The table.
            root: Folder that the ids of the images are relative to.

        Raises:
            UsageError: The networks take images.
            DataError: The table has another number of features.
        """
        if not self.takes_features:
            raise UsageError(f"--features is for classifiers of features; {self.name} takes images. Omit --features.")
        if table.n_features != self.members[0].image_size:
            raise DataError(
                f"{self.name} takes {self.members[0].image_size} features; '{table.file}' has {table.n_features}. Compute the "
                "features with the encoder of the study."
            )
        return replace(self, features=(table, root))

    def require_pixels(self, what: str) -> None:
        """Check that the networks take images.

        Args:
            what: What needs images, for the message.

        Raises:
            UsageError: They take features.
        """
        if self.takes_features:
            raise UsageError(
                f"{what} needs a network that takes images; {self.name} takes a table of features, and the encoder is not "
                "part of it. Search with the encoder itself: --set backbone=onnx:FILE."
            )

    def _read_features(self, files: Sequence[Path]) -> np.ndarray:
        """Return the features of images, float32 (n, d).

        Raises:
            UsageError: No table is open.
            DataError: The table has no row for an image.
        """
        if self.features is None:
            raise UsageError(
                f"{self.name} predicts images from their features; received images without features. Name a table that "
                "contains them with --features FILE."
            )
        table, root = self.features
        below = [file.relative_to(root) if file.is_relative_to(root) else file for file in files]
        return table.select([one.as_posix() for one in below], root)

    def predict(
        self, files: Sequence[Path], *, on_progress: Callable[[int, int], None] | None = None
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Predict image files in batches. Members are loaded in groups whose model files have at most one gigabyte.

        Args:
            files: Images of any size.
            on_progress: Called with (processed files, all files).

        Returns:
            Probabilities, float32 (n_readable, n_classes), in the order of the files; and for each unreadable file, by
            position, the reason.

        Raises:
            TrialError: A model file is damaged.
            DataError: A model does not match its record, or the table of features has no row for an image.
            UsageError: The networks take features, and no table of features is open.
        """
        probabilities: list[np.ndarray] = []  # of each member, (n_readable, n_classes)
        unreadable: dict[int, str] = {}
        groups = _group_by_size(self.members)
        for n_before, group in enumerate(groups):

            def report_progress(n_done: int, n_before: int = n_before) -> None:
                if on_progress is not None:
                    on_progress((n_before * len(files) + n_done) // len(groups), len(files))

            group_probabilities, unreadable = self._predict_group(group, files, report_progress)
            probabilities += group_probabilities
        return self.rule.combine(np.stack(probabilities)), unreadable

    def _predict_group(
        self, group: Sequence[Member], files: Sequence[Path], on_files: Callable[[int], None]
    ) -> tuple[list[np.ndarray], dict[int, str]]:
        """Predict files with the members of a group: (n_readable, n_classes) each; ``on_files`` gets the processed files."""
        from automl_cxr.model.inference import predict_images  # imports Keras

        models = [self._load(member) for member in group]
        probabilities = [[np.empty((0, len(self.classes)), np.float32)] for _ in group]
        unreadable: dict[int, str] = {}
        n_done = 0
        squares = sorted({member.square for member in group})
        batches_of_inputs = (
            _in_batches(self._read_features(files), squares[0]) if self.takes_features else _decode_in_batches(files, squares)
        )
        for images_by_square, reasons in batches_of_inputs:
            unreadable |= reasons
            n_images = len(next(iter(images_by_square.values())))
            if n_images:
                for member, model, batches in zip(group, models, probabilities, strict=True):
                    batches.append(predict_images(model, images_by_square[member.square], mirrored=self.mirrored))
            n_done += n_images + len(reasons)
            on_files(n_done)
        return [np.concatenate(batches) for batches in probabilities], unreadable

    def load_networks(self) -> list[Any]:
        """Load the Keras model of each member.

        Raises:
            TrialError: A model file is damaged.
            DataError: A model does not match its record.
        """
        return [self._load(member) for member in self.members]

    def _load(self, member: Member) -> Any:
        from automl_cxr.model.inference import load_model  # imports Keras

        model = load_model(str(member.file))
        if (model.input_shape[1], model.output_shape[-1]) != (member.image_size, len(self.classes)):
            raise DataError(
                f"A model must match its record ({member.image_size} pixels, {len(self.classes)} classes); {member.file} has "
                f"{model.input_shape[1]} pixels and {model.output_shape[-1]} classes. Restore the file."
            )
        return model


class LoadedClassifier:
    """A classifier with its networks in memory, for single images.

    Args:
        classifier: The classifier.

    Attributes:
        classifier: The classifier.
        models: The Keras model of each member.

    Raises:
        TrialError: A model file is damaged.
        DataError: A model does not match its record.
    """

    def __init__(self, classifier: Classifier) -> None:
        classifier.require_pixels("An explanation, or a prediction of pixels,")
        self.classifier = classifier
        self.models = classifier.load_networks()

    def squares(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Resize images, each uint8 (height, width), to the input of each member: uint8 (n, size, size) for each."""
        resized = {
            square: np.stack([fit_square(image, *square) for image in images])
            for square in {member.square for member in self.classifier.members}
        }
        return [resized[member.square] for member in self.classifier.members]

    def predict(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Predict images, each uint8 (height, width): float32 (n, n_classes)."""
        return self.predict_squares(self.squares(images))

    def predict_squares(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Predict resized images, as returned by ``squares``: float32 (n, n_classes)."""
        from automl_cxr.model.inference import predict_images  # imports Keras

        probabilities = [
            predict_images(model, images, batch_size=len(images), mirrored=self.classifier.mirrored)
            for model, images in zip(self.models, squares, strict=True)
        ]
        return self.classifier.rule.combine(np.stack(probabilities))

    def column(self, class_name: str) -> int:
        """Return the column of a class or finding.

        Raises:
            UnknownNameError: The classifier has no such class or finding.
        """
        if class_name not in self.classifier.classes:
            raise UnknownNameError("finding" if self.classifier.is_multilabel else "class", class_name, self.classifier.classes)
        return self.classifier.classes.index(class_name)


def classifier_of_study(store: StudyStore) -> Classifier:
    """Open the recommended classifier of a study; if none is recorded or it was deleted, the best trial that has a model.

    Raises:
        StudyError: No trial has a model, or the record of the recommendation is damaged.
        DataError: The recommended ensemble is damaged.
    """
    recorded, recommended = load_recommendation(store), stored_recommendation(store)
    if recommended is None:
        classifier = classifier_of_trial(store)
        found = "No classifier is recommended yet" if recorded is None else f"The recommended {recorded.name} was deleted"
        note = f"{found}, so the best trial is used, {classifier.name}. A search recommends a classifier when it ends."
        return replace(classifier, notes=(note,))
    if recommended.ensemble is None:
        classifier, members = classifier_of_trial(store, recommended.trials[0]), ""
    else:
        classifier = load_ensemble(store.folder / "ensembles" / recommended.ensemble)
        members = f" (trials {', '.join(map(str, recommended.trials))})"
    notes = [f"The recommended classifier is used, {classifier.name}{members}."]
    n_trials = len(store.eligible())
    if n_trials > recommended.n_trials:
        notes.append(
            f"It was chosen from {recommended.n_trials} finished trials; there are {n_trials} now. Continue the search for a "
            "new recommendation."
        )
    return replace(classifier, notes=tuple(notes))


def stored_recommendation(store: StudyStore) -> Recommendation | None:
    """Return the recommended classifier of a study; None if there is none, or if its model or its ensemble was deleted.

    Raises:
        StudyError: The record is damaged.
    """
    recommended = load_recommendation(store)
    if recommended is None:
        return None
    if recommended.ensemble is None:
        return recommended if store.has_model(recommended.trials[0]) else None
    return recommended if (store.folder / "ensembles" / recommended.ensemble / ENSEMBLE_FILE).is_file() else None


def classifier_of_trial(store: StudyStore, number: int | None = None) -> Classifier:
    """Create a classifier from a trial; by default from the best trial that has a model.

    Raises:
        StudyError: There is no such trial, or its model was removed.
    """
    if number is None:
        eligible = [record.number for record in store.eligible() if store.has_model(record.number)]
        if not eligible:
            raise StudyError(explain_no_model(store))
        number = eligible[0]
    store.record(number)  # raises an error for an unknown number
    audit, warnings = load_audit(store), source_warnings(store.folder)
    predictions = store.trial_folder(number) / PREDICTIONS_FILE
    return Classifier(
        f"trial {number}",
        store.name,
        store.split_digest,
        (member_of_trial(store, number),),
        WeightedAverage(np.ones(1)),
        store.spec.classes,
        predictions,
        warnings=(*warnings, *(() if audit is None else audit.warnings)),
        thresholds=_stored_thresholds(predictions) if store.split.is_multilabel else None,
    )


def _stored_thresholds(file: Path) -> tuple[float, ...]:
    """Return the thresholds that are stored with a trial's predictions of findings.

    Raises:
        DataError: The file is damaged or contains no thresholds.
    """
    thresholds = Predictions.from_npz(file).thresholds
    if thresholds is None:
        raise DataError(f"Predictions of findings must contain thresholds; {file} has none. Restore the file.")
    return tuple(thresholds.tolist())


def explain_no_model(store: StudyStore) -> str:
    """Return the message for a study without a usable model."""
    if store.ranked() and not store.eligible():
        return (
            f"No finished trial of study '{store.name}' satisfies {', '.join(store.spec.requirements)}. "
            "Continue the search, or select a trial with --trial."
        )
    return f"Study '{store.name}' has no finished trial with a model yet. Continue the search."


def member_of_trial(store: StudyStore, number: int) -> Member:
    """Return a trial's network, with the image size and fit of its configuration.

    Raises:
        StudyError: The model was removed.
    """
    config = load_trial_config(store, number)
    network = " ".join([config.family, *(branch.label for branch in config.branches)])
    return Member(store.model_file(number), config.input_size, TABLE if config.takes_features else config.fit, network)


def load_ensemble(folder: Path) -> Classifier:
    """Load an ensemble from its folder.

    Raises:
        DataError: The folder contains no ensemble or a damaged one, a model has changed since the ensemble was built, or a
            member has no model.
    """
    try:
        record = parse_json_object((folder / ENSEMBLE_FILE).read_text(encoding="utf-8"))
        members = tuple(_check_member(folder, row) for row in record["members"])
        classes = tuple(map(str, record["classes"]))
        rule = combiner_from_record(record["rule"], n_members=len(members), n_classes=len(classes))
        study, split_digest = str(record["study"]), str(record["split_digest"])
        warnings = tuple(map(str, record.get("warnings", ())))
        mirrored = record.get("mirrored", False) is True
        thresholds = _read_thresholds(record, len(classes))
        points = tuple(map(point_from_record, record.get("operating_points", ())))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is not an ensemble folder ({error}). Create one with `automl-cxr ensemble build`."
        ) from error
    name, predictions = f"ensemble {folder.resolve().name}", folder / PREDICTIONS_FILE
    return Classifier(
        name,
        study,
        split_digest,
        members,
        rule,
        classes,
        predictions,
        folder,
        mirrored,
        warnings,
        thresholds=thresholds,
        operating_points=points,
    )


def _read_thresholds(record: Mapping[str, Any], n_classes: int) -> tuple[float, ...] | None:
    """Return the thresholds in the record of an ensemble for findings; None for an ensemble for classes."""
    if record.get("thresholds") is None:
        return None
    thresholds = tuple(map(float, record["thresholds"]))
    if len(thresholds) != n_classes or not all(0 < one <= 1 for one in thresholds):
        raise ValueError(f"thresholds {list(thresholds)} for {n_classes} findings")
    return thresholds


def _check_member(folder: Path, row: Mapping[str, Any]) -> Member:
    """Return a member whose file is inside the folder and unchanged."""
    if "file" not in row:
        raise ValueError("a member without a model: combine predictions with `automl-cxr ensemble apply`")
    file = (folder / row["file"]).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ValueError(f"the member {row['file']} is outside the folder")
    if sha256_of_file(file) != row["sha256"]:
        raise ValueError(f"the member {row['file']} has changed")
    if type(row["image_size"]) is not int:
        raise TypeError(f"the image size of {row['file']} is {row['image_size']!r}")
    fit = row.get("fit", DEFAULT_FIT)
    return Member(file, row["image_size"], fit if fit == TABLE else check_fit(fit))


def _group_by_size(members: Sequence[Member]) -> list[list[Member]]:
    """Split members, in order, into groups whose model files have at most ``_MODEL_BYTES``; a larger file is a group."""
    groups: list[list[Member]] = []
    bytes_left = 0
    for member in members:
        size = member.file.stat().st_size
        if not groups or size > bytes_left:
            groups.append([])
            bytes_left = _MODEL_BYTES
        groups[-1].append(member)
        bytes_left -= size
    return groups


def _in_batches(features: np.ndarray, square: _Square) -> Iterator[tuple[dict[_Square, np.ndarray], dict[int, str]]]:
    """Yield features in batches, as ``_decode_in_batches`` yields images."""
    for first in range(0, len(features), _BATCH_SIZE):
        yield {square: features[first : first + _BATCH_SIZE]}, {}


def _decode_in_batches(
    files: Sequence[Path], squares: Sequence[_Square]
) -> Iterator[tuple[dict[_Square, np.ndarray], dict[int, str]]]:
    """Decode files in batches; yield the readable images by square, and the reasons for unreadable files by position.

    The next batch is decoded while the caller uses one.
    """

    def decode(path: Path) -> dict[_Square, np.ndarray] | str:
        try:
            image = decode_image_in_pool(path)
        except UnreadableImageError as error:
            return str(error)
        return {(size, fit): fit_square(image, size, fit) for size, fit in squares}

    def decode_batch(number: int) -> tuple[dict[_Square, np.ndarray], dict[int, str]]:
        first = number * _BATCH_SIZE
        decoded = list(threads.map(decode, files[first : first + _BATCH_SIZE]))
        images = [one for one in decoded if not isinstance(one, str)]
        reasons = {first + position: one for position, one in enumerate(decoded) if isinstance(one, str)}
        empty = {square: np.empty((0, square[0], square[0]), np.uint8) for square in squares}
        return {square: np.stack([one[square] for one in images]) for square in squares} if images else empty, reasons

    with ThreadPoolExecutor(_DECODING_THREADS) as threads, decoder_warnings_off():
        yield from Prefetched(decode_batch, math.ceil(len(files) / _BATCH_SIZE), n_ahead=1)
