"""Google's Gemini API, `streamGenerateContent`: https://ai.google.dev/api/generate-content."""

from midstream_server.upstreams.gemini.dialect import GeminiDialect

__all__ = ["GeminiDialect"]
