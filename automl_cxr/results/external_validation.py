"""What a study's kept models say of another place's images: predicted once, kept beside the study, scored at every reading.

<study>/external/<digest of the images, labels and patients>/00007.npz
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.data.cache import DecodedImages, decode_dataset
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.errors import DataError, UsageError
from automl_cxr.records import TrialState
from automl_cxr.scoring.intervals import N_RESAMPLES, intervals_of, named_metric
from automl_cxr.scoring.metrics import METRICS, metrics_for
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.resampling import resample_scores
from automl_cxr.study.data_preparation import digest_table
from automl_cxr.study.store import StudyStore, explained_disk_errors

OnProgress = Callable[[int, int], None]
_FOLDER = "external"
_UNKNOWN_SIZE = -1


@dataclass(frozen=True)
class ExternalSite:
    """Labelled images of another place.

    Attributes:
        name: What its columns are called: the name of its folder or table.
        dataset: The images.
    """

    name: str
    dataset: Dataset

    @cached_property
    def table_digest(self) -> str:
        """Digest of which images there are, with their labels and patients."""
        return digest_table(self.dataset)


def open_sites(folders: Sequence[str | Path]) -> list[ExternalSite]:
    """Find the images of other places, in any layout of data.

    Raises:
        UsageError: Two have the same name.
        DataError: There are no images, or fewer than two classes.
    """
    sites = [ExternalSite(Path(folder).expanduser().absolute().stem, load_dataset(folder)) for folder in folders]
    names = [site.name for site in sites]
    if len(set(names)) < len(names):
        raise UsageError(f"Sites are told apart by the names of their folders; received {', '.join(names)}. Rename one.")
    return sites


def score_site(
    store: StudyStore,
    site: ExternalSite,
    *,
    metric: str,
    n_resamples: int = N_RESAMPLES,
    on_progress: OnProgress | None = None,
) -> dict[int, dict[str, float]]:
    """Score the kept models of a study on a site's images.

    Returns:
        By trial: every metric of all classes, the ends of the 95 % bootstrap interval by patient of ``metric``, and n_images,
        the images that could be read.

    Raises:
        DataError: Classes differ from those of the study, images are the study's own, or none can be read.
    """
    said = predict_site(store, site, on_progress=on_progress)
    if not said:
        return {}
    normal_class, images = store.spec.normal_index, next(iter(said.values()))
    rows = {name: row for name, row in metrics_for(images.classes, normal_class=normal_class).items() if name in METRICS}
    row = named_metric(metric, images.classes, normal_class)
    resampled = resample_scores(
        images.labels,
        np.stack([one.probabilities for one in said.values()]),
        images.patients,
        [row],
        n_resamples=n_resamples,
        seed=store.spec.seed,
        normal_class=normal_class,
    )[metric]
    return {
        number: {
            metric: float(score),
            f"{metric}_low": interval.low,
            f"{metric}_high": interval.high,
            "n_images": len(of_trial),
            **{name: one.function(of_trial.labels, of_trial.probabilities, normal_class) for name, one in rows.items()},
        }
        for (number, of_trial), score, interval in zip(said.items(), resampled.scores, intervals_of(resampled), strict=True)
    }


def predict_site(store: StudyStore, site: ExternalSite, *, on_progress: OnProgress | None = None) -> dict[int, Predictions]:
    """Give what the kept models of a study say of a site's images, from earlier calls where there are any.

    A trial whose model was dropped since is among them if it has predicted before. Each trial's predictions are on disk
    before the next trial begins.

    Args:
        store: The study.
        site: The images, whose classes are those of the study.
        on_progress: Told (models done, models in all), if there is anything to predict.

    Returns:
        By trial; the rows are the readable images.

    Raises:
        DataError: Classes differ from those of the study, images are the study's own, or none can be read.
        StudyError: The predictions cannot be written.
    """
    _refuse_other_classes(store, site)
    _refuse_own_images(store, site)
    trials = [record.number for record in store.records(TrialState.COMPLETE)]
    squares = _Squares(site)
    said: dict[int, Predictions] = {}
    missing = []
    for number in trials:
        file = _file_of(store, site, squares, number)
        if file.is_file():
            said[number] = Predictions.from_npz(file)
        elif store.has_model(number):
            missing.append(number)
    for n_done, number in enumerate(missing, start=1):
        file = _file_of(store, site, squares, number)
        said[number] = _predict(store, site, squares, number)
        with explained_disk_errors(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
            said[number].to_npz(file)
        if on_progress is not None:
            on_progress(n_done, len(missing))
    return dict(sorted(said.items()))


class _Squares:
    """A site's images decoded to the squares that trials ask for, each once."""

    def __init__(self, site: ExternalSite) -> None:
        self._site = site
        self._decoded: dict[tuple[int, str], DecodedImages] = {}

    def of(self, config: TrialConfig) -> DecodedImages:
        square = config.image_size, config.fit
        if square not in self._decoded:
            dataset = self._site.dataset
            self._decoded[square] = decode_dataset(
                dataset.root, list(dataset.table["image"]), config.image_size, fit=config.fit
            )
        return self._decoded[square]


def _config_of(store: StudyStore, number: int) -> TrialConfig:
    return TrialConfig.from_json((store.trial_folder(number) / "config.json").read_text(encoding="utf-8"))


def _file_of(store: StudyStore, site: ExternalSite, squares: _Squares, number: int) -> Path:
    contents = squares.of(_config_of(store, number)).digest
    digest = hashlib.sha256(f"{contents} {site.table_digest}".encode()).hexdigest()
    return store.folder / _FOLDER / digest[:32] / f"{number:05d}.npz"


def _predict(store: StudyStore, site: ExternalSite, squares: _Squares, number: int) -> Predictions:
    from automl_cxr.model.inference import load_model, predict_images  # Keras, on first use

    images = squares.of(_config_of(store, number))
    rows = site.dataset.table.set_index("image").loc[list(images.ids)]
    classes = store.spec.classes
    return Predictions(
        ids=images.ids,
        labels=np.array([classes.index(label) for label in rows["label"]], dtype=np.int64),
        probabilities=predict_images(load_model(str(store.model_file(number))), images.open()),
        classes=classes,
        patients=tuple(rows["patient_id"]),
    )


def _refuse_other_classes(store: StudyStore, site: ExternalSite) -> None:
    """Refuse classes that are not those of the study, by name: a score over others would mean something else."""
    ours, theirs = set(store.spec.classes), set(site.dataset.classes)
    if ours != theirs:
        told = [
            f"{kind} {', '.join(sorted(names))}"
            for kind, names in (("without", ours - theirs), ("with", theirs - ours))
            if names
        ]
        raise DataError(
            f"A site is scored by the classes of study '{store.name}' ({', '.join(store.spec.classes)}); {site.name} is "
            f"{' and '.join(told)}. Name its classes alike, or list the images that fit in a CSV table (path,label)."
        )


def _refuse_own_images(store: StudyStore, site: ExternalSite) -> None:
    """Refuse images of the study itself, under whatever names: it was trained or chosen on them, or they are sealed."""
    data = Path(store.spec.data)
    root, split = data.parent if data.is_file() else data, store.split
    own: dict[int, list[Path]] = {}
    for image in (*split.train.images, *split.valid.images, *split.test):
        own.setdefault(_size_of(root / image), []).append(root / image)
    own.pop(_UNKNOWN_SIZE, None)
    shared = []
    for image in site.dataset.table["image"]:
        file = site.dataset.root / image
        alike = own.get(_size_of(file), [])
        if alike and _digest_of(file) in map(_digest_of, alike):
            shared.append(image)
    if shared:
        raise DataError(
            f"A site has other images than the study; {len(shared)} of {site.name} have the contents of images of study "
            f"'{store.name}', such as {shared[0]}. Leave them out; the study's test part is opened by `automl-cxr evaluate`."
        )


def _size_of(file: Path) -> int:
    """Give the bytes of a file; rows of arrays and what is gone have none."""
    try:
        return file.stat().st_size
    except OSError:
        return _UNKNOWN_SIZE


def _digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
