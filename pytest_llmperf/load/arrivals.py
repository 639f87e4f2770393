"""When an open loop wants its requests sent: offsets from the start, in nanoseconds. Pure; a closed loop has none."""

from __future__ import annotations

from typing import Literal

import numpy as np


def due_offsets_ns(arrival: Literal["constant", "poisson"], rate: float, count: int, seed: int) -> tuple[int, ...]:
    """`count` non-decreasing offsets at `rate` requests per second; "poisson" draws exponential gaps from `seed`."""
    if arrival == "constant":
        return tuple(round(index * 1e9 / rate) for index in range(count))
    # numpy keeps the raw stream of a bit generator for ever, but not what Generator.exponential makes of it; whole
    # microseconds, because the last bit of a logarithm may differ between machines.
    uniform = (np.random.PCG64(seed).random_raw(count) >> np.uint64(11)) * 2.0**-53
    gaps_us = np.round(-np.log1p(-uniform) * 1e6 / rate).astype(np.int64)
    return tuple(int(offset) * 1000 for offset in np.cumsum(gaps_us))
