"""Images with several findings, and tasks of trials on them, for the tests of this folder."""

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.records import PartRecord, SplitRecord
from automl_cxr.tasks import MULTILABEL, UNCERTAIN, UNKNOWN
from automl_cxr.training.trial_task import TrialTask

FINDINGS = ("horizontal", "vertical", "bright")
N_IMAGES = 60
SIZE = 32


def draw_findings(n=N_IMAGES, size=SIZE):
    """Draw images with horizontal stripes, vertical stripes and a bright corner, each with probability 0.4.

    Returns:
        Images, uint8 (n, size, size), and whether each finding is present, int (n, 3).
    """
    rng = np.random.default_rng(0)
    present = (rng.random((n, len(FINDINGS))) < 0.4).astype(int)
    images = rng.integers(60, 100, (n, size, size))
    images[present[:, 0] == 1, ::4] += 70
    images[present[:, 1] == 1, :, ::4] += 70
    images[present[:, 2] == 1, : size // 2, : size // 2] += 60
    return images.astype(np.uint8), present


def labels_of(present):
    """Hide some labels: every fifth is unknown, and every seventh is uncertain."""
    labels = np.array(present)
    labels.flat[::5] = UNKNOWN
    labels.flat[::7] = UNCERTAIN
    return labels


def part_of(labels, rows):
    return PartRecord(
        images=tuple(f"{row}.png" for row in rows),
        labels=tuple(tuple(int(code) for code in labels[row]) for row in rows),
        patients=tuple(f"p{row // 2}" for row in rows),
    )


def write_split(folder, labels, *, n_folds=0):
    """Write split.json: three quarters of the images for training, or all images in folds."""
    n = len(labels)
    n_train = n if n_folds else 3 * n // 4
    split = SplitRecord(
        classes=FINDINGS,
        train=part_of(labels, range(n_train)),
        valid=part_of(labels, range(n_train, n)),
        test=(),
        seed=0,
        grouped=True,
        origin="made",
        unreadable={},
        folds=tuple(row // 2 % n_folds + 1 for row in range(n)) if n_folds else (),
        task=MULTILABEL,
    )
    (folder / "split.json").write_text(split.to_json(), encoding="utf-8")
    return split


def task_of(folder, values, *, labels=None, n_folds=0, name="trial"):
    """Return the task of a trial in ``folder``, on images that are drawn there."""
    images, present = draw_findings(size=values.get("image_size", SIZE))
    np.save(folder / "images.npy", images)
    write_split(folder, labels_of(present) if labels is None else labels, n_folds=n_folds)
    (folder / name).mkdir()
    return TrialTask(
        config=TrialConfig.from_values({"task": MULTILABEL, "image_size": SIZE, **values}),
        images=folder / "images.npy",
        split=folder / "split.json",
        folder=folder / name,
        objectives=("macro_auc",),
    )


def run(trial):
    """Return all records of a trial, and its result."""
    records = []
    while True:
        try:
            records.append(next(trial))
        except StopIteration as end:
            return records, end.value
