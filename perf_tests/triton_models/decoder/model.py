"""A small real LLM as a Triton python model: the embedded engine's scheduler and decoder, streaming (decoupled).

Triton hands over the requests of a batch together, and they are decoded until the last of them is done: that is
where instance_group, max_batch_size and dynamic_batching show. `make engine-triton` makes the package importable here.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

from pytest_llmperf.embedded.engine import tokenizer
from pytest_llmperf.embedded.engine.decoder import Decoder
from pytest_llmperf.embedded.engine.scheduler import Request, Scheduler
from pytest_llmperf.embedded.settings import EngineSettings

INPUTS = (
    ("text_input", "TYPE_STRING", False),
    ("max_tokens", "TYPE_INT32", True),
    ("min_tokens", "TYPE_INT32", True),
    ("ignore_eos", "TYPE_BOOL", True),
    ("temperature", "TYPE_FP32", True),
)
OUTPUTS = (("text_output", "TYPE_STRING"), ("num_output_tokens", "TYPE_UINT32"), ("num_input_tokens", "TYPE_UINT32"))


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        for name, data_type, optional in INPUTS:
            config.add_input({"name": name, "data_type": data_type, "dims": [1], "optional": optional})
        for name, data_type in OUTPUTS:
            config.add_output({"name": name, "data_type": data_type, "dims": [1]})
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.batched = config["max_batch_size"] > 0
        self.decoupled = config["model_transaction_policy"]["decoupled"]
        given = {name: value["string_value"] for name, value in config["parameters"].items()}
        settings = EngineSettings(
            max_num_seqs=max(1, config["max_batch_size"]), max_model_len=int(given.get("max-model-len", 4096))
        )
        self.decoder = Decoder(settings)
        self.decoder.warm_up()
        self.settings = settings

    def execute(self, requests):
        """Decodes the batch; answers token by token, or (not decoupled) whole."""
        scheduler = Scheduler(self.settings, tokenizer.EOS)
        answers = [Answer(index, request, self) for index, request in enumerate(requests)]
        for answer in answers:
            scheduler.add(answer.asked)
        while scheduler.has_work:
            plan = scheduler.schedule()
            for output in scheduler.commit(plan, self.decoder.execute(plan, after_idle=False)):
                answers[output.request_id].add(output)
        return None if self.decoupled else [answer.whole() for answer in answers]


class Answer:
    """One request on its way."""

    def __init__(self, index, request, model):
        self.sender = request.get_response_sender() if model.decoupled else None
        self.shape = (1, 1) if model.batched else (1,)
        prompt = tokenizer.encode(_given(request, "text_input", b"").decode("utf-8", "replace"))
        limit = model.settings.max_model_len - len(prompt)
        if limit < 1:
            raise pb_utils.TritonModelException(f"a prompt of {len(prompt)} tokens leaves no room for an answer")
        self.asked = Request(
            id=index,
            prompt=tuple(prompt),
            max_tokens=min(limit, int(_given(request, "max_tokens", 16))),
            min_tokens=int(_given(request, "min_tokens", 0)),
            ignore_eos=bool(_given(request, "ignore_eos", False)),
            temperature=float(_given(request, "temperature", 0.0)),
        )
        self.tokens = []
        self.text = tokenizer.Detokenizer()
        self.said = ""

    def add(self, output):
        last = output.finish_reason is not None
        text = self.text.add(output.token, last=last)
        self.tokens.append(output.token)
        self.said += text
        if self.sender is not None:
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
            self.sender.send(self._response(text, 1), flags=flags)

    def whole(self):
        return self._response(self.said, len(self.tokens))

    def _response(self, text, tokens):
        counts = (("num_output_tokens", tokens), ("num_input_tokens", len(self.asked.prompt)))
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("text_output", np.array([text.encode()], dtype=object).reshape(self.shape)),
                *(pb_utils.Tensor(name, np.array([n], dtype=np.uint32).reshape(self.shape)) for name, n in counts),
            ]
        )


def _given(request, name, default):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0]
