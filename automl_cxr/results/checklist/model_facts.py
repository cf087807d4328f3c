"""Sentences about the model of a study and its scores for a checklist; an empty text where the study has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from automl_cxr.config import BranchConfig
from automl_cxr.encoder_files import is_encoder
from automl_cxr.results.checklist.fact_data import FactData
from automl_cxr.results.external_predictions import EXTERNAL_FOLDER
from automl_cxr.results.model_card import NOT_A_DEVICE
from automl_cxr.results.outcome_tables import calibration_table
from automl_cxr.results.report.summary import warnings_of
from automl_cxr.results.report.text_format import listed
from automl_cxr.scoring.intervals import Interval, bootstrap_intervals

_KINDS = {"recall": "sensitivity", "specificity": "specificity", "auc": "AUC"}
_N_RESAMPLES = 1000


def _initial_weights(facts: FactData) -> str:
    config = facts.report.config
    random_weights = f"weights were random (seed {config.seed})."
    if not config.branches:
        return f"The initial {random_weights}"
    if config.takes_features:
        return f"The features are the input of the network, whose {random_weights}"
    sources = [f"{branch.label}: {_weights_of(branch)}" for branch in config.branches]
    others = (
        "" if config.family == "probe" else f" Other {random_weights}"
    )  # the optimum of its regression does not depend on the start
    return f"Initial weights: {listed(sources)}.{others}"


def _weights_of(branch: BranchConfig) -> str:
    if is_encoder(branch.backbone):
        return "those of a given encoder"
    return {"imagenet": "ImageNet", "chexnet": "CheXNet", "none": "random"}.get(branch.weights, "a given file")


def _loss(facts: FactData) -> str:
    used = facts.report.config.effective(("loss", "optimizer", "learning_rate", "batch_size", "augmentation"))
    texts = [f"{name.replace('_', ' ')} {_value(value)}" for name, value in used.items()]
    return f"Settings of the best trial: {listed(texts)}." if texts else "The best trial has no steps of gradient descent."


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _selection(facts: FactData) -> str:
    data = facts.report
    selected = f"The trial with the best {data.spec.objective} ({data.evaluated_on}) that meets the requirements was selected."
    return selected if data.corrected is None else f"{selected} {data.corrected.sentence()}".strip()


def _ensembling(facts: FactData) -> str:
    return " ".join(facts.methods["ensembles"]) or "No ensemble was built."


def _metrics(facts: FactData) -> str:
    names = [name.replace("_", " ") for name in facts.report.intervals]
    return f"Metrics: {listed([*names, 'calibration slope and intercept', 'net benefit'])}."


def _uncertainty(facts: FactData) -> str:
    by = "patient" if facts.report.split.grouped else "image"
    return (
        f"Scores have 95% bias-corrected and accelerated bootstrap intervals by {by}; calibration and net benefit have those "
        f"of the sandwich estimator by {by}. `automl-cxr errors` compares models by a paired bootstrap by {by} and by "
        "DeLong's test."
    )


def _shortcut(facts: FactData) -> str:
    audit = facts.report.audit
    return "" if audit is None else " ".join([audit.baseline, *audit.warnings]).strip()


def _explainability(facts: FactData) -> str:
    return "The report has Grad-CAM heat maps of the best stored model and the share of their evidence at corners and borders."


def _external(facts: FactData) -> str:
    folder = facts.report.store.folder / EXTERNAL_FOLDER
    if not folder.is_dir():
        return ""
    return "Predictions for images of other sites are stored with the study; `automl-cxr leaderboard --external` scores them."


def _validation_score(facts: FactData) -> str:
    data = facts.report
    name, interval = data.spec.objective, data.intervals[data.spec.objective]
    return (
        f"Best trial, {data.evaluated_on}: {name} {data.scores[name]:.3f} (95% interval {interval.low:.3f} to "
        f"{interval.high:.3f}) on {len(data.predictions):,} images."
    )


def _test_scores(facts: FactData) -> str:
    for name, record in facts.report.ensembles.items():
        test = record.get("test")
        if test:
            rows = [row for row in test["metrics"] if row["score"] is not None]
            texts = [f"{row['metric']} {row['score']:.3f} ({row['low']:.3f} to {row['high']:.3f})" for row in rows]
            return f"Ensemble {name} on {test['n_images']:,} test images: {listed(texts)}, with 95% intervals by patient."
    scored = [entry for entry in facts.report.test_opened if entry["scores"]]
    if not scored:
        return ""
    name = facts.report.spec.objective
    return f"{scored[-1]['what']} on the test part: {name} {scored[-1]['scores'].get(name, math.nan):.3f}."


def _accuracy_by_class(facts: FactData) -> str:
    data = facts.report
    names = [f"{kind}_{name}" for name in data.spec.classes for kind in _KINDS]
    intervals = bootstrap_intervals(
        data.predictions, names, n_resamples=_N_RESAMPLES, seed=data.spec.seed, normal_class=data.spec.normal_index
    )
    texts = []
    for name in data.spec.classes:
        scores = [
            f"{title} {data.scores[f'{kind}_{name}']:.3f} ({_range(intervals[f'{kind}_{name}'])})"
            for kind, title in _KINDS.items()
        ]
        texts.append(f"{name}: {', '.join(scores)}")
    return f"Best trial, {data.evaluated_on}, with 95% intervals: {'; '.join(texts)}."


def _range(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _calibration(facts: FactData) -> str:
    table = calibration_table(facts.report.predictions)
    rows = table.to_dict(orient="records")
    texts = [
        f"{next(iter(row.values()))}: slope {row['slope']:.2f}, intercept {row['intercept']:+.2f}"
        for row in rows
        if not math.isnan(row["slope"])
    ]
    return f"Calibration of the best trial: {'; '.join(texts)}." if texts else ""


def _failures(facts: FactData) -> str:
    data, predictions = facts.report, facts.report.predictions
    if predictions.is_multilabel:
        is_known = predictions.labels >= 0
        n_wrong, n_all = int((predictions.decided != predictions.labels)[is_known].sum()), int(is_known.sum())
    else:
        n_wrong, n_all = int((predictions.predicted != predictions.labels).sum()), len(predictions)
    return (
        f"The best trial was wrong in {n_wrong:,} of {n_all:,} decisions ({data.evaluated_on}). The report lists its most "
        "confident errors with pictures."
    )


def _limitations(facts: FactData) -> str:
    return " ".join(warnings_of(facts.report))


def _technical_details(facts: FactData) -> str:
    spec = facts.report.spec
    return f"The record of the study has its settings, search space ({spec.space_name}), seeds, split and versions."


def _software_availability(facts: FactData) -> str:
    name = facts.report.store.name
    return (
        f"`automl-cxr export {name}` writes the model as one file. `automl-cxr replay {name}` trains a trial again and "
        "compares the results."
    )


def _updating(facts: FactData) -> str:
    return "The program does not change a model after its selection."


def _prediction_command(facts: FactData) -> str:
    if not any(entry["scores"] for entry in facts.report.test_opened):
        return ""
    return f"Test images were predicted by `automl-cxr evaluate {facts.report.store.name}` with the stored model."


def _imbalance(facts: FactData) -> str:
    config = facts.report.config
    treatment = config.imbalance if config.reads("imbalance") else "none"
    return f"Treatment of class sizes in training: {treatment}."


def _output(facts: FactData) -> str:
    data = facts.report
    if not data.spec.is_multilabel:
        return "The output is a probability of each class; the most probable class is predicted."
    return (
        "The output is a probability of each finding. A finding is reported if its probability reaches a threshold, which "
        f"maximises F1 ({data.evaluated_on})."
    )


def _intended_use(facts: FactData) -> str:
    return f"Research on the classification of chest radiographs. {NOT_A_DEVICE}"


def _group_comparison(facts: FactData) -> str:
    found = facts.report.subgroups
    if found is None:
        return ""
    columns = list(dict.fromkeys(found.groups["column"]))
    return (
        f"Scores were compared between groups of patients by {listed(columns)}: {listed(found.metrics)}, with permutations of "
        "the groups among patients with the same labels, corrected for the number of tests (Holm)."
    )


def _group_gaps(facts: FactData) -> str:
    found = facts.report.subgroups
    if found is None or found.gaps.empty:
        return ""
    where = f"Groups of patients ({facts.report.evaluated_on})"
    if found.disparities:
        return f"{where}: {' '.join(found.disparities)}"
    return f"{where}: no gap is larger than chance and the labels explain, in {len(found.gaps)} tests."


MODEL_FACTS: Mapping[str, Callable[[FactData], str]] = {
    "initial_weights": _initial_weights,
    "loss": _loss,
    "selection": _selection,
    "ensembling": _ensembling,
    "metrics": _metrics,
    "uncertainty": _uncertainty,
    "shortcut": _shortcut,
    "explainability": _explainability,
    "external": _external,
    "validation_score": _validation_score,
    "test_scores": _test_scores,
    "accuracy_by_class": _accuracy_by_class,
    "calibration": _calibration,
    "group_comparison": _group_comparison,
    "group_gaps": _group_gaps,
    "failures": _failures,
    "limitations": _limitations,
    "technical_details": _technical_details,
    "software_availability": _software_availability,
    "updating": _updating,
    "prediction_command": _prediction_command,
    "imbalance": _imbalance,
    "output": _output,
    "intended_use": _intended_use,
}
