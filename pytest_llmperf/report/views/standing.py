"""The end of a point in one word and one sentence, for the first lines of the report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_llmperf.report.views.verdicts import (
    describe,
    levels,
    limit_brief,
    limit_sentence,
    regression_verdict,
    sla_verdict,
)
from pytest_llmperf.runner.outcomes import Outcome
from pytest_llmperf.units import counted

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
    brief: str = ""
    """The first reason, as short as it can be."""

    @property
    def kind(self) -> Kind:
        return WORDS[self.word][0]

    @property
    def gravity(self) -> int:
        """0 for the gravest word."""
        return list(WORDS).index(self.word)


def standing(outcome: Outcome) -> Standing:
    """The gravest thing there is to say about a point."""
    reasons = tuple(_reasons(word := _word(outcome), outcome))
    return Standing(word, reasons, _brief(word, outcome) or next(iter(reasons), ""))


def _brief(word: str, outcome: Outcome) -> str:
    """The first limit or metric of the word's verdict, a metric without its interval; empty where there is neither."""
    if limits := [check for check in outcome.sla or () if check.verdict == word]:
        return limit_brief(limits[0])
    if outcome.regression is None:
        return ""
    found = [metric for metric in outcome.regression.metrics if metric.verdict == word]
    return levels(found[0], outcome.regression.duet) if found else ""


def _word(outcome: Outcome) -> str:
    result, verdicts = outcome.result, (sla_verdict(outcome), regression_verdict(outcome))
    if outcome.passed is None and (outcome.error is not None or result is None):
        return "SKIPPED" if (outcome.error or "").startswith("skipped") else "INTERRUPTED"
    if result is not None and result.runs and not result.valid:
        return "INVALID"
    if outcome.passed is False or "FAIL" in verdicts:
        return "FAIL" if result is not None and result.runs else "ERROR"
    if "INCONCLUSIVE" in verdicts:
        return "INCONCLUSIVE"
    return next((word for word in ("IMPROVED", "PASS") if word in verdicts), "MEASURED")


def _reasons(word: str, outcome: Outcome) -> Iterator[str]:
    """Gravest first."""
    if word == "INVALID" and outcome.result is not None:
        yield from outcome.result.invalid_reasons
    if word in ("FAIL", "INCONCLUSIVE"):
        yield from (limit_sentence(check) for check in outcome.sla or () if check.verdict == word)
    if outcome.regression and word in ("FAIL", "INCONCLUSIVE", "IMPROVED"):
        duet = outcome.regression.duet
        yield from (describe(metric, duet) for metric in outcome.regression.metrics if metric.verdict == word)
    if outcome.error and word != "INVALID" and not _is_failed_gate(outcome):
        line = first_line(outcome.error)
        name, _, rest = line.partition(": ")
        yield rest if name in outcome.test else line


def _is_failed_gate(outcome: Outcome) -> bool:
    """True for the error of a gate, whose metrics say more than its first line."""
    broken = any(check.verdict == "FAIL" for check in outcome.sla or ())
    return broken or (outcome.regression is not None and outcome.regression.verdict == "FAIL")


def first_line(error: str) -> str:
    """First line of an exception's text, without the class, which says nothing to a reader of numbers."""
    line = error.strip().partition("\n")[0]
    return line.removeprefix("AssertionError: ").removeprefix("Failed: ").removeprefix("skipped: ")


def headline(standings: Sequence[Standing]) -> Standing:
    """The whole session in one word, and the counts behind it."""
    words = [held.word for held in standings]
    gravest = next((word for word in WORDS if word in words), "MEASURED")
    counts = [f"{words.count(word)} {word}" for word in WORDS if word in words]
    return Standing(gravest, (f"{counted(len(words), 'point')}: {', '.join(counts)}",))
