"""The head of an answer, and the body of one that is no stream: an error, or what is said of a blocked prompt."""

import asyncio

import httpx

from midstream_server.errors import RunFailure, UpstreamMalformed, UpstreamTruncated
from midstream_server.model import FinishReason
from midstream_server.upstreams.base import Dialect, ModelFinished, UpstreamBatch, UpstreamFailed
from midstream_server.upstreams.early_errors import has_output, is_worth_repeating
from midstream_server.upstreams.http_config import HttpUpstreamConfig
from midstream_server.upstreams.http_errors import (
    RETRYABLE_STATUSES,
    AttemptFailed,
    is_blocked_prompt,
    retry_after_seconds,
)
from midstream_server.upstreams.http_exchange import BodyError, Exchange

_ERROR_BODY_BYTES = 64 * 1024
_ERROR_BODY_SECONDS = 5.0


async def check_answer(
    response: httpx.Response, exchange: Exchange, dialect: Dialect, config: HttpUpstreamConfig
) -> ModelFinished | None:
    """Lets only a stream of this dialect through. A finish: the prompt was blocked, and that is the whole answer.

    Raises:
        AttemptFailed: the answer is an error, or something else.
    """
    status = response.status_code
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if 200 <= status < 300 and status != 204 and (not media_type or media_type in dialect.content_types()):
        return None
    body = await _read_error_body(exchange)
    if status < 400:
        raise _misread(status, media_type, body, dialect, config)
    failure = dialect.map_error(status, body)
    if is_blocked_prompt(failure, config.profile.blocked_prompt_codes):
        return ModelFinished(reason=FinishReason.CONTENT_FILTER, raw=failure.provider_code)
    own = config.own(failure, retry_after=retry_after_seconds(response.headers))
    raise AttemptFailed(own, retryable=status in RETRYABLE_STATUSES)


def _misread(status: int, media_type: str, body: bytes, dialect: Dialect, config: HttpUpstreamConfig) -> AttemptFailed:
    """What an answer is that is neither an error status nor a stream: often an error as bare JSON."""
    parser = dialect.parser(config.profile)
    events = [*parser.feed(body), *parser.close()] if status < 300 else []
    failures = [event.failure for event in events if isinstance(event, UpstreamFailed)]
    if failures and not isinstance(failures[0], UpstreamTruncated | UpstreamMalformed):
        is_early = not has_output(UpstreamBatch(events=events, wire_bytes=0))
        return AttemptFailed(config.own(failures[0]), retryable=is_early and is_worth_repeating(failures[0]))
    return AttemptFailed(config.own(_nothing_to_read(status, media_type, body)), retryable=False)


def _nothing_to_read(status: int, media_type: str, body: bytes) -> RunFailure:
    if status >= 300:
        return UpstreamMalformed("the upstream answered with a redirect, which is not followed", http_status=status)
    if not body:
        return UpstreamTruncated("the upstream's answer is empty", http_status=status)
    what = media_type[:100] if media_type.isprintable() else "something else"
    return UpstreamMalformed(f"the upstream answered with {what} where a stream should be", http_status=status)


async def _read_error_body(exchange: Exchange) -> bytes:
    """As much of an error's body as comes soon; it only explains the status."""
    body = bytearray()
    try:
        async with asyncio.timeout(_ERROR_BODY_SECONDS):
            while len(body) < _ERROR_BODY_BYTES and (data := await exchange.read()):
                body += data
    except (TimeoutError, BodyError):
        pass
    return bytes(body[:_ERROR_BODY_BYTES])
