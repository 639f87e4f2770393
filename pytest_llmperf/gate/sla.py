"""Absolute limits: a summary against the plan's SLA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_llmperf.metrics import Summary
from pytest_llmperf.plan import Limit
from pytest_llmperf.units import OPERATORS


@dataclass(frozen=True, slots=True)
class SlaCheck:
    """One limit, and what was measured; a value of None (empty sample) never passes."""

    limit: Limit
    value: float | None
    n: int

    @property
    def ok(self) -> bool:
        return self.value is not None and OPERATORS[self.limit.op](self.value, self.limit.value)

    def describe(self) -> str:
        """One line: quantity, value, limit, n."""
        if self.value is None:
            return (
                f"{self.limit.quantity}: no value (n = {self.n}: no successful request gave one), limit {self._limit}"
            )
        measured = self.limit.quantity.shown(self.value)
        return f"{self.limit.quantity}: {measured}, limit {self._limit}{self._excess()}, n = {self.n}"

    @property
    def _limit(self) -> str:
        return f"{self.limit.op} {self.limit.quantity.shown(self.limit.value, 'g')}"

    def _excess(self) -> str:
        if self.ok or self.value is None or not self.limit.value:
            return ""
        return f" ({self.value / self.limit.value - 1:+.1%})"


def check_sla(limits: Sequence[Limit], summary: Summary) -> tuple[SlaCheck, ...]:
    """Every limit checked, in the plan's order."""
    return tuple(SlaCheck(lim, summary.value(lim.quantity), summary.n(lim.quantity)) for lim in limits)
