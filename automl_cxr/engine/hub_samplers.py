"""Samplers of OptunaHub, loaded from a copy of its registry (github.com/optuna/optunahub-registry) on this machine.

The sampler ``hub:NAME`` is the package ``package/samplers/NAME`` of the registry. Loading it executes its Python code.
Therefore only an environment variable names the folder of the registry: no study, study file or space can do it.

These samplers may keep their state in memory, so that a search uses one object for all its trials. All errors of a sampler are
converted, because their causes, such as a kind of parameter that it does not support, are known only when it proposes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from automl_cxr.engine.base_proposer import to_optuna
from automl_cxr.engine.space import Space
from automl_cxr.errors import StudyError, UnknownNameError, UsageError

FOLDER_VARIABLE = "AUTOML_CXR_HUB"
"""Environment variable that names the folder of the registry."""

_PREFIX = "hub:"
_SAMPLERS = Path("package") / "samplers"
_REMEDY = "Use another sampler, such as tpe."


def is_hub_sampler(name: str) -> bool:
    """Return whether a sampler's name refers to OptunaHub's registry."""
    return name.startswith(_PREFIX)


def make_hub_sampler(name: str, space: Space, *, seed: int) -> BaseSampler:
    """Load a package of the registry and create its sampler.

    The constructor gets ``seed``, and ``search_space`` with the parameters that are active in every point, if it takes them.
    The values of all other parameters are drawn by the sampler's ``sample_independent``, which usually is random sampling.

    Args:
        name: "hub:NAME", or "hub:NAME:CLASS" if a package has several samplers.
        space: The search space.
        seed: Seed of the sampler.

    Raises:
        UnknownNameError: The registry has no such sampler, or the package has no such class.
        UsageError: The registry, the package ``optunahub`` or a library of the sampler is missing, the package has no sampler
            or several, or its constructor fails.
    """
    package, _, class_name = name.removeprefix(_PREFIX).partition(":")
    sampler_class = _find_class(_load(name, package), name, class_name)
    takes = inspect.signature(sampler_class).parameters
    available = {
        "seed": seed,
        "search_space": {parameter.name: to_optuna(parameter) for parameter in space.unconditional()},
    }
    try:
        sampler = sampler_class(**{key: value for key, value in available.items() if key in takes})
    except Exception as error:
        raise UsageError(
            f"Sampler '{name}' must accept seed and search_space as its only arguments; received {_describe(error)}. {_REMEDY}"
        ) from error
    return _HubSampler(name, sampler, space)


def _load(name: str, package: str) -> ModuleType:
    """Import a package of the registry."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise UsageError(
            f"Sampler '{name}' is read from a copy of OptunaHub's registry, whose folder the environment variable "
            f"{FOLDER_VARIABLE} names; received no such variable. Set it, or use another sampler, such as tpe."
        )
    samplers = Path(folder).expanduser() / _SAMPLERS
    if not samplers.is_dir():
        raise UsageError(
            f"{FOLDER_VARIABLE} must name a copy of OptunaHub's registry, with the folder {_SAMPLERS}; received {folder}. "
            "Correct it, or use another sampler, such as tpe."
        )
    known = [path.parent.name for path in samplers.glob("*/__init__.py")]
    if package not in known:
        raise UnknownNameError(f"sampler of {samplers}", package, known)
    if importlib.util.find_spec("optunahub") is None:
        raise UsageError(
            f"Sampler '{name}' needs the package optunahub, which is not installed. Install automl-cxr[hub], or use tpe."
        )
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # optunahub imports GitPython, which else requires the program git
    try:
        import optunahub

        return optunahub.load_local_module(f"samplers/{package}", registry_root=str(samplers.parent))
    except ImportError as error:
        raise UsageError(
            f"Sampler '{name}' needs libraries that can be imported; received {_describe(error)}. Install them as the "
            f"README.md in {samplers / package} describes, or use another sampler, such as tpe."
        ) from error
    except Exception as error:
        raise UsageError(
            f"The package of sampler '{name}' must be importable; received {_describe(error)}. {_REMEDY}"
        ) from error


def _find_class(module: ModuleType, name: str, class_name: str) -> type[BaseSampler]:
    """Return the sampler of a package: its exported class, or the class that it defines if it has no ``__all__``."""
    exported = getattr(module, "__all__", None)
    found = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, BaseSampler)
        and (value.__module__.startswith(module.__name__) if exported is None else key in exported)
    }
    if class_name and class_name not in found:
        raise UnknownNameError(f"class of sampler '{name.removesuffix(f':{class_name}')}'", class_name, found)
    if not class_name and len(found) != 1:
        listed = ", ".join(found) or "none"
        remedy = f"Add its name, such as {name}:{min(found)}." if found else _REMEDY
        raise UsageError(f"The package of sampler '{name}' must have one sampler; received {listed}. {remedy}")
    return found[class_name or min(found)]


class _HubSampler(BaseSampler):
    """A sampler of the registry, whose errors and invalid values become errors of this package.

    Args:
        name: Its name on the command line.
        sampler: The sampler.
        space: The search space.
    """

    def __init__(self, name: str, sampler: BaseSampler, space: Space) -> None:
        self._name = name
        self._sampler = sampler
        self._parameters = {parameter.name: parameter for parameter in space.parameters}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        with self._explained():
            return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with self._explained():
            sampled = self._sampler.sample_relative(study, trial, search_space)
            converted = {name: _converted(value, search_space[name]) for name, value in sampled.items()}
            # As in Optuna, a value outside the space, such as one beside its steps, is drawn independently instead.
            return {name: value for name, value in converted.items() if self._parameters[name].contains(value)}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        with self._explained():
            value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
            value = _converted(value, param_distribution)
            if not self._parameters[param_name].contains(value):
                raise ValueError(f"{param_name} = {value!r} is outside the search space")
            return value

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        with self._explained():
            self._sampler.before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        with self._explained():
            self._sampler.after_trial(study, trial, state, values)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise StudyError(
                f"Sampler '{self._name}' must support the parameters and objectives of this study; received "
                f"{_describe(error)}. Continue the study with another sampler, such as --sampler tpe."
            ) from error


def _converted(value: Any, distribution: BaseDistribution) -> Any:
    """Convert NumPy scalars to the types of the search space."""
    return distribution.to_external_repr(distribution.to_internal_repr(value))


def _describe(error: Exception) -> str:
    """Describe an error of a library on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(":. ")
