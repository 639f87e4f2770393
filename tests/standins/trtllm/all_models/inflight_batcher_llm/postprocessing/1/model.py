"""Stands in for the detokenizer: a word per token."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy().reshape(-1)
        text = "".join(f"t{token} " for token in tokens)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array([[text.encode()]], dtype=object))])
