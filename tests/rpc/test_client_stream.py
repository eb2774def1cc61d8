"""Both clients follow a run: what they send, what they give, and what they raise."""

import asyncio
import gc

import grpc
import pytest
from google.rpc import error_details_pb2

from midstream.v1 import generation_service_pb2, run_pb2
from midstream.v1.generation_service_pb2 import ListRunsRequest
from midstream_client import (
    AsyncClient,
    CancelOutcome,
    Client,
    MessageView,
    MidstreamClientError,
    PartState,
    RunFailed,
    StreamClosed,
    StreamGapError,
)
from midstream_client.errors import (
    ConnectionLost,
    CursorAhead,
    DeadlineExceeded,
    InvalidRequest,
    RunIdConflict,
    RunNotFound,
    UpstreamUnavailable,
)
from rpc.client_transcripts import Follow, follow_async, follow_sync
from rpc.scripted_server import Refusal, ScriptedServer, log_of, text_log

both = pytest.mark.parametrize("follow", [follow_async, follow_sync], ids=["async", "sync"])


@both
async def test_a_stream_gives_the_deltas_and_the_run(follow: Follow):
    """With the text and the message as they were at the end."""
    async with ScriptedServer(text_log("Hel", "lo")) as server:
        seen = await follow(server.target)

    assert [(each.text, each.offset, each.sequence, each.part_end) for each in seen.deltas] == [
        ("Hel", 0, 2, None),
        ("lo", 3, 3, PartState.COMPLETE),
    ]
    assert seen.text == "Hello"
    assert seen.final == server.log[-1].finished.run
    assert seen.message == seen.final.message
    assert seen.last_sequence == 4
    assert (server.left, server.cancels) == (0, [])


@both
async def test_every_kind_of_delta_comes_through(follow: Follow):
    """Only text is text; kinds that are not known are skipped."""
    deltas = [
        run_pb2.MessageDelta(part_index=0, reasoning="hm"),
        run_pb2.MessageDelta(part_index=1, refusal="no"),
        run_pb2.MessageDelta(part_index=2, tool_call=run_pb2.ToolCallDelta(id="1", name="f", arguments="{}")),
        run_pb2.MessageDelta(part_index=3, blob=run_pb2.BlobDelta(mime_type="a/b", data=b"\0")),
        run_pb2.MessageDelta.FromString(b"\x08\x04\xa2\x06\x01x"),
        run_pb2.MessageDelta(part_index=0, offset=2, part_end=run_pb2.PART_STATE_COMPLETE),
    ]
    parts = [
        run_pb2.Part(reasoning=run_pb2.Reasoning(text="hm"), state=run_pb2.PART_STATE_COMPLETE),
        run_pb2.Part(refusal=run_pb2.Refusal(text="no")),
        run_pb2.Part(tool_call=run_pb2.ToolCall(id="1", name="f", arguments="{}")),
        run_pb2.Part(blob=run_pb2.Blob(mime_type="a/b", data=b"\0")),
        run_pb2.Part(),
    ]
    async with ScriptedServer(log_of(deltas, parts)) as server:
        seen = await follow(server.target)

    assert [each.part_index for each in seen.deltas] == [0, 1, 2, 3, 0]
    assert [each.text for each in seen.deltas] == [""] * 5
    assert seen.deltas[0].reasoning == "hm"
    assert seen.deltas[1].refusal == "no"
    assert seen.deltas[2].tool_call == deltas[2].tool_call
    assert seen.deltas[3].blob == deltas[3].blob
    assert seen.deltas[4].part_end is PartState.COMPLETE


@both
async def test_the_request_says_what_the_caller_asked(follow: Follow):
    """And the run is known by its id before any answer."""
    async with ScriptedServer(text_log("x")) as server:
        await follow(server.target, "generate", "a/b", "hi", run_id="mine", labels={"k": "v"})

    (request,) = server.requests
    assert isinstance(request, generation_service_pb2.GenerateRequest)
    assert (request.run_id, request.model, dict(request.labels)) == ("mine", "a/b", {"k": "v"})
    assert request.on_detach.action == run_pb2.DetachPolicy.ACTION_GRACE


@both
async def test_a_watch_from_a_snapshot_gives_all_so_far_and_what_follows(follow: Follow):
    """The snapshot comes as one delta per part."""
    log = text_log("Hel", "lo", "!")
    so_far = run_pb2.Run(
        message=run_pb2.Message(parts=[run_pb2.Part(text=run_pb2.Text(text="Hello"), state=run_pb2.PART_STATE_OPEN)])
    )
    log[:3] = [run_pb2.RunEvent(sequence=3, snapshot=run_pb2.RunSnapshot(run=so_far))]
    async with ScriptedServer(log) as server:
        seen = await follow(server.target, "watch", "run", from_snapshot=True)

    assert [each.text for each in seen.deltas] == ["Hello", "!"]
    assert seen.text == "Hello!"


@both
async def test_a_watch_may_begin_in_the_middle(follow: Follow):
    """What came before is not asked for; the message is whole in the end."""
    async with ScriptedServer(text_log("Hel", "lo", "!")) as server:
        seen = await follow(server.target, "watch", "run", after_sequence=2)

    assert [each.text for each in seen.deltas] == ["lo", "!"]
    assert seen.text == "Hello!"


@both
@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (Refusal(grpc.StatusCode.ALREADY_EXISTS, "RUN_ID_CONFLICT"), RunIdConflict),
        (Refusal(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"), RunNotFound),
        (Refusal(grpc.StatusCode.OUT_OF_RANGE, "CURSOR_AHEAD", metadata={"last_sequence": "3"}), CursorAhead),
        (Refusal(grpc.StatusCode.PERMISSION_DENIED, "WHO_KNOWS"), MidstreamClientError),
    ],
    ids=["conflict", "not found", "cursor ahead", "unknown reason"],
)
async def test_a_refusal_is_a_typed_error_and_stops_nothing(
    follow: Follow, refusal: Refusal, expected: type[MidstreamClientError]
):
    """No retry, and no cancel: the run with that id is not ours, or is not at all."""
    async with ScriptedServer(text_log("x")) as server:
        server.refusals.append(refusal)
        with pytest.raises(expected) as caught:
            await follow(server.target)

    assert type(caught.value) is expected
    assert (caught.value.reason, caught.value.code) == (refusal.reason, refusal.code)
    assert caught.value.metadata == refusal.metadata
    assert len(server.requests) == 1
    assert server.cancels == []


@both
async def test_field_violations_reach_the_caller(follow: Follow):
    """With their paths."""
    bad = error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field="messages[0].parts", description="empty")]
    )
    async with ScriptedServer() as server:
        server.refusals.append(Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "bad", details=(bad,)))
        with pytest.raises(InvalidRequest) as caught:
            await follow(server.target)

    assert [each.field for each in caught.value.field_violations] == ["messages[0].parts"]


@both
async def test_a_gap_is_told_with_the_partial_and_stops_the_run(follow: Follow):
    """Never silent; the caller leaves with an exception."""
    log = text_log("ab", "cd", "ef")
    del log[2]
    async with ScriptedServer(log) as server:
        with pytest.raises(StreamGapError) as caught:
            await follow(server.target)

    assert caught.value.partial is not None
    assert caught.value.partial.parts[0].text.text == "ab"
    assert [each.run_id for each in server.cancels] == [caught.value.run_id]


@both
async def test_a_final_message_that_was_not_streamed_is_told(follow: Follow):
    """What is kept must be what was seen."""
    log = text_log("ab", "cd")
    log[-1].finished.run.message.parts[0].text.text = "abXd"
    async with ScriptedServer(log) as server:
        with pytest.raises(StreamGapError):
            await follow(server.target)

    assert server.cancels == []


@both
async def test_the_timeout_is_told_with_the_partial(follow: Follow):
    """The caller's own deadline; the run is stopped, as on any exception."""
    async with ScriptedServer(text_log("ab", "cd")) as server:
        server.hold_after(2)
        with pytest.raises(DeadlineExceeded) as caught:
            await follow(server.target, "generate", "a/b", "hi", timeout=1.0)

    assert caught.value.partial is not None
    assert caught.value.partial.parts[0].text.text == "ab"
    assert len(server.cancels) == 1


@both
async def test_a_server_that_is_not_there_is_told(follow: Follow):
    """After the time to resume."""
    async with ScriptedServer() as server:
        target = server.target

    with pytest.raises(ConnectionLost):
        await follow(target, "generate", "a/b", "hi", on_detach=0.1)


async def test_result_raises_for_a_failed_run_if_asked():
    """The failure's class, with the partial; otherwise the run is returned."""
    log = text_log("ab", state=run_pb2.RUN_STATE_FAILED)
    info = error_details_pb2.ErrorInfo(reason="UPSTREAM_UNAVAILABLE", domain="midstream.v1")
    log[-1].finished.run.error.details.add().Pack(info)
    async with ScriptedServer(log) as server, AsyncClient(server.target) as client:
        run = await client.generate("a/b", "hi").result()
        with pytest.raises(UpstreamUnavailable) as caught:
            await client.generate("a/b", "hi").result(raise_for_failure=True)
        with pytest.raises(RunFailed):
            await asyncio.to_thread(_sync_result, server.target)

    assert run.state == run_pb2.RUN_STATE_FAILED
    assert caught.value.partial == run.message


def _sync_result(target: str) -> None:
    with Client(target) as client:
        client.generate("a/b", "hi").result(raise_for_failure=True)


async def test_a_cancelled_run_is_a_result():
    """Not an exception."""
    async with (
        ScriptedServer(text_log("ab", state=run_pb2.RUN_STATE_CANCELLED)) as server,
        AsyncClient(server.target) as client,
    ):
        run = await client.generate("a/b", "hi").result(raise_for_failure=True)

    assert run.state == run_pb2.RUN_STATE_CANCELLED


async def test_a_stream_that_is_never_entered_sends_nothing():
    """There is no call that could leak."""
    async with ScriptedServer(text_log("x")) as server, AsyncClient(server.target) as client:
        stream = client.generate("a/b", "hi")
        with pytest.raises(RuntimeError, match="async with"):
            await anext(stream)
        del stream
        gc.collect()
        with Client(server.target) as sync_client, pytest.raises(RuntimeError, match="with client"):
            next(sync_client.generate("a/b", "hi"))
        await client.cancel("run")

    assert server.requests == []


async def test_the_key_goes_with_every_call():
    """As a bearer token."""
    async with ScriptedServer(text_log("x")) as server, AsyncClient(server.target, api_key="secret") as client:
        await client.generate("a/b", "hi").result()

    assert server.metadata[0]["authorization"] == "Bearer secret"


async def test_cancel_answers_with_the_outcome_and_the_partial():
    """For any run, by its id."""
    async with ScriptedServer(text_log("ab")) as server, AsyncClient(server.target) as client:
        result = await client.cancel("other", "enough", wait=1.5)

    assert result.outcome is CancelOutcome.CANCELLED
    assert result.run.message.parts[0].text.text == "ab"
    assert (server.cancels[0].run_id, server.cancels[0].reason) == ("other", "enough")
    assert server.cancels[0].wait.ToMilliseconds() == 1500


async def test_get_waits_again_until_the_run_has_ended():
    """One call waits 60 s at most; the caller may wait longer."""
    async with ScriptedServer() as server, AsyncClient(server.target) as client:
        server.runs.extend(
            run_pb2.Run(state=state)
            for state in (run_pb2.RUN_STATE_RUNNING, run_pb2.RUN_STATE_STOPPING, run_pb2.RUN_STATE_COMPLETED)
        )
        run = await client.get("run", view=MessageView.REPLAY, wait=100)

    assert run.state == run_pb2.RUN_STATE_COMPLETED
    first = server.unary_requests[0]
    assert isinstance(first, generation_service_pb2.GetRunRequest)
    assert (first.wait_until_finished, first.max_wait.seconds, first.message_view) == (True, 60, 2)
    assert len(server.unary_requests) == 3


async def test_get_does_not_wait_unless_asked():
    """A live run is an answer; so is an unknown one."""
    async with ScriptedServer() as server, AsyncClient(server.target) as client:
        with pytest.raises(RunNotFound):
            await client.get("run")
        server.runs.append(run_pb2.Run(state=run_pb2.RUN_STATE_RUNNING))
        run = await client.get("run")

    assert run.state == run_pb2.RUN_STATE_RUNNING


async def test_list_reads_all_pages():
    """With the same filter on each."""
    async with ScriptedServer() as server, AsyncClient(server.target) as client:
        page = generation_service_pb2.ListRunsResponse
        server.pages[""] = page(runs=[run_pb2.Run(run_id="3"), run_pb2.Run(run_id="2")], next_page_token="t")
        server.pages["t"] = page(runs=[run_pb2.Run(run_id="1")])
        found = [run.run_id async for run in client.list(conversation_id="c", page_size=2)]
        found_sync = await asyncio.to_thread(_list_sync, server.target)

    assert found == found_sync == ["3", "2", "1"]
    filters = [each.conversation_id for each in server.unary_requests if isinstance(each, ListRunsRequest)]
    assert filters == ["c"] * 4


def _list_sync(target: str) -> list[str]:
    with Client(target) as client:
        return [run.run_id for run in client.list(conversation_id="c")]


async def test_models_and_delete_answer():
    """With what the server knows, and with nothing."""
    async with ScriptedServer() as server, AsyncClient(server.target) as client:
        models = await client.models()
        await client.delete("run")

    assert [each.name for each in models.models] == ["a/b"]
    assert server.unary_requests == [generation_service_pb2.DeleteRunRequest(run_id="run")]


async def test_a_closed_client_says_so():
    """To calls and to streams."""
    async with ScriptedServer(text_log("x")) as server:
        client = AsyncClient(server.target)
        await client.close()
        with pytest.raises(StreamClosed):
            await client.get("run")
        sync_client = Client(server.target)
        sync_client.close()
        with pytest.raises(StreamClosed):
            sync_client.get("run")
        with pytest.raises(StreamClosed), sync_client.generate("a/b", "hi"):
            pass
