"""Prompts that between them use all that Gemini can be told."""

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


def message(role: Role, *contents: PartContent | Part) -> Message:
    """A message of these parts."""
    return Message(role=role, parts=tuple(each if isinstance(each, Part) else Part(content=each) for each in contents))


def signed(content: PartContent, signature: str = "c2ln", dialect: str = "gemini") -> Part:
    """A part with a thought signature."""
    data = f'{{"thoughtSignature":"{signature}"}}'.encode()
    return Part(content=content, provider_state=ProviderState(dialect=dialect, data=data))


def result(call_id: str, *contents: PartContent, is_error: bool = False) -> ToolResult:
    """What a tool returned."""
    return ToolResult(tool_call_id=call_id, parts=tuple(Part(content=each) for each in contents), is_error=is_error)


HELLO = message(Role.USER, Text(text="Hello"))
PNG = Blob(mime_type="image/png", data=b"\x89PNG")
SCHEMA = '{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"number"}},"required":["z"]}'
FIND = Tool(name="find", description="Finds things.", parameters_schema=SCHEMA)
NOW = Tool(name="now")

PROMPTS: dict[str, Prompt] = {
    "hello": Prompt(messages=(HELLO,)),
    "instructions": Prompt(
        messages=(
            message(Role.SYSTEM, Text(text="Be brief.")),
            message(Role.DEVELOPER, Text(text="Say"), Text(text="please.")),
            HELLO,
            message(Role.ASSISTANT, Text(text="Please?"), Refusal(text="No.")),
            HELLO,
        )
    ),
    "files": Prompt(
        messages=(
            message(
                Role.USER,
                Text(text="What is this?"),
                PNG,
                Blob(url="https://example.com/a.pdf", mime_type="application/pdf"),
                Blob(url="gs://bucket/a.mp4"),
                Blob(file_id="files/abc", mime_type="audio/wav"),
            ),
            message(Role.ASSISTANT, signed(PNG)),
            HELLO,
        )
    ),
    "tools": Prompt(
        messages=(
            HELLO,
            message(
                Role.ASSISTANT,
                signed(Reasoning(text="Hm.")),
                Reasoning(text="Dropped."),
                signed(Text(text="Let me see.")),
                signed(ToolCall(id="c1", name="find", arguments='{"z":"moss"}')),
                ToolCall(id="c2", name="now", arguments=""),
            ),
            message(Role.TOOL, result("c1", Text(text="green"), PNG)),
            message(Role.TOOL, result("c2", is_error=True)),
            message(Role.USER, Text(text="And?")),
        ),
        tools=(FIND, NOW),
        tool_choice=ToolChoice(mode=ToolChoiceMode.TOOL, tool_name="find"),
        parameters=GenerationParameters(parallel_tool_calls=True),
    ),
    "strict tools": Prompt(messages=(HELLO,), tools=(Tool(name="f", strict=True), NOW)),
    "no tools, please": Prompt(messages=(HELLO,), tools=(FIND,), tool_choice=ToolChoice(mode=ToolChoiceMode.NONE)),
    "parameters": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(
            max_output_tokens=9,
            temperature=0.5,
            top_p=0.9,
            top_k=40,
            seed=7,
            presence_penalty=0.1,
            frequency_penalty=-0.1,
            stop=("END", "\n"),
            logprobs=True,
            top_logprobs=3,
            response_format=JsonSchemaFormat(name="answer", schema=SCHEMA, description="An answer.", strict=True),
            reasoning=ReasoningParameters(budget_tokens=512, include=True),
        ),
    ),
    "levels": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(
            response_format=JsonObjectFormat(), reasoning=ReasoningParameters(effort=ReasoningEffort.LOW)
        ),
    ),
    "options": Prompt(
        messages=(HELLO,),
        tools=(FIND,),
        provider_options={
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
            "cachedContent": "cachedContents/1",
            "tools": [{"googleSearch": {}}, {"urlContext": {}}],
            "toolConfig": {"functionCallingConfig": {"streamFunctionCallArguments": True}},
            "generationConfig": {"responseModalities": ["TEXT", "IMAGE"], "media_resolution": "MEDIA_RESOLUTION_LOW"},
        },
    ),
    "continued": Prompt(messages=(HELLO,), prefix=message(Role.ASSISTANT, Text(text="Once upon "))),
}
