"""Prompts that between them use all that the Messages API can express."""

from midstream_server.model import (
    Blob,
    GenerationParameters,
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


def stated(text: str, data: bytes, dialect: str = "anthropic") -> Part:
    """A reasoning with its provider's state."""
    return Part(content=Reasoning(text=text), provider_state=ProviderState(dialect=dialect, data=data))


def result(call_id: str, *contents: PartContent, is_error: bool = False) -> ToolResult:
    """What a tool returned."""
    return ToolResult(tool_call_id=call_id, parts=tuple(Part(content=each) for each in contents), is_error=is_error)


HELLO = message(Role.USER, Text(text="Hello"))
PNG = Blob(mime_type="image/png", data=b"\x89PNG")
SIGNED = stated("Hm.", b'{"type":"thinking","signature":"c2ln"}')
REDACTED = stated("", b'{"type":"redacted_thinking","data":"c2VjcmV0"}')
SCHEMA = '{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"number"}},"required":["z"]}'
FIND = Tool(name="find", description="Finds things.", parameters_schema=SCHEMA, strict=True)
NOW = Tool(name="now")

PROMPTS: dict[str, Prompt] = {
    "hello": Prompt(messages=(HELLO,)),
    "instructions": Prompt(
        messages=(
            message(Role.SYSTEM, Text(text="Be brief.")),
            message(Role.DEVELOPER, Text(text="Say"), Text(text="please.")),
            HELLO,
            message(Role.ASSISTANT, Text(text="Please?")),
            HELLO,
            message(Role.SYSTEM, Text(text="Now be long.")),
        )
    ),
    "blobs": Prompt(
        messages=(
            message(
                Role.USER,
                Text(text="Look"),
                PNG,
                Blob(url="https://a.example/x.jpg"),
                Blob(mime_type="image/webp", file_id="file_1"),
                Blob(mime_type="application/pdf", data=b"%PDF"),
                Blob(url="https://a.example/x.PDF?y"),
                Blob(mime_type="text/plain; charset=utf-8", data="für".encode()),
                Blob(file_id="file_2"),
            ),
        )
    ),
    "tools": Prompt(
        messages=(
            HELLO,
            message(
                Role.ASSISTANT,
                SIGNED,
                REDACTED,
                stated("Elsewhere.", b'{"signature":"eA=="}', "openai-chat"),
                Reasoning(text="Mine."),
                Text(text="Let me see."),
                ToolCall(id="toolu_1", name="find", arguments='{"z": "moss"}'),
                ToolCall(id="functions.now:1", name="now", arguments=""),
            ),
            message(Role.USER, Text(text="And hurry.")),
            message(Role.TOOL, result("toolu_1", Text(text="green"), PNG)),
            message(Role.TOOL, result("functions.now:1", Text(text="no clock"), is_error=True)),
            message(Role.TOOL, result("toolu_3")),
        ),
        tools=(FIND, NOW),
        tool_choice=ToolChoice(mode=ToolChoiceMode.TOOL, tool_name="find"),
        parameters=GenerationParameters(parallel_tool_calls=False),
    ),
    "no-tools-now": Prompt(messages=(HELLO,), tools=(NOW,), tool_choice=ToolChoice(mode=ToolChoiceMode.NONE)),
    "any-tool": Prompt(messages=(HELLO,), tools=(NOW,), tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED)),
    "one-tool-at-a-time": Prompt(
        messages=(HELLO,), tools=(NOW,), parameters=GenerationParameters(parallel_tool_calls=False)
    ),
    "refusal": Prompt(messages=(HELLO, message(Role.ASSISTANT, Refusal(text="No.")), HELLO)),
    "sampling": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(
            max_output_tokens=100, temperature=0.5, top_p=0.9, top_k=40, stop=("END", "\n\n"), logprobs=False
        ),
    ),
    "effort": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(reasoning=ReasoningParameters(effort=ReasoningEffort.HIGH, include=True)),
    ),
    "no-thinking": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(reasoning=ReasoningParameters(effort=ReasoningEffort.NONE)),
    ),
    "budget": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(
            reasoning=ReasoningParameters(budget_tokens=2048, effort=ReasoningEffort.LOW, include=False)
        ),
    ),
    "schema": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(
            response_format=JsonSchemaFormat(name="thing", schema=SCHEMA, description="A thing.", strict=True)
        ),
    ),
    "options": Prompt(
        messages=(HELLO,), provider_options={"metadata": {"user_id": "u"}, "service_tier": "standard_only"}
    ),
    "prefix": Prompt(messages=(HELLO,), prefix=message(Role.ASSISTANT, Text(text="Well, "), Text(text="hello"))),
}
"""By what they are about."""
