"""An attempt that failed before any output leaves nothing of itself in the run that another attempt answered."""

from engine_scenario import running_engine, text_of
from midstream_server.model import RunState, TokenCount, Usage, UsageSource
from midstream_server.upstreams.base import (
    EventIgnored,
    MetadataReported,
    ResponseStarted,
    StartedOver,
    UsageReported,
)
from scripted_upstream import finish, text

PROMPT = Usage(input=TokenCount(value=77, source=UsageSource.UPSTREAM_RUNNING))


async def test_what_a_failed_attempt_told_is_forgotten():
    """Its ids, its usage, its headers; what the next one tells counts."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(
            MetadataReported(metadata={"x-request-id": "req-1"}),
            ResponseStarted(upstream_request_id="one", upstream_model="m-1"),
            UsageReported(usage=PROMPT),
            EventIgnored(kind="odd"),
        )
        call.say(StartedOver())
        call.say(MetadataReported(metadata={"region": "north"}), text("Hello"), finish())
        call.end()
        run = await stream.rest()

        assert (run.state, text_of(run.message)) == (RunState.COMPLETED, "Hello")
        assert (run.upstream_request_id, run.upstream_model) == ("", "")
        assert run.provider_metadata == {"region": "north"}
        assert run.usage == Usage(output=TokenCount(value=2, source=UsageSource.ESTIMATED))
