"""Faults of the network and of answers"""

import pytest
from arrangements import on_url
from fault import Fault, check, rows

FAULTS = (
    Fault(
        "closed-midway",
        "the connection is closed in the middle of an answer",
        on_url("close_midway", after=2, every=3),
        says=("4 of 10 requests failed", "connection closed by the server in the middle of the response"),
        keeps=10,
    ),
    Fault(
        "silence-midway",
        "an answer stops after its first token",
        on_url("silence_midway", after=2, every=3),
        says=(
            "4 of 10 requests failed",
            "no further data within 1 s (no_data_timeout)",
        ),
        keeps=10,
    ),
)


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
