"""The one HTTP policy of all dialects: an upstream that makes calls (`http_call`), and lists its models."""

import asyncio
from collections.abc import Sequence

from typing_extensions import override

from midstream_server.errors import UpstreamMalformed, UpstreamUnavailable
from midstream_server.model import ModelInfo, Prompt
from midstream_server.upstreams.base import CallOptions, Dialect, Upstream
from midstream_server.upstreams.http_call import HttpCall
from midstream_server.upstreams.http_config import HttpUpstreamConfig, make_http_request
from midstream_server.upstreams.http_errors import SEND_ERRORS, failure_of_send
from midstream_server.upstreams.http_exchange import Exchange, HttpClient
from midstream_server.upstreams.http_models import read_model_names

_ERROR_BODY_BYTES = 64 * 1024
_MODELS_BODY_BYTES = 4 * 1024 * 1024


class HttpUpstream(Upstream):
    """An endpoint that speaks a dialect over HTTP. Whoever made the client closes it."""

    def __init__(self, config: HttpUpstreamConfig, dialect: Dialect, client: HttpClient) -> None:
        self.name = config.name
        self._config = config
        self._dialect = dialect
        self._client = client

    @override
    def call(self, model: str, prompt: Prompt, options: CallOptions) -> HttpCall:
        """Prepares a call; sends nothing.

        Raises:
            InvalidRequest: the dialect cannot express the prompt; names the field.
        """
        request = self._dialect.build_request(model, prompt, self._config.profile)
        return HttpCall(self._config, self._dialect, self._client, request, options)

    @property
    @override
    def supports_continue(self) -> bool:
        """Whether `Prompt.prefix` works here."""
        return self._config.profile.continue_prefix != "none"

    @override
    async def models(self) -> Sequence[ModelInfo]:
        """The models that it knows by name: those of its configuration, or those that the endpoint lists.

        Cancelling it closes the connection.

        Raises:
            RunFailure: it cannot be asked.
        """
        names = self._config.models or await self._ask_for_models()
        return [
            ModelInfo(
                name=f"{self.name}/{name}",
                upstream=self.name,
                dialect=self._dialect.name,
                supports_continue=self.supports_continue,
            )
            for name in names
        ]

    async def _ask_for_models(self) -> tuple[str, ...]:
        listing = self._dialect.model_listing
        request = make_http_request(self._client, self._config, self._dialect, listing.request, "GET")
        exchange = Exchange(self._client, request, lambda: None)
        try:
            async with asyncio.timeout(self._config.models_seconds):
                response = await exchange.open()
                body = await _read_body(exchange, _MODELS_BODY_BYTES)
        except TimeoutError as error:
            raise self._config.own(UpstreamUnavailable("the upstream did not list its models in time")) from error
        except SEND_ERRORS as error:
            raise self._config.own(failure_of_send(error).failure) from error
        finally:
            await exchange.aclose()
        if response.status_code != 200:
            raise self._config.own(self._dialect.map_error(response.status_code, body[:_ERROR_BODY_BYTES]))
        try:
            return read_model_names(body, listing)
        except ValueError as error:
            raise self._config.own(UpstreamMalformed("the upstream's list of models cannot be read")) from error


async def _read_body(exchange: Exchange, max_bytes: int) -> bytes:
    body = bytearray()
    while len(body) < max_bytes and (data := await exchange.read()):
        body += data
    return bytes(body[:max_bytes])


__all__ = ["HttpUpstream", "HttpUpstreamConfig"]
