"""The program that brings TensorRT-LLM up in steps and then becomes the server.

    python -m pytest_llmperf.servers.deployments.trtllm SETTINGS.json

SETTINGS.json holds the configuration and the ports; logs of steps, the repository and `deployment.json`, which says
what was made, go beside it. Secrets are in the environment only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pytest_llmperf.plan.server.engines.trtllm import TrtllmServer
from pytest_llmperf.servers.deployments.trtllm.commands import Ports
from pytest_llmperf.servers.deployments.trtllm.deployment import Deployment
from pytest_llmperf.servers.deployments.trtllm.steps import StepError, filled_in


def _stopped(signum: int, frame: FrameType | None) -> NoReturn:
    """Ends the step that is under way; the code that made something half removes it."""
    raise SystemExit(128 + signum)


def main(argv: list[str]) -> int:
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, _stopped)
    path = Path(argv[0])
    settings = json.loads(path.read_text(encoding="utf-8"))
    config = TrtllmServer.model_validate(settings["config"])
    deployment = Deployment(config, Ports(*settings["ports"]), path.parent)
    try:
        command = filled_in(deployment.command())
    except (StepError, OSError) as error:
        sys.stdout.write(f"trtllm: error: {deployment.steps.current}: {error}\n")
        return 1
    except SystemExit:
        deployment.steps.say("stopped; nothing half-made is kept")
        raise
    sys.stdout.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, which a program would inherit
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
