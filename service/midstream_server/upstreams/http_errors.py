"""What went wrong over HTTP, as failures of a run. The words are ours: an exception's own may hold a key."""

import email.utils
import time
from collections.abc import Collection, Iterable, Mapping

import aiohttp
import httpx

from midstream_server.errors import (
    RunFailure,
    UpstreamMalformed,
    UpstreamRejected,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from midstream_server.upstreams.base import UpstreamBatch
from midstream_server.upstreams.http_exchange import BodyError

RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504, 529})
SEND_ERRORS = (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, UnicodeError, BodyError)
_REDACTED = "[redacted]"
_SHORTEST_PIECE = 4


class AttemptFailed(Exception):
    """One attempt at a call. Its words are safe to log, those of its failure are not."""

    def __init__(self, failure: RunFailure, *, retryable: bool) -> None:
        self.failure = failure
        self.retryable = retryable
        words = (failure.upstream, failure.reason, failure.http_status)
        super().__init__(" ".join(str(word) for word in words if word))


class EarlyFailure(AttemptFailed):
    """The answer of an attempt was an error frame before any output; `ending` is how it would end a run."""

    def __init__(self, failure: RunFailure, ending: UpstreamBatch) -> None:
        self.ending = ending
        super().__init__(failure, retryable=True)


def failure_of_send(error: Exception) -> AttemptFailed:
    """Why there is no answer."""
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ else error
    match cause:
        case aiohttp.ClientSSLError() | aiohttp.ClientConnectorCertificateError():
            return AttemptFailed(UpstreamUnavailable("no secure connection to the upstream"), retryable=False)
        case aiohttp.ClientConnectorError():
            return AttemptFailed(UpstreamUnavailable("cannot connect to the upstream"), retryable=True)
        case aiohttp.InvalidURL() | httpx.UnsupportedProtocol() | httpx.InvalidURL() | UnicodeError():
            return AttemptFailed(UpstreamUnavailable("the upstream's base_url cannot be called"), retryable=False)
        case aiohttp.ClientResponseError() | BodyError():
            return AttemptFailed(
                UpstreamMalformed("the upstream's answer is not HTTP as it should be"), retryable=False
            )
        case _:
            words = "the upstream closed the connection before it answered"
            return AttemptFailed(UpstreamUnavailable(words), retryable=True)


def is_blocked_prompt(failure: RunFailure, codes: Collection[str]) -> bool:
    """Whether an HTTP error says no more than that the provider's filter blocked the prompt."""
    is_blame = isinstance(failure, UpstreamRejected) and failure.http_status == 400
    return is_blame and failure.provider_code in codes


def is_disconnect(error: Exception) -> bool:
    """Whether the connection died under the request."""
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) else error
    return isinstance(cause, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError) and not isinstance(
        cause, aiohttp.ClientConnectorError
    )


def failure_of_body(lost_by: BaseException | None) -> RunFailure:
    """Why an answer that had begun broke off: a reset, an end that came too early, or bytes that make no sense."""
    match lost_by:
        case aiohttp.ServerDisconnectedError():
            return UpstreamTruncated("the upstream closed the connection before its answer was whole")
        case OSError():
            return UpstreamUnavailable("the connection to the upstream was reset")
        case _:
            return UpstreamMalformed("the body of the upstream's answer cannot be read")


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """How long the upstream asks to be left alone: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after.

    `retry-after-ms` is OpenAI's and Azure's.
    """
    value = headers.get("retry-after", "").strip()
    try:
        if milliseconds := headers.get("retry-after-ms"):
            seconds = float(milliseconds) / 1000
        elif value.replace(".", "", 1).isdigit():
            seconds = float(value)
        else:
            seconds = max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def as_failure_of(
    failure: RunFailure, upstream: str, secrets: Iterable[str], *, retry_after: float | None = None
) -> RunFailure:
    """The same failure with the upstream's name, and without the secrets."""
    secrets = [secret for secret in secrets if secret]
    return type(failure)(
        redact(failure.message, secrets),
        upstream=upstream,
        http_status=failure.http_status,
        provider_code=redact(failure.provider_code, secrets),
        retry_after_seconds=failure.retry_after_seconds if retry_after is None else retry_after,
    )


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets, nor the beginning of one at its end, where a long text was cut."""
    for secret in secrets:
        text = text.replace(secret, _REDACTED)
        for size in range(min(len(secret) - 1, len(text)), _SHORTEST_PIECE - 1, -1):
            if text.endswith(secret[:size]):
                text = text[:-size] + _REDACTED
                break
    return text
