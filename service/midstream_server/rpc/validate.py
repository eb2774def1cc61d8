"""Checks every field of every request before anything is started. The limits are those of the contract's comments.

A check collects all that is wrong and raises it as one `InvalidRequest`.
"""

import math
import re
from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value

from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import run_pb2 as wire
from midstream_server.model import (
    ConversationPolicy,
    DetachAction,
    MessageView,
    ReasoningEffort,
    RunState,
    ToolChoiceMode,
)
from midstream_server.rpc.validate_messages import check_messages
from midstream_server.rpc.violations import Violations, keyed

MAX_WAIT_SECONDS = 60
MAX_PAGE_SIZE = 500
_MAX_GRACE_SECONDS = 600
_MAX_LIMIT_SECONDS = 3_600
_MAX_RETENTION_SECONDS = 30 * 24 * 3_600
_MAX_TOOLS = 512
_MAX_DESCRIPTION_BYTES = 64 * 1024
_MAX_STOPS = 16
_MAX_STOP_BYTES = 256
_MAX_TOP_LOGPROBS = 20
_MAX_LABELS = 32
_MAX_LABEL_KEY_BYTES = 63
_MAX_LABEL_VALUE_BYTES = 256
_MAX_REASON_BYTES = 512
_MAX_MODEL_NAME_BYTES = 256
_MAX_PROVIDER_OPTIONS_BYTES = 64 * 1024

_UPSTREAM = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def check_generate(request: service_wire.GenerateRequest) -> None:
    """Checks a GenerateRequest.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    violations = Violations()
    violations.identifier("run_id", request.run_id)
    _check_model(request.model, violations)
    check_messages(request.messages, violations)
    _check_tools(request, violations)
    _check_parameters(request.parameters, violations)
    _check_detach_policy(request.on_detach, violations)
    _check_limits(request.limits, violations)
    _check_relations(request, violations)
    _check_labels(request.labels, violations)
    if request.HasField("retention"):
        violations.duration("retention", request.retention, _MAX_RETENTION_SECONDS)
    _check_provider_options(request.provider_options, violations)
    violations.raise_any()


def check_watch(request: service_wire.WatchRunRequest) -> None:
    """Checks a WatchRunRequest.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    violations = Violations()
    _check_run_id(request.run_id, violations)
    if request.WhichOneof("start") == "from_snapshot" and not request.from_snapshot:
        violations.add("from_snapshot", "must be true if it is set")
    violations.raise_any()


def check_cancel(request: service_wire.CancelRequest) -> None:
    """Checks a CancelRequest.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    violations = Violations()
    _check_run_id(request.run_id, violations)
    violations.byte_length("reason", request.reason, maximum=_MAX_REASON_BYTES)
    if request.HasField("wait"):
        violations.duration("wait", request.wait, MAX_WAIT_SECONDS)
    violations.raise_any()


def check_get(request: service_wire.GetRunRequest) -> None:
    """Checks a GetRunRequest.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    violations = Violations()
    _check_run_id(request.run_id, violations)
    violations.known("message_view", request.message_view, MessageView)
    if request.HasField("max_wait"):
        violations.duration("max_wait", request.max_wait, MAX_WAIT_SECONDS)
        if not request.wait_until_finished:
            violations.add("max_wait", "is only for wait_until_finished")
    violations.raise_any()


def check_list(request: service_wire.ListRunsRequest) -> None:
    """Checks a ListRunsRequest, but for what its `page_token` holds.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    violations = Violations()
    violations.between("page_size", request.page_size, 0, MAX_PAGE_SIZE)
    violations.known("state", request.state, RunState)
    violations.identifier("conversation_id", request.conversation_id)
    violations.identifier("parent_run_id", request.parent_run_id)
    _check_labels(request.labels, violations)
    violations.raise_any()


def check_delete(request: service_wire.DeleteRunRequest) -> None:
    """Checks a DeleteRunRequest.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    violations = Violations()
    _check_run_id(request.run_id, violations)
    violations.raise_any()


def _check_run_id(value: str, violations: Violations) -> None:
    violations.require("run_id", value)
    violations.identifier("run_id", value)


def _check_model(model: str, violations: Violations) -> None:
    violations.require("model", model)
    upstream, slash, name = model.partition("/")
    if model and not _UPSTREAM.fullmatch(upstream):
        violations.add("model", f"must be <upstream>/<name> or an alias, where both match {_UPSTREAM.pattern}")
    if slash and not (name.isprintable() and name and not any(character.isspace() for character in name)):
        violations.add("model", "must have a name of printable characters without white space behind the slash")
    violations.byte_length("model", name, maximum=_MAX_MODEL_NAME_BYTES)


def _check_tools(request: service_wire.GenerateRequest, violations: Violations) -> None:
    if len(request.tools) > _MAX_TOOLS:
        violations.add("tools", f"must have at most {_MAX_TOOLS} tools")
    names: set[str] = set()
    for index, tool in enumerate(request.tools[:_MAX_TOOLS]):
        path = f"tools[{index}]"
        violations.function_name(f"{path}.name", tool.name)
        if tool.name in names:
            violations.add(f"{path}.name", "must be unique")
        names.add(tool.name)
        violations.byte_length(f"{path}.description", tool.description, maximum=_MAX_DESCRIPTION_BYTES)
        if tool.parameters_schema:
            violations.json_object(f"{path}.parameters_schema", tool.parameters_schema)
    _check_tool_choice(request.tool_choice, names, violations)


def _check_tool_choice(choice: service_wire.ToolChoice, names: set[str], violations: Violations) -> None:
    violations.known("tool_choice.mode", choice.mode, ToolChoiceMode)
    if choice.mode == service_wire.ToolChoice.MODE_TOOL:
        if choice.tool_name not in names:
            violations.add("tool_choice.tool_name", "must be the name of one of the tools")
    elif choice.tool_name:
        violations.add("tool_choice.tool_name", "is only for the mode TOOL")
    if choice.mode == service_wire.ToolChoice.MODE_REQUIRED and not names:
        violations.add("tool_choice.mode", "must not be REQUIRED without tools")


def _check_parameters(parameters: service_wire.GenerationParameters, violations: Violations) -> None:
    if parameters.HasField("max_output_tokens"):
        violations.at_least_one("parameters.max_output_tokens", parameters.max_output_tokens)
    if parameters.HasField("temperature"):
        violations.between("parameters.temperature", parameters.temperature, 0, 2)
    if parameters.HasField("top_p"):
        violations.above_zero("parameters.top_p", parameters.top_p, 1)
    if parameters.HasField("top_k"):
        violations.at_least_one("parameters.top_k", parameters.top_k)
    if parameters.HasField("presence_penalty"):
        violations.between("parameters.presence_penalty", parameters.presence_penalty, -2, 2)
    if parameters.HasField("frequency_penalty"):
        violations.between("parameters.frequency_penalty", parameters.frequency_penalty, -2, 2)
    if len(parameters.stop) > _MAX_STOPS:
        violations.add("parameters.stop", f"must have at most {_MAX_STOPS} sequences")
    for index, stop in enumerate(parameters.stop[:_MAX_STOPS]):
        violations.byte_length(f"parameters.stop[{index}]", stop, minimum=1, maximum=_MAX_STOP_BYTES)
    if parameters.HasField("top_logprobs"):
        violations.between("parameters.top_logprobs", parameters.top_logprobs, 0, _MAX_TOP_LOGPROBS)
        if not parameters.logprobs:
            violations.add("parameters.top_logprobs", "needs logprobs")
    _check_response_format(parameters.response_format, violations)
    _check_reasoning(parameters.reasoning, violations)


def _check_response_format(response_format: service_wire.ResponseFormat, violations: Violations) -> None:
    if response_format.HasField("json_schema"):
        path = "parameters.response_format.json_schema"
        violations.function_name(f"{path}.name", response_format.json_schema.name)
        violations.json_object(f"{path}.schema", response_format.json_schema.schema)


def _check_reasoning(reasoning: service_wire.GenerationParameters.Reasoning, violations: Violations) -> None:
    violations.known("parameters.reasoning.effort", reasoning.effort, ReasoningEffort)
    if reasoning.HasField("budget_tokens"):
        violations.at_least_one("parameters.reasoning.budget_tokens", reasoning.budget_tokens)


def _check_detach_policy(policy: wire.DetachPolicy, violations: Violations) -> None:
    violations.known("on_detach.action", policy.action, DetachAction)
    if policy.action == wire.DetachPolicy.ACTION_GRACE:
        violations.duration_above_zero("on_detach.grace", policy.grace, _MAX_GRACE_SECONDS)
    elif policy.HasField("grace"):
        violations.add("on_detach.grace", "is only for the action GRACE")


def _check_limits(limits: wire.RunLimits, violations: Violations) -> None:
    def check(field: str, value: Duration, present: bool) -> None:
        if present:
            violations.duration_above_zero(f"limits.{field}", value, _MAX_LIMIT_SECONDS)

    check("first_token", limits.first_token, limits.HasField("first_token"))
    check("idle", limits.idle, limits.HasField("idle"))
    check("total", limits.total, limits.HasField("total"))
    check("queue", limits.queue, limits.HasField("queue"))
    if limits.HasField("output_tokens"):
        violations.at_least_one("limits.output_tokens", limits.output_tokens)


def _check_relations(request: service_wire.GenerateRequest, violations: Violations) -> None:
    violations.identifier("conversation_id", request.conversation_id)
    violations.identifier("continue_from", request.continue_from)
    violations.identifier("parent_run_id", request.parent_run_id)
    violations.known("on_conflict", request.on_conflict, ConversationPolicy)
    if request.on_conflict > ConversationPolicy.ALLOW and not request.conversation_id:
        violations.add("on_conflict", "needs a conversation_id")


def _check_labels(labels: Mapping[str, str], violations: Violations) -> None:
    if len(labels) > _MAX_LABELS:
        violations.add("labels", f"must have at most {_MAX_LABELS} labels")
        return
    for key, value in labels.items():
        path = keyed("labels", key)
        if not 1 <= len(key.encode()) <= _MAX_LABEL_KEY_BYTES:
            violations.add(path, f"must have a key of 1 to {_MAX_LABEL_KEY_BYTES} bytes")
        violations.byte_length(path, value, maximum=_MAX_LABEL_VALUE_BYTES)


def _check_provider_options(options: Struct, violations: Violations) -> None:
    if options.ByteSize() > _MAX_PROVIDER_OPTIONS_BYTES:
        violations.add("provider_options", f"must have at most {_MAX_PROVIDER_OPTIONS_BYTES} bytes")
        return
    for key, value in options.fields.items():
        if not _is_json(value):
            violations.add(keyed("provider_options", key), "has a value without a kind, or a number that is not finite")


def _is_json(value: Value) -> bool:
    match value.WhichOneof("kind"):
        case "number_value":
            return math.isfinite(value.number_value)
        case "struct_value":
            return all(_is_json(each) for each in value.struct_value.fields.values())
        case "list_value":
            return all(_is_json(each) for each in value.list_value.values)
        case kind:
            return kind is not None
