"""Something that classifies radiographs: one trial's model, or an ensemble of several with their weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.data.decode import DEFAULT_FIT, check_fit, decode_image_in_pool, decoder_warnings_off, fit_square
from automl_cxr.ensemble.combiners import Combiner, WeightedAverage, combiner_from_record
from automl_cxr.errors import DataError, StudyError, UnreadableImageError
from automl_cxr.study.store import PREDICTIONS_FILE, StudyStore
from automl_cxr.study.study_audit import load_audit

_IMAGES_AT_ONCE = 256  # decoded and predicted together; bounds the memory
_BYTES_AT_ONCE = 2**30  # of model files that are open together; images are decoded anew for the next ones
_DECODING_THREADS = 4
ENSEMBLE_FILE = "ensemble.json"
_Square = tuple[int, str]  # image size and fit


@dataclass(frozen=True)
class Member:
    """One network: its model file, the image size that it takes, how an image is brought to it, and what it is, for people."""

    file: Path
    image_size: int
    fit: str = DEFAULT_FIT
    network: str = ""

    @property
    def square(self) -> _Square:
        """The size and the fit that an image has to be decoded to."""
        return self.image_size, self.fit


@dataclass(frozen=True)
class Classifier:
    """Networks, how they are combined, and the classes that they tell apart.

    Attributes:
        name: What it is called in messages and records.
        study: Name of the study that it comes from.
        split_digest: Digest of the split that its networks were trained and chosen on.
        members: One network, or several whose probabilities are combined.
        rule: How.
        classes: Class names in the order of the columns.
        predictions: What it said of the images that it was chosen by: of the validation part, or with folds of every image
            out of fold.
        folder: Of an ensemble; None of a trial.
        warnings: What the audit of the study's images warned of; it stays with all that is made of the classifier.
    """

    name: str
    study: str
    split_digest: str
    members: tuple[Member, ...]
    rule: Combiner
    classes: tuple[str, ...]
    predictions: Path
    folder: Path | None = None
    warnings: tuple[str, ...] = ()

    def predict(
        self, files: Sequence[Path], *, on_progress: Callable[[int, int], None] | None = None
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Predict image files, some hundreds at a time, by as many members at once as a gigabyte of model files holds.

        Args:
            files: Images of any size.
            on_progress: Told (files done, files in all).

        Returns:
            Probabilities, float32 (n_readable, n_classes), in the order of the files; and the reason for each file that
            could not be read, by its position.

        Raises:
            TrialError: A model file is damaged.
            DataError: A model is another than its record says.
        """
        said: list[np.ndarray] = []  # by each member, (n_readable, k)
        unreadable: dict[int, str] = {}
        groups = _in_groups(self.members)
        for n_before, group in enumerate(groups):

            def tell(n_done: int, n_before: int = n_before) -> None:
                if on_progress is not None:
                    on_progress((n_before * len(files) + n_done) // len(groups), len(files))

            of_group, unreadable = self._predict_group(group, files, tell)
            said += of_group
        return self.rule.combine(np.stack(said)), unreadable

    def _predict_group(
        self, group: Sequence[Member], files: Sequence[Path], tell: Callable[[int], None]
    ) -> tuple[list[np.ndarray], dict[int, str]]:
        """Let the members of a group predict files, (n_readable, k) each; ``tell`` is told how many files are done."""
        from automl_cxr.model.inference import predict_images  # Keras, on first use

        models = [self._load(member) for member in group]
        said = [[np.empty((0, len(self.classes)), np.float32)] for _ in group]
        unreadable: dict[int, str] = {}
        n_done = 0
        for images_in, reasons in _decode_in_batches(files, sorted({member.square for member in group})):
            unreadable |= reasons
            n_images = len(next(iter(images_in.values())))
            if n_images:
                for member, model, batches in zip(group, models, said, strict=True):
                    batches.append(predict_images(model, images_in[member.square]))
            n_done += n_images + len(reasons)
            tell(n_done)
        return [np.concatenate(batches) for batches in said], unreadable

    def load_networks(self) -> list[Any]:
        """Open the Keras model of each member.

        Raises:
            TrialError: A model file is damaged.
            DataError: A model is another than its record says.
        """
        return [self._load(member) for member in self.members]

    def _load(self, member: Member) -> Any:
        from automl_cxr.model.inference import load_model  # Keras, on first use

        model = load_model(str(member.file))
        if (model.input_shape[1], model.output_shape[-1]) != (member.image_size, len(self.classes)):
            raise DataError(
                f"The model {member.file} takes {model.input_shape[1]} pixels and tells {model.output_shape[-1]} classes "
                f"apart, which is not what its record says ({member.image_size} and {len(self.classes)})."
            )
        return model


def _in_groups(members: Sequence[Member]) -> list[list[Member]]:
    """Part members, in their order, into groups whose files are within the bytes that are in memory at once, or alone."""
    groups: list[list[Member]] = []
    room = 0
    for member in members:
        size = member.file.stat().st_size
        if not groups or size > room:
            groups.append([])
            room = _BYTES_AT_ONCE
        groups[-1].append(member)
        room -= size
    return groups


def _decode_in_batches(
    files: Sequence[Path], squares: Sequence[_Square]
) -> Iterator[tuple[dict[_Square, np.ndarray], dict[int, str]]]:
    """Decode files in order, each to every square; yield the readable images by square and the unreadable by position."""

    def decode(path: Path) -> dict[_Square, np.ndarray] | str:
        try:
            image = decode_image_in_pool(path)
        except UnreadableImageError as error:
            return str(error)
        return {(size, fit): fit_square(image, size, fit) for size, fit in squares}

    positions = iter(enumerate(files))
    with ThreadPoolExecutor(_DECODING_THREADS) as threads:
        while batch := list(islice(positions, _IMAGES_AT_ONCE)):
            with decoder_warnings_off():
                decoded = list(threads.map(decode, (path for _, path in batch)))
            images = [one for one in decoded if not isinstance(one, str)]
            reasons = {position: one for (position, _), one in zip(batch, decoded, strict=True) if isinstance(one, str)}
            none = {square: np.empty((0, square[0], square[0]), np.uint8) for square in squares}
            yield {square: np.stack([one[square] for one in images]) for square in squares} if images else none, reasons


def classifier_of_trial(store: StudyStore, number: int | None = None) -> Classifier:
    """Make a classifier of a trial, by default of the best that has its model.

    Raises:
        StudyError: There is no such trial, or its model is gone.
    """
    if number is None:
        eligible = [record.number for record in store.eligible() if store.has_model(record.number)]
        if not eligible:
            raise StudyError(explain_no_model(store))
        number = eligible[0]
    spec = store.spec
    store.record(number)  # refuses a number that no trial has
    member = member_of_trial(store, number)
    predictions = store.trial_folder(number) / PREDICTIONS_FILE
    audit = load_audit(store)
    return Classifier(
        f"trial {number}",
        store.name,
        store.split_digest,
        (member,),
        WeightedAverage(np.ones(1)),
        spec.classes,
        predictions,
        warnings=() if audit is None else audit.warnings,
    )


def explain_no_model(store: StudyStore) -> str:
    """Say why a study has nothing to classify with."""
    if store.ranked() and not store.eligible():
        return (
            f"No finished trial of study '{store.name}' meets {', '.join(store.spec.requirements)}. "
            "Continue the search, or name a --trial."
        )
    return f"Study '{store.name}' has no finished trial with a model yet. Continue the search."


def member_of_trial(store: StudyStore, number: int) -> Member:
    """Find a trial's model, with the images that its configuration says it takes.

    Raises:
        StudyError: The model is gone.
    """
    config = TrialConfig.from_json((store.trial_folder(number) / "config.json").read_text(encoding="utf-8"))
    branches = {"transfer": [config.backbone], "concat": [config.backbone, config.second_backbone]}.get(config.family, [])
    network = " ".join([config.family, *branches])
    return Member(store.model_file(number), config.image_size, config.fit, network)


def load_ensemble(folder: Path) -> Classifier:
    """Open an ensemble's folder.

    Raises:
        DataError: The folder is none, it is damaged, a model in it is not the one that the ensemble was built of, or there are
            members without a model.
    """
    try:
        record = json.loads((folder / ENSEMBLE_FILE).read_text(encoding="utf-8"))
        members = tuple(_check_member(folder, row) for row in record["members"])
        classes = tuple(map(str, record["classes"]))
        rule = combiner_from_record(record["rule"], n_members=len(members), n_classes=len(classes))
        study, split_digest = str(record["study"]), str(record["split_digest"])
        warnings = tuple(map(str, record.get("warnings", ())))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is not an ensemble's folder ({error}). `automl-cxr ensemble build` makes one.") from error
    name, predictions = f"ensemble {folder.resolve().name}", folder / PREDICTIONS_FILE
    return Classifier(name, study, split_digest, members, rule, classes, predictions, folder, warnings)


def _check_member(folder: Path, row: Mapping[str, Any]) -> Member:
    """Take a member only from inside the folder, and only as it was written."""
    if "file" not in row:
        raise ValueError("a member without a model: combine predictions with `automl-cxr ensemble apply`")
    file = (folder / row["file"]).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ValueError(f"a member lies outside: {row['file']}")
    if hashlib.sha256(file.read_bytes()).hexdigest() != row["sha256"]:
        raise ValueError(f"the member {row['file']} has changed")
    if type(row["image_size"]) is not int:
        raise TypeError(f"the image size of {row['file']} is {row['image_size']!r}")
    return Member(file, row["image_size"], check_fit(row.get("fit", DEFAULT_FIT)))
