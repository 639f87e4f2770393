"""How late the client read, of all connections of a load together: what the kernel's stamps tell of ourselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.load.capture import Capture
from pytest_llmperf.records import RequestRecord

_AROUND_NS = 1_000_000
"""Reads this close together waited for the same work of the client, or for the same wait for a processor."""


class Lateness:
    """Of every read with a stamp of the kernel. Add each request's, then ask."""

    def __init__(self) -> None:
        self._user_ns: list[NDArray[np.int64]] = []
        self._lags_ns: list[NDArray[np.int64]] = []
        self._first_shared: dict[int, int] = {}
        """When the read was made that brought a request's first token together with the next, by its index."""

    def add(self, capture: Capture, record: RequestRecord) -> None:
        """`record` is what came of `capture`."""
        kernel_ns, user_ns = np.array(capture.kernel_ns, np.int64), np.array(capture.user_ns, np.int64)
        stamped = kernel_ns != 0
        self._user_ns.append(user_ns[stamped])
        self._lags_ns.append((user_ns - kernel_ns)[stamped])
        first = record.chunk_ns[:2]
        alone = record.prompts == 1 and len(first) == 2
        if alone and first[0] == first[1] and first[0] in capture.kernel_ns:
            self._first_shared[record.index] = capture.user_ns[capture.kernel_ns.index(first[0])]

    def lags_us(self) -> NDArray[np.float64]:
        """How long each read waited for us."""
        return np.concatenate(self._lags_ns) / 1e3 if self._lags_ns else np.empty(0)

    def told(self, records: Sequence[RequestRecord]) -> Iterator[RequestRecord]:
        """The records, with `first_late_ns` where it is known."""
        late_ns = self._first_late_ns() if self._first_shared else {}
        for record in records:
            late = late_ns.get(record.index)
            yield record if late is None else replace(record, first_late_ns=late)

    def _first_late_ns(self) -> dict[int, int]:
        """The read's own lag is that of its last chunk; what its neighbours waited is nearer to what its first did."""
        user_ns, lags_ns = np.concatenate(self._user_ns), np.concatenate(self._lags_ns)
        order = np.argsort(user_ns)
        user_ns, lags_ns = user_ns[order], lags_ns[order]
        return {
            index: int(lags_ns[slice(*np.searchsorted(user_ns, (read_ns - _AROUND_NS, read_ns + _AROUND_NS)))].max())
            for index, read_ns in self._first_shared.items()
        }
