"""Lateness of the client's reads on all connections of a load, by the kernel's stamps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.load.transport.capture import Capture
from pytest_llmperf.records import RequestRecord

_AROUND_NS = 1_000_000
"""Reads this close together waited for the same work of the client, or for the same wait for a processor."""


class Lateness:
    """Lateness of every read with a stamp of the kernel. Add each request's, then ask."""

    def __init__(self) -> None:
        self._user_ns: list[NDArray[np.int64]] = []
        self._lags_ns: list[NDArray[np.int64]] = []
        self._shared: dict[int, list[int]] = {}
        """Times of the reads that brought several chunks, one per such chunk; by the request's index."""

    def add(self, capture: Capture, record: RequestRecord) -> None:
        """`record` is what came of `capture`."""
        kernel_ns, user_ns = np.array(capture.kernel_ns, np.int64), np.array(capture.user_ns, np.int64)
        stamped = kernel_ns != 0
        self._user_ns.append(user_ns[stamped])
        self._lags_ns.append((user_ns - kernel_ns)[stamped])
        if record.coalesced_chunks and not record.chunk_answers:
            reads = dict(zip(capture.kernel_ns, capture.user_ns, strict=True))
            counts = Counter(record.chunk_ns)
            self._shared[record.index] = [reads[ns] for ns in record.chunk_ns if counts[ns] > 1 and reads.get(ns)]

    def lags_us(self) -> NDArray[np.float64]:
        """Time that each read waited for us."""
        return np.concatenate(self._lags_ns) / 1e3 if self._lags_ns else np.empty(0)

    def added_to(self, records: Sequence[RequestRecord]) -> Iterator[RequestRecord]:
        """The records, with `first_late_ns` and `shared_late_ns` where they are known."""
        late_ns = self._late_ns() if any(self._shared.values()) else {}
        for record in records:
            shared = tuple([late_ns[read] for read in self._shared.get(record.index, ())])
            if shared:
                first = shared[0] if record.chunk_ns[0] == record.chunk_ns[1] else None
                record = replace(record, first_late_ns=first, shared_late_ns=shared)
            yield record

    def _late_ns(self) -> dict[int, int]:
        """Lateness of the client, in ns, at each read that brought several chunks, by the read's time.

        The read's own lag is that of its last chunk; the wait of its neighbours is nearer to that of its first.
        """
        user_ns, lags_ns = np.concatenate(self._user_ns), np.concatenate(self._lags_ns)
        order = np.argsort(user_ns)
        user_ns, lags_ns = user_ns[order], lags_ns[order]
        reads = np.unique(np.concatenate([np.array(shared, np.int64) for shared in self._shared.values()]))
        begins, ends = (np.searchsorted(user_ns, reads + around) for around in (-_AROUND_NS, _AROUND_NS))
        late = (int(lags_ns[begin:end].max()) for begin, end in zip(begins, ends, strict=True))
        return dict(zip(reads.tolist(), late, strict=True))
