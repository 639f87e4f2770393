"""What a point says about its answers: one sentence per kind, with the number of answers."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from answer_samples import side_by_side
from samples import HEALTH, failed, point, record, result, run

from pytest_llmperf.gate.sla import check_sla
from pytest_llmperf.plan.limits import parse_limits
from pytest_llmperf.records import RequestRecord

CHATTY = point(ignore_eos=False)


def remarks(records: Sequence[RequestRecord], load=CHATTY, client=HEALTH) -> tuple[str, ...]:
    return result([run(records, client=client)], load=load).remarks


def remark(records: Sequence[RequestRecord], **options) -> str:
    (found,) = remarks(records, **options)
    return found


def test_plain_answers_have_none():
    assert remarks([record(), failed(), record(0.0, (10.0,))])[1:] == ()
    assert remarks([record(), side_by_side(), record(0.0, (10.0,))]) == ()


def test_prompts_of_another_length_than_asked_for():
    asked = point(ignore_eos=False, input_tokens=24)
    told = remark([replace(record(), input_tokens=63)] * 3, load=asked)
    assert told.startswith("prompts of 24 tokens were asked for, and the server counted 63: a word is no token")
    assert remarks([replace(record(), input_tokens=30)] * 3, load=asked) == ()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("usage", "the last total of the server's"),
        ("tokenizer", "counted by the load's tokenizer"),
        ("chunks", "counted in chunks"),
    ],
)
def test_doubted_usage(source, words):
    doubted = record(token_source=source, usage_doubt="the counts fell")
    found = remark([doubted, doubted, record()])
    assert found.startswith("token counts of 2 of 3 answers were not believed as they stood: the counts fell (2; ")
    assert words in found


def test_many_doubts_are_one_remark_of_the_most_frequent():
    doubted = [record(usage_doubt=f"doubt {kind}") for kind in (1, 2, 2, 3, 3, 3, 4, 4, 4, 4)]
    found = remark(doubted)
    assert found.startswith("token counts of 10 of 10 answers")
    assert [found.count(f"doubt {kind}") for kind in (4, 3, 2, 1)] == [1, 1, 1, 0]


def test_a_server_without_usage_and_one_that_is_not_believed_are_different_things():
    silent, doubted = record(token_source="chunks"), record(token_source="chunks", usage_doubt="it is negative")
    assert "tells no usage" in remark([silent])
    assert "tells no usage" not in remark([doubted])
    assert len(remarks([silent, doubted])) == 2


def test_content_in_unknown_fields():
    found = remark([record(unknown_fields=("delta.whisper",)), record(unknown_fields=("delta.whisper", "delta.x"))] * 2)
    assert (
        found
        == "content in a field that no known API has (delta.whisper, delta.x) was counted as tokens in 4 of 4 answers"
    )


def hidden(sent_ms=0.0, visible=4, unseen=20) -> RequestRecord:
    chunks = [sent_ms + 210.0 + 10.0 * k for k in range(visible)]
    facts = {"hidden_tokens": unseen, "output_tokens": visible + unseen}
    return record(sent_ms, chunks, end_ms=sent_ms + 210.0 + 10.0 * visible, **facts)


def test_hidden_tokens():
    found = remark([hidden(), hidden(visible=0), record()])
    assert found.startswith("40 tokens of 2 of 3 answers were counted by the server and never streamed")
    assert "ttft of these answers has no value" in found


def test_answers_whose_end_nobody_told():
    found = remark([record(end_told=False)] * 3)
    assert found.startswith("no answer said that it was over")
    assert remarks([record(end_told=False), record()]) == ()
    assert remarks([record(end_told=False)], load=point(ignore_eos=False, endpoint="generate")) == ()


AT_ONCE = record(0.0, [400.0] * 4)


def test_answers_at_one_moment_have_no_itl_and_a_remark_with_their_share():
    found = remark([AT_ONCE, record(), AT_ONCE, record(), record(0.0, (10.0,))])
    assert found.startswith("itl of 2 of 4 requests has no value: their tokens came all at one moment")
    assert "proxy" in found
    assert "gzip" in found
    assert "stream_interval" in found


def test_an_endpoint_that_does_not_stream_is_no_news():
    assert remarks([AT_ONCE], load=point(ignore_eos=False, endpoint="generate-once")) == ()


@pytest.mark.parametrize(
    "limit", [{"itl_p99": "<= 1 ms"}, {"tpot_mean": "<= 1 ms"}, {"icl_p99": "<= 1 ms"}, {"ttst_max": "<= 1 ms"}]
)
def test_a_limit_on_a_pace_that_no_answer_has_fails(limit):
    made = result([run([AT_ONCE] * 4)], load=CHATTY)
    (check,) = check_sla(parse_limits(limit), made, 1)
    assert (check.verdict, check.value) == ("FAIL", None)
    assert "no value" in check.describe()


def test_a_rate_per_user_that_no_answer_has_fails():
    made = result([run([AT_ONCE] * 4)], load=CHATTY)
    (check,) = check_sla(parse_limits({"output_token_throughput_per_user": ">= 10 tok/s"}), made, 1)
    assert (check.verdict, check.value) == ("FAIL", None)


def test_an_answer_without_a_pace_meets_no_objective_on_it():
    load = point(ignore_eos=False, slo={"itl": "5 ms"})
    made = result([run([AT_ONCE, record(0.0, [10.0, 12.0, 14.0])])], load=load)
    assert made.metrics.scalars["goodput_share"] == 0.5


def in_clumps(size: int, of: int = 16, apart_us: float = 0.0) -> RequestRecord:
    return record(0.0, [20.0 * size * (1 + k // size) + k % size * apart_us / 1e3 for k in range(of)])


@pytest.mark.parametrize("apart_us", [0.0, 20.0, 200.0])
@pytest.mark.parametrize("size", [2, 4])
def test_chunks_in_bursts(size, apart_us):
    found = remark([in_clumps(size, apart_us=apart_us)] * 4)
    assert found.startswith("100% of the chunks came together with others of their answer")


def test_bursts_are_not_the_servers_where_the_client_was_the_bottleneck():
    assert remarks([in_clumps(4)] * 4, client=replace(HEALTH, cpu_share=0.99)) == ()


@pytest.mark.parametrize("gap_ms", [0.06, 0.1, 10.0])
def test_an_even_stream_is_no_burst(gap_ms):
    assert remarks([record(0.0, [1.0 + gap_ms * k for k in range(64)])] * 4) == ()


def test_fast_tokens_at_the_end_of_a_long_wait_are_told():
    late = record(0.0, [1000.0 + 0.4 * k for k in range(16)])
    assert remark([late, late, record()]).startswith("the tokens of 2 of 3 requests came in the last 2% of their time")
    assert remarks([record(0.0, [1000.0 + 10.0 * k for k in range(2)])]) == ()


def test_of_several_answers_it_is_not_known_whether_the_client_threw_chunks_together():
    """Their paces are right all the same."""
    moments = [80.0 * (1 + k // 4) for k in range(16) for _ in range(2)]
    both = replace(record(0.0, moments, answers=2), chunk_answers=(0, 1) * 16)
    assert remarks([both] * 4) == ()
    assert result([run([both])], load=CHATTY).metrics.distributions["itl"].mean == pytest.approx(20.0)
