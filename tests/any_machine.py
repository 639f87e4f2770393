"""Whatever the machine, the client was good enough. Also the conftest.py of every suite under test.

On a busy machine the client is late, and a run with a late client is INVALID, or is done over. That is as it should be,
and the unit tests of validity and measurement prove it with lateness made by hand; tests of anything else would only
pass where the machine is quiet. What a server does wrong makes a run INVALID here as everywhere.
"""

import pytest

LIMITS = {
    "MAX_CLIENT_CPU": 1000.0,
    "MAX_LATE_REQUESTS": 1.0,
    "MIN_ACHIEVED_RATE": 0.0,
    "MAX_COALESCED": 1.0,
    "MAX_FIRST_COALESCED": 1.0,
    "MIN_LOOP_LAG_MS": 1e9,
    "MAX_OTHER_CPU": 1000.0,
    "MAX_STOLEN_CPU": 1000.0,
}
_patch = pytest.MonkeyPatch()


def tolerate(patch: pytest.MonkeyPatch) -> None:
    """Lift every limit on the client."""
    for name, limit in LIMITS.items():
        patch.setattr(f"pytest_llmperf.metrics.trust.validity.{name}", limit)


def pytest_configure() -> None:
    tolerate(_patch)


def pytest_unconfigure() -> None:
    _patch.undo()
