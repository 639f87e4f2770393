"""The questions that a running Triton answers: over HTTP, or over gRPC where that is all there is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.answers.refusal import refused
from pytest_llmperf.load.endpoints.openai import body_text, shorten
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.endpoints.triton_grpc import encode_request, grpc_module, read_response
from pytest_llmperf.load.endpoints.triton_tensors import TensorSpec, infer_body, input_specs
from pytest_llmperf.servers.http import ask

_TIMEOUT_S = 5.0
_ONE_TOKEN: Mapping[str, Any] = {"text_input": "Hello", "parameters": {"max_tokens": 1}}


class HttpService:
    """A client over HTTP. Methods raise ServerError where the server refuses, and httpx.TransportError where there
    is none.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._model = f"/v2/models/{quote(target.model, safe='')}"

    def ready(self) -> bool:
        """True if the server calls the model ready, which it also does of one that has crashed."""
        try:
            return self._get(f"{self._model}/ready").status_code == 200
        except httpx.TransportError:
            return False

    def inputs(self) -> tuple[TensorSpec, ...]:
        return input_specs(self._json(f"{self._model}/config"))

    def statistics(self) -> dict[str, Any]:
        return self._json("/v2/models/stats")

    def version(self) -> str | None:
        return self._json("/v2").get("version")

    def first_failure(self, timeout_s: float) -> str | None:
        """A sentence on what went wrong with a request of one token; None when it gave an answer to its end."""
        with_text = any(spec.name == "text_input" for spec in self._target.inputs)
        path, body = (
            ("generate_stream", _ONE_TOKEN) if with_text else ("infer", infer_body(self._target.inputs, _ONE_TOKEN))
        )
        url = self._target.at(f"{self._model}/{path}")
        try:
            answer = ask("POST", url, body=body, headers=self._target.headers, timeout_s=timeout_s)
        except httpx.TransportError as error:
            return f"{type(error).__name__}: {error}"
        if answer.status_code != 200 or '"error"' in answer.text[:200] or not answer.content:
            return refused(answer.status_code, answer.content, answer.headers.get("location", ""))
        return None

    def _json(self, path: str) -> dict[str, Any]:
        answer = self._get(path)
        if answer.status_code != 200:
            raise ServerError(f"{self._target.shown}{path} answers {answer.status_code}: {body_text(answer.content)}")
        try:
            found = answer.json()
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ServerError(f"{self._target.shown}{path} is not Triton's answer: {body_text(answer.content)}")
        return found

    def _get(self, path: str) -> httpx.Response:
        answer = ask("GET", self._target.at(path), headers=self._target.headers, timeout_s=_TIMEOUT_S)
        if answer.status_code in (401, 403):
            raise ServerError(f"{self._target.shown}{path} answers {answer.status_code}: the credentials are wrong")
        if 300 <= answer.status_code < 400:
            what = refused(answer.status_code, answer.content, answer.headers.get("location", ""))
            raise ServerError(f"{self._target.shown}{path}: {what}")
        return answer


class GrpcService:
    """The same over gRPC, with tritonclient."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def ready(self) -> bool:
        with self._client() as client:
            try:
                return bool(client.is_model_ready(self._target.model))
            except grpc_module("tritonclient.utils").InferenceServerException:
                return False

    def inputs(self) -> tuple[TensorSpec, ...]:
        return input_specs(self._ask("get_model_config", self._target.model)["config"])

    def statistics(self) -> dict[str, Any]:
        return self._ask("get_inference_statistics")

    def version(self) -> str | None:
        return self._ask("get_server_metadata").get("version")

    def first_failure(self, timeout_s: float) -> str | None:
        """A sentence on what went wrong with a request of one token; None when it gave an answer to its end."""
        grpc = grpc_module("grpc")
        request = encode_request(_ONE_TOKEN, self._target.model, self._target.inputs)
        with self._channel() as channel:
            call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            try:
                events = [read_response(message) for message in call(iter([request]), timeout=timeout_s)]
            except grpc.RpcError as error:
                return f"gRPC {error.code().name}: {shorten(error.details() or '')}"
        return next((event.error for event in events if event.error), None if events else "no answer")

    def _channel(self) -> Any:
        grpc = grpc_module("grpc")
        if self._target.is_secure:
            return grpc.secure_channel(self._target.grpc, grpc.ssl_channel_credentials())
        return grpc.insecure_channel(self._target.grpc)

    def _ask(self, method: str, *args: Any) -> dict[str, Any]:
        failure = grpc_module("tritonclient.utils").InferenceServerException
        with self._client() as client:
            try:
                found: dict[str, Any] = getattr(client, method)(*args, as_json=True, client_timeout=_TIMEOUT_S)
            except failure as error:
                raise ServerError(f"{self._target.shown} answers {method}: {shorten(str(error))}") from error
        return found

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        client = grpc_module("tritonclient.grpc").InferenceServerClient(self._target.grpc, ssl=self._target.is_secure)
        try:
            yield client
        finally:
            client.close()


Service = HttpService | GrpcService


def service(target: Target) -> Service:
    """The client for this server's own protocol."""
    return GrpcService(target) if target.url.startswith("grpc") else HttpService(target)


def metrics_text(url: str) -> str:
    """The Prometheus text at `url`; empty where there is none."""
    try:
        answer = ask("GET", url, timeout_s=_TIMEOUT_S)
    except httpx.TransportError:
        return ""
    return answer.text if answer.status_code == 200 else ""
