"""OpenAI Chat Completions, and its many relatives: https://platform.openai.com/docs/api-reference/chat."""

from collections.abc import Mapping

from midstream_server.errors import RunFailure
from midstream_server.model import Prompt
from midstream_server.upstreams.answer import AnswerParser
from midstream_server.upstreams.base import HttpRequest, ModelListing, Profile, StreamParser
from midstream_server.upstreams.openai.errors import failure_of_body
from midstream_server.upstreams.openai_chat.parser import ChatRules
from midstream_server.upstreams.openai_chat.request import build_chat_request
from midstream_server.upstreams.wire.sse import SseDecoder

NAME = "openai-chat"
_CONTENT_TYPES = frozenset({"text/event-stream"})


class OpenAIChatDialect:
    """The grammar `openai-chat`."""

    name = NAME
    model_listing = ModelListing()
    """https://platform.openai.com/docs/api-reference/models/list."""

    def build_request(self, model: str, prompt: Prompt, profile: Profile) -> HttpRequest:
        """The HTTP request for a prompt.

        Raises:
            InvalidRequest: the dialect cannot express a field; names it by its path in GenerateRequest.
            ContinueUnsupported: the prompt has a prefix that this endpoint cannot go on with.
        """
        return build_chat_request(model, prompt, profile, NAME)

    def authorization(self, api_key: str) -> Mapping[str, str]:
        """https://platform.openai.com/docs/api-reference/authentication."""
        return {"authorization": f"Bearer {api_key}"}

    def parser(self, profile: Profile) -> StreamParser:
        """A fresh parser for one response body with status 200."""
        return AnswerParser(SseDecoder(), ChatRules(NAME, profile), profile)

    def content_types(self) -> frozenset[str]:
        """The media types of a stream."""
        return _CONTENT_TYPES

    def map_error(self, status: int, body: bytes) -> RunFailure:
        """The failure that an HTTP error status and its body mean."""
        return failure_of_body(status, body)
