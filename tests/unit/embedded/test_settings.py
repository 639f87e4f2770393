"""The arguments: one list, vLLM's names, and errors that say what was given and what is allowed."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from pytest_llmperf.embedded.settings import EngineSettings, Listen, SettingsError, build_parser, parse_arguments


def parse(*argv: str) -> EngineSettings:
    return parse_arguments(argv)[1]


def test_the_command_line_has_every_field_and_its_default():
    assert parse() == EngineSettings()
    flags = {option for action in build_parser()._actions for option in action.option_strings}
    assert {"--" + item.name.replace("_", "-") for item in fields(EngineSettings)} <= flags


def test_host_and_port_are_not_engine_settings():
    assert parse_arguments(["--host", "::1", "--port", "0"])[0] == Listen("::1", 0)


def test_values_reach_their_fields():
    settings = parse(
        "--max-num-seqs",
        "4",
        "--max_num_batched_tokens=512",
        "--served-model-name",
        "tiny",
        "--stall-ms",
        "2.5",
        "--step",
        "modelled",
    )
    assert (settings.max_num_seqs, settings.max_num_batched_tokens, settings.stall_ms) == (4, 512, 2.5)
    assert settings.served_name == "tiny"


@pytest.mark.parametrize(("flag", "value"), [("--enable-prefix-caching", True), ("--no-enable-prefix-caching", False)])
def test_booleans_have_both_styles(flag, value):
    assert parse(flag).enable_prefix_caching is value


def test_kv_blocks_default_to_room_for_all():
    assert EngineSettings(max_num_seqs=2, max_model_len=33, block_size=16).kv_blocks == 6
    assert EngineSettings(num_kv_blocks=300).kv_blocks == 300


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-num-sequences", "4"], "did you mean --max-num-seqs?"),
        (["--enable-prefix-cache"], "did you mean --enable-prefix-caching?"),
        (["--zzzzzzzz"], "unrecognized arguments: --zzzzzzzz\n"),
        (["--max-num", "4"], "unrecognized arguments"),
        (["--max-num-seqs", "many"], "invalid int value: 'many'"),
    ],
)
def test_a_command_line_that_cannot_be_read_exits_2(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse_arguments(argv)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_num_seqs": 0}, "--max-num-seqs is 0; allowed: at least 1"),
        ({"step": "magic"}, "--step is 'magic'; allowed: decoder, modelled"),
        ({"dtype": "int4"}, "--dtype is 'int4'; allowed: auto, float32, bfloat16, float16"),
        ({"session_sd": float("nan"), "step": "modelled"}, "--session-sd is nan; allowed: at least 0"),
        ({"run_sd": 0.1}, "--run-sd is 0.1; allowed only with --step modelled"),
        ({"drift_per_hour": -1.0, "step": "modelled"}, "--drift-per-hour is -1.0; allowed: more than -1"),
        ({"max_num_batched_tokens": 8}, r"--max-num-batched-tokens is 8; allowed: at least --max-num-seqs \(16\)"),
        ({"enable_chunked_prefill": False}, r"is 2048; allowed without chunked prefill: at least .* \(4096\)"),
        ({"num_kv_blocks": 10}, "--num-kv-blocks is 10; allowed: at least 256"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(arguments, message):
    with pytest.raises(SettingsError, match=message):
        EngineSettings(**arguments)


def test_a_port_that_does_not_exist_is_refused():
    with pytest.raises(SettingsError, match="--port is 70000; allowed: 0 to 65535"):
        parse_arguments(["--port", "70000"])


def test_settings_are_frozen_and_hashable():
    with pytest.raises(FrozenInstanceError):
        EngineSettings().seed = 1
    assert len({EngineSettings(), EngineSettings(), EngineSettings(seed=1)}) == 2


def test_reading_the_names_loads_no_numpy():
    code = "import sys, pytest_llmperf.embedded.settings; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("item", fields(EngineSettings), ids=lambda item: item.name)
def test_the_documentation_has_every_argument(item):
    text = (Path(__file__).parents[3] / "docs" / "embedded.md").read_text(encoding="utf-8")
    words = {"None": "", "True": "on", "False": "off"}
    default = words.get(str(item.default), str(item.default))
    assert f"| `--{item.name.replace('_', '-')}` | {default} | {item.metadata['help']}" in text
