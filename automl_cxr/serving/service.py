"""The served classifier: from the bytes of an upload to an answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from automl_cxr.data.decode import decoder_warnings_off
from automl_cxr.errors import UsageError
from automl_cxr.io import sha256_of_file
from automl_cxr.results.abstention import describe_few_images
from automl_cxr.results.classifier import Classifier, LoadedClassifier
from automl_cxr.results.explain.overlays import resize_for_display
from automl_cxr.scoring.conformal import ConformalSets
from automl_cxr.serving.answers import Prediction, Served, abstain, decide, encode_heatmap, encode_png
from automl_cxr.serving.heatmaps import HeatmapPainter, to_png
from automl_cxr.serving.prediction_queue import PredictionQueue, PreparedImage, warm_up
from automl_cxr.serving.uploads import MAX_UPLOAD_BYTES, MAX_UPLOAD_PIXELS, decode_upload
from automl_cxr.study.provenance import describe_versions
from automl_cxr.version import __version__

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


class PredictionService:
    """Predicts uploads with a classifier whose networks are in memory. Use it as a context manager.

    Args:
        classifier: The classifier.
        options: Abstention and limits.

    Raises:
        TrialError: A model file is damaged.
        DataError: A model does not match its record.
    """

    def __init__(self, classifier: Classifier, options: ServiceOptions) -> None:
        self._classifier = classifier
        self._options = options
        self._loaded = LoadedClassifier(classifier)
        self._notes = [*classifier.notes]
        if options.sets is not None:
            self._notes += filter(None, [describe_few_images(options.sets, classifier.classes)])
        try:
            self._painter: HeatmapPainter | None = HeatmapPainter(self._loaded)
        except UsageError as error:  # a network without feature maps
            self._painter = None
            self._notes.append(f"There are no heat maps. {error}")
        self._resources = ExitStack()

    def __enter__(self) -> PredictionService:
        self._resources.enter_context(decoder_warnings_off())
        warm_up(self._loaded, self._painter)
        self._queue = PredictionQueue(self._loaded, self._painter)
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
        digests = "".join(sha256_of_file(member.file) for member in classifier.members)
        return Served(
            study=classifier.study,
            classifier=classifier.name,
            task="findings" if classifier.is_multilabel else "classes",
            classes=list(classifier.classes),
            thresholds=None if thresholds is None else dict(zip(classifier.classes, thresholds, strict=True)),
            coverage=None if sets is None else sets.coverage,
            heatmaps=self._painter is not None,
            max_upload_bytes=self._options.max_bytes,
            model_digest=hashlib.sha256(digests.encode()).hexdigest(),
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

        def prepare() -> tuple[PreparedImage, tuple[str, ...], str]:
            content = read()
            upload = decode_upload(content, max_pixels=self._options.max_pixels)
            squares = self._loaded.squares([upload.pixels])
            radiograph = resize_for_display(upload.pixels) if heatmap else None
            return PreparedImage(squares, radiograph, column), upload.warnings, hashlib.sha256(content).hexdigest()

        loop = asyncio.get_running_loop()
        prepared, warnings, digest = await loop.run_in_executor(self._decoding, prepare)
        computed = await asyncio.wrap_future(self._queue.submit(prepared))
        classifier, sets, probabilities = self._classifier, self._options.sets, computed.probabilities
        return Prediction(
            study=classifier.study,
            classifier=classifier.name,
            probabilities=dict(zip(classifier.classes, map(float, probabilities), strict=True)),
            decision=decide(classifier, probabilities),
            abstention=None if sets is None else abstain(classifier.classes, sets, probabilities),
            heatmap=None if computed.heatmap is None else encode_heatmap(computed.heatmap),
            radiograph_png=None if prepared.radiograph is None else encode_png(to_png(prepared.radiograph)),
            image_sha256=digest,
            warnings=list(warnings),
        )
