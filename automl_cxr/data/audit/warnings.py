"""The warnings of an audit: reasons why scores may be optimistic, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from automl_cxr.data.audit.duplicate_results import Duplicate, SharedPatient
from automl_cxr.data.audit.shortcut_results import FindingShortcut, Shortcut
from automl_cxr.data.audit.statistic_results import Lettering, StatisticDifference

_MIN_IMAGES_OF_FINDING = 20  # whose rates of burnt-in text are compared, because rare findings have few images
_MIN_RATE_DIFFERENCE = 0.25  # between the rates of burnt-in text in two classes


def warn_of_shortcut(
    shortcut: Shortcut | FindingShortcut | None, differences: Sequence[StatisticDifference], classes: Sequence[str]
) -> list[str]:
    """Warn if the shortcut baseline predicts the classes or a finding; empty otherwise."""
    if shortcut is None or not shortcut.is_warning:
        return []
    if isinstance(shortcut, FindingShortcut):
        return [_describe_finding_shortcut(shortcut, classes)]
    best = max(differences, key=lambda one: one.told_share, default=None)
    alone = ""
    if best is not None:
        pair = " from ".join(best.told)
        alone = f"; {best.trait} alone separates {pair} with a balanced accuracy of {best.told_share:.1%}"
    warning = (
        "The data contain a shortcut: a random forest on non-anatomical image statistics reaches macro-F1 "
        f"{shortcut.macro_f1:.3f} ({shortcut.low:.3f} to {shortcut.high:.3f}, chance {shortcut.chance:.3f}){alone}. "
        "A classifier may learn the same shortcut, and its score may not hold for images from other sources."
    )
    return [warning]


def warn_of_metadata(shortcut: Shortcut | FindingShortcut | None, columns: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Warn if the metadata alone predict the classes or a finding; empty otherwise.

    Args:
        shortcut: Scores of the metadata baseline, or None.
        columns: Columns that it uses.
        classes: Names of the classes or findings.
    """
    if shortcut is None or not shortcut.is_warning:
        return []
    listed = _list_predicted(shortcut, classes) if isinstance(shortcut, FindingShortcut) else ""
    warning = (
        f"The metadata predict the labels without the image: a logistic regression on {join_names(columns)} reaches "
        f"{shortcut.title} {shortcut.score:.3f} ({shortcut.low:.3f} to {shortcut.high:.3f}, chance {shortcut.chance:.3f})"
        f"{f'; of single findings, {listed}' if listed else ''}. A classifier may recognise them in the images."
    )
    return [warning]


def join_names(names: Sequence[str]) -> str:
    """Join names for a sentence: "sex, age and view"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _list_predicted(shortcut: FindingShortcut, classes: Sequence[str]) -> str:
    """List the findings that a baseline predicts with their areas under the ROC curve, the best first."""
    aucs = {
        name: auc
        for number, (name, auc) in enumerate(zip(classes, shortcut.aucs, strict=True))
        if auc is not None and shortcut.is_warning_for(number)
    }
    return ", ".join(f"'{name}' {aucs[name]:.3f}" for name in sorted(aucs, key=lambda name: -aucs[name]))


def _describe_finding_shortcut(shortcut: FindingShortcut, classes: Sequence[str]) -> str:
    listed = _list_predicted(shortcut, classes)
    return (
        "The data contain a shortcut: a random forest on non-anatomical image statistics reaches a mean ROC AUC of "
        f"{shortcut.macro_auc:.3f} ({shortcut.low:.3f} to {shortcut.high:.3f}, chance {shortcut.chance:.3f})"
        f"{f'; of single findings, {listed}' if listed else ''}. A classifier may learn the same shortcut, and its score "
        "may not hold for images from other sources."
    )


def warn_of_lettering(
    lettering: Sequence[Lettering], classes: Sequence[str], n_images: Sequence[int], *, is_multilabel: bool
) -> list[str]:
    """Warn of burnt-in text in a corner that is more frequent in one class, or with one finding, than in another.

    Args:
        lettering: Rates of suspected burnt-in text.
        classes: Names of the classes or findings.
        n_images: Images of each class, or with each finding. Findings with few images are not compared.
        is_multilabel: Whether the classes are findings.
    """
    warnings = []
    enough = _MIN_IMAGES_OF_FINDING if is_multilabel else 0
    for one in lettering:
        rates = {name: rate for name, rate, n in zip(classes, one.rates, n_images, strict=True) if n >= enough}
        low, high = min(rates.values(), default=0.0), max(rates.values(), default=0.0)
        if high - low >= _MIN_RATE_DIFFERENCE and one.place != "anywhere":
            highest_class, lowest_class = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
            corner = one.place.replace("_", " ")
            warnings.append(
                f"Burnt-in text or markers are suspected at the {corner} of {high:.0%} of the images of {highest_class}, "
                f"but of {low:.0%} of {lowest_class}."
            )
    return warnings


def warn_of_duplicates(duplicates: Sequence[Duplicate], *, is_multilabel: bool) -> list[str]:
    """Warn of duplicates in two parts, and of duplicates with contradicting labels."""
    n_crossing = sum(one.crosses_parts for one in duplicates)
    n_conflicts = sum(one.is_conflict for one in duplicates)
    warnings = []
    if n_crossing:
        verb = _images_show(n_crossing)
        warnings.append(f"{n_crossing} {verb} the same picture as one in another part: scores may be optimistic.")
    if n_conflicts:
        other = "one with contradicting labels" if is_multilabel else "one of another class"
        warnings.append(f"{n_conflicts} {_images_show(n_conflicts)} the same picture as {other}.")
    return warnings


def warn_of_patients(shared_patients: Sequence[SharedPatient]) -> list[str]:
    """Warn of patients with images in more than one part."""
    if not shared_patients:
        return []
    n_images = sum(one.n_images for one in shared_patients)
    return [f"{len(shared_patients)} patients ({n_images} images) are in more than one part: scores may be optimistic."]


def _images_show(n: int) -> str:
    return "image shows" if n == 1 else "images show"
