"""Sends tokens at planned times and writes down when; a prompt with `fault:…` says what goes wrong. Decoupled.

Parameters: `gap_ms` between tokens; `log`, a file that gets one JSON list of send times (ns) per finished request.
"""

import json
import os
import signal
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]})
        config.add_input({"name": "max_tokens", "data_type": "TYPE_INT32", "dims": [1], "optional": True})
        config.add_input({"name": "return_perf_metrics", "data_type": "TYPE_BOOL", "dims": [1], "optional": True})
        for name in TIMES:
            config.add_output({"name": name, "data_type": "TYPE_INT64", "dims": [1]})
        config.add_output({"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]})
        config.set_max_batch_size(0)
        config.set_model_transaction_policy({"decoupled": True})
        return config

    def initialize(self, args):
        given = {name: v["string_value"] for name, v in json.loads(args["model_config"])["parameters"].items()}
        self.gap_ns = round(float(given.get("gap_ms", 5)) * 1e6)
        self.log = given.get("log")

    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy().reshape(-1)[0].decode()
            tokens = pb_utils.get_input_tensor_by_name(request, "max_tokens")
            count = 1 if tokens is None else int(tokens.as_numpy().reshape(-1)[0])
            if "fault:crash" in text:
                os.kill(os.getpid(), signal.SIGSEGV)
            asked = pb_utils.get_input_tensor_by_name(request, "return_perf_metrics")
            timed = asked is not None and bool(asked.as_numpy().reshape(-1)[0])
            threading.Thread(target=self.answer, args=(request.get_response_sender(), text, count, timed)).start()

    def answer(self, sender, text, count, timed):
        sent = []
        begin = time.perf_counter_ns()
        for token in range(count):
            time.sleep(max(0, begin + token * self.gap_ns - time.perf_counter_ns()) / 1e9)
            if "fault:wrong" in text and token == count // 2:
                error = pb_utils.TritonError("no such token")
                sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)
                return
            output = pb_utils.Tensor("text_output", np.array([b"tok "], dtype=object))
            response = pb_utils.InferenceResponse([output, *(self.times(token) if timed else ())])
            sent.append(time.time_ns())
            sender.send(response)
        if "fault:forever" in text:
            return
        if self.log:
            with open(self.log, "a") as file:
                file.write(json.dumps(sent) + "\n")
        sender.send(flags=FINAL)

    def times(self, token):
        """What TensorRT-LLM would tell: a queue of 2 ms, a prefill of 3 ms, and the planned gaps."""
        arrived = 1_000_000_000
        first = arrived + 5_000_000
        told = (arrived, arrived + 2_000_000, first, first + token * self.gap_ns)
        return [pb_utils.Tensor(name, np.array([time], dtype=np.int64)) for name, time in zip(TIMES, told, strict=True)]
