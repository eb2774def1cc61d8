"""The simulator does what it is told, and tells what it saw."""

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from midstream_simulator import (
    Comment,
    Done,
    Error,
    Finish,
    Gate,
    Head,
    Raw,
    Reasoning,
    Refusal,
    Respond,
    Simulator,
    Text,
    ToolCall,
    Usage,
    parse_script,
    streamed,
    words,
)
from simulator_calls import body_for, call, content, deltas, events, raw_call


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


# --- Scripts ---------------------------------------------------------------------------------------------------------


async def test_script_is_played_in_order(simulator, client):
    """Role, text, finish, usage and end marker come as a provider sends them."""
    simulator.play("m", streamed(Text(words("Hello there, you"))))

    response = await call(client, simulator, "m", stream_options={"include_usage": True})

    seen = events(response.text)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert seen[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert content(response.text) == "Hello there, you"
    assert seen[-2]["choices"][0]["finish_reason"] == "stop"
    assert seen[-1]["choices"] == []
    assert seen[-1]["usage"] | {"prompt_tokens_details": 0, "completion_tokens_details": 0} == {
        "prompt_tokens": 4,
        "completion_tokens": 3,
        "total_tokens": 7,
        "prompt_tokens_details": 0,
        "completion_tokens_details": 0,
    }
    assert response.text.endswith("data: [DONE]\n\n")


async def test_usage_comes_only_if_it_was_asked_for(simulator, client):
    """Without `include_usage` no chunk has usage; with `continuous_usage_stats` all have."""
    simulator.play("m", streamed(Text(["a", "b"])))

    silent = await call(client, simulator, "m")
    running = await call(client, simulator, "m", stream_options={"include_usage": True, "continuous_usage_stats": True})

    assert [event for event in events(silent.text) if "usage" in event] == []
    counts = [event["usage"]["completion_tokens"] for event in events(running.text)]
    assert counts == [0, 1, 2, 2, 2]


async def test_every_kind_of_output_has_its_field(simulator, client):
    """Reasoning, refusal and tool calls are encoded like OpenAI's and its relatives'."""
    script = [
        Reasoning(["hm"], field="reasoning"),
        Reasoning(["well"]),
        Refusal(["no"]),
        ToolCall(['{"a"', ":1}"], id="c1", name="f"),
        ToolCall(["{}"], index=1, id="c2", name="g"),
        ToolCall([" "], index=1),
        Usage(cached_tokens=2),
    ]
    simulator.play("m", script)

    response = await call(client, simulator, "m")

    calls = [delta["tool_calls"][0] for delta in deltas(response.text)[3:]]
    assert deltas(response.text)[:3] == [{"reasoning": "hm"}, {"reasoning_content": "well"}, {"refusal": "no"}]
    assert calls[0] == {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert [(each["index"], each["function"]["arguments"]) for each in calls[1:]] == [
        (0, '{"a"'),
        (0, ":1}"),
        (1, ""),
        (1, "{}"),
        (1, " "),
    ]
    usage = events(response.text)[-1]["usage"]
    assert (usage["completion_tokens"], usage["completion_tokens_details"]) == (7, {"reasoning_tokens": 2})


async def test_second_choice_has_its_index(simulator, client):
    """Other choices interleave and are not part of what was sent as the message."""
    simulator.play("m", [Text(["a"]), Text(["x"], choice=1), Text(["b"])])

    response = await call(client, simulator, "m")

    assert [event["choices"][0]["index"] for event in events(response.text)] == [0, 1, 0]
    assert simulator.requests[0].text_sent == "ab"


async def test_scripts_are_played_one_per_request_and_the_last_again(simulator, client):
    """An error first, then success, and success ever after."""
    simulator.play("m", [Respond(503, headers={"retry-after": "0"})], streamed(Text(["fine"])))

    answers = [await call(client, simulator, "m") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [503, 200, 200]
    assert answers[0].headers["retry-after"] == "0"
    assert answers[0].json()["error"]["type"] == "server_error"
    assert content(answers[2].text) == "fine"


async def test_latest_script_that_fits_counts(simulator, client):
    """A script may be for a model, for requests with a text in them, or for all."""
    simulator.play(None, [Text(["any"])])
    simulator.play("m", [Text(["model"])])
    simulator.play("m", [Text(["text"])], contains="magic word")

    named = await call(client, simulator, "m")
    other = await call(client, simulator, "n")
    magic = await call(client, simulator, "m", user="the magic word")

    assert [content(each.text) for each in (named, other, magic)] == ["model", "any", "text"]


async def test_raw_bytes_and_comments_pass_as_they_are(simulator, client):
    """Bytes that no encoder would make reach the wire, lone surrogates too."""
    raw = b"data: \xff\xfe\r\n\r\n"
    simulator.play("m", [Comment("ping", count=2), Raw(base64=base64.b64encode(raw).decode()), Text(["\ud83d"])])

    response = await call(client, simulator, "m")

    assert response.content.startswith(b": ping\n\n: ping\n\n" + raw)
    assert b'"content":"\\ud83d"' in response.content


@pytest.mark.parametrize("form", ["data", "event", "chunk"])
async def test_error_frames_come_in_three_forms(simulator, client, form):
    """As data, as an event named error, and beside choices."""
    simulator.play("m", [Text(["a"]), Error("out of luck", "overloaded_error", code=529, form=form), Done()])

    response = await call(client, simulator, "m")

    failed = events(response.text)[1]
    assert failed["error"]["message"] == "out of luck"
    assert failed["error"]["code"] == 529
    assert ("event: error\n" in response.text) is (form == "event")
    assert ("choices" in failed) is (form == "chunk")


async def test_gzip_body_streams_and_inflates(simulator, client):
    """Each piece can be inflated when it was sent, not only the whole."""
    simulator.play("m", [Head(gzip=True), Text(["Hel"]), Gate("half"), Text(["lo"])])
    text = ""

    async with client.stream("POST", f"{simulator.base_url}/chat/completions", json=body_for("m")) as response:
        async for part in response.aiter_text():
            text += part
            if content(text) == "Hel":
                (await simulator.received()).release("half")

    assert response.headers["content-encoding"] == "gzip"
    assert content(text) == "Hello"


async def test_body_can_be_cut_into_small_chunks(simulator, client):
    """`split_bytes` bounds each HTTP chunk; the body stays the same."""
    simulator.play("m", [Text(["Grüße"]), Finish()], [Head(split_bytes=3), Text(["Grüße"]), Finish()])

    whole = await call(client, simulator, "m")
    async with raw_call(simulator, "m") as (reader, _):
        raw = await reader.readuntil(b"0\r\n\r\n")

    _, _, framed = raw.partition(b"\r\n\r\n")
    sizes = [int(size, 16) for size in re.findall(rb"(?:^|\n)([0-9a-f]+)\r\n", framed)]
    assert max(sizes) == 3
    assert sum(sizes) == len(whole.content)


async def test_body_without_chunks_ends_with_the_connection(simulator, client):
    """`framing` close is HTTP/1.0's way, and content type and headers are the script's."""
    head = Head(status=203, content_type="text/plain", headers={"x-request-id": "mine"}, framing="close")
    simulator.play("m", [head, Text(["all of it"])])

    response = await call(client, simulator, "m")

    assert (response.status_code, response.headers["x-request-id"]) == (203, "mine")
    assert "transfer-encoding" not in response.headers
    assert content(response.text) == "all of it"
    assert simulator.requests[0].closed_by == "server"
    assert not simulator.requests[0].interrupted


async def test_connection_is_kept_unless_the_client_wants_it_closed(simulator, client):
    """Two requests on one connection; the third asks for a close."""
    for _ in range(2):
        await call(client, simulator, "count-3")
    kept = simulator.open_connections
    headers = {"connection": "close"}
    response = await client.post(f"{simulator.base_url}/chat/completions", json=body_for("count-3"), headers=headers)

    assert kept == 1
    assert response.headers["connection"] == "close"
    assert [await request.closed() > 0 for request in simulator.requests] == [True, True, True]


async def test_pipelined_and_chunked_requests_are_read(simulator):
    """Two requests in one write are answered in order; a chunked body is put together."""
    data = json.dumps(body_for("count-2")).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked = b"%x;a=b\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (5, data[:5], len(data) - 5, data[5:])
    reader, writer = await asyncio.open_connection(*simulator.address.split(":"))

    writer.write((head + chunked) * 2)
    answers = [await reader.readuntil(b"\r\n0\r\n\r\n") for _ in range(2)]

    assert [content(answer.decode()) for answer in answers] == ["1 2", "1 2"]
    assert simulator.requests[1].body["model"] == "count-2"
    writer.close()
    await writer.wait_closed()


async def test_bad_requests_are_refused_in_words(simulator, client):
    """What is no JSON, no stream, no message list or no known path or model."""
    url = f"{simulator.base_url}/chat/completions"
    answers = [
        await client.post(url, content=b"{"),
        await client.post(url, json={"model": "m", "messages": []}),
        await client.post(url, json={"model": "m", "stream": True, "messages": 3}),
        await client.post(url, json=body_for("nobody")),
        await client.get(f"{simulator.base_url}/nothing"),
    ]

    assert [answer.status_code for answer in answers] == [400, 400, 400, 404, 404]
    assert all(answer.json()["error"]["message"] for answer in answers)


async def test_script_with_a_mistake_is_refused_at_once(simulator):
    """A text in place of pieces, an unknown step, an unknown field."""
    with pytest.raises(ValueError, match="array"):
        simulator.play("m", [Text("abc")])
    with pytest.raises(ValueError, match="sing"):
        parse_script([{"step": "sing"}])
    with pytest.raises(ValueError, match="colour"):
        parse_script([{"step": "text", "pieces": [], "colour": "red"}])


async def test_what_goes_wrong_inside_is_raised_at_the_end(client):
    """A script that cannot be played does not pass unnoticed."""
    simulator = Simulator()
    simulator.play("m", [Text(["a"]), Head()])
    failed = None

    try:
        async with simulator:
            with pytest.raises(httpx.RemoteProtocolError):
                await call(client, simulator, "m")
    except ValueError as error:
        failed = error

    assert "head" in str(failed)


async def test_models_are_listed(simulator, client):
    """Scripted names first, then examples of what names can say."""
    simulator.play("mine", [Done()])

    response = await client.get(f"{simulator.base_url}/models")

    names = [model["id"] for model in response.json()["data"]]
    assert names[0] == "mine"
    assert "echo" in names


# --- Names that say what to do ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "fields", "expected", "finish"),
    [
        ("echo", {}, "say hello to me", "stop"),
        ("echo", {"max_completion_tokens": 2}, "say hello", "length"),
        ("count-4", {}, "1 2 3 4", "stop"),
        ("count-4", {"max_tokens": 3}, "1 2 3", "length"),
        ("count-3-1000", {}, "1 2 3", "stop"),
        ("reason-2", {}, "Done.", "stop"),
        ("tool-call", {}, "", "tool_calls"),
    ],
)
async def test_name_says_what_is_streamed(simulator, client, model, fields, expected, finish):
    """Text and finish reason follow from the model's name and the request."""
    response = await call(client, simulator, model, **fields)

    assert content(response.text) == expected
    assert events(response.text)[-1]["choices"][0]["finish_reason"] == finish


async def test_tool_call_uses_the_tool_of_the_request(simulator, client):
    """Its arguments come in four fragments that join to an object."""
    tools = [{"type": "function", "function": {"name": "look_up"}}]

    response = await call(client, simulator, "tool-call", tools=tools)

    functions = [each["tool_calls"][0]["function"] for each in deltas(response.text) if "tool_calls" in each]
    assert functions[0]["name"] == "look_up"
    assert json.loads("".join(each["arguments"] for each in functions)) == {"city": "Paris"}
    assert len(functions) == 5


async def test_bench_tokens_carry_the_time(simulator, client):
    """Each piece says when it was sent; flat out, many share a write."""
    before = time.monotonic_ns()

    paced = await call(client, simulator, "bench-n3-r1000")
    flat = await call(client, simulator, "bench-n300-r0", stream_options={"include_usage": True})

    stamps = [int(each[1:], 16) for each in re.findall(r"T[0-9a-f]{16}", paced.text)]
    assert len(stamps) == 3
    assert before < stamps[0] < stamps[1] < stamps[2] < time.monotonic_ns()
    assert events(flat.text)[-1]["usage"]["completion_tokens"] == 300
    assert len(set(simulator.requests[1].token_times_ns)) == 2


@pytest.mark.parametrize(("model", "sent"), [("cut-2", 2), ("cut-chunk-2", 2), ("reset-2", 2), ("error-frame-2", 2)])
async def test_broken_answers_have_their_text_first(simulator, client, model, sent):
    """What was sent before the break arrives, and is counted."""
    received = ""
    broken = None
    try:
        async with client.stream("POST", f"{simulator.base_url}/chat/completions", json=body_for(model)) as response:
            async for part in response.aiter_text():
                received += part
    except httpx.HTTPError as error:
        broken = type(error)

    assert content(received) == "1 2"
    assert simulator.requests[0].tokens_sent == sent
    expected = {"reset-2": httpx.ReadError, "error-frame-2": None}
    assert broken is expected.get(model, httpx.RemoteProtocolError)
