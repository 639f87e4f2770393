"""Names by which a reader tells points apart that several tests share. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pytest_llmperf.metrics.result import Result
from pytest_llmperf.runner.outcomes import Outcome


def distinguished(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The same outcomes under names of their own: as much of a test's id as tells its point from the others."""
    counts = [Counter(names) for names in zip(*map(_names, outcomes), strict=True)]
    return [
        _named(one, next(name for name, n in zip(_names(one), counts, strict=True) if n[name] == 1 or name == one.test))
        for one in outcomes
    ]


def _names(outcome: Outcome) -> tuple[str, str, str, str]:
    """Names of a point, from the shortest to the test's whole id, which no other has."""
    function = outcome.test.rpartition("::")[2]
    return outcome.point_id, parameters(outcome.test) or outcome.point_id, function, outcome.test


def _named(outcome: Outcome, name: str) -> Outcome:
    if name == outcome.point_id:
        return outcome
    return replace(outcome, point_id=name, result=outcome.result and replace(outcome.result, point_id=name))


def parameters(test: str) -> str:
    """`a-short` of `test_a.py::test_serving[a-short]`; empty of a test that has none."""
    return test.partition("[")[2].removesuffix("]")


def variant(test: str, result: Result) -> str:
    """The test without its server and load: what else it is parametrized by must be the same where points compare."""
    rest = parameters(test)
    for name in (result.server.name, result.load.name):
        rest = re.sub(rf"(^|-){re.escape(name)}(?=-|$)", r"\1", rest, count=1)
    return f"{test.partition('[')[0]}[{rest}]"
