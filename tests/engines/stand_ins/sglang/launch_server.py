"""Stands in for SGLang 0.5: reads its command line as it does, and serves by the embedded engine under its routes."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from pytest_llmperf.embedded import __main__ as embedded
from pytest_llmperf.embedded.http import server
from pytest_llmperf.embedded.http.connection import HttpRequest, ServerConnection

VERSION = "0.5.23"
VALUES = """
--model-path --tokenizer-path --host --port --served-model-name --api-key
--admin-api-key --dtype --quantization --kv-cache-dtype --context-length --mem-fraction-static
--max-running-requests --max-total-tokens --chunked-prefill-size --schedule-policy --attention-backend --log-level
--random-seed --json-model-override-args --chat-template --speculative-algorithm --load-format
"""
SIZES = {
    "--tp-size": "--tensor-parallel-size",
    "--pp-size": "--pipeline-parallel-size",
    "--dp-size": "--data-parallel-size",
}
SWITCHES = """
--enable-metrics --disable-radix-cache --trust-remote-code --enable-torch-compile --disable-cuda-graph
--enable-dp-attention --skip-server-warmup --enable-mixed-chunk
"""
METRICS = {
    "vllm:num_requests_running": "sglang:num_running_reqs",
    "vllm:num_requests_waiting": "sglang:num_queue_reqs",
    "vllm:kv_cache_usage_perc": "sglang:token_usage",
    "vllm:num_preemptions_total": "sglang:num_retracted_requests_total",
}

NO_MEMORY = """Traceback (most recent call last):
  File "sglang/srt/managers/scheduler.py", line 6346, in run_scheduler_process
    scheduler = Scheduler(server_args, port_args)
RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.
"""


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def read(argv: list[str]) -> argparse.Namespace:
    """The real one's arguments that this knows; anything else ends it, as there."""
    parser = argparse.ArgumentParser(prog="sglang serve")
    for name in VALUES.split():
        parser.add_argument(name, required=name == "--model-path")
    for name, alias in SIZES.items():
        parser.add_argument(name, alias, type=int, default=1)
    for name in SWITCHES.split():
        parser.add_argument(name, action="store_true")
    if "--config" in argv:
        at = argv.index("--config")
        path = Path(argv[at + 1])
        if path.suffix not in (".yaml", ".yml"):
            raise ValueError(f"Config file must be YAML format, got: {path.suffix}")
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        mode = f"{path.stat().st_mode & 0o777:o} in {path.parent.stat().st_mode & 0o777:o}"
        say(f"[2026-11-21 04:10:01] config file {path}, mode {mode}, keys {sorted(given)}")
        argv = [word for name, value in given.items() for word in (f"--{name}", value)] + argv[:at] + argv[at + 2 :]
    return parser.parse_args(argv)


class Server(server.Server):
    """The embedded engine's routes by SGLang's names."""

    arguments: argparse.Namespace

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        health, metrics = self._routes.pop("/health"), self._routes.pop("/metrics")
        del self._routes["/version"]
        self._routes |= {"/health": health, "/health_generate": health, "/server_info": {"GET": self._info}}
        if self.arguments.enable_metrics:
            self._routes["/metrics"] = metrics

    def _dispatch(self, connection: ServerConnection, request: HttpRequest) -> None:
        key = self.arguments.api_key
        is_open = request.path.startswith(("/health", "/metrics"))
        if key and not is_open and request.headers.get("authorization") != f"Bearer {key}":
            connection.reply(401, b'{"error":"Unauthorized"}')
        else:
            super()._dispatch(connection, request)

    def _info(self, connection: ServerConnection, request: HttpRequest) -> None:
        connection.reply(200, f'{{"version": "{VERSION}", "tp_size": {self.arguments.tp_size}}}'.encode())

    def _show_metrics(self, connection: ServerConnection, request: HttpRequest) -> None:
        text = self._metrics.render()
        for name, theirs in METRICS.items():
            text = text.replace(name, theirs)
        connection.reply(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")


def main() -> int:
    arguments = Server.arguments = read(sys.argv[1:])
    server.Server = Server  # type: ignore[misc]
    if arguments.mem_fraction_static == "0.99":
        say(f"[2026-11-21 04:10:20 TP0] Scheduler hit an exception: {NO_MEMORY}")
        say("[2026-11-21 04:10:20] Received sigquit from a child process. It usually means the child failed.")
        return 1
    say(f"[2026-11-21 04:10:21] server_args=ServerArgs(api_key={arguments.api_key!r})")
    name = arguments.served_model_name or arguments.model_path
    words = f"--model {name} --host {arguments.host} --port {arguments.port}".split()
    return embedded.main([*words, "--step", "modelled", "--decode-ms-per-step", "1"])


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
