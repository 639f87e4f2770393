"""How late the client read a first token that came together with the next, told from the kernel's stamps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from samples import record

from pytest_llmperf.load.client.lateness import Lateness
from pytest_llmperf.load.transport.capture import Capture
from pytest_llmperf.records import RequestRecord

_S = 1_000_000_000
_US = 1_000


def _capture(*reads: tuple[float, float]) -> Capture:
    """Reads by when the kernel had their last byte and how long they then waited, in µs after one second."""
    kernel_ns = tuple(_S + round(kernel * _US) if kernel else 0 for kernel, _ in reads)
    user_ns = tuple(_S + round((kernel + lag) * _US) for kernel, lag in reads)
    return Capture(_S, _S, kernel_ns, user_ns, (0,) * len(reads), b"", 200, "text/event-stream", None)


def _record(index: int, *chunks_us: float) -> RequestRecord:
    together = sum(count for count in Counter(chunks_us).values() if count > 1)
    times = tuple(_S + round(chunk * _US) for chunk in chunks_us)
    return record(index=index, chunk_ns=times, coalesced_chunks=together)


def _told_of_all(requests: Sequence[tuple[Capture, RequestRecord]]) -> list[tuple[int, ...]]:
    lateness = Lateness()
    for capture, own in requests:
        lateness.add(capture, own)
    return [own.shared_late_ns for own in lateness.added_to([own for _, own in requests])]


def _told(requests: Sequence[tuple[Capture, RequestRecord]]) -> list[int | None]:
    lateness = Lateness()
    for capture, own in requests:
        lateness.add(capture, own)
    return [own.first_late_ns for own in lateness.added_to([own for _, own in requests])]


def test_reads_that_brought_one_token_each_are_not_asked() -> None:
    alone = (_capture((10_000, 500), (20_000, 500)), _record(0, 10_000, 20_000))
    assert _told([alone]) == [None]


def test_a_first_token_that_came_with_the_next_was_as_late_as_the_reads_beside_it() -> None:
    shared = (_capture((20_000, 100), (30_000, 5)), _record(0, 20_000, 20_000, 30_000))
    neighbour = (_capture((11_000, 9_500), (30_000, 5)), _record(1, 11_000, 30_000))
    far_away = (_capture((22_000, 50_000)), _record(2, 22_000))
    assert _told([shared]) == [100 * _US]
    assert _told([shared, neighbour, far_away]) == [9_500 * _US, None, None]


def test_later_tokens_that_share_a_read_do_not_count() -> None:
    later = (_capture((10_000, 5), (30_000, 9_000)), _record(0, 10_000, 30_000, 30_000))
    assert _told([later]) == [None]
    assert _told_of_all([later]) == [(9_000 * _US,) * 2]


def test_chunks_of_several_answers_are_not_asked() -> None:
    capture, own = _capture((30_000, 9_000)), _record(0, 30_000, 30_000)
    assert _told_of_all([(capture, replace(own, chunk_answers=(0, 1)))]) == [()]


def test_nothing_is_told_without_stamps_of_the_kernel() -> None:
    unstamped = (_capture((0, 20_000), (0, 30_000)), _record(0, 20_000, 20_000, 30_000))
    assert _told([unstamped]) == [None]


def test_lags_of_all_reads_that_have_a_stamp() -> None:
    lateness = Lateness()
    assert lateness.lags_us().tolist() == []
    lateness.add(_capture((10_000, 500), (0, 10_000)), _record(0, 10_000))
    lateness.add(_capture((20_000, 700)), _record(1, 20_000))
    np.testing.assert_allclose(lateness.lags_us(), [500, 700])
