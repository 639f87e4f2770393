"""Traces: the same in every run, different between points and requests; arrivals as named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_llmperf.embedded.engine.vocabulary import WORDS
from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.trace.arrivals import due_offsets_ns
from pytest_llmperf.load.trace.trace import PlannedRequest, Trace, make_trace, marked_prompt
from pytest_llmperf.plan.load.point import LoadPoint


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
        {"extra_body": {"stream_options": None}},
        {"max_tokens_field": "max_completion_tokens"},
        {"concurrency": None, "request_rate": 10.0},
        {"requests": None, "duration": "9 s"},
        {"ramp": {"from": 1, "over": "9 s"}},
        {"cancel": {"share": 0.5, "after": "9 s"}},
        {"prefix_cache": "warm"},
        {"connection": "fresh"},
        {"endpoint": "completions", "batch_size": 2},
        {"input_tokens": {"mean": 20, "sd": 5}},
        {"output_tokens": {"mean": 4, "sd": 1}},
        {"prompt_as": "token-ids", "endpoint": "completions"},
        {"shared_prefix": {"prefixes": 1, "tokens": 5}},
        {"dataset_entries": 2},
        {"conversation": {"turns": 2}},
        {"conversation": {"turns": 2, "think_time": "1 s"}},
        {"endpoint": "responses"},
        {"endpoint": "generate"},
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


def test_prompts_of_a_batch_are_of_any_kind() -> None:
    """Token ids, entries of a pool and shared prefixes, one prompt like another."""
    given = {"endpoint": "completions", "batch_size": 3, "prompt_as": "token-ids", "dataset_entries": 2}
    first, second = make_trace(_point(shared_prefix={"prefixes": 1, "tokens": 5}, **given), "k").requests[:2]
    assert [part.entry for part in first.parts] == [0, 1, 0]
    assert [part.entry for part in second.parts] == [1, 0, 1]
    assert first.input_tokens == 3 * 25
    one, other, again = marked_prompt(first, "r0", tuple(range(1000, 2000)))
    assert one[:5] == other[:5]
    assert one != other
    assert one == again


def _recorded(tmp_path: Path, **given: Any) -> LoadPoint:
    lines = ({"timestamp": at, "input_length": 600, "output_length": 3, "hash_ids": [0, at]} for at in (1, 2))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    trace = {"file": str(tmp_path / "t.jsonl"), "format": "mooncake"}
    return LoadPoint(name="p", trace=trace, **given)


def test_a_recorded_trace_takes_token_ids_too(tmp_path: Path) -> None:
    point = _recorded(tmp_path, endpoint="completions", prompt_as="token-ids")
    one, other = (request.prompt for request in make_trace(point, "k").requests)
    assert isinstance(one, tuple)
    assert (len(one), len(other)) == (600, 600)
    assert one[:512] == other[:512]
    assert one[512:] != other[512:]


def test_prompts_of_a_trace_that_begin_alike_keep_it_in_every_run(tmp_path: Path) -> None:
    requests = make_trace(_recorded(tmp_path), "k").requests
    one, other = (str(marked_prompt(request, "r0")).split() for request in requests)
    again = str(marked_prompt(requests[0], "r1")).split()
    assert one[:512] == other[:512]
    assert one[:3] != again[:3]


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


def test_lengths_are_drawn_per_request() -> None:
    point = _point(input_tokens={"mean": 30, "sd": 9}, output_tokens={"mean": 50, "sd": 10}, requests=50)
    trace = make_trace(point, "key")
    assert len({len(str(request.prompt).split()) for request in trace.requests}) > 10
    assert len({request.output_tokens for request in trace.requests}) > 10
    assert trace == make_trace(point, "key")


def test_dataset_entries_are_used_in_turn_with_one_mark_per_entry() -> None:
    trace = make_trace(_point(dataset_entries=3, requests=6, warmup_requests=1), "key")
    assert [request.entry for request in trace.requests] == [0, 1, 2] * 3
    prompts = [marked_prompt(request, "run 0") for request in trace.requests]
    assert prompts[:3] == prompts[3:6] == prompts[6:]
    assert len(set(prompts)) == 3
    assert prompts[0] != marked_prompt(trace.requests[0], "run 1")
    assert trace.warmup[0].entry == 0


def test_every_prompt_begins_with_a_shared_prefix_and_then_its_mark() -> None:
    trace = make_trace(_point(shared_prefix={"prefixes": 4, "tokens": 30}, requests=40, warmup_requests=1), "key")
    prompts = [marked_prompt(request, "run").split() for request in trace.requests]  # type: ignore[union-attr]
    assert {len(words) for words in prompts} == {50}
    assert len({tuple(words[:30]) for words in prompts}) == 4
    assert len({tuple(words[30:33]) for words in prompts}) == len(prompts)


def test_warm_up_sends_every_shared_prefix_once() -> None:
    shared = {"prefixes": 4, "tokens": 30}
    trace = make_trace(_point(shared_prefix=shared, warmup_requests=1), "key")
    assert {request.prefix for request in trace.requests} <= {request.prefix for request in trace.warmup}
    assert len({request.prefix for request in trace.warmup}) == len(trace.warmup) == 4
    assert make_trace(_point(shared_prefix=shared, warmup_requests=0), "key").warmup == ()


def test_conversations_have_turns_that_count_as_requests() -> None:
    trace = make_trace(_point(conversation={"turns": 3}, concurrency=4, requests=8), "key")
    lead_in = [request.turn for request in trace.requests if request.phase == "lead-in"]
    measured = [(request.conversation, request.turn) for request in trace.requests if request.phase == "measured"]
    assert lead_in == [0, 0, 1, 0, 1, 2, 0]
    assert measured == [(4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (5, 2), (6, 0), (6, 1)]
    assert [request.index for request in trace.requests] == list(range(15))


def test_only_the_first_turn_is_marked() -> None:
    first, second, *_ = make_trace(_point(conversation={"turns": 2}, concurrency=1, requests=2), "key").requests[1:]
    assert marked_prompt(first, "one") != marked_prompt(first, "two")
    assert marked_prompt(second, "one") == marked_prompt(second, "two") == second.prompt


def _from_file(tmp_path: Path, **changes: Any) -> LoadPoint:
    lines = [json.dumps({"input": f"question {number} of five", "output": "a b"}) for number in range(5)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    return _point(**({"input_tokens": None, "prompts": {"file": str(tmp_path / "x.jsonl")}} | changes))


def test_prompts_of_a_file_are_all_used_in_a_seeded_order(tmp_path: Path) -> None:
    trace = make_trace(_from_file(tmp_path, requests=7), "key")
    texts = [str(request.prompt).split(" ", 3)[3] for request in trace.requests]
    assert set(texts[:5]) == {f"question {number} of five" for number in range(5)}
    assert texts[5:] == texts[:5]
    assert texts[:5] != sorted(texts[:5])
    prompts = [str(marked_prompt(request, "run")) for request in trace.requests]
    assert len({tuple(prompt.split()[:3]) for prompt in prompts}) == 10
    assert [prompt.split(" ", 3)[3] for prompt in prompts] == texts
    assert {request.output_tokens for request in trace.requests} == {4}


def test_dataset_entries_of_a_file(tmp_path: Path) -> None:
    trace = make_trace(_from_file(tmp_path, dataset_entries=2), "key")
    assert len({marked_prompt(request, "run") for request in trace.requests}) == 2
    with pytest.raises(PlanError, match=r"dataset_entries: 6; .*x\.jsonl holds 5 prompts"):
        make_trace(_from_file(tmp_path, dataset_entries=6), "key")


def test_what_is_in_a_file_is_part_of_the_hash_though_not_all_of_it_is_sent(tmp_path: Path) -> None:
    before = make_trace(_from_file(tmp_path), "key").hash
    point = _from_file(tmp_path)
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write("\n")
    assert make_trace(point, "key").hash != before


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    point = _from_file(tmp_path)
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match=r"x\.jsonl:1: not UTF-8 text: byte 0xff"):
        make_trace(point, "key")


def _lines_point(tmp_path: Path, *entries: dict[str, Any], **changes: Any) -> LoadPoint:
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return _point(input_tokens=None, prompts={"file": str(tmp_path / "x.jsonl")}, concurrency=1, **changes)


def test_a_line_says_how_long_its_answer_is(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [{"prompt": "a", "max_tokens": 200}, {"prompt": "b"}]
    trace = make_trace(_lines_point(tmp_path, *entries, output_tokens=4, requests=5), "key")
    asked = {str(request.prompt).split(" ")[-1]: request.output_tokens for request in trace.requests}
    assert asked == {"a": 200, "b": 4}
    (note,) = trace.notes
    assert note.endswith("x.jsonl: the answers of 1 of 2 lines have a length of their own there (max_tokens)")
    prefill = _lines_point(tmp_path, *entries, output_tokens=1, requests=5, phase="prefill")
    assert {request.output_tokens for request in make_trace(prefill, "key").requests} == {1}


def test_turns_of_a_session_keep_their_pauses(tmp_path: Path) -> None:
    def trace(delay: int) -> Trace:
        entries = [{"session_id": "s", "text": "a", "delay": 7}, {"session_id": "s", "text": "b", "delay": delay}]
        return make_trace(_lines_point(tmp_path, *entries, requests=2, conversation={"think_time": "1 s"}), "key")

    first = trace(1500)
    assert [(r.turn, r.think_s) for r in first.requests if r.phase == "measured"] == [(0, 0.007), (1, 1.5)]
    assert first.notes == ()
    assert first.hash != trace(1501).hash


def test_sharegpt_is_its_first_turn_or_the_whole_conversation(tmp_path: Path) -> None:
    said = [{"from": ("human", "gpt")[n % 2], "value": f"v{n}"} for n in range(6)]
    (tmp_path / "x.json").write_text(json.dumps([{"conversations": said}]))
    given: dict[str, Any] = {"input_tokens": None, "prompts": {"file": str(tmp_path / "x.json")}, "concurrency": 1}
    texts = [str(r.prompt).split()[-1] for r in make_trace(_point(**given), "key").requests]
    assert texts == ["v0"] * 6
    whole = make_trace(_point(**given, conversation={}), "key").requests
    assert [(str(r.prompt).split()[-1], r.turn) for r in whole[1:4]] == [("v0", 0), ("v2", 1), ("v4", 2)]
    short = make_trace(_point(**given, conversation={"turns": 2}), "key").requests
    assert [r.turn for r in short] == [0, 0, 1, 0, 1, 0]


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
