"""The rules of other tools, on the same recordings: does any gated metric of the point count as worse?

They see the baseline's runs pooled (pytest-benchmark: the last session's, as it compares with the last saved one) and
the candidate's first five runs. Values are turned so that more is worse. What the tools test is their defaults: see
pytest-benchmark's --benchmark-compare-fail, asv's continuous (factor 1.1, alpha 0.002), benchstat (alpha 0.05).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Runs = NDArray[np.float64]
"""Runs x metrics."""
LAST_SESSION = 3


def minimum_5_percent(baseline: Runs, candidate: Runs) -> bool:
    return bool((candidate.min(axis=0) > 1.05 * baseline[-LAST_SESSION:].min(axis=0)).any())


def mean_10_percent(baseline: Runs, candidate: Runs) -> bool:
    return bool((candidate.mean(axis=0) > 1.10 * baseline[-LAST_SESSION:].mean(axis=0)).any())


def asv(baseline: Runs, candidate: Runs) -> bool:
    larger = np.median(candidate, axis=0) > 1.1 * np.median(baseline, axis=0)
    return bool((larger & (_mann_whitney(baseline, candidate) < 0.002)).any())


def benchstat(baseline: Runs, candidate: Runs) -> bool:
    larger = np.median(candidate, axis=0) > np.median(baseline, axis=0)
    return bool((larger & (_mann_whitney(baseline, candidate) < 0.05)).any())


def welch(baseline: Runs, candidate: Runs) -> bool:
    p = stats.ttest_ind(np.log(candidate), np.log(baseline), equal_var=False, alternative="greater").pvalue
    return bool((p < 0.05).any())


def _mann_whitney(baseline: Runs, candidate: Runs) -> Runs:
    # The asymptotic form, which allows for ties: rounded factors make some.
    result = stats.mannwhitneyu(candidate, baseline, alternative="two-sided", method="asymptotic")
    return np.asarray(result.pvalue)


RULES: Mapping[str, Callable[[Runs, Runs], bool]] = {
    "pytest-benchmark min:5%": minimum_5_percent,
    "pytest-benchmark mean:10%": mean_10_percent,
    "asv": asv,
    "benchstat": benchstat,
    "Welch on runs": welch,
}
