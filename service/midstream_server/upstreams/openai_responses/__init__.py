"""OpenAI Responses: https://platform.openai.com/docs/api-reference/responses."""

from midstream_server.upstreams.openai_responses.dialect import OpenAIResponsesDialect

__all__ = ["OpenAIResponsesDialect"]
