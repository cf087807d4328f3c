"""Records each evaluation on the test part in the study."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    import optuna

_OPENED = "test_opened"


class SealedTestSetMixin:
    """The methods of a study that record evaluations on its test part.

    Attributes:
        study: The Optuna study.
        folder: Folder of the study's files.
    """

    study: optuna.Study
    folder: Path

    def record_test_opening(self, what: str, scores: Mapping[str, Any]) -> int:
        """Record an evaluation on the test part.

        Args:
            what: Name of the evaluated model.
            scores: Test scores of the model.

        Returns:
            Number of evaluations on the test part so far, including this one.
        """
        entry = {"when": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "what": what, "scores": dict(scores)}
        with FileLock(self.folder / "test_opened.lock"):  # so that two simultaneous evaluations are both counted
            opened = [*self.test_opened(), entry]
            self.study.set_user_attr(_OPENED, opened)
        return len(opened)

    def test_opened(self) -> list[dict[str, Any]]:
        """Return every evaluation on the test part, in order, with ``when``, ``what`` (the model) and ``scores``."""
        return list(self.study.user_attrs.get(_OPENED, []))
