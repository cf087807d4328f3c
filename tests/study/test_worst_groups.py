"""A search whose objective and requirement are scores of the worst group of patients."""

import numpy as np
import pandas as pd
import pytest

from automl_cxr import api
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.image_metadata import METADATA_FILE
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.errors import DataError, UnknownNameError
from automl_cxr.scoring.metrics import score_predictions

SPACE = """
family = "scratch"
n_blocks = 2
filters = 4
[learning_rate]
type = "float"
low = 1e-3
high = 1e-1
log = true
default = 1e-2
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    draw_phantoms(folder / "data", n_images=210, image_size=32, seed=3)
    images = load_dataset(folder / "data").table
    number = images["patient_id"].map({name: place for place, name in enumerate(sorted(set(images["patient_id"])))})
    columns = {
        "path": [str(folder / "data" / image) for image in images["image"]],
        "label": images["label"],
        "patient_id": images["patient_id"],
        "sex": np.where(number % 2 == 0, "F", "M"),
        "site": np.where(number < 3, "a", "b"),
    }
    pd.DataFrame(columns).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


def test_groups_are_checked_before_a_study_is_created(prepare, table, tmp_path):
    settings = {"data": str(table), "folds": 2}
    with pytest.raises(UnknownNameError, match="column of subgroups 'race'"):
        prepare(require=("worst:race:macro_f1>=0.5",), **settings)
    with pytest.raises(DataError, match=r"worst group of site needs two groups with 20 patients or more"):
        prepare(objective=("macro_f1", "worst:site:macro_f1"), **settings)
    assert not (tmp_path / "s").exists()
    spec = prepare(objective=("macro_f1", "worst:sex:fnfr"), require=("worst:sex:macro_f1>=0.5",), **settings).store.spec
    assert spec.objectives == ("macro_f1", "worst:sex:fnfr")


@pytest.mark.slow
def test_trials_are_scored_in_their_worst_group(table, tmp_path):
    (tmp_path / "tiny.toml").write_text(SPACE)
    study = api.search(
        str(tmp_path / "tiny.toml"), table, name="w", trials=2, epochs=1, image_size=32, folds=2, batch_size=8, runs=tmp_path,
        executor="inline", objective=("macro_f1", "worst:sex:fnfr"), require="worst:sex:accuracy>=0.99",
    )  # fmt: skip
    store = study._store
    sex = pd.read_csv(store.folder / METADATA_FILE, index_col="image", dtype=str)["sex"]
    for record in study.trials:
        predictions = store.predictions(record.number)
        of_image = sex[list(predictions.ids)].to_numpy()
        scores = [score_predictions(predictions.take(of_image == group), normal_class=1) for group in ("female", "male")]
        assert record.values[1] == pytest.approx(max(score["fnfr"] for score in scores))
        worst = min(score["accuracy"] for score in scores)
        assert record.violations["worst:sex:accuracy>=0.99"] == pytest.approx(0.99 - worst)
    assert store.eligible() == []
    assert "worst:sex:fnfr" in study.leaderboard()
    assert study.report(tmp_path / "report.html", explain=False).is_file()
