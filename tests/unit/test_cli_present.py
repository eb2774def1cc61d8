"""What the commands show of runs, and how the demo judges."""

from typing import Any

import pytest
from google.protobuf import any_pb2, timestamp_pb2
from google.rpc import error_details_pb2

from midstream.v1 import run_pb2
from midstream_client import CancelOutcome, CancelResult, Delta, PartState
from midstream_server.cli.demo_screen import Stop, examine
from midstream_server.cli.follow import event_of
from midstream_server.cli.present import exit_code, summary, tool_calls_of
from midstream_server.cli.terminal import harmless

# --- Summaries --------------------------------------------------------------------------------------------------------


def run_of(state: "run_pb2.RunState.ValueType", **fields) -> run_pb2.Run:
    """A run that ended 1.5 s after it was made."""
    return run_pb2.Run(
        run_id="it",
        state=state,
        create_time=timestamp_pb2.Timestamp(seconds=10),
        end_time=timestamp_pb2.Timestamp(seconds=11, nanos=500_000_000),
        **fields,
    )


def usage(source: "run_pb2.UsageSource.ValueType") -> run_pb2.Usage:
    """7 tokens out, 3 in."""
    return run_pb2.Usage(
        output=run_pb2.TokenCount(value=7, source=source),
        input=run_pb2.TokenCount(value=3, source=run_pb2.USAGE_SOURCE_UPSTREAM_FINAL),
    )


def test_a_summary_says_state_tokens_time_and_id():
    """In one line."""
    run = run_of(run_pb2.RUN_STATE_COMPLETED, usage=usage(run_pb2.USAGE_SOURCE_UPSTREAM_FINAL))

    assert summary(run) == "completed · 7 tokens out, 3 in · 1.5 s · run it"


def test_an_estimate_is_called_about():
    """Numbers say where they come from."""
    run = run_of(
        run_pb2.RUN_STATE_CANCELLED,
        cancel_reason=run_pb2.CANCEL_REASON_REQUESTED,
        usage=usage(run_pb2.USAGE_SOURCE_ESTIMATED),
    )

    assert summary(run) == "cancelled, as asked · about 7 tokens out, 3 in · 1.5 s · run it"


def test_unknown_usage_is_not_zero():
    """What is unknown is left out."""
    assert summary(run_of(run_pb2.RUN_STATE_COMPLETED)) == "completed · 1.5 s · run it"


def test_a_failure_is_told_with_its_reason():
    """For people and for searching."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="IDLE_TIMEOUT"))
    run = run_of(run_pb2.RUN_STATE_FAILED)
    run.error.message = "the upstream stopped sending output"
    run.error.details.append(detail)

    assert summary(run).startswith("failed: the upstream stopped sending output (IDLE_TIMEOUT) · 1.5 s")


def test_a_failure_names_the_upstream_that_is_to_blame():
    """A person who named an alias cannot know it otherwise."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="UPSTREAM_REJECTED", metadata={"upstream": "openai"}))
    run = run_of(run_pb2.RUN_STATE_FAILED)
    run.error.message = "no such key"
    run.error.details.append(detail)

    assert summary(run).startswith("failed: no such key (UPSTREAM_REJECTED) · upstream openai · ")


def test_a_finish_that_is_not_a_stop_is_told():
    """The answer was cut by the provider's limit."""
    run = run_of(run_pb2.RUN_STATE_COMPLETED, finish_reason=run_pb2.FINISH_REASON_LENGTH)

    assert summary(run).startswith("completed, length · ")


@pytest.mark.parametrize(
    ("state", "code"),
    [(run_pb2.RUN_STATE_COMPLETED, 0), (run_pb2.RUN_STATE_FAILED, 1), (run_pb2.RUN_STATE_CANCELLED, 3)],
)
def test_each_ending_has_its_exit_code(state, code):
    """As the help says."""
    assert exit_code(run_of(state)) == code


def test_a_cut_tool_call_is_marked():
    """Nobody should take half of one for whole."""
    call = run_pb2.ToolCall(id="c", name="weather", arguments='{"ci')
    message = run_pb2.Message(parts=[run_pb2.Part(tool_call=call, state=run_pb2.PART_STATE_TRUNCATED)])

    assert list(tool_calls_of(message)) == ['→ weather({"ci)  (truncated)']


def test_control_characters_become_pictures_and_text_stays():
    """Line ends and tabs are text."""
    assert harmless("a\tb\nc\x1b[31m\x00\x7f\x9b é🙂") == "a\tb\nc␛[31m␀\ufffd\ufffd é🙂"


def test_a_delta_becomes_the_event_it_came_in():
    """`--json` shows the contract's events, though the client gives values."""
    delta = Delta(
        sequence=9,
        first_sequence=7,
        part_index=1,
        offset=4,
        tool_call=run_pb2.ToolCallDelta(id="c", name="n", arguments="{"),
        part_end=PartState.TRUNCATED,
        provider_state=run_pb2.ProviderState(dialect="d", data=b"s"),
        annotations=(run_pb2.Annotation(type="t"),),
        logprobs=(run_pb2.TokenLogprob(token="x", logprob=-1.0),),
    )

    event = event_of(delta)

    assert (event.sequence, event.first_sequence) == (9, 7)
    assert event.delta == run_pb2.MessageDelta(
        part_index=1,
        offset=4,
        tool_call=run_pb2.ToolCallDelta(id="c", name="n", arguments="{"),
        part_end=run_pb2.PART_STATE_TRUNCATED,
        provider_state=run_pb2.ProviderState(dialect="d", data=b"s"),
        annotations=[run_pb2.Annotation(type="t")],
        logprobs=[run_pb2.TokenLogprob(token="x", logprob=-1.0)],
    )


# --- The demo's judgement ---------------------------------------------------------------------------------------------


def stop(**changes) -> Stop:
    """A stop in which everything held."""

    def made(text: str, *, state: "run_pb2.RunState.ValueType" = run_pb2.RUN_STATE_CANCELLED) -> run_pb2.Run:
        run = run_of(state, usage=usage(run_pb2.USAGE_SOURCE_UPSTREAM_RUNNING))
        run.message.parts.add().text.text = text
        run.cancel.request_time.FromNanoseconds(1_000_000)
        run.cancel.upstream_close_time.FromNanoseconds(1_500_000)
        return run

    fields: dict[str, Any] = {
        "streamed": "so fär",
        "deltas": 7,
        "reply": CancelResult(CancelOutcome.CANCELLED, made("so fär")),
        "reply_seconds": 0.004,
        "ended": made("so fär"),
        "stored": made("so fär"),
        "tokens_made": 8,
    }
    fields |= {
        name: made(value) if isinstance(value, str) and name == "stored" else value for name, value in changes.items()
    }
    return Stop(**fields)


def test_a_stop_in_which_everything_held_has_no_broken_promise():
    """And says the figures."""
    promises = examine(stop())

    assert all(promise.held for promise in promises)
    words = " ".join(promise.words for promise in promises)
    assert "0.5 ms" in words
    assert "(7 bytes)" in words
    assert "8 tokens made, 7 kept, so 1 after the stop" in words


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"streamed": "so far"}, 2),
        ({"streamed": ""}, 2),
        ({"stored": "so fä"}, 1),
        ({"tokens_made": 60}, 1),
        ({"tokens_made": 6}, 1),
        ({"reply": CancelResult(CancelOutcome.STOPPING, run_pb2.Run())}, 2),
        ({"reply": CancelResult(CancelOutcome.ALREADY_FINISHED, run_pb2.Run())}, 2),
    ],
)
def test_whatever_did_not_hold_is_told(changes, broken):
    """The demo cannot succeed by accident."""
    assert sum(not promise.held for promise in examine(stop(**changes))) == broken
