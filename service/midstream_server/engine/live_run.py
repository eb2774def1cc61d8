"""A run that this process owns: how it stands, how it is stopped, and what it is as a value.

Everything here is synchronous: no await, so no cancel can land in it. The run task feeds it, the log writer moves its
output, readers follow its log, anyone may stop it.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from midstream_server.accumulator import payload_size, utf8_size
from midstream_server.clock import Clock
from midstream_server.engine.account import with_estimate
from midstream_server.engine.drainer import Drain
from midstream_server.engine.run_output import RunOutput
from midstream_server.engine.stored_run import expire_time
from midstream_server.engine.verdict import Verdict
from midstream_server.errors import OutputTooLarge, RunFailure
from midstream_server.model import (
    BlobDelta,
    CancelIntent,
    CancelReason,
    CancelReport,
    Instant,
    Run,
    RunKey,
    RunProgress,
    RunSpec,
    RunState,
    ToolCallDelta,
    Usage,
)
from midstream_server.upstreams.base import (
    EventIgnored,
    MetadataReported,
    ModelFinished,
    PartDelta,
    ResponseStarted,
    StartedOver,
    UpstreamBatch,
    UpstreamCall,
    UpstreamEvent,
    UpstreamFailed,
    UsageReported,
)

MAX_OUTPUT_BYTES = 3 * 1024 * 1024
_MAX_METADATA_ENTRIES = 64
_MAX_FACT_CHARACTERS = 512
_MAX_METADATA_CHARACTERS = 2048
"""Of a value: some are sentences, such as the plan of a model that uses tools."""
_PART_OVERHEAD_BYTES = 64
"""What a part adds to the encoded Run beside its content, at most."""


class LiveRun:
    """One run, from its creation to its seal."""

    def __init__(self, key: RunKey, spec: RunSpec, header: Run, call: UpstreamCall, clock: Clock) -> None:
        self.key = key
        self.spec = spec
        self.header = header
        """The run as it was created: what never changes."""
        self.epoch = 1
        self.output = RunOutput(key)
        self.verdict = Verdict()
        self.call = call
        self.is_queued = header.state is RunState.QUEUED
        self.start_time = header.start_time
        self.superseded_run_ids: list[str] = []
        self.is_lost = False
        """Another replica owns it now: nothing more may be told of it from here."""
        self.decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the ending is decided."""
        self.has_account = False
        """Whether the upstream has given its account after the finish marker."""
        self.ended: asyncio.Future[Run | None] = asyncio.get_running_loop().create_future()
        """The final run, once it is sealed; None if the run is lost."""
        self.on_output: Callable[[LiveRun, int], None] = _ignore_output
        """Told of every run whose output has changed, and how many bytes wait more."""
        self.on_decided: Callable[[], None] = lambda: None
        """Told when the ending is decided."""
        self.take_drain: Callable[[UpstreamCall, Usage | None, int], Drain | None] = _hang_up
        """Asked, when somebody stops the run, whether the rest of the answer is read for its account."""
        self.drain: Drain | None = None
        """Who reads the rest of the answer, once the run is stopped. None: the upstream is closed."""
        self._clock = clock
        self._output_budget = spec.limits.output_tokens
        self._kept_bytes = 0
        self._usage: Usage | None = None
        self._metadata: dict[str, str] = {}
        self._ignored_events = 0
        self._upstream_model = ""
        self._upstream_request_id = ""
        self._first_delta_time: Instant | None = None
        self._upstream_close_time: Instant | None = None
        self._discarded_events = 0
        self._discarded_bytes = 0

    # --- what the upstream says ---------------------------------------------------------------------------------

    def receive(self, batch: UpstreamBatch) -> None:
        """Takes in one read of the upstream. After the decision it is only counted."""
        if self.verdict.is_decided:
            for event in batch.events:
                self._discard(event)
            self._discarded_bytes += batch.wire_bytes
            self._check_drain()
            return
        added = 0
        try:
            for event in batch.events:
                if self.verdict.is_decided:
                    self._discard(event)
                elif type(event) is PartDelta:
                    added += self._receive_delta(event)
                else:
                    self._receive_fact(event)
            self._check_budget()
            self._check_drain()
        finally:
            if added:
                self.on_output(self, added)

    def _receive_delta(self, delta: PartDelta) -> int:
        if self.verdict.marker is not None:
            self._ignored_events += 1
            return 0
        if self._output_budget is not None:
            # What came before is judged now, and not at once: an upstream's count comes behind its text.
            self._check_budget()
            if self.verdict.is_decided:
                self._discard(delta)
                return 0
        if self._first_delta_time is None:
            self._first_delta_time = self._clock.now()
        self._kept_bytes += _kept_size(delta)
        if self._kept_bytes + self.output.part_count * _PART_OVERHEAD_BYTES > MAX_OUTPUT_BYTES:
            self.fail(OutputTooLarge())
            return 0
        return self.output.add(delta)

    def _discard(self, event: UpstreamEvent) -> None:
        self._discarded_events += 1
        if self.drain is not None:
            self.drain.note(event)

    def _check_drain(self) -> None:
        if self.drain is not None:
            self.drain.check_caps()

    def _receive_fact(self, event: UpstreamEvent) -> None:
        match event:
            case UsageReported(usage=usage):
                self._usage = usage
                self.has_account = self.verdict.marker is not None
            case ModelFinished():
                self.verdict.finish(event)
            case UpstreamFailed(failure=failure):
                self._decide(self.verdict.fail_by_frame(failure))
            case ResponseStarted():
                self._upstream_model = event.upstream_model[:_MAX_FACT_CHARACTERS] or self._upstream_model
                self._upstream_request_id = (
                    event.upstream_request_id[:_MAX_FACT_CHARACTERS] or self._upstream_request_id
                )
            case MetadataReported(metadata=metadata):
                self._add_metadata(metadata)
            case EventIgnored():
                self._ignored_events += 1
            case StartedOver():
                self._forget_facts()

    def _forget_facts(self) -> None:
        self._usage = None
        self._metadata.clear()
        self._ignored_events = 0
        self._upstream_model = self._upstream_request_id = ""

    def _add_metadata(self, metadata: Mapping[str, str]) -> None:
        for name, value in metadata.items():
            name = name[:_MAX_FACT_CHARACTERS]
            if name in self._metadata or len(self._metadata) < _MAX_METADATA_ENTRIES:
                self._metadata[name] = value[:_MAX_METADATA_CHARACTERS]

    def _check_budget(self) -> None:
        budget = self._output_budget
        if budget is None or self.verdict.marker is not None:
            return
        used = self.usage().output if self.output.produced_bytes or self._usage else None
        if used is not None and used.value >= budget:
            self.stop(self._rule(CancelReason.BUDGET, "limits.output_tokens"))

    def leave_queue(self, now: Instant) -> None:
        """The conversation is free."""
        self.is_queued = False
        self.start_time = now
        self.output.log.changed.fire()

    # --- how it ends --------------------------------------------------------------------------------------------

    def stop(self, intent: CancelIntent) -> None:
        """The caller, or a rule of the caller's, stops it. The first one counts.

        Closes the upstream at once, or leaves the rest of its answer to a drain.
        """
        self._decide(self.verdict.cancel(intent), may_drain=self.verdict.marker is None)

    def stop_by_rule(self, reason: CancelReason, rule: str) -> None:
        """A limit that the caller set stops it."""
        self.stop(self._rule(reason, rule))

    def fail(self, failure: RunFailure) -> None:
        """Something broke or took too long. Closes the upstream at once."""
        self._decide(self.verdict.fail(failure))

    def end_of_stream(self) -> None:
        """The upstream has said all, or had its time to."""
        self._decide(self.verdict.end())

    def lose(self) -> None:
        """Another replica owns it: close the upstream and say nothing more."""
        if self.is_lost:
            return
        self.is_lost = True
        if self.drain is not None:
            self.drain.abort("lost")
        self._decide(self.verdict.fail(RunFailure("lost")))
        self.on_output(self, -self.output.abandon())
        self.output.log.changed.fire()
        self.ended.set_result(None)

    def _decide(self, decided_now: bool, *, may_drain: bool = False) -> None:
        if not decided_now:
            return
        try:
            if may_drain:
                self.drain = self.take_drain(self.call, self._usage, self.output.produced_bytes)
            if self.drain is None:
                self.call.abort()
        finally:
            if self.call.attempts and self.drain is None:
                self._upstream_close_time = self._clock.now()
            self.decided.set_result(None)
            self.on_decided()
            self.output.log.changed.fire()

    def _rule(self, reason: CancelReason, rule: str) -> CancelIntent:
        return CancelIntent(reason=reason, requested_by=rule, request_time=self._clock.now())

    # --- what it is as a value ----------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """Where it is, while it is live."""
        ending = self.verdict.state
        if ending is not None and ending is not RunState.COMPLETED:
            return RunState.STOPPING
        return RunState.QUEUED if self.is_queued else RunState.RUNNING

    def progress(self) -> RunProgress:
        """News for its readers."""
        intent = self.verdict.intent
        return RunProgress(state=self.state, cancel_reason=intent.reason if intent else None, usage=self._known_usage())

    def snapshot(self, *, with_message: bool = True) -> Run:
        """The run with its published message so far."""
        intent = self.verdict.intent
        return replace(
            self._with_facts(),
            state=self.state,
            cancel_reason=intent.reason if intent else None,
            cancel=self._cancel_report(),
            message=self.output.message.message() if with_message else None,
            usage=self._known_usage(),
            last_sequence=self.output.log.last_sequence,
        )

    def final(self, end_time: Instant) -> Run:
        """The run as it ended. Only once the output is flushed; `last_sequence` counts RunFinished."""
        verdict = self.verdict
        assert verdict.state is not None, "a run is sealed only after its ending is decided"
        marker, intent = verdict.marker, verdict.intent
        end_time = max(end_time, self.header.create_time)
        return replace(
            self._with_facts(),
            state=verdict.state,
            finish_reason=marker.reason if marker else None,
            raw_finish_reason=marker.raw[:_MAX_FACT_CHARACTERS] if marker else "",
            cancel_reason=intent.reason if intent else None,
            error=verdict.failure.to_run_error() if verdict.failure else None,
            cancel=self._cancel_report(),
            superseded_by_run_id=intent.superseded_by_run_id if intent else "",
            message=self.output.message.final_message(marker.reason if marker else None),
            usage=self._known_usage(),
            last_sequence=self.output.log.last_sequence + 1,
            end_time=end_time,
            expire_time=expire_time(end_time, self.spec.retention_seconds),
        )

    def usage(self) -> Usage:
        """What it used: the upstream's numbers, and an estimate of the output where there is none."""
        return with_estimate(self._usage, self.output.produced_bytes)

    def _known_usage(self) -> Usage | None:
        return self.usage() if self._usage or self.output.produced_bytes else None

    def _with_facts(self) -> Run:
        metadata = dict(sorted(self._metadata.items()))
        if self._ignored_events:
            metadata["midstream.ignored_events"] = str(self._ignored_events)
        return replace(
            self.header,
            start_time=self.start_time,
            first_delta_time=self._first_delta_time,
            upstream=self.call.upstream if self.call.attempts else "",
            upstream_model=self._upstream_model,
            upstream_request_id=self._upstream_request_id,
            attempts=self.call.attempts,
            superseded_run_ids=tuple(self.superseded_run_ids),
            provider_metadata=metadata,
        )

    def _cancel_report(self) -> CancelReport | None:
        intent = self.verdict.intent
        if intent is None:
            return None
        return CancelReport(
            requested_by=intent.requested_by,
            reason=intent.text,
            request_time=intent.request_time,
            upstream_close_time=self._upstream_close_time,
            discarded_events=self._discarded_events,
            discarded_bytes=self._discarded_bytes,
        )


def _kept_size(delta: PartDelta) -> int:
    """What a delta adds to the final Run, so that it fits in one gRPC message."""
    payload = delta.payload
    size = payload_size(payload) if payload is not None else 0
    if isinstance(payload, ToolCallDelta):
        size += utf8_size(payload.id + payload.name)
    elif isinstance(payload, BlobDelta):
        size += utf8_size(payload.mime_type + payload.url + payload.file_id)
    if delta.provider_state is not None:
        size += len(delta.provider_state.data)
    for each in delta.annotations:
        size += utf8_size(each.type + each.url + each.title + each.cited_text + each.raw_json) + 64
    return size


def _hang_up(call: UpstreamCall, usage: Usage | None, output_bytes: int) -> None:
    del call, usage, output_bytes


def _ignore_output(run: LiveRun, added: int) -> None:
    del run, added
