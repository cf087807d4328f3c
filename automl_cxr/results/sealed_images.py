"""Recognises images of the sealed test part among images that a user predicts or explains, and records their use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from automl_cxr.data.content_hashes import hash_files
from automl_cxr.results.classifier import Classifier
from automl_cxr.study.image_hashes import short_hash
from automl_cxr.study.model_sources import stored_hashes
from automl_cxr.study.store import StudyStore


def count_test_images(classifier: Classifier, files: Sequence[Path]) -> int:
    """Count the images whose content is that of a test image of the study of a classifier.

    Args:
        classifier: A trial or an ensemble. Without stored content hashes of its study, no image is recognised.
        files: Image files or rows of arrays.

    Raises:
        StudyError: The file of content hashes is damaged.
    """
    images = stored_hashes(classifier.members[0].file)
    if images is None:
        return 0
    return sum(short_hash(row) in images.test for row in hash_files(Path(), list(map(str, files))))


def record_test_images(store: StudyStore, classifier: Classifier, n_images: int | None, use: str) -> str:
    """Record the use of test images as an evaluation on the test part, and return a message for the user.

    Args:
        store: The study of the classifier.
        classifier: A trial or an ensemble.
        n_images: Number of test images that are used; None if it is not known yet.
        use: Name of the use, such as "predictions".
    """
    number = "" if n_images is None else f"{n_images} "
    n_opened = store.record_test_opening(f"{classifier.name}, {use} of {number}test images", {})
    recorded = f"This is recorded as evaluation {n_opened} on the test part. Do not select models by it."
    found = "The image is" if n_images is None else f"{n_images} of the images are"
    return f"{found} in the test part of study '{store.name}'. {recorded}"
