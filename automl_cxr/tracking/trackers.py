"""The experiment trackers, by the kind in a target such as ``mlflow:./mlruns``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Protocol

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.tracking.tracked_trial import TrackedTrial


class Tracker(Protocol):
    """An experiment tracker."""

    def send(self, trial: TrackedTrial) -> None:
        """Write a trial as a run; it replaces an earlier run of the same trial.

        Raises:
            Exception: The tracker cannot be reached. The types depend on the tracker.
        """


def _open_mlflow(address: str) -> Tracker:
    from automl_cxr.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(address)


def _open_wandb(address: str) -> Tracker:
    from automl_cxr.tracking.wandb_tracker import WandbTracker

    return WandbTracker(address or "automl-cxr")


def _open_tensorboard(address: str) -> Tracker:
    from automl_cxr.tracking.tensorboard_tracker import TensorboardTracker

    return TensorboardTracker(address or "tensorboard")


_OPEN: Mapping[str, tuple[str, Callable[[str], Tracker]]] = {
    "mlflow": ("mlflow", _open_mlflow),
    "wandb": ("wandb", _open_wandb),
    "tensorboard": ("tensorboardX", _open_tensorboard),
}
"""Library and function that opens each kind. Add new trackers here."""


def open_tracker(target: str) -> Tracker:
    """Open an experiment tracker.

    Args:
        target: ``mlflow:URI`` (or ``mlflow`` for the tracking URI that MLflow's environment variables set), ``wandb:PROJECT``
            (or ``wandb`` for the project automl-cxr) or ``tensorboard:FOLDER`` (or ``tensorboard`` for a folder of this name).

    Raises:
        UnknownNameError: There is no tracker of this kind.
        UsageError: Its library is not installed.
    """
    kind, _, address = target.partition(":")
    if kind not in _OPEN:
        raise UnknownNameError("tracker", kind, _OPEN)
    library, open_kind = _OPEN[kind]
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise UsageError(
            f"Tracking with {kind} needs {library}, which is not installed. Install automl-cxr[{kind}]."
        ) from error
    return open_kind(address)
