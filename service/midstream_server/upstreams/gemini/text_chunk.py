"""The chunk that most of a Gemini stream is made of: a piece of text or of a thought, and the account so far."""

from typing import Literal

import msgspec

from midstream_server.model import JsonValue
from midstream_server.upstreams.wire.json_text import plain_decoder


class _TextPart(msgspec.Struct):
    text: str
    thought: bool | None = None
    thoughtSignature: None = None
    functionCall: None = None
    inlineData: None = None
    fileData: None = None


class _Content(msgspec.Struct):
    parts: tuple[_TextPart]


class _Candidate(msgspec.Struct):
    content: _Content
    index: Literal[0] | None = 0
    finishReason: None = None
    citationMetadata: None = None
    groundingMetadata: None = None
    logprobsResult: None = None


class _Account(msgspec.Struct):
    promptTokenCount: int | None = None
    cachedContentTokenCount: int | None = None
    candidatesTokenCount: int | None = None
    thoughtsTokenCount: int | None = None
    toolUsePromptTokenCount: None = None
    serviceTier: str | None = None
    trafficType: str | None = None


class TextChunk(msgspec.Struct):
    """A chunk of this kind and no other."""

    candidates: tuple[_Candidate]
    usageMetadata: _Account | None = None
    modelVersion: str | None = None
    responseId: str | None = None
    promptFeedback: None = None
    error: None = None

    @property
    def text(self) -> str:
        """The piece."""
        return self.candidates[0].content.parts[0].text

    @property
    def is_thought(self) -> bool:
        """Whether that is a thought."""
        return self.candidates[0].content.parts[0].thought is True

    @property
    def facts(self) -> tuple[object, ...]:
        """What it says besides."""
        account = self.usageMetadata or _Account()
        return (self.responseId, self.modelVersion, account.serviceTier, account.trafficType)

    def account(self) -> dict[str, JsonValue]:
        """The account by the provider's names; empty if there is none."""
        return msgspec.structs.asdict(self.usageMetadata) if self.usageMetadata else {}


decode_text_chunk = plain_decoder(TextChunk)
"""The chunk, if it is one of text and nothing else."""
