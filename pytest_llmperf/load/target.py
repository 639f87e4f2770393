"""Where requests go."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_llmperf.load.triton_tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Target:
    """One server (or replica) to send to. `headers` may carry secrets, so they are never shown."""

    url: str
    model: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    continuous_usage: bool = False
    """The engine is known to tell token counts in every chunk when asked to."""
    inputs: tuple[TensorSpec, ...] = ()
    """Inputs of the model, where they were asked for: Triton's."""
    grpc: str = ""
    """host:port of its gRPC service; empty where it has none."""
    metrics: str = ""
    """URL of its metrics, where that is another one."""

    @property
    def is_secure(self) -> bool:
        return self.url.startswith(("https://", "grpcs://"))

    def __post_init__(self) -> None:
        if not (self.url.isascii() and self.url.startswith(("http://", "https://", "grpc://", "grpcs://"))):
            raise ValueError(f"{self.url!r} is not an http:// or https:// URL")
        for name, value in self.headers:
            if not (name + value).isascii() or not (name + value).isprintable():
                raise ValueError(f"header {name!r} holds characters that a header cannot carry")
