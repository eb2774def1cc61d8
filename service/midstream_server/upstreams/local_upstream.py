"""The upstream in front of the local engine: starts it when it is needed, and lets another upstream do the HTTP."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import replace

from typing_extensions import override

from midstream_server.errors import FirstTokenTimeout, ModelNotFound, UpstreamUnavailable
from midstream_server.model import ModelInfo, Prompt
from midstream_server.upstreams.base import CallOptions, DrainCaps, Upstream, UpstreamBatch, UpstreamCall
from midstream_server.upstreams.local import EngineAddress, LocalEngine
from midstream_server.upstreams.local_engine import MODEL
from midstream_server.upstreams.profiles import PRESETS

LOCAL_PROFILE = replace(PRESETS["llamacpp"].profile, extra_body={"return_progress": True})
"""What the engine does differently. `return_progress` makes it notice a hang-up during the prompt, and without
`Connection: close` one request in twenty meets a connection that it has closed without a word."""

UpstreamFactory = Callable[[str, str], Upstream]
"""An upstream of this base URL with this API key."""

_NOWHERE = EngineAddress("http://127.0.0.1:0/v1", "")


class LocalUpstream(Upstream):
    """`local/smollm2`.

    Args:
        name: the upstream's name.
        engine: started by the first call; whoever made it closes it.
        make_upstream: an upstream at the engine's address, in OpenAI's dialect with `LOCAL_PROFILE`.
    """

    def __init__(self, name: str, engine: LocalEngine, make_upstream: UpstreamFactory) -> None:
        self.name = name
        self._engine = engine
        self._make_upstream = make_upstream
        self._address = _NOWHERE
        self._upstream = make_upstream(_NOWHERE.base_url, _NOWHERE.api_key)

    @override
    def call(self, model: str, prompt: Prompt, options: CallOptions) -> UpstreamCall:
        """Prepares a call; starts nothing.

        Raises:
            ModelNotFound: the engine has one model only.
            InvalidRequest: the dialect cannot express the prompt.
        """
        if model != MODEL:
            raise ModelNotFound(f"{self.name} has only the model {MODEL}")
        self._upstream.call(model, prompt, options)  # Refuses what cannot be expressed, before the engine is up.
        return LocalCall(self, prompt, options)

    @property
    @override
    def supports_continue(self) -> bool:
        """It goes on with a partial."""
        return self._upstream.supports_continue

    @override
    async def models(self) -> Sequence[ModelInfo]:
        """Its one model. Does not start the engine."""
        name = f"{self.name}/{MODEL}"
        return [ModelInfo(name=name, upstream=self.name, dialect="openai-chat", supports_continue=True)]

    async def started(self, failure: UpstreamUnavailable | None = None) -> Upstream:
        """The upstream at the engine's address; starts the engine if it does not run.

        Cancelled, it leaves what `LocalEngine.start` leaves.

        Args:
            failure: of a call just now: another engine is started only if that was the end of the one before.

        Raises:
            UpstreamUnavailable: the engine cannot run, or `failure` was none of the engine's end.
        """
        if failure is not None and not await self._engine.has_died():
            raise failure
        address = await self._engine.start()
        if address != self._address:
            self._upstream = self._make_upstream(address.base_url, address.api_key)
            self._address = address
        return self._upstream


class LocalCall(UpstreamCall):
    """One generation: the start of the engine, if it needs one, then a call of the upstream at its address.

    `first_token_seconds` counts from before the start.
    """

    def __init__(self, upstream: LocalUpstream, prompt: Prompt, options: CallOptions) -> None:
        self._local = upstream
        self._prompt = prompt
        self._options = options
        self._inner: UpstreamCall | None = None
        self._starting: asyncio.Timeout | None = None
        self._aborted = asyncio.Event()
        self._is_drained = False
        self._has_output = False
        self._earlier_attempts = 0
        self._deadline: float | None = None

    @override
    async def __aenter__(self) -> "LocalCall":
        """Opens nothing."""
        return self

    @override
    async def __aexit__(self, *exc_info: object) -> None:
        """Closes the connection, if it is open."""
        if self._inner is not None:
            await self._inner.__aexit__(*exc_info)

    @override
    async def batches(self) -> AsyncIterator[UpstreamBatch]:
        """The answer. If the engine dies before it has said anything, another one is asked, once."""
        if (limit := self._options.first_token_seconds) is not None:
            self._deadline = asyncio.get_running_loop().time() + limit
        failure: UpstreamUnavailable | None = None
        while not self._aborted.is_set() and (inner := await self._reach(failure)) is not None:
            self._inner = inner
            await inner.__aenter__()
            batches = inner.batches()
            try:
                async for batch in batches:
                    self._has_output = True
                    yield batch
                return
            except UpstreamUnavailable as error:
                if self._has_output or self._aborted.is_set() or self._is_drained or failure is not None:
                    raise
                failure = error
            finally:
                if isinstance(batches, AsyncGenerator):
                    await batches.aclose()
            await inner.__aexit__(None, None, None)
            self._earlier_attempts, self._inner = inner.attempts, None

    @override
    def abort(self) -> None:
        """Closes the connection, or ends the wait for the engine; the engine goes on starting for the next call."""
        self._aborted.set()
        if self._inner is not None:
            self._inner.abort()
        elif self._starting is not None:
            self._starting.reschedule(asyncio.get_running_loop().time())

    @override
    def drain(self) -> DrainCaps | None:
        """As the upstream at the engine's address does."""
        caps = self._inner.drain() if self._inner is not None else None
        self._is_drained = caps is not None
        return caps

    async def _reach(self, failure: UpstreamUnavailable | None) -> UpstreamCall | None:
        """The call to make, once the engine runs. None: aborted meanwhile.

        Cancelled, it leaves what `LocalEngine.start` leaves.
        """
        try:
            async with asyncio.timeout_at(self._deadline) as self._starting:
                upstream = await self._local.started(failure)
        except (TimeoutError, UpstreamUnavailable) as error:
            if self._aborted.is_set():
                return None
            if isinstance(error, UpstreamUnavailable):
                raise
            words = "the local model's engine did not start in time"
            raise FirstTokenTimeout(words, upstream=self.upstream) from error
        finally:
            self._starting = None
        return None if self._aborted.is_set() else upstream.call(MODEL, self._prompt, self._options_from_now())

    def _options_from_now(self) -> CallOptions:
        if self._deadline is None:
            return self._options
        rest = max(0.0, self._deadline - asyncio.get_running_loop().time())
        return replace(self._options, first_token_seconds=rest)

    @property
    @override
    def attempts(self) -> int:
        """How often the engine was called."""
        return self._earlier_attempts + (self._inner.attempts if self._inner is not None else 0)

    @property
    @override
    def upstream(self) -> str:
        """The upstream's name."""
        return self._local.name
