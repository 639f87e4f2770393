"""Stands in for the LLM API's model: model.yaml says whether it streams, as Triton completes the configuration."""

import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
STEP_S = 0.002


def settings():
    """Top-level keys of model.yaml, and those of triton_config; YAML's own module may be absent here."""
    found = {}
    for line in Path(pb_utils.get_model_dir(), "model.yaml").read_text().splitlines():
        name, _, value = line.strip().partition(": ")
        found[name] = value.strip()
    return found


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        given = settings()
        config.set_model_transaction_policy({"decoupled": given["decoupled"].lower() == "true"})
        config.set_max_batch_size(int(given["max_batch_size"]))
        return config

    def initialize(self, args):
        given = settings()
        if not Path(given["model"], "config.json").is_file():
            raise pb_utils.TritonModelException(f"{given['model']} is no model")
        self.decoupled = given["decoupled"].lower() == "true"

    def execute(self, requests):
        if not self.decoupled:
            return [self._response(self._asked(request), None) for request in requests]
        for request in requests:
            sender, tokens = request.get_response_sender(), self._asked(request)
            threading.Thread(target=self._stream, args=(sender, tokens)).start()
        return None

    def _asked(self, request):
        tensor = pb_utils.get_input_tensor_by_name(request, "sampling_param_max_tokens")
        return 16 if tensor is None else int(tensor.as_numpy().reshape(-1)[0])

    def _stream(self, sender, tokens):
        for token in range(tokens):
            time.sleep(STEP_S)
            sender.send(self._response(1, "length" if token == tokens - 1 else None))
        sender.send(flags=FINAL)

    def _response(self, tokens, reason):
        outputs = [pb_utils.Tensor("text_output", np.array([b"tok " * tokens], dtype=object))]
        if reason:
            outputs.append(pb_utils.Tensor("finish_reason", np.array([reason.encode()], dtype=object)))
        return pb_utils.InferenceResponse(outputs)
