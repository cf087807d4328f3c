"""The two tasks: one class for each image, or several findings, each of which is present, absent or unknown.

Labels of images are integers. For one class, they are class indices, (n,), or ``UNKNOWN``. For several findings, they are codes
of this module, (n, n_findings). A negative number is not scored in either case.
"""

from __future__ import annotations

MULTICLASS, MULTILABEL = TASKS = ("multiclass", "multilabel")

PRESENT, ABSENT = 1, 0
UNKNOWN = -1
"""Nothing is known: the label is not used for training and not scored."""
UNCERTAIN = -2
"""A reader considered the finding possible. Training uses it as a hyperparameter defines; it is not scored."""

LABEL_CODES = (UNCERTAIN, UNKNOWN, ABSENT, PRESENT)

FINDING_SEPARATOR = "|"
"""Between the findings of an image in a text, as in the tables of ChestX-ray14."""
