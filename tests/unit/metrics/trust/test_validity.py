"""When a run's numbers may not be believed."""

from dataclasses import replace

import pytest
from samples import HEALTH, MS, failed, point, record, run, steady_run

from pytest_llmperf.load.answers.counts import TOTAL_TOO_LARGE
from pytest_llmperf.metrics.trust.validity import invalid_reasons


def reasons(found, load=None):
    return invalid_reasons([found], load or point())


def open_run(lateness_ms):
    return run(
        [record(n * 100.0 + late, [n * 100.0 + late + 50.0], due_ms=n * 100.0) for n, late in enumerate(lateness_ms)]
    )


def test_a_good_run_is_valid():
    assert invalid_reasons([steady_run(0), steady_run(1)], point()) == ()


def test_no_run_is_a_reason():
    assert invalid_reasons([], point()) == ("nothing was measured",)


@pytest.mark.parametrize(
    ("client", "message"),
    [
        (
            {"cpu_share": 0.97},
            "run 1: client CPU 97% of a core: the load driver was the bottleneck; "
            "spread it over processes with --llmperf-workers 2",
        ),
        ({"clock_step_ns": -3 * MS}, "run 1: the system clock was set by -3.0 ms during the run"),
        (
            {"receive_lag_p50_us": -3.6e9},
            "run 1: the client's clock is -3.6e+03 s from the kernel's; freezegun, time-machine or libfaketime in this "
            "process? measure without",
        ),
    ],
)
def test_trouble_of_the_client(client, message):
    assert reasons(steady_run(client=replace(HEALTH, **client))) == (message,)


def test_what_the_client_cannot_tell_is_no_reason():
    unknown = replace(HEALTH, stamps="user", cpu_share=None, receive_lag_p50_us=None, coalesced_share=None)
    assert reasons(steady_run(client=unknown)) == ()


def test_late_sends_of_an_open_loop():
    load = point(request_rate=10.0)
    assert reasons(open_run([1.0] * 20), load) == ()
    assert reasons(open_run([1.0] * 19 + [90.0]), load) == ()
    (reason,) = reasons(open_run([1.0] * 18 + [80.0, 90.0]), load)
    assert reason == "run 1: 2 of 20 requests were sent more than 10.0 ms late (worst 90.0 ms)"


def test_a_closed_loop_has_no_due_times():
    assert reasons(open_run([90.0] * 20), point()) == ()


def test_failed_lead_in():
    (reason,) = reasons(run([failed(phase="lead-in"), record(), record()]))
    assert "1 lead-in request failed" in reason
    assert "(first: HTTP 500)" in reason


def test_failed_measured_requests_are_the_error_rates_business():
    assert reasons(run([record(), failed()])) == ()


def test_answers_of_another_length_than_asked_for():
    short = run([record(), record(requested_output_tokens=5), record(requested_output_tokens=6)])
    (reason,) = reasons(short, point(output_tokens=5))
    assert "2 of 3 requests gave other than the 5 output tokens asked for (first: 4)" in reason
    assert reasons(short, point(output_tokens=5, ignore_eos=False)) == ()


def test_lengths_that_the_server_did_not_count_are_no_evidence():
    assert reasons(run([record(requested_output_tokens=5, token_source="chunks")])) == ()


def test_every_run_is_named():
    late = replace(HEALTH, cpu_share=0.99)
    assert [
        reason.split(":")[0] for reason in invalid_reasons([steady_run(0), steady_run(1, client=late)], point())
    ] == ["run 2"]


def test_waiting_that_the_load_asks_for_is_not_the_clients_lateness():
    waits = [record(90.0 + i, [95.0 + i], due_ms=float(i), held_ns=89_000_000, connect_ns=900_000) for i in range(20)]
    assert reasons(run(waits), point(request_rate=10)) == ()


def rate_reasons(requests, last_late_ms, gap_ms=10.0):
    """An open loop whose last request alone was sent late, so that only the rate suffers."""
    due = [n * gap_ms for n in range(requests)]
    records = [record(d, [d + 50.0], due_ms=d) for d in due[:-1]]
    records.append(record(due[-1] + last_late_ms, [due[-1] + 500.0], due_ms=due[-1]))
    late_s = (due[-1] + last_late_ms) / 1e3
    client = replace(HEALTH, requested_rate=(requests - 1) / (due[-1] / 1e3), achieved_rate=(requests - 1) / late_s)
    return reasons(run(records, client=client), point(request_rate=1e3 / gap_ms))


@pytest.mark.parametrize(
    ("chunks", "late_ms", "invalid"), [(3, 6.0, True), (2, 6.0, False), (3, 4.9, False), (60, 4.9, False)]
)
def test_chunks_that_a_late_client_read_together(chunks, late_ms, invalid):
    """Of 100; a server that sends chunks together is not the client's fault: how late that was is what accuses it."""
    shared = record(coalesced_chunks=chunks, shared_late_ns=(round(late_ms * MS),) * chunks)
    found = reasons(run([shared, *[record()] * 24]))
    assert [reason[:59] for reason in found] == [
        "run 1: 3% of the token chunks were read together with anoth"
    ] * invalid


def _first_tokens(late_ms, requests, **facts):
    late = [record(first_late_ns=round(ms * MS), **facts) for ms in late_ms]
    return reasons(run([*late, *[record() for _ in range(requests - len(late))]]))


def test_first_tokens_that_a_late_client_read_together_with_the_next():
    (reason,) = _first_tokens([9.0, 12.0], requests=100)
    assert reason.startswith(
        "run 1: the first token of 2 of 100 requests was read together with the next: the client was up to "
        "12.0 ms late, at an inter-token latency of 10.0 ms; keep other work off"
    )
    assert _first_tokens([12.0], requests=20), "a twentieth of the requests: p99 is theirs"
    assert _first_tokens([12.0], requests=100) == (), "p99 is not touched by one in a hundred"


def test_first_tokens_that_the_server_sent_together_with_the_next():
    assert _first_tokens([4.9] * 20, requests=20) == (), "not late enough to meet the next token"


@pytest.mark.parametrize("facts", [{"phase": "lead-in"}, {"cancelled": True}])
def test_first_tokens_that_are_in_no_figure_harm_none(facts):
    assert _first_tokens([12.0] * 10, requests=20, **facts) == ()


def test_a_rate_that_the_client_did_not_reach():
    assert rate_reasons(101, last_late_ms=15.0) == (), "within 2 %"
    (reason,) = rate_reasons(101, last_late_ms=50.0)
    assert "the load driver sent only 95.24 of the requested 100 req/s; spread it over processes" in reason


def test_one_hiccup_at_the_end_of_a_short_run_is_no_lower_rate():
    assert rate_reasons(21, last_late_ms=19.0) == ()


@pytest.mark.parametrize(
    ("client", "invalid"),
    [
        ({"stamps": "user", "receive_lag_p99_us": None, "loop_lag_p99_ms": 3.0}, True),
        ({"stamps": "user", "receive_lag_p99_us": None, "loop_lag_p99_ms": 1.5}, False),
        ({"stamps": "user", "receive_lag_p99_us": None, "loop_lag_p99_ms": None, "coalesced_share": 0.2}, False),
        ({"loop_lag_p99_ms": 30.0}, False),
    ],
)
def test_reads_that_came_too_late_for_an_inter_token_latency_of_ten_ms(client, invalid):
    """A server that sends chunks together is not the client's fault: its own lag is what accuses it."""
    found = reasons(run([record()] * 5, client=replace(HEALTH, **client)))
    assert bool(found) is invalid
    assert all("keep other work off the client's cores" in reason for reason in found)


def test_an_answer_before_its_request():
    (reason,) = reasons(run([record(), record(50.0, [10.0, 20.0, 60.0, 70.0])]))
    assert "1 of 2 responses came before their requests were sent" in reason


@pytest.mark.parametrize(("resent", "valid"), [(0, True), (1, True), (2, False)])
def test_requests_that_are_sent_again(resent, valid):
    found = reasons(steady_run(requests=100, client=replace(HEALTH, resent=resent)))
    assert bool(found) != valid
    assert all(f"{resent} of 100 requests were sent again" in reason for reason in found)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"output_tokens": 9}, None),
        ({"output_tokens": 10}, "first: 10 tokens, 4 asked for"),
        ({"usage_doubt": TOTAL_TOO_LARGE}, f"first: {TOTAL_TOO_LARGE}, 4 asked for"),
    ],
)
def test_more_tokens_than_were_asked_for_by_a_factor(facts, told):
    found = reasons(run([record(), record(**facts)]), point(ignore_eos=False))
    assert bool(found) == (told is not None)
    assert all("1 of 2 answers have more tokens than were asked for" in reason and told in reason for reason in found)
