"""The engine's arguments: one frozen dataclass, from whose fields the command line is built.

Names, defaults and exit codes follow vLLM where vLLM has the argument. Imports nothing heavy: plan validation reads
the field names in processes that never start an engine.
"""

import argparse
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, NoReturn

DTYPES = ("auto", "float32", "bfloat16", "float16")
KV_CACHE_DTYPES = ("auto", "fp8", "fp8_e4m3", "fp8_e5m2")
STEPS = ("decoder", "modelled")


class SettingsError(ValueError):
    """A value that is not allowed; the message says what was given and what is allowed."""


def _argument(default: Any, text: str, *, at_least: float | None = None, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": text, "at_least": at_least, "choices": choices})


def _modelled(default: Any, text: str, *, at_least: float | None = None) -> Any:
    """An argument that would do nothing to the decoder."""
    return field(default=default, metadata={"help": text, "at_least": at_least, "choices": (), "modelled": True})


def _fault(text: str) -> Any:
    return _argument(0, f"Fault: {text} (0: never)", at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Every engine argument, with underscores for dashes. Raises SettingsError on a value that is not allowed."""

    # What is served. seed, dtype, kv_cache_dtype and quantization change the weights, hence the output, not the speed.
    model: str = _argument("embedded", "Name of the model")
    served_model_name: str | None = _argument(None, "Name in the API; default: --model")
    seed: int = _argument(0, "Seed of the weights", at_least=0)
    dtype: str = _argument("auto", "Recorded; changes the output, not the speed", choices=DTYPES)
    kv_cache_dtype: str = _argument("auto", "Recorded; changes the output, not the speed", choices=KV_CACHE_DTYPES)
    quantization: str | None = _argument(None, "Recorded; changes the output, not the speed")

    # Scheduling and memory
    max_num_seqs: int = _argument(16, "Requests running at once", at_least=1)
    max_num_batched_tokens: int = _argument(2048, "Token budget of one step", at_least=1)
    max_model_len: int = _argument(4096, "Prompt plus output of one request, tokens", at_least=2)
    block_size: int = _argument(16, "Tokens per KV block", at_least=1)
    num_kv_blocks: int | None = _argument(
        None, "KV blocks; default: enough for max-num-seqs requests of max-model-len", at_least=1
    )
    enable_chunked_prefill: bool = _argument(True, "Split a prompt over steps")
    enable_prefix_caching: bool = _argument(True, "Reuse the KV blocks of equal prompt starts")
    tensor_parallel_size: int = _argument(1, "Scales the modelled step; recorded for the decoder", at_least=1)
    pipeline_parallel_size: int = _argument(1, "Scales the modelled step; recorded for the decoder", at_least=1)
    stream_interval: int = _argument(1, "Tokens per streamed chunk, after the first", at_least=1)
    step: str = _argument("decoder", "decoder computes a transformer, modelled waits as a GPU would", choices=STEPS)

    # The cost of a modelled step
    prefill_ms_per_token: float = _modelled(0.02, "Milliseconds per prompt token", at_least=0)
    decode_ms_per_step: float = _modelled(5.0, "Milliseconds per step that decodes", at_least=0)
    decode_ms_per_seq: float = _modelled(0.1, "Milliseconds per decoding request and step", at_least=0)
    step_overhead_ms: float = _modelled(0.5, "Milliseconds per step, whatever is in it", at_least=0)
    tp_efficiency: float = _modelled(0.8, "Time is divided by 1 + (TP - 1) x efficiency", at_least=0)

    # The noise of a modelled step
    noise_seed: int = _modelled(0, "Seed of every draw", at_least=0)
    noise_session: int = _modelled(0, "Index of this process among the sessions of a seed", at_least=0)
    session_sd: float = _modelled(0.0, "Sd of the log of the factor drawn once per process", at_least=0)
    run_sd: float = _modelled(0.0, "Sd of the log of the factor drawn once per run", at_least=0)
    drift_per_hour: float = _modelled(0.0, "Relative slow-down per hour, compounding (-0.5 halves the time)")
    stall_rate_per_s: float = _modelled(0.0, "Stalls per second (Poisson)", at_least=0)
    stall_ms: float = _modelled(50.0, "Milliseconds of one stall", at_least=0)

    # How events leave the server
    emission_log: str | None = _argument(None, "JSONL file: when each token of each request was written")
    role_chunk_first: bool = _argument(False, "Chat: send the role-only chunk at admission, not with the first token")
    empty_text_every: int = _argument(0, "Every Nth token chunk carries no text (0: never)", at_least=0)
    split_writes: bool = _argument(False, "Write each chunk in several small TCP segments")
    crlf: bool = _argument(False, "End SSE lines with CRLF")

    # Faults, to test what watches a server
    fault_stream_error_every: int = _fault("every Nth request gets an error event after two tokens and HTTP 200")
    fault_status_every: int = _fault("every Nth request is answered 503")
    fault_hang_every: int = _fault("every Nth stream stops after two tokens, connection open")
    fault_disconnect_every: int = _fault("every Nth connection is closed after two tokens")
    fault_engine_die_after: int = _fault("the engine dies at the request after N, the server stays and is unhealthy")
    fault_die_after: int = _fault("the process exits with code 1 and a traceback after N requests")
    fault_start: bool = _argument(False, "Fault: the process exits with code 1 and a traceback during start")

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise SettingsError(problem)

    @property
    def served_name(self) -> str:
        return self.served_model_name or self.model

    @property
    def kv_blocks(self) -> int:
        """The KV capacity in blocks, given or derived."""
        return self.num_kv_blocks or self.max_num_seqs * -(-self.max_model_len // self.block_size)

    @property
    def output_identity(self) -> str:
        """All that decides which tokens come out; equal strings mean equal weights."""
        return f"{self.seed}/{self.dtype}/{self.kv_cache_dtype}/{self.quantization or 'none'}"


@dataclass(frozen=True, slots=True)
class Listen:
    """The server's address. Port 0 lets the kernel choose; the log says which."""

    host: str
    port: int


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _problems(settings: EngineSettings) -> Iterator[str]:
    for item in fields(settings):
        value = getattr(settings, item.name)
        least, choices = item.metadata["at_least"], item.metadata["choices"]
        if least is not None and value is not None and not value >= least:
            yield f"{flag(item.name)} is {value}; allowed: at least {least}"
        if item.metadata.get("modelled") and settings.step != "modelled" and value != item.default:
            yield f"{flag(item.name)} is {value}; allowed only with --step modelled"
        if choices and value not in choices:
            yield f"{flag(item.name)} is {value!r}; allowed: {', '.join(choices)}"
    if not settings.drift_per_hour > -1:
        yield f"--drift-per-hour is {settings.drift_per_hour}; allowed: more than -1"
    yield from _memory_problems(settings)


def _memory_problems(settings: EngineSettings) -> Iterator[str]:
    budget, seqs, longest = settings.max_num_batched_tokens, settings.max_num_seqs, settings.max_model_len
    if budget < seqs:
        yield f"--max-num-batched-tokens is {budget}; allowed: at least --max-num-seqs ({seqs})"
    if budget < longest and not settings.enable_chunked_prefill:
        yield (
            f"--max-num-batched-tokens is {budget}; allowed without chunked prefill: at least --max-model-len"
            f" ({longest}), since a prompt must fit into one step"
        )
    needed = -(-longest // settings.block_size)
    if settings.kv_blocks < needed:
        yield (
            f"--num-kv-blocks is {settings.kv_blocks}; allowed: at least {needed},"
            f" the blocks of one request of --max-model-len ({longest}) tokens"
        )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line: --host, --port and one flag per field of EngineSettings."""
    parser = _Parser(prog="pytest_llmperf.embedded", allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on; 0 lets the kernel choose")
    for item in fields(EngineSettings):
        _add_flag(parser, item)
    return parser


def _add_flag(parser: argparse.ArgumentParser, item: "Field[Any]") -> None:
    text = f"{item.metadata['help']} (default: {item.default})"
    if item.type is bool:
        parser.add_argument(flag(item.name), action=argparse.BooleanOptionalAction, default=item.default, help=text)
    else:
        kinds: dict[object, type] = {str: str, int: int, float: float, str | None: str, int | None: int}
        kind = kinds[item.type]
        parser.add_argument(flag(item.name), type=kind, default=item.default, help=text)


def parse_arguments(argv: Sequence[str]) -> tuple[Listen, EngineSettings]:
    """Exits 2 on a command line that cannot be read; raises SettingsError on a value that is not allowed."""
    parser = build_parser()
    values, unknown = parser.parse_known_args([_dashed(argument) for argument in argv])
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_hint(parser, unknown)}")
    given = vars(values)
    listen = Listen(given.pop("host"), given.pop("port"))
    if not 0 <= listen.port <= 65535:
        raise SettingsError(f"--port is {listen.port}; allowed: 0 to 65535")
    return listen, EngineSettings(**given)


def _dashed(argument: str) -> str:
    """vLLM takes --max_num_seqs for --max-num-seqs."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _hint(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    known = [option for action in parser._actions for option in action.option_strings]
    for argument in unknown:
        close = difflib.get_close_matches(argument.partition("=")[0], known, n=1)
        if close:
            return f"; did you mean {close[0]}?"
    return ""
