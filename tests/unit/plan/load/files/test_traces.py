"""Recorded traces, as their publishers write them."""

from __future__ import annotations

import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.trace.trace import make_trace, marked_prompt
from pytest_llmperf.plan.load.files.traces import RecordedTrace, TraceEntry, parse_trace, read_trace
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.shapes import TraceReplay

MOONCAKE = """\
{"timestamp": 2, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 3, 4, 5, 6, 7, 8, 9, 1, 2, 0, 11, 12]}
{"timestamp": 3055, "input_length": 1200, "output_length": 26, "hash_ids": [46, 47, 2358]}
"""
BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,0,417,Conversation log
185.5,GPT-4,1360,647,2007,API log
"""
AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:04.0,110,27
"""
AZURE_2024 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01.009930+00:00,2399,6
"""


def _recorded(text: str, kind: str, **changes: Any) -> RecordedTrace:
    given = TraceReplay.model_validate({"file": "t", "format": kind} | changes)
    return parse_trace(io.StringIO(text, newline=""), given)


def _parse(text: str, kind: str, **changes: Any) -> tuple[TraceEntry, ...]:
    return _recorded(text, kind, **changes).entries


def _lines(*entries: dict[str, Any]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def _request(timestamp: Any, **more: Any) -> dict[str, Any]:
    return {"timestamp": timestamp, "input_length": 100, "output_length": 4} | more


@pytest.mark.parametrize(
    ("text", "kind", "entries"),
    [
        (
            MOONCAKE,
            "mooncake",
            [(0, 6955, 52, (46, 47, 3, 4, 5, 6, 7, 8, 9, 1, 2, 0, 11, 12)), (3.053, 1200, 26, (46, 47, 2358))],
        ),
        (BURSTGPT, "burstgpt", [(0, 472, 18, ()), (40, 1087, 230, ()), (180.5, 1360, 647, ())]),
        (AZURE, "azure", [(0, 4808, 10, ()), (0.02004, 110, 27, ()), (0.052, 3180, 8, ())]),
        (AZURE_2024, "azure", [(0, 2162, 5, ()), (1, 2399, 6, ())]),
    ],
    ids=["mooncake", "burstgpt", "azure 2023", "azure 2024"],
)
def test_a_trace_in_order_of_time(text: str, kind: str, entries: list[tuple[Any, ...]]) -> None:
    found = _parse(text, kind)
    assert [(e.input_tokens, e.output_tokens, e.blocks) for e in found] == [entry[1:] for entry in entries]
    assert [e.due_s for e in found] == pytest.approx([entry[0] for entry in entries], abs=1e-5)


def test_scale_and_limit() -> None:
    assert [(e.due_s, e.input_tokens) for e in _parse(BURSTGPT, "burstgpt", limit=2, time_scale=0.5)] == [
        (0, 472),
        (20, 1087),
    ]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", "mooncake", "t:1: the trace holds no request"),
        ("\n{\n", "mooncake", "t:2: Expecting property name"),
        ("[1]\n", "mooncake", "t:1: not a JSON object: [1]"),
        ("[" * 100_000, "mooncake", "t:1: nested too deeply"),
        ('{"timestamp": 1, "timestamp": 2}', "mooncake", 't:1: the key "timestamp" is given twice'),
        ('{"timestamp": 1, "input_length": 2}', "mooncake", "t:1: output_length is missing"),
        (_lines(_request(1, output_length=None)), "mooncake", "t:1: output_length: null is not a number"),
        (_lines(_request(1, input_length=0)), "mooncake", "t:1: input_length: 0 is not a number of tokens"),
        (_lines(_request(1, input_length=1e12)), "mooncake", "t:1: input_length: 1000000000000.0 tokens are more than"),
        (_lines(_request(1, output_length=True)), "mooncake", "t:1: output_length: true is not a number"),
        (
            _lines(_request(1, hash_ids=[1.5])),
            "mooncake",
            "t:1: hash_ids: a list of whole numbers is needed, given [1.5",
        ),
        (_lines(_request(1, hash_ids=["a"])), "mooncake", "t:1: hash_ids: a list of whole numbers is needed"),
        (_lines(_request(1, hash_ids=7)), "mooncake", "t:1: hash_ids: a list of whole numbers is needed, given 7"),
        (_lines(_request(0), _request(float("nan"))), "mooncake", "t:2: NaN is no JSON number"),
        (_lines(_request("nan")), "mooncake", 't:1: timestamp: "nan" is not a number'),
        (_lines(_request("2024-05-10T00:00:00")), "mooncake", 't:1: timestamp: "2024-05-10T00:00:00" is not a number'),
        (_lines(_request(10**400)), "mooncake", "t:1: timestamp: 1000"),
        (_lines(_request(1), _request(4e10)), "mooncake", "t:2: due 463 days after the first request (line 1), more"),
        (_lines(_request(1), _request(None, delay=5)), "mooncake", "t:2: timestamp is missing: a turn that comes"),
        (_lines({"timestamp": 1, "text_input": " ", "output_length": 1}), "mooncake", "t:1: text_input: a text that"),
        (MOONCAKE, "burstgpt", "t:1: no column 'Timestamp', 'Request tokens'"),
        (AZURE, "burstgpt", "t:1: no column 'Timestamp', 'Request tokens', 'Response tokens', or several; the columns"),
        (
            AZURE.replace("Context", "Generated"),
            "azure",
            "t:1: no column 'ContextTokens', 'GeneratedTokens', or several",
        ),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,4808\n", "azure", "t:2: 2 columns, the header"),
        (AZURE.replace("3180", "3,180"), "azure", "t:3: 4 columns, the header has 3"),
        (AZURE.replace("3180", '"3180'), "azure", "t:4: not CSV: unexpected end of data"),
        (AZURE.replace("3180", "many"), "azure", 't:3: ContextTokens: "many" is not a number'),
        (AZURE.replace("3180", "1.5"), "azure", 't:3: ContextTokens: "1.5" is not a number of tokens'),
        (AZURE.replace("3180", "inf"), "azure", 't:3: ContextTokens: "inf" is not a number'),
        (AZURE.replace(",8\n", ",0\n"), "azure", 't:3: GeneratedTokens: "0" is not a number of tokens'),
        (AZURE.replace("2023-11-16 18:17:04.0,", "noon,"), "azure", 't:4: TIMESTAMP: "noon" is not a date and time'),
        (BURSTGPT.replace("185.5", "noon"), "burstgpt", 't:5: Timestamp: "noon" is not a number'),
        (BURSTGPT.replace("1087", "0"), "burstgpt", 't:3: Request tokens: "0" is not a number of tokens'),
    ],
)
def test_a_mistake_and_its_line(text: str, kind: str, message: str) -> None:
    with pytest.raises(PlanError) as error:
        _parse(text, kind)
    assert str(error.value).startswith(message)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(PlanError, match=r"^nowhere: cannot read the trace: "):
        read_trace(TraceReplay(file="nowhere", format="azure"))


def test_prompts_are_as_long_as_recorded_and_share_the_blocks_that_are_equal(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(MOONCAKE)
    point = LoadPoint(
        name="p", trace=TraceReplay(file=str(tmp_path / "t.jsonl"), format="mooncake"), endpoint="completions"
    )
    trace = make_trace(point, "key")
    assert trace == make_trace(point, "key")
    assert [request.output_tokens for request in trace.requests] == [52, 26]
    one, two = (str(marked_prompt(request, "run 0")).split(" ") for request in trace.requests)
    assert (len(one), len(two)) == (6955, 1200)
    assert one[:1024] == two[:1024]
    assert one[1024:1027] != two[1024:1027]
    assert str(marked_prompt(trace.requests[0], "run 1")).split(" ")[:3] != one[:3]
    assert {request.phase for request in trace.requests} == {"measured"}


def test_blocks_of_another_size_are_refused_with_the_size_that_fits() -> None:
    entries = [_request(200 * n, input_length=640, hash_ids=[7, *range(10 * n, 10 * n + 9)]) for n in range(1, 4)]
    with pytest.raises(PlanError) as error:
        _parse(_lines(*entries), "mooncake")
    assert str(error.value) == (
        "t:1: 10 hash_ids for input_length 640, which takes 2 in blocks of 512 tokens (so it is in 3 of 3 lines with "
        "hash_ids); blocks of 64 to 71 tokens would fit every line: is it `block_tokens: 64`?"
    )
    assert len(_parse(_lines(*entries), "mooncake", block_tokens=64)) == 3


@pytest.mark.parametrize(
    ("lengths", "advice"),
    [
        ([(2000, 1)], "blocks of 2000 or more tokens would fit every line: is it `block_tokens: 2048`?"),
        ([(1000, 10), (90, 1)], "blocks of 100 to 111 tokens would fit every line: is it `block_tokens: 100`?"),
        ([(33, 3), (16, 1)], "blocks of 16 tokens would fit every line: is it `block_tokens: 16`?"),
        ([(600, 2), (600, 6)], "no size of a block fits every line"),
        ([(10, 1), (2, 5)], "no size of a block fits every line"),
        ([(1, 2)], "no size of a block fits every line"),
    ],
)
def test_what_size_of_a_block_is_advised(lengths: list[tuple[int, int]], advice: str) -> None:
    entries = [_request(0, input_length=length, hash_ids=list(range(ids))) for length, ids in lengths]
    with pytest.raises(PlanError) as error:
        _parse(_lines(*entries), "mooncake")
    assert str(error.value).endswith(advice)


@given(st.integers(1, 3000), st.lists(st.integers(1, 20_000), min_size=1, max_size=8))
def test_an_advised_size_is_one_that_fits(size: int, lengths: list[int]) -> None:
    entries = [_request(0, input_length=length, hash_ids=list(range(-(-length // size)))) for length in lengths]
    text = _lines(*entries)
    assert len(_parse(text, "mooncake", block_tokens=size)) == len(lengths)
    try:
        _parse(text, "mooncake")
    except PlanError as error:
        advised = int(str(error).rpartition("block_tokens: ")[2].removesuffix("`?"))
        assert len(_parse(text, "mooncake", block_tokens=advised)) == len(lengths)


def test_as_much_is_shared_as_was_recorded(tmp_path: Path) -> None:
    entries = [_request(0, input_length=640, hash_ids=[7, *range(100 * n, 100 * n + 9)]) for n in range(1, 3)]
    (tmp_path / "t.jsonl").write_text(_lines(*entries))
    replay = TraceReplay(file=str(tmp_path / "t.jsonl"), format="mooncake", block_tokens=64)
    trace = make_trace(LoadPoint(name="p", trace=replay, endpoint="completions"), "key")
    one, two = (str(marked_prompt(request, "run 0")).split(" ") for request in trace.requests)
    assert (len(one), one[:64]) == (640, two[:64])
    assert len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=True)))) < 70


@pytest.mark.parametrize(("unit", "factor"), [(None, 1e-3), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)])
def test_the_unit_of_time(unit: str | None, factor: float) -> None:
    found = _parse(_lines(_request(3), _request("1.0"), _request(-1)), "mooncake", time_unit=unit)
    assert [entry.due_s for entry in found] == pytest.approx([0, 2 * factor, 4 * factor])


def test_epoch_times_count_from_the_first_request() -> None:
    found = _parse(_lines(_request(1_700_000_000_200), _request(1_700_000_000_000)), "mooncake")
    assert [entry.due_s for entry in found] == pytest.approx([0, 0.2])


@pytest.mark.parametrize(
    ("kind", "text", "unit", "doubt"),
    [
        (
            "mooncake",
            _lines(*map(_request, (0, 0.2, 0.4))),
            None,
            "less than 1 ms after the one before: is `time_unit: ms`",
        ),
        ("mooncake", _lines(*map(_request, (0, 0.2, 0.4))), "s", None),
        ("mooncake", _lines(*map(_request, (0, 200_000, 400_000))), None, "a minute or more after the one before"),
        ("mooncake", _lines(*map(_request, (0, 200_000, 400_000))), "us", None),
        ("mooncake", _lines(*map(_request, (0, 0, 0, 3000))), None, None),
        ("mooncake", _lines(_request(0)), None, None),
        ("burstgpt", BURSTGPT.replace("45,Chat", "5.1,Chat"), "ms", "less than 1 ms after"),
        ("azure", AZURE.replace("04.0319600", "03.9799600").replace("04.0", "03.9799600"), None, None),
    ],
)
def test_a_unit_that_is_implausible_is_told(kind: str, text: str, unit: str | None, doubt: str | None) -> None:
    if kind == "burstgpt":
        text = "\n".join(text.splitlines()[:3])
    notes = [note for note in _recorded(text, kind, time_unit=unit).notes if "recorded" in note]
    assert [doubt in note for note in notes] == ([True] if doubt else [])


@pytest.mark.parametrize("keys", [{"format": "azure", "time_unit": "s"}, {"format": "burstgpt", "block_tokens": 16}])
def test_keys_of_other_formats(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"time_unit: has no place|block_tokens: needs `format: mooncake`"):
        TraceReplay.model_validate({"file": "t", **keys})


def test_keys_that_change_nothing_are_told_once() -> None:
    entries = [_request(n * 100, session_id="a", delay=5, priority=None, hash_ids=[]) for n in range(4)]
    found = _recorded(_lines(*entries, _request(900, tools=[1])), "mooncake")
    assert found.notes == ("t: not used: session_id (4 lines), delay (4 lines), tools (1 line)",)
    header = BURSTGPT.replace("Model", "Session ID")
    assert _recorded(header, "burstgpt").notes == (
        "t: not used: Session ID (3 lines), rows without response tokens, which failed (1 line)",
    )


def test_a_recorded_text_is_the_prompt(tmp_path: Path) -> None:
    entries = [{"timestamp": 0, "text_input": "hello you", "output_length": 4}, _request(1000, text_input="and you")]
    (tmp_path / "t.jsonl").write_text("\ufeff" + _lines(*entries))
    point = LoadPoint(name="p", trace=TraceReplay(file=str(tmp_path / "t.jsonl"), format="mooncake"))
    trace = make_trace(point, "key")
    prompts = [str(request.prompt).split(" ", 3)[3] for request in (*trace.warmup, *trace.requests)]
    assert prompts == ["hello you", "hello you", "hello you", "and you"]
    assert trace.notes == (f"{tmp_path / 't.jsonl'}: not used: input_length (1 line)",)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(_lines(_request(0)).encode() + b'{"\xff"}\n')
    with pytest.raises(PlanError, match=r"t:2: not UTF-8 text: byte 0xff$"):
        read_trace(TraceReplay(file=str(tmp_path / "t"), format="mooncake"))


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_llmperf.plan.load.files.traces.LONGEST_LINE", 100)
    (tmp_path / "t").write_text(_lines(_request(0), _request(0, note="x" * 100)))
    with pytest.raises(PlanError, match="t:2: a line of more than 100 bytes"):
        read_trace(TraceReplay(file=str(tmp_path / "t"), format="mooncake"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        key: JSON | st.integers(1, 50)
        for key in ("timestamp", "input_length", "output_length", "hash_ids", "text_input", "delay", "session_id")
    },
)


@given(st.lists(ENTRIES | JSON), st.sampled_from(["s", "ns", None]))
def test_any_json_is_a_trace_or_a_mistake_of_a_line(entries: list[Any], unit: str | None) -> None:
    _read_or_told(_lines(*entries), "mooncake", time_unit=unit)


@given(st.text(), st.sampled_from([MOONCAKE, BURSTGPT, AZURE]), st.integers(0, 300), st.integers(0, 40))
def test_any_damage_is_read_or_a_mistake_of_a_line(damage: str, text: str, at: int, length: int) -> None:
    for kind in ("mooncake", "burstgpt", "azure"):
        _read_or_told(text[:at] + damage + text[at + length :], kind)


def _read_or_told(text: str, kind: str, **changes: Any) -> None:
    try:
        entries, mistake = _parse(text, kind, **changes), ""
    except PlanError as error:
        entries, mistake = (), str(error)
    assert entries or re.match(r"t:\d+: ", mistake)
    assert all(entry.due_s >= 0 and entry.output_tokens >= 1 for entry in entries)
