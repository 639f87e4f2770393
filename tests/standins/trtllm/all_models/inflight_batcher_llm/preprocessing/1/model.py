"""Stands in for the tokenizer: an id per byte."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        folder = Path(parameters["tokenizer_dir"]["string_value"])
        if not (folder / "tokenizer.json").is_file():
            raise pb_utils.TritonModelException(f"no tokenizer in {folder}")

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        text = pb_utils.get_input_tensor_by_name(request, "QUERY").as_numpy().reshape(-1)[0]
        length = pb_utils.get_input_tensor_by_name(request, "REQUEST_OUTPUT_LEN").as_numpy().reshape(1, -1)
        ids = np.frombuffer(text, dtype=np.uint8).astype(np.int32).reshape(1, -1)
        one = {"REQUEST_INPUT_LEN": ids.shape[1], "OUT_END_ID": 2, "OUT_PAD_ID": 2}
        outputs = [
            pb_utils.Tensor("INPUT_ID", ids),
            pb_utils.Tensor("REQUEST_OUTPUT_LEN", length.astype(np.int32)),
            *(pb_utils.Tensor(name, np.array([[value]], dtype=np.int32)) for name, value in one.items()),
        ]
        return pb_utils.InferenceResponse(outputs)
