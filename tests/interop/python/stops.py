"""The scenarios about stopping, as scenarios.json says them, for both kinds."""

import time

import grpc
from google.rpc import error_details_pb2

from interop.python.callers import Caller, Reader
from interop.python.client_caller import ClientReader
from interop.python.expect import CallFailed, Unexpected, expect, expect_run, new_id
from interop.python.stage import Stage, to_end, until
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import run_pb2 as wire
from midstream_client.errors import UpstreamTruncated

Outcome = service_wire.CancelResponse
_LEAVING_SECONDS = 2.0


async def cancel_before_start(stage: Stage) -> None:
    run_id = new_id("cancel_before_start")
    async with stage.caller() as caller:
        reader = await stage.start(caller, run_id, "silent", leaves=True)
        await reader.leave()
        try:
            run = await caller.get(run_id, wait=True)
        except CallFailed as error:
            expect((error.failure.code, error.failure.reason), (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"), "GetRun")
        else:
            expect_run(run, wire.RUN_STATE_CANCELLED, "")
            allowed = (wire.CANCEL_REASON_REQUESTED, wire.CANCEL_REASON_CLIENT_GONE)
            expect(run.cancel_reason in allowed, True, f"cancel_reason {run.cancel_reason} is allowed")
    seen = await stage.control("/upstream/closed", run_id=run_id)
    expect((seen["requests"] <= 1, seen["open"]), (True, 0), f"at most one request, and none open: {seen}")


async def cancel_after_begin(stage: Stage) -> None:
    run_id = new_id("cancel_after_begin")
    async with stage.caller() as caller:
        reader = await stage.start(caller, run_id, "silent")
        await stage.control("/upstream/arrived", run_id=run_id)
        run = await _cancelled(caller, run_id, "too slow", "")
        expect(run.finish_reason, wire.FINISH_REASON_UNSPECIFIED, "finish_reason")
        await stage.expect_upstream(run_id, requests=1)
        expect(await to_end(reader), run, "the final run")


async def cancel_after_first_delta(stage: Stage) -> None:
    run_id = new_id("cancel_after_first_delta")
    async with stage.reading(run_id, "words", "one", "one") as (caller, reader):
        run = await _cancelled(caller, run_id, "enough", "one")
        expect([part.state for part in run.message.parts], [wire.PART_STATE_TRUNCATED], "states of parts")
        await stage.expect_upstream(run_id, requests=1, text_sent="one")
        expect(await to_end(reader), run, "the final run")
        again = await caller.cancel(run_id, "again")
        expect((again.outcome, again.run), (Outcome.OUTCOME_CANCELLED, run), "the answer to the second Cancel")
        expect(await caller.get(run_id), run, "GetRun")


async def cancel_by_leaving(stage: Stage) -> None:
    run_id = new_id("cancel_by_leaving")
    async with stage.reading(run_id, "words", "one", "one", leaves=True) as (caller, reader):
        left = time.monotonic()
        await reader.leave()
        await stage.expect_upstream(run_id, requests=1)
        if not stage.is_raw and (seconds := time.monotonic() - left) > _LEAVING_SECONDS:
            raise Unexpected(f"the upstream was closed only {seconds:.1f} s after leaving")
        reason = wire.CANCEL_REASON_CLIENT_GONE if stage.is_raw else wire.CANCEL_REASON_REQUESTED
        expect_run(await caller.get(run_id, wait=True), wire.RUN_STATE_CANCELLED, "one", cancel_reason=reason)


async def cancel_by_id_from_elsewhere(stage: Stage) -> None:
    run_id = new_id("cancel_by_id_from_elsewhere")
    async with stage.reading(run_id, "words", "one", "one") as (_, reader), stage.caller() as elsewhere:
        run = await _cancelled(elsewhere, run_id, "", "one")
        expect(await to_end(reader), run, "the final run")
    await stage.expect_upstream(run_id, requests=1)


async def early_cancel_remembered(stage: Stage) -> None:
    run_id = new_id("early_cancel_remembered")
    async with stage.caller() as caller:
        first = await caller.cancel(run_id, "never")
        expect(first.outcome, Outcome.OUTCOME_REMEMBERED, "outcome")
        requested = wire.CANCEL_REASON_REQUESTED
        expect_run(first.run, wire.RUN_STATE_CANCELLED, "", cancel_reason=requested, last_sequence=2)
        expect((await caller.cancel(run_id)).outcome, Outcome.OUTCOME_REMEMBERED, "the second outcome")
        run = await stage.complete(caller, run_id, "hello")
        expect_run(run, wire.RUN_STATE_CANCELLED, "", cancel_reason=requested, last_sequence=2, attempts=0)
        has = (run.HasField("message"), run.HasField("start_time"))
        expect((has, run.cancel.reason), ((False, False), "never"), "message, start_time, and the reason")
        expect((await caller.cancel(run_id)).outcome, Outcome.OUTCOME_CANCELLED, "the last outcome")
    await stage.expect_upstream(run_id, requests=0)


async def deadline(stage: Stage) -> None:
    run_id = new_id("deadline")
    async with stage.caller() as caller:
        reader = await stage.start(caller, run_id, "stall", deadline=1.0, on_detach="cancel")
        await until(reader, "1 2 3")
        failure = await _failure_of(reader)
        expect(failure.failure.code, grpc.StatusCode.DEADLINE_EXCEEDED, "how the call ended")
        await reader.leave()
        run = await caller.get(run_id, wait=True)
        allowed = [wire.CANCEL_REASON_DEADLINE] + [wire.CANCEL_REASON_REQUESTED] * (not stage.is_raw)
        expect_run(run, wire.RUN_STATE_CANCELLED, "1 2 3")
        expect(run.cancel_reason in allowed, True, f"cancel_reason {run.cancel_reason} is allowed")
    await stage.expect_upstream(run_id, requests=1)


async def failed_run(stage: Stage) -> None:
    run_id = new_id("failed_run")
    async with stage.caller() as caller:
        reader = await stage.start(caller, run_id, "truncated")
        run = await to_end(reader)
        expect_run(run, wire.RUN_STATE_FAILED, "1 2 3", finish_reason=0, cancel_reason=0)
        info = error_details_pb2.ErrorInfo()
        expect([detail.Unpack(info) for detail in run.error.details], [True], "whether details are ErrorInfo")
        expect((info.domain, info.reason), ("midstream.v1", "UPSTREAM_TRUNCATED"), "the error's domain and reason")
        if isinstance(reader, ClientReader):
            await _expect_raised(reader, run)


async def _expect_raised(reader: ClientReader, run: wire.Run) -> None:
    try:
        await reader.stream.result(raise_for_failure=True)
    except UpstreamTruncated as error:
        expect(error.run, run, "the run of the error")
        return
    raise Unexpected("the result of a failed run raised nothing")


async def _failure_of(reader: Reader) -> CallFailed:
    try:
        while await reader.next():
            pass
    except CallFailed as error:
        return error
    raise Unexpected("the call ended well")


async def _cancelled(caller: Caller, run_id: str, reason: str, text: str) -> wire.Run:
    """Cancels a run, which must be stopped by that."""
    answer = await caller.cancel(run_id, reason)
    expect(answer.outcome, Outcome.OUTCOME_CANCELLED, "outcome")
    expect_run(answer.run, wire.RUN_STATE_CANCELLED, text, cancel_reason=wire.CANCEL_REASON_REQUESTED)
    expect(answer.run.cancel.reason, reason, "the reason")
    return answer.run
