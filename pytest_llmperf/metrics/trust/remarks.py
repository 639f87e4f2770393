"""Remarks on the answers of a point: one sentence per kind, with the number of answers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.formulas.pace import RELEASE_NS, TOGETHER, came_at_once, inter_token_latency_ms, token_gaps_ms
from pytest_llmperf.load.endpoints.table import ENDPOINTS
from pytest_llmperf.metrics.summary import Summary
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.prompts import Lengths
from pytest_llmperf.records import RequestRecord

_REQUEST_RATE = Quantity("request_throughput")
_SHARED_FIRST = 0.01
"""Share of requests from which the 99th percentile of TTFT is touched."""
_IN_BURSTS = 0.25
"""Share of chunks that came with another of their answer from which on bursts are the rule."""
_SLOW_CHUNKS_MS = 0.5
"""Mean gap between chunks from which on one of next to nothing stands out; below, it is a fast server's own."""
_FAST_MS, _LATE_SHARE, _FEW = 0.5, 0.02, 0.1
"""Time per token and share of a request's time that few decoders have, and the share of requests worth a remark."""
_TEMPLATE_TOKENS, _OTHER_LENGTH = 16, 0.25
"""Tokens that a chat template adds as a rule, and the share of the length from which on it is another load."""
_MOST_DOUBTS = 3
"""Number of different doubts about token counts in a remark, the most frequent; the request lines have all."""
_COUNTED_BY = {
    "usage": "the last total of the server's",
    "tokenizer": "counted by the load's tokenizer",
    "chunks": "counted in chunks",
    None: "unknown",
}


def answer_remarks(records: Sequence[RequestRecord], load: LoadPoint, metrics: Summary, valid: bool) -> Iterator[str]:
    """Yields what a reader must know of the answers among `records`; `metrics` are theirs.

    `valid` is False where the client is at fault already: it is then not said that the server sent chunks together.
    """
    answers = [record for record in records if record.ok]
    yield from _uncounted(answers)
    yield from _doubted(answers)
    yield from _unknown_fields(answers)
    yield from _hidden(answers)
    yield from _other_prompts(answers, load)
    yield from _clamped(answers, load)
    yield from _endless(answers, load)
    yield from _rateless(answers, load, metrics)
    if ENDPOINTS[load.endpoint].framing != "body":
        yield from _at_once(answers)
        yield from _late_and_fast(answers)
    if valid:
        yield from _in_bursts(answers, metrics) or _first_together(answers)


def _rateless(answers: Sequence[RequestRecord], load: LoadPoint, metrics: Summary) -> Iterator[str]:
    """Reports a burst that is over before its first answer, from which no rate of the server follows."""
    if answers and not load.closed_loop and metrics.value(_REQUEST_RATE) is None:
        yield ("no throughput: no answer ended while requests were sent; let the load last longer than an answer takes")


def _uncounted(answers: Sequence[RequestRecord]) -> Iterator[str]:
    sources = {record.token_source for record in answers if not record.usage_doubt}
    if "tokenizer" in sources:
        yield "output tokens were counted by the load's tokenizer: the server tells no usage"
    if "chunks" in sources:
        yield (
            "output tokens were counted in chunks: the server tells no usage, the load has no `tokenizer`, and a "
            "chunk that does not tell its tokens counts as one"
        )


def _doubted(answers: Sequence[RequestRecord]) -> Iterator[str]:
    """Reports usage that was not believed as it stood."""
    doubts = Counter((record.token_source, record.usage_doubt) for record in answers if record.usage_doubt)
    if doubts:
        most = doubts.most_common(_MOST_DOUBTS)
        listed = "; ".join(f"{why} ({count}; output tokens are {_COUNTED_BY[source]})" for (source, why), count in most)
        yield f"token counts of {doubts.total()} of {len(answers)} answers were not believed as they stood: {listed}"


def _unknown_fields(answers: Sequence[RequestRecord]) -> Iterator[str]:
    found = [record.unknown_fields for record in answers if record.unknown_fields]
    if found:
        names = ", ".join(dict.fromkeys(name for names in found for name in names))
        yield (
            f"content in a field that no known API has ({names}) was counted as tokens in {len(found)} of "
            f"{len(answers)} answers"
        )


def _hidden(answers: Sequence[RequestRecord]) -> Iterator[str]:
    hidden = [record.hidden_tokens for record in answers if record.hidden_tokens]
    if hidden:
        yield (
            f"{sum(hidden)} tokens of {len(hidden)} of {len(answers)} answers were counted by the server and never "
            "streamed in a known form (reasoning that is kept back, for instance): they are in output_tokens and "
            "throughput and not in itl; ttft of these answers has no value (ttfo has, where something was streamed)"
        )


def _other_prompts(answers: Sequence[RequestRecord], load: LoadPoint) -> Iterator[str]:
    """Reports prompts of words that came out longer or shorter than the load asks for; a chat template adds a few."""
    counts = [record.input_tokens for record in answers if record.input_tokens is not None]
    if (
        load.input_tokens is None
        or load.prompt_form != "words"
        or load.conversation
        or load.batch_size > 1
        or not counts
    ):
        return
    asked = load.input_tokens.mean if isinstance(load.input_tokens, Lengths) else load.input_tokens
    sent = float(np.mean(counts))
    if abs(sent - asked) > max(_TEMPLATE_TOKENS, _OTHER_LENGTH * asked):
        yield (
            f"prompts of {asked:g} tokens were asked for, and the server counted {sent:.0f}: a word is no token, and a "
            "chat template adds its own; with `tokenizer` (--tokenizer) they have exactly the length asked for"
        )


def _clamped(answers: Sequence[RequestRecord], load: LoadPoint) -> Iterator[str]:
    """Reports short answers where the load leaves the length to the model; elsewhere such a run is INVALID."""
    cut = [record for record in answers if _is_clamped(record)]
    if cut and not load.ignore_eos:
        yield (
            f"{len(cut)} of {len(answers)} answers were cut before the length that was asked for (first: "
            f"{cut[0].output_tokens} of {cut[0].requested_output_tokens} tokens); is the context (max-model-len) "
            "too short?"
        )


def _is_clamped(record: RequestRecord) -> bool:
    """True if the server ended an answer for its length, and says itself that it is shorter than asked for."""
    by_length = record.token_source == "usage" and record.answers == 1 and record.finish_reason == "length"
    return by_length and record.output_tokens is not None and record.output_tokens < record.requested_output_tokens


def _endless(answers: Sequence[RequestRecord], load: LoadPoint) -> Iterator[str]:
    if answers and ENDPOINTS[load.endpoint].says_end and not any(record.end_told for record in answers):
        yield (
            "no answer said that it was over (neither a finish reason nor [DONE]): one that was cut off counts as whole"
        )


def _at_once(answers: Sequence[RequestRecord]) -> Iterator[str]:
    several = [record for record in answers if token_gaps_ms(record)]
    lost = sum(map(came_at_once, several))
    if lost:
        yield (
            f"itl of {lost} of {len(several)} requests has no value: their tokens came all at one moment, because a "
            "proxy buffers, the stream is compressed (gzip), the server sends it whole (stream_interval) or does not "
            "stream at all; ttst, icl and rates per user leave them out too, and their ttft is the time of all tokens"
        )


def _late_and_fast(answers: Sequence[RequestRecord]) -> Iterator[str]:
    """Reports what may be tokens that were held back, or a fast decoder after a long wait."""
    paced = [(record, itl) for record in answers if (itl := inter_token_latency_ms(record)) is not None]
    fast = sum(itl < _FAST_MS and _decode_share(record) < _LATE_SHARE for record, itl in paced)
    if fast > _FEW * len(paced):
        yield (
            f"the tokens of {fast} of {len(paced)} requests came in the last {_LATE_SHARE:.0%} of their time, in less "
            f"than {_FAST_MS:g} ms each: unless the server decodes so fast, something held them back and let them go, "
            "and itl is not the server's"
        )


def _decode_share(record: RequestRecord) -> float:
    """Share of the time since sending that lies between first and last chunk."""
    first_ns, last_ns = record.chunk_ns[0], record.chunk_ns[-1]
    whole_ns = last_ns - (first_ns if record.sent_ns is None else record.sent_ns)
    return (last_ns - first_ns) / whole_ns if whole_ns > 0 else 1.0


def _alone(answers: Sequence[RequestRecord]) -> list[RequestRecord]:
    """Requests of one answer that came over a time: the only ones of which the client's lateness is known."""
    single = (record for record in answers if record.answers == 1 and not record.chunk_answers)
    return [record for record in single if record.chunk_ns and not came_at_once(record)]


def _in_bursts(answers: Sequence[RequestRecord], metrics: Summary) -> list[str]:
    """Chunks that follow each other at once, and then nothing for long, where it was not the client that was late."""
    icl = metrics.distributions["icl"]
    quarter, mean = icl.stat("p25"), icl.mean
    if quarter is None or mean is None or mean < _SLOW_CHUNKS_MS:
        return []
    near_ms = min(RELEASE_NS / 1e6, TOGETHER * mean)
    if quarter > near_ms:  # where chunks come in pairs every second gap is next to nothing
        return []
    gaps = [np.diff(record.chunk_ns) <= near_ms * 1e6 for record in _alone(answers)]
    chunks = sum(len(near) + 1 for near in gaps)
    together = sum(int(np.sum(np.append(near, False) | np.append(False, near))) for near in gaps)
    if together <= _IN_BURSTS * chunks:
        return []
    return [
        f"{together / chunks:.0%} of the chunks came together with others of their answer, and not because the client "
        "was late: a proxy buffers, the stream is compressed (gzip), or the server sends several at a time "
        "(stream_interval); ttft is then that of a burst, and icl nothing within one and long between two"
    ]


def _first_together(answers: Sequence[RequestRecord]) -> list[str]:
    alone = _alone(answers)
    first = sum(record.chunk_ns[:1] == record.chunk_ns[1:2] for record in alone)
    if first < max(1, _SHARED_FIRST * len(alone)):
        return []
    return [
        f"the first token of {first} of {len(alone)} requests was read together with the next: unless the "
        "server wrote both at once, their TTFT is too high, by the time between the tokens of that read"
    ]
