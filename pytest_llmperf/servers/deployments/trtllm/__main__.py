"""The program that brings TensorRT-LLM up in steps and then becomes the server.

    python -m pytest_llmperf.servers.deployments.trtllm SETTINGS.json

SETTINGS.json holds the configuration, the ports and the server's log; logs of steps and the repository go into a folder
beside that. Secrets are in the environment only.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pytest_llmperf.plan.server.deployments.trtllm import TrtllmServer
from pytest_llmperf.servers.deployments.holder import StepFailed, Stopped, log_error, read_settings, stop_on_signals
from pytest_llmperf.servers.deployments.trtllm.commands import Ports
from pytest_llmperf.servers.deployments.trtllm.deployment import Deployment
from pytest_llmperf.servers.deployments.trtllm.steps import filled_in


def main(argv: list[str]) -> int:
    stop_on_signals()
    settings = read_settings(Path(argv[0]))
    config = TrtllmServer.model_validate(settings["config"])
    deployment = Deployment(config, Ports(*settings["ports"]), Path(settings["log"]))
    try:
        command = filled_in(deployment.command())
    except (StepFailed, OSError) as error:
        log_error("trtllm", StepFailed(f"{deployment.steps.current}: {error}"))
        return 1
    except Stopped:
        deployment.steps.say("stopped; nothing half-made is kept")
        return 128 + signal.SIGTERM
    sys.stdout.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, which a program would inherit
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
