"""Values in which every field is set, to nothing that could be its default."""

from midstream_server.model import (
    Annotation,
    Blob,
    BlobDelta,
    CancelReason,
    CancelReport,
    ConversationPolicy,
    DeltaPayload,
    DetachAction,
    DetachPolicy,
    FinishReason,
    Message,
    MessageDelta,
    Part,
    PartContent,
    PartState,
    ProviderState,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Role,
    Run,
    RunError,
    RunLimits,
    RunStarted,
    RunState,
    Text,
    TextDelta,
    TokenCount,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
    UsageSource,
)

_STATE = ProviderState(dialect="anthropic", data=b"signature")
_CITATION = Annotation(
    type="url_citation",
    url="https://example.com",
    title="Example",
    cited_text="words",
    start_offset=1,
    end_offset=6,
    raw_json="{}",
)
_LOGPROB = TokenLogprob(
    token="a", logprob=-0.5, token_bytes=b"a", top=(TokenLogprob(token="b", logprob=-1.5, token_bytes=b"b"),)
)


def full_started() -> RunStarted:
    """A RunStarted with every policy and limit."""
    return RunStarted(
        run_id="run-1",
        model="openai/gpt-x",
        on_detach=DetachPolicy(action=DetachAction.GRACE, grace_seconds=10.5),
        limits=RunLimits(
            first_token_seconds=1.0, idle_seconds=2.0, total_seconds=3.0, queue_seconds=4.0, output_tokens=5
        ),
        retention_seconds=60.25,
        conversation_id="conversation-1",
        on_conflict=ConversationPolicy.SUPERSEDE,
        create_time=1,
    )


def full_deltas() -> list[MessageDelta]:
    """A delta of every kind, with all that a delta can carry."""
    payloads: tuple[DeltaPayload, ...] = (
        TextDelta("text"),
        ReasoningDelta("reasoning"),
        RefusalDelta("refusal"),
        ToolCallDelta(id="call-1", name="weather", arguments="{}"),
        BlobDelta(mime_type="image/png", data=b"data", url="https://example.com", file_id="file-1"),
    )
    return [
        MessageDelta(
            part_index=index,
            offset=index,
            payload=payload,
            part_end=PartState.COMPLETE,
            provider_state=_STATE,
            annotations=(_CITATION,),
            logprobs=(_LOGPROB,),
        )
        for index, payload in enumerate(payloads, start=1)
    ]


def full_message() -> Message:
    """A message with a part of every kind."""
    contents: tuple[PartContent, ...] = (
        Text(text="text", annotations=(_CITATION,)),
        Blob(mime_type="image/png", data=b"data"),
        Blob(url="https://example.com/a.png"),
        Blob(file_id="file-1"),
        Reasoning(text="reasoning"),
        ToolCall(id="call-1", name="weather", arguments="{}"),
        ToolResult(tool_call_id="call-1", parts=(Part(content=Text(text="result")),), is_error=True),
        Refusal(text="refusal"),
    )
    return Message(
        role=Role.ASSISTANT,
        parts=tuple(Part(content=each, state=PartState.TRUNCATED, provider_state=_STATE) for each in contents),
    )


def full_usage() -> Usage:
    """Usage of which everything is known."""
    return Usage(
        input=TokenCount(value=10, source=UsageSource.UPSTREAM_FINAL),
        cached_input=TokenCount(value=2, source=UsageSource.UPSTREAM_FINAL),
        cache_write_input=TokenCount(value=3, source=UsageSource.UPSTREAM_FINAL),
        output=TokenCount(value=20, source=UsageSource.UPSTREAM_RUNNING),
        reasoning=TokenCount(value=5, source=UsageSource.ESTIMATED),
        other={"audio": TokenCount(value=1, source=UsageSource.UPSTREAM_FINAL)},
    )


def full_run() -> Run:
    """A run with every field, though none could have them all."""
    return Run(
        run_id="run-1",
        state=RunState.FAILED,
        finish_reason=FinishReason.STOP,
        raw_finish_reason="stop",
        cancel_reason=CancelReason.REQUESTED,
        error=RunError(
            reason="UPSTREAM_UNAVAILABLE",
            message="overloaded",
            retryable=True,
            upstream="openai",
            http_status=503,
            provider_code="busy",
        ),
        message=full_message(),
        usage=full_usage(),
        settlement=full_usage(),
        cancel=CancelReport(
            requested_by="default",
            reason="typo",
            request_time=1,
            upstream_close_time=2,
            discarded_events=3,
            discarded_bytes=4,
        ),
        last_sequence=7,
        model="openai/gpt-x",
        upstream="openai",
        upstream_model="gpt-x-1",
        upstream_request_id="request-1",
        attempts=2,
        labels={"team": "red"},
        conversation_id="conversation-1",
        parent_run_id="run-0",
        continued_from="run-2",
        superseded_by_run_id="run-3",
        superseded_run_ids=("run-4", "run-5"),
        create_time=1,
        start_time=2,
        first_delta_time=3,
        end_time=4,
        expire_time=5_000_000_001,
        provider_metadata={"service_tier": "default"},
    )
