"""Midstream client: stream a generation, stop it midstream, keep the partial text.

`Client` is for threads, `AsyncClient` for an event loop; they have the same methods. The messages of the contract
(`Message`, `Run`, …) are the generated ones.
"""

from midstream.v1.generation_service_pb2 import GenerationParameters, Model, ResponseFormat, Tool, ToolChoice
from midstream.v1.run_pb2 import DetachPolicy, Message, Part, Run, RunLimits, Usage
from midstream_client._requests import GenerateOptions, ListFilters
from midstream_client.aio import AsyncClient
from midstream_client.async_stream import AsyncRunStream
from midstream_client.client import Client
from midstream_client.deltas import Delta
from midstream_client.enums import (
    CancelOutcome,
    CancelReason,
    ConversationPolicy,
    FinishReason,
    MessageView,
    PartState,
    Role,
    RunState,
    UsageSource,
)
from midstream_client.errors import (
    ConnectionLost,
    DeadlineExceeded,
    FieldViolation,
    MidstreamClientError,
    RunFailed,
    StreamClosed,
    StreamGapError,
)
from midstream_client.messages import assistant, system, tool, tool_result, user
from midstream_client.results import CancelResult
from midstream_client.stream import RunStream

__all__ = [
    "AsyncClient",
    "AsyncRunStream",
    "CancelOutcome",
    "CancelReason",
    "CancelResult",
    "Client",
    "ConnectionLost",
    "ConversationPolicy",
    "DeadlineExceeded",
    "Delta",
    "DetachPolicy",
    "FieldViolation",
    "FinishReason",
    "GenerateOptions",
    "GenerationParameters",
    "ListFilters",
    "Message",
    "MessageView",
    "MidstreamClientError",
    "Model",
    "Part",
    "PartState",
    "ResponseFormat",
    "Role",
    "Run",
    "RunFailed",
    "RunLimits",
    "RunState",
    "RunStream",
    "StreamClosed",
    "StreamGapError",
    "Tool",
    "ToolChoice",
    "Usage",
    "UsageSource",
    "assistant",
    "system",
    "tool",
    "tool_result",
    "user",
]
