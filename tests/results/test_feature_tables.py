"""A study whose networks take a table of features: search, evaluation, prediction and export of the head."""

import json

import numpy as np
import onnxruntime
import pytest

from automl_cxr import api
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.feature_table import read_feature_table
from automl_cxr.errors import DataError, SpaceError, UsageError
from automl_cxr.results.export import export_classifier
from automl_cxr.results.verification import verify_study


def write_table(file, ids, features):
    np.savez(file, ids=np.array(ids), features=np.asarray(features))
    return str(file)


def features_of(dataset, n_features=6):
    """Return random features that contain the class."""
    rng = np.random.default_rng(0)
    labels = dataset.labels_of(list(dataset.table["image"]))
    features = rng.normal(size=(len(labels), n_features))
    features[np.arange(len(labels)), labels] += 3
    return list(dataset.table["image"]), features.astype(np.float32)


@pytest.fixture(scope="module")
def table(phantoms, tmp_path_factory):
    ids, features = features_of(load_dataset(phantoms))
    order = np.random.default_rng(1).permutation(len(ids))
    return write_table(tmp_path_factory.mktemp("table") / "t.npz", [ids[row] for row in order], features[order])


@pytest.fixture(scope="module")
def study(phantoms, table, tmp_path_factory):
    options = {"folds": 2, "trials": 3, "epochs": 4, "executor": "inline", "seed": 1}
    return api.search(data=str(phantoms), features=table, name="t", runs=tmp_path_factory.mktemp("runs"), **options)


@pytest.mark.long
def test_probes_and_heads_learn_from_the_table(study, table, phantoms, tmp_path):
    leaderboard = study.leaderboard()
    assert set(leaderboard["family"]) == {"probe", "transfer"}
    assert leaderboard["macro_f1"].max() > 0.8
    evaluation = study.evaluate(0)
    assert evaluation.scores["macro_f1"] > 0.8
    with pytest.raises(DataError, match="another file"):
        study.evaluate(0, features=write_table(tmp_path / "other.npz", *features_of(load_dataset(phantoms))))

    classifier = study.classifier(0)
    images = sorted(phantoms.rglob("*.png"))[:4]
    with pytest.raises(UsageError, match="--features FILE"):
        api.predict(classifier, images)
    predicted, _ = api.predict(classifier, images, features=table)
    with pytest.raises(DataError, match="takes 6 features"):
        api.predict(classifier, images, features=write_table(tmp_path / "wide.npz", ["a"], np.zeros((1, 7))))
    with pytest.raises(UsageError, match="needs a network that takes images"):
        classifier.with_mirrored_view()

    done = export_classifier(classifier, tmp_path / "head.onnx")
    assert "the head only" in json.loads(done.description.read_text())["contents"]
    read = read_feature_table(table)
    session = onnxruntime.InferenceSession(str(done.file), providers=["CPUExecutionProvider"])
    rows = read.select([str(one.relative_to(phantoms)) for one in images], phantoms)
    (probabilities,) = session.run(None, {"features": rows})
    columns = [f"probability_{name}" for name in classifier.classes]
    assert probabilities == pytest.approx(predicted[columns].to_numpy(), abs=1e-5)
    ensemble = study.ensemble(top=3, method="average", name="e")
    assert api.predict(api.open_classifier(ensemble.folder), images, features=table)[0].shape == predicted.shape
    with pytest.raises(UsageError, match="needs a network that takes images"):
        study.explain(what=0)
    assert verify_study(study._store).is_sound


@pytest.mark.slow
def test_a_table_that_does_not_fit_is_refused(phantoms, tmp_path):
    ids, features = features_of(load_dataset(phantoms))
    options = {"data": str(phantoms), "name": "x", "runs": tmp_path, "trials": 1, "executor": "inline"}
    with pytest.raises(DataError, match=f"none for 2 of {len(ids)}, such as {ids[0]}, {ids[1]}"):
        api.search(features=write_table(tmp_path / "short.npz", ids[2:], features[2:]), folds=2, **options)
    with pytest.raises(SpaceError, match="families probe and transfer; space 'auto' contains scratch, fused"):
        api.search(features=write_table(tmp_path / "all.npz", ids, features), space="auto", **options)
