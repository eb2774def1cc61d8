"""Prompts as Responses requests: what is sent, and what is refused."""

import json
from typing import Any

import msgspec
import pytest

from midstream_server.errors import ContinueUnsupported, InvalidRequest
from midstream_server.model import (
    Blob,
    GenerationParameters,
    JsonSchemaFormat,
    Message,
    Part,
    ProviderState,
    Reasoning,
    ReasoningEffort,
    ReasoningParameters,
    Refusal,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    ToolResult,
)
from midstream_server.upstreams.base import HttpRequest, Profile
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from midstream_server.upstreams.profiles import PRESETS
from openai_responses_samples import FIND, HELLO, PICTURE, PROMPTS, SCHEMA, STATE, THOUGHT, ResponsesRequest, said


def _request(model: str = "gpt-4o", profile: Profile | None = None, **fields: Any) -> HttpRequest:
    prompt = msgspec.structs if False else fields  # placeholder
    raise NotImplementedError(prompt)
