"""Sockets of a load are served in any event loop; naps are taken where they pay and harm nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_llmperf.load.transport.reception import LONGEST_NAP_S, Reception, nap_s

needs_epoll = pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll here, so no nap")


@contextlib.contextmanager
def _pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(count)]
        for sock in [sock for pair in pairs for sock in pair]:
            stack.enter_context(sock).setblocking(False)
        yield pairs


@pytest.mark.parametrize(
    ("reads_per_s", "streams", "nap_ms"),
    [
        (25_600, 256, 0.5),  # 10 ms between two tokens of a stream
        (100_000, 1000, 0.5),
        (20_000, 120, 0.3),
        (6_400, 64, 0),  # so few cost little
        (32_000, 64, 0),  # 2 ms between two tokens: two might fall into one nap
        (10_000, 50, 0.25),
        (10_000, 49, 0),
        (0, 0, 0),
    ],
)
def test_naps_are_taken_where_there_are_many_reads_far_apart(reads_per_s: float, streams: int, nap_ms: float) -> None:
    assert nap_s(reads_per_s, streams) == pytest.approx(nap_ms / 1e3)


def test_every_socket_is_read_until_it_is_removed() -> None:
    async def main() -> list[bytes]:
        reception, loop = Reception(), asyncio.get_running_loop()
        seen: list[bytes] = []
        done = loop.create_future()

        def take(data: bytes, *_: object) -> None:
            seen.append(data)
            if len(seen) == 3:
                done.set_result(None)

        with _pairs(4) as pairs:
            for ours, _ in pairs:
                reception.add(ours, take, pytest.fail)
            reception.remove(pairs[3][0])
            for number, (_, theirs) in enumerate(pairs):
                theirs.send(b"%d" % number)
            await done
            reception.remove(pairs[0][0])
            reception.add(pairs[0][0], take, pytest.fail)  # as a connection that is opened again
            for ours, _ in pairs[:3]:
                reception.remove(ours)
            reception.close()
        return sorted(seen)

    assert asyncio.run(main()) == [b"0", b"1", b"2"]


def test_an_error_of_one_socket_is_its_own() -> None:
    async def main() -> tuple[list[bytes], list[OSError]]:
        reception, done = Reception(), asyncio.get_running_loop().create_future()
        seen: list[bytes] = []
        errors: list[OSError] = []

        def take(data: bytes, *_: object) -> None:
            seen.append(data)
            if errors:
                done.set_result(None)

        def fail(error: OSError) -> None:
            errors.append(error)
            reception.remove(bad)
            theirs.send(b"x")

        with _pairs(1) as [(ours, theirs)], socket.create_server(("127.0.0.1", 0)) as server:
            with socket.create_connection(server.getsockname()) as bad:
                bad.setblocking(False)
                other, _ = server.accept()
                other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                other.close()  # resets the connection
                reception.add(ours, take, pytest.fail)
                reception.add(bad, take, fail)
                await asyncio.wait_for(done, 60)
            reception.remove(ours)
            reception.close()
        return seen, errors

    seen, (error,) = asyncio.run(main())
    assert (seen, type(error)) == ([b"x"], ConnectionResetError)


@needs_epoll
def test_what_comes_while_much_is_done_in_one_turn_of_the_loop_is_read_meanwhile() -> None:
    async def main() -> list[bytes]:
        reception, seen = Reception(), list[bytes]()
        with _pairs(1) as [(ours, theirs)]:
            reception.add(ours, lambda data, *_: seen.append(data), pytest.fail)
            theirs.send(b"x")
            while not seen:  # no turn of the event loop is in between
                reception.glance()
            reception.remove(ours)
            reception.close()
        return seen

    assert asyncio.run(main()) == [b"x"]


async def _busy_streams(reception: Reception, *, until: Callable[[], bool]) -> None:
    """Sockets that always have something to read, each in turn, as if 1000 streams shared them."""
    done = asyncio.get_running_loop().create_future()
    reception.streams = 1_000_000
    with _pairs(2) as pairs:
        for ours, theirs in pairs:

            def take(_: bytes, __: object, ___: int, theirs: socket.socket = theirs) -> None:
                theirs.send(b"x")
                if until() and not done.done():
                    done.set_result(None)

            reception.add(ours, take, pytest.fail)
            theirs.send(b"x")
        await asyncio.wait_for(done, 60)
        for ours, _ in pairs:
            reception.remove(ours)
    reception.close()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each was. Nobody sleeps meanwhile, so that a busy machine makes no difference."""
    taken: list[float] = []
    monkeypatch.setattr(time, "sleep", taken.append)
    monkeypatch.setattr("pytest_llmperf.load.transport.reception._PERIOD_S", 0.0)
    monkeypatch.setattr("pytest_llmperf.load.transport.reception._RATE", 1)
    monkeypatch.setattr("pytest_llmperf.load.transport.reception._ENOUGH_READS", 1)
    return taken


@needs_epoll
def test_naps_are_taken_while_tokens_come_thick_and_fast(naps: list[float]) -> None:
    async def main() -> None:
        await _busy_streams(Reception(), until=lambda: len(naps) > 10)

    asyncio.run(main())
    assert set(naps) == {LONGEST_NAP_S}


@needs_epoll
@pytest.mark.parametrize("what", ["due", "shared", "unstamped"])
def test_no_naps_before_a_send_nor_where_times_would_suffer(naps: list[float], what: str) -> None:
    """What is due soon, chunks that share reads, reads without the kernel's stamp."""

    async def main() -> int:
        reception = Reception()
        reads, before = 0, 0

        def on_read() -> bool:
            nonlocal reads, before
            if what == "due":
                reception.due_s = asyncio.get_running_loop().time() + LONGEST_NAP_S
            else:
                setattr(reception, what, getattr(reception, what) + 1)
            reads += 1
            if reads == 50 and what == "shared":  # what shares reads is known a few periods later
                before = len(naps)
            return reads == 1000

        await _busy_streams(reception, until=on_read)
        return before

    expected = asyncio.run(main())
    assert len(naps) == expected
