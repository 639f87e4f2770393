"""Tests for a difference between a session's greedy answers and a baseline's beyond that between runs of one server.
Pure.

A permutation test with whole runs as its units, because what is batched together in a run shares its rounding: where
the server is the same, any choice of so many runs is as likely to be the new session's. The false-alarm rate is the
level, whatever the answers depend on within a run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Outputs = Mapping[str, str]
"""Digest of the answer by prompt, of one run."""
_Matrix = np.ndarray[Any, np.dtype[np.float64]]
_MOST_SPLITS = 20_000


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares of equal answers, 0..1, in pairs of runs."""

    own: tuple[float, ...]
    """Agreement of each baseline run with the others of the baseline: the self-agreement."""
    across: tuple[float, ...]
    """Agreement of each new run with the baseline's runs."""
    prompts: int
    """Prompts that both sides answered."""
    changed: tuple[str, ...]
    """Prompts with an answer that no run of the baseline gave, in order."""
    p: float
    """Probability of at least so much difference between the sides, were all runs of one server."""
    least_p: float
    """The smallest p that so many runs can give."""

    @property
    def excess(self) -> float:
        """Share of answers that differ beyond what differs within the baseline; may be negative."""
        return float(np.mean(self.own) - np.mean(self.across))


def self_agreement(runs: Sequence[Outputs]) -> float | None:
    """Mean share of equal answers over all pairs of runs; None below two runs or without a common prompt."""
    if len(runs) < 2 or not _common(runs):
        return None
    return float(np.mean(_equal_shares(runs)[np.triu_indices(len(runs), 1)]))


def agreement(baseline: Sequence[Outputs], new: Sequence[Outputs]) -> Agreement:
    """New runs against the baseline's. ValueError below two baseline runs, without new ones, or a common prompt."""
    runs = (*baseline, *new)
    prompts = _common(runs)
    if len(baseline) < 2 or not new or not prompts:
        raise ValueError("two runs of the baseline and one new one with common prompts are needed")
    shares, old = _equal_shares(runs), len(baseline)
    splits = _splits(len(runs), len(new))
    rest = 1 - splits
    means = np.einsum("si,ij,sj->s", rest, shares, splits) / (old * len(new))
    as_far = int((means <= shares[:old, old:].mean() + 1e-9).sum())
    known = {prompt: {run[prompt] for run in baseline} for prompt in prompts}
    return Agreement(
        own=tuple((float(shares[row, :old].sum()) - 1) / (old - 1) for row in range(old)),
        across=tuple(float(shares[row, :old].mean()) for row in range(old, len(runs))),
        prompts=len(prompts),
        changed=tuple(prompt for prompt in prompts if any(run[prompt] not in known[prompt] for run in new)),
        p=as_far / len(splits),
        least_p=(2 if old == len(new) else 1) / math.comb(len(runs), len(new)),
    )


def _common(runs: Sequence[Outputs]) -> list[str]:
    """Prompts that every run answered, in the first run's order."""
    return [prompt for prompt in runs[0] if all(prompt in run for run in runs)] if runs else []


def _equal_shares(runs: Sequence[Outputs]) -> _Matrix:
    prompts = _common(runs)
    answers = np.array([[run[prompt] for prompt in prompts] for run in runs])
    shares: _Matrix = (answers[:, None, :] == answers[None, :, :]).mean(axis=2)
    return shares


def _splits(runs: int, new: int) -> _Matrix:
    """A row per choice of so many new runs, 1 where a run is chosen: all choices, or of very many a seeded sample."""
    if math.comb(runs, new) <= _MOST_SPLITS:
        chosen = list(itertools.combinations(range(runs), new))
    else:
        draws = np.random.Generator(np.random.PCG64(runs))
        drawn = [tuple(draws.permutation(runs)[:new].tolist()) for _ in range(_MOST_SPLITS - 1)]
        chosen = [tuple(range(runs - new, runs)), *drawn]
    splits: _Matrix = np.zeros((len(chosen), runs))
    np.put_along_axis(splits, np.array(chosen), 1.0, axis=1)
    return splits
