"""Runs in MLflow: an experiment for each study, and a run for each trial."""

from __future__ import annotations

import os
import time

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from automl_cxr.tracking.tracked_trial import TrackedTrial

_TRIAL_TAG = "automl_cxr.trial"
_ENTRIES_PER_REQUEST = 1000  # limit of MLflow for metrics
_PARAMS_PER_REQUEST = 100
_LONGEST_TAG = 5000
# MLflow tries for minutes to reach a server; a trial that is not sent is sent later.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # seconds


class MlflowTracker:
    """A tracking server or a local folder of MLflow.

    Args:
        uri: Tracking URI, such as "http://127.0.0.1:5000" or "sqlite:///mlflow.db"; "" for that of MLflow's environment
            variables.
    """

    def __init__(self, uri: str) -> None:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        self._client = MlflowClient(tracking_uri=uri or None)

    def send(self, trial: TrackedTrial) -> None:
        """Write a trial as a run. Errors: ``mlflow.exceptions.MlflowException``."""
        experiment = self._experiment(trial.study)
        earlier = self._client.search_runs([experiment], f"tags.`{_TRIAL_TAG}` = '{trial.number}'")
        run = self._client.create_run(experiment, run_name=trial.name, tags={_TRIAL_TAG: str(trial.number)}).info.run_id
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for step, values in trial.curves for name, value in values.items()]
        last = max((step for step, _ in trial.curves), default=0)
        metrics += [Metric(f"final.{name}", value, now, last) for name, value in trial.scores.items()]
        params = [Param(name, str(value)) for name, value in trial.params.items()]
        tags = [RunTag(f"automl_cxr.{name}", text[:_LONGEST_TAG]) for name, text in trial.tags.items()]
        self._client.log_batch(run, tags=tags)
        for first in range(0, len(params), _PARAMS_PER_REQUEST):
            self._client.log_batch(run, params=params[first : first + _PARAMS_PER_REQUEST])
        for first in range(0, len(metrics), _ENTRIES_PER_REQUEST):
            self._client.log_batch(run, metrics=metrics[first : first + _ENTRIES_PER_REQUEST])
        for file in trial.files:
            self._client.log_artifact(run, str(file))
        self._client.set_terminated(run, "FAILED" if trial.tags.get("state") == "failed" else "FINISHED")
        for replaced in earlier:
            self._client.delete_run(replaced.info.run_id)

    def _experiment(self, study: str) -> str:
        found = self._client.get_experiment_by_name(study)
        return found.experiment_id if found else self._client.create_experiment(study)
