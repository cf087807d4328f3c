"""Expected times of trials, from the complete and pruned trials of a study and from the plan of its budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from automl_cxr.architectures import FAMILIES
from automl_cxr.config import TrialConfig
from automl_cxr.engine.parameters import Value
from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.study.store import StudyStore

_N_RECENT = 5  # fits that estimate the time of the next one


class TrialTimes:
    """Estimates how long a trial takes.

    Args:
        store: The study, whose finished trials are read at each call.
        planned: Seconds of a trial of each family, for families without a finished trial.
    """

    def __init__(self, store: StudyStore, planned: Mapping[str, float] | None = None) -> None:
        self._store = store
        self._constants = store.spec.constants
        self._n_steps = store.spec.folds or store.spec.epochs
        self._planned = planned or {}

    def shortest(self) -> float | None:
        """Return the seconds of the shortest finished trial, or None."""
        return min((record.seconds for record in self._finished() if record.seconds is not None), default=None)

    def estimate(self, values: Mapping[str, Value]) -> float | None:
        """Return the expected seconds of a configuration, or None if no trial and no plan tells it.

        Args:
            values: The searched hyperparameters.
        """
        config = self._config(values)
        records = self._of_family(self._finished(), config.family)
        if records and not FAMILIES[config.family].has_gradient_steps:
            return estimate_probe(config, [(self._config(record.params), record.seconds or 0.0) for record in records])
        complete = [record.seconds or 0.0 for record in records]
        elapsed = self._store.elapsed_seconds(TrialState.PRUNED)
        pruned = [
            elapsed[record.number] * self._n_steps / max(1, len(record.scores))  # to the last epoch or fold
            for record in self._of_family(self._store.records(TrialState.PRUNED), config.family)
            if record.number in elapsed
        ]
        longest = max(self._planned.values(), default=None)  # for a family without a point in the portfolio
        return max([*complete, *pruned], default=self._planned.get(config.family, longest))

    def _of_family(self, records: Sequence[TrialRecord], family: str) -> list[TrialRecord]:
        return [record for record in records if self._config(record.params).family == family]

    def _finished(self) -> list[TrialRecord]:
        return self._store.records(TrialState.COMPLETE)

    def _config(self, values: Mapping[str, Value]) -> TrialConfig:
        return TrialConfig.from_values({**self._constants, **values})


def estimate_probe(config: TrialConfig, finished: Sequence[tuple[TrialConfig, float]]) -> float:
    """Return the expected seconds of a probe: those of recent fits, and of the passes whose features are not cached yet.

    Args:
        config: Its configuration.
        finished: Configuration and seconds of earlier probes, at least one, in the order of their numbers.
    """
    of_fits: list[float] = []
    of_passes: dict[str, float] = {}  # by backbone
    known: set[tuple[str, bool]] = set()
    for earlier, seconds in finished:
        new = _passes(earlier) - known
        if new:
            of_passes |= {backbone: seconds / len(new) for backbone, _ in new}
        else:
            of_fits.append(seconds)
        known |= new
    fit = max(of_fits[-_N_RECENT:], default=min(of_passes.values()))
    longest = max(of_passes.values())  # for a backbone without a pass
    return fit + sum(of_passes.get(backbone, longest) for backbone, _ in _passes(config) - known)


def _passes(config: TrialConfig) -> set[tuple[str, bool]]:
    """Return the passes over the images that a probe needs: backbones, each with whether it takes the mirror images."""
    views = (False, True) if config.probe_mirrored else (False,)
    return {(branch.backbone, is_mirrored) for branch in config.branches for is_mirrored in views}
