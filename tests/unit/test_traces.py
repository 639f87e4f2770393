"""Recorded traces, as their publishers write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.prompts import make_trace, marked_prompt
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.shapes import TraceReplay
from pytest_llmperf.traces import TraceEntry, parse_trace, read_trace

MOONCAKE = """\
{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, 49, 50]}
{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46, 47, 2358]}
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


def _parse(text: str, kind: str, **changes: Any) -> tuple[TraceEntry, ...]:
    given = TraceReplay.model_validate({"file": "t", "format": kind} | changes)
    return parse_trace(text.splitlines(keepends=True), given)


@pytest.mark.parametrize(
    ("text", "kind", "entries"),
    [
        (MOONCAKE, "mooncake", [(0, 6955, 52, (46, 47, 48, 49, 50)), (3.053, 6472, 26, (46, 47, 2358))]),
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
        ("[1]\n", "mooncake", "t:1: not a JSON object"),
        ('{"timestamp": 1, "input_length": 2}', "mooncake", "t:1: output_length: None is not a number"),
        ('{"timestamp": 1, "input_length": 0, "output_length": 1}', "mooncake", "t:1: input_length: 0 is not a number"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 1, "hash_ids": [1.5]}', "mooncake", "t:1: hash_ids: [1"),
        (MOONCAKE, "burstgpt", "t:1: no column 'Timestamp', 'Request tokens', 'Response tokens'; the columns are"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,4808\n", "azure", "t:2: the row is too short"),
        (AZURE.replace("3180", "many"), "azure", "t:3: ContextTokens: 'many' is not a number"),
        (AZURE.replace("3180", "1.5"), "azure", "t:3: ContextTokens: '1.5' is not a number of tokens"),
        (AZURE.replace("3180", "inf"), "azure", "t:3: ContextTokens: 'inf' is not a number"),
        (BURSTGPT.replace("185.5", "noon"), "burstgpt", "t:5: Timestamp: 'noon' is not a number"),
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
    assert (len(one), len(two)) == (6955, 6472)
    assert one[:1024] == two[:1024]
    assert one[1024:1536] != two[1024:1536]
    assert str(marked_prompt(trace.requests[0], "run 1")).split(" ")[:3] != one[:3]
    assert {request.phase for request in trace.requests} == {"measured"}
