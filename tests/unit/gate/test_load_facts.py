"""Loads that differ never count as the same: every key is hard, of the measuring, in the trace hash, or unrelated."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from samples import point, result, server

from pytest_llmperf.definitions import parse_quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.growth import appended, recorded, stored_session
from pytest_llmperf.gate.baselines.model import Baseline, differences
from pytest_llmperf.gate.baselines.parse import parse_baseline
from pytest_llmperf.gate.baselines.text import baseline_text
from pytest_llmperf.gate.load_facts import HARD, IN_TRACE, MEASURING, UNRELATED
from pytest_llmperf.gate.regression import gated_series
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.runner.tasks.capacity import search_hash

HOW_TO = (
    "Put it into one list of pytest_llmperf/gate/load_facts.py: IN_TRACE where the trace hash changes with it (then "
    "give EXAMPLES here a pair of loads that differ in it alone), HARD where it changes what is sent or when without "
    "changing the hash, MEASURING where it changes how the same work is measured, UNRELATED with the reason where it "
    "does neither."
)


def test_every_key_of_a_load_is_in_one_list():
    lists = [*IN_TRACE, *HARD, *MEASURING, *UNRELATED]
    keys = LoadSpec.model_fields.keys() | LoadPoint.model_fields.keys()
    assert len(lists) == len({*lists}), "a key is in two lists of gate/load_facts.py"
    assert not {*lists} - keys, f"no load has these keys any more: {sorted({*lists} - keys)}"
    assert not keys - {*lists}, f"new keys of a load: {sorted(keys - {*lists})}. {HOW_TO}"


# What the trace hash covers

CLOSED = {"name": "p", "input_tokens": 20, "output_tokens": 4, "concurrency": 3, "requests": 5}
OPEN = {**CLOSED, "concurrency": None, "request_rate": 10.0}
BY_TIME = {**CLOSED, "requests": None, "duration": "9 s"}
NORMAL = {"mean": 20, "sd": 5, "min": 10, "max": 30}
TURNS = {**CLOSED, "conversation": {"turns": 2}}
TRACE = {"name": "p", "endpoint": "completions"}
MOONCAKE = {"file": "{folder}/trace.jsonl", "format": "mooncake"}
CAPACITY = {
    **OPEN,
    "request_rate": None,
    "requests": 30,
    "capacity": {"request_rate": "1:9", "sla": {"ttft_p50": "<= 1 s"}},
}

EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "input_tokens": (CLOSED, {"input_tokens": 21}),
    "input_tokens.mean": ({**CLOSED, "input_tokens": NORMAL}, {"input_tokens": {**NORMAL, "mean": 25}}),
    "input_tokens.sd": ({**CLOSED, "input_tokens": NORMAL}, {"input_tokens": {**NORMAL, "sd": 9}}),
    "input_tokens.min": ({**CLOSED, "input_tokens": NORMAL}, {"input_tokens": {**NORMAL, "min": 20}}),
    "input_tokens.max": ({**CLOSED, "input_tokens": NORMAL}, {"input_tokens": {**NORMAL, "max": 20}}),
    "output_tokens": (CLOSED, {"output_tokens": 5}),
    "prompt_as": ({**CLOSED, "endpoint": "completions"}, {"prompt_as": "token-ids"}),
    "prompts": (
        {**CLOSED, "input_tokens": None, "prompts": {"file": "{folder}/a.jsonl"}},
        {"prompts": {"file": "{folder}/b.jsonl"}},
    ),
    "dataset_entries": (CLOSED, {"dataset_entries": 2}),
    "shared_prefix": (CLOSED, {"shared_prefix": {"prefixes": 1, "tokens": 5}}),
    "shared_prefix.prefixes": (
        {**CLOSED, "shared_prefix": {"prefixes": 1, "tokens": 5}},
        {"shared_prefix": {"prefixes": 2, "tokens": 5}},
    ),
    "shared_prefix.tokens": (
        {**CLOSED, "shared_prefix": {"prefixes": 1, "tokens": 5}},
        {"shared_prefix": {"prefixes": 1, "tokens": 6}},
    ),
    "conversation": (CLOSED, {"conversation": {"turns": 2}}),
    "conversation.turns": (TURNS, {"conversation": {"turns": 3}}),
    "conversation.think_time": (TURNS, {"conversation": {"turns": 2, "think_time": "1 s"}}),
    "batch_size": ({**CLOSED, "endpoint": "completions"}, {"batch_size": 2}),
    "prefix_cache": (CLOSED, {"prefix_cache": "warm"}),
    "seed": (CLOSED, {"seed": 1}),
    "temperature": (CLOSED, {"temperature": 0.5}),
    "ignore_eos": (CLOSED, {"ignore_eos": False}),
    "extra_body": (CLOSED, {"extra_body": {"top_p": 0.5}}),
    "max_tokens_field": (CLOSED, {"max_tokens_field": "max_completion_tokens"}),
    "concurrency": (CLOSED, {"concurrency": 2}),
    "request_rate": (OPEN, {"request_rate": 11.0}),
    "arrival": (OPEN, {"arrival": "poisson"}),
    "burstiness": ({**OPEN, "arrival": "gamma"}, {"burstiness": 2.0}),
    "requests": (CLOSED, {"requests": 6}),
    "duration": (BY_TIME, {"duration": "8 s"}),
    "ramp": (BY_TIME, {"ramp": {"from": 1, "over": "9 s"}}),
    "ramp.start": ({**BY_TIME, "ramp": {"from": 1, "over": "9 s"}}, {"ramp": {"from": 2, "over": "9 s"}}),
    "ramp.over": ({**BY_TIME, "ramp": {"from": 1, "over": "9 s"}}, {"ramp": {"from": 1, "over": "8 s"}}),
    "ramp.shape": (
        {**OPEN, "request_rate": 40.0, "ramp": {"from": 1, "over": "9 s"}},
        {"ramp": {"from": 1, "over": "9 s", "shape": "exponential"}},
    ),
    "stages": (
        {**OPEN, "request_rate": None, "requests": None, "stages": [{"request_rate": 9, "duration": "1 s"}]},
        {"stages": [{"request_rate": 9, "duration": "1 s"}, {"request_rate": 20, "duration": "1 s"}]},
    ),
    "stages.request_rate": (
        {**OPEN, "request_rate": None, "requests": None, "stages": [{"request_rate": 9, "duration": "1 s"}]},
        {"stages": [{"request_rate": 8, "duration": "1 s"}]},
    ),
    "stages.concurrency": (
        {**CLOSED, "concurrency": None, "requests": None, "stages": [{"concurrency": 2, "duration": "1 s"}]},
        {"stages": [{"concurrency": 3, "duration": "1 s"}]},
    ),
    "stages.duration": (
        {**CLOSED, "concurrency": None, "requests": None, "stages": [{"concurrency": 2, "duration": "1 s"}]},
        {"stages": [{"concurrency": 2, "duration": "2 s"}]},
    ),
    "trace": ({**TRACE, "trace": MOONCAKE}, {"trace": {**MOONCAKE, "file": "{folder}/other.jsonl"}}),
    "trace.time_scale": ({**TRACE, "trace": MOONCAKE}, {"trace": {**MOONCAKE, "time_scale": 2.0}}),
    "trace.time_unit": ({**TRACE, "trace": MOONCAKE}, {"trace": {**MOONCAKE, "time_unit": "s"}}),
    "trace.block_tokens": (
        {**TRACE, "trace": {**MOONCAKE, "file": "{folder}/blocks.jsonl", "block_tokens": 20}},
        {"trace": {**MOONCAKE, "file": "{folder}/blocks.jsonl", "block_tokens": 30}},
    ),
    "trace.limit": ({**TRACE, "trace": MOONCAKE}, {"trace": {**MOONCAKE, "limit": 1}}),
    "capacity": (CAPACITY, {"capacity": {"request_rate": "1:9", "sla": {"ttft_p50": "<= 2 s"}}}),
    "capacity.sla": (CAPACITY, {"capacity": {"request_rate": "1:9", "sla": {"ttft_p99": "<= 1 s"}}}),
    "capacity.concurrency": (CAPACITY, {"capacity": {"concurrency": "1:9", "sla": {"ttft_p50": "<= 1 s"}}}),
    "cancel": (CLOSED, {"cancel": {"share": 0.5, "after": "9 s"}}),
    "cancel.share": ({**CLOSED, "cancel": {"share": 0.5, "after": "9 s"}}, {"cancel": {"share": 1, "after": "9 s"}}),
    "cancel.after": ({**CLOSED, "cancel": {"share": 0.5, "after": "9 s"}}, {"cancel": {"share": 0.5, "after": "8 s"}}),
    "max_in_flight": (OPEN, {"max_in_flight": 2}),
    "connection": (CLOSED, {"connection": "fresh"}),
}
UNSEEN = {
    "prompts.file": "the name of a file is nothing that is sent",
    "prompts.format": "how the file is read; what is read is sent",
    "trace.file": "the name of a file is nothing that is sent",
    "trace.format": "how the file is read; what is read is sent",
    "capacity.request_rate": "where is searched is no part of the answer",
    "capacity.within": "how finely is told with the answer",
}
"""Keys of what `IN_TRACE` holds that need not change the hash."""
SAME_KIND = {"output_tokens": "input_tokens"}
"""Both are Lengths."""


def own_keys(key: str) -> Iterator[str]:
    """The key, and those of the mappings that it takes."""
    yield key
    for kind in _kinds(LoadPoint.model_fields[key].annotation):
        if key not in SAME_KIND:
            yield from (f"{key}.{name}" for name in kind.model_fields)


def _kinds(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {kind for part in get_args(annotation) for kind in _kinds(part)}


def test_every_key_in_the_trace_has_an_example():
    keys = {own for key in IN_TRACE for own in own_keys(key)}
    missing = keys - EXAMPLES.keys() - UNSEEN.keys()
    assert not missing, f"nothing shows that the trace hash changes with {sorted(missing)}. {HOW_TO}"


@pytest.mark.parametrize("key", EXAMPLES)
def test_the_hash_changes_with_the_key(key, tmp_path):
    for name, text in (("a", "hello"), ("b", "other")):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"input": f"{text} {n}"}) + "\n" for n in range(9)))
    for name, length, ids in (("trace", 20, [1]), ("other", 30, [1]), ("blocks", 40, [1, 2])):
        lines = [{"timestamp": 100 * n, "input_length": length, "output_length": 4, "hash_ids": ids} for n in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    base, change = (json.loads(json.dumps(given).replace("{folder}", str(tmp_path))) for given in EXAMPLES[key])
    one, other = (LoadPoint.model_validate(given) for given in (base, {**base, **change}))
    assert hashed(one) != hashed(other)


def hashed(load: LoadPoint) -> str:
    return search_hash(load) if load.capacity else make_trace(load, "key").hash


# What is compared beside it


def held(found=None, path="b.json") -> Baseline:
    found = found or result()
    session = stored_session(found, datetime(2026, 1, 2, tzinfo=UTC), "abc")
    return recorded(Path(path), "t", found, session, {})


def stored_by_an_earlier_version(found=None) -> Baseline:
    data = json.loads(baseline_text(held(found)))
    for session in data["sessions"]:
        del session["measuring"]
    for key in (HARD | MEASURING) & data["load"].keys():
        if data["load"][key] == LoadPoint.model_validate({"name": ""}).as_dict().get(key):
            del data["load"][key]  # it was no key then
    return parse_baseline(json.dumps(data), Path("b.json"))


ENDPOINTS = ("chat", "completions", "responses", "generate", "generate-once", "infer", "grpc")


@pytest.mark.parametrize("made", [held, stored_by_an_earlier_version])
@pytest.mark.parametrize("then", ENDPOINTS)
@pytest.mark.parametrize("now", ENDPOINTS)
def test_another_endpoint_is_not_comparable(made, then, now):
    baseline, found = made(result(load=point(endpoint=then))), result(load=point(endpoint=now))
    if then == now:
        assert not differences(baseline, found).elsewhere
    else:
        with pytest.raises(BaselineError, match=f"not comparable: endpoint was '{then}', is '{now}'"):
            differences(baseline, found)


MEASURED = {
    "stream_usage": ({}, {"stream_usage": "last-chunk"}, "stream_usage was 'every-chunk', is 'last-chunk'"),
    "warmup_requests": ({}, {"warmup_requests": 9}, "warmup_requests was 2, is 9"),
    "stability": ({"stability": {"within": "5 %"}}, {}, "stability was {.*}, is None"),
    "slo": ({"slo": {"ttft": "1 s"}}, {"slo": {"ttft": "2 s"}}, "slo was {'ttft': 1000.0}, is {'ttft': 2000.0}"),
    "good_finish_reasons": ({}, {"good_finish_reasons": ("abort",)}, r"good_finish_reasons was \[\], is \['abort'\]"),
    "tokenizer": ({"tokenizer": "/m/one"}, {"tokenizer": "/n/two"}, "tokenizer was 'one', is 'two'"),
    "answers": (
        {"answers": {"regex": "a"}},
        {"answers": {"regex": "b"}},
        r"answers was {'regex': 'a'}, is {'regex': 'b'}",
    ),
}


def test_every_key_of_the_measuring_has_an_example():
    assert MEASURED.keys() == MEASURING, HOW_TO


@pytest.mark.parametrize("made", [held, stored_by_an_earlier_version])
@pytest.mark.parametrize("key", MEASURED)
def test_another_way_of_measuring_is_told_and_doubles_the_session_term(made, key):
    then, now, sentence = MEASURED[key]
    found = differences(made(result(load=point(**then))), result(load=point(**now)))
    assert found.elsewhere
    assert re.fullmatch(sentence, found.sentences[0])


def test_kernel_and_user_stamps_are_told_and_double_the_session_term():
    by_user = [replace(run, client=replace(run.client, stamps="user")) for run in result().runs]
    found, itl = result(by_user), {parse_quantity("itl_p50"): 0.05}
    assert differences(held(), found).sentences == ("stamps was 'kernel', is 'user'",)
    doubled, plain = (gated_series(held(), one, itl)[0][0].prior.session_sd for one in (found, result()))
    assert doubled == 2 * plain > 0


def test_what_some_session_of_the_reference_had_is_no_difference():
    by_user = result([replace(run, client=replace(run.client, stamps="user")) for run in result().runs])
    session = stored_session(by_user, datetime(2026, 1, 3, tzinfo=UTC), "abc")
    baseline = appended(held(), by_user, session)
    assert differences(baseline, result()) == differences(baseline, by_user)
    assert not differences(baseline, by_user).elsewhere


def test_what_an_earlier_version_did_not_store_is_told_and_not_refused():
    found = differences(stored_by_an_earlier_version(), result())
    assert found.sentences == (
        "whether stamps, token_source and warmup changed is not known: an earlier version recorded the baseline",
    )
    assert not found.elsewhere
    grown = appended(
        stored_by_an_earlier_version(), result(), stored_session(result(), datetime(2026, 1, 3, tzinfo=UTC), None)
    )
    assert differences(parse_baseline(baseline_text(grown), grown.path), result()).sentences == ()


def test_a_default_that_is_written_out_is_no_difference():
    """And a tokenizer's folder may lie anywhere."""
    for then, now in (({}, {"stream_usage": "every-chunk"}), ({"tokenizer": "/a/tok"}, {"tokenizer": "/b/tok"})):
        assert differences(held(result(load=point(**then))), result(load=point(**now))).sentences == ()
    remote = "{engine: openai, url: 'http://x'}"
    then, now = (result(config=server(remote), load=point(stream_usage=usage)) for usage in (None, "last-chunk"))
    assert differences(held(then), now).sentences == ()


def test_goodput_by_other_limits_is_not_compared():
    then, now = (result(load=point(slo={"ttft": wait})) for wait in ("1 s", "2 s"))
    latency, goodput = ({parse_quantity(name): 0.05} for name in ("itl_p50", "goodput"))
    with pytest.raises(BaselineError, match=r"goodput counts by slo, which was {'ttft': 1000.0}, is {'ttft': 2000.0}"):
        gated_series(held(then), now, goodput)
    gated_series(held(then), now, latency)
    gated_series(held(then), then, goodput)
