"""The HTTP interface of a service: routes, errors, and the pages."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, HTTPException, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from automl_cxr.errors import ImageMemoryError, UnknownNameError, UnreadableImageError
from automl_cxr.serving.answers import Health, Prediction, Problem, Served
from automl_cxr.serving.decisions import RESEARCH_USE
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
_UNEXPECTED = "The server failed at this request. Its log has the reason."
# Statuses of /predict; a wrong parameter has status 422, too, with another body that FastAPI documents.
_PROBLEMS = (
    *(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    *(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, HTTPStatus.SERVICE_UNAVAILABLE),
)


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

    async def write_report(file: UploadFile) -> Response:
        if find_spec("highdicom") is None:
            raise HTTPException(HTTPStatus.NOT_IMPLEMENTED, "The server needs `pip install 'automl-cxr[sr]'` for reports.")
        content = await service.report(file.file.read)
        headers = {"Content-Disposition": 'attachment; filename="prediction_sr.dcm"'}
        return Response(content, media_type="application/dicom", headers=headers)

    async def predict(
        file: Annotated[UploadFile, File(description="A radiograph as a PNG, JPEG or DICOM file")],
        answer: Annotated[
            Literal["json", "sr"],
            Query(alias="format", description="sr: a DICOM structured report of a DICOM image, instead of JSON"),
        ] = "json",
        heatmap: Annotated[bool, Query(description="Add a Grad-CAM heat map")] = False,
        explain: Annotated[str | None, Query(description="Class that the heat map explains; else the predicted one")] = None,
    ) -> Any:
        if answer == "sr":
            return await write_report(file)
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
    # The token is checked by `RequestFilter`, before an upload is received; here it is a part of the schema.
    needs_token = [Depends(HTTPBearer(auto_error=False))]
    app.add_api_route(
        "/classifier",
        classifier,
        response_model=Served,
        dependencies=needs_token,
        responses=_problems(HTTPStatus.UNAUTHORIZED),
        summary="The classifier and the versions",
    )
    app.add_api_route(
        "/predict",
        predict,
        methods=["POST"],
        response_model=Prediction,
        dependencies=needs_token,
        responses={200: {"content": {"application/dicom": {}}}, **_problems(*_PROBLEMS)},
        summary="Classify a radiograph",
    )
    for error_type, status in _STATUS_OF_ERRORS.items():
        app.add_exception_handler(error_type, _answer_with(status))
    app.add_exception_handler(Exception, _hide_unexpected)  # uvicorn logs it
    return app


def _problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    return {status.value: {"model": Problem, "description": status.phrase} for status in statuses}


def _answer_with(status: HTTPStatus) -> Callable[[Request, Exception], JSONResponse]:
    headers = {"Retry-After": "2"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None

    def answer(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status, headers)

    return answer


def _hide_unexpected(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"detail": _UNEXPECTED}, HTTPStatus.INTERNAL_SERVER_ERROR)
