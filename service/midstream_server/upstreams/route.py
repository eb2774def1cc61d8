"""An alias: a route of models that are tried in order, until one has said something."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import structlog
from typing_extensions import override

from midstream_server.errors import FirstTokenTimeout, InvalidRequest, RunFailure
from midstream_server.model import ModelInfo, Prompt
from midstream_server.upstreams.base import (
    CallOptions,
    DrainCaps,
    StartedOver,
    Upstream,
    UpstreamBatch,
    UpstreamCall,
)
from midstream_server.upstreams.early_errors import PASSING_FAILURES, early_failure, has_output, split_ending
from midstream_server.upstreams.http_errors import RETRYABLE_STATUSES

_WORTH_ANOTHER = (FirstTokenTimeout, *PASSING_FAILURES)

_log = structlog.get_logger(__name__)


class Route(Upstream):
    """Stands for its upstreams under the name of an alias.

    Args:
        name: the alias.
        stops: upstreams, each with its own name for the model; at least one.
    """

    def __init__(self, name: str, stops: Sequence[tuple[Upstream, str]]) -> None:
        self.name = name
        self._stops = stops

    @override
    def call(self, model: str, prompt: Prompt, options: CallOptions) -> "RouteCall":
        """Prepares a call at every stop that can express the prompt; sends nothing. `model` is not read.

        Raises:
            InvalidRequest: none of them can; names what the first cannot.
        """
        calls: list[UpstreamCall] = []
        refusal: InvalidRequest | None = None
        for upstream, name in self._stops:
            if prompt.prefix is not None and not upstream.supports_continue:
                continue
            try:
                calls.append(upstream.call(name, prompt, options))
            except InvalidRequest as error:
                refusal = refusal or error
        if not calls and refusal is not None:
            raise refusal
        return RouteCall(self.name, calls)

    @property
    @override
    def supports_continue(self) -> bool:
        """Whether one of them goes on with a partial; the others are then left out."""
        return any(upstream.supports_continue for upstream, _ in self._stops)

    @override
    async def models(self) -> Sequence[ModelInfo]:
        """The alias itself."""
        route = tuple(f"{upstream.name}/{name}" for upstream, name in self._stops)
        return [ModelInfo(name=self.name, route=route, supports_continue=self.supports_continue)]


class RouteCall(UpstreamCall):
    """One generation, at the first stop that says something. One stop is called at a time."""

    def __init__(self, alias: str, calls: Sequence[UpstreamCall]) -> None:
        self._alias = alias
        self._calls = calls
        self._current = calls[0]
        self._is_aborted = False
        self._is_drained = False
        self._has_said = False
        self._has_output = False

    @override
    async def __aenter__(self) -> "RouteCall":
        """Opens nothing."""
        return self

    @override
    async def __aexit__(self, *exc_info: object) -> None:
        """Closes the connection, if one is open."""
        await self._current.__aexit__(*exc_info)

    @override
    async def batches(self) -> AsyncIterator[UpstreamBatch]:
        """The answer of the first stop that gives one.

        Raises:
            RunFailure: the last stop's, or one that came after output, or that another stop would not mend.
        """
        for call in self._calls:
            self._current = call
            try:
                async with call, aclosing(self._read(call)) as batches:
                    async for batch in batches:
                        if call is self._calls[-1] or self._has_output or (failed := early_failure(batch)) is None:
                            yield batch
                            continue
                        yield split_ending(batch)[0]
                        raise failed
                return
            except RunFailure as failure:
                if self._is_aborted:
                    return
                if call is self._calls[-1] or not self._may_go_on_after(failure):
                    raise
                _log.info("upstream.failover", model=self._alias, upstream=call.upstream, reason=failure.reason)
            if self._has_said:
                self._has_said = False
                yield UpstreamBatch(events=[StartedOver()], wire_bytes=0)
                if self._is_aborted:
                    return

    def _may_go_on_after(self, failure: RunFailure) -> bool:
        if self._has_output or self._is_drained or not isinstance(failure, _WORTH_ANOTHER):
            return False
        return (failure.http_status or 0) < 400 or failure.http_status in RETRYABLE_STATUSES

    async def _read(self, call: UpstreamCall) -> AsyncGenerator[UpstreamBatch, None]:
        async for batch in call.batches():
            self._has_said = True
            self._has_output = self._has_output or has_output(batch)
            yield batch

    @override
    def abort(self) -> None:
        """Closes the connection in this turn of the loop; no further stop is called."""
        self._is_aborted = True
        self._current.abort()

    @override
    def drain(self) -> DrainCaps | None:
        """As the current stop does; no further stop is called."""
        caps = None if self._is_aborted else self._current.drain()
        self._is_drained = caps is not None
        return caps

    @property
    @override
    def attempts(self) -> int:
        """How often upstreams were called, all stops together."""
        return sum(call.attempts for call in self._calls)

    @property
    @override
    def upstream(self) -> str:
        """The upstream of the current stop."""
        return self._current.upstream
