"""`python -m pytest_llmperf.servers.deployments.mlnode SETTINGS.json`: a node serves a model until this ends.

Its exit code is 1 where a step failed or the node stopped serving, 0 after SIGTERM or SIGINT.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import httpx

from pytest_llmperf.errors import MissingRequirement
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.server import urls
from pytest_llmperf.plan.server.deployments.mlnode import MlnodeServer
from pytest_llmperf.servers.deployments import holder
from pytest_llmperf.servers.deployments.holder import StepFailed, Stopped, attempts, log
from pytest_llmperf.servers.deployments.mlnode import engine
from pytest_llmperf.servers.deployments.mlnode.api import Node, State, Unreachable, refusal, up_problem
from pytest_llmperf.servers.deployments.mlnode.instances import NotCountable, instances_up, missing_model
from pytest_llmperf.servers.http import ask
from pytest_llmperf.servers.secrets import expand_url

_LOOK_EVERY_S = 0.5
"""Seconds between two looks: less than the one in which a server without an answer may end by itself, so that its log
has the cause by then.
"""
_LONGEST_SILENCE_S = 60.0
"""Longest time without an answer that is borne, as while a node restarts."""
_MISSES = 12
"""Number of questions in a row without an answer after which the node counts as gone."""
_PROBE_TIMEOUT_S = 5.0
_REPLACE = "`replace: true` in the plan stops it; or stop it yourself"


class Deployment:
    """A node's instances from the first question to their end; `is_ours` becomes True when `up` is sent."""

    def __init__(self, config: MlnodeServer) -> None:
        self.config = config
        self.node = Node(expand_url(config.url), engine.node_headers(config))
        self.target = engine.target(config, None)
        self.deadline = time.monotonic() + config.ready_timeout
        self.is_ours = False

    def bring_up(self) -> State:
        """Makes the five steps; returns the node's state after them. Raises StepFailed."""
        self._make_free()
        self._up()
        state = self._until_serving()
        self._until_model()
        self._until_every_instance()
        return state

    def _left_s(self) -> float:
        return max(1.0, self.deadline - time.monotonic())

    def _make_free(self) -> None:
        """Stops what the node runs if the plan asks for it, else fails: `up` would end a model that is served."""
        log(f"step 1/5 state: is the node at {urls.shown(self.config.url)} free?")
        found = self._state("1/5 state")
        if found.state == "STOPPED":
            return
        runs = f"{found.state}{f' ({found.model})' if found.model else ''}"
        if not self.config.replace:
            raise StepFailed(f"step 1/5 state: the node runs {runs} already, which is not ours to stop. {_REPLACE}")
        log(f"the node runs {runs}; POST /stop, as `replace` asks for")
        if problem := self.node.end("/stop", engine.END_S):
            raise StepFailed(f"step 1/5 state: {problem}. Stop what the node runs by hand")
        for _ in attempts(self.deadline):
            if self._state("1/5 state").state == "STOPPED":
                return
        raise StepFailed(f"step 1/5 state: the node still runs {runs} after POST /stop")

    def _state(self, step: str) -> State:
        """The node's state; one that does not answer may be starting again, as it does when an `up` has failed."""
        problem = ""
        for _ in attempts(min(self.deadline, time.monotonic() + _LONGEST_SILENCE_S)):
            try:
                return self.node.state()
            except Unreachable as error:
                problem = str(error)
                if error.is_refusal:
                    break
        raise StepFailed(f"step {step}: {problem}. Is `url` the node's management port, and is the node up?")

    def _up(self) -> None:
        body = engine.up_body(self.config)
        log(f"step 2/5 up: {self.config.model}, dtype {body['dtype']}, {self.config.replicas} instances expected")
        self.is_ours = True
        try:
            answer = self.node.up(engine.expanded(body), self._left_s())
        except Unreachable as error:
            if not error.is_lost:
                raise StepFailed(f"step 2/5 up: {error} (ready_timeout is {self.config.ready_timeout:g} s)") from error
            log(f"the answer to up was lost ({error}); the node may go on", "WARNING")
            return
        if answer.status_code in (502, 504):
            log(f"a proxy gave up waiting for up ({refusal(answer)}); the node may go on", "WARNING")
            return
        problem = up_problem(answer)
        # A refused call has started nothing; a model that came up in between is somebody else's.
        self.is_ours = answer.status_code not in (401, 403, 404, 409, 422)
        if problem:
            raise StepFailed(f"step 2/5 up: {problem}")

    def _until_serving(self) -> State:
        log("step 3/5 state: until INFERENCE")
        found = None
        for _ in attempts(self.deadline):
            found = self._state("3/5 state")
            if found.state == "INFERENCE" and found.is_healthy:
                return found
            if found.state != "INFERENCE":
                raise StepFailed(
                    f"step 3/5 state: the node is {found.state} after up: vLLM ended again. The node's log "
                    "(docker logs) says why"
                )
        raise StepFailed(f"step 3/5 state: still {found and found.state}, and not healthy, at ready_timeout")

    def _until_model(self) -> None:
        log(f"step 4/5 model: until {self.target.shown} serves {self.target.model}")
        problem: str | None = ""
        for _ in attempts(self.deadline):
            problem = self._model_problem(self.target)
            if problem is None:
                return
            if self._state("4/5 model").state != "INFERENCE":
                raise StepFailed(f"step 4/5 model: vLLM ended again; {problem}. The node's log (docker logs) says why")
        raise StepFailed(
            f"step 4/5 model: {problem}. Is `inference_url` the node's inference port (5000)? Some nodes close it when "
            "a model goes down and do not open it again; they serve /v1 at the management port too"
        )

    def _model_problem(self, target: Target) -> str | None:
        try:
            answer = ask("GET", target.at("/v1/models"), headers=target.headers, timeout_s=_PROBE_TIMEOUT_S)
        except httpx.TransportError as error:
            return f"GET {target.shown}/v1/models: {type(error).__name__}: {error}"
        if answer.status_code in (401, 403):
            raise StepFailed(f"step 4/5 model: {refusal(answer)}. The credentials are missing or wrong")
        return missing_model(answer, target.model) if answer.status_code == 200 else refusal(answer)

    def _until_every_instance(self) -> None:
        """The node says that it is up when its first instance is: the others would be missing in the numbers."""
        wanted = self.config.replicas
        if wanted == 1 or not self.config.count_instances:
            return
        log(f"step 5/5 instances: until all {wanted} answer")
        up = 0
        for _ in attempts(self.deadline):
            try:
                up = self._instances_up(wanted)
            except NotCountable as error:
                raise StepFailed(
                    f"step 5/5 instances: whether all {wanted} instances are up cannot be told ({self.target.shown}: "
                    f"{error}). Give the inference port as `inference_url`, or `instance_urls`, or "
                    "`count_instances: false` where you know that they are"
                ) from error
            if up == wanted:
                return
        raise StepFailed(
            f"step 5/5 instances: {up} of {wanted} instances answer. Has the node {self.config.gpus} GPUs?"
        )

    def _instances_up(self, wanted: int) -> int:
        if self.config.instance_urls:
            return sum(self._model_problem(one) is None for one in engine.instance_targets(self.config))
        try:
            return instances_up(self.target, wanted)
        except httpx.TransportError as error:
            log(f"{type(error).__name__}: {error}", "WARNING")
            return 0

    def watch(self) -> None:
        """Looks after the node, and returns never. Raises StepFailed where it serves no longer."""
        missed = 0
        while True:
            time.sleep(_LOOK_EVERY_S)
            try:
                found = self.node.state()
            except Unreachable as error:
                missed += 1
                if missed == _MISSES:
                    raise StepFailed(f"the node is gone: {error}. It restarts itself when vLLM fails") from error
                continue
            missed = 0
            if found.state != "INFERENCE":
                raise StepFailed(
                    f"the node is {found.state}, no longer INFERENCE: an instance of vLLM ended, or somebody stopped it"
                )

    def take_down(self) -> None:
        """Ends what `up` may have started; a node answers only when a start that is under way is over."""
        if not self.is_ours:
            return
        call, where = engine.end_call(self.config), urls.address(self.config.url, "/api/v1/state")
        log(f"taking down: POST {call}")
        problem = self.node.end(call, engine.END_S)
        if problem:
            log(
                f"{holder.LEFT_MARK}the node has not confirmed that it stopped serving ({problem}); it does so when a "
                f"start that is under way is over: look at {urls.shown(where)}",
                "WARNING",
            )
        else:
            log("the node serves no longer")


def main(argv: list[str]) -> int:
    """Brings up, holds and takes down; returns the exit code."""
    settings = Path(argv[0])
    config = MlnodeServer.model_validate(holder.read_settings(settings))
    deployment = None
    try:
        holder.stop_on_signals()
        deployment = Deployment(config)
        state = deployment.bring_up()
        facts = {"state": state.state, "node_version": state.version, "instances": config.replicas}
        holder.write_facts(settings.with_name(settings.name.replace(".settings.", ".deployed.")), facts)
        log(f"up: {config.replicas} instances of {config.served_model}")
        deployment.watch()
    except (StepFailed, MissingRequirement) as error:
        holder.log_error("mlnode", error)
        return 1
    except Stopped:
        return 0
    finally:
        try:
            holder.ignore_signals()  # the first signal may come just before
        finally:
            holder.ignore_signals()
            if deployment is not None:
                deployment.take_down()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
