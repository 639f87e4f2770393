"""Every quantity has a margin and a prior; the defaults gate what a server can be blamed for."""

from __future__ import annotations

import pytest

from pytest_llmperf.definitions import parse_quantity, quantity_names
from pytest_llmperf.metrics.stats.margins import default_margins, tolerance, too_few


@pytest.mark.parametrize(
    ("name", "margin", "run_sd", "session_sd"),
    [
        ("itl_p50", 0.05, 0.02, 0.01),
        ("tpot_mean", 0.05, 0.02, 0.01),
        ("output_token_throughput", 0.05, 0.02, 0.01),
        ("e2e_p50", 0.05, 0.02, 0.01),
        ("ttft_p50", 0.10, 0.04, 0.015),
        ("ttft_mean", 0.10, 0.04, 0.015),
        ("itl_p99", 0.10, 0.04, 0.015),
        ("ttft_p95", 0.15, 0.06, 0.02),
        ("ttft_p99", 0.20, 0.08, 0.02),
    ],
)
def test_margins_and_priors(name: str, margin: float, run_sd: float, session_sd: float) -> None:
    known = tolerance(parse_quantity(name))
    assert (known.margin, known.prior.run_sd, known.prior.session_sd) == (margin, run_sd, session_sd)


@pytest.mark.parametrize("name", quantity_names())
def test_every_quantity_can_be_gated(name: str) -> None:
    assert 0 < tolerance(parse_quantity(name)).margin < 1


def test_an_open_loop_sets_its_own_throughput() -> None:
    closed, open_ = default_margins(open_loop=False), default_margins(open_loop=True)
    assert set(closed) - set(open_) == {"output_token_throughput"}
    assert closed["ttft_p99"] == 0.20


def test_too_few_requests_per_run_or_in_all() -> None:
    p99 = parse_quantity("itl_p99")
    assert too_few(p99, [200] * 5) is None
    assert too_few(p99, [200, 199, 900]) == "p99 needs 200 requests per run, there were 199"
    assert too_few(p99, [300] * 3) == "p99 needs 1000 requests over all runs, there were 900"
    assert too_few(p99, []) == "p99 needs 200 requests per run, there were 0"
    assert too_few(parse_quantity("itl_mean"), [1]) is None
