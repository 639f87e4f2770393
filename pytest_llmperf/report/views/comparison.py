"""Configurations side by side on the same load: which one is better at what, as far as noise allows a decision. Pure.

A configuration wins a metric when its interval lies apart from those of all others: what a reader can check with the
eye in the table. Overlap is no proof that two are the same, so it is called "no clear winner" and not a draw.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pytest_llmperf.definitions import HEADLINE_LATENCIES, OFFERED, OUTPUT_RATE, Quantity
from pytest_llmperf.gate.regression import candidate
from pytest_llmperf.metrics.capacity.answer import coarsened
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.estimate import Interval, interval_of
from pytest_llmperf.metrics.stats.margins import tolerance, too_few
from pytest_llmperf.report.views.names import variant
from pytest_llmperf.units import counted

QUANTITIES = (
    *HEADLINE_LATENCIES,
    Quantity("input_token_throughput"),
    OUTPUT_RATE,
    Quantity("output_token_throughput_per_gpu"),
)
CHOSEN_BY = (
    OUTPUT_RATE,
    Quantity("ttft", "p50"),
    Quantity("itl", "p50"),
    Quantity("capacity"),
    Quantity("capacity_concurrency"),
)
"""Quantities that the answer names where each configuration is best at something else."""
_NAMED = 4
"""Configurations that the answer names per metric, and loads per configuration; the others are counted."""
NO_WINNER = "no clear winner: intervals overlap"
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
_LOAD_LEVEL = re.compile(r"-(?:c\d+|[\d.e+]+rps)(?=-|$)")


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One metric over the configurations."""

    quantity: Quantity
    levels: tuple[Interval | None, ...]
    """Interval of each configuration; None where a run gave no value."""
    best: int | None
    """Position of the winner; None: `why` says why there is none."""
    why: str = ""
    leaders: tuple[int, ...] = ()
    """Positions of all that no other is better than beyond noise; only the winner, where there is one."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All configurations that were measured at one load."""

    load: str
    environment: str
    configurations: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]
    invalid: tuple[str, ...] = ()
    """Configurations whose numbers are not to be trusted: shown, and never the best."""
    notes: tuple[str, ...] = ()

    @property
    def wins(self) -> Mapping[str, int]:
        """Metrics won, by configuration; those that won nothing too."""
        return {name: sum(row.best == place for row in self.rows) for place, name in enumerate(self.configurations)}

    @property
    def answer(self) -> str:
        """One sentence: which configuration to take, what for where that differs, or that noise leaves it open."""
        decided = sum(row.best is not None for row in self.rows)
        if self.leader is None and (decided or not self.unbeaten):
            found = "; ".join(self._strengths())
            return f"{self.load}: no configuration is best at everything; {found}" if found else self._undecided()
        if not decided:
            return self._undecided()
        winner, count = max(self.wins.items(), key=lambda pair: pair[1])
        rest = [f"{name} in {won}" for name, won in self.wins.items() if won and name != winner]
        others = f", {', '.join(rest)}" if rest else ""
        undecided = f"; undecided in {len(self.rows) - decided}" if decided < len(self.rows) else ""
        return f"{self.load}: {winner} is better in {count} of {len(self.rows)} metrics{others}{undecided}"

    def _undecided(self) -> str:
        some = 0 < len(self.unbeaten) < len(self.configurations)
        beaten = f"; none is better than {', '.join(self.unbeaten)} in any" if some else ""
        return f"{self.load}: no clear winner in any of {len(self.rows)} metrics{beaten}"

    def _strengths(self) -> Iterator[str]:
        """Lines on the configurations that no other is better than, per metric that a choice is made by: `best
        itl_p50: a or b`.
        """
        for row in self.rows:
            if row.quantity in CHOSEN_BY and 0 < len(row.leaders) < len(self.configurations):
                names = [self.configurations[place] for place in row.leaders]
                if len(names) > _NAMED:
                    names = [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} others"]
                yield f"best {row.quantity}: {' or '.join(names)}"

    @property
    def unbeaten(self) -> tuple[str, ...]:
        """Configurations that no other is better than in any metric that noise does not leave open."""
        found = [row for row in self.rows if row.leaders]
        places = range(len(self.configurations)) if found else ()
        return tuple(self.configurations[at] for at in places if all(at in row.leaders for row in found))

    @property
    def leader(self) -> str | None:
        """The configuration to take: it wins most metrics, and more than it is beaten in. None where there is none."""
        (first, most), *others = sorted(self.wins.items(), key=lambda pair: -pair[1])
        place = self.configurations.index(first)
        beaten = sum(bool(row.leaders) and place not in row.leaders for row in self.rows)
        return first if most > beaten and all(won < most for _, won in others) else None


def overall(found: Sequence[Comparison]) -> tuple[str, ...]:
    """A line per configuration that leads anywhere, one for the loads where none does: of a single one its answer."""
    by_leader = grouped(found, lambda comparison: comparison.leader)
    undecided = by_leader.pop(None, [])
    lines = [f"{name} is the better configuration at {_loads(led)}" for name, led in by_leader.items()]
    if undecided:
        lines.append(undecided[0].answer if len(undecided) == 1 else f"no clear winner at {_loads(undecided)}")
    return tuple(lines)


def _loads(found: Sequence[Comparison]) -> str:
    named = [comparison.load for comparison in found[:_NAMED]]
    return ", ".join(named) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by their key, in the order in which keys come up."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def comparable(measured: Sequence[tuple[str, Result]]) -> dict[tuple[str, ...], list[Result]]:
    """Results that may stand side by side: of one test but for server and load, one environment, equal outputs."""
    groups = grouped((pair for pair in measured if pair[1].runs), _comparable_key)
    return {key: [result for _, result in pairs] for key, pairs in groups.items()}


def _comparable_key(pair: tuple[str, Result]) -> tuple[str, ...]:
    test, result = pair
    return variant(test, result), result.environment.slug, output_args(result)


def output_args(result: Result) -> str:
    """The server's output-changing arguments: `dtype=half, quantization=fp8`; empty without any."""
    return ", ".join(f"{name}={value}" for name, value in result.server.output_args.items())


def load_family(result: Result) -> str:
    """The load's name without its swept concurrency or rate: `rate-20rps` is of `rate`."""
    return _LOAD_LEVEL.sub("", result.load.name)


def comparisons(measured: Sequence[tuple[str, Result]]) -> tuple[Comparison, ...]:
    """One per load that several servers were measured at, from (test id, result)."""
    found = [
        (test, held)
        for (test, *_), results in comparable(measured).items()
        for held in grouped(results, lambda result: result.load.name).values()
        if len({result.server.name for result in held}) == len(held) > 1
    ]
    loads = Counter(held[0].load.name for _, held in found)
    return tuple(_comparison(held, _whose(test) if loads[held[0].load.name] > 1 else "") for test, held in found)


def _whose(test: str) -> str:
    """` (test_serving, a-b)`: what tells a comparison from another at the same load."""
    function, _, rest = test.rpartition("::")[2].partition("[")
    return f" ({', '.join(filter(None, (function, rest.strip('-]'))))})"


def _comparison(results: Sequence[Result], whose: str) -> Comparison:
    # A search ends at a level of each configuration's own, so that only the searched capacity compares.
    searched = results[0].load.capacity
    rows = (_row(quantity, results) for quantity in ([searched.quantity] if searched else QUANTITIES))
    return Comparison(
        load=f"{results[0].load.name}{whose}",
        environment=results[0].environment.slug,
        configurations=tuple(result.server.name for result in results),
        rows=tuple(row for row in rows if any(row.levels)),
        invalid=tuple(result.server.name for result in results if not result.valid),
        notes=tuple(_notes(results)),
    )


def _notes(results: Sequence[Result]) -> Iterator[str]:
    if len({result.trace_hash for result in results}) > 1:
        yield "the configurations were not sent the same requests, so part of a difference may be theirs"
    few = sorted({len(result.runs) for result in results})
    if few[0] < 3:
        yield f"{counted(few[0], 'run')} of a configuration: intervals rest on noise as it usually is"


def _row(quantity: Quantity, results: Sequence[Result]) -> ComparisonRow:
    levels = tuple(_level(quantity, result) for result in results)
    if quantity.metric in OFFERED and not results[0].load.closed_loop:
        return ComparisonRow(quantity, levels, None, "set by the load, not by the server")
    few = too_few(quantity, [summary.n(quantity) for result in results for summary in result.summaries])
    if few:
        return ComparisonRow(quantity, levels, None, few)
    found = leaders(quantity, [level if result.valid else None for level, result in zip(levels, results, strict=True)])
    best = found[0] if len(found) == 1 else None
    return ComparisonRow(quantity, levels, best, "" if best is not None else _why_none(levels), found)


def _why_none(levels: Sequence[Interval | None]) -> str:
    return NO_WINNER if sum(level is not None for level in levels) > 1 else "nothing to compare with"


def _level(quantity: Quantity, result: Result) -> Interval | None:
    if result.capacity is not None and result.capacity.is_bound:
        return None  # at least so much is no level
    runs = [[value for value in launch if value is not None] for launch in candidate(result, quantity)]
    if sum(map(len, runs)) < len(result.runs) or any(value <= 0 for launch in runs for value in launch):
        return None
    prior = tolerance(quantity).prior
    return interval_of(runs, coarsened(prior, result.capacity.resolution) if result.capacity else prior)


def leaders(quantity: Quantity, levels: Sequence[Interval | None]) -> tuple[int, ...]:
    """Positions whose interval no other's is apart from on the better side; none without two to compare."""
    present = [(level, place) for place, level in enumerate(levels) if level is not None]
    if len(present) < 2:
        return ()
    if quantity.better == "higher":
        bar = max(level.low for level, _ in present)
        return tuple(place for level, place in present if level.high >= bar)
    bar = min(level.high for level, _ in present)
    return tuple(place for level, place in present if level.low <= bar)
