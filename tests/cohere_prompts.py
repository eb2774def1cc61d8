"""Prompts that between them use all that Cohere can be told."""

from dataclasses import replace

from gemini_prompts import FIND, HELLO, NOW, PNG, SCHEMA, message, result, signed
from midstream_server.model import (
    Blob,
    GenerationParameters,
    JsonObjectFormat,
    JsonSchemaFormat,
    Prompt,
    Reasoning,
    ReasoningEffort,
    ReasoningParameters,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)

PROMPTS: dict[str, Prompt] = {
    "hello": Prompt(messages=(HELLO,)),
    "instructions": Prompt(
        messages=(
            message(Role.SYSTEM, Text(text="Be brief.")),
            message(Role.DEVELOPER, Text(text="Say"), Text(text="please.")),
            HELLO,
            message(Role.ASSISTANT, Text(text="Please?"), Refusal(text=" No.")),
            message(Role.USER, Text(text="What is this?"), PNG, Blob(url="https://example.com/a.png")),
        )
    ),
    "tools": Prompt(
        messages=(
            HELLO,
            message(
                Role.ASSISTANT,
                Reasoning(text="Hm."),
                signed(Reasoning(text="Dropped.")),
                Text(text="Wait."),
                ToolCall(id="c1", name="find", arguments='{"z": "moss"}'),
                ToolCall(id="c2", name="now", arguments=""),
            ),
            message(Role.TOOL, result("c1", Text(text="green"), Text(text="small"))),
            message(Role.USER, result("c2", is_error=True), Text(text="And?")),
            message(Role.ASSISTANT, ToolCall(id="c3", name="now", arguments="{}")),
            message(Role.TOOL, result("c3", Text(text="noon"))),
        ),
        tools=(FIND, NOW),
        tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED),
        parameters=GenerationParameters(parallel_tool_calls=True),
    ),
    "strict": Prompt(
        messages=(HELLO,),
        tools=(replace(FIND, strict=True),),
        tool_choice=ToolChoice(mode=ToolChoiceMode.NONE),
    ),
    "parameters": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(
            max_output_tokens=9,
            temperature=0.5,
            top_p=0.9,
            top_k=40,
            seed=7,
            presence_penalty=0.1,
            frequency_penalty=0.2,
            stop=("END", "\n"),
            logprobs=True,
            response_format=JsonSchemaFormat(name="answer", schema=SCHEMA, description="An answer.", strict=True),
            reasoning=ReasoningParameters(effort=ReasoningEffort.HIGH, budget_tokens=500, include=True),
        ),
    ),
    "not thinking": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(
            response_format=JsonObjectFormat(), reasoning=ReasoningParameters(effort=ReasoningEffort.NONE)
        ),
    ),
    "options": Prompt(
        messages=(HELLO,),
        provider_options={
            "documents": ["Moss is green.", {"id": "doc:1", "data": {"title": "Fern", "text": "Ferns are too."}}],
            "citation_options": {"mode": "FAST"},
            "safety_mode": "STRICT",
            "priority": 3,
            "thinking": {"type": "disabled"},
        },
    ),
}
