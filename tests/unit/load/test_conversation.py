"""Conversations and the other endpoints on a real socket: histories, think time, failures between turns."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from samples import HEALTH, MS, START_NS
from samples import record as made_record
from scripted_server import END, HEAD, Request, Script, Scripted, chunk, serve

from pytest_llmperf.load import driver
from pytest_llmperf.load.driver import run_load
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.loops.slots import WorkerShare
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.load.workers import part_of
from pytest_llmperf.metrics.summary import run_window
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import Run


def _point(**changes: Any) -> LoadPoint:
    given: dict[str, Any] = {
        "name": "p",
        "input_tokens": 8,
        "output_tokens": 2,
        "concurrency": 1,
        "requests": 3,
        "conversation": {"turns": 3},
    }
    return LoadPoint(**(given | changes))


def _run(script: Script, point: LoadPoint, run_index: int = 0) -> tuple[Run, Scripted]:
    async def main() -> tuple[Run, Scripted]:
        async with serve(script) as server:
            trace = make_trace(point, "key")
            return await run_load((Target(server.url, "m"),), point, trace, run_index=run_index), server

    return asyncio.run(main())


def _chat(text: str, finish_reason: str | None = None) -> bytes:
    event = {"choices": [{"delta": {"content": text}, "finish_reason": finish_reason}]}
    return chunk(b"data: " + json.dumps(event).encode() + b"\n\n")


async def _number(request: Request) -> None:
    await request.send(HEAD, _chat("answer "), _chat(str(request.number), "stop"), END)


def test_every_turn_has_the_real_history() -> None:
    run, server = _run(_number, _point())
    assert [record.error for record in run.records] == [None] * 4
    assert [(record.conversation, record.turn) for record in run.records] == [(0, 0), (1, 0), (1, 1), (1, 2)]
    first, second, third = [request.body["messages"] for request in server.requests[1:]]
    assert [message["role"] for message in third] == ["user", "assistant"] * 2 + ["user"]
    assert third[:3] == second
    assert second[0] == first[0]
    assert [message["content"] for message in third[1::2]] == ["answer 1", "answer 2"]
    assert {len(message["content"].split()) for message in third[::2]} == {8}
    assert len({message["content"] for message in third[::2]}) == 3


def test_reasoning_is_not_part_of_the_history() -> None:
    async def script(request: Request) -> None:
        event = {"choices": [{"delta": {"reasoning_content": "hm"}}]}
        await request.send(HEAD, chunk(b"data: " + json.dumps(event).encode() + b"\n\n"), _chat("yes", "stop"), END)

    _, server = _run(script, _point(requests=2))
    assert server.requests[-1].body["messages"][1] == {"role": "assistant", "content": "yes"}


def test_runs_differ_in_the_mark_of_the_first_turn_only() -> None:
    one, two = (_run(_number, _point(), index)[1].requests[-1].body["messages"][::2] for index in (0, 1))
    assert one[0] != two[0]
    assert one[1:] == two[1:]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleeps of more than a second, which take no time."""
    found: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds > 1:
            found.append(seconds)
            seconds = 0
        await sleep(seconds)

    monkeypatch.setattr(driver.asyncio, "sleep", noted)
    return found


def test_users_think_between_turns(pauses: list[float]) -> None:
    """The pause counts from the answer's end: preparing the next turn is part of it."""
    run, _ = _run(_number, _point(conversation={"turns": 3, "think_time": "90 s"}, requests=6))
    assert [record.error for record in run.records] == [None] * 7
    assert len(pauses) == 4
    assert all(80 < pause <= 90 for pause in pauses)


def test_turns_of_a_file_come_after_their_own_pauses_and_ask_for_their_own_lengths(
    pauses: list[float], tmp_path: Path
) -> None:
    rows = [{"text": "a"}, {"text": "b", "delay": 50_000, "max_tokens": 7}, {"text": "c", "priority": 1}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"session_id": 5} | row) + "\n" for row in rows))
    prompts = {"prompts": {"file": str(tmp_path / "x.jsonl")}, "conversation": {"think_time": "90 s"}}
    run, server = _run(_number, _point(input_tokens=None, **prompts))
    assert [request.body["max_tokens"] for request in server.requests[1:]] == [2, 7, 2]
    assert [request.body["messages"][-1]["content"].split()[-1] for request in server.requests[1:]] == ["a", "b", "c"]
    assert [pause > 60 for pause in pauses] == [False, True]
    assert run.notes[-1].endswith("x.jsonl: not used: priority (1 line)")


def test_each_user_has_one_connection_and_one_request_in_flight() -> None:
    run, server = _run(_number, _point(concurrency=3, requests=18))
    assert server.connections == 3
    assert len(run.records) == len(server.requests) == (1 + 2 + 3) + 18
    assert all(record.error is None for record in run.records)


def test_a_turn_that_fails_ends_its_conversation_and_the_user_goes_on() -> None:
    async def script(request: Request) -> None:
        if request.number == 2:
            body = b'{"error": "busy"}'
            head = b"HTTP/1.1 503 Busy\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            await request.send(head + body)
        else:
            await _number(request)

    run, server = _run(script, _point(requests=6, conversation={"turns": 3}))
    errors = [(record.turn, record.error) for record in run.records]
    assert errors[1:4] == [(0, None), (1, "HTTP 503: busy"), (2, "not sent: turn 2 of its conversation failed")]
    assert [error for _, error in errors[4:]] == [None] * 3
    assert run.records[3].sent_ns is None
    assert len(server.requests) == 6


def test_turns_after_a_cancelled_one_are_cancelled_too() -> None:
    async def script(request: Request) -> None:
        if request.number == 0:
            await _number(request)
        else:
            await request.send(HEAD, _chat("a"))
            await request.reader.read()

    run, _ = _run(script, _point(cancel={"share": 1.0, "after": "20 ms"}))
    assert [(record.cancelled, record.error) for record in run.records] == [(False, None)] + [(True, None)] * 3
    assert [record.sent_ns is None for record in run.records] == [False, False, True, True]


def test_turns_after_a_refused_one_have_failed_though_the_load_broke_its_body_off() -> None:
    async def script(request: Request) -> None:
        if request.number == 0:
            await _number(request)
        else:
            await request.send(HEAD.replace(b"200 OK", b"500 Internal Server Error"))
            await request.reader.read()

    run, _ = _run(script, _point(cancel={"share": 1.0, "after": "20 ms"}))
    assert [(record.cancelled, record.error is None) for record in run.records] == [(False, True)] + [
        (False, False)
    ] * 3


def test_window_ends_when_the_first_user_has_nothing_left() -> None:
    """Conversation 2 is begun last, at 40 ms; the user of conversation 1 ends at 65, that of 2 has turns until 90."""

    def turn(conversation: int, turn: int, sent_ms: float, end_ms: float) -> Any:
        return made_record(sent_ms, (end_ms,), conversation=conversation, turn=turn)

    records = (turn(0, 0, 0, 20), turn(0, 1, 20, 40), turn(1, 0, 5, 30), turn(1, 1, 35, 65))
    records += (turn(2, 0, 40, 60), turn(2, 1, 70, 90))
    window = run_window(Run(0, START_NS, START_NS, "t", records, HEALTH), _point(concurrency=2, requests=6))
    assert window is not None
    assert (window.start_ns - START_NS, window.end_ns - START_NS) == (0, 65 * MS)


RESPONSES = [
    b'event: response.created\ndata: {"type": "response.created", "response": {"usage": null}}\n\n',
    b'event: response.output_text.delta\ndata: {"type": "response.output_text.delta", "delta": "a"}\n\n',
    b'event: response.output_text.delta\ndata: {"type": "response.output_text.delta", "delta": "b"}\n\n',
    b'event: response.incomplete\ndata: {"type": "response.incomplete", "response": {"incomplete_details": '
    b'{"reason": "max_output_tokens"}, "usage": {"input_tokens": 8, "output_tokens": 2}}}\n\n',
]
GENERATE = [
    b'data: {"model_name":"m","model_version":"1","text_output":"a"}\n\n',
    b'data: {"model_name":"m","model_version":"1","text_output":"b"}\n\n',
    b'data: {"model_name":"m","model_version":"1","text_output":""}\n\n',
]


@pytest.mark.parametrize(
    ("endpoint", "path", "key", "events", "source"),
    [
        ("responses", "/v1/responses", "input", RESPONSES, "usage"),
        ("generate", "/v2/models/m/generate_stream", "text_input", GENERATE, "chunks"),
    ],
)
def test_endpoint_on_the_wire(endpoint: str, path: str, key: str, events: list[bytes], source: str) -> None:
    async def script(request: Request) -> None:
        await request.send(HEAD, *map(chunk, events), END)

    run, server = _run(script, _point(endpoint=endpoint, conversation=None, concurrency=2, requests=6))
    assert [record.error for record in run.records] == [None] * 8
    assert {(record.output_tokens, record.token_source) for record in run.records} == {(2, source)}
    assert all(request.head.startswith(f"POST {path} HTTP/1.1\r\n") for request in server.requests)
    assert {len(request.body[key].split()) for request in server.requests} == {8}


def test_requested_lengths_are_those_drawn() -> None:
    point = _point(conversation=None, output_tokens={"mean": 20, "sd": 5}, requests=8)
    run, server = _run(_number, point)
    asked = [record.requested_output_tokens for record in run.records]
    assert len(set(asked)) > 2
    assert [request.body["max_tokens"] for request in server.requests] == asked
    assert [request.body["min_tokens"] for request in server.requests] == asked


def test_a_conversation_stays_with_one_worker_process() -> None:
    trace = make_trace(_point(concurrency=4, requests=24), "key")
    parts = [part_of(trace, WorkerShare(number, 3)).requests for number in range(3)]
    assert sorted(request.index for part in parts for request in part) == [r.index for r in trace.requests]
    assert [{request.conversation % 3 for request in part} for part in parts] == [{0}, {1}, {2}]
