"""Requests say what the caller meant, in the contract's words."""

from datetime import timedelta

import pytest

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client import ConversationPolicy, MessageView, RunState, assistant, system, tool, tool_result, user
from midstream_client._requests import (
    cancel_request,
    generate_request,
    get_request,
    list_request,
    resume_seconds_of,
    watch_request,
)


def test_every_generate_has_an_id_of_its_own():
    """A stop or a resume needs one before the first answer comes. UUIDs of version 7 sort by time."""
    first, second = (generate_request("a/b", "hi", {}).run_id for _ in range(2))

    assert first[14] == second[14] == "7"
    assert first < second
    assert generate_request("a/b", "hi", {"run_id": "mine"}).run_id == "mine"


def test_a_prompt_is_a_message_of_the_user():
    """The system's text goes in front."""
    request = generate_request("a/b", "hi", {"system": "be brief"})

    assert list(request.messages) == [system("be brief"), user("hi")]


def test_a_conversation_may_be_given_in_any_form():
    """Messages, or roles and contents."""
    result = tool_result("call-1", "42", is_error=True)

    request = generate_request("a/b", [{"role": "user", "content": "hi"}, assistant("ho"), result], {})

    assert list(request.messages) == [user("hi"), assistant("ho"), result]
    assert generate_request("a/b", user("hi"), {}).messages == [user("hi")]
    assert result.parts[0].tool_result.is_error


@pytest.mark.parametrize("wrong", [{"role": "robot", "content": "x"}, {"role": "user"}, {"role": "user", "text": "x"}])
def test_a_message_without_a_known_role_and_content_is_refused(wrong: dict[str, str]):
    """Before anything is sent."""
    with pytest.raises(ValueError, match="a message is"):
        generate_request("a/b", [wrong], {})


@pytest.mark.parametrize(
    ("on_detach", "action", "seconds"),
    [
        (None, run_pb2.DetachPolicy.ACTION_GRACE, 10.0),
        (2.5, run_pb2.DetachPolicy.ACTION_GRACE, 2.5),
        (timedelta(minutes=1), run_pb2.DetachPolicy.ACTION_GRACE, 60.0),
        ("cancel", run_pb2.DetachPolicy.ACTION_CANCEL, 0.0),
        ("continue", run_pb2.DetachPolicy.ACTION_CONTINUE, 0.0),
    ],
)
def test_a_lost_connection_has_a_grace_unless_said_otherwise(on_detach, action, seconds):
    """Ten seconds by default."""
    request = generate_request("a/b", "hi", {"on_detach": on_detach})

    assert request.on_detach.action == action
    assert request.on_detach.grace.ToTimedelta() == timedelta(seconds=seconds)
    assert resume_seconds_of(request) == (seconds or 10.0)


def test_parameters_and_limits_may_be_plain_values():
    """As well as messages of the contract."""
    request = generate_request(
        "a/b",
        "hi",
        {
            "parameters": {"temperature": 0.0, "max_output_tokens": 5, "response_format": {"json_object": {}}},
            "limits": {"total": 1.5, "idle": timedelta(seconds=2), "output_tokens": 9},
            "retention": 0,
            "provider_options": {"top_a": 0.5},
            "labels": {"team": "x"},
            "on_conflict": ConversationPolicy.SUPERSEDE,
            "conversation_id": "c",
        },
    )

    assert request.parameters.HasField("temperature")
    assert request.parameters.max_output_tokens == 5
    assert request.parameters.response_format.HasField("json_object")
    assert request.limits.total.ToTimedelta() == timedelta(seconds=1.5)
    assert request.limits.idle.seconds == 2
    assert request.limits.output_tokens == 9
    assert request.HasField("retention")
    assert dict(request.provider_options) == {"top_a": 0.5}
    assert request.on_conflict == run_pb2.CONVERSATION_POLICY_SUPERSEDE
    message = generation_service_pb2.GenerationParameters(top_k=3)
    assert generate_request("a/b", "hi", {"parameters": message}).parameters == message


def test_tools_may_be_plain_values():
    """A schema's text is passed on as it is."""
    request = generate_request(
        "a/b",
        "hi",
        {
            "tools": [
                {"name": "f", "parameters": {"type": "object"}},
                tool("g", "does g", '{ "b":1,"a":2 }', strict=True),
            ],
            "tool_choice": {"tool": "g"},
        },
    )

    assert request.tools[0].parameters_schema == '{"type": "object"}'
    assert not request.tools[0].HasField("strict")
    assert request.tools[1].parameters_schema == '{ "b":1,"a":2 }'
    assert request.tools[1].strict
    assert request.tool_choice == generation_service_pb2.ToolChoice(
        mode=generation_service_pb2.ToolChoice.MODE_TOOL, tool_name="g"
    )
    required = generate_request("a/b", "hi", {"tool_choice": "required"})
    assert required.tool_choice.mode == generation_service_pb2.ToolChoice.MODE_REQUIRED


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"temperature": 1}, TypeError),
        ({"parameters": {"temprature": 1}}, ValueError),
        ({"limits": {"totall": 1}}, ValueError),
        ({"on_detach": "later"}, ValueError),
        ({"tool_choice": "maybe"}, ValueError),
        ({"tools": [{"nam": "f"}]}, TypeError),
    ],
)
def test_a_word_that_does_not_exist_is_refused(options, error):
    """Never ignored."""
    with pytest.raises(error):
        generate_request("a/b", "hi", options)


def test_a_watch_begins_in_one_place():
    """After a sequence, 0 included, or from a snapshot."""
    assert watch_request("r", after_sequence=None, from_snapshot=False, claim=False).WhichOneof("start") is None
    assert watch_request("r", after_sequence=0, from_snapshot=False, claim=True).WhichOneof("start") == "after_sequence"
    assert watch_request("r", after_sequence=None, from_snapshot=True, claim=False).from_snapshot
    with pytest.raises(ValueError, match="not both"):
        watch_request("r", after_sequence=1, from_snapshot=True, claim=False)


def test_waits_are_absent_unless_given():
    """0 is a wait, and not the default one."""
    assert not cancel_request("r", "", None).HasField("wait")
    assert cancel_request("r", "", 0).HasField("wait")
    assert not get_request("r", MessageView.REPLAY, None).wait_until_finished
    assert get_request("r", MessageView.REPLAY, 1.5).max_wait.nanos == 500_000_000
    assert get_request("r", MessageView.REPLAY, None).message_view == generation_service_pb2.MESSAGE_VIEW_REPLAY


def test_a_list_takes_the_filters_that_exist():
    """And no others."""
    request = list_request({"state": RunState.FAILED, "labels": {"a": "b"}, "page_size": 7}, "token")

    assert (request.state, request.page_size, request.page_token) == (run_pb2.RUN_STATE_FAILED, 7, "token")
    assert dict(request.labels) == {"a": "b"}
    with pytest.raises(TypeError, match="stat"):
        list_request({"stat": RunState.FAILED}, "")  # type: ignore[typeddict-unknown-key]  # what is tested
