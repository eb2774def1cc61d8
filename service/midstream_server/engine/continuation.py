"""`continue_from`: the partial of an ended run as the beginning of the answer."""

from dataclasses import replace

from midstream_server.engine.directory import RunDirectory
from midstream_server.errors import ContinueUnsupported, RunLive
from midstream_server.model import (
    JsonSchemaFormat,
    Message,
    Part,
    PartState,
    Prompt,
    Reasoning,
    Role,
    Run,
    RunKey,
    RunSpec,
    Text,
)

_MAX_CHAIN = 64
"""How many runs may each continue the one before."""


async def prompt_with_prefix(directory: RunDirectory, tenant: str, spec: RunSpec) -> Prompt:
    """The prompt, with all text of the runs that this one continues as its prefix; without one if there is none.

    Raises:
        RunNotFound, RunExpired: a run of the chain cannot be read.
        RunLive: it has not ended.
        ContinueUnsupported: its message, or the form of the answer, cannot be gone on with.
    """
    if isinstance(spec.prompt.parameters.response_format, JsonSchemaFormat):
        raise ContinueUnsupported("an answer that must fit a JSON schema cannot be continued")
    texts: list[str] = []
    run_id = spec.continue_from
    for _ in range(_MAX_CHAIN):
        run = await directory.read(RunKey(tenant, run_id))
        texts.append(_text(run))
        run_id = run.continued_from
        if not run_id:
            break
    else:
        raise ContinueUnsupported(f"more than {_MAX_CHAIN} runs continue each other")
    text = "".join(reversed(texts))
    if not text:
        return spec.prompt
    prefix = Message(role=Role.ASSISTANT, parts=(Part(content=Text(text=text)),))
    return replace(spec.prompt, prefix=prefix)


def _text(run: Run) -> str:
    """The text of an ended run."""
    if not run.state.is_ending:
        raise RunLive(f"run {run.run_id} has not ended")
    pieces: list[str] = []
    for part in run.message.parts if run.message else ():
        match part.content:
            case Text(text=text):
                pieces.append(text)
            case Reasoning() if part.state is PartState.COMPLETE:
                continue
            case _:
                raise ContinueUnsupported(f"run {run.run_id} has more than text and whole reasoning")
    return "".join(pieces)
