"""What is known of a load's requests before the first of them is sent."""

from __future__ import annotations

import pytest

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.runner.measure.context import check_context


def test_a_load_whose_arrivals_all_come_after_its_end_is_a_mistake_of_the_plan() -> None:
    given = {"input_tokens": 8, "request_rate": 1, "arrival": "poisson", "duration": "1 ms"}
    point = LoadSpec.model_validate(given).points("p")[0]
    with pytest.raises(PlanError, match="load p: no poisson arrival is before its end; make it longer"):
        check_context((), point, make_trace(point, "key"))
