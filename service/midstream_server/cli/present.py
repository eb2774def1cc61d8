"""Runs as people and programs read them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message as ProtobufMessage
from google.rpc import error_details_pb2

from midstream.v1 import run_pb2
from midstream_server.cli import terminal
from midstream_server.cli.terminal import Channel

_CANCELLED_BY = {
    run_pb2.CANCEL_REASON_REQUESTED: "as asked",
    run_pb2.CANCEL_REASON_CLIENT_GONE: "nobody followed it any more",
    run_pb2.CANCEL_REASON_DEADLINE: "the caller's deadline passed",
    run_pb2.CANCEL_REASON_TIME_LIMIT: "its time was up",
    run_pb2.CANCEL_REASON_BUDGET: "its token budget was used up",
    run_pb2.CANCEL_REASON_SUPERSEDED: "a later run took its place",
    run_pb2.CANCEL_REASON_PARENT_CANCELLED: "the run that caused it was cancelled",
}


def as_json(message: ProtobufMessage) -> dict[str, Any]:
    """A message of the contract in the protobuf JSON mapping."""
    return MessageToDict(message)


def text_of(message: run_pb2.Message) -> str:
    """All that a message says to its reader."""
    return "".join(part.text.text or part.refusal.text for part in message.parts)


def tool_calls_of(message: run_pb2.Message) -> Iterator[str]:
    """The tool calls of a message, one line each."""
    for part in message.parts:
        if part.HasField("tool_call"):
            whole = part.state in (run_pb2.PART_STATE_COMPLETE, run_pb2.PART_STATE_UNSPECIFIED)
            cut = "" if whole else f"  ({run_pb2.PartState.Name(part.state).removeprefix('PART_STATE_').lower()})"
            yield f"→ {part.tool_call.name}({part.tool_call.arguments}){cut}"


def state_word(run: run_pb2.Run) -> str:
    """`running`, `cancelled`, …"""
    return run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_").lower()


def summary(run: run_pb2.Run) -> str:
    """How a run stands, in one line: state and why, tokens, time, id."""
    upstream = _failure(run).metadata.get("upstream")  # with an alias nobody knows otherwise
    facts = [_state_and_why(run), f"upstream {upstream}" if upstream else "", _tokens(run.usage), _seconds(run)]
    facts.append(f"run {run.run_id}")
    return " · ".join(fact for fact in facts if fact)


def style_of(run: run_pb2.Run) -> str:
    """The colour of a state."""
    if run.state == run_pb2.RUN_STATE_FAILED:
        return terminal.RED
    return terminal.YELLOW if run.state == run_pb2.RUN_STATE_CANCELLED else terminal.DIM


def exit_code(run: run_pb2.Run) -> int:
    """What the end of a run means for the command that followed it."""
    if run.state == run_pb2.RUN_STATE_COMPLETED:
        return terminal.OK
    return terminal.CANCELLED if run.state == run_pb2.RUN_STATE_CANCELLED else terminal.FAILED


def show_run(run: run_pb2.Run, answers: Channel, remarks: Channel) -> None:
    """The text to standard output, everything about it to standard error."""
    answers.write(text_of(run.message))
    answers.end_line()
    show_ending(run, remarks)


def show_ending(run: run_pb2.Run, remarks: Channel) -> None:
    """Tool calls and the line about the run. Silent about plain success if nobody is there to read it."""
    for line in tool_calls_of(run.message):
        remarks.line(line, terminal.DIM)
    if remarks.is_terminal or run.state != run_pb2.RUN_STATE_COMPLETED:
        remarks.line(summary(run), style_of(run))


def when(run: run_pb2.Run) -> str:
    """The time of its start, to the second, in this machine's zone."""
    moment: datetime = run.create_time.ToDatetime(tzinfo=UTC)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _state_and_why(run: run_pb2.Run) -> str:
    state = state_word(run)
    if run.state == run_pb2.RUN_STATE_FAILED:
        return f"{state}: {run.error.message} ({_failure(run).reason})".removesuffix(" ()")
    if run.cancel_reason:
        return f"{state}, {_CANCELLED_BY.get(run.cancel_reason, 'stopped')}"
    if run.finish_reason and run.finish_reason != run_pb2.FINISH_REASON_STOP:
        return f"{state}, {run_pb2.FinishReason.Name(run.finish_reason).removeprefix('FINISH_REASON_').lower()}"
    return state


def _failure(run: run_pb2.Run) -> error_details_pb2.ErrorInfo:
    """Why it failed; empty if it did not."""
    information = error_details_pb2.ErrorInfo()
    for detail in run.error.details:
        if detail.Unpack(information):
            break
    return information


def _tokens(usage: run_pb2.Usage) -> str:
    counts = []
    if usage.HasField("output"):
        about = "about " if usage.output.source == run_pb2.USAGE_SOURCE_ESTIMATED else ""
        counts.append(f"{about}{usage.output.value} tokens out")
    if usage.HasField("input"):
        counts.append(f"{usage.input.value} in")
    return ", ".join(counts)


def _seconds(run: run_pb2.Run) -> str:
    if not run.HasField("end_time"):
        return ""
    nanoseconds = run.end_time.ToNanoseconds() - run.create_time.ToNanoseconds()
    return f"{nanoseconds / 1e9:.1f} s"
