"""Stands in for the tokenizer: an id per byte."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = config["parameters"]
        self.outputs = config["output"]
        folder = Path(parameters["tokenizer_dir"]["string_value"])
        if not (folder / "tokenizer.json").is_file():
            raise pb_utils.TritonModelException(f"no tokenizer in {folder}")

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        text = pb_utils.get_input_tensor_by_name(request, "QUERY").as_numpy().reshape(-1)[0]
        length = pb_utils.get_input_tensor_by_name(request, "REQUEST_OUTPUT_LEN").as_numpy().reshape(1, -1)
        ids = np.frombuffer(text, dtype=np.uint8).astype(np.int32).reshape(1, -1)
        known = {
            "INPUT_ID": ids,
            "REQUEST_INPUT_LEN": np.array([[ids.shape[1]]]),
            "REQUEST_OUTPUT_LEN": length,
            "OUT_END_ID": np.array([[2]]),
            "OUT_PAD_ID": np.array([[2]]),
        }
        return pb_utils.InferenceResponse([_tensor(output, known.get(output["name"])) for output in self.outputs])


def _tensor(output, value):
    """One of the configuration's outputs; zeros for those that are of no use here."""
    shape = [1, *(max(1, int(size)) for size in output["dims"])]
    kind = pb_utils.triton_string_to_numpy(output["data_type"])
    return pb_utils.Tensor(output["name"], np.zeros(shape, kind) if value is None else value.astype(kind))
