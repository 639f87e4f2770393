"""The engines that a server of a plan can have."""

from __future__ import annotations

from typing import get_args

from pytest_llmperf.plan.server.deployments.kubernetes import KubernetesServer
from pytest_llmperf.plan.server.deployments.mlnode import MlnodeServer
from pytest_llmperf.plan.server.deployments.trtllm import TrtllmServer
from pytest_llmperf.plan.server.engines.command import CommandServer
from pytest_llmperf.plan.server.engines.embedded import EmbeddedServer
from pytest_llmperf.plan.server.engines.remote import OpenAIServer, TritonRemoteServer
from pytest_llmperf.plan.server.engines.sglang import SglangServer
from pytest_llmperf.plan.server.engines.triton.spec import TritonServer
from pytest_llmperf.plan.server.engines.vllm import VllmServer

ServerConfig = (
    EmbeddedServer
    | VllmServer
    | TritonServer
    | OpenAIServer
    | TritonRemoteServer
    | SglangServer
    | TrtllmServer
    | MlnodeServer
    | KubernetesServer
    # An engine more is a line here, and a row of ENGINES in servers/engines/table.py.
    | CommandServer
)
ENGINE_MODELS: dict[str, type[ServerConfig]] = {
    str(get_args(model.model_fields["engine"].annotation)[0]): model for model in get_args(ServerConfig)
}
"""The model of a server's entry, by its `engine`."""
