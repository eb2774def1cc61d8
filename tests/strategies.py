"""Hypothesis strategies for the values of the domain: every shape that the contract can carry."""

from hypothesis import strategies as st

from midstream_server.errors import RUN_FAILURES
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
    EventPayload,
    FinishReason,
    Instant,
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
    RunFinished,
    RunLimits,
    RunProgress,
    RunSnapshot,
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

# A machine that is busy with something else is not a failure.

texts = st.text(max_size=20)
data = st.binary(max_size=20)
numbers = st.integers(0, 2**64 - 1)
small_numbers = st.integers(0, 2**32 - 1)
instants: st.SearchStrategy[Instant] = st.integers(0, 2**63 - 1)
"""To the year 2262: what 64 bits of nanoseconds hold."""
seconds = st.integers(0, 30 * 24 * 3_600 * 10**9).map(lambda nanoseconds: nanoseconds / 10**9)
"""0 to 30 days, in whole nanoseconds: what a Duration can hold."""
run_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,20}", fullmatch=True)
labels = st.dictionaries(texts, texts, max_size=3)

# --- Messages --------------------------------------------------------------------------------------------------------

provider_states = st.builds(ProviderState, dialect=texts, data=data)
annotations = st.builds(
    Annotation,
    type=texts,
    url=texts,
    title=texts,
    cited_text=texts,
    start_offset=st.none() | numbers,
    end_offset=st.none() | numbers,
    raw_json=texts,
)


def _logprobs(top: st.SearchStrategy[tuple[TokenLogprob, ...]]) -> st.SearchStrategy[TokenLogprob]:
    return st.builds(TokenLogprob, token=texts, logprob=st.floats(allow_nan=False), token_bytes=data, top=top)


logprobs = _logprobs(st.lists(_logprobs(st.just(())), max_size=2).map(tuple))
blobs = st.one_of(
    st.builds(Blob, mime_type=texts, data=data),
    st.builds(Blob, mime_type=texts, url=texts),
    st.builds(Blob, mime_type=texts, file_id=texts),
)
plain_texts = st.builds(Text, text=texts, annotations=st.lists(annotations, max_size=2).map(tuple))


def _parts(contents: st.SearchStrategy[PartContent]) -> st.SearchStrategy[Part]:
    return st.builds(
        Part, content=contents, state=st.sampled_from(PartState), provider_state=st.none() | provider_states
    )


tool_results = st.builds(
    ToolResult,
    tool_call_id=texts,
    parts=st.lists(_parts(plain_texts | blobs), max_size=2).map(tuple),
    is_error=st.booleans(),
)
contents: st.SearchStrategy[PartContent] = st.one_of(
    plain_texts,
    blobs,
    st.builds(Reasoning, text=texts),
    st.builds(ToolCall, id=texts, name=texts, arguments=texts),
    tool_results,
    st.builds(Refusal, text=texts),
)
messages = st.builds(Message, role=st.sampled_from(Role), parts=st.lists(_parts(contents), max_size=3).map(tuple))

# --- Deltas ----------------------------------------------------------------------------------------------------------

delta_payload_kinds: tuple[st.SearchStrategy[DeltaPayload], ...] = (
    st.builds(TextDelta, texts),
    st.builds(ReasoningDelta, texts),
    st.builds(RefusalDelta, texts),
    st.builds(ToolCallDelta, id=texts, name=texts, arguments=texts),
    st.builds(BlobDelta, mime_type=texts, data=data, url=texts, file_id=texts),
)
message_deltas = st.builds(
    MessageDelta,
    part_index=small_numbers,
    offset=numbers,
    payload=st.none() | st.one_of(*delta_payload_kinds),
    part_end=st.none() | st.sampled_from(PartState),
    provider_state=st.none() | provider_states,
    annotations=st.lists(annotations, max_size=2).map(tuple),
    logprobs=st.lists(logprobs, max_size=2).map(tuple),
)


def _payload_bytes(payload: DeltaPayload | None) -> int:
    match payload:
        case None:
            return 0
        case ToolCallDelta():
            return len(payload.arguments.encode())
        case BlobDelta():
            return len(payload.data)
        case _:
            return len(payload.text.encode())


_LogStep = tuple[
    tuple[int, DeltaPayload | None],
    PartState | None,
    ProviderState | None,
    tuple[Annotation, ...],
    tuple[TokenLogprob, ...],
]


def _log_steps(kinds: set[int]) -> st.SearchStrategy[list[_LogStep]]:
    """Few kinds, and few ends, so that deltas of one part often follow each other."""
    payloads = [st.tuples(st.just(kind), st.none() | delta_payload_kinds[kind]) for kind in sorted(kinds)]
    step = st.tuples(
        st.one_of(*payloads),
        st.sampled_from([None] * 7 + [PartState.COMPLETE]),
        st.sampled_from([None] * 7 + [ProviderState(dialect="gemini", data=b"\0")]),
        st.sampled_from([(), (), (Annotation(type="url_citation"),)]),
        st.sampled_from([(), (), (TokenLogprob(token="a", logprob=-1.0),)]),
    )
    return st.lists(step, max_size=12)


_FIRST_PAYLOADS = (TextDelta(""), ReasoningDelta(""), RefusalDelta(""), ToolCallDelta(id="call-1"), BlobDelta(url="u"))


def _log(steps: list[_LogStep]) -> list[MessageDelta]:
    open_parts: dict[int, int] = {}
    offsets: list[int] = []
    log: list[MessageDelta] = []
    for (kind, payload), part_end, provider_state, citations, probabilities in steps:
        if kind not in open_parts:
            open_parts[kind] = len(offsets)
            offsets.append(0)
            payload = payload or _FIRST_PAYLOADS[kind]
        index = open_parts[kind]
        log.append(
            MessageDelta(
                part_index=index,
                offset=offsets[index],
                payload=payload,
                part_end=part_end,
                provider_state=provider_state,
                annotations=citations,
                logprobs=probabilities,
            )
        )
        offsets[index] += _payload_bytes(payload)
        if part_end is not None:
            del open_parts[kind]
    return log


message_logs = st.sets(st.sampled_from(range(5)), min_size=1, max_size=2).flatmap(_log_steps).map(_log)
"""The deltas of a run as a log has them: dense parts of one kind each that interleave, with true offsets, and nothing
of a part after its end."""

# --- Runs ------------------------------------------------------------------------------------------------------------

counts = st.builds(TokenCount, value=numbers, source=st.sampled_from(UsageSource))
usages = st.builds(
    Usage,
    input=st.none() | counts,
    cached_input=st.none() | counts,
    cache_write_input=st.none() | counts,
    output=st.none() | counts,
    reasoning=st.none() | counts,
    other=st.dictionaries(texts, counts, max_size=2),
)
run_errors = st.builds(
    RunError,
    reason=st.sampled_from(sorted(RUN_FAILURES)),
    message=texts,
    retryable=st.booleans(),
    upstream=texts,
    http_status=st.none() | st.integers(100, 599),
    provider_code=texts,
)
cancel_reports = st.builds(
    CancelReport,
    requested_by=texts,
    reason=texts,
    request_time=instants,
    upstream_close_time=st.none() | instants,
    discarded_events=numbers,
    discarded_bytes=numbers,
)
runs = st.builds(
    Run,
    run_id=run_ids,
    state=st.sampled_from(RunState),
    finish_reason=st.none() | st.sampled_from(FinishReason),
    raw_finish_reason=texts,
    cancel_reason=st.none() | st.sampled_from(CancelReason),
    error=st.none() | run_errors,
    message=st.none() | messages,
    usage=st.none() | usages,
    settlement=st.none() | usages,
    cancel=st.none() | cancel_reports,
    last_sequence=numbers,
    model=texts,
    upstream=texts,
    upstream_model=texts,
    upstream_request_id=texts,
    attempts=small_numbers,
    labels=labels,
    conversation_id=texts,
    parent_run_id=texts,
    continued_from=texts,
    superseded_by_run_id=texts,
    superseded_run_ids=st.lists(run_ids, max_size=2).map(tuple),
    create_time=instants,
    start_time=st.none() | instants,
    first_delta_time=st.none() | instants,
    end_time=st.none() | instants,
    expire_time=st.none() | instants,
    provider_metadata=labels,
)

# --- Events ----------------------------------------------------------------------------------------------------------

detach_policies = st.one_of(
    st.builds(DetachPolicy, action=st.sampled_from([DetachAction.CANCEL, DetachAction.CONTINUE])),
    st.builds(DetachPolicy, action=st.just(DetachAction.GRACE), grace_seconds=seconds),
)
run_limits = st.builds(
    RunLimits,
    first_token_seconds=st.none() | seconds,
    idle_seconds=st.none() | seconds,
    total_seconds=st.none() | seconds,
    queue_seconds=st.none() | seconds,
    output_tokens=st.none() | numbers,
)
run_starts = st.builds(
    RunStarted,
    run_id=run_ids,
    model=texts,
    on_detach=st.none() | detach_policies,
    limits=st.none() | run_limits,
    retention_seconds=st.none() | seconds,
    conversation_id=texts,
    on_conflict=st.none() | st.sampled_from(ConversationPolicy),
    create_time=instants,
)
event_payloads: st.SearchStrategy[EventPayload] = st.one_of(
    message_deltas,
    run_starts,
    st.builds(RunFinished, run=runs),
    st.builds(RunSnapshot, run=runs),
    st.builds(
        RunProgress,
        state=st.sampled_from(RunState),
        cancel_reason=st.none() | st.sampled_from(CancelReason),
        usage=st.none() | usages,
    ),
)
