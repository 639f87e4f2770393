"""The part of a load in comparability: every key of a load is in exactly one of four lists. Pure.

A new key goes into `IN_TRACE` where the trace hash changes with it, else into `HARD` where it changes what is sent or
when, into `MEASURING` where it changes how the same work is measured, and into `UNRELATED`, with the reason, where it
does neither. tests/unit/gate/test_load_facts.py fails until it is in one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from pytest_llmperf.metrics.result import Result
from pytest_llmperf.plan.load.answers import scoring_facts
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ENGINE_MODELS

IN_TRACE = frozenset(
    {
        *("input_tokens", "output_tokens", "prompt_as", "prompts", "dataset_entries", "shared_prefix", "conversation"),
        *("batch_size", "prefix_cache", "seed", "temperature", "ignore_eos", "extra_body", "max_tokens_field"),
        *("concurrency", "request_rate", "arrival", "burstiness", "requests", "duration", "ramp", "stages", "trace"),
        *("capacity", "cancel", "max_in_flight", "connection"),
    }
)
"""Covered by the trace hash: a differing one makes another hash. Of `capacity` all but the range that is searched."""

HARD = frozenset({"endpoint"})
"""Changes the work and is in no hash: nothing is compared where it differs."""

MEASURING = frozenset(
    {"stream_usage", "warmup_requests", "stability", "slo", "tokenizer", "good_finish_reasons", "answers"}
)
"""Changes how the work is measured: reported where it differs, and sessions are expected to differ by twice as much."""

UNRELATED: Mapping[str, str] = {
    "name": "the test's id has it",
    "entry": "a part of the name",
    "phase": "what it asks for is in output_tokens and ignore_eos",
    "connect_timeout": "decides only when a request has failed, and failed requests are limited by error_rate",
    "read_timeout": "as connect_timeout",
    "no_data_timeout": "as connect_timeout",
    "max_response_mib": "as connect_timeout",
    "warmup": "what came of it is a fact of the runs, and in measured_how",
    "length": "what was decided is in requests",
    "workers": "who sends; a client that cannot keep up makes a run INVALID",
    "runs": "how often, not what",
    "relaunch": "launches are told apart in what is stored",
    "sla": "what is asked of the numbers",
    "margins": "what is asked of the numbers",
    "gate": "what is asked of the numbers",
}

_DEFAULTS = LoadPoint.model_validate({"name": ""}).model_dump(mode="json")
_Facts = Mapping[str, Any]


def hard_facts(load: _Facts) -> dict[str, Any]:
    """Values of the `HARD` keys, from `LoadPoint.as_dict` or what a file has kept of one.

    A key that is not there has its default: files from before it existed were measured so.
    """
    return {key: _value(load, key) for key in sorted(HARD)}


def changed_load(then: _Facts, now: _Facts) -> list[str]:
    """Sentences on the `IN_TRACE` keys that differ, as in `input_tokens was 50, is 60`."""
    pairs = {key: (_value(then, key), _value(now, key)) for key in sorted(IN_TRACE)}
    return [f"{key} was {before!r}, is {after!r}" for key, (before, after) in pairs.items() if before != after]


def measuring_facts(load: _Facts, engine: str) -> dict[str, Any]:
    """Values of the `MEASURING` keys, likewise; of a tokenizer the name, since its folder may lie anywhere."""
    found = {key: _value(load, key) for key in sorted(MEASURING)}
    server = ENGINE_MODELS.get(engine)
    usage = "every-chunk" if server and server.usage_in_every_chunk else "last-chunk"
    tokenizer = found["tokenizer"] and PurePath(found["tokenizer"]).name
    answers = found["answers"] and scoring_facts(found["answers"])
    return {**found, "stream_usage": found["stream_usage"] or usage, "tokenizer": tokenizer, "answers": answers}


def measured_how(result: Result) -> dict[str, Any]:
    """A result's way of measuring: the `MEASURING` keys, the clock of receive times, and the counter of tokens.

    For a capacity in req/s also the length of its levels: earlier versions had shorter ones, and higher answers.
    """
    asked = result.load.capacity
    levels = {"capacity_levels": "as long as their limits need"} if asked and asked.request_rate else {}
    return {
        **levels,
        **measuring_facts(result.load.as_dict(), result.server.engine),
        "stamps": "+".join(sorted({run.client.stamps for run in result.runs})),
        "token_source": "+".join(result.metrics.token_sources),
        "warmup": "until steady" if any(run.warmup for run in result.runs) else "requests",
    }


def measured_otherwise(sessions: Sequence[_Facts], now: _Facts) -> Iterator[str]:
    """A sentence for each fact of `now` that none of the sessions' `measured_how` had, though some session holds it."""
    for name, value in now.items():
        known = [session[name] for session in sessions if name in session]
        if known and value not in known:
            yield f"{name} was {known[-1]!r}, is {value!r}"


def unknown_before(sessions: Sequence[_Facts], now: _Facts) -> str:
    """A sentence about facts that no session holds, as versions before them stored none; empty where there are none."""
    names = [name for name in now if not any(name in session for session in sessions)]
    *others, last = names or [""]
    listed = f"{', '.join(others)} and {last}" if others else last
    return f"whether {listed} changed is not known: an earlier version recorded the baseline" * bool(names)


def _value(load: _Facts, key: str) -> Any:
    found = load.get(key)
    return _DEFAULTS[key] if found is None else found
