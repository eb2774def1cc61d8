"""Prompts that use all that Responses can say."""

import json
from typing import Any

from midstream_server.model import (
    Blob,
    GenerationParameters,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    Part,
    PartContent,
    Prompt,
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

SCHEMA = '{"type":"object", "properties":{"z":{"type":"string"},"a":{"const":1.0}}}'


def said(role: Role, *contents: PartContent) -> Message:
    """A message of these parts."""
    return Message(role=role, parts=tuple(Part(content=content) for content in contents))


HELLO = said(Role.USER, Text(text="Hello"))
FIND = Tool(name="find")
STATE = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Hm."}],
    "encrypted_content": "c2VjcmV0",
}
THOUGHT = Part(
    content=Reasoning(text="Hm."),
    provider_state=ProviderState(dialect="openai-responses", data=json.dumps(STATE).encode()),
)
PICTURE = Blob(data=b"\x01\x02", mime_type="image/png")
CALL = ToolCall(id="call_a", name="find", arguments='{"q": 1}')


def _result(*contents: PartContent, is_error: bool = False) -> Message:
    parts = tuple(Part(content=content) for content in contents)
    return said(Role.TOOL, ToolResult(tool_call_id="call_a", parts=parts, is_error=is_error))


def _with(**parameters: Any) -> Prompt:
    return Prompt(messages=(HELLO,), tools=(FIND,), parameters=GenerationParameters(**parameters))


PROMPTS: dict[str, Prompt] = {
    "smallest": Prompt(messages=(HELLO,)),
    "roles": Prompt(
        messages=(
            said(Role.SYSTEM, Text(text="Be brief")),
            said(Role.DEVELOPER, Text(text="a"), Text(text="b")),
            said(Role.SYSTEM, Text(text="Later")),
            HELLO,
            said(Role.ASSISTANT, Text(text="Well. "), Refusal(text="No.")),
            said(Role.USER, Text(text="a"), Text(text="b")),
        )
    ),
    "images and files": Prompt(
        messages=(
            said(
                Role.USER,
                Text(text="Look"),
                PICTURE,
                Blob(url="https://example.com/a.png"),
                Blob(file_id="file_1", mime_type="image/png"),
                Blob(url="https://example.com/a.pdf"),
                Blob(data=b"%PDF", mime_type="application/pdf"),
                Blob(file_id="file_2"),
            ),
        )
    ),
    "tools": Prompt(
        messages=(
            HELLO,
            Message(role=Role.ASSISTANT, parts=(THOUGHT, Part(content=Text(text="Let me see")), Part(content=CALL))),
            _result(Text(text="moss"), is_error=True),
            said(Role.ASSISTANT, ToolCall(id="call_a", name="find", arguments="")),
            _result(Text(text="moss"), PICTURE),
            said(Role.ASSISTANT, CALL),
            _result(),
        ),
        tools=(Tool(name="find", description="Finds", parameters_schema=SCHEMA, strict=True), FIND),
        tool_choice=ToolChoice(mode=ToolChoiceMode.TOOL, tool_name="find"),
    ),
    "no tool": Prompt(messages=(HELLO,), tools=(FIND,), tool_choice=ToolChoice(mode=ToolChoiceMode.NONE)),
    "any tool": Prompt(messages=(HELLO,), tools=(FIND,), tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED)),
    "parameters": _with(
        max_output_tokens=9,
        temperature=0.0,
        top_p=0.5,
        parallel_tool_calls=False,
        logprobs=True,
        top_logprobs=3,
        reasoning=ReasoningParameters(effort=ReasoningEffort.MINIMAL, include=True),
    ),
    "json": _with(response_format=JsonObjectFormat()),
    "json schema": _with(
        response_format=JsonSchemaFormat(name="x", schema=SCHEMA, description="d", strict=False),
        reasoning=ReasoningParameters(effort=ReasoningEffort.NONE, include=False),
    ),
    "options": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(
            response_format=JsonObjectFormat(), reasoning=ReasoningParameters(effort=ReasoningEffort.HIGH)
        ),
        provider_options={
            "metadata": {"a": "b"},
            "text": {"verbosity": "low"},
            "reasoning": {"summary": "detailed"},
            "include": ["web_search_call.results"],
            "store": True,
            "stream_options": {"include_obfuscation": False},
            "service_tier": "flex",
            "truncation": "auto",
            "prompt_cache_key": "k",
            "safety_identifier": "u",
        },
    ),
}
