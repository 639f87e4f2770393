"""What real vLLM counts of our prompts, with the tiny model's own tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from test_vllm import MODEL, vllm_config, vllm_engine  # noqa: F401 - the fixture skips this module too

from pytest_llmperf.load.driver import run_load
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import Run
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def server(vllm_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmServer]:  # noqa: F811
    with start_server(vllm_config(), tmp_path_factory.mktemp("logs"), ()) as running:
        yield running


def _run(server: LlmServer, **changes: Any) -> Run:
    given: dict[str, Any] = {"name": "p", "input_tokens": 50, "output_tokens": 8, "concurrency": 2, "requests": 4}
    point = LoadPoint(**(given | {"tokenizer": str(MODEL)} | changes))
    run = asyncio.run(run_load(server.targets, point, make_trace(point, "key"), run_index=0))
    assert [record.error for record in run.records] == [None] * len(run.records)
    return run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"endpoint": "completions"},
        {"endpoint": "completions", "prompt_as": "token-ids"},
        {"endpoint": "responses"},
    ],
    ids=["chat", "completions", "token ids", "responses"],
)
def test_prompts_have_exactly_the_tokens_asked_for(server: LlmServer, changes: dict[str, Any]) -> None:
    run = _run(server, **changes)
    assert {(record.input_tokens, record.input_tokens_source) for record in run.records} == {(50, "usage")}
    assert {(record.output_tokens, record.token_source) for record in run.records} == {(8, "usage")}


def test_shared_prefix_and_prompt_are_exact_together(server: LlmServer) -> None:
    run = _run(server, shared_prefix={"prefixes": 2, "tokens": 32})
    assert {record.input_tokens for record in run.records} == {82}


def test_a_conversation_on_vllm(server: LlmServer) -> None:
    run = _run(server, conversation={"turns": 3}, requests=6)
    lengths = {record.turn: record.input_tokens or 0 for record in run.records}
    assert lengths[0] == 50 + 4
    assert lengths[0] < lengths[1] < lengths[2]
