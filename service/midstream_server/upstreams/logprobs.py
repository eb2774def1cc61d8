"""Log probabilities as OpenAI writes them, and Ollama after it."""

import math

from midstream_server.model import JsonValue, TokenLogprob
from midstream_server.upstreams.wire.json_text import as_list, as_object

_MAX_TOP = 32


def read_logprobs(tokens: JsonValue) -> tuple[TokenLogprob, ...]:
    """A list of tokens: https://platform.openai.com/docs/api-reference/chat-streaming, …/responses-streaming."""
    return tuple(token for each in as_list(tokens) if (token := _read_token(as_object(each))))


def _read_token(value: dict[str, JsonValue], nested: bool = False) -> TokenLogprob | None:
    token, logprob = value.get("token"), value.get("logprob")
    if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    if math.isnan(logprob):
        return None
    codes = [code for code in as_list(value.get("bytes")) if isinstance(code, int) and 0 <= code < 256]
    top = (
        ()
        if nested
        else tuple(
            each
            for item in as_list(value.get("top_logprobs"))[:_MAX_TOP]
            if (each := _read_token(as_object(item), nested=True))
        )
    )
    text = token.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return TokenLogprob(token=text, logprob=float(logprob), token_bytes=bytes(codes), top=top)
