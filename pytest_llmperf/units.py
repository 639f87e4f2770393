"""Values with units, as people write them in a plan: `500 ms`, `<= 6 s`, `>= 140 tok/s`, `5 %`, `10:60:10`.

Every function raises ValueError with what was given and what is allowed; the plan's loader adds file and line.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Literal

_NUMBER = r"(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_QUANTITY = re.compile(rf"^\s*{_NUMBER}\s*(?P<unit>[^\s\d].*?)?\s*$")
_LIMIT = re.compile(rf"^\s*(?P<op><=|>=|<|>)\s*{_NUMBER}\s*(?P<unit>\S.*?)?\s*$")

_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "min": 60e3, "h": 3600e3}
_UNITS: dict[str, dict[str, float]] = {
    "ms": _MILLISECONDS,
    "tok/s": {"tok/s": 1.0, "tokens/s": 1.0, "token/s": 1.0, "ktok/s": 1e3},
    "req/s": {"req/s": 1.0, "requests/s": 1.0, "rps": 1.0, "/s": 1.0},
    "ratio": {"": 1.0, "%": 0.01},
    "tokens": {"": 1.0, "tokens": 1.0, "tok": 1.0},
    "requests": {"": 1.0, "requests": 1.0},
}

Op = Literal["<=", ">=", "<", ">"]
OPERATORS: dict[Op, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


def _scaled(number: str, unit: str | None, kind: str, given: object) -> float:
    units = _UNITS[kind]
    scale = units.get(unit or "")
    if scale is None:
        allowed = ", ".join(f"{number} {u}".strip() for u in units)
        problem = f"unknown unit {unit!r}" if unit else "no unit"
        raise ValueError(f"{given!r} has {problem}; write it as one of: {allowed}")
    return float(number) * scale


def parse_quantity_of(kind: str, value: object) -> float:
    """`value` in the unit `kind` ("ms", "tok/s", "req/s", "ratio", …); a bare number only where no unit is needed."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number with a unit")
    match = _QUANTITY.match(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a number with a unit, such as {_example(kind)!r}")
    return _scaled(match["number"], match["unit"], kind, value)


def _example(kind: str) -> str:
    return f"10 {next(iter(_UNITS[kind]))}".strip() if kind != "ms" else "500 ms"


def parse_seconds(value: object) -> float:
    """A positive duration with its unit, in seconds."""
    seconds = parse_quantity_of("ms", value) / 1e3
    if seconds <= 0:
        raise ValueError(f"{value!r} must be more than 0")
    return seconds


def parse_rate(value: object) -> float:
    """A positive request rate per second; a bare number is taken as req/s."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value} req/s"
    rate = parse_quantity_of("req/s", value)
    if rate <= 0:
        raise ValueError(f"{value!r} must be more than 0")
    return rate


def parse_ratio(value: object) -> float:
    """A share: `5 %` or `0.05`."""
    return parse_quantity_of("ratio", value)


def parse_limit(kind: str, value: object) -> tuple[Op, float]:
    """`<= 6 s` -> ("<=", 6000.0) for kind "ms"."""
    match = _LIMIT.match(str(value))
    if match is None:
        raise ValueError(
            f"{value!r} is not a limit: a comparison (<=, >=, <, >), a number and a unit, as in '<= 500 ms'"
        )
    op: Op = match["op"]  # type: ignore[assignment]  # the pattern admits only these four
    return op, _scaled(match["number"], match["unit"], kind, value)


def parse_sweep(value: object) -> tuple[float, ...]:
    """GenAI-Perf's grammar: `1:256` doubles, `100:500:50` steps (both ends inside), a list is a list."""
    if isinstance(value, list | tuple):
        values = tuple(float(item) for item in value if isinstance(item, int | float) and not isinstance(item, bool))
        if not values or len(values) != len(value):
            raise ValueError(f"a sweep's list holds numbers, not {value!r}")
    else:
        values = _range(str(value))
    if len(set(values)) != len(values):
        raise ValueError(f"sweep {value!r} names a value twice")
    return values


def _range(text: str) -> tuple[float, ...]:
    parts = text.split(":")
    try:
        low, high, *step = (float(part) for part in parts)
    except ValueError:
        raise ValueError(f"{text!r} is not a sweep; write 'min:max', 'min:max:step' or a list") from None
    if len(step) > 1 or low <= 0 or high < low or (step and step[0] <= 0):
        raise ValueError(f"{text!r} is not a sweep: 0 < min <= max and step > 0 are needed")
    values = [low]
    while (following := values[-1] * 2 if not step else low + len(values) * step[0]) <= high * (1 + 1e-12):
        values.append(following)
    return tuple(values)
