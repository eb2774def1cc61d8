"""Google's Gemini API, `streamGenerateContent`: https://ai.google.dev/api/generate-content."""

from collections.abc import Mapping

from midstream_server.errors import RunFailure
from midstream_server.model import Prompt
from midstream_server.upstreams.answer import AnswerParser
from midstream_server.upstreams.base import HttpRequest, ModelListing, Profile, StreamParser
from midstream_server.upstreams.gemini.errors import failure_of_body
from midstream_server.upstreams.gemini.parser import ChunkFraming, GeminiRules
from midstream_server.upstreams.gemini.request import build_gemini_request

NAME = "gemini"
_CONTENT_TYPES = frozenset({"text/event-stream", "application/json"})
"""Without `alt=sse`, which a gateway may drop, the stream is one JSON array."""


class GeminiDialect:
    """The grammar `gemini`."""

    name = NAME
    model_listing = ModelListing(
        request=HttpRequest(path="/v1beta/models", body=b"", query={"pageSize": "1000"}),
        list_field="models",
        name_field="name",
        name_prefix="models/",
        only_with=("supportedGenerationMethods", "generateContent"),
    )
    """https://ai.google.dev/api/models#method:-models.list."""

    def build_request(self, model: str, prompt: Prompt, profile: Profile) -> HttpRequest:
        """The HTTP request for a prompt.

        Raises:
            InvalidRequest: the dialect cannot express a field; names it by its path in GenerateRequest.
            ContinueUnsupported: the prompt has a prefix that this endpoint cannot go on with.
        """
        return build_gemini_request(model, prompt, profile, NAME)

    def authorization(self, api_key: str) -> Mapping[str, str]:
        """https://ai.google.dev/gemini-api/docs/api-key."""
        return {"x-goog-api-key": api_key}

    def parser(self, profile: Profile) -> StreamParser:
        """A fresh parser for one response body with status 200."""
        return AnswerParser(ChunkFraming(), GeminiRules(NAME), profile)

    def content_types(self) -> frozenset[str]:
        """The media types of a stream."""
        return _CONTENT_TYPES

    def map_error(self, status: int, body: bytes) -> RunFailure:
        """The failure that an HTTP error status and its body mean."""
        return failure_of_body(status, body)
