"""The methods paragraphs that a paper needs, written from what the study recorded."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from automl_cxr.config import TrialConfig
from automl_cxr.engine.space import Choice, Float, Int
from automl_cxr.results.html_page import Section, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import capitalised, counted, duration, listed, spelt, times
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
        "hyperband": "by Hyperband's brackets of successive halving",
        "median": "when they fell behind the median of the earlier trials",
        "wilcoxon": "between folds by Wilcoxon's signed-rank test against the best trial",
    }
)
_OBJECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "macro_f1": "macro-averaged F1",
        "balanced_accuracy": "balanced accuracy",
        "macro_auc": "mean one-vs-rest area under the ROC curve",
        "log_loss": "log loss",
        "fnfr": "the False No-Finding Rate",
        "sensitivity_at_90_specificity": "sensitivity at 90% specificity",
        "sensitivity_at_95_specificity": "sensitivity at 95% specificity",
        "parameters": "the number of parameters",
        "multiply_adds": "the number of multiply-adds",
        "latency": "the inference time of an image",
    }
)
_FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "scratch": "convolutional networks trained from random weights",
        "fused": "convolutional networks that join shallow and deep feature maps, trained from random weights",
        "transfer": "pretrained networks with a new head",
        "concat": "two networks, each cut at a layer and joined",
    }
)
_MOST_ENSEMBLES = 3  # that a paper would compare
_MOST_VALUES = 8  # of a choice that are named
_FITS = {"stretch": "stretched to", "pad": "padded with black to", "crop": "cropped at their centre to"}
_LIBRARIES = (("keras", "Keras"), ("optuna", "Optuna"), ("keras-tuner", "KerasTuner"), ("ray", "Ray"), ("numpy", "NumPy"))
_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def methods_section(evidence: ReportData) -> Section:
    """Give the paragraphs under their heading."""
    return Section("Methods", [Text(paragraph) for paragraph in methods_paragraphs(evidence)])


def methods_paragraphs(evidence: ReportData) -> list[str]:
    """Write data, search, best network, evaluation and computation, a paragraph each, as a paper could have them."""
    told = [_data(evidence), _search(evidence), _best(evidence), _evaluation(evidence), _computation(evidence)]
    return [" ".join(sentences) for sentences in told if sentences]


# --------------------------------------------------------------------------------------------------------------- data


def _data(evidence: ReportData) -> list[str]:
    spec, split = evidence.spec, evidence.split
    n_images = len(split.train.images) + len(split.valid.images) + len(split.test)
    classes = f"{counted(len(spec.classes), 'class', 'classes')} ({listed(spec.classes)})"
    comprised = f"The data set comprised {counted(n_images, 'chest radiograph')} of {classes}."
    return [comprised, *_split(evidence), _preparation(evidence)]


def _split(evidence: ReportData) -> list[str]:
    split = evidence.split
    by = "by patient" if split.grouped else "by image, since patients were not known"
    how = {
        "made": f"The images were divided at random {by}, with the classes in equal shares (seed {split.seed})",
        "given": "The images were divided as the data set prescribes",
    }.get(split.origin, f"Parts that the data set prescribes were kept; the others were drawn {by} (seed {split.seed})")
    parts = (
        [f"{_sized(split.train)} for {split.n_folds}-fold cross-validation"]
        if split.folds
        else [f"{_sized(split.train)} for training", f"{_sized(split.valid)} for validation"]
    )
    test = f"{counted(len(split.test), 'image')} for a test part that no trial saw"
    sentences = [f"{how}: {listed([*parts, test])}."]
    if split.folds:
        sentences.append(f"Folds were drawn {by}, with the classes in equal shares.")
    if split.unreadable:
        sentences.append(f"{capitalised(counted(len(split.unreadable), 'image'))} could not be read and took no part.")
    return sentences


def _sized(part: Any) -> str:
    return f"{counted(len(part.images), 'image')} of {counted(len(set(part.patients)), 'patient')}"


def _preparation(evidence: ReportData) -> str:
    size, fit = evidence.spec.image_size, evidence.spec.fit
    return f"Images were converted to 8-bit grey and {_FITS[fit]} {size} × {size} pixels."


# ------------------------------------------------------------------------------------------------------------- search


def _search(evidence: ReportData) -> list[str]:
    spec = evidence.spec
    sentences = [_space(evidence)]
    samplers = list(dict.fromkeys(entry.sampler for entry in evidence.searches)) or [spec.sampler]
    proposed = listed([_SAMPLERS.get(name, name) for name in samplers])
    sentences.append(f"Configurations were proposed by {proposed}, to {_aim(evidence)}.")
    if spec.warm_start:
        sentences.append(f"The search began with the best configurations of an earlier study, {spec.warm_start}.")
    if spec.requirements:
        sentences.append(f"Trials had to keep {listed(spec.requirements)}.")
    return [*sentences, _training(evidence), *_stopping(evidence), _budget(evidence)]


def _space(evidence: ReportData) -> str:
    spec = evidence.spec
    parameters = spec.space.parameters
    families = _families(evidence)
    if not parameters:
        return f"Nothing was searched: all hyperparameters of the space {spec.space_name} are fixed ({families})."
    searched = "; ".join(_range(parameter) for parameter in parameters)
    return (
        f"We searched {counted(len(parameters), 'hyperparameter')} of {families} (search space {spec.space_name}): {searched}."
    )


def _families(evidence: ReportData) -> str:
    space = evidence.spec.space
    searched = next((one.values for one in space.parameters if one.name == "family" and isinstance(one, Choice)), None)
    names = searched or [space.constants.get("family", TrialConfig().family)]
    return listed([_FAMILIES.get(str(name), str(name)) for name in names])


def _range(parameter: Float | Int | Choice) -> str:
    if isinstance(parameter, Choice):
        values = [str(value) for value in parameter.values]
        shown = values if len(values) <= _MOST_VALUES else [*values[:3], f"{len(values) - 4} more", values[-1]]
        return f"{parameter.name} in {{{', '.join(shown)}}}"
    log = ", logarithmic" if parameter.log else ""
    return f"{parameter.name} from {parameter.low:g} to {parameter.high:g}{log}"


def _aim(evidence: ReportData) -> str:
    directions = [direction.name.lower() for direction in evidence.store.study.directions]
    named = [_OBJECTIVES.get(name, name) for name in evidence.spec.objectives]
    where = "over all folds" if evidence.split.folds else "on the validation part"
    first = f"{directions[0]} {named[0]} {where}"
    return listed([first, *(f"{how} {name}" for how, name in zip(directions[1:], named[1:], strict=True))])


def _training(evidence: ReportData) -> str:
    spec = evidence.spec
    batch = "" if "batch_size" in spec.space.names else f" in batches of {spec.batch_size} images"
    if evidence.split.folds:
        return (
            f"Each trial trained {counted(spec.folds, 'network')}, one a fold, for up to {counted(spec.epochs, 'epoch')}"
            f"{batch}; its score is that of the predictions of all images by the network that had not learnt from them."
        )
    return (
        f"Each trial was trained for up to {counted(spec.epochs, 'epoch')}{batch}, and the weights of its best epoch on the "
        "validation part were kept."
    )


def _stopping(evidence: ReportData) -> list[str]:
    how = _PRUNERS.get(evidence.spec.pruner)
    return [f"Unpromising trials were stopped early {how}."] if how and not evidence.spec.sampler.startswith("kt-hyper") else []


def _budget(evidence: ReportData) -> str:
    tally = evidence.tally
    refused = tally.refused
    outcomes = [
        f"{spelt(tally.complete)} ran to completion",
        *([f"{spelt(tally.pruned - refused)} ended early"] if tally.pruned - refused else []),
        *([f"{spelt(refused)} had to be refused before training"] if refused else []),
        *([f"{spelt(tally.n_failed)} failed"] if tally.n_failed else []),
    ]
    n_trials = tally.complete + tally.pruned + tally.n_failed
    seconds = sum(record.seconds or 0 for record in evidence.store.records())
    epochs = counted(evidence.store.n_epochs(), "epoch")
    return (
        f"Of {counted(n_trials, 'trial')}, {listed(outcomes)}; together they took {epochs} and {duration(seconds)} of training."
    )


# --------------------------------------------------------------------------------------------------------- the result


def _best(evidence: ReportData) -> list[str]:
    spec, best, config = evidence.spec, evidence.best, evidence.config
    found = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in best.params.items()]
    with_size = f" with {best.n_parameters:,} parameters" if best.n_parameters else ""
    interval = evidence.intervals[spec.objective]
    where = "out of fold" if evidence.split.folds else "on the validation part"
    kept = f", its weights those of epoch {best.best_epoch} of {len(best.scores)}" if best.best_epoch else ""
    by = "patient" if evidence.split.grouped else "image"
    described = f"The best trial (number {best.number}, seed {config.seed}) is {_network(config)}{with_size}{kept}"
    scored = f"{_OBJECTIVES.get(spec.objective, spec.objective)} {evidence.scores[spec.objective]:.3f} {where}"
    return [
        f"{described}: {', '.join(found)}." if found else f"{described}.",
        f"It reached {scored} (95% bootstrap interval by {by} {interval.low:.3f} to {interval.high:.3f}).",
        *_ensembles(evidence),
    ]


def _network(config: TrialConfig) -> str:
    return {
        "scratch": "a convolutional network trained from random weights",
        "fused": "a convolutional network that joins shallow and deep feature maps",
        "transfer": f"a {config.backbone} network with {_weights(config.weights)} weights and a new head",
        "concat": f"the concatenation of {config.backbone} and {config.second_backbone}",
    }.get(config.family, f"a network of family {config.family}")


def _weights(name: str) -> str:
    return {"imagenet": "ImageNet", "chexnet": "CheXNet", "none": "random"}.get(name, "given")


def _ensembles(evidence: ReportData) -> list[str]:
    sentences = []
    for name, record in list(evidence.ensembles.items())[:_MOST_ENSEMBLES]:
        row: Mapping[str, Any] = next((row for row in record["methods"] if row["method"] == record["method"]), {})
        if row.get("gain") is None:
            continue
        sentences.append(
            f"The ensemble {name} combines {counted(len(record['members']), 'trial')} (method {record['method']}); fitted and "
            f"judged on different patients, its gain in {record['objective']} over the best member was {row['gain']:+.3f} (95% "
            f"interval {row['gain_low']:+.3f} to {row['gain_high']:+.3f})."
        )
    return sentences


def _evaluation(evidence: ReportData) -> list[str]:
    opened = evidence.test_opened
    chose = "These images also chose epochs and trials" + (", and the members of ensembles" if evidence.ensembles else "")
    sentences = [f"{chose}, so that these figures are optimistic."]
    if not opened:
        return [*sentences, "The test part has not been evaluated."]
    last = opened[-1]
    objective = evidence.spec.objective
    score = last["scores"].get(objective)
    reached = f", where {last['what']} reached {_OBJECTIVES.get(objective, objective)} {score:.3f}" if score is not None else ""
    how = (
        "The test part was evaluated once" if len(opened) == 1 else f"The test part was evaluated {times(len(opened))}, at last"
    )
    return [*sentences, f"{how}{'' if len(opened) == 1 else ' on ' + last['when'][:10]}{reached}."]


# -------------------------------------------------------------------------------------------------------- computation


def _computation(evidence: ReportData) -> list[str]:
    searches = evidence.searches
    if not searches:
        return []
    last = searches[-1]
    sentences = [_versions(last), _machines(searches)]
    sentences.append(
        f"The seed {evidence.spec.seed} decided split and proposals; each trial's seed follows from it and the trial's number."
    )
    differing = sum(entry.versions != last.versions for entry in searches)
    if differing:
        sentences.append(
            f"{capitalised(counted(differing, 'earlier search', 'earlier searches'))} on the study had other versions."
        )
    return sentences


def _versions(entry: SearchEntry) -> str:
    versions = entry.versions
    backend = versions.get("backend", "")
    named = [f"{name} {versions[key]}" for key, name in _LIBRARIES if key in versions]
    if backend in versions:
        named.insert(1, f"{_BACKENDS.get(backend, backend)} {versions[backend]}")
    commit = entry.code.get("commit")
    code = f"commit {commit}" if commit else f"digest {entry.code.get('digest', 'not known')[:16]}"
    return (
        f"The search was done with automl_cxr {entry.code.get('version', '')} ({code}), {listed(named)}, on Python "
        f"{versions.get('python', 'of unknown version')}."
    )


def _machines(searches: Any) -> str:
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
