"""The answers of the server: their fields, which are also the schema of the API, and pictures in base64."""

from __future__ import annotations

from base64 import b64encode

from pydantic import BaseModel, Field

from automl_cxr.serving.decisions import RESEARCH_USE
from automl_cxr.serving.heatmaps import RenderedHeatmap


class Health(BaseModel):
    """Whether the server can predict."""

    status: str = Field(description="ok, or a reason")


class Served(BaseModel):
    """The served classifier and the versions of the programs."""

    study: str
    classifier: str
    task: str = Field(description="classes: an image has one class. findings: an image may have several findings.")
    classes: list[str] = Field(description="Classes or findings, in the order of the probabilities")
    thresholds: dict[str, float] | None = Field(description="For findings, the probability from which each counts as present")
    coverage: float | None = Field(description="Stated coverage of the conformal sets; null if the server does not abstain")
    heatmaps: bool = Field(description="Whether heat maps can be requested")
    reports: bool = Field(description="Whether DICOM structured reports can be requested")
    max_upload_bytes: int
    model_digest: str = Field(description="SHA-256 of the digests of the model files")
    versions: dict[str, str]
    warnings: list[str] = Field(description="Warnings about the images on which the classifier was trained and selected")
    notes: list[str]
    use: str = RESEARCH_USE


class Abstention(BaseModel):
    """The decision by the conformal set of the image, which contains the true class with the stated coverage."""

    coverage: float
    abstains: bool = Field(description="True if the class, or the state of any finding, is not decided")
    decision: list[str] = Field(description="The class of a set with exactly one; for findings those decided as present")
    plausible: list[str] = Field(description="The classes of the set; for findings those whose presence is in their set")
    undecided: list[str] = Field(description="For findings: those from which the classifier abstains")


class Heatmap(BaseModel):
    """Grad-CAM: the regions that support a class."""

    explained: str
    overlay_png: str = Field(description="PNG file in base64: the heat map over the radiograph")
    outside: float | None = Field(description="Share of the evidence in the corners and along the borders")
    layers: list[str]


class Prediction(BaseModel):
    """The prediction for one image."""

    study: str
    classifier: str
    probabilities: dict[str, float]
    decision: list[str] = Field(
        description="The most probable class; for findings those whose probability reaches the threshold"
    )
    abstention: Abstention | None
    heatmap: Heatmap | None
    radiograph_png: str | None = Field(
        description="With a heat map: PNG file in base64, the radiograph in the same size as the heat map"
    )
    has_report: bool = Field(description="Whether a DICOM structured report of the image can be requested")
    image_sha256: str
    warnings: list[str] = Field(description="What makes the image unusual for the classifier")
    use: str = RESEARCH_USE


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


def encode_heatmap(rendered: RenderedHeatmap) -> Heatmap:
    """Return a heat map for an answer in JSON."""
    return Heatmap(
        explained=rendered.explained,
        overlay_png=encode_png(rendered.overlay),
        outside=rendered.outside,
        layers=list(rendered.layers),
    )


def encode_png(content: bytes) -> str:
    """Return a PNG file in base64."""
    return b64encode(content).decode("ascii")
