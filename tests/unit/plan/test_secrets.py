"""Secrets in a plan: in plain text they are refused and not shown, filled in they go where nobody reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_llmperf.boundary.literals import literal_secrets
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import parse_plan

KEY = "canary-3f9a7c21d8"
LOAD = {"input_tokens": 10, "output_tokens": 8, "concurrency": 2, "requests": 10}
TRITON = {"engine": "triton", "model": "m"}
ENGINE = {"engine": "trtllm", "flow": "engine", "args": {"max-batch-size": 1, "input-len": 1, "output-len": 1}}
NODE = {"engine": "mlnode", "url": "http://a", "inference_url": "http://b", "gpus": 1}
CHART = {"engine": "kubernetes", "chart": "c", "hardware": "h"}
COMMAND = {"engine": "command", "command": ["x", "{port}"]}
IN_COMMANDS_AND_FILES = {
    "vllm-nested": {"engine": "vllm", "args": {"kv-transfer-config": {"password": "<KEY>"}}},
    "vllm-other-argument": {"engine": "vllm", "args": {"hf-token": "<KEY>"}},
    "sglang-nested": {"engine": "sglang", "args": {"x": {"password": "<KEY>"}}},
    "triton-options": {**TRITON, "models": {"m": {"backend": "vllm"}}, "options": {"metrics-token": "<KEY>"}},
    "triton-list": {**TRITON, "models": {"m": {"backend": "vllm"}}, "options": {"backend-config": ["a,api_key=<KEY>"]}},
    "triton-args": {**TRITON, "models": {"m": {"backend": "vllm"}}, "args": {"hf-token": "<KEY>"}},
    "triton-parameters": {**TRITON, "models": {"m": {"backend": "vllm", "parameters": {"api_key": "<KEY>"}}}},
    "triton-config": {**TRITON, "models": {"m": {"backend": "vllm", "config": {"x": {"api_key": "<KEY>"}}}}},
    "triton-docker": {**TRITON, "models": {"m": {"backend": "vllm"}}, "docker_args": ["--env", "API_KEY=<KEY>"]},
    "triton-docker-joined": {**TRITON, "models": {"m": {"backend": "vllm"}}, "docker_args": ["--env=API_KEY=<KEY>"]},
    "triton-repository": {**TRITON, "repository": "s3://me:<KEY>@host/models", "serve": "m"},
    "trtllm-options": {"engine": "trtllm", "options": {"hf_token": "<KEY>"}},
    "trtllm-convert": {**ENGINE, "convert": {"hf_token": "<KEY>"}},
    "trtllm-template": {**ENGINE, "template": {"api_key": "<KEY>"}},
    "trtllm-args": {"engine": "trtllm", "args": {"x": {"password": "<KEY>"}}},
    "command": {**COMMAND, "command": ["x", "{port}", "--api-key", "<KEY>"]},
    "command-shell": {**COMMAND, "command": ["sh", "-c", "x {port} --api-key <KEY>"]},
    "command-quoted": {**COMMAND, "command": ["sh", "-c", "x {port} --api-key '<KEY>'"]},
    "command-exported": {**COMMAND, "command": ["sh", "-c", "export HF_TOKEN=<KEY>; x {port}"]},
    "command-variable": {**COMMAND, "command": ["sh", "-c", "docker run -e HF_TOKEN=<KEY> x {port}"]},
    "command-header": {**COMMAND, "command": ["x", "{port}", "-H", "Authorization: Bearer <KEY>"]},
    "command-json": {**COMMAND, "command": ["x", "{port}", '{"password": "<KEY>"}']},
    "command-stop": {**COMMAND, "stop": ["x", "--token=<KEY>"]},
    "proxy": {"engine": "vllm", "proxy": {"command": ["x", "{port}", "{replicas}", "--api-key=<KEY>"]}},
    "chart-repository": {**CHART, "repo": "https://me:<KEY>@host"},
    "chart": {**CHART, "chart": "oci://me:<KEY>@host/x"},
    "chart-prepare": {**CHART, "prepare": [["x", "--token", "<KEY>"]]},
}
HANDED_OVER = {
    "vllm": {"engine": "vllm", "args": {"api-key": "<KEY>"}},
    "sglang": {"engine": "sglang", "args": {"admin-api-key": "<KEY>"}},
    "environment": {"engine": "vllm", "env": {"HF_TOKEN": "<KEY>"}},
    "bearer": {**COMMAND, "bearer": "<KEY>"},
    "header": {"engine": "openai", "url": "http://a", "headers": {"X-Api-Key": "<KEY>"}},
    "query": {"engine": "openai", "url": "http://a?api_key=<KEY>"},
    "route": {"engine": "openai", "url": "http://a", "path": "/v1/chat?key=<KEY>"},
    "node-args": {**NODE, "args": {"hf-token": "<KEY>"}},
    "node-url": {**NODE, "url": "http://a?key=<KEY>"},
    "values": {**CHART, "values": {"auth": {"password": "<KEY>"}}},
    "values-variable": {**CHART, "values": {"env": [{"name": "HF_TOKEN", "value": "<KEY>"}]}},
    "values-word": {**CHART, "values": {"args": ["--api-key=<KEY>"]}},
    "values-key": {**CHART, "values": {"secret": {"s3": {"key": "<KEY>"}}}},
    "values-named": {**CHART, "values": {"stores": [{"name": "s3", "api_key": "<KEY>"}]}},
    "values-words": {**CHART, "values": {"args": ["--api-key", "<KEY>"]}},
}


def _error(secret: str, server: object = None, load: object = None, **keys: object) -> str:
    """What is said of the plan; empty where nothing is."""
    given = {"model": "m", "servers": {"s": server or {"engine": "vllm"}}, "loads": {"a": load or LOAD}, **keys}
    try:
        parse_plan(json.dumps(given).replace("<KEY>", secret), "plan.yaml", Path())
    except PlanError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("server", [pytest.param(one, id=name) for name, one in IN_COMMANDS_AND_FILES.items()])
def test_a_secret_stands_in_no_command_and_no_file(server: dict[str, object]) -> None:
    assert KEY not in _error(KEY, server)
    assert "plain text" in _error(KEY, server)
    assert "would stand in a command line or a file" in _error("${LLM_KEY}", server)


@pytest.mark.parametrize("server", [pytest.param(one, id=name) for name, one in HANDED_OVER.items()])
def test_a_secret_that_is_handed_over_is_filled_in(server: dict[str, object]) -> None:
    assert KEY not in _error(KEY, server)
    assert "holds a secret in plain text; write '${NAME}'" in _error(KEY, server)
    assert _error("${LLM_KEY}", server) == ""


@pytest.mark.parametrize("url", ["https://me:<KEY>@host", "https://<KEY>@host", "https://host/?api_key=<KEY>"])
def test_a_judge_has_no_secret_in_its_url(url: str) -> None:
    said = _error(KEY, load={**LOAD, "answers": {"judge": {"url": url, "model": "m"}}})
    assert "holds a secret in plain text" in said
    assert KEY not in said


def test_a_locked_argument_is_no_secret() -> None:
    assert "plain text" in _error(KEY, locked={"hf-token": "<KEY>"})
    assert "would stand in" in _error("${LLM_KEY}", locked={"hf-token": "<KEY>"})


@pytest.mark.parametrize(
    "known",
    [
        *("sk-proj-" + "a1" * 12, "hf_" + "aB" * 12, "ghp_" + "a1" * 15, "github_pat_" + "a1_B" * 8),
        "AKIA" + "A1" * 8,
    ],
)
def test_a_key_is_known_by_its_looks(known: str) -> None:
    said = _error(known, {**COMMAND, "command": ["x", "{port}", "<KEY>"]})
    assert "plain text" in said
    assert known not in said


@pytest.mark.parametrize(
    "server",
    [
        {"engine": "vllm", "args": {"eos-token": "</s>", "served-model-name": "skeleton", "enable-x": True}},
        {**CHART, "values": {"existingSecret": "hf", "env": [{"name": "HF_TOKEN", "valueFrom": {"name": "x"}}]}},
        {**CHART, "values": {"env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}]}},
        {**CHART, "values": {"hf_token": {"secretName": "hf", "secretKey": "token"}, "secretKeys": {"password": "pw"}}},
        {**COMMAND, "command": ["x", "{port}", "--tokens", "5", "--tokenizer=x"]},
        {"engine": "vllm", "env": {"HTTPS_PROXY": "http://me:${PROXY_PASSWORD}@host"}},
        {
            "engine": "vllm",
            "env": {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "GOOGLE_APPLICATION_CREDENTIALS": "/key.json"},
        },
        {**COMMAND, "command": ["x", "{port}", "/data/hf_model_cache_for_llama", "org/sk-morph-bert-large-v2"]},
        {**COMMAND, "command": ["x", "{port}", "--api-key-file", "${API_KEY_FILE}", "--timeout-per-token", "30"]},
        {**COMMAND, "command": ["x", "{port}", "--token-budget", "${TOKEN_BUDGET}", "--allow-credentials", "true"]},
        {**COMMAND, "command": ["sh", "-c", 'HF_TOKEN=$HF_TOKEN KEY=x exec x --api-key "$API_KEY" {port}']},
        {**COMMAND, "bearer": "EMPTY", "headers": {"Authorization": "Bearer EMPTY", "X-Api-Key": "EMPTY"}},
        {**COMMAND, "command": ["x", "{port}", "--api-key", "EMPTY", "-H", "Authorization: Bearer EMPTY"]},
        {**COMMAND, "command": ["sh", "-c", "OPENAI_API_KEY=EMPTY x --api-key EMPTY {port}"]},
        {"engine": "vllm", "args": {"api-key": "EMPTY"}},
    ],
)
def test_what_is_no_secret_is_taken(server: dict[str, object]) -> None:
    assert _error("", server) == ""


@pytest.mark.parametrize("server", [HANDED_OVER["vllm"], HANDED_OVER["bearer"], HANDED_OVER["header"]])
@pytest.mark.parametrize(
    "key",
    [
        *("EMPTY2", "empty", "EMPTY-3f9a7c", "empty-3f9a7c", "3f9a7cEMPTY", "EMPTY 3f9a7c", "EMPTY:3f9a7c"),
        *("Bearer EMPTYx", "Bearer EMPTY 3f9a7c", "Bearer 3f9a7c EMPTY", "Basic EMPTY", "Bearer true", "</think>"),
    ],
)
def test_what_is_nearly_the_word_for_no_key_is_one(server: dict[str, object], key: str) -> None:
    assert "plain text" in _error(key, server)


@pytest.mark.parametrize(
    "token", ["</think>", "<|im_end|>", "[INST]", "[/INST]", "<|reserved_special_token_250|>", "<|END_OF_TURN_TOKEN|>"]
)
def test_a_models_own_token_is_no_secret(token: str) -> None:
    assert _error(token, load={**LOAD, "extra_body": {"reasoning_token": "<KEY>"}}) == ""
    assert _error(token, {"engine": "vllm", "args": {"tool-call-token": "<KEY>"}}) == ""
    assert _error(token, {**COMMAND, "command": ["x", "{port}", '{"reasoning_token": "<KEY>"}']}) == ""
    for name in ("hf_token", "access_token", "api-token", "auth_token", "secret_token", "password", "api_key"):
        assert "holds a secret" in _error(token, load={**LOAD, "extra_body": {name: "<KEY>"}}), name


@pytest.mark.parametrize(
    "secret",
    [
        *(KEY, f"<{KEY}>", "<hf_" + "aB" * 12 + ">", "<|sk-proj-" + "a1" * 12 + "|>", "<" + "a1" * 8 + ">"),
        *(
            "think",
            "<aBcDeFgHiJ>",
            "<" + "x" * 20 + ">",
            "[" + "X" * 20 + "]",
            "<0123456789>",
            "[12345678]",
            "<|3f9a|>",
        ),
        *("</think>3f9a7c", "<think>3f9a7c</think>", "3f9a7c<think>", "<think> 3f9a7c", "<think>\n", "<word-word>"),
        *("<_a_b>", "<>", "<abcdef12345>", "<cafe1234babe>"),
    ],
)
def test_what_is_nearly_a_models_token_is_a_secret(secret: str) -> None:
    assert "holds a secret" in _error(json.dumps(secret)[1:-1], load={**LOAD, "extra_body": {"own_token": "<KEY>"}})


@pytest.mark.parametrize("text", ["sk-", "a=", "x://a:", '"a":', "--a "])
def test_a_long_text_is_looked_at_in_one_go(text: str) -> None:
    """Where each part of it is compared with the rest, this takes minutes."""
    assert not list(literal_secrets([text * 20_000, "x://" + text * 20_000]))


def test_words_are_no_header() -> None:
    judge = {"url": "http://a", "model": "m", "instructions": "Basic arithmetic: mark 1 where it is right."}
    assert _error("", load={**LOAD, "answers": {"judge": judge}, "extra_body": {"stop": ["Password: x"]}}) == ""
