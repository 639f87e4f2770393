"""Plans of servers that any engine can run: what SGLang's and free commands look like, and what a plan may not say."""

import json
import re
import shlex
from pathlib import Path

import pytest
from samples import plan_text, server

from pytest_llmperf.boundary.secrets import redacted
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import load_plan, parse_plan
from pytest_llmperf.plan.server.table import ENGINE_MODELS
from pytest_llmperf.servers.engines.commands import missing_requirement, server_command, shown_command, steps
from pytest_llmperf.servers.engines.table import ENGINES
from pytest_llmperf.telemetry.gpu import Gpu

GPUS = tuple(Gpu(str(number), "NVIDIA H200") for number in range(8))


def test_every_engine_of_a_plan_has_its_functions():
    assert set(ENGINES) == set(ENGINE_MODELS)
    for name, model in ENGINE_MODELS.items():
        assert (ENGINES[name].start is not None) == model.is_started


# SGLang


def test_the_command_of_sglang():
    entry = (
        "{engine: sglang, args: {tp-size: 4, --pp: 2, mem-fraction-static: 0.85, disable-radix-cache: true, x: false}}"
    )
    config = server(entry, model="Qwen/QwQ-32B", locked="{kv-cache-dtype: fp8_e5m2}")
    assert shown_command(config, 30000, GPUS) == (
        "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 sglang serve --model-path Qwen/QwQ-32B "
        "--host 127.0.0.1 --port 30000 --kv-cache-dtype fp8_e5m2 --tensor-parallel-size 4 --pipeline-parallel-size 2 "
        "--mem-fraction-static 0.85 --disable-radix-cache"
    )


@pytest.mark.parametrize("python", ["python", "python3", "./venv/bin/python3.12"])
def test_sglang_in_a_given_python(python):
    config = server(f"{{engine: sglang, executable: {python}}}")
    assert shown_command(config, 1, ()).startswith(f"{python} -m sglang.launch_server --model-path m ")


@pytest.mark.parametrize(
    ("args", "gpus"),
    [
        ("{tp: 2, pp-size: 2, data_parallel_size: 2}", 8),
        ("{tp: 8, dp: 8, enable-dp-attention: true}", 8),
        ("{tp: 2, dp: 2, enable-dp-attention: false}", 4),
        ("{}", 1),
    ],
)
def test_gpus_of_sglang(args, gpus):
    assert server(f"{{engine: sglang, args: {args}}}").gpu_count == gpus


def test_what_sglang_answers_differently():
    args = (
        "{context-length: 4096, json-model-override-args: {a: 1}, speculative-algorithm: EAGLE, schedule-policy: lpm}"
    )
    unlocked = "[context-length, json-model-override-args, speculative-algorithm]"
    assert list(server(f"{{engine: sglang, args: {args}, unlocked: {unlocked}}}").output_args) == [
        "context-length",
        "json-model-override-args",
        "speculative-algorithm",
    ]


# Commands

FREE = (
    "{engine: command, command: [./serve, --port, '{port}', -m, '{model}', -n, 4], env: {ADDRESS: '127.0.0.1:{port}'}}"
)


def test_a_free_command(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(plan_text(f"  a: {FREE}\n  b: {{engine: command, command: [sh, '{{port}}'], cwd: ../x, gpus: 2}}"))
    a, b = load_plan(path).server_configs()
    command = server_command(a, 8001, ())
    assert command.argv == ("./serve", "--port", "8001", "-m", "m", "-n", "4")
    assert command.env == {"ADDRESS": "127.0.0.1:8001"}
    assert command.cwd == str(tmp_path)
    assert shown_command(a, "PORT", ()) == (
        f"cd {shlex.quote(str(tmp_path))} && ADDRESS=127.0.0.1:PORT ./serve --port PORT -m m -n 4"
    )
    assert (a.gpu_count, b.gpu_count, b.cwd) == (0, 2, str((tmp_path / "../x").resolve()))
    assert server_command(b, 1, GPUS[:2]).env == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.mark.parametrize("word", ["{{port}}", '{"a": 1}', "${X}", "{}", "a{b c}d"])
def test_other_braces_are_left_alone(word, monkeypatch):
    monkeypatch.setenv("X", "${X}")
    config = server(f"{{engine: command, command: [a, '{{port}}', {json.dumps(word)}]}}")
    assert server_command(config, 1, ()).argv[-1] == word


def test_secrets_of_a_command_are_hidden(monkeypatch):
    monkeypatch.setenv("KEY", "hunter2")
    entry = "{engine: command, command: [a, '{port}'], env: {HF_TOKEN: '${KEY}'}, bearer: '${KEY}'}"
    config = server(entry)
    command = server_command(config, 1, ())
    assert command.env["HF_TOKEN"] == "hunter2"
    assert redacted("hunter2") == "***"
    assert "hunter2" not in command.shown + repr(command) + json.dumps(config.as_dict())
    target = ENGINES["command"].target(config, 1)
    assert dict(target.headers) == {"Authorization": "Bearer hunter2"}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("command: [no-such-program, '{port}']", "needs the executable 'no-such-program', which was not found"),
        ("command: [./no-such, '{port}']", "needs the executable '{here}/no-such', which was not found"),
        ("command: [sh, '{port}'], cwd: /no/such", "needs the folder /no/such, which does not exist"),
        ("command: [sh, '{port}'], gpus: 9", "needs 9 GPUs, found 8"),
        ("command: [sh, '{port}']", None),
    ],
)
def test_what_a_machine_lacks_for_a_command(keys, reason):
    assert missing_requirement(server(f"{{engine: command, {keys}}}"), GPUS) == (
        reason and reason.format(here=Path.cwd())
    )


def mistake(entry: str) -> str:
    with pytest.raises(PlanError) as error:
        parse_plan(plan_text(f"  a:\n    {entry.replace('; ', chr(10) + '    ')}"), "plan.yaml")
    return str(error.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("engine: sglang; args: {port: 3}", "5: servers.a.args.port: port is the plugin's to choose"),
        ("engine: sglang; args: {tp: 0}", "5: servers.a.args: tensor-parallel-size is a whole number of at least 1"),
        ("engine: sglang; args: {model-path: x}", "5: servers.a.args.model-path: model-path is the entry's `model`"),
        ("engine: sglang; args: {api-key: abc}", "api-key holds a secret in plain text; write '${NAME}'"),
        (
            "engine: sglang; args: {config: x.yaml, api-key: '${K}'}",
            "5: servers.a.args.api-key: api-key is handed over in a config file, of which SGLang takes one",
        ),
        ("engine: command", "3: servers.a: 'command' is missing"),
        ("engine: command; command: []", "5: servers.a.command: at least one is needed"),
        ("engine: command; command: ./start.sh", "5: servers.a.command: a list is needed, given './start.sh'"),
        (
            "engine: command; command:; - a; - '{port}'; - x={prot}",
            "8: servers.a.command.2: {prot} in 'x={prot}' is not known; allowed: {model}, {port}; did you mean 'port'",
        ),
        ("engine: command; command: [a, {port}]", "servers.a.command.1: a text is needed (quote it)"),
        ("engine: command; command: [a]", "5: servers.a.command: the server is to listen on {port}, which neither"),
        ("engine: command; command: [a]; env: {X: '{porte}'}", "6: servers.a.env.X: {porte} in '{porte}' is not known"),
        ("engine: command; command: [a, --api-key, abc]", "5: servers.a.command: --api-key holds a secret in plain"),
        (
            "engine: command; command: [a, --api-key=abc]",
            "5: servers.a.command: --api-key holds a secret in plain text",
        ),
        (
            "engine: command; command: [a, --api-key, '${KEY}']",
            "5: servers.a.command: --api-key would stand in a command line",
        ),
        ("engine: command; command: [a, '--x=${LLM_KEY}']", "--x would stand in a command line or a file, which"),
        ("engine: command; command: [a, 'Bearer abc']", "5: servers.a.command: command holds a secret in plain text"),
        ("engine: command; command: [a]; bearer: abc", "6: servers.a.bearer: bearer token holds a secret in plain"),
        ("engine: command; command: [a]; url: 'ftp://x'", "6: servers.a.url: 'ftp://x' is not a base URL"),
        ("engine: command; command: [a]; url: 'http://x:{p}'", "6: servers.a.url: {p} in 'http://x:{p}' is not known"),
        ("engine: command; command: [a]; stop: 9", "6: servers.a.stop: 9 is neither a signal, such as SIGINT, nor"),
        ("engine: command; command: [a]; stop: SIGNAL", "6: servers.a.stop: 'SIGNAL' is neither a signal"),
        ("engine: command; command: [a]; ready: true", "6: servers.a.ready: True is neither a path"),
        (
            "engine: command; command: [a]; ready: health",
            "6: servers.a.ready: 'health' is not a whole path of the host",
        ),
        ("engine: command; command: [a]; ready: {pth: /}", "unknown key 'pth'; did you mean 'path'"),
        (
            "engine: command; command: [a]; url: 'http://127.0.0.1:80'; replicas: 2",
            "6: servers.a.url: replicas need ports of their own: write {port} into `url`",
        ),
    ],
)
def test_a_mistake_and_its_line(entry, message):
    found = mistake(entry)
    assert re.search(re.escape(message), found), found


def test_locked_arguments_are_declared_by_who_writes_a_command():
    locked = "locked: {quantization: fp8}\n"
    free = "  a: {engine: command, command: [a, '{port}']"
    with pytest.raises(PlanError, match="server 'a' lacks the locked argument quantization: fp8"):
        parse_plan(plan_text(free + "}", rest=locked), "plan.yaml")
    plan = parse_plan(plan_text(free + ", args: {quantization: fp8}}", rest=locked), "plan.yaml")
    assert plan.server_configs()[0].output_args == {"quantization": "fp8"}
    assert "fp8" not in shown_command(plan.server_configs()[0], 1, ())


def test_words_of_a_command_are_swept():
    plan = parse_plan(plan_text("  a: {engine: command, command: [a, '{port}', -c, {sweep: [1, 2]}]}"), "plan.yaml")
    assert [(one.name, one.command[-1]) for one in plan.server_configs()] == [
        ("a.command_1", "1"),
        ("a.command_2", "2"),
    ]


DOCS = Path(__file__).parents[4] / "docs" / "servers.md"
SNIPPETS = [
    text for text in re.findall(r"```yaml\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL) if "url: https" not in text
]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: re.findall(r"^  ([\w-]+):", text, re.MULTILINE)[0])
def test_the_servers_of_the_docs_are_a_plans(snippet):
    servers = snippet.removeprefix("servers:\n").rstrip("\n")
    locked = "locked: {quantization: fp8}" if "quantization: fp8" in servers else ""
    for config in parse_plan(plan_text(servers, rest=locked), "plan.yaml").server_configs():
        shown = shown_command(config, 8123, ())
        assert "8123" in shown or steps(config)
        assert not re.search(r"(?<!\$)\{\w+\}", shown)
