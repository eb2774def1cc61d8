"""The reasoning of a Chat Completions delta, which relatives put in three places, and its state."""

from midstream_server.model import JsonValue, ProviderState
from midstream_server.upstreams.wire.json_text import as_list, as_object, as_text, encode_json

DETAILS = "reasoning_details"
_MAX_STATE_CHARACTERS = 1024 * 1024
_TEXT_FIELDS = ("text", "summary")
_STATE_FIELDS = ("signature", "data")


def reasoning_text(delta: dict[str, JsonValue]) -> str:
    """The reasoning of a delta, once: several fields may repeat it.

    `reasoning_content`: DeepSeek, vLLM, llama.cpp, https://api-docs.deepseek.com/guides/reasoning_model;
    `reasoning` and `reasoning_details`: https://openrouter.ai/docs/use-cases/reasoning-tokens.
    """
    for field in ("reasoning_content", "reasoning"):
        if text := as_text(delta.get(field)):
            return text
    return "".join(_detail_text(as_object(each)) for each in as_list(delta.get("reasoning_details")))


def thinking_text(item: dict[str, JsonValue]) -> str:
    """The text of a typed content item of type `thinking` or `reasoning`: a string, or a list of texts (Mistral)."""
    value = item.get("thinking") or item.get("reasoning") or item.get("text") or item.get("summary")
    if isinstance(value, list):
        return "".join(each if isinstance(each, str) else as_text(as_object(each).get("text")) for each in value)
    return as_text(value)


class ReasoningState:
    """Collects `reasoning_details`, which must go back unchanged if they are signed or encrypted."""

    def __init__(self, dialect: str, history_field: str) -> None:
        self._dialect = dialect
        self.mark = None if history_field in ("", DETAILS) else self._state({"field": history_field})
        """The state of reasoning whose text alone must go back."""
        self._details: list[dict[str, JsonValue]] = []
        self._size = 0

    def add(self, details: JsonValue) -> ProviderState | None:
        """The state with these details, if they bring a signature or encrypted data."""
        is_new_state = False
        for each in as_list(details):
            if isinstance(each, dict):
                self._size += sum(len(as_text(each.get(field))) for field in (*_TEXT_FIELDS, *_STATE_FIELDS)) + 64
                if self._size > _MAX_STATE_CHARACTERS:
                    return None
                self._merge(each)
                is_new_state = is_new_state or any(as_text(each.get(field)) for field in _STATE_FIELDS)
        if not is_new_state:
            return None
        return self._state(self._details)

    def _state(self, value: object) -> ProviderState:
        return ProviderState(dialect=self._dialect, data=encode_json(value).encode("utf-8", "replace"))

    def _merge(self, detail: dict[str, JsonValue]) -> None:
        last = self._details[-1] if self._details else None
        if last is None or (last.get("type"), last.get("index")) != (detail.get("type"), detail.get("index")):
            self._details.append(dict(detail))
            return
        for field, value in detail.items():
            if field in _TEXT_FIELDS or field == "data":
                last[field] = as_text(last.get(field)) + as_text(value)
            elif value is not None:
                last[field] = value


def _detail_text(detail: dict[str, JsonValue]) -> str:
    return next((text for field in _TEXT_FIELDS if (text := as_text(detail.get(field)))), "")
