"""Messages and their parts. `put_` fills a wire message, `get_` makes the value."""

from typing import assert_never

from midstream.v1 import run_pb2 as wire
from midstream_server.model import (
    Annotation,
    Blob,
    Message,
    Part,
    PartContent,
    PartState,
    ProviderState,
    Reasoning,
    Refusal,
    Role,
    Text,
    TokenLogprob,
    ToolCall,
    ToolResult,
)


def put_message(target: wire.Message, message: Message) -> None:
    """Fills a Message."""
    target.role = wire.Role.ValueType(message.role)
    for part in message.parts:
        _put_part(target.parts.add(), part)


def get_message(source: wire.Message) -> Message:
    """A Message's value. A part of an unknown kind becomes an empty text: its index and state still count.

    Raises:
        ValueError: an enum has a number that this version does not know.
    """
    return Message(role=Role(source.role), parts=tuple(_get_part(each) for each in source.parts))


def _put_part(target: wire.Part, part: Part) -> None:
    _put_content(target, part.content)
    target.state = wire.PartState.ValueType(part.state)
    if part.provider_state is not None:
        put_provider_state(target.provider_state, part.provider_state)


def _get_part(source: wire.Part) -> Part:
    return Part(
        content=_get_content(source),
        state=PartState(source.state or PartState.COMPLETE),
        provider_state=get_provider_state(source.provider_state) if source.HasField("provider_state") else None,
    )


def _put_content(target: wire.Part, content: PartContent) -> None:
    match content:
        case Text():
            target.text.text = content.text
            for annotation in content.annotations:
                put_annotation(target.text.annotations.add(), annotation)
        case Blob():
            _put_blob(target.blob, content)
        case Reasoning():
            target.reasoning.text = content.text
        case ToolCall():
            target.tool_call.id = content.id
            target.tool_call.name = content.name
            target.tool_call.arguments = content.arguments
        case ToolResult():
            target.tool_result.tool_call_id = content.tool_call_id
            target.tool_result.is_error = content.is_error
            for part in content.parts:
                _put_part(target.tool_result.parts.add(), part)
        case Refusal():
            target.refusal.text = content.text
        case _:
            assert_never(content)


def _get_content(source: wire.Part) -> PartContent:
    match source.WhichOneof("part"):
        case "text":
            return Text(
                text=source.text.text, annotations=tuple(get_annotation(each) for each in source.text.annotations)
            )
        case "blob":
            blob = source.blob
            return Blob(mime_type=blob.mime_type, data=blob.data, url=blob.url, file_id=blob.file_id)
        case "reasoning":
            return Reasoning(text=source.reasoning.text)
        case "tool_call":
            call = source.tool_call
            return ToolCall(id=call.id, name=call.name, arguments=call.arguments)
        case "tool_result":
            result = source.tool_result
            parts = tuple(_get_part(each) for each in result.parts)
            return ToolResult(tool_call_id=result.tool_call_id, parts=parts, is_error=result.is_error)
        case "refusal":
            return Refusal(text=source.refusal.text)
        case None:
            return Text(text="")


def _put_blob(target: wire.Blob, blob: Blob) -> None:
    target.mime_type = blob.mime_type
    if blob.data:
        target.data = blob.data
    elif blob.url:
        target.url = blob.url
    elif blob.file_id:
        target.file_id = blob.file_id


def put_provider_state(target: wire.ProviderState, state: ProviderState) -> None:
    """Fills a ProviderState."""
    target.dialect = state.dialect
    target.data = state.data


def get_provider_state(source: wire.ProviderState) -> ProviderState:
    """A ProviderState's value."""
    return ProviderState(dialect=source.dialect, data=source.data)


def put_annotation(target: wire.Annotation, annotation: Annotation) -> None:
    """Fills an Annotation."""
    target.type = annotation.type
    target.url = annotation.url
    target.title = annotation.title
    target.cited_text = annotation.cited_text
    if annotation.start_offset is not None:
        target.start_offset = annotation.start_offset
    if annotation.end_offset is not None:
        target.end_offset = annotation.end_offset
    target.raw_json = annotation.raw_json


def get_annotation(source: wire.Annotation) -> Annotation:
    """An Annotation's value."""
    return Annotation(
        type=source.type,
        url=source.url,
        title=source.title,
        cited_text=source.cited_text,
        start_offset=source.start_offset if source.HasField("start_offset") else None,
        end_offset=source.end_offset if source.HasField("end_offset") else None,
        raw_json=source.raw_json,
    )


def put_logprob(target: wire.TokenLogprob, logprob: TokenLogprob) -> None:
    """Fills a TokenLogprob."""
    target.token = logprob.token
    target.logprob = logprob.logprob
    target.raw_bytes = logprob.token_bytes
    for each in logprob.top:
        put_logprob(target.top.add(), each)


def get_logprob(source: wire.TokenLogprob) -> TokenLogprob:
    """A TokenLogprob's value."""
    return TokenLogprob(
        token=source.token,
        logprob=source.logprob,
        token_bytes=source.raw_bytes,
        top=tuple(get_logprob(each) for each in source.top),
    )
