"""Exact lengths: token ids, and texts that a real tokenizer makes just so many tokens of, whatever their mark."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizer import make_tokenizer

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.trace.texts import fitted
from pytest_llmperf.load.trace.tokenizer import TextTokenizer, load_tokenizer
from pytest_llmperf.load.trace.trace import Trace, make_trace, marked_prompt
from pytest_llmperf.plan.load.point import LoadPoint


@pytest.fixture(scope="module", params=[4000, 700, 270], ids=["a token a word", "two", "bytes"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), request.param)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer in which nearly every word is one token."""
    return make_tokenizer(tmp_path_factory.mktemp("words"), 4000)


def _point(**changes: Any) -> LoadPoint:
    given: dict[str, Any] = {"name": "p", "input_tokens": 40, "output_tokens": 4, "concurrency": 2, "requests": 4}
    return LoadPoint(**(given | changes))


def _counts(trace: Trace, count: Any, runs: int = 3) -> set[int]:
    """Lengths of every prompt of some runs."""
    return {
        count(marked_prompt(request, f"run {run}", trace.pieces)) for request in trace.requests for run in range(runs)
    }


@pytest.mark.parametrize(
    ("endpoint", "tokens"),
    [*itertools.product(["chat", "completions"], [23, 24, 25, 26, 27, 200]), ("responses", 25), ("generate", 25)],
)
def test_a_prompt_has_exactly_its_tokens_in_every_run(folder: str, endpoint: str, tokens: int):
    tokenizer = load_tokenizer(folder)
    count = tokenizer.count_chat if endpoint in ("chat", "responses") else tokenizer.count_completion
    point = _point(endpoint=endpoint, input_tokens=tokens, tokenizer=folder)
    trace = make_trace(point, "key")
    assert _counts(trace, count) == {tokens}
    assert {request.input_tokens for request in trace.requests} == {tokens}


def test_drawn_lengths_are_exact_too(words: str):
    point = _point(input_tokens={"mean": 60, "sd": 20, "min": 10}, tokenizer=words, requests=20)
    count = load_tokenizer(words).count_chat
    trace = make_trace(point, "key")
    lengths = [request.input_tokens for request in trace.requests]
    assert [count(marked_prompt(request, "run", trace.pieces)) for request in trace.requests] == lengths
    assert len(set(lengths)) > 5


def test_shared_prefix_has_its_own_tokens(folder: str):
    tokenizer = load_tokenizer(folder)
    point = _point(shared_prefix={"prefixes": 2, "tokens": 30}, tokenizer=folder, endpoint="completions")
    trace = make_trace(point, "key")
    assert {tokenizer.count(str(request.prefix)) for request in trace.requests} == {30}
    assert _counts(trace, tokenizer.count_completion) == {70}


def test_turns_of_a_conversation_count_without_template(words: str):
    point = _point(conversation={"turns": 2}, input_tokens=9, tokenizer=words)
    trace = make_trace(point, "key")
    assert _counts(trace, load_tokenizer(words).count) == {9}
    assert {request.input_tokens for request in trace.requests} == {None}


@pytest.mark.parametrize(("endpoint", "needed"), [("chat", 5), ("completions", 2)])
def test_too_few_tokens(words: str, endpoint: str, needed: int):
    make_trace(_point(input_tokens=needed, tokenizer=words, endpoint=endpoint), "key")
    message = rf"{needed - 1} tokens are too few for a prompt.* takes {needed}"
    with pytest.raises(PlanError, match=message):
        make_trace(_point(input_tokens=needed - 1, tokenizer=words, endpoint=endpoint), "key")


def test_token_ids_are_exactly_as_many():
    point = _point(prompt_as="token-ids", endpoint="completions", shared_prefix={"prefixes": 2, "tokens": 8})
    trace = make_trace(point, "key")
    prompts = [marked_prompt(request, f"run {run}", trace.pieces) for request in trace.requests for run in range(2)]
    assert {len(prompt) for prompt in prompts} == {48}
    assert len({prompt[8:11] for prompt in prompts}) == len(prompts)
    assert len({prompt[:8] for prompt in prompts}) == 2
    assert all(isinstance(token, int) and 1000 <= token < 2000 for prompt in prompts for token in prompt)
    assert {request.input_tokens for request in trace.requests} == {48}


def test_token_ids_of_a_tokenizer_are_all_but_the_special_ones(words: str):
    trace = make_trace(_point(prompt_as="token-ids", endpoint="completions", tokenizer=words, input_tokens=3000), "key")
    drawn = {token for request in trace.requests for token in request.prompt}
    assert min(drawn) >= 4
    assert max(drawn) > 3000


def test_text_of_a_file_as_token_ids(words: str, tmp_path: Path):
    tokenizer = load_tokenizer(words)
    (tmp_path / "x.jsonl").write_text('{"input": "the man and the dog", "output": "they get old"}\n')
    point = _point(
        prompt_as="token-ids",
        endpoint="completions",
        tokenizer=words,
        input_tokens=None,
        prompts={"file": str(tmp_path / "x.jsonl")},
    )
    request = make_trace(point, "key").requests[0]
    assert request.prompt[3:] == tokenizer.encode("the man and the dog")
    assert request.input_tokens == 8
    assert request.output_tokens == tokenizer.count("they get old") == 3


def test_a_folder_that_is_none(tmp_path: Path):
    with pytest.raises(PlanError, match="nowhere is not a folder"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_a_folder_without_a_tokenizer(tmp_path: Path):
    with pytest.raises(PlanError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))


def test_without_transformers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PlanError, match=r"pip install 'pytest-llmperf\[tokenizers\]'"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_chat_template(tmp_path: Path):
    folder = make_tokenizer(tmp_path, 700, template=None)
    with pytest.raises(PlanError, match="chat template cannot be used"):
        make_trace(_point(tokenizer=folder), "key")


def test_no_exact_text():
    class Twos:
        """Every text has an even number of tokens."""

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [0, 0] * len(text.split())

    with pytest.raises(PlanError, match="no text of exactly 5 tokens"):
        fitted(["a", "b", "c", "d", "e"], 5, TextTokenizer("t", Twos()).count)
