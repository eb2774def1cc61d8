"""Partials as history: wherever an answer was cut, what is shown for replay is accepted as input (P10)."""

from pathlib import Path

import msgspec
import pytest

from midstream_server.accumulator import MessageAccumulator
from midstream_server.engine.assembler import MessageAssembler
from midstream_server.model import FinishReason, Message, Prompt, Run, RunState
from midstream_server.replay import replay_view
from midstream_server.upstreams.base import ModelFinished, PartDelta, Profile, UpstreamEvent
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from openai_responses_prompts import HELLO
from openai_responses_schema import ResponsesRequest

STREAMS = Path(__file__).resolve().parent.parent / "streams" / "openai_responses"
NAMES = sorted(path.stem for path in STREAMS.glob("*.sse"))


def _replayed(events: list[UpstreamEvent]) -> Message | None:
    """The REPLAY view of a run that was cut after these events."""
    assembler, accumulator = MessageAssembler(), MessageAccumulator()
    reason: FinishReason | None = None
    for event in events:
        if isinstance(event, PartDelta):
            for delta in assembler.add(event):
                accumulator.add(delta)
        elif isinstance(event, ModelFinished):
            reason = event.reason
    for delta in assembler.flush():
        accumulator.add(delta)
    message = accumulator.final_message(reason)
    run = Run(run_id="r", state=RunState.CANCELLED, create_time=0, finish_reason=reason, message=message)
    return replay_view(run).message


@pytest.mark.parametrize("name", NAMES)
def test_every_partial_goes_back_as_history(name: str):
    """After every event: known items only, whole calls only where the model finished for them, reasoning with state."""
    dialect = OpenAIResponsesDialect()
    events = dialect.parser(Profile()).feed((STREAMS / f"{name}.sse").read_bytes())

    for end in range(len(events) + 1):
        if (message := _replayed(events[:end])) is None:
            continue
        body = dialect.build_request("o3", Prompt(messages=(HELLO, message)), Profile()).body

        kinds = [each.__struct_config__.tag for each in msgspec.json.decode(body, type=ResponsesRequest).input]

        finished_for_calls = any(
            isinstance(event, ModelFinished) and event.reason is FinishReason.TOOL_CALLS for event in events[:end]
        )
        assert finished_for_calls or "function_call" not in kinds
        assert kinds[-1] != "reasoning"
