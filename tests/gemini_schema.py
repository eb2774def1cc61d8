"""The Gemini request, strictly, as the provider documents it: https://ai.google.dev/api/generate-content#request-body.

Only what our dialect may say is in it; an unknown field, a wrong type or a missing one is an error.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

NonEmpty = Annotated[str, Meta(min_length=1)]
Positive = Annotated[int, Meta(ge=1)]
Base64 = Annotated[str, Meta(pattern="^[A-Za-z0-9+/]+={0,2}$")]
Address = Annotated[str, Meta(pattern="^[a-z]+://")]
FunctionName = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_.:-]{0,127}$")]
JsonObject = dict[str, Any]


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Knows all its fields."""


class InlineData(Strict):
    mime_type: NonEmpty
    data: Base64


class FileData(Strict):
    file_uri: Address
    mime_type: NonEmpty | UnsetType = UNSET


class FunctionCall(Strict):
    id: NonEmpty
    name: FunctionName
    args: JsonObject


class ResponseFile(Strict):
    inline_data: InlineData


class FunctionResponse(Strict):
    id: NonEmpty
    name: FunctionName
    response: JsonObject
    parts: list[ResponseFile] | UnsetType = UNSET


class Part(Strict):
    text: str | UnsetType = UNSET
    inline_data: InlineData | UnsetType = UNSET
    file_data: FileData | UnsetType = UNSET
    function_call: FunctionCall | UnsetType = UNSET
    function_response: FunctionResponse | UnsetType = UNSET
    thought: bool | UnsetType = UNSET
    thought_signature: Base64 | UnsetType = UNSET

    @property
    def data(self) -> list[object]:
        """What it holds, which must be one thing."""
        fields = (self.text, self.inline_data, self.file_data, self.function_call, self.function_response)
        return [each for each in fields if each is not UNSET]


class Content(Strict):
    role: Literal["user", "model"]
    parts: Annotated[list[Part], Meta(min_length=1)]


class Instruction(Strict):
    parts: Annotated[list[Part], Meta(min_length=1)]


class FunctionDeclaration(Strict):
    name: FunctionName
    description: NonEmpty | UnsetType = UNSET
    parameters_json_schema: JsonObject | UnsetType = UNSET


class Tool(Strict):
    function_declarations: list[FunctionDeclaration] | UnsetType = UNSET
    google_search: JsonObject | UnsetType = UNSET
    code_execution: JsonObject | UnsetType = UNSET
    url_context: JsonObject | UnsetType = UNSET


class FunctionCallingConfig(Strict):
    mode: Literal["AUTO", "ANY", "NONE", "VALIDATED"] | UnsetType = UNSET
    allowed_function_names: list[FunctionName] | UnsetType = UNSET
    stream_function_call_arguments: bool | UnsetType = UNSET


class ToolConfig(Strict):
    function_calling_config: FunctionCallingConfig | UnsetType = UNSET
    retrieval_config: JsonObject | UnsetType = UNSET


class ThinkingConfig(Strict):
    include_thoughts: bool | UnsetType = UNSET
    thinking_budget: Annotated[int, Meta(ge=-1)] | UnsetType = UNSET
    thinking_level: Literal["MINIMAL", "LOW", "MEDIUM", "HIGH"] | UnsetType = UNSET


class GenerationConfig(Strict):
    stop_sequences: Annotated[list[NonEmpty], Meta(max_length=16)] | UnsetType = UNSET
    response_mime_type: Literal["text/plain", "application/json"] | UnsetType = UNSET
    response_json_schema: JsonObject | UnsetType = UNSET
    response_modalities: list[Literal["TEXT", "IMAGE", "AUDIO"]] | UnsetType = UNSET
    media_resolution: NonEmpty | UnsetType = UNSET
    max_output_tokens: Positive | UnsetType = UNSET
    temperature: Annotated[float, Meta(ge=0, le=2)] | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    top_k: Positive | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=-(2**31), lt=2**31)] | UnsetType = UNSET
    presence_penalty: float | UnsetType = UNSET
    frequency_penalty: float | UnsetType = UNSET
    response_logprobs: bool | UnsetType = UNSET
    logprobs: Annotated[int, Meta(ge=0, le=20)] | UnsetType = UNSET
    thinking_config: ThinkingConfig | UnsetType = UNSET


class SafetySetting(Strict):
    category: NonEmpty
    threshold: NonEmpty


class GeminiRequest(Strict):
    contents: Annotated[list[Content], Meta(min_length=1)]
    system_instruction: Instruction | UnsetType = UNSET
    tools: list[Tool] | UnsetType = UNSET
    tool_config: ToolConfig | UnsetType = UNSET
    generation_config: GenerationConfig | UnsetType = UNSET
    safety_settings: list[SafetySetting] | UnsetType = UNSET
    cached_content: NonEmpty | UnsetType = UNSET
    service_tier: NonEmpty | UnsetType = UNSET


def check(body: bytes) -> GeminiRequest:
    """The request, if it is one, and every turn of results answers the calls before it, all in one content.

    Raises:
        ValueError: it is none; says where.
    """
    request = msgspec.json.decode(body, type=GeminiRequest)
    before: Content | None = None
    for content in request.contents:
        if any(len(part.data) != 1 for part in content.parts):
            raise ValueError("a part holds not one thing")
        results = [part.function_response for part in content.parts if part.function_response]
        calls = [part.function_call for part in before.parts if part.function_call] if before else []
        if results and [(each.id, each.name) for each in results] != [(each.id, each.name) for each in calls]:
            raise ValueError("the results are not those of the calls before them")
        before = content
    return request
