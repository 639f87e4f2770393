"""Loads that isolate one phase, over the length of the prompt: how prefill and decode scale. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_llmperf.definitions import parse_quantity
from pytest_llmperf.metrics.result import Result

COLUMNS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "prefill": (
        ("TTFT p50 ms", "ttft_p50"),
        ("TTFT p99 ms", "ttft_p99"),
        ("prefill tok/s", "prefill_throughput_per_user"),
    ),
    "decode": (
        ("ITL p50 ms", "itl_p50"),
        ("ITL p99 ms", "itl_p99"),
        ("decode tok/s/user", "output_token_throughput_per_user"),
    ),
}
"""Of each phase: header and quantity."""

_LENGTH = re.compile(r"-in\d+")


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One prompt length; `values` are the phase's quantities, None where there was no sample."""

    input_tokens: int
    """As the plan asks for."""
    valid: bool
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one load on one server, by prompt length."""

    server: str
    load: str
    """Name of the load, other swept values included."""
    phase: Literal["prefill", "decode"]
    environment: str
    points: tuple[CurvePoint, ...]


def curves(measured: Sequence[tuple[str, Result]]) -> tuple[Curve, ...]:
    """One per test function, server and load with a `phase`, from (test id, result); only prompts of one length."""
    grouped: dict[tuple[str, ...], list[Result]] = {}
    for test, result in measured:
        if result.load.phase and isinstance(result.load.input_tokens, int):
            grouped.setdefault(_key(test, result), []).append(result)
    return tuple(itertools.chain.from_iterable(map(_curve, grouped.values())))


def _key(test: str, result: Result) -> tuple[str, ...]:
    return test.partition("[")[0], result.environment.slug, result.server.name, _load_name(result)


def _load_name(result: Result) -> str:
    return _LENGTH.sub("", result.load.name)


def _length(result: Result) -> int:
    asked = result.load.input_tokens
    return asked if isinstance(asked, int) else 0


def _curve(results: Sequence[Result]) -> Iterator[Curve]:
    first = results[0]
    if first.load.phase is None:
        return
    names = [name for _, name in COLUMNS[first.load.phase]]
    points = [
        CurvePoint(_length(r), r.valid, {name: r.metrics.value(parse_quantity(name)) for name in names})
        for r in sorted(results, key=_length)
    ]
    yield Curve(first.server.name, _load_name(first), first.load.phase, first.environment.slug, tuple(points))
