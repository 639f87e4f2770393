"""One phase over the length of the prompt."""

import pytest
from samples import point, record, result, run

from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.report.sections.sweeps import curves


def prefill(tokens: int, ttft_ms: float, name: str | None = None, **fields):
    load = point(name=name or f"p-in{tokens}", input_tokens=tokens, output_tokens=1, phase="prefill")
    return result([run([record(0.0, [ttft_ms], input_tokens=tokens)])], load=load, **fields)


def test_a_curve_has_the_points_of_one_load_by_length():
    long, short = prefill(2000, 80.0), prefill(1000, 50.0)
    (found,) = curves([("a.py::t[x-p-in2000]", long), ("a.py::t[x-p-in1000]", short)])
    assert (found.server, found.load, found.phase) == ("seqs2", "p", "prefill")
    assert [(p.input_tokens, p.values["ttft_p50"]) for p in found.points] == [(1000, 50.0), (2000, 80.0)]
    assert [p.values["prefill_throughput_per_user"] for p in found.points] == pytest.approx([20_000, 25_000])


def test_other_axes_tests_and_machines_have_curves_of_their_own():
    given = [
        ("a.py::t[1]", prefill(10, 5.0, "p-in10-c1")),
        ("a.py::t[2]", prefill(10, 5.0, "p-in10-c2")),
        ("a.py::other[1]", prefill(10, 5.0, "p-in10-c1")),
        ("a.py::t[3]", prefill(10, 5.0, "p-in10-c1", slug="elsewhere")),
    ]
    assert [(curve.load, curve.environment) for curve in curves(given)] == [
        ("p-c1", "h200x1-embedded"),
        ("p-c2", "h200x1-embedded"),
        ("p-c1", "h200x1-embedded"),
        ("p-c1", "elsewhere"),
    ]


def test_loads_of_both_phases_have_none():
    assert curves([("a", result())]) == ()


def spec(**fields):
    given = {"input_tokens": {"sweep": [100, 200]}, "concurrency": 1, "requests": 1} | fields
    return LoadSpec(**given).points("p")


def test_prefill_asks_for_one_token_and_decode_for_all_of_them():
    assert [(load.output_tokens, load.ignore_eos) for load in spec(phase="prefill")] == [(1, True)] * 2
    assert [(load.output_tokens, load.ignore_eos) for load in spec(phase="decode", output_tokens=64)] == [
        (64, True)
    ] * 2


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"phase": "prefill", "output_tokens": 64}, "phase: prefill needs output_tokens: 1, given 64"),
        ({"phase": "decode", "ignore_eos": False}, "phase: decode needs ignore_eos: true, given False"),
        ({"phase": "lunch"}, "phase"),
    ],
)
def test_mistakes(fields, problem):
    with pytest.raises(ValueError, match=problem):
        spec(**fields)
