"""How long a token took: per answer, from its first moment on, in the tokens that came after it."""

from dataclasses import replace
from itertools import accumulate

import pytest
from answer_samples import side_by_side
from hypothesis import example, given
from hypothesis import strategies as st
from samples import START_NS, point, record, run

from pytest_llmperf.formulas.pace import RELEASE_NS, came_at_once, inter_token_latency_ms, last_token_ns
from pytest_llmperf.metrics.dialects import DIALECTS, dialect_metrics
from pytest_llmperf.metrics.summary import summarize
from pytest_llmperf.records import RequestRecord


@given(
    st.lists(st.floats(0.3, 500), min_size=1, max_size=40),
    st.booleans(),
)
def test_a_token_per_chunk_has_the_plain_formula(gaps, counted):
    chunks = [10.0, *(10.0 + ms for ms in accumulate(gaps))]
    own = record(0.0, chunks)
    own = own if counted else replace(own, chunk_tokens=None)
    span_ms = (own.chunk_ns[-1] - own.chunk_ns[0]) / 1e6
    assert inter_token_latency_ms(own) == span_ms / len(gaps)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("size", [2, 7, 16])
def test_a_first_chunk_of_several_tokens_is_not_in_the_divisor(counted, size):
    """Tokens take 10 ms each, and a chunk is sent when its last one is there."""
    own = record(0.0, [50.0 + 10.0 * size * k for k in range(1, 5)], tokens=[size] * 4)
    own = own if counted else replace(own, chunk_tokens=None, first_chunk_tokens=(float(size),))
    assert inter_token_latency_ms(own) == pytest.approx(10.0)


def test_the_last_chunk_may_be_shorter():
    own = record(0.0, [160.0, 320.0, 340.0], tokens=[16, 16, 2])
    assert inter_token_latency_ms(own) == pytest.approx(10.0)
    guessed = replace(own, chunk_tokens=None, first_chunk_tokens=(16.0,))
    assert inter_token_latency_ms(guessed) == pytest.approx(10.0)


@pytest.mark.parametrize("apart_us", [0, 3, 40, 200])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_chunks_that_are_released_together_are_one_moment(size, apart_us):
    """16 tokens of 20 ms each, `size` of them at a time and some microseconds apart."""
    released = [20.0 * size * (1 + k // size) + k % size * apart_us / 1e3 for k in range(16)]
    assert inter_token_latency_ms(record(0.0, released)) == pytest.approx(20.0, rel=0.01)


@pytest.mark.parametrize(
    "chunks_ms",
    [
        pytest.param([400.0] * 16, id="one read"),
        pytest.param([400.0] * 9 + [400.004] * 7, id="two segments"),
        pytest.param([400.0 + k * 0.03 for k in range(16)], id="a write per event"),
        pytest.param([400.0 + k * 0.2 for k in range(16)], id="a write per event of a busy proxy"),
        pytest.param([400.0 + k // 8 * 1.5 for k in range(16)], id="two writes"),
    ],
)
def test_an_answer_that_was_held_back_has_no_pace(chunks_ms):
    own = record(0.0, chunks_ms)
    assert inter_token_latency_ms(own) is None
    assert came_at_once(own)
    value = summarize(run([own] * 3), point())
    for name in ("itl", "tpot", "icl", "ttst"):
        assert (value.distributions[name].n, value.distributions[name].mean) == (0, None), name
    assert value.scalars["output_token_throughput_per_user"] is None
    assert value.distributions["ttft"].n == 3


@pytest.mark.parametrize(
    ("ttft_ms", "gap_ms"), [(0.1, 0.1), (10.0, 0.06), (10.0, 0.1), (50.0, 0.1), (100.0, 0.1), (1000.0, 0.3), (9e4, 2.0)]
)
def test_a_fast_decoder_keeps_its_pace(ttft_ms, gap_ms):
    own = record(0.0, [ttft_ms + k * gap_ms for k in range(64)])
    assert inter_token_latency_ms(own) == pytest.approx(gap_ms)


def test_a_simulated_server_that_answers_at_once_keeps_its_pace():
    assert inter_token_latency_ms(record(0.0, [0.2 + k * 0.01 for k in range(32)])) == pytest.approx(0.01)


@pytest.mark.parametrize(("tokens", "lost"), [([1], False), ([5], True), ([1, 0], False)])
def test_an_answer_of_one_chunk(tokens, lost):
    own = record(0.0, [10.0, 20.0][: len(tokens)], tokens=tokens)
    assert (inter_token_latency_ms(own), came_at_once(own)) == (None, lost)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("tokens_of", [(16, 16), (16, 4), (8, 8, 8, 1)])
def test_several_answers_have_the_mean_of_their_paces(tokens_of, counted):
    own = side_by_side(tokens_of, counted=counted)
    assert inter_token_latency_ms(own) == pytest.approx(20.0)
    found = summarize(run([own]), point()).distributions
    assert (found["icl"].min, found["icl"].max, found["icl"].n) == (20.0, 20.0, sum(tokens_of) - len(tokens_of))
    assert found["output_tokens"].mean == sum(tokens_of)


def test_answers_of_different_pace():
    chunks = ((100.0, 0), (110.0, 0), (120.0, 0), (130.0, 1), (170.0, 1), (210.0, 1))
    own = replace(record(0.0, [ms for ms, _ in chunks], answers=2), chunk_answers=tuple(index for _, index in chunks))
    assert inter_token_latency_ms(own) == pytest.approx((10.0 + 40.0) / 2)


def test_an_answer_that_came_at_once_beside_one_that_did_not():
    chunks = ((100.0, 0), (110.0, 0), (120.0, 0), (120.0, 1), (120.0, 1))
    own = replace(record(0.0, [ms for ms, _ in chunks], answers=2), chunk_answers=tuple(index for _, index in chunks))
    assert (inter_token_latency_ms(own), came_at_once(own)) == (None, True)


def test_bundles_of_several_answers():
    """Two answers of four tokens in two chunks of different size."""
    own = record(0.0, [30.0, 30.0, 40.0, 40.0], tokens=[3, 2, 1, 2], answers=2)
    own = replace(own, chunk_answers=(0, 1, 0, 1))
    assert inter_token_latency_ms(own) == pytest.approx((10.0 + 5.0) / 2)
    guessed = replace(own, chunk_tokens=None, first_chunk_tokens=(3.0, 2.0))
    assert inter_token_latency_ms(guessed) == pytest.approx((10.0 + 5.0) / 2)


def test_answers_that_cannot_be_told_apart_have_the_mean_tokens():
    batch = replace(record(0.0, [10.0, 10.0, 20.0, 20.0, 30.0, 30.0], answers=2), chunk_tokens=None)
    assert inter_token_latency_ms(batch) == 10.0


@pytest.mark.parametrize("counted", [True, False])
def test_hidden_tokens_are_not_in_the_divisor(counted):
    own = record(0.0, [890.0 + 10.0 * k for k in range(16)], hidden_tokens=84, output_tokens=100)
    own = own if counted else replace(own, chunk_tokens=None)
    assert inter_token_latency_ms(own) == pytest.approx(10.0)


def test_an_answer_all_of_whose_tokens_were_hidden_ends_with_the_response():
    own = record(0.0, (), hidden_tokens=30, output_tokens=30, end_ms=400.0)
    assert last_token_ns(own) == START_NS + 400_000_000
    assert last_token_ns(record(0.0, (), end_ms=400.0)) is None
    assert (inter_token_latency_ms(own), came_at_once(own)) == (None, False)


@st.composite
def records(draw) -> RequestRecord:
    """Answers as servers may send them: chunks at one moment or apart, with counts or without, for several choices."""
    gaps_us = draw(st.lists(st.sampled_from([0, 1, 30, 60, 10_000]) | st.integers(0, 10**7), max_size=12))
    chunks = [5.0 + us / 1e3 for us in accumulate(gaps_us)]
    many = len(chunks)
    tokens = draw(st.lists(st.integers(0, 5), min_size=many, max_size=many))
    hidden = draw(st.just(0) | st.integers(0, 200))
    answers = draw(st.integers(1, 3))
    of = draw(st.lists(st.integers(0, answers - 1), min_size=many, max_size=many)) if answers > 1 else []
    firsts = draw(st.lists(st.floats(0, 300), max_size=answers))
    total = draw(st.none() | st.just(sum(tokens) + hidden) | st.integers(0, 300))
    made = record(0.0, chunks, tokens=tokens, answers=answers, hidden_tokens=hidden, output_tokens=total)
    return replace(
        made,
        chunk_tokens=tuple(tokens) if draw(st.booleans()) and many else None,
        chunk_answers=tuple(of) if draw(st.booleans()) else (),
        first_chunk_tokens=tuple(firsts),
        due_ns=draw(st.none() | st.just(START_NS - 1_000_000)),
        end_ns=made.chunk_ns[-1] if many else START_NS + draw(st.integers(0, 10**9)),
    )


@given(st.lists(records(), min_size=1, max_size=5), st.sampled_from([point(), point(request_rate=10)]))
@example([record(0.0, [10.0, 10.0 + RELEASE_NS / 1e6])], point())
def test_nothing_is_ever_negative(answers, load):
    """Whatever was answered, every number is none or at least 0, and no tool's definitions stumble over it."""
    load = load.model_copy(update={"slo": {"itl": 5.0, "ttft": 10.0}})
    found = summarize(run(answers), load, gpu_count=2)
    lowest = {name: values.min for name, values in found.distributions.items()} | dict(found.scalars)
    assert {name: value for name, value in lowest.items() if value is not None and not value >= 0} == {}
    assert found.distributions["itl"].min is None or found.distributions["itl"].min > 0
    for name in DIALECTS:
        told = dialect_metrics(name, [run(answers)])
        assert all(value.get("min") is None or value["min"] >= 0 for value in told.values()), name
