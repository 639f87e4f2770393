"""The OpenAI bodies and the emission log: what is read, what is refused, what is written."""

import json
from dataclasses import asdict

import pytest

from pytest_llmperf.embedded.engine import tokenizer
from pytest_llmperf.embedded.http import api
from pytest_llmperf.embedded.http.api import ApiError, Piece, Shapes, TokenCounts
from pytest_llmperf.embedded.http.streams import fault_of
from pytest_llmperf.embedded.settings import EngineSettings
from pytest_llmperf.embedded.truth import Emission, read_emission_log

SETTINGS = EngineSettings(max_model_len=64)


def parse(kind: api.Kind = "completion", **body) -> api.Call:
    return api.parse_call(kind, json.dumps(body).encode(), SETTINGS)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("word", [tokenizer.encode("word")]),
        (["word", "a"], [tokenizer.encode("word"), tokenizer.encode("a")]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
    ids=["text", "texts", "ids", "lists-of-ids"],
)
def test_prompts(prompt, tokens):
    assert [list(item) for item in parse(prompt=prompt).prompts] == tokens


def test_max_tokens_are_clamped_to_the_room_left():
    call = parse(prompt=[[1] * 10, [1] * 60], max_tokens=20)
    assert call.max_tokens == (20, 4)


def test_max_tokens_by_default():
    assert parse(prompt=[1]).max_tokens == (16,)
    assert parse("chat", messages=[{"role": "user", "content": "word"}]).max_tokens == (64 - 4,)
    assert parse("chat", messages=[{"role": "user", "content": "a"}], max_completion_tokens=3).max_tokens == (3,)


def test_content_parts_and_unknown_fields():
    parts = [{"type": "text", "text": "word"}, {"type": "text", "text": " word"}]
    call = parse("chat", messages=[{"role": "user", "content": parts}], top_p=0.5, made_up={"x": 1})
    assert call.prompts == parse("chat", messages=[{"role": "user", "content": "word word"}]).prompts


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("completion", b"{", 400, "not JSON"),
        ("completion", b"[]", 400, "The body is list"),
        ("completion", b"{}", 400, "Field required: prompt"),
        ("completion", b'{"prompt": ""}', 400, "The prompt is empty"),
        ("completion", b'{"prompt": []}', 400, "The prompt is empty"),
        ("completion", b'{"prompt": {}}', 400, "text or a list of token ids"),
        ("completion", b'{"prompt": [999999]}', 400, "Token id 999999 is out of vocabulary"),
        ("completion", b'{"prompt": "a", "max_tokens": 0}', 400, "max_tokens is 0; allowed: at least 1"),
        ("completion", b'{"prompt": "a", "max_tokens": "9"}', 400, 'max_tokens is "9"; allowed: int'),
        ("completion", b'{"prompt": "a", "stream": 1}', 400, "stream is 1; allowed: bool"),
        ("completion", b'{"prompt": "a", "temperature": -1}', 400, "temperature is -1; allowed: at least 0"),
        ("completion", b'{"prompt": "a", "n": 2}', 400, "n is 2; allowed: 1"),
        ("completion", b'{"prompt": "a", "model": "gpt"}', 404, "`gpt` does not exist"),
        ("completion", b'{"prompt": "a", "stream_options": {"include_usage": true}}', 400, "only be defined when"),
        ("completion", json.dumps({"prompt": [1] * 64}).encode(), 400, "maximum context length is 64 tokens"),
        ("chat", b"{}", 400, "Field required: messages"),
        ("chat", b'{"messages": ["hi"]}', 400, "A message is an object"),
        ("chat", b'{"messages": [{"role": "user"}]}', 400, "a role and a content"),
        ("chat", b'{"messages": [{"role": "user", "content": [{"text": null}]}]}', 400, "a role and a content"),
        ("chat", b"[" * 100_000, 400, "not JSON"),
    ],
)
def test_a_wrong_body_is_refused(kind, body, status, message):
    with pytest.raises(ApiError) as raised:
        api.parse_call(kind, body, SETTINGS)
    error = raised.value.body["error"]
    assert error["code"] == status
    assert message in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_token_ids_are_returned_on_demand():
    call = parse(prompt=[5, 6], return_token_ids=True)
    shapes = Shapes(call, "r", 0)
    piece = Piece(0, "text", (7, 8), None)
    first = shapes.chunk(piece, TokenCounts(2, 2), first=True)["choices"][0]
    later = shapes.chunk(piece, TokenCounts(2, 4), first=False)["choices"][0]
    assert (first["prompt_token_ids"], first["token_ids"]) == ([5, 6], [7, 8])
    assert (later["prompt_token_ids"], later["token_ids"]) == (None, [7, 8])
    whole = shapes.whole([piece], TokenCounts(2, 2))["choices"][0]
    assert (whole["prompt_token_ids"], whole["token_ids"]) == ([5, 6], [7, 8])


def test_faults_recur():
    settings = EngineSettings(fault_status_every=3, fault_hang_every=2)
    assert [fault_of(n, settings) for n in range(1, 7)] == [None, "hang", "status", "hang", None, "status"]


def test_an_emission_comes_back_from_the_log(tmp_path):
    emission = Emission("r-1", 1, 2, (3, 4, 4), (1, 2), 9)
    path = tmp_path / "emissions.jsonl"
    line = json.dumps(asdict(emission)) + "\n"
    path.write_text(line * 2 + line[:20])
    assert read_emission_log(path) == [emission, emission]
