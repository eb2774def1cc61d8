"""Chat Completions streams as events: https://platform.openai.com/docs/api-reference/chat-streaming.

`ChatRules` say what a chunk means; `ChoiceReader` (`choice`) turns the deltas of choice 0 into parts. Most chunks are a
piece of text or reasoning and nothing else: those are decoded into `_TextChunk`, and whatever does not fit takes the
general path.
"""

from typing import Literal

import msgspec

from midstream_server.errors import RunFailure, UpstreamUnavailable
from midstream_server.model import FinishReason, JsonValue, Usage
from midstream_server.upstreams.answer import Answer
from midstream_server.upstreams.base import MetadataReported, Profile
from midstream_server.upstreams.openai.annotations import CitationList
from midstream_server.upstreams.openai.errors import failure_of_frame, find_error
from midstream_server.upstreams.openai.usage import as_final, find_usage
from midstream_server.upstreams.openai_chat.choice import ChoiceReader
from midstream_server.upstreams.openai_chat.reasoning import ReasoningState
from midstream_server.upstreams.wire.frame import Frame
from midstream_server.upstreams.wire.json_text import as_list, as_object, as_text, encode_json, plain_decoder

_FINISH_REASONS = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "eos", "eos_token", "complete"), FinishReason.STOP),
    **dict.fromkeys(
        ("length", "max_tokens", "model_length", "model_context_window_exceeded"),
        FinishReason.LENGTH,
    ),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), FinishReason.TOOL_CALLS),
    **dict.fromkeys(("content_filter", "sensitive", "safety", "recitation"), FinishReason.CONTENT_FILTER),
    "refusal": FinishReason.REFUSAL,
}
"""In any case of letters, and with the words that relatives keep from elsewhere: Mistral's `model_length`, Together's
`eos`, Z.ai's `sensitive`, and those of models behind a gateway: https://docs.mistral.ai/api/,
https://docs.together.ai/reference, https://docs.z.ai/api-reference/llm/chat-completion."""
_BROKEN = ("error", "insufficient_system_resource", "network_error", "abort", "aborted")
"""https://docs.mistral.ai/api/, https://openrouter.ai/docs/api-reference/errors; DeepSeek:
https://api-docs.deepseek.com/api/create-chat-completion; Z.ai, as above; vLLM and SGLang when they shut down."""
_METADATA = ("system_fingerprint", "service_tier", "provider")
_FIELDS = ("usage", "timings", "x_groq", "citations", "search_results")
"""What a chunk without choices may bring."""
_MAX_URL_BYTES = 256
_MAX_LATE_CITATIONS = 16


class _TextDelta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    annotations: None = None
    images: None = None
    audio: None = None


class _TextChoice(msgspec.Struct):
    delta: _TextDelta
    index: Literal[0] = 0
    finish_reason: None = None
    logprobs: None = None
    usage: None = None
    error: None = None


class _TextChunk(msgspec.Struct):
    choices: tuple[_TextChoice]
    id: str | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None
    provider: str | None = None
    object: str | None = None
    usage: None = None
    error: None = None
    timings: None = None
    x_groq: None = None
    citations: None = None
    search_results: None = None


_decode_text_chunk = plain_decoder(_TextChunk)


class ChatRules:
    """The `AnswerRules` of Chat Completions."""

    def __init__(self, dialect: str, profile: Profile) -> None:
        self._choice = ChoiceReader(ReasoningState(dialect, profile.reasoning_history))
        self._citations = CitationList()
        self._head: tuple[object, ...] = ()
        self._usage: Usage | None = None

    def read_plain(self, frame: Frame, answer: Answer) -> bool:
        """A chunk that brings text or reasoning, and nothing new besides."""
        if frame.name:
            return False
        chunk = _decode_text_chunk(frame.data)
        if chunk is None:
            return False
        head = (chunk.id, chunk.model, chunk.system_fingerprint, chunk.service_tier, chunk.provider)
        if head != self._head or chunk.object == "error" or answer.is_done:
            return False
        delta = chunk.choices[0].delta
        reasoning = delta.reasoning_content or delta.reasoning
        if reasoning:
            self._choice.add_reasoning(reasoning, answer.events)
        if delta.content:
            self._choice.add_text(delta.content, answer.events)
        return True

    def read(self, kind: str, value: dict[str, JsonValue], answer: Answer) -> bool:
        """A chunk: https://platform.openai.com/docs/api-reference/chat-streaming/streaming."""
        choices = as_list(value.get("choices"))
        self._read_head(value, answer)
        first: dict[str, JsonValue] = {}
        for each in choices:
            if isinstance(each, dict) and each.get("index") in (None, 0, "", "0"):
                first = each
                self._read_choice(each, answer)
            else:
                answer.ignore("choice")
        self._read_citations(value, answer)
        finish = as_text(first.get("finish_reason"))
        is_finishing = finish not in ("", "null")
        error = self.find_error(value)
        self._read_usage(value, first, is_finishing or bool(error), answer)
        if is_finishing and not answer.is_finished:
            self._finish(finish, error, answer)
        return "choices" in value or any(value.get(field) for field in _FIELDS)

    def find_error(self, value: JsonValue) -> JsonValue:
        """The error in a chunk, or None; some relatives say with a type that all of it is one.

        Groq says in words of its own why it broke off: https://console.groq.com/docs/api-reference#chat-create.
        """
        fields = as_object(value)
        in_words = as_object(fields.get("x_groq")).get("error") or None
        return find_error(value) or (value if fields.get("type") == "error" else in_words)

    def failure_of(self, error: JsonValue, answer: Answer) -> RunFailure:
        """The failure that an error means."""
        return failure_of_frame(error)

    def settle(self, answer: Answer) -> None:
        """The last account is the closing one."""
        if answer.is_finished and self._usage is not None:
            answer.report(as_final(self._usage))

    def _read_choice(self, choice: dict[str, JsonValue], answer: Answer) -> None:
        """Some repeat an empty one after the finish, beside the account: https://openrouter.ai/docs/use-cases/usage-accounting."""
        if not answer.is_finished:
            self._choice.read(choice, answer.events)
        elif any(value for name, value in as_object(choice.get("delta")).items() if name != "role"):
            answer.ignore("choice after its finish reason")

    def _finish(self, word: str, error: JsonValue, answer: Answer) -> None:
        """https://platform.openai.com/docs/api-reference/chat-streaming/streaming#choices-finish_reason.

        A model that waits for tools may stop like any other, as OpenAI's does where the request names the tool, and so
        does one that declines. Some relatives have a word for an answer that broke, with an error beside it or without.
        """
        if word.lower() not in _BROKEN:
            reason = _FINISH_REASONS.get(word.lower(), FinishReason.OTHER)
            answer.finish(self._reason_to_stop() if reason is FinishReason.STOP else reason, word)
            return
        answer.finish(None, word)
        if not error:
            answer.fail(UpstreamUnavailable("the upstream broke its answer off", provider_code=word))

    def _reason_to_stop(self) -> FinishReason:
        if self._choice.has_calls:
            return FinishReason.TOOL_CALLS
        return FinishReason.REFUSAL if self._choice.has_refusal else FinishReason.STOP

    def _read_head(self, chunk: dict[str, JsonValue], answer: Answer) -> None:
        """What the upstream says of itself, and facts beside the message."""
        self._head = tuple(chunk.get(field) for field in ("id", "model", *_METADATA))
        self._choice.identify(as_text(chunk.get("id")))
        answer.identify(chunk.get("id"), chunk.get("model"))
        groq_id = as_object(chunk.get("x_groq")).get("id")
        answer.tell({**{field: chunk.get(field) for field in _METADATA}, "x_groq.id": groq_id})

    def _read_citations(self, chunk: dict[str, JsonValue], answer: Answer) -> None:
        """To the text, or beside the message where they come after its end (xAI)."""
        pages = self._citations.new(chunk)
        if not answer.is_finished:
            self._choice.annotate(pages, answer.events)
        elif pages:
            urls = [page.url for page in pages[:_MAX_LATE_CITATIONS] if len(page.url) <= _MAX_URL_BYTES]
            answer.events.append(MetadataReported(metadata={"citations": encode_json(urls)}))

    def _read_usage(
        self, chunk: dict[str, JsonValue], choice: dict[str, JsonValue], is_last: bool, answer: Answer
    ) -> None:
        """The last account wins; it is a running one until the answer ends, and so is one that comes before any.

        What it costs is a number (OpenRouter), or a sum: https://docs.perplexity.ai/api-reference/chat-completions-post.
        """
        usage = find_usage(chunk, choice)
        if usage is None:
            return
        is_final = is_last or answer.is_finished
        self._usage = as_final(usage) if is_final else usage
        answer.report(self._usage)
        cost = as_object(chunk.get("usage")).get("cost")
        cost = as_object(cost).get("total_cost", cost)
        if is_final and isinstance(cost, int | float) and not isinstance(cost, bool):
            answer.tell({"usage.cost": format(cost, ".12g")})
