"""How long an exchange may take, and be silent: what every transport asks now and then."""

from __future__ import annotations


class Patience:
    """Of one connection; times are seconds of the event loop's clock."""

    __slots__ = ("_quiet_since_s", "_reads_seen", "_started_s")

    def __init__(self) -> None:
        self.begin(0.0)

    def begin(self, now_s: float) -> None:
        """An exchange has begun."""
        self._started_s = self._quiet_since_s = now_s
        self._reads_seen = 0

    def overdue(self, now_s: float, reads: int, *, no_data_s: float, whole_s: float) -> str | None:
        """Which limit is past, with `reads` reads so far; None while there is time."""
        if reads != self._reads_seen:
            self._reads_seen, self._quiet_since_s = reads, now_s
        elif now_s - self._quiet_since_s > no_data_s:
            what = "no further data" if reads else "no response"
            return f"{what} within {no_data_s:g} s (no_data_timeout)"
        if now_s - self._started_s > whole_s:
            return f"response not complete within {whole_s:g} s (read_timeout)"
        return None
