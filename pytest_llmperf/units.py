"""Values with units, as people write them in a plan: `500 ms`, `<= 6 s`, `>= 140 tok/s`, `5 %`, `10:60:10`.

Every function raises ValueError with what was given and what is allowed; the plan's loader adds file and line.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Sequence
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
    "requests": {"": 1.0, "requests": 1.0, "requests in flight": 1.0},
}

Op = Literal["<=", ">=", "<", ">"]
OPERATORS: dict[Op, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


def percent(share: float) -> str:
    """`5 %` of 0.05."""
    return f"{round(100 * share, 2):g} %"


def counted(count: int, noun: str) -> str:
    """`1 run`, `2 runs`, `2 launches`."""
    plural = "es" if noun.endswith("ch") else "s"
    return f"{count} {noun}{'' if count == 1 else plural}"


def signed_percent(share: float) -> str:
    """`+36.6 %` of 0.366, `-26.6 %` of -0.266: how every medium writes a change of a value."""
    return f"{100 * share:+.1f} %"


def _scaled(number: str, unit: str | None, kind: str, given: object) -> float:
    units = _UNITS[kind]
    scale = units.get(unit or "")
    if scale is None:
        allowed = ", ".join(f"{number} {u}".strip() for u in units)
        problem = f"unknown unit {unit!r}" if unit else "no unit"
        raise ValueError(f"{given!r} has {problem}; write it as one of: {allowed}")
    scaled = float(number) * scale
    if not math.isfinite(scaled):
        raise ValueError(f"{given!r} is too large")
    return scaled


def parse_quantity_of(kind: str, value: object) -> float:
    """`value` in the unit `kind` ("ms", "tok/s", "req/s", "ratio", …); a bare number only where no unit is needed."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number with a unit")
    match = _QUANTITY.match(str(value))
    if match is None:
        example = "500 ms" if kind == "ms" else f"10 {next(iter(_UNITS[kind]))}".strip()
        raise ValueError(f"{value!r} is not a number with a unit, such as {example!r}")
    return _scaled(match["number"], match["unit"], kind, value)


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


def parse_margin(value: object) -> float:
    """A tolerated change: `5 %` or `0.05`. A bare 5 would be 500 % and gate nothing, so it is refused."""
    margin = parse_ratio(value)
    if margin <= 0:
        raise ValueError(f"{value!r} must be more than 0")
    if margin >= 1 and "%" not in str(value):
        raise ValueError(f"{value!r} would be a margin of {margin:.0%}; write '{margin:g} %' (or '{margin:.0%}')")
    return margin


def parse_limit(kind: str, value: object) -> tuple[Op, float]:
    """`<= 6 s` -> ("<=", 6000.0) for kind "ms"."""
    match = _LIMIT.match(str(value))
    if match is None:
        raise ValueError(
            f"{value!r} is not a limit: a comparison (<=, >=, <, >), a number and a unit, as in '<= 500 ms'"
        )
    op: Op = match["op"]  # type: ignore[assignment]  # the pattern admits only these four
    return op, _scaled(match["number"], match["unit"], kind, value)


def parse_span(value: object) -> tuple[float, float]:
    """`1:200` -> (1.0, 200.0): where something is searched. A list of the two ends will do too."""
    given = value.split(":") if isinstance(value, str) else value
    try:
        low, high = map(float, given if isinstance(given, list | tuple) else ())
    except (TypeError, ValueError):
        raise ValueError(
            f"{value!r} is not a range; write 'low:high' in quotes (without them YAML takes 1:50 for a number)"
        ) from None
    if not 0 < low < high < math.inf:
        raise ValueError(f"{value!r} is not a range: 0 < low < high is needed")
    return low, high


_MAX_SWEEP = 1000
"""Values of one sweep; more is a slip of the pen (`1:1e6:1`), not a plan."""


def parse_sweep(value: object) -> tuple[float, ...]:
    """GenAI-Perf's grammar: `1:256` doubles, `100:500:50` steps (both ends inside), a list is a list."""
    values = _listed(value) if isinstance(value, list | tuple) else _range(value)
    if len(set(values)) != len(values):
        raise ValueError(f"sweep {value!r} names a value twice")
    return values


def _listed(given: Sequence[object]) -> tuple[float, ...]:
    numbers = [item for item in given if isinstance(item, int | float) and not isinstance(item, bool)]
    if not numbers or len(numbers) != len(given) or not all(0 < number < math.inf for number in numbers):
        raise ValueError(f"a sweep's list holds numbers above 0, not {given!r}")
    return tuple(map(float, numbers))


def _range(given: object) -> tuple[float, ...]:
    try:
        low, high, *step = map(float, given.split(":") if isinstance(given, str) else ())
    except ValueError:
        raise ValueError(
            f"{given!r} is not a sweep; write 'min:max' or 'min:max:step' in quotes "
            "(without them YAML takes 10:50:10 for a number), or a list"
        ) from None
    if len(step) > 1 or not 0 < low <= high < math.inf or not all(0 < size < math.inf for size in step):
        raise ValueError(f"{given!r} is not a sweep: 0 < min <= max and step > 0 are needed")
    following = (low + number * step[0] if step else low * 2.0**number for number in itertools.count())
    # The tolerance lets rounding of a fractional step (0.1:0.5:0.1) not lose the last value.
    values = tuple(itertools.islice(itertools.takewhile(lambda v: v <= high * (1 + 1e-12), following), _MAX_SWEEP + 1))
    if len(values) > _MAX_SWEEP:
        raise ValueError(f"{given!r} gives more than {_MAX_SWEEP} values")
    return values
