"""The REPLAY view: what is safe to send back, wherever the message was cut."""

import pytest

from midstream_server.model import (
    Blob,
    FinishReason,
    Message,
    Part,
    PartContent,
    PartState,
    ProviderState,
    Reasoning,
    Refusal,
    Role,
    Run,
    RunState,
    Text,
    ToolCall,
)
from midstream_server.replay import replay_view

STATE = ProviderState(dialect="chat", data=b"signature")
COMPLETE, TRUNCATED, MALFORMED = PartState.COMPLETE, PartState.TRUNCATED, PartState.MALFORMED
CALL = ToolCall(id="1", name="f", arguments="{}")


def part(content: PartContent, state: PartState = COMPLETE, provider_state: ProviderState | None = None) -> Part:
    """A part."""
    return Part(content=content, state=state, provider_state=provider_state)


def replayed(*parts: Part, finish: FinishReason | None = FinishReason.STOP) -> list[PartContent]:
    """What is left of a run's message."""
    message = Message(role=Role.ASSISTANT, parts=parts)
    run = Run(run_id="r", state=RunState.COMPLETED, finish_reason=finish, message=message, create_time=0)
    shown = replay_view(run).message
    assert shown is None or shown.parts, "a message without parts is absent"
    return [each.content for each in shown.parts] if shown else []


@pytest.mark.parametrize(
    ("finish", "state", "kept"),
    [
        (FinishReason.TOOL_CALLS, COMPLETE, True),
        (FinishReason.TOOL_CALLS, MALFORMED, False),
        (FinishReason.TOOL_CALLS, TRUNCATED, False),
        (FinishReason.STOP, COMPLETE, False),
        (FinishReason.LENGTH, COMPLETE, False),
        (None, COMPLETE, False),
    ],
)
def test_tool_call_is_kept_only_if_the_model_finished_for_it(finish, state, kept):
    """A call without a result poisons the next request."""
    assert replayed(part(Text(text="hm")), part(CALL, state), finish=finish)[1:] == ([CALL] if kept else [])


@pytest.mark.parametrize(
    ("state", "provider_state", "kept"),
    [(COMPLETE, STATE, True), (TRUNCATED, STATE, False), (COMPLETE, None, False)],
)
def test_reasoning_is_kept_only_whole_and_signed(state, provider_state, kept):
    """A provider refuses thinking whose signature is missing."""
    thought = Reasoning(text="so")

    left = replayed(part(thought, state, provider_state), part(Text(text="answer")))

    assert left == ([thought] if kept else []) + [Text(text="answer")]


def test_reasoning_that_nothing_follows_is_dropped():
    """Also if what followed it was dropped, and several in a row."""
    thought = part(Reasoning(text="so"), COMPLETE, STATE)

    assert replayed(thought) == []
    assert replayed(thought, part(Text(text=" \n"))) == []
    assert replayed(part(Text(text="a")), thought, thought, part(CALL)) == [Text(text="a")]


@pytest.mark.parametrize("content", [Text(text=" \u2003\n"), Text(text=""), Refusal(text=" ")])
def test_text_without_content_is_dropped(content):
    """Strict providers refuse empty text."""
    assert replayed(part(content)) == []


def test_cut_text_is_kept():
    """Half a sentence is history."""
    half = part(Text(text="Once upon"), TRUNCATED)

    assert replayed(half, finish=None) == [Text(text="Once upon")]


@pytest.mark.parametrize("state", [COMPLETE, TRUNCATED])
def test_blob_is_not_history(state: PartState):
    """Most providers take an image from the user, and none from the assistant."""
    image = part(Blob(mime_type="image/png", data=b"1"), state)

    assert replayed(part(Text(text="Here it is:")), image) == [Text(text="Here it is:")]
    assert replayed(image) == []


def test_run_without_a_message_stays_without_one():
    """Nothing is made up."""
    run = Run(run_id="r", state=RunState.FAILED, create_time=0)

    assert replay_view(run) == run
