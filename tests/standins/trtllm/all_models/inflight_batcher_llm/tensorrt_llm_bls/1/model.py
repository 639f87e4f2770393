"""Stands in for the BLS model: asks the three others in turn, and passes every token on."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
PASSED = (
    *("num_input_tokens", "num_output_tokens"),
    *("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns"),
)
"""What it passes on from the engine, where its configuration has it: older ones have not."""


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.engine = config["parameters"]["tensorrt_llm_model_name"]["string_value"]
        self.decoupled = config["model_transaction_policy"]["decoupled"]
        own = {output["name"] for output in config["output"]}
        self.passed = [name for name in PASSED if name in own]

    def execute(self, requests):
        """One after the other, as the real one: bls_instance_count says how many at once."""
        answers = [self._answer(request) for request in requests]
        return None if self.decoupled else answers

    def _answer(self, request):
        text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
        length = pb_utils.get_input_tensor_by_name(request, "max_tokens").as_numpy()
        prepared = _ask(
            "preprocessing",
            {"QUERY": text, "REQUEST_OUTPUT_LEN": length},
            ("INPUT_ID", "REQUEST_INPUT_LEN", "REQUEST_OUTPUT_LEN", "OUT_END_ID", "OUT_PAD_ID"),
        )
        inputs = {
            "input_ids": prepared["INPUT_ID"],
            "input_lengths": prepared["REQUEST_INPUT_LEN"],
            "request_output_len": prepared["REQUEST_OUTPUT_LEN"],
            "end_id": prepared["OUT_END_ID"],
            "pad_id": prepared["OUT_PAD_ID"],
        }
        if (stream := pb_utils.get_input_tensor_by_name(request, "stream")) is not None:
            inputs["streaming"] = stream.as_numpy()
        asked = pb_utils.InferenceRequest(
            model_name=self.engine,
            requested_output_names=["output_ids", "sequence_length", *self.passed],
            inputs=[pb_utils.Tensor(name, value) for name, value in inputs.items()],
        )
        if not self.decoupled:
            return self._text(asked.exec())
        sender = request.get_response_sender()
        for response in asked.exec(decoupled=True):
            if response.output_tensors():
                sender.send(self._text(response))
        sender.send(flags=FINAL)
        return None

    def _text(self, response):
        if response.has_error():
            raise pb_utils.TritonModelException(response.error().message())
        found = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        tokens = {"TOKENS_BATCH": found["output_ids"], "SEQUENCE_LENGTH": found["sequence_length"]}
        text = _ask("postprocessing", tokens, ("OUTPUT",))["OUTPUT"]
        passed = [pb_utils.Tensor(name, found[name]) for name in self.passed]
        return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", text.astype(np.object_)), *passed])


def _ask(model, inputs, outputs):
    tensors = [pb_utils.Tensor(name, value) for name, value in inputs.items()]
    response = pb_utils.InferenceRequest(model_name=model, requested_output_names=list(outputs), inputs=tensors).exec()
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
