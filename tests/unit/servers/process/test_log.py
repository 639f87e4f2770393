"""The root cause in logs of real servers (excerpts; source lines of tracebacks shortened)."""

from pathlib import Path

import pytest

from pytest_llmperf.servers.process.log import cause_of_death, first_error, log_tail, read_log

KV_CACHE = """\
(APIServer pid=7086) WARNING 11-21 03:53:50 [system_utils.py:255] Found ulimit of 20000 and failed to automatically \
increase with error current limit exceeds maximum limit. This can cause fd limit errors like `OSError: [Errno 24]`
(Worker pid=7238) WARNING 11-21 03:54:09 [utils.py:597] Failed to create oneDNN linear. Exception: could not create
(Worker pid=7238) INFO 11-21 03:54:10 [cpu_worker.py:260] Explicitly set (0.0/7.21) GiB for KV cache on node 0.
(EngineCore pid=7226) ERROR 11-21 03:54:10 [core.py:1510] EngineCore failed to start.
(EngineCore pid=7226) ERROR 11-21 03:54:10 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=7226) ERROR 11-21 03:54:10 [core.py:1510]   File "v1/engine/core.py", line 1482, in run_engine_core
(EngineCore pid=7226) ERROR 11-21 03:54:10 [core.py:1510]     engine_core = EngineCoreProc(*args, **kwargs)
(EngineCore pid=7226) ERROR 11-21 03:54:10 [core.py:1510]                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
(EngineCore pid=7226) ERROR 11-21 03:54:10 [core.py:1510]     raise ValueError(
(EngineCore pid=7226) ERROR 11-21 03:54:10 [core.py:1510] ValueError: No available memory for the cache blocks.
(EngineCore pid=7226) ERROR 11-21 03:54:12 [multiproc_executor.py:315] Worker proc VllmWorker-0 died unexpectedly \
(exit code: None), shutting down executor.
Process EngineCore:
Traceback (most recent call last):
  File "multiprocessing/process.py", line 314, in _bootstrap
    self.run()
ValueError: No available memory for the cache blocks.
Traceback (most recent call last):
  File "bin/vllm", line 8, in <module>
    sys.exit(main())
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""

BAD_FLAG = """\
usage: vllm serve [model_tag] [options]

Launch a local OpenAI-compatible API server.
vllm: error: unrecognized arguments: --no-such-flag 3
"""

BAD_VALUE = """\
usage: vllm serve [model_tag] [options]
vllm serve: error: argument --max-num-seqs: invalid int value: 'many'
"""

PORT = """\
(APIServer pid=7400) INFO 11-21 03:54:54 [utils.py:293] vLLM server version 0.32.0
Traceback (most recent call last):
  File "bin/vllm", line 8, in <module>
    sys.exit(main())
  File "vllm/entrypoints/launchers/api_server/entry.py", line 120, in create_server_socket
    sock.bind(addr)
OSError: [Errno 98] Address already in use
"""

MAX_LEN = """\
Traceback (most recent call last):
  File "bin/vllm", line 8, in <module>
    sys.exit(main())
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (999999) is greater than the derived max_model_len (2048)
    For further information visit https://errors.pydantic.dev/2.12/v/value_error
"""

CHAINED = """\
Traceback (most recent call last):
  File "huggingface_hub/utils/_http.py", line 409, in hf_raise_for_status
    response.raise_for_status()
requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://huggingface.co/m/config.json

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "transformers/utils/hub.py", line 479, in cached_files
    hf_hub_download(
OSError: You are trying to access a gated repo.
"""

ENGINE_KILLED = """\
(APIServer pid=10952) INFO 11-21 04:06:10 [loggers.py:257] Engine 000: Avg generation throughput: 12.3 tokens/s
(APIServer pid=10952) ERROR 11-21 04:06:14 [async_llm.py:906] AsyncLLM output_handler failed.
(APIServer pid=10952) ERROR 11-21 04:06:14 [async_llm.py:906] Traceback (most recent call last):
(APIServer pid=10952) ERROR 11-21 04:06:14 [async_llm.py:906]     outputs = await engine_core.get_output_async()
(APIServer pid=10952) ERROR 11-21 04:06:14 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: EngineCore \
encountered an issue. See stack trace (above) for the root cause.
(APIServer pid=10952) ERROR 11-21 04:06:14 [serving.py:500] Error in completion stream generator.
(APIServer pid=10952) ERROR 11-21 04:06:14 [serving.py:500] Traceback (most recent call last):
(APIServer pid=10952) ERROR 11-21 04:06:14 [serving.py:500]     raise output
(APIServer pid=10952) ERROR 11-21 04:06:14 [serving.py:500] vllm.v1.engine.exceptions.EngineDeadError: EngineCore \
encountered an issue.
"""

TRITON = """\
I1121 04:00:01.000000 1 model_lifecycle.cc:472] "loading: llm:1"
E1121 04:00:02.123456 1 model_lifecycle.cc:642] "failed to load 'llm' version 1: Internal: ModuleNotFoundError: vllm"
I1121 04:00:02.200000 1 server.cc:674]
error: creating server: Internal - failed to load all models
"""

SGLANG = """\
[2026-11-21 04:10:01] server_args=ServerArgs(model_path='m', tp_size=2)
[2026-11-21 04:10:09 TP1] Load weight begin. avail mem=78.41 GB
[2026-11-21 04:10:20 TP1] Scheduler hit an exception: Traceback (most recent call last):
  File "sglang/srt/managers/scheduler.py", line 6346, in run_scheduler_process
    scheduler = Scheduler(server_args, port_args)
RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.

[2026-11-21 04:10:20] Received sigquit from a child process. It usually means the child failed.
"""

SGLANG_KILLED = """\
[2026-11-21 04:10:20 TP0] Decode batch, #running-req: 4
[2026-11-21 04:10:20] Received sigquit from a child process. It usually means the child failed.
"""

TGI = """\
2026-11-21T04:00:00.000001Z  INFO text_generation_launcher: Starting shard rank=0
2026-11-21T04:00:05.000001Z ERROR text_generation_launcher: Shard 0 failed to start
2026-11-21T04:00:05.000002Z  INFO text_generation_launcher: Shutting down shards
"""

NATIVE = """\
starting
terminate called after throwing an instance of 'std::bad_alloc'
  what():  std::bad_alloc
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (KV_CACHE, "ValueError: No available memory for the cache blocks."),
        (BAD_FLAG, "vllm: error: unrecognized arguments: --no-such-flag 3"),
        (BAD_VALUE, "vllm serve: error: argument --max-num-seqs: invalid int value: 'many'"),
        (PORT, "OSError: [Errno 98] Address already in use"),
        (CHAINED, "OSError: You are trying to access a gated repo."),
        (TRITON, "failed to load 'llm' version 1: Internal: ModuleNotFoundError: vllm"),
        (SGLANG, "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static."),
        (SGLANG_KILLED, None),
        ("sglang serve: error: unrecognized arguments: --x", "sglang serve: error: unrecognized arguments: --x"),
        (
            "tritonserver: unrecognized option '--x'\nUsage: tritonserver [options]",
            "tritonserver: unrecognized option '--x'",
        ),
        (
            "tritonserver: option '--y' doesn't allow an argument",
            "tritonserver: option '--y' doesn't allow an argument",
        ),
        ("[07/15/2024-08:38:11] [TRT-LLM] [I] fine\n[07/15/2024-08:38:12] [TRT-LLM] [E] no engine", "[E] no engine"),
        ("[TensorRT-LLM][ERROR] Assertion failed: mpiSize == tp * pp", "Assertion failed: mpiSize == tp * pp"),
        (TGI, "2026-11-21T04:00:05.000001Z ERROR text_generation_launcher: Shard 0 failed to start"),
        ("Error: listen tcp 127.0.0.1:11434: bind: address already in use", "Error: listen tcp 127.0.0.1:11434: bind"),
        ("./start.sh: line 2: llama-server: command not found", "./start.sh: line 2: llama-server: command not found"),
        (NATIVE, "terminate called after throwing an instance of 'std::bad_alloc'"),
        (MAX_LEN, "max_model_len (999999) is greater than the derived max_model_len (2048)"),
        ("ERROR: no model\n", "no model"),
        ("ValueError is what we never raise\nINFO: fine\n", None),
        ("", None),
    ],
)
def test_the_root_cause(log, cause):
    found = first_error(log.splitlines())
    assert found == cause or (found and cause and cause in found)


@pytest.mark.parametrize("log", [KV_CACHE, PORT, CHAINED])
def test_colours_and_a_cut_end_do_not_hide_it(log):
    coloured = [f"\x1b[0;36m{line}" if line.startswith("(") else line for line in log.splitlines()]
    assert first_error(coloured) == first_error(log.splitlines())


@pytest.mark.parametrize("text", [KV_CACHE, PORT, CHAINED, ENGINE_KILLED, MAX_LEN, TRITON, SGLANG])
def test_a_log_cut_anywhere_is_no_trouble(text):
    lines = text.splitlines()
    for end in range(len(lines)):
        first_error(lines[:end])
        cause_of_death(lines[:end])


def test_a_killed_engine_leaves_no_cause():
    assert cause_of_death(ENGINE_KILLED.splitlines()) is None
    assert cause_of_death(SGLANG_KILLED.splitlines()) is None
    assert "Not enough memory" in (cause_of_death(SGLANG.splitlines()) or "")
    assert "EngineDeadError" in (first_error(ENGINE_KILLED.splitlines()) or "")


def test_the_tail(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("".join(f"line {n}\n" for n in range(100_000)))
    assert log_tail(log, 3) == "line 99997\nline 99998\nline 99999"
    log.write_bytes(b"\xff half a character\n")
    assert log_tail(log) == "\ufffd half a character"


def test_no_log_is_an_empty_log():
    assert log_tail(Path("/nowhere/server.log")) == ""
    assert read_log(Path("/nowhere/server.log")) == []


def test_of_a_huge_log_both_ends_are_read(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("ERROR first\n" + "x" * 80 + "\n" * (9 << 20) + "ERROR last\n")
    lines = read_log(log)
    assert (lines[0], lines[-1]) == ("ERROR first", "ERROR last")
