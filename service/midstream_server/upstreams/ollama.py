"""Ollama's own chat API: https://docs.ollama.com/api/chat."""

from collections.abc import Mapping

from midstream_server.errors import RunFailure
from midstream_server.model import Prompt
from midstream_server.upstreams.base import HttpRequest, ModelListing, Profile, StreamParser
from midstream_server.upstreams.ollama_errors import failure_of_status
from midstream_server.upstreams.ollama_parser import OllamaParser
from midstream_server.upstreams.ollama_request import build_ollama_request

NAME = "ollama"
_CONTENT_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/json"})


class OllamaDialect:
    """The grammar `ollama`."""

    name = NAME
    model_listing = ModelListing(
        request=HttpRequest(path="/api/tags", body=b""), list_field="models", name_field="name"
    )
    """https://docs.ollama.com/api/tags."""

    def build_request(self, model: str, prompt: Prompt, profile: Profile) -> HttpRequest:
        """The HTTP request for a prompt.

        Raises:
            InvalidRequest: the dialect cannot express a field; names it by its path in GenerateRequest.
            ContinueUnsupported: the prompt has a prefix that this endpoint cannot go on with.
        """
        return build_ollama_request(model, prompt, profile)

    def authorization(self, api_key: str) -> Mapping[str, str]:
        """https://docs.ollama.com/api/authentication."""
        return {"authorization": f"Bearer {api_key}"}

    def parser(self, profile: Profile) -> StreamParser:
        """A fresh parser for one response body with status 200."""
        return OllamaParser(profile)

    def content_types(self) -> frozenset[str]:
        """The media types of a stream."""
        return _CONTENT_TYPES

    def map_error(self, status: int, body: bytes) -> RunFailure:
        """The failure that an HTTP error status and its body mean."""
        return failure_of_status(status, body)
