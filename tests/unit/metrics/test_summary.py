"""Numbers of hand-made records, by the definitions in definitions.py."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import START_NS, failed, point, record, result, run, steady_run

from pytest_llmperf.definitions import METRICS, PERCENTILES, STATISTICS, Quantity, parse_quantity, quantity_names
from pytest_llmperf.formulas.pace import inter_token_latency_ms
from pytest_llmperf.metrics.summary import (
    distribution,
    rounded,
    run_window,
    summarize,
    summarize_runs,
    summarize_stages,
)
from pytest_llmperf.plan.load.shapes import Stage

CLOSED, OPEN = point(), point(request_rate=10)


def values(records, load=CLOSED, **options):
    summary = summarize(run(records), load, **options)
    return lambda name: summary.value(parse_quantity(name))


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200))
def test_statistics_are_numpys(sample):
    found = distribution(sample)
    for percentile in PERCENTILES:
        assert found.stat(f"p{percentile}") == np.percentile(sample, percentile, method="linear")
    assert (found.n, found.min, found.max) == (len(sample), min(sample), max(sample))
    assert (found.mean, found.std) == (np.mean(sample), np.std(sample))


@pytest.mark.parametrize(("percentile", "value"), [("p50", 25.0), ("p25", 17.5), ("p99", 39.7), ("p1", 10.3)])
def test_percentiles_interpolate_linearly(percentile, value):
    assert distribution([40, 10, 30, 20]).stat(percentile) == pytest.approx(value)


def test_an_empty_sample_has_no_statistic():
    empty = distribution([])
    assert [empty.stat(name) for name in STATISTICS] == [None] * len(STATISTICS)
    assert empty.as_dict() == {**dict.fromkeys(STATISTICS), "n": 0}


def test_latencies_of_one_request():
    value = values([record(5.0, [15.0, 17.0, 27.0, 45.0])])
    assert value("ttft_p50") == 10.0
    assert value("ttst_p50") == 2.0
    assert value("itl_p50") == value("tpot_p50") == 10.0
    assert (value("icl_min"), value("icl_max")) == (2.0, 18.0)
    assert value("e2e_p50") == 40.0


def test_tokens_count_and_not_chunks():
    several = record(0.0, [10.0, 20.0, 40.0], tokens=[1, 4, 5])
    assert inter_token_latency_ms(several) == pytest.approx(30.0 / 9)
    value = values([several])
    assert value("output_tokens_mean") == 10
    assert value("icl_mean") == 15.0


@pytest.mark.parametrize(
    "answer", [record(0.0, [10.0]), record(0.0, [10.0], tokens=[4]), record(0.0, [10.0, 20.0], tokens=[1, 0])]
)
def test_no_gap_between_tokens_without_two_of_them_apart(answer):
    value = values([answer])
    assert value("ttft_p50") == value("ttft_max") == 10.0
    assert value("itl_p50") is None
    assert value("output_token_throughput_per_user") is None


def test_first_output_is_the_first_token_after_reasoning():
    value = values([record(0.0, first_output_ns=START_NS + 30_000_000), record(0.0, first_output_ns=None)])
    assert value("ttft_p50") == 10.0
    assert value("ttfo_p50") == 30.0
    assert summarize(run([record(first_output_ns=None)]), CLOSED).n(Quantity("ttfo", "p50")) == 0


def test_an_open_loop_counts_from_the_due_time():
    records = [record(due + 3.0, [due + 13.0, due + 23.0], due_ms=due) for due in (0.0, 100.0)]
    value = values(records, OPEN)
    assert (value("ttft_p50"), value("service_ttft_p50")) == (13.0, 10.0)
    assert (value("e2e_p50"), value("service_e2e_p50")) == (23.0, 20.0)


def test_a_closed_loop_counts_from_sending():
    value = values([record(5.0, [15.0, 25.0])])
    assert value("ttft_p50") == value("service_ttft_p50") == 10.0


def test_failures_count_but_give_no_latency():
    summary = summarize(run([record(), record(), record(), failed()]), CLOSED)
    assert (summary.sent, summary.ok, summary.failed) == (4, 3, 1)
    assert summary.value(Quantity("error_rate")) == 0.25
    assert summary.distributions["ttft"].n == 3
    assert (summary.n(Quantity("error_rate")), summary.n(Quantity("request_throughput"))) == (4, 3)


def test_what_was_sent_before_the_measurement_is_in_no_latency():
    lead_in = record(-50.0, [-10.0, 60.0], phase="lead-in")
    summary = summarize(run([lead_in, record()]), CLOSED)
    assert (summary.sent, summary.distributions["ttft"].n) == (1, 1)


@pytest.mark.parametrize("records", [[], [failed(), failed()], [failed(None)], [failed(phase="lead-in")]])
@pytest.mark.parametrize("load", [CLOSED, OPEN], ids=["closed", "open"])
def test_nothing_measured_gives_no_number(records, load):
    summary = summarize(run(records), load, gpu_count=1)
    found = {name: summary.value(parse_quantity(name)) for name in quantity_names()}
    failures = sum(r.phase == "measured" for r in records)
    assert found.pop("error_rate") == (1.0 if failures else None)
    assert set(found.values()) == {None}
    assert {d.n for d in summary.distributions.values()} == {0}


def test_no_run_gives_no_number():
    summary = summarize_runs([], CLOSED)
    assert {summary.value(parse_quantity(name)) for name in quantity_names()} == {None}
    assert summary.window_s is None
    assert summary.as_dict()["request_throughput"] == {"value": None, "unit": "req/s"}


def window_ms(records, load):
    found = run_window(run(records), load)
    return found and ((found.start_ns - START_NS) / 1e6, (found.end_ns - START_NS) / 1e6)


def test_the_window_of_a_closed_loop_ends_when_a_slot_runs_dry():
    lead_in = [record(0.0, [40.0], phase="lead-in"), record(0.0, [50.0], phase="lead-in")]
    measured = [record(40.0, [90.0]), record(50.0, [120.0]), record(90.0, [200.0])]
    assert window_ms([*lead_in, *measured], CLOSED) == (40.0, 120.0)


def test_the_window_of_an_open_loop_is_the_schedule():
    records = [record(due + 7.0, [due + 50.0], due_ms=due) for due in (0.0, 100.0, 250.0)]
    assert window_ms(records, OPEN) == (0.0, 250.0)


@pytest.mark.parametrize(("records", "load"), [([], CLOSED), ([failed(None)], CLOSED), ([record(due_ms=0.0)], OPEN)])
def test_no_window(records, load):
    assert run_window(run(records), load) is None


def test_a_burst_that_is_over_before_its_first_answer_has_latencies_and_no_rate():
    burst = [record(due, [due + 50.0], due_ms=due) for due in (0.0, 1.0, 2.0)]
    value = values(burst, OPEN)
    assert value("ttft_p50") == 50.0
    assert (value("request_throughput"), value("output_token_throughput"), value("concurrency_mean")) == (None,) * 3
    (remark,) = result([run(burst)], load=OPEN).remarks
    assert remark.startswith("no throughput: no answer ended while requests were sent")


def test_rates_are_over_the_window():
    """Window 0 to 100 ms: two requests end in it and one after, four chunks of two tokens fall in it."""
    records = [
        record(0.0, [10.0, 60.0], tokens=[2, 2]),
        record(0.0, [20.0, 100.0], tokens=[2, 2]),
        record(60.0, [110.0, 200.0], tokens=[2, 2]),
    ]
    value = values(records, point(), gpu_count=2)
    assert value("output_token_throughput") == pytest.approx(8 / 0.1)
    assert value("output_token_throughput_per_gpu") == pytest.approx(4 / 0.1)
    assert value("request_throughput") == pytest.approx(2 / 0.1)
    assert value("input_token_throughput") == pytest.approx(2 * 8 / 0.1)
    assert value("concurrency_mean") == pytest.approx((60 + 100 + 40) / 100)


def test_tokens_of_unknown_chunks_are_spread_evenly():
    records = [
        record(0.0, [50.0, 100.0], chunk_tokens=None, output_tokens=10),
        record(50.0, [150.0, 250.0], chunk_tokens=None, output_tokens=10),
    ]
    assert window_ms(records, CLOSED) == (0.0, 100.0)
    assert values(records)("output_token_throughput") == pytest.approx(10 / 0.1)


def test_prompt_tokens_of_unknown_number_give_no_rate():
    assert values([record(input_tokens=None), record(40.0, [50.0, 60.0])])("input_token_throughput") is None


def test_no_gpus_no_rate_per_gpu():
    assert values([record()])("output_token_throughput_per_gpu") is None


def test_goodput_counts_requests_within_every_limit():
    records = [record(0.0, [10.0, 20.0]), record(0.0, [30.0, 40.0]), record(20.0, [30.0, 100.0])]
    load = point(slo={"ttft": "15 ms", "e2e": "1 s"})
    assert window_ms(records, load) == (0.0, 40.0)
    assert values(records, load)("goodput") == pytest.approx(1 / 0.04)
    assert values(records, load)("request_throughput") == pytest.approx(2 / 0.04)
    assert values(records)("goodput") is None


def test_a_request_without_the_limited_value_is_not_good():
    load = point(slo={"itl": "1 s"})
    assert values([record(0.0, [10.0])], load)("goodput") == 0


def test_several_runs_pool_requests_and_average_rates():
    fast, slow = steady_run(0), steady_run(1, slowness=2.0)
    pooled = summarize_runs([fast, slow], CLOSED)
    rates = [summarize(r, CLOSED).scalars["request_throughput"] for r in (fast, slow)]
    assert pooled.scalars["request_throughput"] == pytest.approx(sum(rates) / 2)
    assert pooled.distributions["ttft"].n == 40
    assert pooled.window_s == pytest.approx(sum(run_window(r, CLOSED).seconds for r in (fast, slow)))


def test_a_run_without_a_rate_leaves_none_for_all():
    pooled = summarize_runs([steady_run(0), run([failed()], 1)], CLOSED)
    assert pooled.scalars["request_throughput"] is None


@given(st.floats(0.1, 100.0))
def test_slower_is_slower_in_every_metric(slowness):
    base, slow = (summarize(steady_run(slowness=s), CLOSED) for s in (1.0, slowness))
    for name in ("ttft_p50", "itl_p99", "e2e_mean"):
        assert slow.value(parse_quantity(name)) == pytest.approx(base.value(parse_quantity(name)) * slowness, rel=1e-3)
    for name in ("output_token_throughput", "request_throughput", "output_token_throughput_per_user"):
        assert slow.value(parse_quantity(name)) == pytest.approx(base.value(parse_quantity(name)) / slowness, rel=1e-3)


def test_where_token_counts_come_from():
    records = [record(), record(token_source="chunks"), failed()]
    assert summarize(run(records), CLOSED).token_sources == ("chunks", "usage")


def test_a_summary_as_data():
    data = summarize(steady_run(), CLOSED).as_dict()
    assert set(data["ttft_ms"]) == {*STATISTICS, "n"}
    assert data["output_token_throughput"]["unit"] == "tok/s"
    assert data["requests"] == {"sent": 20, "ok": 20, "failed": 0, "cancelled": 0}
    assert {m.key for m in METRICS.values()} <= set(data)


@given(st.floats(-1e12, 1e12))
def test_rounding_keeps_six_digits(value):
    assert rounded(value) == pytest.approx(value, rel=1e-5, abs=1e-300)
    assert rounded(None) is None


@pytest.mark.parametrize("name", quantity_names())
def test_every_name_reads_back(name):
    assert str(parse_quantity(name)) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ttft", "'ttft' needs a statistic, for example ttft_p99"),
        ("ttft_p98", "did you mean 'ttft_p9"),
        ("itll_p99", "did you mean 'itl_p99'"),
        ("error_rate_p99", "unknown metric 'error_rate_p99'; did you mean 'error_rate'?"),
        ("", "unknown metric ''"),
    ],
)
def test_names_of_no_metric(name, message):
    with pytest.raises(ValueError, match=r"metric|statistic") as error:
        parse_quantity(name)
    assert message in str(error.value)


def test_units_of_shown_values():
    assert Quantity("ttft", "p99").shown(12.345) == "12.35 ms"
    assert Quantity("error_rate").shown(0.0) == "0"


def test_cancelled_requests_are_counted_apart():
    records = [record(0.0, [10.0, 20.0]), record(5.0, [15.0], cancelled=True), failed(6.0)]
    summary = summarize(run(records), CLOSED)
    assert (summary.sent, summary.ok, summary.failed, summary.cancelled) == (3, 1, 1, 1)
    assert summary.scalars["error_rate"] == pytest.approx(1 / 3)
    assert summary.distributions["ttft"].n == 1


def test_queued_is_the_wait_of_every_open_loop_request():
    records = [record(3.0, [10.0], due_ms=1.0), failed(9.0, due_ms=2.0), record(None, (), due_ms=3.0, error="refused")]
    queued = summarize(run(records), OPEN).distributions["queued"]
    assert (queued.n, queued.min, queued.max) == (2, 2.0, 7.0)
    assert summarize(run([record()]), CLOSED).distributions["queued"].n == 0


def test_prompts_of_a_batch_are_answered_side_by_side():
    batch = record(0.0, [10.0, 10.0, 20.0, 20.0, 30.0, 30.0], answers=2)
    assert inter_token_latency_ms(batch) == 10.0
    value = values([batch])
    assert (value("ttft_p50"), value("e2e_p50"), value("output_tokens_mean")) == (10.0, 30.0, 6)
    assert (value("ttst_p50"), value("icl_p50")) == (None, None)


def test_a_stage_has_the_requests_that_were_due_in_it():
    stages = (Stage(request_rate=10, duration="100 ms"), Stage(request_rate=20, duration="100 ms"))
    load = point(request_rate=None, concurrency=None, requests=None, stages=stages)
    records = [record(due, [due + 10.0], due_ms=due) for due in (0.0, 100.0, 150.0)]
    one, two = summarize_stages([run(records)], load)
    assert (one.sent, two.sent, one.window_s, two.window_s) == (1, 2, 0.1, 0.1)
    assert (one.scalars["request_throughput"], two.scalars["request_throughput"]) == (10.0, 20.0)
    assert summarize(run(records), load).sent == 3


def test_stages_of_a_closed_loop_begin_with_its_first_measured_request():
    stages = (Stage(concurrency=1, duration="100 ms"), Stage(concurrency=2, duration="100 ms"))
    load = point(concurrency=None, requests=None, stages=stages)
    lead_in = record(0.0, [40.0], phase="lead-in")
    records = [lead_in, *(record(sent, [sent + 10.0]) for sent in (50.0, 149.0, 151.0, 200.0))]
    assert [stage.sent for stage in summarize_stages([run(records), run(records)], load)] == [4, 4]
    assert [stage.sent for stage in summarize_stages([run([])], load)] == [0, 0]
    assert summarize_stages([run(records)], CLOSED) == ()


def test_a_ramp_is_not_in_the_window():
    records = [record(due, [due + 1.0], due_ms=due, phase=p) for due, p in ((0.0, "lead-in"), (50.0, "measured"))]
    window = run_window(run([*records, record(90.0, [91.0], due_ms=90.0)]), OPEN)
    assert window is not None
    assert window.seconds == 0.04


def test_both_kinds_of_tokens_together():
    value = values([record(0.0, [10.0, 60.0], tokens=[2, 2]), record(0.0, [20.0, 100.0], tokens=[2, 2])], point())
    assert value("total_token_throughput") == value("input_token_throughput") + value("output_token_throughput")


def test_prompt_speed_of_a_request_is_until_its_first_token():
    value = values([record(0.0, [10.0]), record(0.0, [20.0], input_tokens=40), record(input_tokens=None)])
    assert value("prefill_throughput_per_user") == pytest.approx((800 + 2000) / 2)


def test_the_share_of_good_requests_counts_failed_ones_as_sent():
    load = point(slo={"ttft": "15 ms"})
    records = [record(), record(0.0, [30.0, 40.0]), failed(), record(phase="lead-in")]
    assert values(records, load)("goodput_share") == pytest.approx(1 / 3)
    assert values(records)("goodput_share") is None
    assert summarize(run(records), load).n(Quantity("goodput_share")) == 3


def test_the_window_ends_when_the_first_of_several_processes_has_no_more_work():
    """Even requests are the first process's: it is done at 60 ms, while the other goes on."""
    made = {0: record(0.0, [60.0]), 1: record(0.0, [50.0]), 3: record(50.0, [100.0]), 5: record(100.0, [180.0])}
    shared = replace(run([]), records=tuple(replace(r, index=i) for i, r in made.items()), workers=2)
    assert run_window(shared, CLOSED).end_ns - START_NS == 60_000_000
    assert run_window(replace(shared, workers=1), CLOSED).end_ns - START_NS == 180_000_000


def hidden(sent_ms, visible=4, unseen=20):
    """Tokens of 10 ms each, of which the first are not streamed."""
    chunks = [sent_ms + 10.0 * (unseen + 1 + k) for k in range(visible)]
    total, end_ms = unseen + visible, sent_ms + 10.0 * (unseen + visible)
    return record(sent_ms, chunks, end_ms=end_ms, hidden_tokens=unseen, output_tokens=total)


def test_hidden_tokens_are_in_the_counts_and_in_no_latency_to_a_token():
    value = values([hidden(0.0), hidden(240.0)])
    assert (value("output_tokens_mean"), value("itl_mean"), value("e2e_mean")) == (24, 10.0, 240.0)
    assert (value("ttft_mean"), value("service_ttft_mean"), value("ttfo_mean")) == (None, None, 210.0)
    assert value("prefill_throughput_per_user") is None


@pytest.mark.parametrize("visible", [0, 4])
@pytest.mark.parametrize("counted", [True, False])
def test_a_closed_loop_of_hidden_tokens_has_its_throughput(visible, counted):
    answers = [hidden(k * 10.0 * (20 + visible), visible) for k in range(-1, 8)]
    made = [replace(r, phase="lead-in") if k == 0 else r for k, r in enumerate(answers)]
    made = [r if counted else replace(r, chunk_tokens=None) for r in made]
    value = values(made, point(concurrency=1))
    assert value("output_token_throughput") == pytest.approx(100.0, rel=0.01)
    assert value("input_token_throughput") == pytest.approx(8 / (0.2 + visible / 100), rel=0.13)
    assert value("e2e_mean") == value("service_e2e_mean") == 10.0 * (20 + visible)


def test_hidden_tokens_are_spread_until_the_first_chunk():
    """Half of the 20 are made in the window, and all that was streamed."""
    load = point(request_rate=10)
    ends = [record(due, [due + 1.0], due_ms=due, phase="measured", tokens=[0]) for due in (100.0, 500.0)]
    summary = summarize(run([*ends, replace(hidden(0.0), phase="lead-in")]), load)
    assert summary.scalars["output_token_throughput"] == pytest.approx((20 * 110 / 210 + 4) / 0.4)


def test_the_sample_of_a_rate_per_user_is_of_those_that_have_one():
    at_once = record(0.0, [10.0, 10.0, 10.0])
    summary = summarize(run([at_once, record(), hidden(0.0, 1), failed()]), CLOSED)
    samples = {name: summary.n(Quantity(name)) for name in summary.scalars if name.endswith("_per_user")}
    assert samples == {"output_token_throughput_per_user": 1, "prefill_throughput_per_user": 2}
    assert summary.n(Quantity("request_throughput")) == 3


def test_a_request_without_the_first_token_is_not_good():
    load = point(slo={"ttft": "1 s"})
    assert values([hidden(0.0), record()], load)("goodput_share") == 0.5


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_the_docs_have_every_metric_as_the_table_has_it(metric):
    docs = Path(__file__).parents[3] / "docs" / "metrics.md"
    row = f"| `{metric.name}` | {metric.unit} | {metric.better} | {metric.definition} |"
    assert row in docs.read_text(encoding="utf-8").splitlines(), f"docs/metrics.md lacks the row: {row}"


def test_what_a_metric_counts_is_there():
    assert {m.n_of for m in METRICS.values()} <= {"ok", "sent", *METRICS}
