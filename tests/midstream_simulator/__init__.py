"""A model API that does what it is told: the upstream of tests, demos and benchmarks.

A real HTTP/1.1 server that controls every byte, chunk, FIN and RST. It speaks OpenAI Chat Completions
(POST /v1/chat/completions, GET /v1/models), OpenAI Responses (POST /v1/responses), Anthropic Messages
(POST /v1/messages), Gemini (POST /v1beta/models/…:streamGenerateContent), Ollama (POST /api/chat) and Cohere (POST
/v2/chat), plays a script for each request, and records what it sent and when its connection closed. Nothing in it
sleeps but for a pace that was asked for, on the event loop's clock.

In a test::

    async with Simulator() as simulator:
        simulator.play("m", [Role(), Text(["Hel", "lo"]), Gate("midway"), Text(["!"]), Finish()])
        ...                                    # call simulator.base_url + "/chat/completions"
        request = await simulator.received()   # the first request
        await request.reached("midway")
        request.release("midway")
        await request.closed()                 # request.closed_ns, .closed_by, .tokens_sent, .bytes_sent

In a process of its own: `PYTHONPATH=tests python -m midstream_simulator --port 0` prints
`simulator listening on HOST:PORT`. The admin API (see `admin`) does there what the methods do here; scripts are JSON,
a list of objects with a `step`: `[{"step": "text", "pieces": ["Hel", "lo"], "tokens_per_second": 50}, …]`, see `steps`.

Where no script was given, the model's name says what to do; rates are tokens per second, a piece is a token:

========================== ============================================================================================
`echo[-RATE]`              the last user message, word by word
`count-N[-RATE]`           `1 2 3 …` up to N
`reason-N[-RATE]`          N pieces of reasoning, then `Done.`
`refuse`                   a refusal in words
`tool-call[-RATE]`         calls the first tool of the request with `{"city": "Paris"}`, in four fragments
`stall`                    the first chunk (a role, no text), then silence
`stall-N`                  N tokens, then silence
`stall-headers`            not even headers
`cut-N`, `cut-chunk-N`     N tokens, then a FIN; inside an HTTP chunk
`reset-N`                  N tokens, then a RST
`error-STATUS`             an error answer with this status
`error-frame-N`            N tokens, then an error in the stream
`bench-nN-rRATE`           N tokens, each `T` and 16 hex digits: CLOCK_MONOTONIC in ns when it was sent; `r0`: flat out
========================== ============================================================================================

They stop at the request's `max_completion_tokens` (or `max_tokens`) with finish reason `length`, and report usage if
`stream_options` asks for it. A name that says nothing is answered with 404. Usage counts what was sent: a piece is a
token, the prompt has as many as words.
"""

from midstream_simulator.recording import GateNotReached, RecordedRequest
from midstream_simulator.server import Simulator
from midstream_simulator.steps import (
    Comment,
    Cut,
    Done,
    End,
    Error,
    Finish,
    Gate,
    Head,
    Raw,
    Reasoning,
    Refusal,
    Reset,
    Respond,
    Role,
    Script,
    Stall,
    Stamps,
    Step,
    Text,
    ToolCall,
    Usage,
    Wait,
    parse_script,
    streamed,
    words,
)

__all__ = [
    "Comment",
    "Cut",
    "Done",
    "End",
    "Error",
    "Finish",
    "Gate",
    "GateNotReached",
    "Head",
    "Raw",
    "Reasoning",
    "RecordedRequest",
    "Refusal",
    "Reset",
    "Respond",
    "Role",
    "Script",
    "Simulator",
    "Stall",
    "Stamps",
    "Step",
    "Text",
    "ToolCall",
    "Usage",
    "Wait",
    "parse_script",
    "streamed",
    "words",
]
