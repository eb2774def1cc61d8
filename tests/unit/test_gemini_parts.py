"""The parts of Gemini streams: text, thoughts, calls, files, and what belongs to them."""

import base64
import json

import pytest

from gemini_streams import body_of, early_events, finishes, parsed, read, signature
from midstream_server.model import Annotation, BlobDelta, FinishReason, PartState, TokenLogprob
from midstream_server.upstreams.base import PartDelta
from midstream_server.upstreams.gemini.arguments import PartialArguments, Segment, parse_path

COMPLETE = PartState.COMPLETE


def test_text():
    """One part, and who the upstream says it is."""
    result = read("text")

    assert result.shape() == [("text", "Green moss\u2028 grows.", None)]
    assert (result.request_id, result.model) == ("resp-7", "painter-1")


def test_thoughts_and_their_signatures():
    """Thoughts are reasoning; a signature is state of the part that carried it, or that it follows."""
    result = read("thoughts-and-signatures")

    assert result.shape() == [("reasoning", "Let me think. Yes.", COMPLETE), ("text", "It is moss.", COMPLETE)]
    assert [signature(part) for part in result.parts.values()] == ["c2lnLTE=", "c2lnLTI="]


def test_signature_with_nothing_before_it():
    """Reasoning without text."""
    result = read("signature-alone")

    assert result.shape() == [("reasoning", "", COMPLETE), ("text", "Moss.", None)]
    assert signature(next(iter(result.parts.values()))) == "c2lnLTE="


def test_signatures_of_the_providers_own_tools():
    """They belong to parts that are none of ours, and go with no other: Gemini wants each back where it was."""
    result = read("signature-of-code")

    assert result.shape() == [("text", "Let me count. Two.", None)]
    assert [part.state for part in result.parts.values()] == [None]
    assert result.ignored == ["part executableCode", "part codeExecutionResult", "part toolCall"]


def test_whole_calls():
    """Each is complete at once; ids are ours where there is none, the same each time."""
    result = read("calls")
    ids = [call[0] for call in result.calls()]

    assert [call[1:] for call in result.calls()] == [
        ("find", '{"q":"moss","n":[1,2.5]}'),
        ("open", "{}"),
        ("list", "{}"),
    ]
    assert [end for _, _, end in result.shape()] == [COMPLETE] * 4
    assert (ids[1], len(set(ids))) == ("own-1", 3)
    assert result.calls() == read("calls").calls()
    assert signature(list(result.parts.values())[1]) == "c2lnLTE="


def test_ids_differ_between_answers_that_have_no_name():
    """The first chunk tells them apart."""

    def call_id(text: str) -> str:
        parts = [{"text": text}, {"functionCall": {"name": "f", "args": {}}}]
        return parsed(json.dumps([{"candidates": [{"content": {"parts": parts}}]}]).encode()).calls()[0][0]

    assert call_id("a") == call_id("a")
    assert call_id("a") != call_id("b")


def test_streamed_call():
    """Leaves by their paths become JSON text that only grows."""
    result = read("streamed-call")
    pieces = [
        event.payload.arguments
        for event in early_events("streamed-call")
        if isinstance(event, PartDelta) and event.payload is not None and hasattr(event.payload, "arguments")
    ]

    [(_, name, arguments)] = result.calls()
    assert (name, json.loads(arguments)) == (
        "paint",
        {"place": {"city": 'Paris "1"', "zip code": None}, "tags": [{"n": 50}, {"n": 0.5}], "wet": True},
    )
    assert pieces[1] == '{"place":{"city":"Pa'
    assert [end for _, _, end in result.shape()] == [COMPLETE]
    assert finishes(result) == [(FinishReason.TOOL_CALLS, "STOP")]


def test_streamed_calls_that_do_not_say_where_they_end():
    """A piece that does not go on, another call, or the finish."""
    result = read("streamed-calls-without-an-end")

    assert [call[1:] for call in result.calls()] == [("a", '{"x":"1"}'), ("b", '{"y":"2"}'), ("c", "{}")]
    assert [end for _, _, end in result.shape()] == [COMPLETE] * 3


def test_streamed_call_that_goes_back_is_no_json():
    """What was written cannot be changed, so the engine finds it malformed."""
    [(_, _, arguments)] = read("streamed-call-that-goes-back").calls()

    assert arguments == '{"x":{"y":1},"z":2'


def test_streamed_call_that_is_cut_stays_open():
    """The limit ended it, the model did not."""
    result = read("cut-call")

    assert result.shape() == [("tool_call", '{"x":"lo', None)]
    assert finishes(result) == [(FinishReason.LENGTH, "MAX_TOKENS")]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$.a.b", ["a", "b"]),
        ('$[\'a b\']["c\\"d"][0].e', ["a b", 'c"d', 0, "e"]),
        ("$", []),
        ("", []),
        ("a.b", []),
        ("$.a[", []),
        ("$..a", []),
    ],
)
def test_paths(path: str, expected: list[Segment]):
    """As RFC 9535 writes the way to one place."""
    assert parse_path(path) == expected


@pytest.mark.parametrize(
    "partials",
    [
        [{"jsonPath": "$.a[1]", "numberValue": 1}],
        [{"jsonPath": "$[0]", "numberValue": 1}],
        [{"jsonPath": "$.a", "numberValue": 1}, {"jsonPath": "$.a", "numberValue": 2}],
        [{"jsonPath": "$.a[0]", "numberValue": 1}, {"jsonPath": "$.a.b", "numberValue": 2}],
        [{"jsonPath": "nonsense", "stringValue": "x"}],
        [{"jsonPath": "$" + ".a" * 65, "stringValue": "x"}],
    ],
)
def test_paths_that_cannot_be_written(partials: list[dict[str, object]]):
    """Gaps, changes of mind, nonsense: the text is left without its end."""
    arguments = PartialArguments()

    text = "".join(arguments.add(partial) for partial in partials) + arguments.close()  # type: ignore[arg-type]

    assert arguments.is_broken
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(text)


def test_files():
    """Bytes and addresses are parts of their own."""
    result = read("blob")
    payloads = [event.payload for event in early_events("blob") if isinstance(event, PartDelta)]

    assert [kind for kind, _, _ in result.shape()] == ["text", "blob", "blob", "text"]
    assert [payload for payload in payloads if isinstance(payload, BlobDelta)] == [
        BlobDelta(mime_type="image/png", data=base64.b64decode("iVBORw0KGgo=")),
        BlobDelta(mime_type="video/mp4", url="https://files.example/v"),
    ]
    assert signature(list(result.parts.values())[1]) == "c2lnLTE="


def test_only_candidate_0_is_the_message():
    """The others are counted, also where their finish comes first."""
    result = read("two-candidates")

    assert result.text() == "one two"
    assert finishes(result) == [(FinishReason.STOP, "STOP")]
    assert result.ignored == ["candidate", "candidate"]


def test_odd_parts_do_no_harm():
    """What has no place is counted; null and odd types are nothing."""
    result = read("odd-parts")

    assert result.text() == "ok"
    assert result.ignored[:4] == [
        "part executableCode",
        "part codeExecutionResult",
        "part inlineData",
        "part without its file",
    ]


def test_half_characters_survive():
    """A pair of surrogates that two chunks share comes through as two halves, for the engine to join."""
    assert [part.text for part in read("surrogates").parts.values()] == ["\ud83c\udf43 ", '{"q":"\ud83c\udf43"}']


def test_citations():
    """Pages with the passages that they support, in bytes; repeated ones are told once."""
    twice = body_of("grounding").replace(b"STOP", b"FINISH_REASON_UNSPECIFIED") + body_of("grounding")
    result = read("grounding")
    [text] = result.parts.values()

    def annotation(kind: str, page: str, title: str, start: int | None, end: int | None) -> Annotation:
        return Annotation(type=kind, url=page, title=title, start_offset=start, end_offset=end)

    told = [
        annotation(each.type, each.url, each.title, each.start_offset, each.end_offset) for each in text.annotations
    ]
    assert told == [
        annotation("citation", "https://book.example", "", 2, 4),
        annotation("grounding", "https://a.example", "A", 0, 14),
        annotation("grounding", "https://b.example", "B", 0, 14),
        annotation("grounding", "https://a.example", "A", 15, 21),
        annotation("grounding", "gs://c", "C", None, None),
    ]
    assert json.loads(text.annotations[0].raw_json)["license"] == "mit"
    assert result.metadata == {"webSearchQueries": '["moss colour"]'}
    assert len(next(iter(parsed(twice).parts.values())).annotations) == 5


def test_logprobs():
    """With the text, and the candidates beside them."""
    [text] = read("logprobs").parts.values()

    assert text.logprobs == [
        TokenLogprob(
            token="H", logprob=-0.5, top=(TokenLogprob(token="H", logprob=-0.5), TokenLogprob(token="h", logprob=-1.5))
        ),
        TokenLogprob(token="i", logprob=-0.25),
    ]
