"""What is right and wrong in every field of every request.

A row is text that is merged into a valid request, and the fields that are then wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf import text_format
from google.protobuf.message import Message

from midstream.v1 import generation_service_pb2 as wire
from midstream_server.rpc.convert import (
    StartRequest,
    cancel_spec,
    delete_spec,
    generate_spec,
    get_spec,
    list_models,
    list_spec,
    watch_spec,
)


def read_generate(raw: bytes) -> StartRequest:
    """Reads a GenerateRequest, with an id and a retention for those that have none."""
    return generate_spec(raw, new_run_id=lambda: "made-here", default_retention_seconds=60.0)


@dataclass(frozen=True)
class Method:
    """How a request is read, and one that is right."""

    read: Callable[[bytes], object]
    valid: Message


METHODS = {
    "GenerateRequest": Method(
        read_generate,
        text_format.Parse(
            'run_id: "run-1" model: "local/smollm2" messages { role: ROLE_USER parts { text { text: "Hi" } } }',
            wire.GenerateRequest(),
        ),
    ),
    "WatchRunRequest": Method(watch_spec, wire.WatchRunRequest(run_id="run-1")),
    "CancelRequest": Method(cancel_spec, wire.CancelRequest(run_id="run-1")),
    "GetRunRequest": Method(get_spec, wire.GetRunRequest(run_id="run-1")),
    "ListRunsRequest": Method(list_spec, wire.ListRunsRequest()),
    "DeleteRunRequest": Method(delete_spec, wire.DeleteRunRequest(run_id="run-1")),
    "ListModelsRequest": Method(list_models, wire.ListModelsRequest()),
}

LONG_ID = "a" * 129
TOOL = 'tools { name: "weather" }'
USER = "messages { role: ROLE_USER parts { %s } }"
ASSISTANT = "messages { role: ROLE_ASSISTANT parts { %s } }"
ROLE_TOOL = "messages { role: ROLE_TOOL parts { %s } }"
RESULT = 'tool_result { tool_call_id: "call-1" %s }'
SCHEMA = "parameters { response_format { json_schema { %s } } }"
REASONING = "parameters { reasoning { %s } }"

# (the contract's field, the text, the fields that are then wrong)
REFUSED: list[tuple[str, str, list[str]]] = [
    # --- GenerateRequest
    ("GenerateRequest.run_id", 'run_id: "-a"', ["run_id"]),
    ("GenerateRequest.run_id", 'run_id: "a b"', ["run_id"]),
    ("GenerateRequest.run_id", 'run_id: "run-1\\n"', ["run_id"]),
    ("GenerateRequest.run_id", 'run_id: "ünde"', ["run_id"]),
    ("GenerateRequest.run_id", f'run_id: "{LONG_ID}"', ["run_id"]),
    ("GenerateRequest.model", 'model: ""', ["model"]),
    ("GenerateRequest.model", 'model: "/name"', ["model"]),
    ("GenerateRequest.model", 'model: "openai/"', ["model"]),
    ("GenerateRequest.model", 'model: "OpenAI/gpt"', ["model"]),
    ("GenerateRequest.model", 'model: "_openai/gpt"', ["model"]),
    ("GenerateRequest.model", f'model: "{"a" * 64}/gpt"', ["model"]),
    ("GenerateRequest.model", f'model: "{"a" * 64}"', ["model"]),
    ("GenerateRequest.model", 'model: "openai/gpt 4"', ["model"]),
    ("GenerateRequest.model", 'model: "openai/gpt\\t4"', ["model"]),
    ("GenerateRequest.model", 'model: "openai/gpt\\302\\2404"', ["model"]),
    ("GenerateRequest.model", 'model: "openai/gpt\\0004"', ["model"]),
    ("GenerateRequest.model", f'model: "openai/{"ö" * 129}"', ["model"]),
    ("GenerateRequest.messages", "messages { role: ROLE_USER }", ["messages[1].parts"]),
    ("GenerateRequest.messages", USER % 'text { text: "" }' * 2_000, ["messages"]),
    ("GenerateRequest.messages", "messages { role: ROLE_USER %s }" % ("parts { text {} }" * 10_000), ["messages"]),
    (
        "GenerateRequest.messages",
        ROLE_TOOL % (RESULT % ("parts { text {} }" * 9_999)),
        ["messages"],
    ),
    ("GenerateRequest.tools", TOOL + TOOL, ["tools[1].name"]),
    ("GenerateRequest.tools", "".join(f'tools {{ name: "tool-{index}" }}' for index in range(513)), ["tools"]),
    ("GenerateRequest.tool_choice", "tool_choice { mode: MODE_REQUIRED }", ["tool_choice.mode"]),
    (
        "GenerateRequest.parameters",
        "parameters { temperature: 3 top_p: 2 }",
        ["parameters.temperature", "parameters.top_p"],
    ),
    ("GenerateRequest.on_detach", "on_detach { action: ACTION_GRACE }", ["on_detach.grace"]),
    ("GenerateRequest.limits", "limits { output_tokens: 0 }", ["limits.output_tokens"]),
    ("GenerateRequest.conversation_id", 'conversation_id: "a/b"', ["conversation_id"]),
    ("GenerateRequest.conversation_id", f'conversation_id: "{LONG_ID}"', ["conversation_id"]),
    ("GenerateRequest.on_conflict", 'conversation_id: "c" on_conflict: 99', ["on_conflict"]),
    ("GenerateRequest.on_conflict", 'conversation_id: "c" on_conflict: -1', ["on_conflict"]),
    ("GenerateRequest.on_conflict", "on_conflict: CONVERSATION_POLICY_REJECT", ["on_conflict"]),
    ("GenerateRequest.on_conflict", "on_conflict: CONVERSATION_POLICY_SUPERSEDE", ["on_conflict"]),
    ("GenerateRequest.on_conflict", "on_conflict: CONVERSATION_POLICY_QUEUE", ["on_conflict"]),
    ("GenerateRequest.continue_from", 'continue_from: ".a"', ["continue_from"]),
    ("GenerateRequest.continue_from", f'continue_from: "{LONG_ID}"', ["continue_from"]),
    ("GenerateRequest.parent_run_id", 'parent_run_id: "a\\""', ["parent_run_id"]),
    ("GenerateRequest.parent_run_id", f'parent_run_id: "{LONG_ID}"', ["parent_run_id"]),
    ("GenerateRequest.labels", 'labels { key: "" value: "a" }', ['labels[""]']),
    ("GenerateRequest.labels", f'labels {{ key: "{"k" * 64}" value: "a" }}', [f'labels["{"k" * 64}"]']),
    ("GenerateRequest.labels", f'labels {{ key: "{"ö" * 32}" }}', [f'labels["{"ö" * 32}"]']),
    ("GenerateRequest.labels", f'labels {{ key: "{"k" * 99}" }}', [f'labels["{"k" * 64}…"]']),
    ("GenerateRequest.labels", f'labels {{ key: "a\\"b" value: "{"v" * 257}" }}', ['labels["a\\"b"]']),
    ("GenerateRequest.labels", "".join(f'labels {{ key: "{index}" }}' for index in range(33)), ["labels"]),
    ("GenerateRequest.retention", "retention { seconds: 2592000 nanos: 1 }", ["retention"]),
    ("GenerateRequest.retention", "retention { seconds: -1 }", ["retention"]),
    ("GenerateRequest.retention", "retention { nanos: 1000000000 }", ["retention"]),
    ("GenerateRequest.retention", "retention { seconds: 1 nanos: -1 }", ["retention"]),
    (
        "GenerateRequest.provider_options",
        f'provider_options {{ fields {{ key: "a" value {{ string_value: "{"x" * 65_536}" }} }} }}',
        ["provider_options"],
    ),
    (
        "GenerateRequest.provider_options",
        'provider_options { fields { key: "a" value { number_value: nan } } }',
        ['provider_options["a"]'],
    ),
    (
        "GenerateRequest.provider_options",
        'provider_options { fields { key: "a" value { number_value: -inf } } }',
        ['provider_options["a"]'],
    ),
    (
        "GenerateRequest.provider_options",
        'provider_options { fields { key: "a" value {} } }',
        ['provider_options["a"]'],
    ),
    (
        "GenerateRequest.provider_options",
        'provider_options { fields { key: "a" value { list_value { values { struct_value { fields { key: "b" '
        "value { number_value: inf } } } } } } } }",
        ['provider_options["a"]'],
    ),
    # --- Message and its parts
    ("Message.role", 'messages { parts { text { text: "a" } } }', ["messages[1].role"]),
    ("Message.role", 'messages { role: 6 parts { text { text: "a" } } }', ["messages[1].role"]),
    ("Message.role", 'messages { role: -1 parts { text { text: "a" } } }', ["messages[1].role"]),
    ("Message.parts", "messages { role: ROLE_ASSISTANT }", ["messages[1].parts"]),
    ("Message.parts", USER % "", ["messages[1].parts[0]"]),
    ("Message.parts", USER % "state: PART_STATE_COMPLETE", ["messages[1].parts[0]"]),
    ("Part.text", ROLE_TOOL % 'text { text: "a" }', ["messages[1].parts[0].text"]),
    ("Part.blob", ROLE_TOOL % 'blob { url: "https://a/b" }', ["messages[1].parts[0].blob"]),
    ("Part.blob", USER % "blob {}", ["messages[1].parts[0].blob"]),
    ("Part.reasoning", USER % 'reasoning { text: "a" }', ["messages[1].parts[0].reasoning"]),
    ("Part.reasoning", (USER % "text {}") + (ROLE_TOOL % "reasoning {}"), ["messages[2].parts[0].reasoning"]),
    ("Part.tool_call", USER % 'tool_call { id: "a" name: "b" }', ["messages[1].parts[0].tool_call"]),
    ("Part.tool_result", ASSISTANT % (RESULT % ""), ["messages[1].parts[0].tool_result"]),
    (
        "Part.tool_result",
        (ASSISTANT % (RESULT % "")).replace("ASSISTANT", "SYSTEM"),
        ["messages[1].parts[0].tool_result"],
    ),
    ("Part.refusal", USER % 'refusal { text: "no" }', ["messages[1].parts[0].refusal"]),
    ("Blob.mime_type", USER % 'blob { data: "a" }', ["messages[1].parts[0].blob.mime_type"]),
    ("Blob.mime_type", USER % 'blob { data: "a" mime_type: "png" }', ["messages[1].parts[0].blob.mime_type"]),
    ("Blob.mime_type", USER % 'blob { data: "a" mime_type: "image/p\\ng" }', ["messages[1].parts[0].blob.mime_type"]),
    (
        "Blob.mime_type",
        USER % f'blob {{ data: "a" mime_type: "image/{"p" * 128}" }}',
        ["messages[1].parts[0].blob.mime_type"],
    ),
    ("Blob.data", USER % 'blob { data: "" mime_type: "image/png" }', ["messages[1].parts[0].blob.data"]),
    ("Blob.url", USER % 'blob { url: "" }', ["messages[1].parts[0].blob.url"]),
    ("Blob.url", USER % 'blob { url: "file:///etc/passwd" }', ["messages[1].parts[0].blob.url"]),
    ("Blob.url", USER % 'blob { url: "https://a b" }', ["messages[1].parts[0].blob.url"]),
    ("Blob.file_id", USER % 'blob { file_id: "" }', ["messages[1].parts[0].blob.file_id"]),
    ("ToolCall.id", ASSISTANT % 'tool_call { name: "b" }', ["messages[1].parts[0].tool_call.id"]),
    ("ToolCall.name", ASSISTANT % 'tool_call { id: "a" }', ["messages[1].parts[0].tool_call.name"]),
    ("ToolResult.tool_call_id", ROLE_TOOL % "tool_result {}", ["messages[1].parts[0].tool_result.tool_call_id"]),
    ("ToolResult.parts", ROLE_TOOL % (RESULT % "parts {}"), ["messages[1].parts[0].tool_result.parts[0]"]),
    (
        "ToolResult.parts",
        ROLE_TOOL % (RESULT % ("parts { text {} } parts { %s }" % (RESULT % ""))),
        ["messages[1].parts[0].tool_result.parts[1]"],
    ),
    (
        "ToolResult.parts",
        USER % (RESULT % 'parts { blob { url: "ftp://a" } }'),
        ["messages[1].parts[0].tool_result.parts[0].blob.url"],
    ),
    # --- Tool and ToolChoice
    ("Tool.name", "tools {}", ["tools[0].name"]),
    ("Tool.name", 'tools { name: "get weather" }', ["tools[0].name"]),
    ("Tool.name", f'tools {{ name: "{"a" * 65}" }}', ["tools[0].name"]),
    ("Tool.description", f'tools {{ name: "a" description: "{"d" * 65_537}" }}', ["tools[0].description"]),
    ("Tool.parameters_schema", "tools { name: 'a' parameters_schema: '[]' }", ["tools[0].parameters_schema"]),
    ("Tool.parameters_schema", "tools { name: 'a' parameters_schema: '{\"a\":' }", ["tools[0].parameters_schema"]),
    ("Tool.parameters_schema", "tools { name: 'a' parameters_schema: '{\"a\":NaN}' }", ["tools[0].parameters_schema"]),
    (
        "Tool.parameters_schema",
        f"tools {{ name: 'a' parameters_schema: '{'[' * 100_000}' }}",
        ["tools[0].parameters_schema"],
    ),
    ("ToolChoice.mode", "tool_choice { mode: 5 }", ["tool_choice.mode"]),
    ("ToolChoice.mode", "tool_choice { mode: -1 }", ["tool_choice.mode"]),
    ("ToolChoice.tool_name", TOOL + "tool_choice { mode: MODE_TOOL }", ["tool_choice.tool_name"]),
    ("ToolChoice.tool_name", TOOL + 'tool_choice { mode: MODE_TOOL tool_name: "time" }', ["tool_choice.tool_name"]),
    ("ToolChoice.tool_name", TOOL + 'tool_choice { tool_name: "weather" }', ["tool_choice.tool_name"]),
    # --- GenerationParameters
    ("GenerationParameters.max_output_tokens", "parameters { max_output_tokens: 0 }", ["parameters.max_output_tokens"]),
    ("GenerationParameters.temperature", "parameters { temperature: nan }", ["parameters.temperature"]),
    ("GenerationParameters.temperature", "parameters { temperature: inf }", ["parameters.temperature"]),
    ("GenerationParameters.temperature", "parameters { temperature: -0.01 }", ["parameters.temperature"]),
    ("GenerationParameters.temperature", "parameters { temperature: 2.01 }", ["parameters.temperature"]),
    ("GenerationParameters.top_p", "parameters { top_p: 0 }", ["parameters.top_p"]),
    ("GenerationParameters.top_p", "parameters { top_p: nan }", ["parameters.top_p"]),
    ("GenerationParameters.top_p", "parameters { top_p: 1.01 }", ["parameters.top_p"]),
    ("GenerationParameters.top_k", "parameters { top_k: 0 }", ["parameters.top_k"]),
    ("GenerationParameters.presence_penalty", "parameters { presence_penalty: nan }", ["parameters.presence_penalty"]),
    ("GenerationParameters.presence_penalty", "parameters { presence_penalty: 2.1 }", ["parameters.presence_penalty"]),
    ("GenerationParameters.presence_penalty", "parameters { presence_penalty: -inf }", ["parameters.presence_penalty"]),
    (
        "GenerationParameters.frequency_penalty",
        "parameters { frequency_penalty: nan }",
        ["parameters.frequency_penalty"],
    ),
    (
        "GenerationParameters.frequency_penalty",
        "parameters { frequency_penalty: -2.1 }",
        ["parameters.frequency_penalty"],
    ),
    ("GenerationParameters.stop", "parameters { %s }" % ('stop: "a"' * 17), ["parameters.stop"]),
    ("GenerationParameters.stop", 'parameters { stop: "a" stop: "" }', ["parameters.stop[1]"]),
    ("GenerationParameters.stop", f'parameters {{ stop: "{"ö" * 129}" }}', ["parameters.stop[0]"]),
    ("GenerationParameters.top_logprobs", "parameters { top_logprobs: 2 }", ["parameters.top_logprobs"]),
    (
        "GenerationParameters.top_logprobs",
        "parameters { logprobs: false top_logprobs: 2 }",
        ["parameters.top_logprobs"],
    ),
    (
        "GenerationParameters.top_logprobs",
        "parameters { logprobs: true top_logprobs: 21 }",
        ["parameters.top_logprobs"],
    ),
    (
        "GenerationParameters.response_format",
        SCHEMA % "",
        ["parameters.response_format.json_schema.name", "parameters.response_format.json_schema.schema"],
    ),
    ("GenerationParameters.reasoning", REASONING % "effort: 6", ["parameters.reasoning.effort"]),
    ("ResponseFormat.json_schema", SCHEMA % 'name: "a"', ["parameters.response_format.json_schema.schema"]),
    ("JsonSchema.name", SCHEMA % 'schema: "{}"', ["parameters.response_format.json_schema.name"]),
    ("JsonSchema.name", SCHEMA % 'name: "a.b" schema: "{}"', ["parameters.response_format.json_schema.name"]),
    ("JsonSchema.schema", SCHEMA % 'name: "a" schema: "true"', ["parameters.response_format.json_schema.schema"]),
    ("JsonSchema.schema", SCHEMA % 'name: "a" schema: "{} {}"', ["parameters.response_format.json_schema.schema"]),
    ("Reasoning.effort", REASONING % "effort: -1", ["parameters.reasoning.effort"]),
    ("Reasoning.budget_tokens", REASONING % "budget_tokens: 0", ["parameters.reasoning.budget_tokens"]),
    # --- DetachPolicy and RunLimits
    ("DetachPolicy.action", "on_detach { action: 4 }", ["on_detach.action"]),
    ("DetachPolicy.grace", "on_detach { action: ACTION_GRACE grace {} }", ["on_detach.grace"]),
    ("DetachPolicy.grace", "on_detach { action: ACTION_GRACE grace { seconds: 600 nanos: 1 } }", ["on_detach.grace"]),
    ("DetachPolicy.grace", "on_detach { action: ACTION_GRACE grace { seconds: 1 nanos: -1 } }", ["on_detach.grace"]),
    ("DetachPolicy.grace", "on_detach { action: ACTION_CONTINUE grace { seconds: 1 } }", ["on_detach.grace"]),
    ("DetachPolicy.grace", "on_detach { grace { seconds: 1 } }", ["on_detach.grace"]),
    *[
        (f"RunLimits.{name}", f"limits {{ {name} {{ {duration} }} }}", [f"limits.{name}"])
        for name in ("first_token", "idle", "total", "queue")
        for duration in ("", "seconds: -1", "seconds: 3601", "nanos: 1500000000", "seconds: 2 nanos: -1")
    ],
    ("RunLimits.output_tokens", "limits { output_tokens: 0 }", ["limits.output_tokens"]),
    # --- The other requests
    *[
        (f"{request}.run_id", f'run_id: "{run_id}"', ["run_id"])
        for request in ("WatchRunRequest", "CancelRequest", "GetRunRequest", "DeleteRunRequest")
        for run_id in ("", "a b", LONG_ID)
    ],
    ("WatchRunRequest.from_snapshot", "from_snapshot: false", ["from_snapshot"]),
    ("CancelRequest.reason", f'reason: "{"ö" * 257}"', ["reason"]),
    ("CancelRequest.wait", "wait { seconds: 60 nanos: 1 }", ["wait"]),
    ("CancelRequest.wait", "wait { seconds: -1 }", ["wait"]),
    ("CancelRequest.wait", "wait { nanos: -1 }", ["wait"]),
    ("GetRunRequest.message_view", "message_view: 3", ["message_view"]),
    ("GetRunRequest.max_wait", "wait_until_finished: true max_wait { seconds: 61 }", ["max_wait"]),
    ("GetRunRequest.max_wait", "max_wait { seconds: 1 }", ["max_wait"]),
    ("ListRunsRequest.page_size", "page_size: -1", ["page_size"]),
    ("ListRunsRequest.page_size", "page_size: 501", ["page_size"]),
    ("ListRunsRequest.page_token", 'page_token: "?"', ["page_token"]),
    ("ListRunsRequest.page_token", 'page_token: "AAAA"', ["page_token"]),
    ("ListRunsRequest.state", "state: 7", ["state"]),
    ("ListRunsRequest.conversation_id", 'conversation_id: "a b"', ["conversation_id"]),
    ("ListRunsRequest.parent_run_id", 'parent_run_id: "a b"', ["parent_run_id"]),
    ("ListRunsRequest.labels", 'labels { key: "" }', ['labels[""]']),
    ("ListRunsRequest.labels", f'labels {{ key: "a" value: "{"v" * 257}" }}', ['labels["a"]']),
    ("ListRunsRequest.labels", "".join(f'labels {{ key: "{index}" }}' for index in range(33)), ["labels"]),
]

# (the contract's field, the text)
ACCEPTED: list[tuple[str, str]] = [
    ("GenerateRequest.run_id", f'run_id: "{"a" * 128}"'),
    ("GenerateRequest.run_id", 'run_id: "0.a_b:c-D"'),
    ("GenerateRequest.run_id", 'run_id: ""'),
    ("GenerateRequest.model", 'model: "fast"'),
    ("GenerateRequest.model", 'model: "openrouter/meta-llama/llama-3:free"'),
    ("GenerateRequest.model", f'model: "{"a" * 63}/{"ö" * 128}"'),
    ("GenerateRequest.messages", USER % 'text { text: "" }' * 1_999),
    ("GenerateRequest.messages", "messages { role: ROLE_USER %s }" % ("parts { text {} }" * 9_999)),
    ("GenerateRequest.tools", "".join(f'tools {{ name: "tool-{index}" }}' for index in range(512))),
    ("GenerateRequest.tool_choice", TOOL + "tool_choice { mode: MODE_REQUIRED }"),
    ("GenerateRequest.parameters", "parameters {}"),
    ("GenerateRequest.on_detach", "on_detach {}"),
    ("GenerateRequest.limits", "limits {}"),
    ("GenerateRequest.conversation_id", 'conversation_id: "c"'),
    ("GenerateRequest.on_conflict", "on_conflict: CONVERSATION_POLICY_ALLOW"),
    ("GenerateRequest.on_conflict", 'conversation_id: "c" on_conflict: CONVERSATION_POLICY_QUEUE'),
    ("GenerateRequest.continue_from", 'continue_from: "run-0"'),
    ("GenerateRequest.parent_run_id", 'parent_run_id: "run-0"'),
    ("GenerateRequest.labels", f'labels {{ key: "{"k" * 63}" value: "{"v" * 256}" }}'),
    ("GenerateRequest.labels", "".join(f'labels {{ key: "{index}" }}' for index in range(32))),
    ("GenerateRequest.retention", "retention {}"),
    ("GenerateRequest.retention", "retention { seconds: 2592000 }"),
    ("GenerateRequest.provider_options", 'provider_options { fields { key: "a" value { null_value: NULL_VALUE } } }'),
    ("Message.role", 'messages { role: ROLE_SYSTEM parts { text { text: "a" } } }'),
    ("Message.role", 'messages { role: ROLE_DEVELOPER parts { text { text: "a" } } }'),
    ("Message.parts", 'messages { role: ROLE_USER parts { text {} } parts { blob { url: "https://a" } } }'),
    ("Part.text", ASSISTANT % 'text { text: "a" }'),
    ("Part.blob", ASSISTANT % 'blob { file_id: "a" }'),
    ("Part.reasoning", ASSISTANT % "reasoning {}"),
    ("Part.tool_call", ASSISTANT % 'tool_call { id: "a" name: "b" }'),
    ("Part.tool_result", USER % (RESULT % "")),
    ("Part.refusal", ASSISTANT % 'refusal { text: "no" }'),
    ("Part.state", USER % "text {} state: PART_STATE_TRUNCATED"),
    ("Part.state", USER % "text {} state: 99"),
    ("Part.state", ROLE_TOOL % (RESULT % "parts { text {} state: 99 }")),
    ("Part.provider_state", ASSISTANT % 'reasoning {} provider_state { dialect: "anthropic" data: "a" }'),
    ("Text.text", USER % 'text { text: "a\\000b" }'),
    ("Text.annotations", ASSISTANT % 'text { annotations { type: "url_citation" } }'),
    ("Blob.mime_type", USER % 'blob { data: "a" mime_type: "text/plain; charset=utf-8" }'),
    ("Blob.mime_type", USER % 'blob { data: "a" mime_type: "application/vnd.ms-excel+zip" }'),
    ("Blob.data", USER % 'blob { data: "\\377" mime_type: "image/png" }'),
    ("Blob.url", USER % 'blob { url: "gs://bucket/object" }'),
    ("Blob.url", USER % 'blob { url: "HTTP://a" mime_type: "image/png" }'),
    ("Blob.file_id", USER % 'blob { file_id: "file-1" }'),
    ("Reasoning.text", ASSISTANT % 'reasoning { text: "a" }'),
    ("ToolCall.id", ASSISTANT % 'tool_call { id: "call 1" name: "b" }'),
    ("ToolCall.name", ASSISTANT % 'tool_call { id: "a" name: "functions.weather" }'),
    ("ToolCall.arguments", ASSISTANT % 'tool_call { id: "a" name: "b" arguments: "{" }'),
    ("ToolResult.tool_call_id", ROLE_TOOL % (RESULT % "")),
    ("ToolResult.parts", ROLE_TOOL % (RESULT % 'parts { text { text: "a" } } parts { blob { url: "https://a" } }')),
    ("ToolResult.is_error", ROLE_TOOL % (RESULT % "is_error: true")),
    ("Refusal.text", ASSISTANT % 'refusal { text: "" }'),
    ("ProviderState.dialect", ASSISTANT % "text {} provider_state { dialect: 'gemini' }"),
    ("ProviderState.data", ASSISTANT % 'text {} provider_state { data: "\\377" }'),
    *[
        (f"Annotation.{name}", ASSISTANT % f"text {{ annotations {{ {name}: {value} }} }}")
        for name, value in [
            ("type", '"a"'),
            ("url", '"a"'),
            ("title", '"a"'),
            ("cited_text", '"a"'),
            ("start_offset", "0"),
            ("end_offset", "18446744073709551615"),
            ("raw_json", '"a"'),
        ]
    ],
    ("Tool.name", f'tools {{ name: "{"a" * 64}" }}'),
    ("Tool.description", f'tools {{ name: "a" description: "{"d" * 65_536}" }}'),
    ("Tool.parameters_schema", "tools { name: 'a' parameters_schema: ' {\"type\":\"object\"}\\n' }"),
    ("Tool.parameters_schema", f"tools {{ name: 'a' parameters_schema: '{{\"maximum\":{'9' * 5_000}}}' }}"),
    ("Tool.strict", 'tools { name: "a" strict: false }'),
    ("ToolChoice.mode", "tool_choice { mode: MODE_NONE }"),
    ("ToolChoice.tool_name", TOOL + 'tool_choice { mode: MODE_TOOL tool_name: "weather" }'),
    ("GenerationParameters.max_output_tokens", "parameters { max_output_tokens: 1 }"),
    ("GenerationParameters.temperature", "parameters { temperature: 0 }"),
    ("GenerationParameters.temperature", "parameters { temperature: 2 }"),
    ("GenerationParameters.top_p", "parameters { top_p: 1 }"),
    ("GenerationParameters.top_k", "parameters { top_k: 1 }"),
    ("GenerationParameters.seed", "parameters { seed: -9223372036854775808 }"),
    ("GenerationParameters.presence_penalty", "parameters { presence_penalty: -2 }"),
    ("GenerationParameters.frequency_penalty", "parameters { frequency_penalty: 2 }"),
    ("GenerationParameters.stop", f'parameters {{ stop: "{"ö" * 128}" stop: "\\n" }}'),
    ("GenerationParameters.stop", "parameters { %s }" % ('stop: "a"' * 16)),
    ("GenerationParameters.parallel_tool_calls", "parameters { parallel_tool_calls: false }"),
    ("GenerationParameters.logprobs", "parameters { logprobs: true }"),
    ("GenerationParameters.top_logprobs", "parameters { logprobs: true top_logprobs: 20 }"),
    ("GenerationParameters.response_format", "parameters { response_format {} }"),
    ("GenerationParameters.reasoning", REASONING % ""),
    ("ResponseFormat.text", "parameters { response_format { text {} } }"),
    ("ResponseFormat.json_object", "parameters { response_format { json_object {} } }"),
    ("ResponseFormat.json_schema", SCHEMA % 'name: "a" schema: "{}"'),
    ("JsonSchema.name", SCHEMA % f'name: "{"a" * 64}" schema: "{{}}"'),
    ("JsonSchema.schema", SCHEMA % 'name: "a" schema: "{\\"type\\": \\"object\\"}"'),
    ("JsonSchema.description", SCHEMA % 'name: "a" schema: "{}" description: "d"'),
    ("JsonSchema.strict", SCHEMA % 'name: "a" schema: "{}" strict: true'),
    ("Reasoning.effort", REASONING % "effort: EFFORT_NONE"),
    ("Reasoning.budget_tokens", REASONING % "budget_tokens: 1"),
    ("Reasoning.include", REASONING % "include: false"),
    ("DetachPolicy.action", "on_detach { action: ACTION_CONTINUE }"),
    ("DetachPolicy.grace", "on_detach { action: ACTION_GRACE grace { nanos: 1 } }"),
    ("DetachPolicy.grace", "on_detach { action: ACTION_GRACE grace { seconds: 600 } }"),
    *[
        (f"RunLimits.{name}", f"limits {{ {name} {{ {duration} }} }}")
        for name in ("first_token", "idle", "total", "queue")
        for duration in ("nanos: 1", "seconds: 3600")
    ],
    ("RunLimits.output_tokens", "limits { output_tokens: 1 }"),
    ("WatchRunRequest.run_id", 'run_id: "run-2"'),
    ("WatchRunRequest.after_sequence", "after_sequence: 18446744073709551615"),
    ("WatchRunRequest.from_snapshot", "from_snapshot: true"),
    ("WatchRunRequest.claim", "claim: true"),
    ("CancelRequest.run_id", 'run_id: "never-heard-of"'),
    ("CancelRequest.reason", f'reason: "{"ö" * 256}"'),
    ("CancelRequest.wait", "wait {}"),
    ("CancelRequest.wait", "wait { seconds: 60 }"),
    ("GetRunRequest.run_id", 'run_id: "run-2"'),
    ("GetRunRequest.message_view", "message_view: MESSAGE_VIEW_REPLAY"),
    ("GetRunRequest.wait_until_finished", "wait_until_finished: true"),
    ("GetRunRequest.max_wait", "wait_until_finished: true max_wait { seconds: 60 }"),
    ("ListRunsRequest.page_size", "page_size: 500"),
    ("ListRunsRequest.page_token", 'page_token: ""'),
    ("ListRunsRequest.state", "state: RUN_STATE_STOPPING"),
    ("ListRunsRequest.conversation_id", 'conversation_id: "c"'),
    ("ListRunsRequest.parent_run_id", 'parent_run_id: "run-0"'),
    ("ListRunsRequest.labels", 'labels { key: "a" value: "b" }'),
    ("DeleteRunRequest.run_id", 'run_id: "run-2"'),
]

ANYTHING_GOES = {
    "GenerationParameters.seed",
    "GenerationParameters.parallel_tool_calls",
    "GenerationParameters.logprobs",
    "ResponseFormat.text",
    "ResponseFormat.json_object",
    "JsonSchema.description",
    "JsonSchema.strict",
    "Reasoning.include",
    "Reasoning.text",
    "Refusal.text",
    "Text.text",
    "Text.annotations",
    "Tool.strict",
    "ToolCall.arguments",
    "ToolResult.is_error",
    "Part.state",
    "Part.provider_state",
    "ProviderState.dialect",
    "ProviderState.data",
    "Annotation.type",
    "Annotation.url",
    "Annotation.title",
    "Annotation.cited_text",
    "Annotation.start_offset",
    "Annotation.end_offset",
    "Annotation.raw_json",
    "WatchRunRequest.after_sequence",
    "WatchRunRequest.claim",
    "GetRunRequest.wait_until_finished",
}
"""Fields of which every value is right; they have rows in ACCEPTED only."""
