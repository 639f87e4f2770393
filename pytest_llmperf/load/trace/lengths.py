"""Token counts per request, drawn from raw generator output: the same with every version of numpy. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from pytest_llmperf.plan.load.prompts import Lengths


def lengths(asked: int | Lengths, seed: tuple[int, int]) -> Iterator[int]:
    """One length per request, without end: a constant, or draws of the distribution from `seed`."""
    if isinstance(asked, int):
        return itertools.repeat(asked)
    return _drawn(asked, np.random.PCG64(seed))


def _drawn(asked: Lengths, draws: np.random.PCG64) -> Iterator[int]:
    standard = NormalDist()
    while True:
        # In (0, 1): the inverse of the distribution has no value at its ends.
        uniform = ((int(draws.random_raw()) >> 11) + 0.5) * 2.0**-53
        length = round(asked.mean + asked.sd * standard.inv_cdf(uniform))
        yield max(asked.min, length if asked.max is None else min(length, asked.max))
