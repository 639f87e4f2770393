"""Traces: the same in every run, different between points and requests; arrivals as named."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pytest_llmperf.load.arrivals import due_offsets_ns
from pytest_llmperf.load.prompts import PlannedRequest, make_trace, marked_prompt
from pytest_llmperf.plan import LoadPoint
from pytest_llmperf.words import WORDS


def _point(**changes: Any) -> LoadPoint:
    given: dict[str, Any] = {"name": "p", "input_tokens": 20, "output_tokens": 4, "concurrency": 3, "requests": 5}
    return LoadPoint(**(given | changes))


def test_the_same_point_and_key_give_the_same_trace() -> None:
    assert make_trace(_point(), "tp1-short") == make_trace(_point(), "tp1-short")


def test_trace_is_the_same_on_every_machine_and_version() -> None:
    """The hash is stored with baselines: a change of it makes them all incomparable, so it must be on purpose."""
    assert make_trace(_point(), "key").hash == "5add2f0b9f5f0d08f7a1286e5787899549ae37563620817e0622f27dfe0cefa9"
    assert due_offsets_ns("poisson", 10.0, 3, seed=1) == (71_707_000, 372_212_000, 387_779_000)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"input_tokens": 21},
        {"output_tokens": 5},
        {"requests": 6},
        {"concurrency": 2},
        {"endpoint": "completions"},
        {"temperature": 0.5},
        {"ignore_eos": False},
        {"extra_body": {"top_p": 0.5}},
        {"concurrency": None, "request_rate": 10.0},
        {"requests": None, "duration": "9 s"},
        {"ramp": {"from": 1, "over": "9 s"}},
        {"cancel": {"share": 0.5, "after": "9 s"}},
        {"connection": "fresh"},
        {"endpoint": "completions", "batch_size": 2},
    ],
)
def test_whatever_changes_what_is_sent_changes_the_hash(changes: dict[str, Any]) -> None:
    assert make_trace(_point(**changes), "key").hash != make_trace(_point(), "key").hash


def test_key_decides_only_without_a_seed() -> None:
    assert make_trace(_point(), "one").hash != make_trace(_point(), "two").hash
    assert make_trace(_point(seed=3), "one").hash == make_trace(_point(seed=3), "two").hash


def test_closed_loop_has_lead_in_requests_first() -> None:
    trace = make_trace(_point(warmup_requests=2), "key")
    assert [request.phase for request in trace.requests] == ["lead-in"] * 3 + ["measured"] * 5
    assert [request.index for request in trace.requests] == list(range(8))
    assert {request.due_ns for request in trace.requests} == {None}
    assert len(trace.warmup) == 2
    assert {request.output_tokens for request in trace.requests} == {4}


def test_open_loop_has_due_times_and_no_lead_in() -> None:
    trace = make_trace(_point(concurrency=None, request_rate=10.0), "key")
    assert [request.due_ns for request in trace.requests] == [0, 100_000_000, 200_000_000, 300_000_000, 400_000_000]
    assert {request.phase for request in trace.requests} == {"measured"}


def test_loop_that_goes_by_time_has_a_trace_to_repeat() -> None:
    trace = make_trace(_point(requests=None, duration="9 s"), "key")
    assert [request.phase for request in trace.requests] == ["lead-in"] * 3 + ["measured"] * 256
    assert trace.slots is not None
    assert trace.hash == make_trace(_point(requests=None, duration="9 s"), "key").hash
    assert trace.hash != make_trace(_point(requests=None, duration="8 s"), "key").hash


def test_prompts_of_a_batch_are_all_different() -> None:
    trace = make_trace(_point(endpoint="completions", batch_size=3, requests=50), "key")
    prompts = [prompt for request in trace.requests for prompt in marked_prompt(request, "run 0")]
    assert len(prompts) == len({prompt.rsplit(" ", 17)[0] for prompt in prompts}) == 3 * 53


def test_cancelled_are_of_the_measured_requests() -> None:
    trace = make_trace(_point(cancel={"share": "100 %", "after": "300 ms"}), "key")
    assert [request.cancel_after_s for request in trace.requests] == [None] * 3 + [0.3] * 5


def test_trace_is_frozen() -> None:
    trace = make_trace(_point(), "key")
    with pytest.raises(dataclasses.FrozenInstanceError):
        trace.hash = ""  # type: ignore[misc]


def test_prompts_have_one_word_per_token_and_differ_from_the_first_words_on() -> None:
    trace = make_trace(_point(requests=200), "key")
    prompts = [marked_prompt(request, "run 0") for request in trace.requests]
    assert {len(prompt.split(" ")) for prompt in prompts} == {20}
    assert len({tuple(prompt.split(" ")[:3]) for prompt in prompts}) == len(prompts)
    assert len({prompt.split(" ")[0] for prompt in prompts}) == len(prompts)


def test_runs_differ_in_the_mark_only() -> None:
    request = make_trace(_point(), "key").requests[0]
    one, two = marked_prompt(request, "run 0"), marked_prompt(request, "run 1")
    assert one == marked_prompt(request, "run 0")
    assert one.split(" ")[:3] != two.split(" ")[:3]
    assert one.split(" ")[3:] == two.split(" ")[3:]


@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
def test_short_prompts_keep_their_length_and_stay_unique(tokens: int) -> None:
    planned = [PlannedRequest(i, "measured", None, " ".join(["the"] * tokens), 1) for i in range(500)]
    prompts = {marked_prompt(request, "run") for request in planned}
    assert len(prompts) == 500
    assert {len(prompt.split(" ")) for prompt in prompts} == {tokens}


def test_words_are_plain_and_many() -> None:
    assert len(WORDS) == len(set(WORDS)) > 1000
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)


def test_constant_arrivals_are_constant() -> None:
    assert due_offsets_ns("constant", 3.0, 4, seed=1) == (0, 333_333_333, 666_666_667, 1_000_000_000)


def test_poisson_arrivals_have_exponential_gaps_and_a_seed() -> None:
    offsets = due_offsets_ns("poisson", 100.0, 20_000, seed=1)
    gaps = np.diff(offsets) / 1e9
    assert min(gaps) >= 0
    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert offsets == due_offsets_ns("poisson", 100.0, 20_000, seed=1)
    assert offsets != due_offsets_ns("poisson", 100.0, 20_000, seed=2)
