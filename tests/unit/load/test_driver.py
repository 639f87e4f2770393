"""The driver against scripted servers on a real socket: what a server does wrong ends as a record, never as a crash."""

from __future__ import annotations

import asyncio
import gc
import gzip
import resource
import signal
import socket
import ssl
import zlib
from pathlib import Path
from typing import Any

import pytest
from scripted_server import END, HEAD, Request, Script, Scripted, chunk, listen, serve

from pytest_llmperf.errors import ClientError, ServerError
from pytest_llmperf.load import driver
from pytest_llmperf.load.driver import run_load, warm_batch, warm_up
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.loops.sender import Sender
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.load.transport import connection
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import Run

TOKEN = b'data: {"choices": [{"index": 0, "text": "a", "finish_reason": null}]}\n\n'
LAST = b'data: {"choices": [{"index": 0, "text": "b", "finish_reason": "length"}]}\n\ndata: [DONE]\n\n'


ANSWER = HEAD + chunk(TOKEN) + chunk(LAST) + END


def _point(**changes: Any) -> LoadPoint:
    given: dict[str, Any] = {
        "name": "p",
        "endpoint": "completions",
        "input_tokens": 8,
        "output_tokens": 2,
        "concurrency": 1,
        "requests": 2,
        "ignore_eos": False,
    }
    return LoadPoint(**(given | changes))


def _open(**changes: Any) -> LoadPoint:
    return _point(**({"concurrency": None, "request_rate": 200.0} | changes))


async def _run(point: LoadPoint, *urls: str, **options: Any) -> Run:
    targets = tuple(Target(url, "m") for url in urls)
    return await run_load(targets, point, make_trace(point, "key"), run_index=0, **options)


def _errors(script: Script, point: LoadPoint) -> list[str | None]:
    async def main() -> Run:
        async with serve(script) as server:
            return await _run(point, server.url)

    return [record.error for record in asyncio.run(main()).records]


async def _answer(request: Request) -> None:
    await request.send(ANSWER)


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> list[Sender]:
    """What each load leaves behind of its connections and prompts."""
    made: list[Sender] = []

    class Kept(Sender):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(driver, "Sender", Kept)
    return made


def test_closed_loop() -> None:
    async def main() -> tuple[Run, Scripted]:
        async with serve(_answer) as server:
            return await _run(_point(concurrency=3, requests=9), server.url), server

    run, server = asyncio.run(main())
    assert [record.error for record in run.records] == [None] * 12
    assert [record.phase for record in run.records] == ["lead-in"] * 3 + ["measured"] * 9
    assert [record.index for record in run.records] == list(range(12))
    assert server.connections == 3
    assert {record.due_ns for record in run.records} == {None}
    assert all(record.output_tokens == 2 for record in run.records)
    assert all(run.started_ns <= (record.sent_ns or 0) < record.end_ns <= run.ended_ns for record in run.records)
    assert run.client.stamps == "kernel"
    assert run.client.connect_ms is not None
    assert run.client.send_late_p50_us is None
    assert run.client.cpu_share is not None
    assert abs(run.client.clock_step_ns) < 1e9


@pytest.mark.parametrize("point", [_point(concurrency=100), _open(requests=3)], ids=["closed", "open"])
def test_too_few_open_files_are_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch, point: LoadPoint) -> None:
    """Not a group of errors: whoever reads it is to see what to do, and no traceback."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (5, 5))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(ClientError, match=r"the hard limit of open files is 5; raise it"):
        asyncio.run(_run(point, "http://127.0.0.1:9"))


def test_at_most_concurrency_requests_are_in_flight_and_the_last_wave_keeps_it() -> None:
    in_flight: list[int] = []
    now = 0

    async def script(request: Request) -> None:
        nonlocal now
        now += 1
        in_flight.append(now)
        await request.send(HEAD, chunk(TOKEN))
        now -= 1
        await request.send(chunk(LAST) + END)

    assert _errors(script, _point(concurrency=4, requests=20)) == [None] * 24
    assert max(in_flight) <= 4


def test_request_on_the_wire() -> None:
    async def main() -> Request:
        async with serve(_answer) as server:
            target = Target(
                server.url + "/v1", "m", (("authorization", "Bearer s3cret"), ("x-request-id", "mine")), True
            )
            point = _point(endpoint="chat", extra_body={"top_p": 0.5})
            await run_load((target,), point, make_trace(point, "key"), run_index=0)
            return server.requests[0]

    request = asyncio.run(main())
    assert request.head.startswith("POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:")
    assert "\r\nAuthorization: Bearer s3cret\r\n" in request.head
    assert request.head.lower().count("x-request-id: mine") == request.head.lower().count("x-request-id") == 1
    assert request.body["model"] == "m"
    assert request.body["top_p"] == 0.5
    assert request.body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert len(request.body["messages"][0]["content"].split(" ")) == 8


@pytest.mark.parametrize(
    ("base", "path", "target"),
    [
        ("/openai/deployments/d?api-version=1", "", "/openai/deployments/d/completions?api-version=1"),
        ("/team", "", "/team/v1/completions"),
        ("/team?k=1", "/other?a=2", "/other?a=2&k=1"),
    ],
)
def test_where_a_request_is_posted(base: str, path: str, target: str) -> None:
    async def main() -> str:
        async with serve(_answer) as server:
            point = _point()
            await run_load((Target(server.url + base, "m", path=path),), point, make_trace(point, "key"), run_index=0)
            return server.requests[0].head

    assert asyncio.run(main()).startswith(f"POST {target} HTTP/1.1\r\n")


def test_an_answer_that_was_compressed_unasked_has_the_times_of_its_reads() -> None:
    """Each token is sent when the one before was received, as only a client that reads piece by piece lets it be."""

    async def script(request: Request) -> None:
        packer = zlib.compressobj(wbits=31)
        await request.send(HEAD.replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1))
        for event in (TOKEN, TOKEN, LAST):
            await request.send(chunk(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)))
            await asyncio.sleep(0.01)
        await request.send(chunk(packer.flush()) + END)

    async def main() -> Run:
        async with serve(script) as server:
            return await _run(_point(), server.url)

    for record in asyncio.run(main()).records:
        assert record.error is None
        assert len(set(record.chunk_ns)) == len(record.chunk_ns) == 3


@pytest.mark.parametrize("kind", [b"TEXT/Event-Stream;charset=UTF-8", b"text/event-stream, text/event-stream", b""])
def test_the_content_type_of_a_stream(kind: bytes) -> None:
    async def script(request: Request) -> None:
        await request.send(ANSWER.replace(b"text/event-stream", kind))

    assert _errors(script, _point()) == [None] * 3


def test_plan_decides_over_the_target_which_chunks_carry_usage() -> None:
    async def main() -> Request:
        async with serve(_answer) as server:
            point = _point(stream_usage="last-chunk")
            await run_load((Target(server.url, "m", (), True),), point, make_trace(point, "key"), run_index=0)
            return server.requests[0]

    assert asyncio.run(main()).body["stream_options"] == {"include_usage": True}


def test_secrets_are_not_shown() -> None:
    assert "s3cret" not in repr(Target("http://h", "m", (("Authorization", "Bearer s3cret"),)))


@pytest.mark.parametrize(("name", "value"), [("A", "b\r\nC: d"), ("A\n", "b"), ("A", "ž")])
def test_header_that_cannot_be_sent(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="characters that a header cannot carry"):
        Target("http://h", "m", ((name, value),))


@pytest.mark.parametrize("url", ["ftp://h", "h:80", "http://ž"])
def test_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError, match="is not an http"):
        Target(url, "m")


def test_runs_send_the_same_prompts_but_for_their_mark() -> None:
    async def main() -> list[list[str]]:
        runs = []
        async with serve(_answer) as server:
            point = _point()
            for index in (0, 1, 1):
                server.requests.clear()
                await run_load((Target(server.url, "m"),), point, make_trace(point, "key"), run_index=index)
                runs.append([request.body["prompt"] for request in server.requests])
        return runs

    first, second, again = asyncio.run(main())
    assert second == again
    assert all(a.split(" ")[:3] != b.split(" ")[:3] for a, b in zip(first, second, strict=True))
    assert [a.split(" ")[3:] for a in first] == [b.split(" ")[3:] for b in second]


def test_slots_are_spread_over_targets() -> None:
    """Each slot has a connection to both, and none is opened while they are measured."""

    async def main() -> tuple[list[int], Run]:
        async with serve(_answer) as one, serve(_answer) as two:
            run = await _run(_point(concurrency=4, requests=12), one.url, two.url)
            return [one.connections, two.connections], run

    connections, run = asyncio.run(main())
    assert connections == [4, 4]
    assert {record.replica for record in run.records} == {0, 1}


def test_open_loop_sends_by_the_clock() -> None:
    async def main() -> Run:
        async with serve(_answer) as server:
            return await _run(_open(requests=20, arrival="poisson"), server.url)

    run = asyncio.run(main())
    assert [record.error for record in run.records] == [None] * 20
    due = [record.due_ns or 0 for record in run.records]
    assert due == sorted(due)
    assert all((record.sent_ns or 0) >= (record.due_ns or 0) - 1000 for record in run.records)
    assert run.client.send_late_p99_us is not None


def test_open_loop_does_not_wait_for_answers() -> None:
    """All requests are in flight before the first is answered, on more connections than were opened before."""
    release = asyncio.Event()
    waiting = 0

    async def script(request: Request) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 60:
            release.set()
        await release.wait()
        await request.send(ANSWER)

    async def main() -> Run:
        async with serve(script) as server:
            return await _run(_open(requests=60, request_rate=300.0, no_data_timeout="60 s"), server.url)

    run = asyncio.run(main())
    assert [record.error for record in run.records] == [None] * 60


def test_closed_connections_are_opened_again_before_new_ones_are_made(senders: list[Sender]) -> None:
    """Four requests at a time are answered together, so that four connections are closed when the next is due."""

    async def main() -> Run:
        together = asyncio.Barrier(4)

        async def script(request: Request) -> None:
            await together.wait()
            await request.send(ANSWER)

        async with serve(script) as server:
            point = _open(requests=20, max_in_flight=4, connection="fresh", no_data_timeout="60 s")
            return await _run(point, server.url)

    assert [record.error for record in asyncio.run(main()).records] == [None] * 20
    assert len(senders[0].connections) <= 4


def _by_time(**changes: Any) -> LoadPoint:
    """A closed loop of 12 requests that goes through its first ones again and again."""
    return _point(concurrency=2, requests=12, ramp={"from": 1, "over": "10 ms"}, **changes)


def test_a_loop_that_goes_by_time_keeps_no_prompt_that_was_sent(
    senders: list[Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_llmperf.load.trace.trace._ENDLESS_REQUESTS", 2)
    errors = _errors(_answer, _by_time())
    assert len(errors) > 12
    assert set(errors) == {None}
    assert len(senders[0].request_bytes.prompts) <= 3


def test_a_warm_loop_that_goes_by_time_sends_what_the_warm_up_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_llmperf.load.trace.trace._ENDLESS_REQUESTS", 2)

    async def main() -> list[str]:
        async with serve(_answer) as server:
            point, targets = _by_time(prefix_cache="warm"), (Target(server.url, "m"),)
            await warm_up(targets, point, make_trace(point, "key"))
            await _run(point, server.url)
            return [request.body["prompt"] for request in server.requests]

    prompts = asyncio.run(main())
    assert len(prompts) > 3 + 12
    assert len(set(prompts[:3])) == 3
    assert set(prompts) == set(prompts[:3])


def test_open_loop_spreads_over_targets() -> None:
    async def main() -> list[int]:
        async with serve(_answer) as one, serve(_answer) as two:
            await _run(_open(requests=10), one.url, two.url)
            return [len(one.requests), len(two.requests)]

    assert asyncio.run(main()) == [5, 5]


SPLITS = {
    "last byte alone": [ANSWER[:-1], ANSWER[-1:]],
    "byte by byte": [ANSWER[i : i + 1] for i in range(len(ANSWER))],
    "terminal chunk alone": [ANSWER[: -len(END)], END],
    "in the terminal chunk": [ANSWER[:-3], ANSWER[-3:]],
    "trailers": [ANSWER[:-2], b"X-Trailer: 1\r\n", b"\r\n"],
    "crlf events": [
        HEAD,
        chunk(TOKEN.replace(b"\n", b"\r\n")),
        chunk(LAST.replace(b"\n", b"\r\n")),
        END,
    ],
    "content-length": [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(TOKEN + LAST),
        TOKEN,
        LAST,
    ],
    "surplus after the end": [ANSWER + b"surplus"],
    "interim response first": [b"HTTP/1.1 103 Early Hints\r\n\r\n", ANSWER],
}


@pytest.mark.parametrize("pieces", SPLITS.values(), ids=SPLITS)
def test_end_of_a_response_is_found_however_it_is_cut(pieces: list[bytes]) -> None:
    """Each piece is a segment of its own: the client has read one before the next is written."""

    async def script(request: Request) -> None:
        for piece in pieces:
            await request.send(piece)
            await request.read_by_client()

    assert _errors(script, _point(no_data_timeout="60 s")) == [None] * 3


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n"])
def test_response_that_ends_with_the_connection(head: bytes) -> None:
    async def script(request: Request) -> None:
        await request.send(head + b"Content-Type: text/event-stream\r\n\r\n" + TOKEN, LAST)
        request.writer.close()

    assert _errors(script, _point()) == [None] * 3


def test_connection_close_is_honoured() -> None:
    async def script(request: Request) -> None:
        await request.send(ANSWER.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        request.writer.close()

    assert _errors(script, _point()) == [None] * 3


def test_stale_connection_is_tried_once_more() -> None:
    """The server closes a kept-alive connection as the next request arrives on it: no fault of that request."""

    async def script(request: Request) -> None:
        if request.number == 1:
            request.writer.close()
        else:
            await request.send(ANSWER)

    assert _errors(script, _point(requests=4)) == [None] * 5


def test_fresh_connection_that_closes_without_an_answer_is_a_failure() -> None:
    async def script(request: Request) -> None:
        request.writer.close()

    assert _errors(script, _point()) == ["connection closed by the server before any response"] * 3


def test_reset() -> None:
    async def script(request: Request) -> None:
        await request.send(HEAD + chunk(TOKEN))
        request.writer.transport.abort()

    errors = _errors(script, _point())
    assert set(errors) <= {"connection reset by peer", "connection closed by the server in the middle of the response"}
    assert len(errors) == 3


def test_disconnect_keeps_the_chunks_before_it() -> None:
    async def script(request: Request) -> None:
        await request.send(HEAD + chunk(TOKEN))
        request.writer.close()

    async def main() -> Run:
        async with serve(script) as server:
            return await _run(_point(), server.url)

    for record in asyncio.run(main()).records:
        assert record.error == "connection closed by the server in the middle of the response"
        assert len(record.chunk_ns) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", "HTTP 503: busy"),
        (HEAD + chunk(TOKEN) + chunk(b'data: {"error": {"message": "boom"}}\n\n') + END, "error in the stream: boom"),
        (HEAD + chunk(TOKEN) + END, "stream ended early: no finish_reason, no [DONE]"),
        (
            b"HTTP/1.1 307 Moved\r\nLocation: https://me:pw@h/v1?key=pw\r\nContent-Length: 0\r\n\r\n",
            "HTTP 307: a redirect to 'https://***@h/v1?…', which is not followed: write it as the URL",
        ),
        (
            HEAD.replace(b"\r\n", b"\r\nContent-Encoding: br\r\n", 1) + chunk(b"?") + END,
            "content-encoding 'br', which nobody asked for: br is not supported (gzip and deflate are); "
            "turn compression off",
        ),
        (
            b"HTTP/1.1 400 No\r\nContent-Encoding: gzip\r\nContent-Length: 23\r\n\r\n" + gzip.compress(b"why", mtime=0),
            "HTTP 400: why",
        ),
        (b"SMTP\r\n\r\n", "malformed HTTP response: not an HTTP/1.1 status line: b'SMTP'"),
        (HEAD + b"zz\r\n\r\n", "malformed HTTP response: not a chunk size: b'zz'"),
    ],
)
def test_bad_answers(answer: bytes, error: str) -> None:
    async def script(request: Request) -> None:
        await request.send(answer)

    assert _errors(script, _point()) == [error] * 3


def test_every_other_request_fails_and_the_rest_does_not() -> None:
    async def script(request: Request) -> None:
        busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
        await request.send(busy if request.number % 2 else ANSWER)

    assert _errors(script, _point(requests=3)) == [None, "HTTP 503: busy", None, "HTTP 503: busy"]


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + chunk(TOKEN), HEAD + chunk(TOKEN)[:-1]])
def test_silence(sent: bytes) -> None:
    async def script(request: Request) -> None:
        await request.send(sent)
        await request.reader.read()

    kind = "no further data" if sent else "no response"
    point = _point(concurrency=3, requests=3, no_data_timeout="0.5 s")
    assert _errors(script, point) == [f"{kind} within 0.5 s (no_data_timeout)"] * 6


def test_silence_in_open_loop() -> None:
    async def script(request: Request) -> None:
        await request.reader.read()

    errors = _errors(script, _open(requests=3, no_data_timeout="0.05 s"))
    assert errors == ["no response within 0.05 s (no_data_timeout)"] * 3


def test_response_that_never_ends() -> None:
    async def script(request: Request) -> None:
        await request.send(HEAD)
        while not request.writer.is_closing():
            await request.send(chunk(TOKEN))
            await asyncio.sleep(0.001)

    async def main() -> Run:
        async with serve(script) as server:
            return await _run(_point(requests=1, read_timeout="0.5 s"), server.url)

    for record in asyncio.run(main()).records:
        assert record.error == "response not complete within 0.5 s (read_timeout)"
        assert record.chunk_ns


def _closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("point", [_point(), _open(requests=3)], ids=["closed", "open"])
def test_refused_connection(point: LoadPoint) -> None:
    run = asyncio.run(_run(point, f"http://127.0.0.1:{_closed_port()}"))
    assert [record.error for record in run.records] == ["no connection: connection refused"] * 3
    assert {record.sent_ns for record in run.records} == {None}
    assert run.client.connect_ms is None
    assert run.client.stamps == "user"


def test_name_that_does_not_resolve() -> None:
    run = asyncio.run(_run(_point(), "http://nowhere.invalid"))
    assert len(run.records) == 3
    assert all((record.error or "").startswith("no connection: ") for record in run.records)


def test_connect_timeout() -> None:
    """A listener whose queue is full answers no SYN."""
    with socket.socket() as listener, socket.socket() as one, socket.socket() as two:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        run = asyncio.run(_run(_point(connect_timeout="0.05 s"), f"http://127.0.0.1:{port}"))
    assert [record.error for record in run.records] == ["no connection within 0.05 s (connect_timeout)"] * 3


def test_large_prompt_is_sent_in_parts() -> None:
    """Larger than the socket buffers, to a server that reads late."""

    async def main() -> tuple[Run, int]:
        async with serve(_answer) as server:
            run = await _run(_point(input_tokens=1_500_000, requests=1), server.url)
            return run, len(server.requests[0].body["prompt"].split(" "))

    run, words = asyncio.run(main())
    assert [record.error for record in run.records] == [None] * 2
    assert words == 1_500_000


def test_early_refusal_of_a_large_prompt_is_read() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\ntoo large")
        await writer.drain()

    async def main() -> Run:
        async with listen(refuse) as url:
            return await _run(_point(input_tokens=1_500_000, requests=1), url)

    assert [record.error for record in asyncio.run(main()).records] == ["HTTP 413: too large"] * 2


def test_cancellation_reaches_every_request_and_hands_over_what_was_measured() -> None:
    reached = asyncio.Event()
    partial: list[Run] = []

    async def script(request: Request) -> None:
        if request.number < 4:
            await request.send(ANSWER)
            return
        await request.send(HEAD + chunk(TOKEN))
        if request.number == 5:
            reached.set()
        await request.reader.read()

    async def main() -> None:
        async with serve(script) as server:
            point = _point(concurrency=2, requests=10)
            task = asyncio.create_task(_run(point, server.url, on_interrupt=partial.append))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    (run,) = partial
    assert [record.error for record in run.records] == [None] * 4 + ["interrupted"] * 2
    assert [len(record.chunk_ns) for record in run.records][:4] == [2] * 4
    assert gc.isenabled()


def test_ctrl_c_in_asyncio_run() -> None:
    partial: list[Run] = []

    async def script(request: Request) -> None:
        await request.send(ANSWER)
        if request.number == 2:
            signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with serve(script) as server:
            await _run(_point(requests=50), server.url, on_interrupt=partial.append)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert 2 <= len(partial[0].records) < 51


def test_garbage_is_not_collected_in_the_window_and_is_afterwards() -> None:
    seen: list[bool] = []

    async def script(request: Request) -> None:
        seen.append(gc.isenabled())
        await request.send(ANSWER)

    _errors(script, _point())
    assert seen == [False] * 3
    assert gc.isenabled()


def test_progress_ends_with_the_totals() -> None:
    calls: list[tuple[int, int, int]] = []

    async def script(request: Request) -> None:
        await request.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n" if request.number == 1 else ANSWER)

    async def main() -> None:
        async with serve(script) as server:
            await _run(_point(), server.url, progress=lambda *numbers: calls.append(numbers))

    asyncio.run(main())
    assert calls[-1] == (3, 3, 1)


def test_warm_up_passes_when_one_request_does() -> None:
    async def script(request: Request) -> None:
        await request.send(ANSWER if request.number else b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\ncold")

    async def main() -> int:
        async with serve(script) as server:
            point = _point(warmup_requests=3)
            await warm_up((Target(server.url, "m"),), point, make_trace(point, "key"))
            return len(server.requests)

    assert asyncio.run(main()) == 3


def test_warm_up_that_fails_says_why() -> None:
    point = _point()
    target = Target(f"http://127.0.0.1:{_closed_port()}", "m")
    with pytest.raises(ServerError, match="every warm-up request failed; the first: no connection: connection refused"):
        asyncio.run(warm_up((target,), point, make_trace(point, "key")))


def test_warm_up_of_an_open_loop_sends_a_few_requests_at_a_time() -> None:
    async def main() -> tuple[int, int]:
        async with serve(_answer) as server:
            point = _open(requests=40, prefix_cache="warm")
            await warm_up((Target(server.url, "m"),), point, make_trace(point, "key"))
            return server.connections, len(server.requests)

    assert asyncio.run(main()) == (16, 40)


def test_warm_up_of_stages_has_as_many_in_flight_as_the_largest() -> None:
    async def main() -> tuple[int, int]:
        async with serve(_answer) as server:
            stages = ({"concurrency": 4, "duration": "1 s"}, {"concurrency": 24, "duration": "1 s"})
            point = _point(concurrency=None, requests=None, stages=stages, warmup_requests=40)
            await warm_up((Target(server.url, "m"),), point, make_trace(point, "key"))
            return server.connections, len(server.requests)

    assert asyncio.run(main()) == (24, 40)


def test_no_request_of_a_warm_up_is_cancelled() -> None:
    async def main() -> list[bool]:
        async with serve(_answer) as server:
            point = _point(requests=4, cancel={"share": 1.0, "after": "1 us"})
            trace = make_trace(point, "key")
            records = await warm_batch((Target(server.url, "m"),), point, trace, count=5, salt="w")
            return [record.ok for record in records]

    assert asyncio.run(main()) == [True] * 5


def test_no_warm_up() -> None:
    point = _point(warmup_requests=0)
    asyncio.run(warm_up((Target("http://127.0.0.1:1", "m"),), point, make_trace(point, "key")))


def test_without_kernel_stamps_the_times_are_user_space_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket option that no kernel has stands for a kernel that refuses the real one."""
    monkeypatch.setattr(connection, "_SO_TIMESTAMPNS", 9999)

    async def main() -> Run:
        async with serve(_answer) as server:
            return await _run(_point(), server.url)

    run = asyncio.run(main())
    assert run.client.stamps == "user"
    assert run.client.receive_lag_p50_us is None
    assert [record.error for record in run.records] == [None] * 3
    assert all((record.sent_ns or 0) < record.chunk_ns[0] <= record.end_ns for record in run.records)


async def _tls_run(certificate: tuple[Path, Path], point: LoadPoint, host: str = "127.0.0.1") -> Run:
    """Against a server that cuts its answer anywhere over TLS records, the last byte in one of its own."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    async def script(request: Request) -> None:
        await request.send(ANSWER[:120], ANSWER[120:-1], ANSWER[-1:])

    async with serve(script, context) as server:
        return await _run(point, server.url.replace("127.0.0.1", host))


@pytest.mark.parametrize("point", [_point(input_tokens=50_000), _open(requests=3)], ids=["closed", "open"])
def test_tls_with_a_trusted_certificate(
    point: LoadPoint, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    run = asyncio.run(_tls_run(certificate, point))
    assert [record.error for record in run.records] == [None] * 3
    assert [len(record.chunk_ns) for record in run.records] == [2] * 3
    assert run.client.stamps == "kernel"
    assert all((record.sent_ns or 0) < record.chunk_ns[0] <= record.end_ns for record in run.records)


@pytest.mark.parametrize(
    ("trusted", "host", "words"),
    [(False, "127.0.0.1", "certificate verify failed"), (True, "localhost", "ostname mismatch")],
)
def test_tls_checks_the_certificate(
    trusted: bool, host: str, words: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    run = asyncio.run(_tls_run(certificate, _point(), host))
    assert {record.sent_ns for record in run.records} == {None}
    assert all((record.error or "").startswith("no connection: ") for record in run.records)
    assert all(words in (record.error or "") for record in run.records)


def test_tls_to_a_server_that_speaks_none() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async def main() -> Run:
        async with listen(handler) as url:
            return await _run(_point(), url.replace("http:", "https:"))

    assert all((record.error or "").startswith("no connection: ") for record in asyncio.run(main()).records)
