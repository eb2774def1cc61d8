"""Anthropic Messages: https://platform.claude.com/docs/en/api/messages."""

from collections.abc import Mapping

from midstream_server.errors import RunFailure
from midstream_server.model import Prompt
from midstream_server.upstreams.answer import AnswerParser
from midstream_server.upstreams.anthropic.errors import failure_of_body
from midstream_server.upstreams.anthropic.parser import END_KIND, MessageRules
from midstream_server.upstreams.anthropic.request import VERSION, build_messages_request
from midstream_server.upstreams.base import HttpRequest, ModelListing, Profile, StreamParser
from midstream_server.upstreams.wire.sse import SseDecoder

NAME = "anthropic"
_CONTENT_TYPES = frozenset({"text/event-stream"})


class AnthropicDialect:
    """The grammar `anthropic`."""

    name = NAME
    model_listing = ModelListing(
        request=HttpRequest(
            path="/v1/models", body=b"", headers={"anthropic-version": VERSION}, query={"limit": "1000"}
        )
    )
    """https://platform.claude.com/docs/en/api/models/list."""

    def build_request(self, model: str, prompt: Prompt, profile: Profile) -> HttpRequest:
        """The HTTP request for a prompt.

        Raises:
            InvalidRequest: the dialect cannot express a field; names it by its path in GenerateRequest.
            ContinueUnsupported: the prompt has a prefix that this model cannot go on with.
        """
        return build_messages_request(model, prompt, profile, NAME)

    def authorization(self, api_key: str) -> Mapping[str, str]:
        """https://platform.claude.com/docs/en/api/overview#authentication."""
        return {"x-api-key": api_key}

    def parser(self, profile: Profile) -> StreamParser:
        """A fresh parser for one response body with status 200."""
        return AnswerParser(SseDecoder(), MessageRules(NAME), profile, END_KIND)

    def content_types(self) -> frozenset[str]:
        """The media types of a stream."""
        return _CONTENT_TYPES

    def map_error(self, status: int, body: bytes) -> RunFailure:
        """The failure that an HTTP error status and its body mean."""
        return failure_of_body(status, body)
