"""OpenAI Chat Completions, and its many relatives: https://platform.openai.com/docs/api-reference/chat."""

from midstream_server.upstreams.openai_chat.dialect import OpenAIChatDialect

__all__ = ["OpenAIChatDialect"]
