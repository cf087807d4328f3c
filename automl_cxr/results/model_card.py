"""The model card of an ensemble, after Mitchell et al. 2019 ("Model Cards for Model Reporting")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automl_cxr.architectures import TABLE

NOT_A_DEVICE = (
    "Not a medical device: it must not be used for clinical decisions. Good scores on a public collection are no evidence of "
    "clinical value."
)
_INTENDED_USE = (
    f"For research on the classification of chest radiographs of the kind named below. {NOT_A_DEVICE} It was not tested on "
    "data of other hospitals, machines, projections or patient populations."
)

_KINDS_OF_COMBINATION = {
    "geometric": "Weighted geometric mean of probabilities",
    "stacking": "Logistic regression on log-probabilities",
}


def model_card(record: Mapping[str, Any]) -> str:
    """Return an ensemble's record as Markdown.

    Args:
        record: Content of the ensemble's JSON file.
    """
    sections = {
        "Intended use": [_INTENDED_USE],
        "Data": _data(record),
        "Members": _members(record),
        "Combination": _combination(record),
        **({} if record.get("thresholds") is None else {"Thresholds": _thresholds(record)}),
        **({"Operating points": _operating_points(record)} if record.get("operating_points") else {}),
        "Scores on the validation images": _validation(record),
        "Scores on the test part": _test(record),
        "Versions": [", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()) or "Unknown."],
    }
    lines = [f"# An ensemble of {len(record['members'])} classifiers of chest radiographs"]
    for title, body in sections.items():
        lines += ["", f"## {title}", "", *body]
    return "\n".join(lines) + "\n"


def _data(record: Mapping[str, Any]) -> list[str]:
    lines = [
        *_classes(record),
        f"- Fitted on {record['n_images']:,} images of {record['n_patients']:,} patients",
    ]
    if record.get("study") is None:
        return [*lines, "- The members are models of other programs. Their training data are unknown."]
    split = record["split"]
    sizes = ", ".join(f"{split[part]:,} {part}" for part in ("train", "valid", "test"))
    folds = f"; {split['folds']} folds of the training images" if split["folds"] else ""
    return [
        f"- Study: {record['study']}",
        f"- Collection: {record['data']} (digest {record['data_digest'][:16]})",
        f"- Split by patient, seed {split['seed']}: {sizes} images{folds} (digest {record['split_digest'][:16]})",
        *lines,
        *(f"- {line}" for line in [record.get("shortcut_baseline")] if line),
        *(f"- **Warning**: {warning}" for warning in record.get("warnings", ())),
    ]


def _classes(record: Mapping[str, Any]) -> list[str]:
    if record.get("thresholds") is None:
        normal = record.get("normal_class")
        return [f"- Classes: {', '.join(record['classes'])}", f"- Class without a finding: {normal or 'not specified'}"]
    return [f"- Findings, of which an image may have several: {', '.join(record['classes'])}"]


def _thresholds(record: Mapping[str, Any]) -> list[str]:
    """Return the table of the thresholds of findings."""
    rows = [[name, f"{one:.4f}"] for name, one in zip(record["classes"], record["thresholds"], strict=True)]
    n_points, n_findings = len(record.get("operating_points", ())), len(record["classes"])
    which = {0: "The thresholds", n_findings: ""}.get(n_points, "Those of findings without an operating point")
    text = "A finding is reported if its probability is at least its threshold."
    if which:
        text += (
            f" {which} were chosen to maximise F1 on the images on which the ensemble was fitted; another use needs other "
            "thresholds."
        )
    return [text, "", *_table(["finding", "threshold"], rows)]


def _operating_points(record: Mapping[str, Any]) -> list[str]:
    """Return how the thresholds were chosen for the stated aims, and their scores on the images of the choice."""
    rows = [
        [
            point["name"],
            point["aim"],
            f"{point['confidence']:.0%}" if point["confidence"] else "no margin",
            f"{point['threshold']:.4f}",
            _number(point["sensitivity"]),
            _number(point["specificity"]),
            f"{point['n_positive']:,} ({point['n_positive_patients']:,})",
            f"{point['n_negative']:,} ({point['n_negative_patients']:,})",
        ]
        for point in record["operating_points"]
    ]
    where = "out-of-fold predictions" if record["n_folds"] else "predictions for the images on which the ensemble was fitted"
    text = (
        "A class or finding is decided to be present if its probability is at least the threshold, whatever the other "
        f"probabilities are. The thresholds were chosen on {where}, and do not change. New patients who are like those of the "
        "study meet an aim with the stated confidence; `no margin` is a threshold that is best on these images. Sensitivity "
        "and specificity are those on these images. Another prevalence changes PPV, NPV and the best threshold for a cost."
    )
    header = ["name", "aim", "confidence", "threshold", "sensitivity", "specificity", "positive images (patients)"]
    return [text, "", *_table([*header, "negative images (patients)"], rows)]


def _members(record: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            row["name"],
            row.get("network", "of another program"),
            _input(row) if "image_size" in row else "",
            f"{row['weight']:.4f}",
            _number(row["score"]),
            row.get("sha256", row["predictions_sha256"])[:16],
        ]
        for row in record["members"]
    ]
    return _table(["member", "network", "input", "weight", record["objective"], "SHA-256 of model or table"], rows)


def _input(row: Mapping[str, Any]) -> str:
    return f"{row['image_size']} features" if row["fit"] == TABLE else f"{row['image_size']} pixels, {row['fit']}"


def _combination(record: Mapping[str, Any]) -> list[str]:
    rule = record["rule"]
    calibration = record["calibration"]
    kind = _KINDS_OF_COMBINATION.get(record["method"], "Weighted average of probabilities")
    lines = [f"- {kind}, fitted by `{record['method']}` for {record['objective']}. The table of members shows the weights."]
    if record["recommended"] != record["method"]:
        lines.append(
            f"- The simpler method `{record['recommended']}` is recommended: its out-of-fold score is not significantly worse."
        )
    before, after = (_number(calibration[name]) for name in ("error_before", "error_after"))
    if rule.get("temperature", 1) != 1:
        lines.append(
            f"- Temperature {rule['temperature']:.3f}. Expected calibration error out of fold: {before} before, {after} after."
        )
    else:
        lines.append(f"- No temperature. Expected calibration error out of fold: {before}.")
    return lines


def _validation(record: Mapping[str, Any]) -> list[str]:
    n_folds = record["n_folds"]
    method = (
        f"Out of fold: the weights were fitted on {n_folds - 1} of {n_folds} groups of patients and scored on the remaining "
        "group, before any temperature. The scores are somewhat optimistic: the same images selected the members."
        if n_folds
        else "These scores are optimistic: the weights were fitted on the same images, because there are too few patients for "
        "folds."
    )
    best = record.get("corrected_best")
    of_best = f" For comparison, the best single trial: {best}" if best else ""
    return [f"{method}{of_best}", "", *_metrics(record["metrics"])]


def _test(record: Mapping[str, Any]) -> list[str]:
    test = record.get("test")
    if test is None:
        return ["This ensemble was not evaluated on the test part."]
    n_opened = test["n_opened"]
    opened = "once" if n_opened == 1 else f"{n_opened} times. Its scores are optimistic if they were used to select a model"
    return [
        f"{test['n_images']:,} images of {test['n_patients']:,} patients. The study has opened the test part {opened}.",
        *(f"\n**Warning**: {warning}" for warning in test.get("warnings", ())),
        "",
        *_metrics(test["metrics"]),
        *_operating_scores(test.get("operating_points", ())),
    ]


def _operating_scores(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of the scores at the frozen thresholds, if there are any."""
    if not rows:
        return []
    cells = [
        [
            row.get("class", row.get("finding", "")),
            row["aim"],
            *(
                f"{_number(row[kind])} ({_number(row[f'{kind}_low'])} to {_number(row[f'{kind}_high'])})"
                for kind in ("sensitivity", "specificity", "ppv", "npv")
            ),
        ]
        for row in rows
    ]
    text = "At the operating points, whose thresholds were not changed, with 95 % intervals by patient:"
    return ["", text, "", *_table(["name", "aim", "sensitivity", "specificity", "PPV", "NPV"], cells)]


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [[row["metric"], _number(row["score"]), f"{_number(row['low'])} to {_number(row['high'])}"] for row in rows]
    return _table(["metric", "score", "95 % interval by patient"], cells)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
