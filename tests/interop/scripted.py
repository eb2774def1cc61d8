"""A server from the future: it sends kinds that today's contract does not know, as the scenario `forward_rule` says."""

from google.protobuf.internal import encoder

from midstream.v1 import run_pb2
from rpc.scripted_server import ScriptedServer

_UNKNOWN_FIELD = 500


def future_server() -> ScriptedServer:
    """Answers every stream with a log that holds an unknown event, an unknown payload and an unknown part."""
    return ScriptedServer(_log())


def _log() -> list[run_pb2.RunEvent]:
    first = run_pb2.MessageDelta(text="ab", part_end=run_pb2.PART_STATE_COMPLETE)
    unknown = run_pb2.MessageDelta(part_index=1, part_end=run_pb2.PART_STATE_COMPLETE)
    unknown.MergeFromString(_unknown())
    last = run_pb2.MessageDelta(part_index=2, text="cd", part_end=run_pb2.PART_STATE_COMPLETE)
    event = run_pb2.RunEvent(sequence=3)
    event.MergeFromString(_unknown())
    return [
        run_pb2.RunEvent(sequence=1, started=run_pb2.RunStarted(run_id="future", model="future/model")),
        run_pb2.RunEvent(sequence=2, delta=first),
        event,
        run_pb2.RunEvent(sequence=4, delta=unknown),
        run_pb2.RunEvent(sequence=5, delta=last),
        run_pb2.RunEvent(sequence=6, finished=run_pb2.RunFinished(run=_run())),
    ]


def _run() -> run_pb2.Run:
    unknown = run_pb2.Part(state=run_pb2.PART_STATE_COMPLETE)
    unknown.MergeFromString(_unknown())
    texts = [run_pb2.Part(text=run_pb2.Text(text=text), state=run_pb2.PART_STATE_COMPLETE) for text in ("ab", "cd")]
    return run_pb2.Run(
        run_id="future",
        state=run_pb2.RUN_STATE_COMPLETED,
        finish_reason=run_pb2.FINISH_REASON_STOP,
        last_sequence=6,
        message=run_pb2.Message(role=run_pb2.ROLE_ASSISTANT, parts=[texts[0], unknown, texts[1]]),
    )


def _unknown() -> bytes:
    """A field of bytes with a number that no message has."""
    head: bytes = encoder.TagBytes(_UNKNOWN_FIELD, 2)
    return head + b"\x03new"
