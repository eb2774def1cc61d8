"""The requests that the documentation allows, as strict types, as far as we say them.

https://platform.openai.com/docs/api-reference/responses/create
"""

from typing import Any, Literal

import msgspec


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """What has no other fields."""


class _Typed(_Strict, tag_field="type"):
    """What says of which type it is."""


class _InputText(_Typed, tag="input_text"):
    text: str


class _InputImage(_Typed, tag="input_image"):
    detail: Literal["auto", "low", "high"]
    image_url: str | None = None
    file_id: str | None = None


class _InputFile(_Typed, tag="input_file"):
    file_id: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    filename: str | None = None


_Content = _InputText | _InputImage | _InputFile


class _SaidRefusal(_Typed, tag="refusal"):
    refusal: str


class _Message(_Typed, tag="message"):
    """An input message, or with `id` and `status` an output message."""

    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[_InputText | _InputImage | _InputFile | _SaidRefusal]
    id: str | None = None
    status: Literal["completed"] | None = None

    def __post_init__(self) -> None:
        is_output = isinstance(self.content, list) and any(isinstance(each, _SaidRefusal) for each in self.content)
        if is_output != (self.id is not None) or is_output != (self.status is not None):
            raise ValueError("an output message has an id and a status, an input message has neither")


class _FunctionCall(_Typed, tag="function_call"):
    call_id: str
    name: str
    arguments: str


class _FunctionCallOutput(_Typed, tag="function_call_output"):
    call_id: str
    output: str | list[_Content]


class _SummaryText(_Typed, tag="summary_text"):
    text: str


class _Reasoning(_Typed, tag="reasoning"):
    id: str
    summary: list[_SummaryText]
    encrypted_content: str


class _Function(_Strict):
    type: Literal["function"]
    name: str
    parameters: dict[str, Any] | None
    strict: bool | None
    description: str | None = None


class _NamedFunction(_Strict):
    type: Literal["function"]
    name: str


class _JsonObject(_Typed, tag="json_object"):
    pass


class _JsonSchema(_Typed, tag="json_schema"):
    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class _TextConfig(_Strict):
    format: _JsonObject | _JsonSchema | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class _ReasoningConfig(_Strict):
    effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesRequest(_Strict):
    """The body of POST /responses, as far as it is documented for what we say."""

    model: str
    input: list[_Message | _FunctionCall | _FunctionCallOutput | _Reasoning]
    stream: Literal[True]
    store: bool
    instructions: str | None = None
    include: list[
        Literal["reasoning.encrypted_content", "message.output_text.logprobs", "web_search_call.results"]
    ] = []
    max_output_tokens: int | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    reasoning: _ReasoningConfig | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    stream_options: dict[Literal["include_obfuscation"], bool] | None = None
    temperature: float | None = None
    text: _TextConfig | None = None
    tool_choice: Literal["none", "auto", "required"] | _NamedFunction | None = None
    tools: list[_Function] | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    truncation: Literal["auto", "disabled"] | None = None
