"""Prompts that between them use all that Ollama can be told."""

from gemini_prompts import FIND, HELLO, NOW, PNG, SCHEMA, message, result, signed
from midstream_server.model import (
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
)

PROMPTS: dict[str, Prompt] = {
    "hello": Prompt(messages=(HELLO,)),
    "instructions": Prompt(
        messages=(
            message(Role.SYSTEM, Text(text="Be brief.")),
            message(Role.DEVELOPER, Text(text="Say"), Text(text="please.")),
            HELLO,
            message(Role.ASSISTANT, Text(text="Please?"), Refusal(text=" No.")),
            message(Role.SYSTEM, Text(text="Be long.")),
            message(Role.USER, Text(text="What is this?"), PNG),
        )
    ),
    "tools": Prompt(
        messages=(
            HELLO,
            message(
                Role.ASSISTANT,
                Reasoning(text="Hm."),
                signed(Reasoning(text="Dropped.")),
                ToolCall(id="c1", name="find", arguments='{"z":"moss"}'),
                ToolCall(id="c2", name="now", arguments=""),
            ),
            message(Role.TOOL, result("c1", Text(text="green"))),
            message(Role.USER, result("c2", is_error=True), Text(text="And?")),
        ),
        tools=(FIND, NOW),
        parameters=GenerationParameters(parallel_tool_calls=True),
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
            frequency_penalty=-0.1,
            stop=("END", "\n"),
            logprobs=True,
            top_logprobs=3,
            response_format=JsonSchemaFormat(name="answer", schema=SCHEMA, description="An answer.", strict=True),
            reasoning=ReasoningParameters(effort=ReasoningEffort.HIGH, include=True),
        ),
    ),
    "thinking": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(
            response_format=JsonObjectFormat(), reasoning=ReasoningParameters(include=True)
        ),
    ),
    "options": Prompt(
        messages=(HELLO,),
        parameters=GenerationParameters(temperature=0.0),
        provider_options={"keep_alive": "5m", "truncate": False, "options": {"num_ctx": 4096, "min_p": 0.1}},
    ),
    "continued": Prompt(messages=(HELLO,), prefix=message(Role.ASSISTANT, Text(text="Once upon "))),
}
