"""The end of a point in one word and one sentence, for the first lines of the report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.gate.verdict import MetricVerdict
from pytest_llmperf.metrics.stats.compliance import SlaCheck
from pytest_llmperf.report.views.verdicts import SIDES, level, measured_change, regression_verdict, sla_verdict
from pytest_llmperf.runner.outcomes import Outcome

Kind = Literal["bad", "doubt", "good", "none"]
WORDS: dict[str, tuple[Kind, str]] = {
    "FAIL": ("bad", "a limit is broken, something got worse than its margin allows, or the test failed otherwise"),
    "INVALID": (
        "bad",
        "the client was the bottleneck or the server gave other lengths: the numbers are not to be trusted",
    ),
    "ERROR": ("bad", "nothing was measured: the server did not come up, or died"),
    "INTERRUPTED": ("doubt", "the session ended first"),
    "INCONCLUSIVE": ("doubt", "the runs cannot tell whether it got worse"),
    "SKIPPED": ("doubt", "this machine cannot run the configuration"),
    "NONE": ("bad", "no configuration keeps all limits"),
    "FOUND": ("good", "a configuration keeps all limits"),
    "IMPROVED": ("good", "better than the baseline by more than the margin"),
    "PASS": ("good", "every limit holds and nothing got worse than its margin allows"),
    "MEASURED": ("none", "measured; the test checks no limit and no baseline"),
}
"""Colour and meaning of every word, the gravest first: the order in which points are listed."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The word of one point, or of all of them, and why."""

    word: str
    reasons: tuple[str, ...]
    """The gravest first; empty when there is nothing to add."""

    @property
    def kind(self) -> Kind:
        return WORDS[self.word][0]

    @property
    def gravity(self) -> int:
        """0 for the gravest word."""
        return list(WORDS).index(self.word)


def standing(outcome: Outcome) -> Standing:
    """The gravest thing there is to say about a point."""
    return Standing(word := _word(outcome), tuple(_reasons(word, outcome)))


def _word(outcome: Outcome) -> str:
    result, verdicts = outcome.result, (sla_verdict(outcome), regression_verdict(outcome))
    if outcome.passed is None:
        return "SKIPPED" if (outcome.error or "").startswith("skipped") else "INTERRUPTED"
    if result is not None and result.runs and not result.valid:
        return "INVALID"
    if not outcome.passed:
        return "FAIL" if result is not None and result.runs else "ERROR"
    if "INCONCLUSIVE" in verdicts:
        return "INCONCLUSIVE"
    return next((word for word in ("IMPROVED", "PASS") if word in verdicts), "MEASURED")


def _reasons(word: str, outcome: Outcome) -> Iterator[str]:
    """Gravest first."""
    if word == "INVALID" and outcome.result is not None:
        yield from outcome.result.invalid_reasons
    if word in ("FAIL", "INCONCLUSIVE"):
        yield from (_limit_sentence(check) for check in outcome.sla or () if check.verdict == word)
    if outcome.regression and word in ("FAIL", "INCONCLUSIVE", "IMPROVED"):
        old, _ = outcome.regression.duet or SIDES
        yield from (_change_sentence(metric, old) for metric in outcome.regression.metrics if metric.verdict == word)
    if outcome.error and word != "INVALID" and not _is_told(outcome):
        yield first_line(outcome.error)


def _is_told(outcome: Outcome) -> bool:
    """True for the error of a gate, whose metrics say more than its first line."""
    broken = any(check.verdict == "FAIL" for check in outcome.sla or ())
    return broken or (outcome.regression is not None and outcome.regression.verdict == "FAIL")


def _limit_sentence(check: SlaCheck) -> str:
    quantity, limit = check.limit.quantity, check.limit
    if check.value is None:
        searched = quantity.metric in ("capacity", "capacity_concurrency")
        why = "no value: no level of the search holds" if searched else check.reason or "no value"
        return f"{_title(quantity)} has {why} (limit {quantity.shown(limit.value, 'g')})"
    side = "at most" if limit.op.startswith("<") else "at least"
    doubt = ", which the runs cannot confirm" if check.verdict == "INCONCLUSIVE" else ""
    bound = quantity.shown(limit.value, "g")
    return f"{_title(quantity)} is {quantity.shown(check.value)}; the limit is {side} {bound}{doubt}"


def _change_sentence(metric: MetricVerdict, old: str) -> str:
    """Change in the metric's own direction, as readers think of it: latency +12 %, throughput -11 %."""
    series, change = metric.series, measured_change(metric)
    then, now = level(series.baseline), level(series.candidate)
    title = _title(series.quantity)
    if change is None or then is None or now is None:
        return f"{title}: {metric.reason}"
    at, low, high = change
    shown, anchor = series.quantity.shown, " (anchor)" if series.reference == "anchor" else ""
    return (
        f"{title} {at:+.1%}: {shown(now)}, {old}{anchor} {shown(then)} "
        f"(90 % interval {low:+.1%} to {high:+.1%}, tolerated {series.margin:.0%})"
    )


def _title(quantity: Quantity) -> str:
    """`TTFT p99`, `Output token throughput`."""
    if quantity.stat is None:
        return quantity.metric.replace("_", " ").capitalize()
    return f"{quantity.metric.upper() if len(quantity.metric) < 5 else quantity.metric} {quantity.stat}"


def first_line(error: str) -> str:
    """First line of an exception's text, without the class, which says nothing to a reader of numbers."""
    line = error.strip().partition("\n")[0]
    return line.removeprefix("AssertionError: ").removeprefix("Failed: ").removeprefix("skipped: ")


def headline(standings: Sequence[Standing]) -> Standing:
    """The whole session in one word, and the counts behind it."""
    words = [held.word for held in standings]
    gravest = next((word for word in WORDS if word in words), "MEASURED")
    counts = [f"{words.count(word)} {word.lower()}" for word in WORDS if word in words]
    return Standing(gravest, (f"{len(words)} point{'s' if len(words) != 1 else ''}: {', '.join(counts)}",))
