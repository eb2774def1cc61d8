"""A generation over HTTP.

An `HttpCall` opens its answer (connect, head, retries), then reads it through the dialect's parser, a batch per read.
It owns three things: the clock of its waiting, the exchange that is under way, and a cancel scope around what has no
connection yet. Who wants to stop it, the caller or the clock, closes the exchange's connection in the same turn of the
loop, or where there is none, ends the scope; the iteration then finds out by itself. An attempt lasts until the first
output: an error frame before that is tried again like the HTTP status that it stands for.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import httpx
import stamina
from typing_extensions import override

from midstream_server.errors import RunFailure, UpstreamTruncated, UpstreamUnavailable
from midstream_server.upstreams.base import (
    CallOptions,
    Dialect,
    DrainCaps,
    HttpRequest,
    MetadataReported,
    ModelFinished,
    StartedOver,
    StreamParser,
    UpstreamBatch,
    UpstreamCall,
    UpstreamEvent,
    UpstreamFailed,
)
from midstream_server.upstreams.early_errors import early_failure, has_output, is_worth_repeating, split_ending
from midstream_server.upstreams.http_answer import check_answer
from midstream_server.upstreams.http_cancel import RemoteCancel, cancel_remotely
from midstream_server.upstreams.http_clock import WaitClock
from midstream_server.upstreams.http_config import HttpUpstreamConfig, make_http_request
from midstream_server.upstreams.http_errors import (
    SEND_ERRORS,
    AttemptFailed,
    EarlyFailure,
    failure_of_body,
    failure_of_send,
    is_disconnect,
)
from midstream_server.upstreams.http_exchange import BodyError, Exchange, HttpClient

_REQUEST_ID_HEADERS = ("x-request-id", "request-id")


class HttpCall(UpstreamCall):
    """A generation over HTTP."""

    def __init__(
        self,
        config: HttpUpstreamConfig,
        dialect: Dialect,
        client: HttpClient,
        request: HttpRequest,
        options: CallOptions,
    ) -> None:
        self._config = config
        self._dialect = dialect
        self._client = client
        self._request = request
        self._options = options
        self._clock: WaitClock | None = None
        self._exchange: Exchange | None = None
        self._opening: asyncio.Timeout | None = None
        self._connecting: asyncio.Timeout | None = None
        self._remote_cancel = RemoteCancel("")
        self._retries = self._make_retries()
        self._attempt_under_way: stamina.Attempt | None = None
        self._is_aborted = False
        self._is_drained = False
        self._has_output = False
        self._blocked: ModelFinished | None = None
        self._attempts = 0

    @override
    async def __aenter__(self) -> "HttpCall":
        """Opens nothing."""
        return self

    @override
    async def __aexit__(self, *exc_info: object) -> None:
        """Closes the connection, if it is open, and stops an answer that goes on without it."""
        if self._clock is not None:
            self._clock.stop()
        await self._drop_exchange()
        if (request := self._remote_cancel.take_request()) is not None:
            http_request = make_http_request(self._client, self._config, self._dialect, request, "POST")
            await cancel_remotely(self._client, http_request, self._config.name)

    @property
    @override
    def attempts(self) -> int:
        """How often the upstream was called."""
        return self._attempts

    @property
    @override
    def upstream(self) -> str:
        """The name of the upstream."""
        return self._config.name

    @override
    def abort(self) -> None:
        """Closes the connection in this turn of the loop, in every position. Idempotent."""
        self._is_aborted = True
        self._interrupt()

    @override
    def drain(self) -> DrainCaps | None:
        """Lets the attempt under way go on without its reader, if the profile says that it is billed all the same."""
        profile, connecting = self._config.profile, self._connecting
        is_sent = self._exchange is not None and (connecting is None or connecting.when() is None)
        if profile.on_cancel != "drain" or not is_sent or self._is_stopped:
            return None
        self._is_drained = True
        return DrainCaps(seconds=profile.drain_seconds, output_tokens=profile.drain_output_tokens)

    @override
    async def batches(self) -> AsyncIterator[UpstreamBatch]:
        """The answer, a batch per read.

        Raises:
            RunFailure: there is none, it broke off, or it took too long.
        """
        assert self._clock is None, "a call is iterated once"
        self._clock = self._make_clock()
        has_said = False
        while not self._is_aborted:
            try:
                response = await self._open()
            except EarlyFailure as last:
                yield last.ending
                return
            if response is None:
                return
            if has_said:
                yield UpstreamBatch(events=[StartedOver()], wire_bytes=0)
            failed: EarlyFailure | None = None
            async with aclosing(self._answer(response)) as answer:
                async for batch in answer:
                    if (failure := self._early_failure(batch)) is not None:
                        batch, ending = split_ending(batch)
                        failed = EarlyFailure(failure, ending)
                    has_said = True
                    yield batch
            if failed is None:
                return
            await self._give_up_attempt(failed)

    async def _answer(self, response: httpx.Response) -> AsyncGenerator[UpstreamBatch, None]:
        """One answer to its end."""
        self._remote_cancel = RemoteCancel(self._config.profile.remote_cancel)
        parser = self._dialect.parser(self._config.profile)
        if events := _facts_of_head(response, self._config):
            yield UpstreamBatch(events=events, wire_bytes=0)
        if self._blocked is not None:
            yield self._batch([self._blocked], 0)
            return
        broken: BodyError | None = None
        while True:
            try:
                batch = await self._read_batch(parser)
            except BodyError as error:
                broken = error
                break
            if batch is None or self._is_aborted:
                break
            yield batch
            if batch.events and isinstance(batch.events[-1], UpstreamFailed):
                return
        if self._is_aborted:
            return
        if last := self._close(parser, broken):
            yield last
        self._raise_if_broken(broken, last)

    def _make_clock(self) -> WaitClock:
        config, options = self._config, self._options
        first_token = _smaller(config.first_token_seconds, options.first_token_seconds)
        return WaitClock(first_token, _smaller(config.idle_seconds, options.idle_seconds), self._interrupt)

    def _interrupt(self) -> None:
        """Ends whatever the iterating task waits for."""
        if self._exchange is not None and self._exchange.cut():
            return
        if self._opening is not None:
            self._opening.reschedule(asyncio.get_running_loop().time())

    # --- Opening -----------------------------------------------------------------------------------------------------

    async def _open(self) -> httpx.Response | None:
        """An answer that is a stream of this dialect; None if the call was aborted.

        Cancelling it closes the connection. Called again after an early error frame, it goes on with the retries.
        """
        assert self._clock is not None
        self._clock.start()
        response: httpx.Response | None = None
        try:
            async with asyncio.timeout(None) as self._opening:
                while response is None:
                    # Waits before every attempt but the first; raises the last failure when it is enough.
                    self._attempt_under_way = await anext(self._retries)
                    with self._attempt_under_way:
                        response = await self._attempt()
        except TimeoutError as error:
            if self._is_aborted:
                return None
            raise self._config.own(self._clock.failure()) from error
        except AttemptFailed as error:
            if self._is_aborted:
                return None
            if isinstance(error, EarlyFailure) and not self._clock.is_expired:
                raise
            failure = self._clock.failure() if self._clock.is_expired else error.failure
            raise self._config.own(failure) from error
        finally:
            self._opening = None
            self._clock.pause()
        return None if self._is_aborted else response

    def _make_retries(self) -> AsyncIterator[stamina.Attempt]:
        return aiter(
            stamina.retry_context(
                on=self._wait_before_retry,
                attempts=self._config.max_attempts,
                timeout=None,
                wait_initial=self._config.retry_initial_seconds,
                wait_max=self._config.retry_max_seconds,
                wait_jitter=self._config.retry_initial_seconds,
            )
        )

    def _early_failure(self, batch: UpstreamBatch) -> RunFailure | None:
        """The error frame for which another attempt is made."""
        failure = None if self._has_output else early_failure(batch)
        return failure if failure is not None and is_worth_repeating(failure) else None

    async def _give_up_attempt(self, failed: EarlyFailure) -> None:
        """The attempt that had an answer has failed after all."""
        assert self._attempt_under_way is not None
        with self._attempt_under_way:
            raise failed
        await self._drop_exchange()

    def _wait_before_retry(self, error: Exception) -> bool | float:
        """Whether to try again, and when, if the upstream said when."""
        assert self._clock is not None
        if not isinstance(error, AttemptFailed) or not error.retryable or self._is_stopped or self._is_drained:
            return False
        wait = error.failure.retry_after_seconds
        if wait is None:
            return True
        return wait if wait <= min(self._config.max_retry_after_seconds, self._clock.seconds_left) else False

    @property
    def _is_stopped(self) -> bool:
        return self._is_aborted or (self._clock is not None and self._clock.is_expired)

    async def _attempt(self) -> httpx.Response:
        try:
            response = await self._send()
            assert self._exchange is not None
            self._blocked = await check_answer(response, self._exchange, self._dialect, self._config)
        except BaseException:
            await self._drop_exchange()
            raise
        return response

    async def _send(self) -> httpx.Response:
        """The head of an answer. A pooled connection that turns out to be dead is replaced once, at once."""
        try:
            return await self._exchange_heads()
        except SEND_ERRORS as error:
            is_stale = self._exchange is not None and self._exchange.is_reused and is_disconnect(error)
            if not is_stale or self._is_stopped or self._is_drained:
                raise failure_of_send(error) from error
        await self._drop_exchange()
        try:
            return await self._exchange_heads()
        except SEND_ERRORS as error:
            raise failure_of_send(error) from error

    async def _exchange_heads(self) -> httpx.Response:
        self._attempts += 1
        request = make_http_request(self._client, self._config, self._dialect, self._request, "POST")
        exchange = self._exchange = Exchange(self._client, request, self._stop_connect_clock)
        try:
            async with asyncio.timeout(self._config.connect_seconds) as self._connecting:
                return await exchange.open()
        except TimeoutError as error:
            raise AttemptFailed(
                UpstreamUnavailable("cannot connect to the upstream in time"), retryable=True
            ) from error
        finally:
            self._connecting = None

    def _stop_connect_clock(self) -> None:
        if self._connecting is not None:
            self._connecting.reschedule(None)
        if self._is_stopped:
            self._interrupt()

    async def _drop_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.aclose()

    # --- Reading ---------------------------------------------------------------------------------------------------

    async def _read_batch(self, parser: StreamParser) -> UpstreamBatch | None:
        """What the next read gives; None at the end of the body. Cancelling it closes the connection.

        Raises:
            BodyError: the body broke off.
        """
        assert self._clock is not None
        exchange = self._exchange
        if exchange is None:
            return None
        before = exchange.wire_bytes
        self._clock.start()
        try:
            data = await exchange.read()
        except asyncio.CancelledError:
            exchange.cut()
            raise
        finally:
            self._clock.pause()
        if not data:
            return None
        return self._batch(parser.feed(data), exchange.wire_bytes - before)

    def _batch(self, events: list[UpstreamEvent], wire_bytes: int) -> UpstreamBatch:
        if events:
            self._remote_cancel.note(events)
            if isinstance(last := events[-1], UpstreamFailed):
                events[-1] = UpstreamFailed(failure=self._config.own(last.failure))
        batch = UpstreamBatch(events=events, wire_bytes=wire_bytes)
        if has_output(batch):
            assert self._clock is not None
            self._has_output = True
            self._clock.output()
        return batch

    def _close(self, parser: StreamParser, broken: BodyError | None) -> UpstreamBatch | None:
        """What the end of the body tells. Of a body that broke off it can only tell what was whole."""
        exchange = self._exchange
        if exchange is None or self._is_stopped:
            return None
        before = exchange.wire_bytes
        if broken is None and not self._was_reset(exchange):
            events = parser.close()
        else:
            events = [*parser.feed(exchange.leftover()), *(each for each in parser.close() if not _is_guess(each))]
        batch = self._batch(events, exchange.wire_bytes - before)
        return batch if events or batch.wire_bytes else None

    @staticmethod
    def _was_reset(exchange: Exchange) -> bool:
        return exchange.ends_with_connection and isinstance(exchange.lost_by(), OSError)

    def _raise_if_broken(self, broken: BodyError | None, last: UpstreamBatch | None) -> None:
        assert self._clock is not None
        if self._is_aborted:
            return
        if self._clock.is_expired:
            raise self._config.own(self._clock.failure()) from broken
        exchange = self._exchange
        if exchange is None or (last is not None and any(isinstance(event, UpstreamFailed) for event in last.events)):
            return
        if broken is not None or self._was_reset(exchange):
            raise self._config.own(failure_of_body(exchange.lost_by())) from broken


def _smaller(ours: float, theirs: float | None) -> float:
    return ours if theirs is None else min(ours, theirs)


def _is_guess(event: UpstreamEvent) -> bool:
    """Whether a parser says something only because it takes the end of the body for the end of the answer."""
    match event:
        case UpstreamFailed(failure=UpstreamTruncated()) | ModelFinished(raw=""):
            return True
        case _:
            return False


def _facts_of_head(response: httpx.Response, config: HttpUpstreamConfig) -> list[UpstreamEvent]:
    """The provider's id of the request, which its support asks for."""
    headers = response.headers
    facts = {name: config.redacted(value[:256]) for name in _REQUEST_ID_HEADERS if (value := headers.get(name))}
    return [MetadataReported(metadata=facts)] if facts else []
