"""DICOM structured reports of predictions, read back with pydicom."""

from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from automl_cxr import api
from automl_cxr.data.decode import decoder_warnings_off
from automl_cxr.errors import UnreadableImageError
from automl_cxr.results.abstention import calibrate_classifier
from automl_cxr.serving.structured_report import SCHEME, ReportContext, read_source, write_report
from tests.serving.conftest import png


@pytest.fixture(scope="module")
def context(classifier):
    return ReportContext(classifier=classifier, model_digest="ab" * 32)


def find(item, value_type, code=None):
    """Return the content items of a type below an item, with a concept name if it is given."""
    found = []
    for child in item.get("ContentSequence", ()):
        name = child.get("ConceptNameCodeSequence", [None])[0]
        if child.ValueType == value_type and (code is None or name.CodeValue == code):
            found.append(child)
        found += find(child, value_type, code)
    return found


def groups(report):
    """Return the measurement groups by their tracking identifier."""
    containers = find(report, "CONTAINER", codes.DCM.MeasurementGroup.value)
    return {find(group, "TEXT", codes.DCM.TrackingIdentifier.value)[0].TextValue: group for group in containers}


def state(group, code="DECISION"):
    return find(group, "CODE", code)[0].ConceptCodeSequence[0].CodeMeaning


def test_the_server_returns_the_probabilities_and_decisions_as_a_report(client, classifier, radiograph):
    file = radiograph(PatientName="Müller^Ann", PatientSex="F", StudyDate="20260102", AccessionNumber="A1")
    answer = client.post("/predict", files={"file": file.read_bytes()}).json()
    received = client.post("/predict", params={"format": "sr"}, files={"file": file.read_bytes()})
    assert received.headers["content-type"] == "application/dicom"
    report, source = pydicom.dcmread(BytesIO(received.content)), pydicom.dcmread(file)
    assert (report.Modality, report.SOPClassUID.name) == ("SR", "Comprehensive SR Storage")
    assert (report.PatientID, str(report.PatientName), report.PatientSex) == ("p7", "Müller^Ann", "F")
    assert (report.StudyInstanceUID, report.StudyDate, report.AccessionNumber) == ("1.2.3", "20260102", "A1")
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    found = groups(report)
    assert list(found) == list(classifier.classes)
    for name, group in found.items():
        number = find(group, "NUM", "PROBABILITY")[0].MeasuredValueSequence[0]
        assert number.FloatingPointValue == pytest.approx(answer["probabilities"][name], abs=1e-6)
        assert float(number.NumericValue) == pytest.approx(answer["probabilities"][name], abs=1e-6)
        image = find(group, "IMAGE")[0].ReferencedSOPSequence[0]
        assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert (state(group) == "Present") == (name in answer["decision"])
        assert find(group, "CODE", codes.DCM.Finding.value)[0].ConceptCodeSequence[0].CodingSchemeDesignator == SCHEME
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_the_report_is_marked_as_research(radiograph, context):
    source = read_source(radiograph().read_bytes())
    report = pydicom.dcmread(BytesIO(write_report(source, np.array([0.2, 0.5, 0.3], np.float32), context)))
    assert report.ContentQualification == "RESEARCH"
    assert report.SeriesDescription.startswith("Research use only")
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    comments = [item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT"]
    assert any("must not be used for clinical decisions" in text for text in comments)


def test_abstention_is_reported_for_each_class(radiograph, classifier):
    sets = calibrate_classifier(classifier, 0.999)  # too few calibration images, so that no class is excluded
    context = ReportContext(classifier=classifier, model_digest="ab" * 32, sets=sets)
    source = read_source(radiograph().read_bytes())
    report = pydicom.dcmread(BytesIO(write_report(source, np.array([0.2, 0.5, 0.3], np.float32), context)))
    assert [state(group, "SETDECISION") for group in groups(report).values()] == ["Indeterminate"] * 3
    assert [state(group) for group in groups(report).values()] == ["Absent", "Present", "Absent"]


def test_names_of_any_length_and_language(radiograph, classifier):
    import dataclasses

    names = ("肺炎", "a" * 200, "b\\c")
    context = ReportContext(classifier=dataclasses.replace(classifier, classes=names), model_digest="ab" * 32)
    source = read_source(radiograph(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Ann").read_bytes())
    report = pydicom.dcmread(BytesIO(write_report(source, np.array([0.2, 0.5, 0.3], np.float32), context)))
    assert tuple(groups(report)) == names
    assert str(report.PatientName) == "Müller^Ann"
    assert report.StudyInstanceUID == "1.2.3"


@pytest.mark.parametrize(
    ("old", "new", "reason"), [(b"1.2.3\0", b"\0" * 6, "without StudyInstanceUID"), (b"20260102", b"2026xx02", "can refer")]
)
def test_an_image_to_which_no_report_can_refer(radiograph, context, old, new, reason):
    content = radiograph(StudyDate="20260102").read_bytes().replace(old, new)
    with decoder_warnings_off(), pytest.raises(UnreadableImageError, match=reason):
        write_report(read_source(content), np.array([0.2, 0.5, 0.3], np.float32), context)


def test_a_picture_has_no_report(client):
    answer = client.post("/predict", params={"format": "sr"}, files={"file": png()})
    assert (answer.status_code, "refers to a DICOM image" in answer.json()["detail"]) == (422, True)


def test_predict_writes_a_report_for_each_dicom_file(classifier, radiograph, tmp_path):
    file = radiograph()
    (tmp_path / "picture.png").write_bytes(png())
    table, problems = api.predict(classifier, [file, tmp_path / "picture.png"], reports=tmp_path / "reports")
    assert len(table) == 2
    assert problems == {}
    assert "1 of 2 images" in table.attrs["notes"][-1]
    (written,) = (tmp_path / "reports").iterdir()
    found = groups(pydicom.dcmread(written))
    assert {name: find(group, "NUM")[0].MeasuredValueSequence[0].FloatingPointValue for name, group in found.items()} == (
        pytest.approx({name: table.iloc[0][f"probability_{name}"] for name in classifier.classes}, abs=1e-6)
    )
