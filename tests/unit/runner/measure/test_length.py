"""`requests: auto`: how many requests two passes ask for."""

from __future__ import annotations

import asyncio
import functools
import random
import re

from samples import point, record, run

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.runner.measure.length import RunLength, decide

ITL = Quantity("itl", "mean")


async def noisy_pass(number: int, noise: float):
    """A pass of 100 requests whose inter-token latencies differ by that much."""
    draw = random.Random(number)
    records = []
    for place in range(100):
        gap_ms = 10.0 * draw.lognormvariate(0, noise)
        records.append(record(place * 100.0, [place * 100.0 + 5 + gap_ms * token for token in range(6)]))
    return run(records, number)


def decided(noise: float) -> RunLength:
    length = RunLength(margins={ITL: 0.05})
    load = point(requests=100).model_copy(update={"length": "auto"})
    asyncio.run(decide(length, load, functools.partial(noisy_pass, noise=noise)))
    return length


def test_quiet_numbers_keep_the_first_length():
    assert decided(0.01).requests == 100


def test_noisy_numbers_ask_for_as_many_as_bring_the_error_to_a_third_of_the_margin():
    length = decided(0.3)
    assert 200 < length.requests < 900  # 3 % of 100 requests; 1.7 % is allowed
    told = r"requests per run: itl_mean then has an error of 1\.[567]% of its own, and a third of its margin is 1\.7%"
    assert re.search(told, length.note)


def test_no_more_than_ten_times_the_first_length():
    length = decided(1.5)
    assert length.requests == 1000
    assert "1000 requests per run, the most that is taken: itl_mean then has an error of" in length.note


def test_nothing_to_go_by_keeps_the_first_length():
    async def nothing(number):
        return run([], number)

    length = RunLength(margins={ITL: 0.05})
    asyncio.run(decide(length, point(requests=120), nothing))
    assert length.requests == 120
    assert "no gated number tells its own error" in length.note
