"""DICOM structured reports (SR) of predictions: Comprehensive SR with a measurement report (PS3.16, TID 1500).

The report refers to the predicted image and belongs to its study and patient. Each class is a measurement group (TID 1501) with
its probability, the decision, and the algorithm (TID 4019). The report is marked as research by Content Qualification, in the
series description and in a comment, and it is preliminary and unverified.

highdicom and pydicom are imported in the functions that use them.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from automl_cxr.data.dicom import read_header
from automl_cxr.errors import UnreadableImageError, UsageError
from automl_cxr.io import sha256_of_file
from automl_cxr.results.classifier import Classifier
from automl_cxr.scoring.conformal import ConformalSets
from automl_cxr.serving.decisions import RESEARCH_USE, decide, decide_by_sets
from automl_cxr.version import __version__

if TYPE_CHECKING:
    from pydicom import Dataset

SCHEME = "99AUTOMLCXR"  # of codes of our own; 99 is the prefix of private coding schemes (PS3.16, section 8)
_SERIES_DESCRIPTION = "Research use only: prediction by automl_cxr"
_SERIES_NUMBER = 9900  # above those of acquisitions
_MEANING_LENGTH = 64  # characters of a code meaning
_IDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_UNITS = ("no units", "1")


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What all reports of a classifier have in common.

    Attributes:
        classifier: The classifier.
        model_digest: SHA-256 of its model files.
        sets: Conformal sets by which it abstains; None for no abstention.
    """

    classifier: Classifier
    model_digest: str
    sets: ConformalSets | None = None


def digest_models(classifier: Classifier) -> str:
    """Return a SHA-256 that identifies the model files of a classifier, in their order."""
    return hashlib.sha256("".join(sha256_of_file(member.file) for member in classifier.members).encode()).hexdigest()


def check_highdicom() -> None:
    """Check that structured reports can be written.

    Raises:
        UsageError: The package highdicom is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"DICOM structured reports need the package highdicom; received {error}. Run: pip install 'automl-cxr[sr]'."
        ) from error


def read_source(content: bytes) -> Dataset:
    """Return the elements of a DICOM image that its report repeats: patient, study, and identifiers.

    Args:
        content: A DICOM file that ``decode_dicom`` accepts.

    Raises:
        UnreadableImageError: An identifier is missing, so that no report can refer to the image.
    """
    from pydicom import Dataset

    header = read_header(content)
    source = Dataset()
    for name in _IDS:
        if not header.get(name):
            raise UnreadableImageError(f"a DICOM file without {name}, to which no structured report can refer")
        setattr(source, name, str(header.get(name)))
    for name in _OPTIONAL:
        value = header.get(name)
        setattr(source, name, None if value in (None, "") else str(value))
    if source.PatientSex not in ("M", "F", "O"):
        source.PatientSex = None
    return source


_OPTIONAL = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)


def write_report(source: Dataset, probabilities: np.ndarray, context: ReportContext) -> bytes:
    """Write the report of one prediction.

    Args:
        source: Result of ``read_source``.
        probabilities: Of the image, (n_classes,).
        context: The classifier.

    Returns:
        A DICOM file.

    Raises:
        UnreadableImageError: The elements of the image do not fit into a report, such as an invalid date.
    """
    import highdicom as hd
    import highdicom.coding_schemes

    try:
        report = hd.sr.ComprehensiveSR(
            evidence=[source],
            content=_content(source, probabilities, context)[0],
            series_instance_uid=hd.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="automl_cxr",
            manufacturer_model_name=_shorten(context.classifier.name),
            software_versions=__version__,
            series_description=_SERIES_DESCRIPTION,
            content_qualification=hd.ContentQualificationValues.RESEARCH,
            specific_character_set="ISO_IR 192",  # UTF-8, for names of classes in any language
            coding_schemes=[hd.coding_schemes.CodingSchemeIdentificationItem(SCHEME, name="automl_cxr", version=__version__)],
            is_complete=True,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UnreadableImageError(f"a DICOM file to which no structured report can refer ({reason})") from error
    with io.BytesIO() as file:
        report.save_as(file, enforce_file_format=True)
        return file.getvalue()


def _content(source: Dataset, probabilities: np.ndarray, context: ReportContext) -> Any:
    """Return the content tree: who observed, what was measured for each class, and the comment on its use."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=_uid_of(context.model_digest),
        name="automl_cxr",
        model_name=context.classifier.name,
        serial_number=context.model_digest,
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=hd.sr.CodedConcept("399208008", "SCT", "Plain chest X-ray"),
        imaging_measurements=_measurements(source, probabilities, context),
    )
    report[0].ContentSequence.append(
        hd.sr.TextContentItem(
            name=codes.DCM.Comment, value=RESEARCH_USE, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS
        )
    )
    return report


def _measurements(source: Dataset, probabilities: np.ndarray, context: ReportContext) -> list[Any]:
    import highdicom as hd

    classifier = context.classifier
    algorithm = hd.sr.AlgorithmIdentification(
        name=f"{classifier.name} of study {classifier.study}",
        version=__version__,
        manufacturer="automl_cxr",
        parameters=[f"SHA-256 of the models: {context.model_digest}", RESEARCH_USE],
    )
    images = [hd.sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)]
    states = _states(probabilities, context)
    return [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=name),
            finding_type=class_code(name),
            algorithm_id=algorithm,
            measurements=[
                hd.sr.Measurement(
                    name=hd.sr.CodedConcept("PROBABILITY", SCHEME, "Probability"),
                    value=round(float(probability), 6),  # the rest is rounding of float32
                    unit=hd.sr.CodedConcept(_UNITS[1], "UCUM", _UNITS[0]),
                )
            ],
            qualitative_evaluations=[
                hd.sr.QualitativeEvaluation(name=hd.sr.CodedConcept(*title), value=hd.sr.CodedConcept(*_STATES[state]))
                for title, state in states[name].items()
            ],
            source_images=images,
        )
        for name, probability in zip(classifier.classes, probabilities, strict=True)
    ]


_STATES = {
    "present": ("52101004", "SCT", "Present"),
    "absent": ("2667000", "SCT", "Absent"),
    "undecided": ("82334004", "SCT", "Indeterminate"),
}
_DECISION = ("DECISION", SCHEME, "Decision")
_SET_DECISION = ("SETDECISION", SCHEME, "Decision with abstention")


def _states(probabilities: np.ndarray, context: ReportContext) -> dict[str, dict[tuple[str, str, str], str]]:
    """Return the state of each class by the decision, and by the conformal sets if the classifier abstains."""
    classifier = context.classifier
    decided = decide(classifier, probabilities)
    states = {name: {_DECISION: "present" if name in decided else "absent"} for name in classifier.classes}
    if context.sets is not None:
        by_sets = decide_by_sets(classifier.classes, context.sets, probabilities)
        open_classes = by_sets.undecided if classifier.is_multilabel else by_sets.plausible if by_sets.abstains else []
        for name in classifier.classes:
            state = "present" if name in by_sets.decision else "undecided" if name in open_classes else "absent"
            states[name][_SET_DECISION] = state
    return states


def class_code(name: str) -> Any:
    """Return the code of a class: names are not codes of a published scheme, and may be longer than a code value."""
    import highdicom as hd

    return hd.sr.CodedConcept(f"C{hashlib.sha256(name.encode()).hexdigest()[:12].upper()}", SCHEME, _shorten(name))


def _uid_of(digest: str) -> str:
    """Return the UID of the device, which is the same for the same models (PS3.5, B.2)."""
    return f"2.25.{int(digest[:32], 16)}"


def _shorten(text: str) -> str:
    """Shorten a text to the length of a code meaning; a backslash would separate two values."""
    return text.replace("\\", "/")[:_MEANING_LENGTH]
