"""Facts of the transport on one request: plain data between the hot path and everything that is done after the run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pytest_llmperf.records import Stamps


@dataclass(frozen=True, slots=True)
class Capture:
    """Read `i` came at `kernel_ns[i]` (0: no stamp from the kernel) and `user_ns[i]`, and held the body
    from the end of the read before up to `ends[i]`.

    Times are nanoseconds of CLOCK_REALTIME; `ended_ns` is when the transport noticed the end. `error` is None when the
    response was received whole, whatever it says.
    """

    sent_ns: int | None
    ended_ns: int
    kernel_ns: tuple[int, ...]
    user_ns: tuple[int, ...]
    ends: tuple[int, ...]
    body: bytes
    status: int | None
    content_type: str
    error: str | None
    cancelled: bool = False
    """Broken off on purpose; `error` says so too."""
    held_ns: int = 0
    connect_ns: int | None = None
    location: str = ""
    """The target of a redirect; empty without one."""

    @property
    def pieces(self) -> list[bytes]:
        """Pieces of the body, one per read."""
        return [self.body[begin:end] for begin, end in pairwise((0, *self.ends))]

    @property
    def has_kernel_stamps(self) -> bool:
        return 0 not in self.kernel_ns

    def read_ns(self, stamps: Stamps) -> tuple[int, ...]:
        """Times of the reads, never of both kinds in one request, because a gap would then hold a lag."""
        return self.kernel_ns if stamps == "kernel" and self.has_kernel_stamps else self.user_ns
