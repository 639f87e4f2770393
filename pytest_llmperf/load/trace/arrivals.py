"""Due times of an open loop's requests: offsets from the start, in nanoseconds. Pure; a closed loop has none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Arrival = Literal["constant", "poisson", "gamma"]


def due_offsets_ns(arrival: Arrival, rate: float, count: int, seed: int, burstiness: float = 1.0) -> tuple[int, ...]:
    """`count` non-decreasing offsets at `rate` requests per second on average.

    "poisson" draws exponential gaps from `seed`, "gamma" gaps of shape `burstiness` (1: the exponential ones; the
    coefficient of variation is 1/sqrt(burstiness), as in vLLM). More offsets of one seed begin with the same ones.
    """
    if arrival == "constant":
        return tuple(round(index * 1e9 / rate) for index in range(count))
    # numpy keeps the raw stream of a bit generator for ever, but not what Generator.exponential makes of it; whole
    # microseconds, because the last bit of a logarithm may differ between machines.
    if arrival == "gamma" and burstiness != 1.0:
        gaps = np.fromiter(itertools.islice(_gamma_gaps(burstiness, seed), count), dtype=float, count=count)
    else:
        gaps = -np.log1p(-_uniform(np.random.PCG64(seed).random_raw(count)))
    gaps_us = np.round(gaps * 1e6 / rate).astype(np.int64)
    return tuple(int(offset) * 1000 for offset in np.cumsum(gaps_us))


def _uniform(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), from the upper 53 bits."""
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def _gamma_gaps(shape: float, seed: int) -> Iterator[float]:
    """Gamma variates of mean 1 (Marsaglia and Tsang, ACM TOMS 26, 2000; below shape 1 by their boost, section 6)."""
    uniforms = _uniforms(seed)
    boosted = shape + 1 if shape < 1 else shape
    d = boosted - 1 / 3
    c = 1 / math.sqrt(9 * d)
    while True:
        x, u = _normal(uniforms), next(uniforms)
        v = (1 + c * x) ** 3
        if v > 0 and math.log1p(-u) < 0.5 * x * x + d - d * v + d * math.log(v):
            scale = (1 - next(uniforms)) ** (1 / shape) if shape < 1 else 1.0
            yield d * v * scale / shape


def _normal(uniforms: Iterator[float]) -> float:
    """One of Box and Muller's two."""
    radius, angle = math.sqrt(-2 * math.log1p(-next(uniforms))), 2 * math.pi * next(uniforms)
    return radius * math.cos(angle)


def _uniforms(seed: int) -> Iterator[float]:
    raw = np.random.PCG64(seed)
    while True:
        yield from _uniform(raw.random_raw(1024)).tolist()
