"""The address that requests go to."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_llmperf.load.endpoints.triton_tensors import TensorSpec
from pytest_llmperf.plan.server import urls


@dataclass(frozen=True, slots=True)
class Target:
    """One server (or replica) to send to. Secrets in `headers`, and in the query of `url`, are never shown."""

    url: str
    """Base URL, in the forms that plan/server/urls.py names."""
    model: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    continuous_usage: bool = False
    """True if the engine is known to send token counts in every chunk when asked to."""
    inputs: tuple[TensorSpec, ...] = ()
    """Inputs of the model, where they were asked for: Triton's."""
    grpc: str = ""
    """host:port of its gRPC service; empty where it has none."""
    metrics: str = ""
    """URL of its metrics, where that is another one."""
    path: str = ""
    """The route of the load's requests: a whole path of the host, which may have a query. Empty: the endpoint's."""

    version: str = ""
    """The engine's version where the deployment reports it and not the server itself."""

    def __repr__(self) -> str:
        return f"Target({self.shown!r}, {self.model!r})"

    @property
    def shown(self) -> str:
        """The URL for people, without its query, which may hold a secret that was filled in."""
        return urls.bare(self.url)

    def at(self, route: str) -> str:
        """The URL of a route such as `/v1/models`."""
        return urls.address(self.url, route)

    def posted_at(self, route: str) -> str:
        """The URL where requests for an endpoint whose own route is `route` go."""
        return urls.on_host(self.url, self.path) if self.path else self.at(route)

    @property
    def is_secure(self) -> bool:
        return self.url.startswith(("https://", "grpcs://"))

    def __post_init__(self) -> None:
        if not (self.url.isascii() and self.url.startswith(("http://", "https://", "grpc://", "grpcs://"))):
            raise ValueError(f"{self.shown!r} is not an http:// or https:// URL")
        for name, value in self.headers:
            if not (name + value).isascii() or not (name + value).isprintable():
                raise ValueError(f"header {name!r} holds characters that a header cannot carry")
