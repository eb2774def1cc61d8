"""Requests as values, and values as answers."""

import hashlib
from typing import cast

import pytest
from google.protobuf import json_format, text_format
from hypothesis import given
from hypothesis import strategies as st

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_server.codec import decode_run
from midstream_server.errors import InvalidRequest
from midstream_server.model import (
    Annotation,
    Blob,
    CancelOutcome,
    ConversationPolicy,
    DetachAction,
    DetachPolicy,
    GenerationParameters,
    Instant,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    MessageView,
    ModelInfo,
    Part,
    Prompt,
    ProviderState,
    Reasoning,
    ReasoningEffort,
    ReasoningParameters,
    Refusal,
    Role,
    Run,
    RunLimits,
    RunSpec,
    RunState,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    ToolResult,
)
from midstream_server.rpc.convert import (
    CancelSpec,
    GetSpec,
    ListSpec,
    WatchSpec,
    cancel_response,
    cancel_spec,
    delete_spec,
    get_spec,
    list_response,
    list_spec,
    models_response,
    watch_spec,
)
from midstream_server.rpc.page_token import RunFilter, decode_page_token, encode_page_token
from request_rows import read_generate
from strategies import instants, labels, run_ids, runs, texts

SMALL = 'run_id: "run-1" model: "local/smollm2" messages { role: ROLE_USER parts { text { text: "Hi" } } }'

LARGE = """
run_id: "run-1"
model: "openai/gpt-x"
messages { role: ROLE_SYSTEM parts { text { text: "Be kind." } } }
messages {
  role: ROLE_USER
  parts { text { text: "Look." } }
  parts { blob { mime_type: "image/png" data: "\\377\\000" } }
  parts { blob { url: "https://example.com/a.png" } }
  parts { blob { file_id: "file-1" } }
}
messages {
  role: ROLE_ASSISTANT
  parts { reasoning { text: "Hm." } provider_state { dialect: "anthropic" data: "sig" } }
  parts {
    text { text: "Well" annotations { type: "url_citation" start_offset: 0 end_offset: 4 } }
    state: PART_STATE_TRUNCATED
  }
  parts { refusal { text: "No." } }
  parts { tool_call { id: "call-1" name: "weather" arguments: "{}" } }
}
messages {
  role: ROLE_TOOL
  parts { tool_result { tool_call_id: "call-1" is_error: true parts { text { text: "down" } state: PART_STATE_OPEN } } }
}
tools { name: "weather" description: "Tells." parameters_schema: "{\\"type\\":\\"object\\"}" strict: false }
tools { name: "time" }
tool_choice { mode: MODE_TOOL tool_name: "weather" }
parameters {
  max_output_tokens: 100 temperature: 0 top_p: 0.5 top_k: 40 seed: -1 presence_penalty: -0.5 frequency_penalty: 0.5
  stop: "a" stop: "b" parallel_tool_calls: false logprobs: true top_logprobs: 0
  response_format { json_schema { name: "answer" schema: "{}" description: "d" strict: true } }
  reasoning { effort: EFFORT_HIGH budget_tokens: 1024 include: true }
}
on_detach { action: ACTION_GRACE grace { seconds: 10 nanos: 500000000 } }
limits {
  first_token { seconds: 1 } idle { seconds: 2 } total { seconds: 3 } queue { nanos: 4000000 } output_tokens: 5
}
conversation_id: "conversation-1"
on_conflict: CONVERSATION_POLICY_SUPERSEDE
continue_from: "run-0"
parent_run_id: "run-2"
labels { key: "team" value: "red" }
retention {}
provider_options { fields { key: "user" value { string_value: "u" } } }
"""


# --- Generate --------------------------------------------------------------------------------------------------------


def test_a_generate_request_becomes_a_spec_field_by_field():
    """Everything that a caller can say arrives; the states of parts are not read."""
    spec = read_generate(_generate(LARGE)).spec

    assert spec == RunSpec(
        run_id="run-1",
        model="openai/gpt-x",
        prompt=_large_prompt(),
        on_detach=DetachPolicy(action=DetachAction.GRACE, grace_seconds=10.5),
        limits=RunLimits(
            first_token_seconds=1.0, idle_seconds=2.0, total_seconds=3.0, queue_seconds=0.004, output_tokens=5
        ),
        conversation_id="conversation-1",
        on_conflict=ConversationPolicy.SUPERSEDE,
        continue_from="run-0",
        parent_run_id="run-2",
        labels={"team": "red"},
        retention_seconds=0.0,
    )


def test_what_a_generate_request_leaves_out_has_its_default():
    """Absent is the default of the contract, or None where the provider's or the server's counts."""
    spec = read_generate(_generate('model: "fast" messages { role: ROLE_USER parts { text { text: "Hi" } } }')).spec

    message = Message(role=Role.USER, parts=(Part(content=Text(text="Hi")),))
    assert spec == RunSpec(run_id="made-here", model="fast", prompt=Prompt(messages=(message,)), retention_seconds=60.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("text {}", None), ("json_object {}", JsonObjectFormat()), ("", None)],
)
def test_the_form_of_the_answer(text: str, expected: object):
    """Plain text, asked for or not, is None."""
    spec = read_generate(_generate(SMALL + f"parameters {{ response_format {{ {text} }} }}")).spec

    assert spec.prompt.parameters.response_format == expected


def test_absent_parameters_of_reasoning_are_the_providers():
    """An empty Reasoning asks for nothing in particular, but is there."""
    spec = read_generate(_generate(SMALL + "parameters { reasoning {} }")).spec

    assert spec.prompt.parameters.reasoning == ReasoningParameters()


def test_provider_options_become_plain_json_with_whole_numbers():
    """A Struct knows only doubles; providers refuse 5.0 where they want 5."""
    request = wire.GenerateRequest.FromString(_generate(SMALL))
    options = {
        "seed": 5,
        "ratio": 0.5,
        "none": None,
        "flag": True,
        "list": [1, {"deep": -2}],
        "huge": 1e300,
        "name": "n",
    }
    json_format.ParseDict(options, request.provider_options)

    converted = read_generate(request.SerializeToString()).spec.prompt.provider_options

    assert converted == options
    assert type(converted["seed"]) is int
    assert type(converted["flag"]) is bool
    assert type(cast(list[object], converted["list"])[0]) is int
    assert type(converted["huge"]) is float


# --- Fingerprints ----------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_versioned_sha256():
    """It is stored, so it must stay the same from version to version."""
    without_run_id = b"\x12\x0dlocal/smollm2\x1a\x0a\x08\x03\x12\x06\x0a\x04\x0a\x02Hi"

    assert read_generate(_generate(SMALL)).fingerprint == f"1:{hashlib.sha256(without_run_id).hexdigest()}"


def test_a_repeat_has_the_same_fingerprint_whatever_its_id_and_encoding():
    """The run's id, fields of a later version, the order of maps and of fields on the wire do not count."""
    one = SMALL + 'labels { key: "a" value: "1" } labels { key: "b" value: "2" }'
    other = SMALL + 'labels { key: "b" value: "2" } labels { key: "a" value: "1" }'
    empty_message = "messages { role: ROLE_USER parts { text { text: '' } } }"
    later_field = b"\xf8\x7f\x01"
    later_field_of_a_message = b"\x1a\x0b" + b"\x08\x03\x12\x04\x0a\x02\x0a\x00" + later_field

    expected = read_generate(_generate(one)).fingerprint

    assert read_generate(_generate(other)).fingerprint == expected
    assert read_generate(_generate(one.replace("run-1", "run-2"))).fingerprint == expected
    assert read_generate(_generate(one) + later_field).fingerprint == expected
    assert read_generate(_generate(one.replace('run_id: "run-1"', "")) + b"\x0a\x01z").fingerprint == expected
    assert (
        read_generate(_generate(one) + later_field_of_a_message).fingerprint
        == read_generate(_generate(one + empty_message)).fingerprint
    )


@pytest.mark.parametrize(
    "change",
    [
        'model: "local/other"',
        'messages { role: ROLE_USER parts { text { text: "?" } } }',
        "parameters { seed: 0 }",
        "retention { seconds: 1 }",
        "on_detach { action: ACTION_CANCEL }",
        'provider_options { fields { key: "a" value { bool_value: true } } }',
        'labels { key: "a" value: "" }',
    ],
)
def test_another_request_has_another_fingerprint(change: str):
    """Each field counts, also one that is set to its default."""
    assert read_generate(_generate(SMALL + change)).fingerprint != read_generate(_generate(SMALL)).fingerprint


# --- The other requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (wire.WatchRunRequest(run_id="a"), (0, False, False)),
        (wire.WatchRunRequest(run_id="a", after_sequence=7, claim=True), (7, False, True)),
        (wire.WatchRunRequest(run_id="a", from_snapshot=True), (0, True, False)),
    ],
)
def test_a_watch_begins_where_it_says(request_: wire.WatchRunRequest, expected: tuple[int, bool, bool]):
    """From the start, after a sequence, or from a snapshot."""
    after_sequence, from_snapshot, claim = expected

    assert watch_spec(request_.SerializeToString()) == WatchSpec(
        run_id="a", after_sequence=after_sequence, from_snapshot=from_snapshot, claim=claim
    )


@pytest.mark.parametrize(("wait", "expected"), [("", 5.0), ("wait {}", 0.0), ("wait { nanos: 250000000 }", 0.25)])
def test_a_cancel_waits_five_seconds_unless_told(wait: str, expected: float):
    """Absent is the default, 0 is 0."""
    request = text_format.Parse(f'run_id: "a" reason: "typo" {wait}', wire.CancelRequest())

    assert cancel_spec(request.SerializeToString()) == CancelSpec(run_id="a", text="typo", wait_seconds=expected)


@pytest.mark.parametrize(
    ("text", "view", "wait_seconds"),
    [
        ("", MessageView.AS_STREAMED, None),
        ("message_view: MESSAGE_VIEW_REPLAY", MessageView.REPLAY, None),
        ("wait_until_finished: true", MessageView.AS_STREAMED, 60.0),
        ("wait_until_finished: true max_wait {}", MessageView.AS_STREAMED, 0.0),
        ("wait_until_finished: true max_wait { seconds: 3 }", MessageView.AS_STREAMED, 3.0),
    ],
)
def test_a_get_waits_only_if_told(text: str, view: MessageView, wait_seconds: float | None):
    """Without `wait_until_finished` it does not wait at all."""
    request = text_format.Parse(f'run_id: "a" {text}', wire.GetRunRequest())

    assert get_spec(request.SerializeToString()) == GetSpec(run_id="a", view=view, wait_seconds=wait_seconds)


def test_a_list_reads_its_filter():
    """The page's size has a default, every filter is optional."""
    everything = wire.ListRunsRequest()
    filtered = wire.ListRunsRequest(
        page_size=3, state=run_pb2.RUN_STATE_FAILED, conversation_id="c", parent_run_id="p", labels={"a": "b"}
    )
    run_filter = RunFilter(state=RunState.FAILED, conversation_id="c", parent_run_id="p", labels={"a": "b"})

    assert list_spec(everything.SerializeToString()) == ListSpec(limit=50, before=None, filter=RunFilter())
    assert list_spec(filtered.SerializeToString()) == ListSpec(limit=3, before=None, filter=run_filter)


def test_a_delete_names_its_run():
    """That is all there is in it."""
    assert delete_spec(wire.DeleteRunRequest(run_id="a").SerializeToString()) == "a"


# --- Page tokens -----------------------------------------------------------------------------------------------------

filters = st.builds(
    RunFilter,
    state=st.none() | st.sampled_from(RunState),
    conversation_id=texts,
    parent_run_id=texts,
    labels=labels,
)


@given(create_time=instants, run_id=run_ids, run_filter=filters)
def test_a_page_token_holds_its_key(create_time: Instant, run_id: str, run_filter: RunFilter):
    """A page goes on exactly where the one before ended; the token can stand in a URL."""
    token = encode_page_token((create_time, run_id), run_filter)

    assert decode_page_token(token, run_filter) == (create_time, run_id)
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(one=filters, other=filters)
def test_a_page_token_of_another_filter_is_refused(one: RunFilter, other: RunFilter):
    """The pages of one list do not go on with those of another."""
    token = encode_page_token((1, "a"), one)

    if one == other:
        assert decode_page_token(token, other) == (1, "a")
    else:
        with pytest.raises(InvalidRequest, match="page_token"):
            decode_page_token(token, other)


@pytest.mark.parametrize(
    "other",
    [
        RunFilter(),
        RunFilter(state=RunState.FAILED, conversation_id="c", parent_run_id="p", labels={"a": "b"}),
        RunFilter(state=RunState.QUEUED, conversation_id="d", parent_run_id="p", labels={"a": "b"}),
        RunFilter(state=RunState.QUEUED, conversation_id="c", parent_run_id="q", labels={"a": "b"}),
        RunFilter(state=RunState.QUEUED, conversation_id="c", parent_run_id="p", labels={"a": "c"}),
        RunFilter(state=RunState.QUEUED, conversation_id="c", parent_run_id="p"),
    ],
)
def test_every_part_of_the_filter_counts(other: RunFilter):
    """One difference is enough for a token to be refused."""
    run_filter = RunFilter(state=RunState.QUEUED, conversation_id="c", parent_run_id="p", labels={"a": "b"})

    with pytest.raises(InvalidRequest, match="page_token"):
        decode_page_token(encode_page_token((1, "a"), run_filter), other)


@given(data=st.data())
def test_a_page_token_that_was_changed_is_refused(data: st.DataObject):
    """Any character, a cut or an addition."""
    token = encode_page_token((1, "run-1"), RunFilter())
    index = data.draw(st.integers(0, len(token) - 2))
    character = data.draw(st.sampled_from("Aa0-_=?ü").filter(lambda each: each != token[index]))

    for changed in (token[:index] + character + token[index + 1 :], token[:index], token + "AAAA"):
        if changed:
            with pytest.raises(InvalidRequest, match="page_token"):
                decode_page_token(changed, RunFilter())


def test_a_list_goes_on_with_its_token():
    """The token of an answer is the next request's `before`; page size may change."""
    run = Run(run_id="run-1", state=RunState.COMPLETED, create_time=5)
    run_filter = RunFilter(labels={"a": "b"})
    response = wire.ListRunsResponse.FromString(list_response([run], (5, "run-1"), run_filter))

    request = wire.ListRunsRequest(page_token=response.next_page_token, labels={"a": "b"}, page_size=2)

    assert list_spec(request.SerializeToString()).before == (5, "run-1")


# --- Answers ---------------------------------------------------------------------------------------------------------


@given(run=runs, outcome=st.sampled_from(CancelOutcome))
def test_a_cancel_answers_with_the_whole_run(run: Run, outcome: CancelOutcome):
    """The partial message is in it."""
    response = wire.CancelResponse.FromString(cancel_response(outcome, run))

    assert CancelOutcome(response.outcome) is outcome
    assert decode_run(response.run.SerializeToString()) == run


@given(listed=st.lists(runs, max_size=3))
def test_a_list_answers_with_runs_without_messages(listed: list[Run]):
    """In order; without a next token if nothing follows."""
    response = wire.ListRunsResponse.FromString(list_response(listed, None, RunFilter()))

    assert [run.run_id for run in response.runs] == [run.run_id for run in listed]
    assert not any(run.HasField("message") for run in response.runs)
    assert not response.next_page_token


def test_a_page_that_no_client_would_accept_is_cut():
    """500 runs with all their labels have more than 4 MiB: the page ends earlier, and the token goes on from there."""
    listed = [
        Run(
            run_id=f"run-{index}",
            state=RunState.COMPLETED,
            create_time=index,
            labels={str(key): "v" * 256 for key in range(32)},
        )
        for index in range(500)
    ]

    data = list_response(listed, None, RunFilter())

    response = wire.ListRunsResponse.FromString(data)
    assert 100 < len(response.runs) < 500
    assert len(data) < 4 * 1024 * 1024
    last = response.runs[-1]
    assert last.run_id == f"run-{len(response.runs) - 1}"
    assert decode_page_token(response.next_page_token, RunFilter()) == (len(response.runs) - 1, last.run_id)


def test_models_are_listed_as_they_are():
    """Upstreams' models, aliases with their route, and the upstreams that did not answer."""
    model = ModelInfo(name="openai/gpt-x", upstream="openai", dialect="openai-chat", supports_continue=True)
    alias = ModelInfo(name="fast", route=("openai/gpt-x", "local/smollm2"))

    response = wire.ListModelsResponse.FromString(models_response([model, alias], ["gemini"]))

    assert response == wire.ListModelsResponse(
        models=[
            wire.Model(name="openai/gpt-x", upstream="openai", dialect="openai-chat", supports_continue=True),
            wire.Model(name="fast", route=["openai/gpt-x", "local/smollm2"]),
        ],
        unreachable_upstreams=["gemini"],
    )


# --- Helpers ---------------------------------------------------------------------------------------------------------


def _generate(text: str) -> bytes:
    request = wire.GenerateRequest()
    text_format.Merge(text, request)
    return request.SerializeToString()


def _large_prompt() -> Prompt:
    return Prompt(
        messages=(
            Message(role=Role.SYSTEM, parts=(Part(content=Text(text="Be kind.")),)),
            Message(
                role=Role.USER,
                parts=(
                    Part(content=Text(text="Look.")),
                    Part(content=Blob(mime_type="image/png", data=b"\xff\0")),
                    Part(content=Blob(url="https://example.com/a.png")),
                    Part(content=Blob(file_id="file-1")),
                ),
            ),
            Message(role=Role.ASSISTANT, parts=_answer()),
            Message(
                role=Role.TOOL,
                parts=(
                    Part(
                        content=ToolResult(
                            tool_call_id="call-1", parts=(Part(content=Text(text="down")),), is_error=True
                        )
                    ),
                ),
            ),
        ),
        tools=(
            Tool(name="weather", description="Tells.", parameters_schema='{"type":"object"}', strict=False),
            Tool(name="time"),
        ),
        tool_choice=ToolChoice(mode=ToolChoiceMode.TOOL, tool_name="weather"),
        parameters=GenerationParameters(
            max_output_tokens=100,
            temperature=0.0,
            top_p=0.5,
            top_k=40,
            seed=-1,
            presence_penalty=-0.5,
            frequency_penalty=0.5,
            stop=("a", "b"),
            parallel_tool_calls=False,
            logprobs=True,
            top_logprobs=0,
            response_format=JsonSchemaFormat(name="answer", schema="{}", description="d", strict=True),
            reasoning=ReasoningParameters(effort=ReasoningEffort.HIGH, budget_tokens=1024, include=True),
        ),
        provider_options={"user": "u"},
    )


def _answer() -> tuple[Part, ...]:
    citation = Annotation(type="url_citation", start_offset=0, end_offset=4)
    return (
        Part(content=Reasoning(text="Hm."), provider_state=ProviderState(dialect="anthropic", data=b"sig")),
        Part(content=Text(text="Well", annotations=(citation,))),
        Part(content=Refusal(text="No.")),
        Part(content=ToolCall(id="call-1", name="weather", arguments="{}")),
    )
