"""Absolute limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import failed, point, record, run, steady_run

from pytest_llmperf.gate.sla import SlaCheck, check_sla
from pytest_llmperf.metrics import summarize
from pytest_llmperf.plan import Limit

LIMITS = {"ttft_p99": "<= 12 ms", "request_throughput": ">= 1 req/s", "error_rate": "<= 0", "output_tokens_min": ">= 4"}


def checks(found, **limits):
    return check_sla(point(sla=limits).sla, summarize(found, point()))


def test_limits_that_hold_in_the_plans_order():
    found = checks(steady_run(), **LIMITS)
    assert [str(check.limit.quantity) for check in found] == list(LIMITS)
    assert all(check.ok for check in found)
    assert found[0].describe() == "ttft_p99: 11 ms, limit <= 12 ms, n = 20"


def test_limits_that_do_not_hold():
    ttft, rate = checks(steady_run(), ttft_p50="<= 5 ms", request_throughput=">= 1000 req/s")
    assert not ttft.ok
    assert ttft.describe() == "ttft_p50: 10.5 ms, limit <= 5 ms (+110.0%), n = 20"
    assert not rate.ok
    assert "limit >= 1000 req/s (-" in rate.describe()


def test_one_failed_request_breaks_an_error_rate_of_zero():
    (check,) = checks(run([record(), failed()]), error_rate="<= 0")
    assert not check.ok
    assert check.describe() == "error_rate: 0.5, limit <= 0, n = 2"


@pytest.mark.parametrize("limit", [{"ttft_p99": "<= 1 h"}, {"output_token_throughput": ">= 0 tok/s"}])
def test_no_value_never_passes(limit):
    (check,) = checks(run([failed()]), **limit)
    assert not check.ok
    assert check.value is None
    assert "no value (n = 0: no successful request gave one)" in check.describe()


@pytest.mark.parametrize(
    ("op", "below", "at", "above"),
    [("<=", True, True, False), ("<", True, False, False), (">=", False, True, True), (">", False, False, True)],
)
def test_operators(op, below, at, above):
    limit = Limit(metric="ttft", stat="p50", op=op, value=10.0)
    assert [SlaCheck(limit, value, 1).ok for value in (9.0, 10.0, 11.0)] == [below, at, above]


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.sampled_from(["<", "<="]))
def test_what_is_slower_never_passes_where_the_faster_fails(one, other, limit, op):
    faster, slower = (
        SlaCheck(Limit(metric="ttft", stat="p50", op=op, value=limit), v, 1) for v in sorted((one, other))
    )
    assert faster.ok or not slower.ok


def test_no_limits_no_checks():
    assert checks(steady_run()) == ()
