"""Stands in for the detokenizer: a word per token."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.outputs = json.loads(args["model_config"])["output"]

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy().reshape(-1)
        text = "".join(f"t{token} " for token in tokens)
        known = {"OUTPUT": np.array([[text.encode()]], dtype=object)}
        return pb_utils.InferenceResponse([_tensor(output, known.get(output["name"])) for output in self.outputs])


def _tensor(output, value):
    """One of the configuration's outputs; zeros for those that are of no use here."""
    shape = [1, *(max(1, int(size)) for size in output["dims"])]
    kind = pb_utils.triton_string_to_numpy(output["data_type"])
    return pb_utils.Tensor(output["name"], np.zeros(shape, kind) if value is None else value.astype(kind))
