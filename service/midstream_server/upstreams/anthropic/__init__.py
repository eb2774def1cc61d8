"""Anthropic Messages: https://platform.claude.com/docs/en/api/messages."""

from midstream_server.upstreams.anthropic.dialect import AnthropicDialect

__all__ = ["AnthropicDialect"]
