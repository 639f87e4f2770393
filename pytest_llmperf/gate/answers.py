"""Answers against those of a baseline: scores prompt by prompt, and the output guard. Pure.

Margins of scores are points (0.02: from 0.94 to 0.92), and a verdict is that of the prompts that are asked: a further
run asks them again and tells nothing new about a score, but it does about the guard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from pytest_llmperf.definitions import ACCURACIES, Quantity
from pytest_llmperf.gate.rules import Rules, Verdict
from pytest_llmperf.gate.verdict import MetricVerdict, PerRun, Reference, Series
from pytest_llmperf.metrics.answers import Answers, PerPrompt
from pytest_llmperf.metrics.stats.accuracy import Drop, drop, mean_score
from pytest_llmperf.metrics.stats.agreement import Agreement, Outputs, agreement
from pytest_llmperf.metrics.stats.compliance import SlaCheck, compared
from pytest_llmperf.metrics.stats.margins import tolerance
from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.plan.load.point import LoadPoint

DEFAULT_MARGIN = 0.02
FEWEST_PROMPTS = 10
"""Fewest prompts of a score that is gated: with fewer, one answer is more than a tenth of it."""
GUARD = Quantity("output_agreement")
_WHERE_IT_BELONGS = (
    "an argument that changes what the model outputs belongs in the plan's `locked`, and `may_differ` tolerates what "
    "another order of additions changes"
)


@dataclass(frozen=True, slots=True)
class ChangedAnswer:
    """An answer of the output guard that no run of the baseline gave."""

    prompt: str
    """Digest of the prompt."""
    then: str | None
    """The baseline's answer; None where its text is not stored."""
    now: str | None


@dataclass(frozen=True, slots=True)
class _Side:
    """The stored sessions of one reference."""

    reference: Reference
    sessions: Sequence[Answers]
    """Oldest first."""

    @property
    def outputs(self) -> list[Outputs]:
        return [run for session in self.sessions for run in session.outputs]

    def scores(self, metric: str) -> PerPrompt:
        """Mean over the sessions, prompt by prompt."""
        found: dict[str, list[float]] = {}
        for session in self.sessions:
            for prompt, score in session.scores.get(metric, {}).items():
                found.setdefault(prompt, []).append(score)
        return {prompt: fmean(scores) for prompt, scores in found.items()}


def answer_margins(point: LoadPoint, margins: Mapping[str, float]) -> dict[Quantity, float]:
    """Tolerated drop, in points, of every score that the load asks for."""
    names = point.answers.metrics if point.answers else ()
    return {Quantity(name): margins.get(name, DEFAULT_MARGIN) for name in names}


def answer_verdicts(
    reference: Reference,
    then: Sequence[Answers | None],
    now: Answers | None,
    point: LoadPoint,
    margins: Mapping[Quantity, float],
    rules: Rules,
) -> tuple[MetricVerdict, ...]:
    """A verdict per score, and the guard's; `then` are the answers of the reference's sessions, oldest first."""
    if point.answers is None:
        return ()
    side, new = _Side(reference, [session for session in then if session]), now or Answers()
    scored = [_score_verdict(side, new, quantity, margin, rules) for quantity, margin in margins.items()]
    guard = point.answers.guard
    return (*scored, *([_guard_verdict(side, new, guard.may_differ, rules)] if guard else []))


def changed_answers(then: Sequence[Answers | None], now: Answers | None) -> Iterator[ChangedAnswer]:
    """Guarded answers that no run of the baseline gave, with their texts where they are stored."""
    known = [session for session in then if session]
    runs = [run for session in known for run in session.outputs]
    if now is None or len(runs) < 2 or not now.outputs:
        return
    texts = {prompt: text for session in known for prompt, text in session.texts.items()}
    for prompt in now.outputs[0]:
        given = {run[prompt] for run in runs if prompt in run}
        new = [run[prompt] for run in now.outputs if prompt in run and run[prompt] not in given]
        if given and new:
            yield ChangedAnswer(prompt, texts.get(prompt), now.every_text.get(new[0]))


def _series(side: _Side, quantity: Quantity, margin: float, then: PerRun, now: PerRun) -> Series:
    return Series(quantity, margin, tolerance(quantity).prior, then, now, reference=side.reference)


def _score_verdict(side: _Side, now: Answers, quantity: Quantity, margin: float, rules: Rules) -> MetricVerdict:
    before, after = side.scores(quantity.metric), now.scores.get(quantity.metric, {})
    then: PerRun = ((fmean(before.values()),),) if before else ()
    series = _series(side, quantity, margin, then, ((fmean(after.values()),),) if after else ())
    if not before:
        return MetricVerdict(series, "NO BASELINE", "the baseline holds no such score; record it anew")
    if not after:
        return MetricVerdict(series, "FAIL", "the baseline has a value, this session has none")
    common = len(before.keys() & after.keys())
    if common < FEWEST_PROMPTS:
        return MetricVerdict(series, "NOT GATED", f"a score needs {FEWEST_PROMPTS} prompts, both have {common}")
    found = drop(before, after)
    return MetricVerdict(series, _drop_verdict(found, margin, rules), _drop_sentence(found, before, after, margin))


def _drop_verdict(found: Drop, margin: float, rules: Rules) -> Verdict:
    if found.bound(rules.alpha_fail) > margin and found.p_no_drop <= rules.alpha_family:
        return "FAIL"
    if found.bound(1 - rules.alpha_pass) > margin:
        return "INCONCLUSIVE"
    return "IMPROVED" if found.bound(1 - rules.alpha_pass) < -margin else "PASS"


def _drop_sentence(found: Drop, before: PerPrompt, after: PerPrompt, margin: float) -> str:
    ends = f"{_points(-found.bound(0.95))} to {_points(-found.bound(0.05))}"
    return (
        f"{fmean(after.values()):.1%}, baseline {fmean(before.values()):.1%}: {_points(-found.value)} points ({ends}) "
        f"on the same {found.n} prompts, {found.worse} worse and {found.better} better; {100 * margin:.3g} tolerated"
    )


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _guard_verdict(side: _Side, now: Answers, may_differ: float, rules: Rules) -> MetricVerdict:
    try:
        found = agreement(side.outputs, now.outputs)
    except ValueError as error:
        verdict: Verdict = "NO BASELINE" if len(side.outputs) < 2 else "FAIL"
        return MetricVerdict(
            _series(side, GUARD, may_differ, (), ()), verdict, f"the output guard cannot compare: {error}"
        )
    series = _series(side, GUARD, may_differ, (found.own,), (found.across,))
    decided = len(now.outputs) >= rules.first_runs and found.least_p <= rules.alpha_fail
    if found.excess <= may_differ:
        return MetricVerdict(series, "PASS", _agreed(found, rules))
    if not decided:
        why = f"{_agreed(found, rules)}; more runs can tell: the smallest p of so few is {found.least_p:.1%}"
        return MetricVerdict(series, "INCONCLUSIVE", why, undecided=series.runs < rules.most_runs)
    return MetricVerdict(series, "FAIL" if found.p <= rules.alpha_fail else "PASS", _agreed(found, rules))


def _agreed(found: Agreement, rules: Rules) -> str:
    return (
        f"{fmean(found.across):.1%} of the answers to {found.prompts} prompts are those of the baseline's runs, which "
        f"agree among themselves in {fmean(found.own):.1%}; {len(found.changed)} prompts have a new answer "
        f"(p = {found.p:.2g}, false alarms {rules.alpha_fail:.0%})"
    )


def guard_hint(verdicts: Sequence[MetricVerdict], has_texts: bool) -> str:
    """A note beside a failed guard: what it means, and where the texts are; empty where it did not fail."""
    if not any(one.series.quantity == GUARD and one.verdict == "FAIL" for one in verdicts):
        return ""
    where = "the report shows the first differences" if has_texts else "`store_texts: guard` shows the differences"
    return f"output guard: no locked argument changed, but the answers did; {_WHERE_IT_BELONGS}. {where.capitalize()}"


def check_accuracy(limit: Limit, scores: PerPrompt, value: float | None, lacking: int) -> SlaCheck:
    """A limit on a score: compared as it stands, since more runs ask the same prompts; with the interval over these."""
    if value is None or not scores:
        return SlaCheck(limit, None, 0, "FAIL", reason="no value: no answer has this score", lacking=lacking)
    found = mean_score(list(scores.values()))
    verdict = compared(limit, value)
    verified = compared(limit, found.low if verdict == "PASS" else found.high) == verdict
    caveat = f"; {lacking} successful requests have no score" if lacking else ""
    reason = f"90 % interval {found.low:.3f} to {found.high:.3f} over {found.n} prompts{caveat}"
    return SlaCheck(limit, value, found.n, verdict, verified, reason=reason, lacking=lacking)


def is_accuracy(quantity: Quantity) -> bool:
    """True if the quantity is a score of answers, or the guard's agreement."""
    return quantity.metric in ACCURACIES or quantity == GUARD
