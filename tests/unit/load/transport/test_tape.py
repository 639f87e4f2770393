"""Raw capture: small, bounded, spilled to a file, and read back unchanged."""

from __future__ import annotations

import asyncio
import json
import struct
import tempfile
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.load.answers.interpret import AnswerReader
from pytest_llmperf.load.client.health import stamps_of
from pytest_llmperf.load.trace.trace import PlannedRequest
from pytest_llmperf.load.transport.capture import Capture
from pytest_llmperf.load.transport.tape import Reads, Store, Tape
from pytest_llmperf.records import RequestRecord

NS = 1_800_000_000_000_000_000
PLANNED = PlannedRequest(index=0, phase="measured", due_ns=None, prompt="p", output_tokens=4)


def _chat(text: str) -> bytes:
    event = {
        "id": "chatcmpl-8f3c2b1a9d7e4c5fa0b1c2d3e4f5a6b7",
        "object": "chat.completion.chunk",
        "created": 1755900000,
        "model": "Qwen/QwQ-32B",
        "choices": [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}],
    }
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _stamp(kernel_ns: int) -> bytes:
    """As the kernel gives it; none for 0."""
    return struct.pack("@ll", *divmod(kernel_ns, 10**9)) if kernel_ns else b""


def _record(tape: Tape) -> RequestRecord:
    capture = Capture(NS, NS, *tape.reads(), 200, "text/event-stream", None)
    return AnswerReader().record(capture, PLANNED, "kernel", request_id="id", due_ns=None)


Read = tuple[int, int, bytes]
reads = st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.binary(max_size=40)))


@given(st.lists(st.tuples(st.integers(0, 3), reads), max_size=12), st.integers(0, 200))
def test_tapes_give_back_what_was_read_wherever_it_was_kept(parts: list[tuple[int, list[Read]]], limit: int) -> None:
    """Several tapes that grow in turns, relieved after each."""
    expected: dict[int, list[Read]] = {number: [] for number in range(4)}

    async def play(store: Store, tapes: Sequence[Tape]) -> None:
        for number, more in parts:
            expected[number] += more
            for read in more:
                tapes[number].add(_stamp(read[0]), *read[1:])
            await store.relieve()
            assert store.kept_bytes <= limit

    with Store(limit) as store:
        tapes = [Tape(store) for _ in range(4)]
        asyncio.run(play(store, tapes))
        for number, tape in enumerate(tapes):
            kernel_ns, user_ns, ends, body = tape.reads()
            pieces = [body[begin:end] for begin, end in pairwise((0, *ends))]
            assert list(zip(kernel_ns, user_ns, pieces, strict=True)) == expected[number]
            assert tape.count == len(expected[number])
            assert tape.unstamped == sum(kernel_ns == 0 for kernel_ns, _, _ in expected[number])


def test_records_are_the_same_from_memory_and_from_the_file() -> None:
    records = []
    for limit in (0, 1 << 30):
        with Store(limit) as store:
            tape = Tape(store)
            for number in range(50):
                tape.add(_stamp(NS + number), NS + number + 9, _chat(f" t{number}"))
                asyncio.run(store.relieve())
            assert store.kept_bytes == (0 if limit == 0 else len(tape.reads().body) + 50 * (28 + 41))
            records.append(_record(tape))
    assert records[0] == records[1]
    assert len(records[0].chunk_ns) == 50


def test_a_chunk_of_a_chat_takes_less_than_300_bytes() -> None:
    chunk = _chat(" token")
    assert 200 <= len(chunk) <= 240
    with Store(1 << 30) as store:
        tracemalloc.start()
        tapes = [Tape(store) for _ in range(20)]
        for number in range(20_000):
            tapes[number % 20].add(_stamp(NS + number), NS + number, bytes(memoryview(chunk)))
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert used / 20_000 < 300


def test_the_file_has_no_name_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that not even a killed process leaves it behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with Store(0) as store:
        Tape(store).add(_stamp(1), 2, b"x")
        asyncio.run(store.relieve())
        assert store.kept_bytes == 0
        assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with Store(0) as store:
        tape = Tape(store)
        tape.add(_stamp(1), 2, b"x")
        with pytest.warns(UserWarning, match="raw capture stays in memory"):
            asyncio.run(store.relieve())
        asyncio.run(store.relieve())
        assert tape.reads() == Reads((1,), (2,), (1,), b"x")


def test_stamps_are_the_kernels_only_when_every_read_has_one() -> None:
    with Store(1 << 20) as store:
        whole, broken = Tape(store), Tape(store)
        assert stamps_of([whole]) == "user"
        whole.add(_stamp(1), 2, b"")
        broken.add(b"", 2, b"")
        assert stamps_of([whole]) == "kernel"
        assert stamps_of([whole, broken]) == "user"
