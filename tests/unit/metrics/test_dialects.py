"""The same hand-made records under every tool's definitions, against numbers worked out by hand."""

from dataclasses import replace

import pytest
from samples import MS, START_NS, failed, record, run

from pytest_llmperf.metrics.dialects import DIALECTS, dialect_metrics, weighted_distribution


def ns(*ms: float) -> tuple[int, ...]:
    return tuple(START_NS + round(value * MS) for value in ms)


# Request A: role chunk at 2 ms, tokens at 10, 20, 30, 40 ms, usage at 42 ms. Sent at 0.
A = record(0.0, [10.0, 20.0, 30.0, 40.0], end_ms=42.0, tokenless_ns=ns(2.0))
# Request B: sent at 40 ms; a reasoning token at 60, an empty text at 70, four answer tokens at 100 and 140; end at 150.
B = record(
    40.0,
    [60.0, 70.0, 100.0, 140.0],
    tokens=[1, 1, 2, 2],
    end_ms=150.0,
    first_output_ns=ns(100.0)[0],
    textless_chunks=(1,),
)
C = failed(20.0, end_ms=30.0)
# Run from 0 to 200 ms; prompts of 8 tokens.
RUN = replace(run([A, B, C]), ended_ns=START_NS + 200 * MS)


def test_vllm():
    found = dialect_metrics("vllm", [RUN])
    assert (found["ttft_ms"]["min"], found["ttft_ms"]["max"]) == (2.0, 20.0)
    assert found["ttft_ms"]["mean"] == 11.0
    assert (found["e2el_ms"]["min"], found["e2el_ms"]["max"]) == (40.0, 100.0)
    assert found["tpot_ms"]["max"] == pytest.approx(80 / 5)
    assert found["tpot_ms"]["min"] == pytest.approx(38 / 3, rel=1e-5)
    assert found["itl_ms"]["n"] == 4 + 3
    assert found["itl_ms"]["mean"] == pytest.approx((8 + 10 * 3 + 10 + 30 + 40) / 7, rel=1e-5)
    assert found["duration"] == {"unit": "s", "value": 0.2}
    assert found["request_throughput"]["value"] == pytest.approx(2 / 0.2)
    assert found["output_throughput"]["value"] == pytest.approx(10 / 0.2)
    assert found["total_token_throughput"]["value"] == pytest.approx(26 / 0.2)
    assert (found["completed"]["value"], found["failed"]["value"]) == (2, 1)


def test_vllm_takes_a_finish_chunk_for_the_last_token():
    ended = replace(run([record(0.0, [10.0, 20.0], tokenless_ns=ns(25.0))]))
    found = dialect_metrics("vllm", [ended])
    assert found["e2el_ms"]["mean"] == 25.0
    assert found["tpot_ms"]["mean"] == 15.0


def test_genai_perf():
    found = dialect_metrics("genai-perf", [RUN])
    assert (found["time_to_first_token"]["min"], found["time_to_first_token"]["max"]) == (10.0, 60.0)
    assert (found["time_to_second_token"]["min"], found["time_to_second_token"]["max"]) == (10.0, 40.0)
    assert (found["request_latency"]["min"], found["request_latency"]["max"]) == (40.0, 100.0)
    assert (found["inter_token_latency"]["min"], found["inter_token_latency"]["max"]) == (8.0, 10.0)
    assert found["output_token_throughput_per_user"]["mean"] == pytest.approx((100 + 125) / 2)
    assert found["output_token_throughput"]["value"] == pytest.approx(10 / 0.14, rel=1e-5)
    assert found["request_throughput"]["value"] == pytest.approx(3 / 0.14, rel=1e-5), "failed requests count"
    assert found["request_count"]["value"] == 3


def test_aiperf():
    found = dialect_metrics("aiperf", [RUN])
    assert (found["time_to_first_token"]["min"], found["time_to_first_token"]["max"]) == (10.0, 20.0)
    assert found["time_to_first_output_token"]["max"] == 60.0
    assert found["time_to_second_token"]["max"] == 40.0, "from 60 to 100: the empty chunk at 70 is none"
    assert found["inter_token_latency"]["max"] == pytest.approx(80 / 5)
    assert found["inter_chunk_latency"]["n"] == 3 + 2
    assert found["prefill_throughput_per_user"]["max"] == pytest.approx(8 / 0.01)
    assert found["e2e_output_token_throughput"]["min"] == pytest.approx(6 / 0.1)
    assert found["benchmark_duration"]["value"] == pytest.approx(0.14)
    assert found["request_throughput"]["value"] == pytest.approx(2 / 0.14, rel=1e-5)
    assert (found["request_count"]["value"], found["error_request_count"]["value"]) == (2, 1)


def test_guidellm():
    found = dialect_metrics("guidellm", [RUN])
    assert (found["time_to_first_token_ms"]["min"], found["time_to_first_token_ms"]["max"]) == (10.0, 20.0)
    assert (found["request_latency"]["min"], found["request_latency"]["max"]) == (0.042, 0.11)
    assert found["request_latency"]["p50"] == 0.042, "nearest rank"
    tpot = found["time_per_output_token_ms"]
    assert tpot["mean"] == pytest.approx((40 + 100) / 10), "holds the first token, weighs tokens"
    assert found["inter_token_latency_ms"]["mean"] == pytest.approx((30 + 80) / 8)
    assert found["requests_per_second"]["value"] == pytest.approx(2 / 0.15, rel=1e-5)
    assert found["output_tokens_per_second"]["value"] == pytest.approx(10 / 0.15, rel=1e-5)
    assert found["request_concurrency"]["value"] == pytest.approx((42 + 110) / 150, rel=1e-5)
    assert (found["successful"]["value"], found["errored"]["value"]) == (2, 1)


def test_compressa():
    found = {name: entry["value"] for name, entry in dialect_metrics("compressa", [RUN]).items()}
    assert found["TTFT"] == pytest.approx((0.010 + 0.060) / 2)
    assert found["TTFT_95"] == pytest.approx(0.0575)
    assert found["TOP_5_TTFT"] == pytest.approx(0.060)
    assert found["LATENCY"] == pytest.approx((0.042 + 0.110) / 2)
    assert found["TPOT"] == pytest.approx(0.152 / 10), "all latency over all tokens"
    assert found["THROUGHPUT"] == pytest.approx(26 / 0.15, rel=1e-5)
    assert found["RPS"] == pytest.approx(2 / 0.15, rel=1e-5)
    assert found["FAILED_REQUESTS"] == 1


def test_compressa_gives_a_reply_of_reasoning_only_no_time_to_first_token():
    silent = run([record(first_output_ns=None)])
    assert dialect_metrics("compressa", [silent])["TTFT"]["value"] == 0.0


@pytest.mark.parametrize("name", DIALECTS)
def test_lead_in_requests_count_as_the_tools_would_count_them(name):
    plain, lead = (
        run([record(), record(40.0, [50.0, 60.0])]),
        run([record(phase="lead-in"), record(40.0, [50.0, 60.0])]),
    )
    assert dialect_metrics(name, [plain]) == dialect_metrics(name, [lead])


@pytest.mark.parametrize("name", DIALECTS)
def test_open_loops_count_from_sending(name):
    late = run([record(5.0, [15.0, 25.0], due_ms=0.0)])
    on_time = run([record(5.0, [15.0, 25.0])])
    assert dialect_metrics(name, [late]) == dialect_metrics(name, [on_time])


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("records", [[], [failed()], [failed(None)]])
def test_no_success_gives_no_latency(name, records):
    for entry in dialect_metrics(name, [run(records)]).values():
        assert entry.get("n", 0) == 0
        assert entry.get("mean") is None


def test_several_runs_pool_samples_and_average_numbers():
    other = replace(run([record()]), ended_ns=START_NS + 400 * MS)
    found = dialect_metrics("vllm", [RUN, other])
    assert found["ttft_ms"]["n"] == 3
    assert found["duration"]["value"] == pytest.approx(0.3)


def test_weighted_statistics():
    found = weighted_distribution([(10.0, 1.0), (20.0, 3.0), (99.0, 0.0)])
    assert (found.n, found.mean, found.stat("p25"), found.stat("p50")) == (2, 17.5, 10.0, 20.0)
    assert found.std == pytest.approx((0.25 * 7.5**2 + 0.75 * 2.5**2) ** 0.5)


@pytest.mark.parametrize("name", DIALECTS)
def test_answers_that_streamed_nothing_have_no_latency(name):
    """Their tokens count where the tool counts them, and a chunk that only gave the role ends vLLM's first token."""
    unseen = record(0.0, (), hidden_tokens=20, output_tokens=20, end_ms=300.0)
    found = dialect_metrics(name, [run([unseen, replace(unseen, tokenless_ns=ns(50.0)), record()])])
    assert all(value.get("min") is None or value["min"] >= 0 for value in found.values())
