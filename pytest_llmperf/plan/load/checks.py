"""Checks of one point: values that contradict each other."""

from __future__ import annotations

from pytest_llmperf.plan.fields import EntryError
from pytest_llmperf.plan.load.answers import AnswerSpec
from pytest_llmperf.plan.load.capacity import CAPACITIES, FEWEST_REQUESTS
from pytest_llmperf.plan.load.files.data_lines import MOST_TOKENS
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.prompts import Conversation, Lengths, PromptSpec

MOST_REQUESTS = 1_000_000
"""Most requests of one run: a trace takes some kB of memory per request."""
MOST_RUNS = 10_000
"""Most first runs of a point: each is in the report."""
MOST_SLOTS = 100_000
"""Most requests in flight."""
_MOST_PROMPT_TOKENS = 2_000_000_000
_MOST = {
    "requests": MOST_REQUESTS,
    "warmup_requests": MOST_REQUESTS,
    "dataset_entries": MOST_REQUESTS,
    "concurrency": MOST_SLOTS,
    "batch_size": 10_000,
    "input_tokens": MOST_TOKENS,
    "output_tokens": MOST_TOKENS,
}


def _check_sizes(load: LoadPoint) -> None:
    """Raises EntryError where a load would fill memory or never begin: such a number is a slip."""
    for key, most in _MOST.items():
        value = getattr(load, key)
        size = (value.max or value.mean) if isinstance(value, Lengths) else value
        if size is not None and size > most:
            raise EntryError(f"{key}: {size:.6g} is more than a run can have: {most:,}", key)
    requests = _expected_requests(load)
    if requests > MOST_REQUESTS:
        raise EntryError(f"{requests:.3g} requests in this time are more than a run can have: {MOST_REQUESTS:,}")
    length = load.input_tokens.mean if isinstance(load.input_tokens, Lengths) else load.input_tokens or 0
    prefix = load.shared_prefix
    tokens = requests * length * load.batch_size + (prefix.prefixes * prefix.tokens if prefix else 0)
    if tokens > _MOST_PROMPT_TOKENS:
        raise EntryError(
            f"prompts of {tokens:.3g} tokens in all are more than a run can have ({_MOST_PROMPT_TOKENS:,}): fewer "
            "requests, shorter prompts, or `dataset_entries`, which are used in turn"
        )


def _expected_requests(load: LoadPoint) -> float:
    """Number of requests in a run; the average of a run that is bounded by time and goes by a rate."""
    if load.requests is not None:
        return load.requests if load.dataset_entries is None else min(load.requests, load.dataset_entries)
    stages = sum((stage.request_rate or 0.0) * stage.duration for stage in load.stages)
    rate = load.request_rate or (load.capacity.span[1] if load.capacity and load.capacity.request_rate else 0.0)
    return stages + rate * (load.duration or 0.0)


def check_point(load: LoadPoint) -> None:
    """Raises ValueError where the values of one point contradict each other, or are more than a run can have."""
    _check_sizes(load)
    load.check_shape()
    if load.ramp is not None and load.ramp.start in (load.concurrency, load.request_rate):
        raise ValueError(f"ramp: it starts from {load.ramp.start:g}, which is where it would end")
    if load.ramp is not None and load.concurrency is not None and load.ramp.start != int(load.ramp.start):
        raise ValueError(f"ramp: from: {load.ramp.start:g} is a concurrency here; a whole number is needed")
    _check_capacity(load)
    if load.prompt_form == "token-ids" and load.endpoint != "completions":
        raise ValueError(f"prompt_as: token-ids needs endpoint: completions; {load.endpoint} takes text only")
    if load.conversation is not None:
        _check_conversation(load, load.conversation)
    if load.answers is not None:
        _check_answers(load, load.answers)


def _check_answers(load: LoadPoint, answers: AnswerSpec) -> None:
    for key in ("capacity", "trace", "conversation", "phase", "cancel"):
        if getattr(load, key) is not None:
            raise ValueError(f"answers: have no place beside `{key}`")
    if load.batch_size != 1:
        raise ValueError("answers: need `batch_size: 1`, one prompt in a request")
    if answers.scores and load.prompts is None:
        raise ValueError("answers.scores: need `prompts: {file: ...}` with right answers (`output` or `references`)")
    if answers.guard and load.temperature:
        raise ValueError(f"answers.guard: needs `temperature: 0`; answers of {load.temperature:g} differ anyway")


def _check_conversation(load: LoadPoint, conversation: Conversation) -> None:
    if load.endpoint != "chat":
        raise ValueError(f"conversation needs endpoint: chat; {load.endpoint} has no history")
    if not load.closed_loop:
        raise ValueError("conversation needs `concurrency`, the number of users")
    turns = conversation.turns
    if load.prompts is None and turns is None:
        raise ValueError("conversation of synthetic prompts needs `turns`, as in {turns: 3}")
    if load.requests and load.concurrency and load.requests < load.concurrency * (turns or 1):
        raise ValueError(
            f"requests: {load.requests} (turns) is less than one conversation of {turns} turns for each of "
            f"{load.concurrency} users"
        )
    if load.prompts is not None and load.prompts.kind == "csv":
        raise ValueError("conversation needs a ShareGPT or JSONL file; csv holds single prompts")


def check_tokenizer(tokenizer: str | None, load: PromptSpec) -> None:
    """Checked when the plan's own tokenizer is known."""
    if tokenizer is not None:
        return
    if load.prompt_form == "tokenizer":
        raise ValueError("prompt_as: tokenizer needs `tokenizer: PATH`, in the load or for the whole plan")
    if load.prompt_form == "token-ids" and load.prompts is not None:
        raise ValueError("prompt_as: token-ids of a file's texts needs `tokenizer: PATH`")


def _check_capacity(load: LoadPoint) -> None:
    asked = load.capacity
    for limit in load.sla:
        if limit.metric in CAPACITIES and (asked is None or limit.quantity != asked.quantity):
            unit = "req/s" if limit.metric == "capacity" else "requests in flight"
            raise ValueError(f"sla: a capacity in {unit} is limited, but this load does not search for one")
        if limit.metric in CAPACITIES and asked and limit.value > asked.span[1]:
            raise ValueError(f"sla: {limit} lies above the range that is searched, which ends at {asked.span[1]:g}")
    if asked and asked.request_rate and load.requests is not None and load.requests < FEWEST_REQUESTS:
        raise ValueError(
            f"requests: {load.requests} per level are too few to tell whether the server keeps up with a rate; "
            f"at least {FEWEST_REQUESTS} are needed"
        )
