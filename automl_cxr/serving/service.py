"""The served classifier: from the bytes of an upload to an answer."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np

from automl_cxr.data.decode import decoder_warnings_off
from automl_cxr.errors import UnreadableImageError, UsageError
from automl_cxr.results.abstention import describe_few_images
from automl_cxr.results.classifier import Classifier, LoadedClassifier
from automl_cxr.results.explain.overlays import resize_for_display
from automl_cxr.scoring.conformal import ConformalSets
from automl_cxr.serving.answers import Abstention, Prediction, Served, encode_heatmap, encode_png
from automl_cxr.serving.decisions import decide, decide_by_sets
from automl_cxr.serving.heatmaps import HeatmapRenderer, to_png
from automl_cxr.serving.known_images import KnownImages
from automl_cxr.serving.prediction_queue import Computed, PredictionQueue, PreparedImage, warm_up
from automl_cxr.serving.structured_report import ReportContext, check_highdicom, digest_models, read_source, write_report
from automl_cxr.serving.uploads import MAX_UPLOAD_BYTES, MAX_UPLOAD_PIXELS, Upload, decode_upload
from automl_cxr.study.provenance import describe_versions
from automl_cxr.version import __version__

ResultT = TypeVar("ResultT")
_NO_PIXELS = np.empty((0, 0), np.uint8)
_DECODING_THREADS = 2  # images that are decoded at the same time; each may need a gigabyte


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """Options of a service.

    Attributes:
        sets: Conformal sets by which it abstains; None for no abstention.
        max_bytes: Largest upload, in bytes.
        max_pixels: Largest number of pixels of an image.
    """

    sets: ConformalSets | None = None
    max_bytes: int = MAX_UPLOAD_BYTES
    max_pixels: int = MAX_UPLOAD_PIXELS


@contextmanager
def _pydicom_log_off() -> Iterator[None]:
    """Suppress pydicom's log messages about damaged files. They may contain values of patients."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class PredictionService:
    """Predicts uploads with a classifier whose networks are in memory. Use it as a context manager.

    Args:
        classifier: The classifier.
        options: Abstention and limits.
        known: The images of the study.

    Raises:
        TrialError: A model file is damaged.
        DataError: A model does not match its record.
    """

    def __init__(self, classifier: Classifier, options: ServiceOptions, known: KnownImages) -> None:
        self._classifier = classifier
        self._options = options
        self._known = known
        self._loaded = LoadedClassifier(classifier)
        self._notes = [*classifier.notes]
        if options.sets is not None:
            self._notes += filter(None, [describe_few_images(options.sets, classifier.classes)])
        try:
            self._renderer: HeatmapRenderer | None = HeatmapRenderer(self._loaded)
        except UsageError as error:  # a network without feature maps
            self._renderer = None
            self._notes.append(f"There are no heat maps. {error}")
        self._model_digest = digest_models(classifier)
        self._can_report = find_spec("highdicom") is not None
        self._resources = ExitStack()

    def __enter__(self) -> PredictionService:
        self._resources.enter_context(decoder_warnings_off())
        self._resources.enter_context(_pydicom_log_off())
        warm_up(self._loaded, self._renderer)
        self._queue = PredictionQueue(self._loaded, self._renderer)
        self._resources.callback(self._queue.close)
        self._decoding = self._resources.enter_context(ThreadPoolExecutor(_DECODING_THREADS, "decoding"))
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @property
    def is_alive(self) -> bool:
        """Whether the service predicts."""
        return self._queue.is_alive

    def describe(self) -> Served:
        """Describe the classifier and the versions of the programs."""
        classifier, sets = self._classifier, self._options.sets
        thresholds = classifier.thresholds
        return Served(
            study=classifier.study,
            classifier=classifier.name,
            task="findings" if classifier.is_multilabel else "classes",
            classes=list(classifier.classes),
            thresholds=None if thresholds is None else dict(zip(classifier.classes, thresholds, strict=True)),
            coverage=None if sets is None else sets.coverage,
            heatmaps=self._renderer is not None,
            reports=self._can_report,
            max_upload_bytes=self._options.max_bytes,
            model_digest=self._model_digest,
            versions={"automl-cxr": __version__, **describe_versions()},
            warnings=list(classifier.warnings),
            notes=self._notes,
        )

    async def predict(self, read: Callable[[], bytes], *, heatmap: bool = False, explain: str | None = None) -> Prediction:
        """Predict an upload.

        Args:
            read: Returns the content of the upload. It is called when a thread can decode the image, so that few contents
                are in memory at the same time.
            heatmap: Whether the answer has a heat map.
            explain: The class that the heat map explains. [default: the predicted one]

        Raises:
            UnreadableImageError: The upload cannot be decoded or is not a radiograph.
            UnknownNameError: The classifier has no such class.
        """
        column = None if explain is None else self._loaded.column(explain)

        def prepare() -> tuple[PreparedImage, Upload, str]:
            content = read()
            upload = self._decode(content)
            radiograph = resize_for_display(upload.pixels) if heatmap else None
            prepared = PreparedImage(self._loaded.squares([upload.pixels]), radiograph, column)
            digest = hashlib.sha256(content)
            warnings = (*upload.warnings, *self._known.warnings_of(digest.digest()))
            return prepared, replace(upload, pixels=_NO_PIXELS, warnings=warnings), digest.hexdigest()

        prepared, upload, digest = await self._in_decoding_thread(prepare)
        computed = await self._compute(prepared)
        classifier, sets, probabilities = self._classifier, self._options.sets, computed.probabilities
        by_sets = None if sets is None else decide_by_sets(classifier.classes, sets, probabilities)
        return Prediction(
            study=classifier.study,
            classifier=classifier.name,
            probabilities=dict(zip(classifier.classes, map(float, probabilities), strict=True)),
            decision=decide(classifier, probabilities),
            abstention=None if by_sets is None else Abstention(**vars(by_sets)),
            heatmap=None if computed.heatmap is None else encode_heatmap(computed.heatmap),
            radiograph_png=None if prepared.radiograph is None else encode_png(to_png(prepared.radiograph)),
            has_report=upload.file_format == "DICOM" and self._can_report,
            image_sha256=digest,
            warnings=list(upload.warnings),
        )

    async def report(self, read: Callable[[], bytes]) -> bytes:
        """Predict an upload, and return a DICOM structured report.

        Args:
            read: As in ``predict``.

        Raises:
            UnreadableImageError: The upload cannot be decoded, is not a radiograph, or is not a DICOM file with identifiers.
            UsageError: The package highdicom is not installed.
        """
        check_highdicom()

        def prepare() -> tuple[PreparedImage, Any]:
            content = read()
            upload = self._decode(content)
            self._known.warnings_of(hashlib.sha256(content).digest())
            if upload.file_format != "DICOM":
                raise UnreadableImageError(
                    f"A structured report refers to a DICOM image; received a {upload.file_format} file. Send the DICOM file."
                )
            return PreparedImage(self._loaded.squares([upload.pixels])), read_source(content)

        prepared, source = await self._in_decoding_thread(prepare)
        computed = await self._compute(prepared)
        context = ReportContext(classifier=self._classifier, model_digest=self._model_digest, sets=self._options.sets)
        return await self._in_decoding_thread(lambda: write_report(source, computed.probabilities, context))

    def _decode(self, content: bytes) -> Upload:
        return decode_upload(content, max_pixels=self._options.max_pixels)

    async def _in_decoding_thread(self, function: Callable[[], ResultT]) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._decoding, function)

    async def _compute(self, image: PreparedImage) -> Computed:
        return await asyncio.wrap_future(self._queue.submit(image))
