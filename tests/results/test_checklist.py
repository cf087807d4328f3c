"""Reporting checklists of a study: items, flow, characteristics, and both formats."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from automl_cxr import api
from automl_cxr.choices import CHECKLISTS
from automl_cxr.data.dataset import Dataset
from automl_cxr.data.exclusions import Exclusion
from automl_cxr.errors import UnknownNameError
from automl_cxr.records import PartRecord, SplitRecord
from automl_cxr.results.checklist.checklist_page import CHARACTERISTICS, FLOW, checklist_sections, write_checklist
from automl_cxr.results.checklist.checklists import FACTS, METHODS_PREFIX, load_checklist
from automl_cxr.results.checklist.flow import flow_diagram, flow_of_study
from automl_cxr.results.checklist.table_one import table_one
from automl_cxr.results.html_page import Section, render_page
from automl_cxr.results.report import build_report
from automl_cxr.results.report.methods import methods_sentences
from automl_cxr.results.report.report_data import read_report_data
from automl_cxr.results.report.text_format import counted


@pytest.fixture
def study(prepare, quick_search):
    prepared = prepare(folds=2)
    quick_search(prepared, trials=2)
    return prepared.store


def rows_of(sections: list[Section]) -> dict[str, dict[str, str]]:
    tables = [part.table for section in sections for part in section.parts if "status" in getattr(part, "table", ())]
    return {row["item"]: row for table in tables for row in table.to_dict(orient="records")}


@pytest.mark.parametrize(("name", "n_items"), [("claim", 44), ("tripod-ai", 52)])
def test_checklists_have_the_items_of_their_publication_and_name_existing_facts(name, n_items, study):
    checklist = load_checklist(name)
    numbers = [item.number for item in checklist.items]
    assert len(set(numbers)) == len(numbers) == n_items
    subjects = methods_sentences(read_report_data(study))
    for item in checklist.items:
        assert item.facts or item.fill, item.number
        for fact in item.facts:
            assert fact in FACTS or fact.removeprefix(METHODS_PREFIX) in subjects, fact
    used = {fact for one in CHECKLISTS for item in load_checklist(one).items for fact in item.facts}
    assert set(FACTS) <= used, "each fact is used"


@pytest.mark.parametrize("name", CHECKLISTS)
def test_places_are_headings_of_the_report_or_of_the_page(name, finished):
    page = build_report(finished._store, explain=False) + "".join(f"<h2>{title}</h2>" for title in ("Heat maps",))
    titles = {*re.findall(r"<h2>(.*?)</h2>", page), FLOW, CHARACTERISTICS}
    assert {item.place for item in load_checklist(name).items} - {""} <= titles


def test_items_have_the_facts_of_the_study_and_name_the_blanks(study):
    rows = rows_of(checklist_sections(study, load_checklist("claim")))
    split = study.split
    assert rows["20"]["answer"] == "Partitions are disjoint by patient."
    assert rows["20"]["status"] == "answered"
    assert f"for 2-fold cross-validation and {counted(len(split.test), 'image')} for testing" in rows["19"]["answer"]
    assert rows["44"]["status"] == "to fill in"
    assert rows["44"]["to_fill_in"] == "funding; role of the funders"
    assert (rows["37"]["status"], rows["37"]["to_fill_in"]) == ("partly answered", "not in the record: test scores")
    assert re.search(r"effusion: sensitivity 0\.\d+ \(0\.\d+ to [01]\.\d+\)", rows["38"]["answer"])


def test_test_scores_and_characteristics_appear_after_the_evaluation(study):
    before = checklist_sections(study, load_checklist("claim"))
    sealed = before[-1]
    assert "not in the record: test characteristics" in rows_of(before)["36"]["to_fill_in"]
    assert set(sealed.parts[0].table["test"]) == {f"{len(study.split.test)}", "sealed"}
    study.record_test_opening("trial 0", {"macro_f1": 0.4321})
    sections = checklist_sections(study, load_checklist("claim"))
    assert "trial 0 on the test part: macro_f1 0.432" in rows_of(sections)["37"]["answer"]
    assert rows_of(sections)["37"]["status"] == "answered"
    assert "not in the record" not in rows_of(sections)["36"]["to_fill_in"]
    assert "sealed" not in set(sections[-1].parts[0].table["test"])


def test_both_formats_contain_all_items_and_html_has_the_diagram(study, tmp_path):
    page = write_checklist(study, tmp_path / "c.html", name="tripod-ai").read_text()
    text = write_checklist(study, tmp_path / "c.md", name="tripod-ai").read_text()
    assert "<svg" in page
    for item in load_checklist("tripod-ai").items:
        assert f"| {item.number} | {item.topic}" in text
        assert f"<td>{item.number}</td><td>{item.topic}" in page
    with pytest.raises(UnknownNameError, match="suffix"):
        write_checklist(study, tmp_path / "c.pdf", name="claim")
    with pytest.raises(UnknownNameError, match="claim"):
        write_checklist(study, tmp_path / "c.html", name="clam")


def test_a_study_without_its_data_has_a_checklist_that_says_so(study, tmp_path):
    sections = checklist_sections(study, load_checklist("claim"), data=str(tmp_path / "missing"))
    assert sections[-1].title == CHARACTERISTICS
    assert "data are not available" in sections[-1].parts[0].text
    assert rows_of(sections)["36"]["to_fill_in"].endswith("not in the record: characteristics, test characteristics")


def test_the_command_writes_a_checklist(study, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from automl_cxr.cli import _run

    assert _run(["report", "s", "--checklist", "claim", "--runs", str(tmp_path)]) == 0
    assert (tmp_path / "claim.html").is_file()
    assert _run(["report", "s", "--checklist", "claim", "--latency", "--runs", str(tmp_path)]) == 2
    assert "--latency" in capsys.readouterr().err
    assert api.open_study("s", runs=tmp_path).checklist(tmp_path / "x.md", name="claim").is_file()


@pytest.fixture
def dataset() -> Dataset:
    table = pd.DataFrame(
        {
            "image": list("abcdef"),
            "label": ["no", "yes"] * 3,
            "patient_id": ["p", "p", "q", "r", "s", "t"],
            "split": "",
            "view": ["PA", "PA", "AP", "", "PA", "AP"],
        }
    )
    table = pd.concat([table] * 3, ignore_index=True).assign(image=[f"{number}.png" for number in range(18)])
    metadata = table.set_index("image")[["view"]].assign(
        sex=["female", "male", ""] * 6,
        age=[str(30 + number) for number in range(18)],
        report=[f"text {number}" for number in range(18)],
    )
    excluded = (Exclusion("a mask", 2), Exclusion("a projection that is not used", 1))
    return Dataset(
        root=None, layout="csv", table=table, classes=("no", "yes"), patients_known=True, ignored={"x.txt": "no image"},
        notes=(), exclusions=excluded, metadata=metadata,
    )  # fmt: skip


def part(dataset, rows) -> PartRecord:
    table = dataset.table.iloc[rows]
    return PartRecord(images=tuple(table["image"]), labels=(0,) * len(table), patients=tuple(table["patient_id"]))


@pytest.fixture
def split(dataset) -> SplitRecord:
    return SplitRecord(
        classes=("no", "yes"), train=part(dataset, range(6)), valid=part(dataset, range(6, 11)),
        test=tuple(dataset.table["image"][12:]), seed=0, grouped=True, origin="made",
        unreadable={dataset.table["image"][11]: "truncated"},
    )  # fmt: skip


def test_the_flow_adds_up_and_names_all_exclusions(dataset, split):
    flow = flow_of_study(split, dataset, None)
    assert [(step.name, step.n_images, step.n_patients) for step in (*flow.steps, *flow.parts)] == [
        ("Images found", 21, None), ("Images of the study", 18, 5), ("Training", 6, 5), ("Validation", 5, 4),
        ("Test, sealed", 6, None),
    ]  # fmt: skip
    for step, following in zip(flow.steps, [flow.steps[1].n_images, sum(one.n_images for one in flow.parts)], strict=True):
        assert step.n_images - sum(one.n_images for one in step.excluded) == following
    assert flow.table()["excluded"].tolist()[:2] == ["2: a mask; 1: a projection that is not used", "1: unreadable"]
    assert "x.txt (no image)" in flow.notes[0]


def test_boxes_of_the_diagram_do_not_overlap_and_texts_are_escaped(dataset, split):
    flow = flow_of_study(split, replace(dataset, exclusions=(Exclusion("<b>a class</b> " * 6, 4),)), None)
    diagram = flow_diagram(flow)
    boxes = diagram.boxes
    assert len(boxes) == 2 + 2 + 3
    for number, one in enumerate(boxes):
        assert one.x >= 0
        assert one.x + one.width <= diagram.width
        assert one.y + one.height <= diagram.height
        for other in boxes[:number]:
            apart = one.x >= other.x + other.width or other.x >= one.x + one.width
            assert apart or one.y >= other.y + other.height or other.y >= one.y + one.height
    page = render_page("Flow", [Section("Flow", [diagram])])
    assert "<b>" not in page
    assert "&lt;b&gt;a class" in page


def test_table_one_has_levels_numbers_and_unknown_values_of_each_part(dataset, split):
    table = table_one(dataset, split, is_test_open=False).set_index("characteristic")
    assert table.loc["images"].tolist() == ["6", "5", "6"]
    assert table.loc["patients"].tolist() == ["5", "4", "sealed"]
    assert table.loc["class: yes"].tolist() == ["3 (50.0%)", "2 (40.0%)", "sealed"]
    assert table.loc["view: AP", "training"] == "2 (40.0%)"
    assert table.loc["view: unknown", "training"] == "1"
    assert table.loc["sex: female", "training"] == "2 (50.0%)"
    assert table.loc["age, mean (SD)", "validation"] == "38.0 (1.6)", "also of few ages"
    assert not any(name.startswith("report") for name in table.index if "mean" in name)
    opened = table_one(dataset, split, is_test_open=True).set_index("characteristic")
    assert opened.loc["class: yes", "test"] == "3 (50.0%)"


def test_a_column_of_many_numbers_has_mean_and_deviation(dataset):
    everything = SplitRecord(
        classes=("no", "yes"), train=part(dataset, range(18)), valid=part(dataset, []), test=(), seed=0, grouped=True,
        origin="made", unreadable={}, folds=(1, 2) * 9,
    )  # fmt: skip
    table = table_one(dataset, everything, is_test_open=False).set_index("characteristic")
    ages = np.arange(30, 48)
    assert table.loc["age, mean (SD)", "folds"] == f"{ages.mean():.1f} ({ages.std(ddof=1):.1f})"
    assert not any(name.startswith("report") for name in table.index), "texts of many kinds are no characteristic"
