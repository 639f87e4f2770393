"""Mean scores over prompts: the interval of one, and the change of one on the same prompts. Pure.

Runs ask the same prompts again, so prompts, not requests, are the sample. Shares of right answers have Clopper and
Pearson's interval, other scores the percentile bootstrap's; a change is resampled prompt by prompt (paired bootstrap,
Koehn 2004) and tested by the sign test, which for right and wrong answers is McNemar's exact one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtrc, betaincinv

_RESAMPLES = 10_000
_CHUNK = 2_000_000
"""Draws at once, so that many prompts need little memory."""


@dataclass(frozen=True, slots=True)
class MeanScore:
    """A mean score over `n` prompts with its 90 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Drop:
    """The drop of the mean score of the same `n` prompts; negative where it is higher than before."""

    value: float
    n: int
    worse: int
    """Prompts with a lower score than before."""
    better: int
    p_no_drop: float
    """One-sided p value of the sign test of "it did not get worse"."""
    _means: tuple[float, ...]
    """Sorted means of the resamples."""

    def bound(self, level: float) -> float:
        """One-sided bound: the drop lies below it with probability `level`."""
        return float(np.quantile(self._means, level))


def mean_score(scores: Sequence[float]) -> MeanScore:
    """The mean of one score per prompt. ValueError without any."""
    if not scores:
        raise ValueError("no prompt has a score")
    n, total = len(scores), float(sum(scores))
    if set(scores) <= {0.0, 1.0}:
        low = float(betaincinv(total, n - total + 1, 0.05)) if total else 0.0
        high = float(betaincinv(total + 1, n - total, 0.95)) if total < n else 1.0
        return MeanScore(total / n, low, high, n)
    low, high = (float(end) for end in np.quantile(_resampled(scores), (0.05, 0.95)))
    return MeanScore(total / n, low, high, n)


def drop(before: Mapping[str, float], now: Mapping[str, float]) -> Drop:
    """The change on the prompts that both have. ValueError where they have none in common."""
    both = sorted(before.keys() & now.keys())
    if not both:
        raise ValueError("no prompt was scored on both sides")
    changes = [before[prompt] - now[prompt] for prompt in both]
    worse, better = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    means = tuple(sorted(_resampled(changes).tolist()))
    return Drop(float(np.mean(changes)), len(both), worse, better, _sign_test(worse, better), means)


def _sign_test(worse: int, better: int) -> float:
    """P(at least so many of the changed prompts are worse), where either is as likely."""
    return float(bdtrc(worse - 1, worse + better, 0.5)) if worse else 1.0


def _resampled(values: Sequence[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Means of resamples, the same in every call with these values."""
    sample = np.asarray(values, dtype=float)
    if not np.ptp(sample):
        return np.full(_RESAMPLES, sample[0])
    draws = np.random.Generator(np.random.PCG64(len(sample)))
    rows = max(1, _CHUNK // len(sample))
    parts: Iterator[int] = (min(rows, _RESAMPLES - begin) for begin in range(0, _RESAMPLES, rows))
    return np.concatenate(
        [sample[draws.integers(0, len(sample), (count, len(sample)))].mean(axis=1) for count in parts]
    )
