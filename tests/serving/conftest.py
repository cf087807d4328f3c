"""A running server of a small study, DICOM files, and requests."""

import socket
import threading
from contextlib import closing, contextmanager
from io import BytesIO

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from automl_cxr.request_rules import RequestRules
from automl_cxr.results.abstention import calibrate_classifier
from automl_cxr.results.classifier import classifier_of_trial
from automl_cxr.serving.app import build_app
from automl_cxr.serving.known_images import KnownImages
from automl_cxr.serving.request_filter import Limits, RequestFilter
from automl_cxr.serving.service import PredictionService, ServiceOptions
from tests.data.conftest import write_dicom  # noqa: F401 - a fixture
from tests.results.conftest import finished  # noqa: F401 - a fixture

MAX_BYTES = 200_000


@pytest.fixture(scope="session")
def classifier(finished):  # noqa: F811
    return classifier_of_trial(finished._store)


@pytest.fixture(scope="session")
def service(classifier):
    sets = calibrate_classifier(classifier, 0.5)
    known = KnownImages(classifier, lambda: ["a test image"])
    options = ServiceOptions(sets=sets, max_bytes=MAX_BYTES, max_pixels=40_000)
    with PredictionService(classifier, options, known) as opened:
        yield opened


@contextmanager
def running(service, *, token="", max_waiting=16, upload_seconds=60.0, other_hosts=()):
    """Run a real server in a thread; yield a client of it."""
    rules = RequestRules(host="127.0.0.1", port=0, token=token, other_hosts=other_hosts)
    app = RequestFilter(build_app(service), rules, Limits(MAX_BYTES, max_waiting, upload_seconds))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=2))
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=30, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def client(service):
    with running(service) as opened:
        yield opened


def png(shape=(60, 50), seed=0) -> bytes:
    """Return a PNG file with random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    with BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


@pytest.fixture
def radiograph(write_dicom, tmp_path):  # noqa: F811
    """Return a function that writes a DICOM radiograph with random pixels; further tags are given by their keywords."""

    def write(**tags):
        values = np.random.default_rng(5).integers(0, 4096, tags.pop("shape", (60, 50)), dtype=np.uint16)
        identifiers = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "PatientID": "p7"}
        return write_dicom(tmp_path / "image.dcm", values, **{"Modality": "DX", **identifiers, **tags})

    return write
