"""Stands in for the engine: reads the engine's folder as the real backend does, and makes a token per step for each of
the requests in flight."""

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

STEP_S = 0.002
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        engine = Path(parameters["gpt_model_path"])
        built = json.loads((engine / "config.json").read_text())
        ranks = built["pretrained_config"]["mapping"]["world_size"]
        if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) != ranks:
            raise pb_utils.TritonModelException(f"the engine was built for {ranks} ranks")
        for rank in range(ranks):
            if not (engine / f"rank{rank}.engine").is_file():
                raise pb_utils.TritonModelException(f"no rank{rank}.engine in {engine}")
        if config["max_batch_size"] > built["build_config"]["max_batch_size"]:
            raise pb_utils.TritonModelException("max_batch_size is larger than the engine's")
        if int(os.environ.get("OMPI_COMM_WORLD_RANK", "0")):
            threading.Event().wait()  # a rank that is not the first works for it until the end
        self.decoupled = config["model_transaction_policy"]["decoupled"]
        self.outputs = config["output"]
        self.most = built["build_config"]["max_batch_size"]
        self.waiting = []
        self.changed = threading.Condition()
        threading.Thread(target=self._steps, daemon=True).start()

    def execute(self, requests):
        asked = [Asked(request, self) for request in requests]
        with self.changed:
            self.waiting += asked
            self.changed.notify()
        if self.decoupled:
            return None
        return [one.whole() for one in asked]

    def _steps(self):
        active = []
        while True:
            with self.changed:
                while not active and not self.waiting:
                    self.changed.wait()
                room = self.most - len(active)
                active += self.waiting[:room]
                del self.waiting[:room]
            time.sleep(STEP_S)
            active = [one for one in active if one.step()]


class Asked:
    """One request on its way."""

    def __init__(self, request, model):
        self.outputs = model.outputs
        self.prompt = int(_given(request, "input_lengths", 0))
        self.left = int(_given(request, "request_output_len", 1))
        self.streaming = bool(_given(request, "streaming", False))
        self.timed = bool(_given(request, "return_perf_metrics", False))
        self.sender = request.get_response_sender() if model.decoupled else None
        self.done = threading.Event()
        self.made = 0
        self.times = [time.time_ns()]

    def step(self):
        """One token more; False when it was the last."""
        now = time.time_ns()
        self.times = [self.times[0], *(self.times[1:3] if self.made else (now, now)), now]
        self.made += 1
        self.left -= 1
        last = self.left <= 0
        if self.sender is not None and (self.streaming or last):
            self.sender.send(self._response(1 if self.streaming else self.made), flags=FINAL if last else 0)
        if last:
            self.done.set()
        return not last

    def whole(self):
        self.done.wait()
        return self._response(self.made)

    def _response(self, tokens):
        ids = np.arange(self.made - tokens, self.made, dtype=np.int32).reshape(1, 1, -1)
        counts = {"sequence_length": tokens, "num_input_tokens": self.prompt, "num_output_tokens": tokens}
        times = dict(zip(TIMES, self.times, strict=True)) if self.timed else {}
        known = {"output_ids": ids, **{name: np.array([[value]]) for name, value in (counts | times).items()}}
        return pb_utils.InferenceResponse([_tensor(output, known.get(output["name"])) for output in self.outputs])


def _tensor(output, value):
    """One of the configuration's outputs; zeros for those that are of no use here."""
    shape = [1, *(max(1, int(size)) for size in output["dims"])]
    kind = pb_utils.triton_string_to_numpy(output["data_type"])
    return pb_utils.Tensor(output["name"], np.zeros(shape, kind) if value is None else value.astype(kind))


def _given(request, name, default):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0]
