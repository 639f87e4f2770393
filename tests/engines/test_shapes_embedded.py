"""Every shape of load against the embedded engine: what was asked for is what the engine got."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from embedded_engine import embedded_engine

from pytest_llmperf.embedded.truth import read_emission_log
from pytest_llmperf.load.driver import run_load
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.metrics.summary import summarize, summarize_stages
from pytest_llmperf.metrics.trust.validity import invalid_reasons
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.records import Run

_engine = partial(embedded_engine, "--decode-ms-per-step", "1", "--max-model-len", "4096")


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with _engine() as url:
        yield url


def _point(**given: Any) -> LoadPoint:
    lengths = {} if "trace" in given else {"input_tokens": 8, "output_tokens": 4}
    return LoadSpec.model_validate(lengths | given).points("p")[0]


def _run(url: str, point: LoadPoint) -> Run:
    trace = make_trace(point, "key")
    run = asyncio.run(run_load((Target(url, "embedded", continuous_usage=True),), point, trace, run_index=0))
    assert [record.error for record in run.records if record.error] == []
    if point.conversation is None:  # else turns are left out when the time is up
        assert [record.index for record in run.records] == list(range(len(run.records)))
    return run


def _phases(run: Run) -> dict[str, int]:
    return {phase: sum(record.phase == phase for record in run.records) for phase in ("lead-in", "measured")}


def _most_in_flight(run: Run) -> int:
    """The most requests between their sending and their end at any one time."""
    events = [(r.sent_ns, 1) for r in run.records if r.sent_ns] + [(r.end_ns, -1) for r in run.records]
    return max(itertools.accumulate(change for _, change in sorted(events)))


def test_a_closed_loop_of_a_duration_sends_until_then(engine: str) -> None:
    point = _point(concurrency=3, duration="600 ms")
    run = _run(engine, point)
    sent = [r.sent_ns for r in run.records if r.phase == "measured" and r.sent_ns]
    assert _phases(run)["lead-in"] == 3
    assert _most_in_flight(run) == 3
    assert len(sent) > 3
    assert summarize(run, point).ok == len(sent)


def test_a_loop_that_goes_by_time_never_runs_out_of_requests(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its trace is finite: the requests come again with marks of their own, so that no cache knows them."""
    monkeypatch.setattr("pytest_llmperf.load.trace.trace._ENDLESS_REQUESTS", 4)
    run = _run(engine, _point(concurrency=2, duration="600 ms", input_tokens=64))
    hits = re.search(r"^\S*prefix_cache_hits_total\S* (\S+)$", httpx.get(f"{engine}/metrics").text, re.MULTILINE)
    assert len(run.records) > 6
    assert hits is not None
    assert float(hits[1]) == 0


def test_conversations_go_on_until_the_time_is_up(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_llmperf.load.trace.trace._ENDLESS_REQUESTS", 6)
    run = _run(engine, _point(concurrency=2, duration="1 s", conversation={"turns": 3}))
    users: dict[int | None, list[int]] = {}
    for record in run.records:
        users.setdefault(record.conversation, []).append(record.turn)
    assert len(users) > 4
    assert all(turns == [0, 1, 2][: len(turns)] for turns in users.values())
    lengths = {record.turn: record.input_tokens or 0 for record in run.records}
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_ramp_of_slots_comes_before_the_measured_requests(engine: str) -> None:
    run = _run(engine, _point(concurrency=5, requests=20, ramp={"from": 1, "over": "500 ms"}))
    assert _phases(run)["measured"] == 20
    assert _phases(run)["lead-in"] > 5
    assert _most_in_flight(run) == 5
    assert [r.phase for r in run.records] == sorted(r.phase for r in run.records)


def test_a_ramp_of_users_reaches_its_end_however_few_conversations_there_are(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_llmperf.load.trace.trace._ENDLESS_REQUESTS", 4)
    ramp = {"from": 1, "over": "500 ms"}
    run = _run(engine, _point(concurrency=5, requests=40, conversation={"turns": 4}, ramp=ramp))
    assert _most_in_flight(run) == 5


def test_a_ramp_down(engine: str) -> None:
    run = _run(engine, _point(concurrency=1, duration="300 ms", ramp={"from": 4, "over": "500 ms"}))
    assert _most_in_flight(run) == 4
    measured = Run(0, 0, 0, "", tuple(r for r in run.records if r.phase == "measured"), run.client)
    assert _most_in_flight(measured) == 1


def test_stages_of_slots(engine: str) -> None:
    point = _point(stages=[{"concurrency": n, "duration": "200 ms"} for n in (1, 4, 2)])
    run = _run(engine, point)
    stages = summarize_stages([run], point)
    assert _most_in_flight(run) == 4
    assert _phases(run)["lead-in"] == 1
    assert sum(stage.sent for stage in stages) == summarize(run, point).sent
    one, four, two = (stage.scalars["concurrency_mean"] or 0 for stage in stages)
    assert one < two < four


def test_stages_of_rates(engine: str) -> None:
    point = _point(stages=[{"request_rate": rate, "duration": "200 ms"} for rate in (20, 100)])
    run = _run(engine, point)
    assert [stage.sent for stage in summarize_stages([run], point)] == [4, 20]
    assert _phases(run) == {"lead-in": 0, "measured": 24}


@pytest.mark.parametrize("bound", [{"requests": 20}, {"duration": "200 ms"}])
def test_a_ramp_of_a_rate(engine: str, bound: dict[str, Any]) -> None:
    point = _point(request_rate=100, ramp={"from": 20, "over": "200 ms"}, **bound)
    run = _run(engine, point)
    assert _phases(run) == {"lead-in": 12, "measured": 20}
    assert summarize(run, point).sent == 20


MOONCAKE = """\
{"timestamp": 0, "input_length": 600, "output_length": 3, "hash_ids": [0, 1]}
{"timestamp": 100, "input_length": 700, "output_length": 2, "hash_ids": [0, 2]}
{"timestamp": 200, "input_length": 30, "output_length": 4, "hash_ids": [3]}
"""


@pytest.mark.usefixtures("any_machine")
def test_a_trace_is_replayed_with_its_lengths_and_shared_prefixes(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(MOONCAKE)
    trace = {"file": str(tmp_path / "t.jsonl"), "format": "mooncake", "time_scale": 0.5}
    point = _point(trace=trace, endpoint="completions")
    with _engine() as url:
        run = _run(url, point)
        hits = re.search(r"^\S*prefix_cache_hits_total\S* (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert [(r.input_tokens, r.output_tokens) for r in run.records] == [(600, 3), (700, 2), (30, 4)]
    assert [((r.due_ns or 0) - run.started_ns) / 1e6 for r in run.records] == [0, 50, 100]
    assert hits is not None
    assert float(hits[1]) == 512
    assert invalid_reasons([run], point) == ()


@pytest.mark.usefixtures("any_machine")
@pytest.mark.parametrize("usage", ["every-chunk", "last-chunk"])
def test_a_batch_is_one_request_of_several_prompts(usage: str, tmp_path: Path) -> None:
    log = tmp_path / "truth.jsonl"
    point = _point(concurrency=2, requests=4, batch_size=3, endpoint="completions", stream_usage=usage)
    with _engine("--emission-log", str(log)) as url:
        run = _run(url, point)
    assert {(r.prompts, r.input_tokens, r.output_tokens, len(r.chunk_ns)) for r in run.records} == {(3, 24, 12, 12)}
    assert len(list(read_emission_log(log))) == 3 * len(run.records)
    assert invalid_reasons([run], point) == ()
    summary = summarize(run, point)
    assert summary.distributions["itl"].n == 4
    assert summary.distributions["icl"].n == 4 * 3 * 3


def test_cancelled_requests_free_their_place_in_the_engine() -> None:
    """The engine has one place: whoever gets a token, got it because the request before had left it."""
    point = _point(
        concurrency=1, requests=3, output_tokens=4000, cancel={"share": "100 %", "after": "300 ms"}, read_timeout="60 s"
    )
    trace = make_trace(point, "key")
    lead_in, *others = trace.requests
    assert lead_in.cancel_after_s is None
    trace = replace(trace, requests=(replace(lead_in, output_tokens=2), *others))
    with _engine("--max-num-seqs", "1") as url:
        run = asyncio.run(run_load((Target(url, "embedded"),), point, trace, run_index=0))
    measured = run.records[1:]
    assert [(r.cancelled, r.ok, r.error) for r in measured] == [(True, False, None)] * 3
    assert all(0 < len(r.chunk_ns) < 4000 for r in measured)
    summary = summarize(run, point)
    assert (summary.sent, summary.ok, summary.failed, summary.cancelled) == (3, 0, 0, 3)
    assert summary.distributions["ttft"].n == 0
    assert summary.scalars["error_rate"] == 0


def test_a_share_of_an_open_loop_is_cancelled_and_the_rest_unharmed(engine: str) -> None:
    point = _point(request_rate=200, requests=60, output_tokens=400, cancel={"share": 0.3, "after": "20 ms"})
    run = _run(engine, point)
    planned = [r.cancel_after_s is not None for r in make_trace(point, "key").requests]
    assert [r.cancelled for r in run.records] == planned
    assert {r.output_tokens for r in run.records if r.ok} == {400}


@pytest.mark.usefixtures("any_machine")
def test_no_more_are_in_flight_than_may_be_and_the_wait_is_told(engine: str) -> None:
    point = _point(request_rate=1000, requests=40, output_tokens=20, max_in_flight=4)
    run = _run(engine, point)
    assert _most_in_flight(run) <= 4
    assert sum(r.held_ns > 0 for r in run.records) > 30
    summary = summarize(run, point)
    queued, ttft, service = (summary.distributions[name].mean or 0 for name in ("queued", "ttft", "service_ttft"))
    assert ttft == pytest.approx(queued + service)
    assert queued > service
    assert invalid_reasons([run], point) == ()


@pytest.mark.parametrize("load", [{"concurrency": 3}, {"request_rate": 100}])
def test_fresh_connections_are_told_with_their_cost(engine: str, load: dict[str, Any]) -> None:
    run = _run(engine, _point(connection="fresh", requests=9, **load))
    assert all(r.connect_ns for r in run.records)
    assert run.client.connect_ms == pytest.approx(sum(r.connect_ns or 0 for r in run.records) / len(run.records) / 1e6)
    kept = _run(engine, _point(requests=9, **load))
    assert {r.connect_ns for r in kept.records} == {None}


def test_a_thousand_streams_at_once() -> None:
    with _engine("--max-num-seqs", "1000", "--decode-ms-per-step", "200") as url:
        run = _run(url, _point(concurrency=1000, requests=1000, output_tokens=3))
    assert len(run.records) == 2000
    assert _most_in_flight(run) == 1000
