"""Cohere's chat API, version 2: https://docs.cohere.com/reference/chat-stream."""

from collections.abc import Mapping

import msgspec

from midstream_server.errors import RunFailure
from midstream_server.model import Prompt
from midstream_server.upstreams.answer import AnswerParser
from midstream_server.upstreams.base import HttpRequest, ModelListing, Profile, StreamParser
from midstream_server.upstreams.cohere.errors import failure_of_http
from midstream_server.upstreams.cohere.parser import END_KIND, ChatRules
from midstream_server.upstreams.cohere.request import build_body
from midstream_server.upstreams.wire.sse import SseDecoder

_HEADERS = {"content-type": "application/json", "accept": "text/event-stream"}


class CohereDialect:
    """The grammar `cohere`."""

    name = "cohere"
    model_listing = ModelListing(
        request=HttpRequest(path="/v1/models", body=b"", query={"endpoint": "chat", "page_size": "1000"}),
        list_field="models",
        name_field="name",
        only_with=("endpoints", "chat"),
    )
    """https://docs.cohere.com/reference/list-models."""

    def build_request(self, model: str, prompt: Prompt, profile: Profile) -> HttpRequest:
        """The request, streamed.

        Raises:
            InvalidRequest: the dialect cannot express a field; names it by its path in GenerateRequest.
            ContinueUnsupported: the prompt has a prefix.
        """
        body = msgspec.json.encode(build_body(model, prompt, profile))
        return HttpRequest(path="/v2/chat", body=body, headers=_HEADERS)

    def authorization(self, api_key: str) -> Mapping[str, str]:
        """https://docs.cohere.com/reference/about#authentication."""
        return {"authorization": f"Bearer {api_key}"}

    def parser(self, profile: Profile) -> StreamParser:
        """A fresh parser for one response body with status 200."""
        return AnswerParser(SseDecoder(), ChatRules(), profile, end_kind=END_KIND)

    def content_types(self) -> frozenset[str]:
        """The media types of a stream."""
        return frozenset({"text/event-stream"})

    def map_error(self, status: int, body: bytes) -> RunFailure:
        """The failure that an HTTP error status and its body mean."""
        return failure_of_http(status, body)
