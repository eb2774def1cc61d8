"""An endpoint as the HTTP policy needs it, and its requests."""

from dataclasses import dataclass, field

import httpx

from midstream_server.errors import RunFailure
from midstream_server.upstreams.base import Dialect, HttpRequest, Profile
from midstream_server.upstreams.http_errors import as_failure_of, redact
from midstream_server.upstreams.http_exchange import HttpClient


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpUpstreamConfig:
    """A configured endpoint. Secrets are in no repr; durations are seconds.

    `secrets` are all keys of this process: whatever an endpoint echoes, none of them gets into a message.
    """

    name: str
    base_url: str
    api_key: str = field(default="", repr=False)
    profile: Profile = Profile()
    models: tuple[str, ...] = ()
    """What to list where the endpoint cannot be asked."""
    connect_seconds: float = 10.0
    first_token_seconds: float = 30.0
    idle_seconds: float = 30.0
    models_seconds: float = 10.0
    max_attempts: int = 3
    retry_initial_seconds: float = 0.25
    retry_max_seconds: float = 5.0
    max_retry_after_seconds: float = 20.0
    """A longer Retry-After is left to the caller."""
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def own(self, failure: RunFailure, *, retry_after: float | None = None) -> RunFailure:
        """A failure of this upstream, fit to be shown."""
        return as_failure_of(failure, self.name, (self.api_key, *self.secrets), retry_after=retry_after)

    def redacted(self, text: str) -> str:
        """A provider's words without our keys."""
        return redact(text, [secret for secret in (self.api_key, *self.secrets) if secret])


def make_http_request(
    client: HttpClient, config: HttpUpstreamConfig, dialect: Dialect, request: HttpRequest, method: str
) -> httpx.Request:
    """The request at the endpoint. A query in `base_url` (Azure's api-version) stays."""
    base = httpx.URL(config.base_url)
    url = base.copy_with(path=base.path.rstrip("/") + request.path).copy_merge_params(dict(request.query))
    headers = {**request.headers}
    if config.api_key:
        headers.update(dialect.authorization(config.api_key))
    if config.profile.connection_close:
        headers["connection"] = "close"
    return client.build_request(method, url, headers, request.body or None)
