"""What a dry run says of the whole session."""

import pytest
from samples import point, result

from pytest_llmperf.runner.describe import load_seconds
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.session.beforehand.dry_run import totals

CAPACITY = {"request_rate": "1:100", "sla": {"ttft_p99": "<= 500 ms"}}


@pytest.mark.parametrize(
    ("load", "told"),
    [
        (point(), "3 runs, 60 requests, and 1 point of which nothing tells how long a run takes"),
        (point(requests=None, duration="20 s"), "3 runs, about 60 s of load"),
        (
            point(requests=None, duration="20 s", capacity=CAPACITY),
            "3 runs, and 1 point of which nothing tells how long a run takes",
        ),
    ],
    ids=["requests", "duration", "capacity"],
)
def test_the_sum_of_all_points(load, told):
    planned = PlannedTest("t", "t", "f", result().server, load, 3, 1)
    assert told in totals(Program({"t": planned}), lambda one: load_seconds(one.point))
