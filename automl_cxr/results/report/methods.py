"""Methods paragraphs for a paper, generated from the study record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from automl_cxr.architectures import find_backbone
from automl_cxr.config import TrialConfig
from automl_cxr.encoder_files import is_encoder
from automl_cxr.engine.parameters import Choice, Float, Int
from automl_cxr.records import PartRecord
from automl_cxr.results.html_page import Section, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import (
    capitalised,
    counted,
    duration,
    images_without_patient,
    listed,
    number_word,
    times,
)
from automl_cxr.study.provenance import SearchEntry

_SAMPLERS: Mapping[str, str] = MappingProxyType(
    {
        "tpe": "the multivariate tree-structured Parzen estimator of Optuna",
        "random": "random search",
        "gp": "Bayesian optimisation with a Gaussian process (Optuna)",
        "cmaes": "the covariance matrix adaptation evolution strategy (CMA-ES, Optuna)",
        "qmc": "quasi-Monte Carlo sampling (Optuna)",
        "grid": "grid search",
        "nsga2": "the genetic algorithm NSGA-II (Optuna)",
        "nsga3": "the genetic algorithm NSGA-III (Optuna)",
        "kt-hyperband": "Hyperband (KerasTuner), in which the best trials of a rung continue from their checkpoints",
        "kt-bayesian": "Bayesian optimisation with a Gaussian process (KerasTuner)",
        "kt-random": "random search (KerasTuner)",
        "kt-grid": "grid search (KerasTuner)",
    }
)
_PRUNERS: Mapping[str, str] = MappingProxyType(
    {
        "asha": "by asynchronous successive halving",
        "hyperband": "by the successive-halving brackets of Hyperband",
        "median": "when their score was worse than the median of the earlier trials",
        "wilcoxon": "between folds, by Wilcoxon's signed-rank test against the best trial",
    }
)
_OBJECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "macro_f1": "macro-averaged F1",
        "balanced_accuracy": "balanced accuracy",
        "macro_auc": "mean one-vs-rest area under the ROC curve",
        "macro_average_precision": "mean average precision",
        "micro_f1": "micro-averaged F1",
        "log_loss": "log loss",
        "fnfr": "the False No-Finding Rate",
        "sensitivity_at_90_specificity": "sensitivity at 90% specificity",
        "sensitivity_at_95_specificity": "sensitivity at 95% specificity",
        "parameters": "the number of parameters",
        "multiply_adds": "the number of multiply-adds",
        "latency": "the inference time per image",
    }
)
_FINDING_OBJECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "macro_f1": "F1 averaged over the findings",
        "macro_auc": "area under the ROC curve, averaged over the findings,",
        "macro_average_precision": "average precision, averaged over the findings,",
        "sensitivity_at_90_specificity": "sensitivity at 90% specificity, averaged over the findings,",
        "sensitivity_at_95_specificity": "sensitivity at 95% specificity, averaged over the findings,",
    }
)
_UNCERTAIN_LABELS: Mapping[str, str] = MappingProxyType(
    {"zeros": "counted as absent", "ones": "counted as present", "drop": "not scored"}
)
_FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "scratch": "convolutional networks trained from random weights",
        "fused": "convolutional networks with joined shallow and deep feature maps, trained from random weights",
        "transfer": "pretrained networks with a new head",
        "concat": "concatenations of two networks, each cut at a layer",
        "probe": "logistic regressions on the outputs of frozen layers of pretrained networks",
    }
)
_PARAGRAPHS = (
    ("images", "labels", "split", "preparation"),
    ("search", "training", "budget"),
    ("best", "ensembles"),
    ("evaluation",),
    ("versions", "machines", "seeds"),
)
_MAX_ENSEMBLES = 3
_MAX_VALUES = 8  # listed values of a choice
_FITS = {"stretch": "stretched to", "pad": "padded with black to", "crop": "centre-cropped to"}
_DIRECTIONS = {"MAXIMIZE": "maximise", "MINIMIZE": "minimise"}
_LIBRARIES = (("keras", "Keras"), ("optuna", "Optuna"), ("keras-tuner", "KerasTuner"), ("ray", "Ray"), ("numpy", "NumPy"))
_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def methods_section(data: ReportData) -> Section:
    """Return the section with the methods paragraphs."""
    return Section("Methods", [Text(paragraph) for paragraph in methods_paragraphs(data)])


def methods_paragraphs(data: ReportData) -> list[str]:
    """Return paragraphs about data, search, best trial, evaluation and computation, in the style of a paper."""
    sentences = methods_sentences(data)
    paragraphs = [[one for subject in subjects for one in sentences[subject]] for subjects in _PARAGRAPHS]
    return [" ".join(paragraph) for paragraph in paragraphs if paragraph]


def methods_sentences(data: ReportData) -> dict[str, list[str]]:
    """Return the sentences of the paragraphs by subject, which are the names in ``_PARAGRAPHS``."""
    return {
        "images": [_images(data)],
        "labels": _unknown_labels(data),
        "split": _split(data),
        "preparation": [_preparation(data)],
        "search": _search(data),
        "training": [_training(data), *_stopping(data)],
        "budget": _budget(data),
        "best": _best(data),
        "ensembles": _ensembles(data),
        "evaluation": _evaluation(data),
        "versions": [_versions(entry) for entry in data.searches[-1:]],
        "machines": [_machines(data.searches)] if data.searches else [],
        "seeds": _seeds(data),
    }


# --------------------------------------------------------------------------------------------------------------- data


def _images(data: ReportData) -> str:
    spec, split = data.spec, data.split
    n_images = len(split.train.images) + len(split.valid.images) + len(split.test)
    radiographs = counted(n_images, "chest radiograph")
    if spec.is_multilabel:
        findings = f"{counted(len(spec.classes), 'finding')} ({listed(spec.classes)})"
        return f"The data set comprised {radiographs}, each of which may have several of {findings}."
    classes = f"{counted(len(spec.classes), 'class', 'classes')} ({listed(spec.classes)})"
    return f"The data set comprised {radiographs} of {classes}."


def _unknown_labels(data: ReportData) -> list[str]:
    """Describe the unknown and uncertain labels of findings, if there are any."""
    split, sentences = data.split, []
    if split.n_missing:
        sentences.append(
            f"In {counted(split.n_missing, 'image')}, labels of some findings were unknown; they were neither used for "
            "training nor scored."
        )
    if split.n_uncertain:
        treated = _UNCERTAIN_LABELS[data.spec.uncertain]
        sentences.append(
            f"In {counted(split.n_uncertain, 'image')}, labels of some findings were uncertain; they were {treated}."
        )
    return sentences


def _stratified(data: ReportData) -> str:
    return "iteratively over all findings" if data.spec.is_multilabel else "by class"


def _split(data: ReportData) -> list[str]:
    split = data.split
    by = "by patient" if split.grouped else "by image, because patients were unknown"
    how = {
        "made": f"The images were divided at random {by}, stratified {_stratified(data)} (seed {split.seed})",
        "given": "The images were divided as specified by the data set",
    }.get(
        split.origin,
        f"The parts specified by the data set were used; the other parts were drawn at random {by} (seed {split.seed})",
    )
    parts = (
        [f"{_size(split.train)} for {split.n_folds}-fold cross-validation"]
        if split.folds
        else [f"{_size(split.train)} for training", f"{_size(split.valid)} for validation"]
    )
    test = f"{counted(len(split.test), 'image')} for testing, which no trial used"
    sentences = [f"{how}: {listed([*parts, test])}."]
    if split.folds:
        sentences.append(f"Folds were drawn {by}, stratified {_stratified(data)}.")
    without_patient = images_without_patient(split, data.spec.unknown_patients)
    if without_patient:
        sentences.append(without_patient)
    if split.unreadable:
        were = "was" if len(split.unreadable) == 1 else "were"
        sentences.append(f"{capitalised(counted(len(split.unreadable), 'image'))} could not be read and {were} excluded.")
    return sentences


def _size(part: PartRecord) -> str:
    return f"{counted(len(part.images), 'image')} of {counted(len(set(part.patients)), 'patient')}"


def _preparation(data: ReportData) -> str:
    size, fit = data.spec.image_size, data.spec.fit
    if data.spec.features is not None:
        return (
            f"Each image was represented by {data.spec.n_features} features that another program had computed (SHA-256 of the "
            f"table: {data.spec.features_digest})."
        )
    return f"Images were converted to 8-bit greyscale and {_FITS[fit]} {size} × {size} pixels."


# ------------------------------------------------------------------------------------------------------------- search


def _search(data: ReportData) -> list[str]:
    spec = data.spec
    sentences = [_space(data)]
    samplers = list(dict.fromkeys(entry.sampler for entry in data.searches)) or [spec.sampler]
    proposed = listed([_SAMPLERS.get(name) or f"the sampler {name.removeprefix('hub:')} of OptunaHub" for name in samplers])
    sentences.append(f"Configurations were proposed by {proposed} to {_objective_text(data)}.")
    if spec.warm_start:
        sentences.append(f"The search started with the best configurations of an earlier study, {spec.warm_start}.")
    if spec.requirements:
        sentences.append(f"Trials had to satisfy {listed(spec.requirements)}.")
    return sentences


def _space(data: ReportData) -> str:
    spec = data.spec
    parameters = spec.space.parameters
    families = _families(data)
    if not parameters:
        return f"No hyperparameter was searched: all hyperparameters of the space {spec.space_name} are fixed ({families})."
    searched = "; ".join(_range(parameter) for parameter in parameters)
    return (
        f"We searched {counted(len(parameters), 'hyperparameter')} of {families} (search space {spec.space_name}): {searched}."
    )


def _families(data: ReportData) -> str:
    space = data.spec.space
    searched = next((one.values for one in space.parameters if one.name == "family" and isinstance(one, Choice)), None)
    names = searched or [space.constants.get("family", TrialConfig().family)]
    return listed([_FAMILIES.get(str(name), str(name)) for name in names])


def _range(parameter: Float | Int | Choice) -> str:
    if isinstance(parameter, Choice):
        values = [str(value) for value in parameter.values]
        shown = values if len(values) <= _MAX_VALUES else [*values[:3], f"{len(values) - 4} more", values[-1]]
        return f"{parameter.name} in {{{', '.join(shown)}}}"
    log = " (log scale)" if parameter.log else ""
    return f"{parameter.name} from {parameter.low:g} to {parameter.high:g}{log}"


def _objective_text(data: ReportData) -> str:
    verbs = [_DIRECTIONS[direction.name] for direction in data.store.study.directions]
    names = [_metric_text(data, name).removesuffix(",") for name in data.spec.objectives]
    where = "over all folds" if data.split.folds else "on the validation part"
    first = f"{verbs[0]} {names[0]} {where}"
    return listed([first, *(f"{verb} {name}" for verb, name in zip(verbs[1:], names[1:], strict=True))])


def _training(data: ReportData) -> str:
    spec = data.spec
    batch = "" if "batch_size" in spec.space.names else f" in batches of {spec.batch_size} images"
    if data.split.folds:
        return (
            f"Each trial trained {counted(spec.folds, 'network')}, one per fold, for up to {counted(spec.epochs, 'epoch')}"
            f"{batch}. The score of a trial was computed from its out-of-fold predictions: each image was predicted by the "
            "network that had not been trained on its fold."
        )
    return (
        f"Each trial was trained for up to {counted(spec.epochs, 'epoch')}{batch}, and the weights of its best epoch on the "
        "validation part were used."
    )


def _stopping(data: ReportData) -> list[str]:
    how = _PRUNERS.get(data.spec.pruner)
    return [f"Unpromising trials were stopped early {how}."] if how and not data.spec.sampler.startswith("kt-hyper") else []


def _budget(data: ReportData) -> list[str]:
    counts = data.counts
    n_refused, n_stopped = counts.refused, counts.pruned - counts.refused
    outcomes = [
        f"{number_word(counts.complete)} ran to completion",
        *([f"{number_word(n_stopped)} ended early"] if n_stopped else []),
        *([f"{number_word(n_refused)} {'was' if n_refused == 1 else 'were'} refused before training"] if n_refused else []),
        *([f"{number_word(counts.n_failed)} failed"] if counts.n_failed else []),
    ]
    n_trials = counts.complete + counts.pruned + counts.n_failed
    seconds = sum(record.seconds or 0 for record in data.store.records())
    epochs = counted(data.store.n_epochs(), "epoch")
    return [
        f"Of {counted(n_trials, 'trial')}, {listed(outcomes)}.",
        f"In total, training took {epochs} and {duration(seconds)}.",
    ]


# ----------------------------------------------------------------------------------------------------- the best trial


def _best(data: ReportData) -> list[str]:
    spec, best, config = data.spec, data.best, data.config
    found = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in best.params.items()]
    size = f", with {best.n_parameters:,} parameters" if best.n_parameters else ""
    interval = data.intervals[spec.objective]
    where = "out of fold" if data.split.folds else "on the validation part"
    by = "patient" if data.split.grouped else "image"
    sentences = [f"The best trial (number {best.number}, seed {config.seed}) was {_network(config)}{size}."]
    if found:
        sentences.append(f"Its hyperparameters were {listed(found)}.")
    if best.best_epoch:
        sentences.append(f"The weights of epoch {best.best_epoch} of {len(best.scores)} were used.")
    sentences.append(
        f"{_objective_name(data)} was {data.scores[spec.objective]:.3f} {where} (95% bootstrap interval by {by}: "
        f"{interval.low:.3f} to {interval.high:.3f})."
    )
    if spec.is_multilabel:
        sentences.append(
            "A finding was reported if its probability reached a threshold, which was chosen for each finding to maximise F1 "
            f"on the same images ({data.evaluated_on})."
        )
    return sentences


def _objective_name(data: ReportData) -> str:
    return capitalised(_metric_text(data, data.spec.objective))


def _metric_text(data: ReportData, name: str) -> str:
    """Return the name of a metric or a cost in a sentence."""
    of_findings = _FINDING_OBJECTIVES.get(name) if data.spec.is_multilabel else None
    return of_findings or _OBJECTIVES.get(name, name)


def _network(config: TrialConfig) -> str:
    return {
        "scratch": "a convolutional network trained from random weights",
        "fused": "a convolutional network with joined shallow and deep feature maps",
        "transfer": _transfer(config),
        "concat": f"the concatenation of {' and '.join(branch.label for branch in config.branches)}",
        "probe": f"a logistic regression on {_probed(config)}",
    }.get(config.family, f"a network of family {config.family}")


def _transfer(config: TrialConfig) -> str:
    if config.takes_features:
        return "a network of dense layers on the features"
    if is_encoder(config.backbone):
        return f"a new head on the frozen encoder {find_backbone(config.backbone).label}"
    return f"a {config.backbone} network with {_weights(config.weights)} weights and a new head"


def _probed(config: TrialConfig) -> str:
    if config.takes_features:
        return "the features"
    names = [f"{find_backbone(layer.backbone).label}@{layer.layer}" for layer in config.probed]
    return f"the outputs of the frozen layers {'+'.join(names)}"


def _weights(name: str) -> str:
    return {"imagenet": "ImageNet", "chexnet": "CheXNet", "none": "random"}.get(name, "given")


def _ensembles(data: ReportData) -> list[str]:
    sentences = []
    for name, record in list(data.ensembles.items())[:_MAX_ENSEMBLES]:
        row: Mapping[str, Any] = next((row for row in record["methods"] if row["method"] == record["method"]), {})
        if row.get("gain") is None:
            continue
        interval = f"95% interval: {row['gain_low']:+.3f} to {row['gain_high']:+.3f}"
        sentences.append(
            f"The ensemble {name} combined {counted(len(record['members']), 'trial')} (method {record['method']}). With "
            f"weights fitted and evaluated on different patients, its gain over the best member in {record['objective']} was "
            f"{row['gain']:+.3f} ({interval})."
        )
    return sentences


def _evaluation(data: ReportData) -> list[str]:
    opened = data.test_opened
    selected = listed(["epochs", "trials", *(["the members of ensembles"] if data.ensembles else [])])
    sentences = [f"These scores are optimistic, because the same images were used to select {selected}.", *data.source_warnings]
    sentences += _corrected(data)
    if not opened:
        return [*sentences, "The test part has not been evaluated."]
    last, objective = opened[-1], data.spec.objective
    recently = "" if len(opened) == 1 else f", most recently on {last['when'][:10]}"
    sentences.append(f"The test part was evaluated {times(len(opened))}{recently}.")
    last = next((entry for entry in reversed(opened) if entry["scores"]), last)  # predictions of test images have no scores
    score = last["scores"].get(objective)
    if score is not None:
        in_evaluation = "" if len(opened) == 1 else " in the most recent evaluation"
        name = _objective_name(data).removesuffix(",")
        sentences.append(f"{name} of {last['what']} was {score:.3f}{in_evaluation}.")
    return sentences


def _corrected(data: ReportData) -> list[str]:
    best = data.corrected
    if best is None or best.n_candidates == 1 or math.isnan(best.value):
        return []
    sentence = (
        f"Corrected for the choice among {counted(best.n_candidates, 'trial')} by repeating the choice on four fifths of the "
        f"patients and scoring it on the others, {_metric_text(data, best.metric).removesuffix(',')} of the best trial was "
        f"{best.value:.3f} (95% interval: {best.interval.low:.3f} to {best.interval.high:.3f})."
    )
    return [sentence]


# -------------------------------------------------------------------------------------------------------- computation


def _seeds(data: ReportData) -> list[str]:
    searches = data.searches
    if not searches:
        return []
    derived = (
        f"The seed {data.spec.seed} determined the split and the proposed configurations; the seed of each trial was derived "
        "from it and from the trial number."
    )
    sentences = [derived]
    differing = sum(entry.versions != searches[-1].versions for entry in searches)
    if differing:
        searches_text = counted(differing, "earlier search", "earlier searches")
        sentences.append(f"{capitalised(searches_text)} of the study used other versions.")
    return sentences


def _versions(entry: SearchEntry) -> str:
    versions = entry.versions
    backend = versions.get("backend", "")
    libraries = [f"{name} {versions[key]}" for key, name in _LIBRARIES if key in versions]
    if backend in versions:
        libraries.insert(1, f"{_BACKENDS.get(backend, backend)} {versions[backend]}")
    commit = entry.code.get("commit")
    code = f"commit {commit}" if commit else f"digest {entry.code.get('digest', 'not known')[:16]}"
    return (
        f"The search used automl_cxr {entry.code.get('version', '')} ({code}), {listed(libraries)} on Python "
        f"{versions.get('python', 'of unknown version')}."
    )


def _machines(searches: Sequence[SearchEntry]) -> str:
    machines = list(dict.fromkeys(_machine(entry.machine) for entry in searches))
    return f"It ran on {listed(machines)}."


def _machine(machine: Mapping[str, Any]) -> str:
    gpus = list(machine.get("gpus") or [])
    memory = machine.get("memory_bytes")
    gib = f" and {memory / 2**30:.0f} GiB of memory" if memory else ""
    with_gpus = (
        f", with {listed([f'{gpus.count(name)} × {name}' for name in dict.fromkeys(gpus)])}" if gpus else ", without a GPU"
    )
    return (
        f"a machine with {counted(machine.get('cores', 0), 'core')} ({machine.get('cpu', 'unknown processor')}){gib}{with_gpus}"
    )
