"""The number of examples of the fuzz tests.

By default each test repeats the same examples, for about a minute in all. To search for faults with random examples for longer:
``python -m pytest tests/fuzzing --hypothesis-profile=explore``.
"""

from hypothesis import HealthCheck, settings

_SLOW_FILES = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]

settings.register_profile(
    "fuzzing", max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW_FILES
)
settings.register_profile(
    "explore", max_examples=400, deadline=None, derandomize=False, database=None, suppress_health_check=_SLOW_FILES,
    print_blob=True, report_multiple_bugs=True,
)  # fmt: skip
settings.load_profile("fuzzing")
