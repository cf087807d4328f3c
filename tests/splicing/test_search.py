"""Splice search from two names to a study of spliced networks."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from automl_cxr import api
from automl_cxr.config import TrialConfig
from automl_cxr.errors import DataError, ImpossibleModelError, StudyMismatchError, TrialError, UsageError
from automl_cxr.model.memory_estimate import measure_size
from automl_cxr.records import TrialState
from automl_cxr.results.report.methods import methods_paragraphs
from automl_cxr.results.report.report_data import read_report_data
from automl_cxr.splicing.costs import count_costs
from automl_cxr.study.model_sources import find_hashes

FIRST = {"weights": "none", "unfreeze": 0}
FIXED = {"weights": "none", "second_weights": "none"}


@pytest.fixture(scope="module")
def spliced(trained):
    """Splice a SqueezeNet of random weights with the trained network, and fine-tune one pair."""
    runs = trained.folder.parent
    return api.splice("squeezenet", "tiny", cuts=["1", "4"], finetune=1, epochs=1, batch_size=64, fixed=FIRST, runs=runs)


def test_all_pairs_and_single_cuts_are_scored(spliced):
    table = spliced.table
    assert len(table) == 2 * 2 + 2 + 2
    assert set(table["first_cut"]) == {"fire2_concat", "fire5_concat", ""}
    assert set(table["second_cut"]) == {"block1_pool", "block2_pool", ""}
    assert spliced.scores.n_valid == 11
    assert "Best pair:" in repr(spliced)


def test_the_split_equals_that_of_the_study_of_the_branch(spliced, trained):
    split = trained._store.split
    assert spliced.study._store.split == split
    assert list(spliced.parents["parent"])[-1].endswith("as trained")


def test_the_best_pair_is_trained_as_an_ordinary_trial(spliced):
    study = spliced.study
    assert study.name.startswith("splice-squeezenet-tiny-")
    (trial,) = study.trials
    best = spliced.table[spliced.table["pareto"]].iloc[0]
    assert trial.state is TrialState.COMPLETE
    assert trial.params == {"cut": best["first_cut"], "second_cut": best["second_cut"]}
    assert trial.n_parameters == best["n_parameters"]
    assert len(study.leaderboard()) == 1
    assert study.verify().is_sound
    config = TrialConfig.from_json((study._store.trial_folder(0) / "config.json").read_text())
    assert config.second_weights == str(study.folder / "branches" / "second.keras")


def test_training_starts_with_the_scored_head(spliced):
    from automl_cxr.model.build import build_model

    config = TrialConfig.from_json((spliced.study._store.trial_folder(0) / "config.json").read_text())
    model = build_model(config, 3, steps_per_epoch=2)
    head = spliced.scores.heads[config.cut, config.second_cut]
    features = np.random.default_rng(0).normal(5, 3, size=(7, len(head.kernel))).astype(np.float32)
    logits = features @ head.kernel + head.bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    head_model = type(model)(model.get_layer("joined").output, model.output)
    np.testing.assert_allclose(head_model.predict_on_batch(features), powers / powers.sum(axis=1, keepdims=True), atol=1e-4)
    for changed in ({"projection": 8}, {"n_dense": 1}, {"heads": ""}):
        assert dataclasses.replace(config, **changed).head_file is None
    with pytest.raises(TrialError, match="which cannot be read"):
        build_model(dataclasses.replace(config, second_cut="1"), 3, steps_per_epoch=2)


@pytest.mark.slow
def test_further_pairs_are_added_to_the_study_and_none_is_trained_twice(spliced):
    spliced.scores.table.loc[:, "pareto"] |= spliced.table["first_cut"].ne("") & spliced.table["second_cut"].ne("")
    spliced.finetune(2)
    first, second = spliced.study.trials
    assert first.attempts == 1
    assert second.params != first.params


def test_a_study_with_other_cuts_is_not_continued(spliced, trained):
    with pytest.raises(StudyMismatchError, match="Repeat its settings, or create another study with --name"):
        api.splice(
            "squeezenet", "tiny", cuts=["1"], finetune=1, fixed=FIRST, epochs=1, batch_size=64,
            runs=trained.folder.parent,
        )  # fmt: skip


def test_two_cuts_of_one_network_are_scored(phantoms, tmp_path):
    result = api.splice(
        "squeezenet", "squeezenet", phantoms, cuts=["1", "2", "5"], finetune=0, image_size=32, fixed=FIXED, runs=tmp_path
    )
    assert len(result.table) == 3 + 3
    assert result.study is None
    assert not (tmp_path / "studies.db").exists()
    assert len(result.parents) == 1


def test_costs_equal_those_of_the_built_networks():
    config = TrialConfig(
        family="concat", image_size=32, backbone="squeezenet", second_backbone="scratch", n_blocks=3, filters=4, projection=8,
        dense_units=6,
    )  # fmt: skip
    pairs = [(first, second) for first in ("fire2_concat", "fire9_concat") for second in ("block1_pool", "block3_pool")]
    for pair, cost in count_costs([*pairs, ("fire3_concat", None)], config, 3).items():
        network = dataclasses.replace(config, cut=pair[0], second_cut=pair[1] or "", family="concat" if pair[1] else "transfer")
        size = measure_size(network, 3)
        assert (cost.parameters, cost.multiply_adds) == (size.parameters, size.multiply_adds)


@pytest.mark.parametrize(
    ("names", "settings", "error", "message"),
    [
        (("squeezenet", "tiny"), {"image_size": 64}, UsageError, "was trained with image_size 32; received 64"),
        (("squeezenet", "tiny"), {"seed": 4}, DataError, "were used to train or select the branch tiny/.*--test-overlap allow"),
        (("inceptionv3", "tiny"), {}, ImpossibleModelError, "needs images of at least 75 pixels"),
        (("squeezenet", "tiny"), {"finetune": -1}, UsageError, "finetune must be 0 or more; received -1"),
        (("squeezenet", "tiny"), {"name": "a/b"}, UsageError, "valid folder name"),
    ],
)
def test_incompatible_settings_are_rejected(trained, names, settings, error, message):
    settings = {"finetune": 0, "fixed": {"weights": "none"}, **settings}
    with pytest.raises(error, match=message):
        api.splice(*names, runs=trained.folder.parent, **settings)


def test_cached_features_equal_those_of_the_trained_network(spliced):
    """The cached features must equal those of the spliced network before its first training step."""
    from automl_cxr.model.branches import build_branch
    from automl_cxr.model.build import build_model
    from automl_cxr.training.frozen_features import pooled_features

    config = TrialConfig.from_json((spliced.study._store.trial_folder(0) / "config.json").read_text())
    config = dataclasses.replace(config, augmentation=0.0)
    images = np.random.default_rng(0).integers(0, 256, size=(4, 32, 32), dtype=np.uint8)
    network, layers = build_branch(config, 1)
    pooled = pooled_features(network, [layers[config.second_cut]], images)
    model = build_model(config, 3, steps_per_epoch=2)
    features = type(model)(model.input, model.get_layer("second_backbone_vector").output)
    expected = features.predict_on_batch(images[..., None])
    np.testing.assert_allclose(pooled[layers[config.second_cut]], expected, atol=1e-5)


def test_a_branch_that_was_trained_on_validation_images_is_rejected(trained, phantoms, tmp_path):
    split = trained._store.split
    valid = {*split.train.images[::4], *split.valid.images[:4]}
    parts = {image: "valid" if image in valid else "train" for image in (*split.train.images, *split.valid.images)}
    parts |= dict.fromkeys(split.test, "test")
    rows = [{"path": str(phantoms / image), "label": image.split("/")[0], "split": part} for image, part in parts.items()]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    settings = {"cuts": ["1"], "finetune": 0, "fixed": FIRST, "runs": trained.folder.parent}
    with pytest.raises(DataError, match=rf"{len(split.train.images[::4])} of {len(valid)} are training images of the branch"):
        api.splice("squeezenet", "tiny", tmp_path / "table.csv", **settings)


@pytest.mark.long
def test_an_allowed_overlap_is_stated_wherever_scores_are(trained):
    settings = {"cuts": ["1"], "second_cuts": ["1"], "fixed": FIRST, "runs": trained.folder.parent}
    result = api.splice("squeezenet", "tiny", seed=4, test_overlap="allow", finetune=1, epochs=1, name="leaking", **settings)
    used, own = find_hashes(trained.folder), find_hashes(result.study.folder)
    n_test, n_valid = len(own.test & (used.train | used.valid)), len(own.valid & used.train)
    test = f"{n_test} of {len(own.test)} test images were used to train or select the"
    valid = f"{n_valid} of {len(own.valid)} validation images are training images of the"
    assert n_test > 0 < n_valid
    assert any(test in note for note in result.scores.notes)
    evaluation = result.study.evaluate()
    assert test in repr(evaluation)
    assert valid in repr(evaluation)
    ensemble = result.study.ensemble(top=1)
    assert f"**Warning**: {test}" in (ensemble.folder / "model_card.md").read_text()
    result.study.evaluate(ensemble)
    assert (ensemble.folder / "model_card.md").read_text().count(f"**Warning**: {test}") == 2
    methods = " ".join(methods_paragraphs(read_report_data(result.study._store)))
    assert test in methods
    assert valid in methods
