"""The client, for threads."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client._channel import SyncTransport, metadata_of
from midstream_client._requests import (
    DEFAULT_GRACE_SECONDS,
    GenerateOptions,
    ListFilters,
    cancel_request,
    generate_request,
    get_request,
    list_request,
    resume_seconds_of,
    watch_request,
)
from midstream_client._resume import Follower
from midstream_client._status import error_of_call
from midstream_client.enums import MessageView, RunState
from midstream_client.errors import StreamClosed
from midstream_client.messages import Messages
from midstream_client.results import CancelResult, cancel_result_of
from midstream_client.stream import RunStream

DEFAULT_CANCEL_WAIT_SECONDS = 5.0
MAX_WAIT_SECONDS = 60.0
"""The longest wait of one call."""
MIN_PAUSE_SECONDS = 0.1
"""Between two of them, should the server answer before the wait is over: one that goes away may."""

_Response = TypeVar("_Response")


class Client:
    """Runs generations on a Midstream server. Threads may share it.

    Args:
        target: `host:port`, or any name that gRPC resolves.
        api_key: Sent with every call as a bearer token.
        credentials: Of the channel (`grpc.ssl_channel_credentials()`); None is plain text.
        request_seconds: How long a call that follows nothing may take, its own waiting not counted.
        resume_seconds: How long a lost connection is tried to be had again; 0 is not at all. Default: the run's grace,
            or 10 s.
    """

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        request_seconds: float = 10.0,
        resume_seconds: float | None = None,
    ) -> None:
        self._transport = SyncTransport(target, credentials, metadata_of(api_key))
        self._request_seconds = request_seconds
        self._resume_seconds = resume_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Streams that are open end with StreamClosed; their runs go by `on_detach`."""
        self._transport.close()

    def generate(self, model: str, messages: Messages, **options: Unpack[GenerateOptions]) -> RunStream:
        """A run of `model`, to be followed: `with client.generate(…) as run`. Nothing is sent before the block.

        Args:
            model: `<upstream>/<name>` or an alias.
            messages: A prompt, or the conversation so far.
            **options: See GenerateOptions.
        """
        request = generate_request(model, messages, options)
        return self._stream(request, resume_seconds_of(request), options.get("timeout"))

    def watch(
        self,
        run_id: str,
        *,
        after_sequence: int | None = None,
        from_snapshot: bool = False,
        claim: bool = False,
        timeout: float | None = None,
    ) -> RunStream:
        """A run that exists, to be followed: `with client.watch(run_id) as run`.

        Args:
            run_id: The run.
            after_sequence: Begin after this sequence; what came before is then missing in `text` until the end.
            from_snapshot: Begin with all so far, as one delta per part.
            claim: Hold a claim: leaving the block stops the run. Without it leaving never does.
            timeout: Seconds until DeadlineExceeded.
        """
        request = watch_request(run_id, after_sequence=after_sequence, from_snapshot=from_snapshot, claim=claim)
        return self._stream(request, DEFAULT_GRACE_SECONDS, timeout)

    def cancel(self, run_id: str, reason: str = "", wait: float | None = None) -> CancelResult:
        """Stops a run and returns it with its partial message. Repeated or too late, it changes nothing.

        Args:
            run_id: The run. It need not exist yet.
            reason: For people who look later, at most 512 bytes.
            wait: Seconds to wait for the ending, at most 60; None is 5, and 0 does not wait.
        """
        request = cancel_request(run_id, reason, wait)
        seconds = DEFAULT_CANCEL_WAIT_SECONDS if wait is None else wait
        return cancel_result_of(self._call(self._transport.control.Cancel, request, seconds))

    def get(
        self, run_id: str, *, view: MessageView = MessageView.AS_STREAMED, wait: float | None = None
    ) -> run_pb2.Run:
        """Returns a run with its message so far.

        Args:
            run_id: The run.
            view: How its message is shown; REPLAY is safe to send back to a model.
            wait: Seconds to wait for its ending, as many as you like; None does not wait.
        """
        deadline = time.monotonic() + (wait or 0.0)
        while True:
            left = min(MAX_WAIT_SECONDS, max(0.0, deadline - time.monotonic())) if wait is not None else None
            request = get_request(run_id, view, left)
            run: run_pb2.Run = self._call(self._transport.control.GetRun, request, left or 0.0)
            if RunState(run.state).is_ending or (now := time.monotonic()) >= deadline:
                return run
            time.sleep(min(MIN_PAUSE_SECONDS, deadline - now))

    def list(self, **filters: Unpack[ListFilters]) -> Iterator[run_pb2.Run]:
        """The runs without their messages, newest first, page after page.

        Args:
            **filters: See ListFilters.
        """
        page_token = ""
        while True:
            request = list_request(filters, page_token)
            response = self._call(self._transport.control.ListRuns, request)
            yield from response.runs
            if not (page_token := response.next_page_token):
                return

    def delete(self, run_id: str) -> None:
        """Deletes the content of a run that has ended."""
        self._call(self._transport.control.DeleteRun, generation_service_pb2.DeleteRunRequest(run_id=run_id))

    def models(self) -> generation_service_pb2.ListModelsResponse:
        """The models that the server knows by name, and the upstreams that did not tell theirs."""
        return self._call(self._transport.control.ListModels, generation_service_pb2.ListModelsRequest())

    def _stream(
        self,
        request: generation_service_pb2.GenerateRequest | generation_service_pb2.WatchRunRequest,
        resume_seconds: float,
        timeout: float | None,
    ) -> RunStream:
        seconds = resume_seconds if self._resume_seconds is None else self._resume_seconds
        follower = Follower(request, resume_seconds=seconds, timeout=timeout)
        return RunStream(self._transport, self, follower, self._request_seconds)

    def _call(self, method: Callable[..., _Response], request: object, wait_seconds: float = 0.0) -> _Response:
        if self._transport.is_closed:
            raise StreamClosed("the client is closed")
        try:
            return method(request, timeout=self._request_seconds + wait_seconds, metadata=self._transport.metadata)
        except grpc.RpcError as error:
            if self._transport.is_closed and error.code() is grpc.StatusCode.CANCELLED:
                raise StreamClosed("the client was closed") from None
            raise error_of_call(error) from error
