"""Limits of the caller end CANCELLED, those of the operator and of the format FAILED; usage is never made up."""

import pytest

from engine_scenario import advance, running_engine, settle, text_of
from midstream_server.accumulator import utf8_size
from midstream_server.codec import encode_event, encode_run
from midstream_server.errors import IdleTimeout, UpstreamRejected, UpstreamUnavailable
from midstream_server.model import (
    Annotation,
    CancelReason,
    FinishReason,
    PartState,
    ReasoningDelta,
    RunFinished,
    RunLimits,
    RunState,
    TokenCount,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageSource,
)
from midstream_server.upstreams.base import (
    EventIgnored,
    MetadataReported,
    PartDelta,
    ResponseStarted,
    UpstreamFailed,
    UsageReported,
)
from scripted_upstream import finish, text

FOUR_MEBIBYTES = 4 * 1024 * 1024
FINAL, RUNNING, ESTIMATED = UsageSource.UPSTREAM_FINAL, UsageSource.UPSTREAM_RUNNING, UsageSource.ESTIMATED


def output_of(value: int, source: UsageSource) -> Usage:
    """A usage that knows only the output."""
    return Usage(output=TokenCount(value=value, source=source))


# --- Time ------------------------------------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_total_time_of_the_caller_ends_the_run_cancelled():
    """TIME_LIMIT, with the partial."""
    async with running_engine() as engine:
        stream = await engine.start(limits=RunLimits(total_seconds=30))
        call = await engine.call()
        call.say(text("so far"))
        await stream.until_text("so far")
        await advance(29.9)
        before = call.closed.is_set()
        run = await stream.rest()

        assert not before
        assert call.closed.is_set()
        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.TIME_LIMIT)
        assert text_of(run.message) == "so far"
        assert run.cancel is not None
        assert run.cancel.requested_by == "limits.total"


@pytest.mark.looptime
async def test_operators_cap_on_time_fails_the_run():
    """RUN_TIME_EXCEEDED: nobody asked for a stop."""
    async with running_engine(max_run_seconds=60) as engine:
        stream = await engine.start()
        call = await engine.call()
        run = await stream.rest()

        assert call.closed.is_set()
        assert (run.state, run.cancel_reason, run.cancel) == (RunState.FAILED, None, None)
        assert run.error is not None
        assert run.error.reason == "RUN_TIME_EXCEEDED"


@pytest.mark.looptime
async def test_clocks_of_the_caller_reach_the_upstream():
    """First token and idle are the connection's to measure."""
    async with running_engine() as engine:
        await engine.start(limits=RunLimits(first_token_seconds=3, idle_seconds=4))
        call = await engine.call()

        assert (call.options.first_token_seconds, call.options.idle_seconds) == (3, 4)


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("then", "state", "seconds"),
    [("nothing", RunState.COMPLETED, 1.0), ("usage", RunState.COMPLETED, 0.05), ("reset", RunState.COMPLETED, 0.0),
     ("idle", RunState.COMPLETED, 0.0), ("frame", RunState.FAILED, 0.0), ("end", RunState.COMPLETED, 0.0)],
)  # fmt: skip
async def test_after_the_finish_marker_the_upstream_has_a_second_for_its_account(then, state, seconds):
    """Its end, its account, or an error frame come earlier; a bare reset does not spoil what is whole."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("whole"), finish(FinishReason.LENGTH))
        await stream.until_text("whole")
        await settle()
        if then == "usage":
            call.say(UsageReported(usage=output_of(7, FINAL)))
        elif then == "reset":
            call.break_off(UpstreamUnavailable())
        elif then == "idle":
            call.break_off(IdleTimeout())
        elif then == "frame":
            call.say(UpstreamFailed(failure=UpstreamRejected()))
        elif then == "end":
            call.end()
        begin = (await engine.get()).create_time

        run = await stream.rest()

        assert run.state is state
        assert run.finish_reason is FinishReason.LENGTH
        assert text_of(run.message) == "whole"
        assert ((run.end_time or 0) - begin) / 1e9 == pytest.approx(seconds, abs=0.01)
        assert call.closed.is_set()
        assert run.usage == (output_of(7, FINAL) if then == "usage" else output_of(2, ESTIMATED))


@pytest.mark.looptime
async def test_usage_after_the_second_is_not_waited_for():
    """It is late."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(finish())
        await advance(1.1)
        call.say(UsageReported(usage=output_of(7, FINAL)))

        assert (await stream.rest()).usage is None


# --- Failures --------------------------------------------------------------------------------------------------------


async def test_end_without_a_finish_is_truncated():
    """A dead upstream is not shown as a clean end; an empty answer neither."""
    async with running_engine() as engine:
        for index, pieces in enumerate([("half",), ()]):
            stream = await engine.start(f"run-{index}")
            call = await engine.call(index)
            for piece in pieces:
                call.say(text(piece))
            call.end()
            run = await stream.rest()

            assert run.state is RunState.FAILED
            assert run.error is not None
            assert run.error.reason == "UPSTREAM_TRUNCATED"
            assert text_of(run.message) == "".join(pieces)


async def test_failure_keeps_the_partial_and_says_whose_it_was():
    """Reason, upstream, status and code, as the adapter gave them."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("partial"))
        call.break_off(UpstreamRejected("no", upstream="scripted", http_status=400, provider_code="bad"))
        run = await stream.rest()

        assert run.error is not None
        assert (run.error.reason, run.error.upstream, run.error.http_status, run.error.provider_code) == (
            "UPSTREAM_REJECTED", "scripted", 400, "bad",
        )  # fmt: skip
        assert text_of(run.message) == "partial"
        assert run.message is not None
        assert run.message.parts[0].state is PartState.TRUNCATED


async def test_bug_in_an_adapter_fails_the_run_and_harms_no_other():
    """INTERNAL, without the words of the exception; what was parsed before it is kept."""
    async with running_engine() as engine:
        bad, good = await engine.start("bad"), await engine.start("good")
        call = await engine.call(0)
        call.say(text("kept"), PartDelta(part="text", payload="no payload"))  # type: ignore[arg-type]  # the bug
        failed = await bad.rest()
        other = await engine.call(1)
        other.say(finish())
        other.end()

        assert failed.error is not None
        assert (failed.error.reason, failed.error.message) == ("INTERNAL", "internal error")
        assert text_of(failed.message) == "kept"
        assert (await good.rest()).state is RunState.COMPLETED


# --- Output ----------------------------------------------------------------------------------------------------------


async def test_budget_by_running_usage_ends_with_at_most_one_event_more():
    """CANCELLED(BUDGET); the upstream's own count decides where there is one, and is what the run says."""
    async with running_engine() as engine:
        stream = await engine.start(limits=RunLimits(output_tokens=3))
        call = await engine.call()
        for number in range(1, 6):
            call.say(text("x" * 100), UsageReported(usage=output_of(number, RUNNING)))
        run = await stream.rest()

        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.BUDGET)
        assert len(text_of(run.message)) == 300
        assert run.usage == output_of(3, RUNNING)
        assert run.cancel is not None
        assert run.cancel.requested_by == "limits.output_tokens"
        assert call.closed.is_set()


async def test_budget_by_estimate_where_the_upstream_counts_nothing():
    """A token is four bytes of what came, in characters of any width."""
    async with running_engine() as engine:
        stream = await engine.start(limits=RunLimits(output_tokens=3))
        call = await engine.call()
        for _ in range(10):
            call.say(text("éé"))
        run = await stream.rest()

        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.BUDGET)
        assert text_of(run.message) == "éé" * 3
        assert run.usage == output_of(3, ESTIMATED)


async def test_budget_reached_with_the_finish_is_no_cancel():
    """The model was done."""
    async with running_engine() as engine:
        stream = await engine.start(limits=RunLimits(output_tokens=3))
        call = await engine.call()
        call.say(text("12345678"), finish(), UsageReported(usage=output_of(3, FINAL)))
        call.end()

        assert (await stream.rest()).state is RunState.COMPLETED


@pytest.mark.parametrize(
    "event",
    [
        text("x" * 60_000),
        PartDelta(part="tool", payload=ToolCallDelta(id="1", name="f", arguments="é" * 30_000)),
        PartDelta(part="text", annotations=(Annotation(type="url_citation", raw_json="x" * 60_000),)),
        PartDelta(part="tool", payload=ToolCallDelta(id="i" * 30_000, name="n" * 30_000)),
    ],
    ids=["text", "arguments", "annotations", "names"],
)
async def test_output_that_is_too_large_fails_with_the_partial_that_fits(event):
    """Every Run fits in one gRPC message of the default size, encoded, with its event around it."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        for _ in range(60):
            call.say(event)
        run = await stream.rest()

        assert run.error is not None
        assert run.error.reason == "OUTPUT_TOO_LARGE"
        assert call.closed.is_set()
        assert run.message is not None
        assert await engine.get() == run
        assert len(encode_event(run.last_sequence, RunFinished(run=run))) < FOUR_MEBIBYTES


async def test_many_small_parts_are_bounded_by_what_they_take_encoded():
    """A part of one byte takes more than a byte."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        for start in range(0, 50_000, 1_000):
            call.say(*(PartDelta(part=f"{n}", payload=ReasoningDelta("x")) for n in range(start, start + 1_000)))
        run = await stream.rest()

        assert run.error is not None
        assert run.error.reason == "OUTPUT_TOO_LARGE"
        assert run.message is not None
        assert len(run.message.parts) > 40_000
        assert len(encode_run(run)) < FOUR_MEBIBYTES


async def test_tool_call_in_small_fragments_may_be_long():
    """A fragment costs nothing beside its bytes."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        fragments = [PartDelta(part="tool", payload=ToolCallDelta(arguments='"abc",'))] * 1_000
        call.say(PartDelta(part="tool", payload=ToolCallDelta(id="1", name="f")))
        for _ in range(50):
            call.say(*fragments)
        call.say(finish(FinishReason.TOOL_CALLS))
        call.end()
        run = await stream.rest()

        assert run.state is RunState.COMPLETED
        assert run.message is not None
        content = run.message.parts[0].content
        assert isinstance(content, ToolCall)
        assert utf8_size(content.arguments) == 300_000


# --- What the upstream says of itself --------------------------------------------------------------------------------


async def test_last_account_of_the_upstream_is_the_usage():
    """As it came, with its sources; what is unknown is absent."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        final = Usage(input=TokenCount(value=9, source=FINAL), output=TokenCount(value=2, source=FINAL))
        call.say(text("hello"), UsageReported(usage=output_of(1, RUNNING)), finish())
        call.say(UsageReported(usage=final))
        call.end()
        run = await stream.rest()

        assert run.usage == final
        assert run.usage is not None
        assert run.usage.cached_input is None


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (None, output_of(2, ESTIMATED)),
        (output_of(4, RUNNING), output_of(4, RUNNING)),
        (
            Usage(input=TokenCount(value=9, source=FINAL)),
            Usage(input=TokenCount(value=9, source=FINAL), output=TokenCount(value=2, source=ESTIMATED)),
        ),
    ],
)
async def test_usage_of_a_stopped_run_says_where_it_comes_from(reported, expected):
    """The running account, or an estimate of the output; input is never estimated."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("hello"), *([UsageReported(usage=reported)] if reported else []))
        await stream.until_text("hello")
        _, run = await engine.cancel()

        assert run.usage == expected


async def test_run_that_made_nothing_has_no_usage():
    """Absent, not 0."""
    async with running_engine() as engine:
        await engine.start()
        await engine.call()
        _, run = await engine.cancel()

        assert (run.usage, run.first_delta_time) == (None, None)


async def test_facts_of_the_upstream_are_kept_within_bounds():
    """Its id, its model, its metadata; ignored events are counted."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(ResponseStarted(upstream_request_id="req-1", upstream_model="m-2025"), EventIgnored(kind="ping"))
        call.say(ResponseStarted(), MetadataReported(metadata={"tier": "default", "long": "x" * 10_000}))
        call.say(
            MetadataReported(metadata={f"{n}-{'y' * 10_000}": "z" for n in range(1_000)}), EventIgnored(kind="ping")
        )
        call.say(finish())
        call.end()
        run = await stream.rest()

        assert (run.upstream_request_id, run.upstream_model, run.upstream) == ("req-1", "m-2025", "scripted")
        assert run.provider_metadata["tier"] == "default"
        assert run.provider_metadata["midstream.ignored_events"] == "2"
        assert len(run.provider_metadata["long"]) == 2048
        assert len(encode_run(run)) < 128 * 1024


async def test_text_after_the_finish_marker_is_not_part_of_the_message():
    """The model had finished; what an upstream sends behind it is counted as ignored."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("whole"), finish(), text(" and more"))
        call.end()
        run = await stream.rest()

        assert text_of(run.message) == stream.text == "whole"
        assert run.provider_metadata == {"midstream.ignored_events": "1"}
