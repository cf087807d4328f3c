"""Warnings about uploads that the study of the classifier has used: their predictions are no evidence of its quality."""

from __future__ import annotations

import threading
from collections.abc import Callable

from automl_cxr.results.classifier import Classifier
from automl_cxr.study.image_hashes import shortened
from automl_cxr.study.model_sources import stored_hashes


class KnownImages:
    """The images of the study of a classifier, recognised by the content of their files.

    Args:
        classifier: The classifier. Without stored content hashes of its study, no image is recognised.
        record_test_use: Records the use of test images as an evaluation on the test part, and returns messages. It is called
            at the first test image.

    Raises:
        StudyError: The file of content hashes is damaged.
    """

    def __init__(self, classifier: Classifier, record_test_use: Callable[[], list[str]]) -> None:
        self._study = classifier.study
        self._hashes = stored_hashes(classifier.members[0].file)
        self._record_test_use = record_test_use
        self._recorded: list[str] | None = None
        self._lock = threading.Lock()  # images are decoded by several threads

    def warnings_of(self, digest: bytes) -> tuple[str, ...]:
        """Return warnings about an upload.

        Args:
            digest: SHA-256 of its content.
        """
        if self._hashes is None:
            return ()
        if shortened(digest) in self._hashes.used:
            return (f"The networks were trained or selected on this image, which study '{self._study}' contains.",)
        if shortened(digest) not in self._hashes.test:
            return ()
        with self._lock:
            if self._recorded is None:
                self._recorded = self._record_test_use()
        return tuple(self._recorded)
