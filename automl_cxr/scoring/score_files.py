"""All metrics of saved predictions in a file beside them, so that tables of thousands of models do not compute them again."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automl_cxr.io import write_text
from automl_cxr.scoring.metrics import score_predictions
from automl_cxr.scoring.prediction_files import contents_of
from automl_cxr.scoring.predictions import Predictions

SCORES_FILE = "scores.json"


def save_scores(predictions_file: Path, *, normal_class: int | None) -> dict[str, float]:
    """Score saved predictions and write the scores to ``scores.json`` beside them.

    The file is a cache: it is not written if its folder cannot be written.

    Args:
        predictions_file: A file of ``Predictions.to_npz``.
        normal_class: Index of the class without a finding, see ``score_predictions``.

    Returns:
        The scores of ``score_predictions``.

    Raises:
        DataError: The file of predictions is missing or damaged, or a label is unknown.
    """
    key = _key(predictions_file, normal_class)
    scores = score_predictions(Predictions.from_npz(predictions_file), normal_class=normal_class)
    defined = {name: None if math.isnan(score) else score for name, score in scores.items()}
    with contextlib.suppress(OSError):
        write_text(predictions_file.with_name(SCORES_FILE), json.dumps({"key": key, "scores": defined}))
    return scores


def load_scores(predictions_file: Path, *, normal_class: int | None) -> dict[str, float]:
    """Return all metrics of saved predictions, from ``scores.json`` if it belongs to them, see ``save_scores``."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        stored = json.loads(predictions_file.with_name(SCORES_FILE).read_text(encoding="utf-8"))
        if stored["key"] == _key(predictions_file, normal_class):
            return _to_scores(stored["scores"])
    return save_scores(predictions_file, normal_class=normal_class)


def _to_scores(stored: Mapping[str, Any]) -> dict[str, float]:
    return {name: math.nan if score is None else float(score) for name, score in stored.items()}


def _key(predictions_file: Path, normal_class: int | None) -> str:
    """Return a digest of everything on which the scores depend: the predictions, the normal class and the code."""
    return hashlib.sha256(f"{contents_of(predictions_file)}{normal_class}{_code_digest()}".encode()).hexdigest()


@functools.cache
def _code_digest() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
