"""When an open loop wants its requests sent: offsets from the start, in nanoseconds. Pure; a closed loop has none."""

from __future__ import annotations

from typing import Literal

import numpy as np


def due_offsets_ns(arrival: Literal["constant", "poisson"], rate: float, count: int, seed: int) -> tuple[int, ...]:
    """`count` non-decreasing offsets at `rate` requests per second; "poisson" draws exponential gaps from `seed`."""
    if arrival == "constant":
        return tuple(round(index * 1e9 / rate) for index in range(count))
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, count)
    return tuple(int(offset) for offset in np.cumsum(gaps))
