"""The HTTP interface of a service: routes, errors, and the pages."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, File, Query, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from automl_cxr.errors import ImageMemoryError, UnknownNameError, UnreadableImageError
from automl_cxr.serving.answers import RESEARCH_USE, Health, Prediction, Served
from automl_cxr.serving.service import PredictionService
from automl_cxr.serving.uploads import WrongFormatError
from automl_cxr.version import __version__

_PAGE = files("automl_cxr.serving") / "page"
_STATUS_OF_ERRORS: dict[type[Exception], HTTPStatus] = {
    WrongFormatError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ImageMemoryError: HTTPStatus.SERVICE_UNAVAILABLE,
    UnreadableImageError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnknownNameError: HTTPStatus.UNPROCESSABLE_ENTITY,
}


def build_app(service: PredictionService) -> FastAPI:
    """Return the application.

    Args:
        service: An open service.
    """

    async def page() -> FileResponse:
        return FileResponse(str(_PAGE / "index.html"))

    def health() -> Any:
        if service.is_alive:
            return Health(status="ok")
        return JSONResponse({"status": "the thread of predictions has ended"}, HTTPStatus.SERVICE_UNAVAILABLE)

    def classifier() -> Served:
        return service.describe()

    async def predict(
        file: Annotated[UploadFile, File(description="A radiograph as a PNG, JPEG or DICOM file")],
        heatmap: Annotated[bool, Query(description="Add a Grad-CAM heat map")] = False,
        explain: Annotated[str | None, Query(description="Class that the heat map explains; else the predicted one")] = None,
    ) -> Prediction:
        return await service.predict(file.file.read, heatmap=heatmap, explain=explain)

    app = FastAPIOffline(
        title="automl_cxr",
        version=__version__,
        description=f"Classifies chest radiographs. {RESEARCH_USE}",
        redoc_url=None,
        static_url="/docs-assets",
        swagger_ui_parameters={"validatorUrl": None},  # Swagger UI would send the schema to another host
    )
    app.mount("/static", StaticFiles(directory=str(_PAGE)))
    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/health", health, response_model=Health, summary="Whether the server can predict")
    app.add_api_route("/classifier", classifier, response_model=Served, summary="The classifier and the versions")
    app.add_api_route("/predict", predict, methods=["POST"], response_model=Prediction, summary="Classify a radiograph")
    for error_type, status in _STATUS_OF_ERRORS.items():
        app.add_exception_handler(error_type, _answer_with(status))
    return app


def _answer_with(status: HTTPStatus) -> Callable[[Request, Exception], JSONResponse]:
    headers = {"Retry-After": "2"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None

    def answer(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status, headers)

    return answer
