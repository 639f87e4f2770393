"""Limits of an SLA as a plan writes them: `ttft_p99: "<= 500 ms"`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from pytest_llmperf.definitions import Quantity, parse_quantity
from pytest_llmperf.plan.fields import Frozen, entry
from pytest_llmperf.units import Op, parse_limit

_COUNTS = ("requests", "in flight")
"""Suffixes of limits on a capacity that is a concurrency and no rate."""


class Limit(Frozen):
    """One absolute limit of an SLA; `value` in the metric's unit."""

    metric: str
    stat: str | None
    op: Op
    value: float

    @property
    def quantity(self) -> Quantity:
        return Quantity(self.metric, self.stat)

    def __str__(self) -> str:
        return f"{self.quantity} {self.op} {self.quantity.shown(self.value, 'g')}"


def _limit(name: str, given: object) -> Limit:
    quantity = parse_quantity(name)
    if name == "capacity" and str(given).rstrip().endswith(_COUNTS):
        quantity = Quantity("capacity_concurrency")
    op, value = parse_limit(quantity.unit, given)
    wrong = {"lower": (">", ">="), "higher": ("<", "<="), "neither": ()}[quantity.better]
    if op in wrong:
        right = op.translate(str.maketrans("<>", "><"))
        raise ValueError(f"{given!r}: {quantity.better} is better for {name}, so its limit is written {right}")
    return Limit(metric=quantity.metric, stat=quantity.stat, op=op, value=value)


def parse_limits(given: Mapping[Any, object]) -> tuple[Limit, ...]:
    """Limits by quantity, as a plan writes them; ValueError says which entry is wrong."""
    limits = []
    for name, value in given.items():
        with entry(str(name)):
            limits.append(_limit(str(name), value))
    return tuple(limits)


def _limits(given: object) -> object:
    return parse_limits(given) if isinstance(given, Mapping) else given


Sla = Annotated[
    tuple[Limit, ...],
    BeforeValidator(_limits),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string", "examples": ["<= 500 ms"]}}),
]
