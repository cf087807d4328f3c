"""Damaged JSON records of studies: an equal record, or a ValueError, which commands report with the file."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from automl_cxr.config import TrialConfig
from automl_cxr.data.audit.duplicate_results import Duplicate, SharedPatient
from automl_cxr.data.audit.record import Audit
from automl_cxr.data.audit.shortcut_results import Shortcut
from automl_cxr.data.audit.statistic_results import Lettering, StatisticDifference
from automl_cxr.engine.warm_start_view import WarmStartPoint
from automl_cxr.ensemble.combiners import CalibratedCombiner, Stacking, WeightedAverage, combiner_from_record
from automl_cxr.errors import StudyError
from automl_cxr.records import PartRecord, SplitRecord
from automl_cxr.splicing.record import SpliceRecord
from automl_cxr.splicing.table import columns_of, parent_columns_of
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import read_record
from automl_cxr.study.warm_start import WarmStart
from tests.fuzzing.damage import NESTED, damaged_bytes, damaged_json, result_or_error

PART = PartRecord(images=("a.png", "b.png"), labels=(0, 1), patients=("p", "q"))
DUPLICATE = Duplicate(
    image="a", of="b", kind="near", correlation=0.9, label="x", of_label="y", part="", of_part="", patient="p", of_patient="q"
)
COLUMNS, PARENT_COLUMNS = list(columns_of("macro_auc")), list(parent_columns_of("macro_auc"))
RECORDS = {
    "split": SplitRecord(
        classes=("x", "y"), train=PART, valid=PART, test=("c.png",), seed=1, grouped=True, origin="made",
        unreadable={"d.png": "empty file"}, folds=(1, 2), n_without_patient=1,
    ),
    "spec": StudySpec(
        name="s", space_name="scratch", space_toml='family = "scratch"', data="/data", layout="folders", classes=("x", "y"),
        patients=None, data_digest="0", pixels_digest="1", image_size=64, batch_size=8, epochs=3,
        objectives=("macro_f1", "parameters"), normal_class="x", sampler="tpe", pruner="none", valid_fraction=0.15,
        test_fraction=0.15, seed=0, requirements=("parameters<=1000",), fixed={"dropout": 0.5, "loss": "ce"}, command="search",
    ),
    "config": TrialConfig(),
    "warm start": WarmStart(
        study="s", enqueued={3: {"dropout": 0.5}}, told={4: WarmStartPoint({"dropout": 0.1}, (0.5,))}, notes=("note",)
    ),
    "audit": Audit(
        root="/data", classes=("x", "y"), n_images=(3, 4), n_patients=2, parts={"train": 5}, found_duplicates=(DUPLICATE,),
        shared_patients=(SharedPatient(patient="p", parts=("train", "test"), n_images=2),),
        differences=(StatisticDifference(trait="mean", by_class=(1.5, 2.0), macro_f1=0.7, told=("x", "y"), told_share=0.8),),
        formats={"x": {"PNG": 3}}, lettering=(Lettering(place="anywhere", rates=(0.1, 0.2), examples=("a",)),),
        shortcut=Shortcut(macro_f1=0.6, low=0.5, high=0.7, chance=0.5, n_folds=3), unreadable={}, notes=(),
    ),
    "splices": SpliceRecord(
        first="a", second="b", cuts=(("c",), ("d", "e")), table=pd.DataFrame([[1] * len(COLUMNS)], columns=COLUMNS),
        parents=pd.DataFrame([[0.5] * len(PARENT_COLUMNS)], columns=PARENT_COLUMNS), n_train=5, n_valid=3, metric="macro_auc",
    ),
}  # fmt: skip
COMBINERS = [
    WeightedAverage(np.array([0.5, 0.5])),
    CalibratedCombiner(Stacking(np.ones((2, 2, 2)), np.zeros(2)), 2.0),
]
KINDS = st.sampled_from(sorted(RECORDS))


@pytest.fixture(scope="module")
def record_file(tmp_path_factory):
    return tmp_path_factory.mktemp("records") / "record.json"


def read(kind, path, content):
    path.write_bytes(content)
    return result_or_error(read_record, path, type(RECORDS[kind]).from_json)


def check_usable(record):
    """Use the record as commands do."""
    assert type(record).from_json(record.to_json()).to_json() == record.to_json()
    if isinstance(record, Audit):
        assert isinstance(record.statistics, pd.DataFrame)
        assert isinstance(record.patients_across_parts, pd.DataFrame)
        assert all(map(str, record.warnings))
    elif isinstance(record, StudySpec):
        assert record.objective
        assert record.normal_index in (None, *range(len(record.classes)))
        result_or_error(lambda: record.constants)


def changed(kind, **values):
    """Return a kind and its JSON values with some of them replaced."""
    return kind, json.loads(RECORDS[kind].to_json()) | values


@given(KINDS.flatmap(lambda kind: st.tuples(st.just(kind), damaged_json(json.loads(RECORDS[kind].to_json())))))
@example(changed("splices", table={"columns": [{}, {}], "data": []}))
@example(changed("warm start", enqueued=[]))
@example(changed("config", seed=10**400))
@example(("config", []))
def test_values_of_other_types_are_refused(record_file, kind_and_values):
    kind, values = kind_and_values
    record = read(kind, record_file, json.dumps(values).encode())
    if record is not None:
        check_usable(record)


@pytest.mark.parametrize(
    ("kind_and_values", "reason"),
    [
        (changed("spec", classes="xy"), "'classes': 'xy' is not a list"),
        (changed("spec", image_size="64"), "'image_size': '64' is not of type int"),
        (changed("spec", epochs=0), "'epochs' must be from 1"),
        (changed("spec", objectives=[]), "needs at least one objective"),
        (changed("spec", objectives=["f1"]), "Unknown metric or cost 'f1'"),
        (changed("spec", normal_class="z"), "the normal class 'z' is not one of the classes x, y"),
        (changed("spec", unknown=1), "'unknown' is unknown"),
        (changed("split", train=vars(PART) | {"labels": [0]}), "the numbers of images, labels and patients of 'train' differ"),
        (
            changed("split", valid=vars(PART) | {"labels": [0, 2]}),
            "a label of 'valid' is not the index of one of the 2",
        ),
        (changed("split", folds=[1]), "'folds' must have a number from 1 for each image"),
        (changed("split", grouped=1), "'grouped': 1 is not of type bool"),
        (changed("audit", n_images=[3]), "a list by class must have 2 values"),
        (changed("config", dropout=2.0), "'dropout' must be"),
    ],
)
def test_the_wrong_entry_is_named(record_file, kind_and_values, reason):
    kind, values = kind_and_values
    record_file.write_text(json.dumps(values))
    with pytest.raises(StudyError, match="is damaged") as refused:
        read_record(record_file, type(RECORDS[kind]).from_json)
    assert reason in str(refused.value)


@given(KINDS, st.data())
def test_damaged_text_is_refused(record_file, kind, data):
    record = read(kind, record_file, data.draw(damaged_bytes(RECORDS[kind].to_json().encode())))
    if record is not None:
        check_usable(record)


@pytest.mark.parametrize("kind", sorted(RECORDS))
@given(NESTED)
def test_text_that_is_no_record_is_refused(record_file, kind, text):
    record_file.write_text(text, encoding="utf-8", errors="surrogatepass")
    if text == "{}" and kind == "config":
        return  # all hyperparameters have defaults
    with pytest.raises(StudyError, match="is damaged"):
        read_record(record_file, type(RECORDS[kind]).from_json)


@pytest.mark.parametrize("kind", sorted(RECORDS))
def test_an_undamaged_record_is_read(record_file, kind):
    record = read(kind, record_file, RECORDS[kind].to_json().encode())
    assert record.to_json() == RECORDS[kind].to_json()
    if kind != "splices":  # tables have no equality
        assert dataclasses.asdict(record) == dataclasses.asdict(RECORDS[kind])


@given(st.sampled_from(COMBINERS).flatmap(lambda combiner: damaged_json(combiner.to_record())))
@example({"kind": "average", "weights": [10**400, 1]})
@example({"kind": "average", "weights": [0.5, 0.5], "temperature": 10**400})
@example([])
@example({"kind": ["average"], "weights": [0.5, 0.5]})
def test_a_damaged_combiner_is_refused(record):
    combiner = result_or_error(combiner_from_record, record, n_members=2, n_classes=2)
    if combiner is not None:
        probabilities = combiner.combine(np.full((2, 3, 2), 0.5, np.float32))
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
