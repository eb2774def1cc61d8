"""What settings become when upstreams are assembled from them, the local model's too."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from midstream_server import assembly
from midstream_server.errors import InvalidSettings
from midstream_server.settings import ProfileSettings, Settings, UpstreamSettings
from midstream_server.upstreams.base import Upstream
from midstream_server.upstreams.http import HttpUpstream, HttpUpstreamConfig
from midstream_server.upstreams.local_upstream import LOCAL_PROFILE
from midstream_server.upstreams.profiles import PRESETS


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[HttpUpstreamConfig]:
    """The configuration of every HTTP upstream that is made."""
    made: list[HttpUpstreamConfig] = []

    def make(config: HttpUpstreamConfig, *arguments: Any) -> Upstream:
        made.append(config)
        return HttpUpstream(config, *arguments)

    monkeypatch.setattr(assembly, "HttpUpstream", make)
    return made


@asynccontextmanager
async def _assembled(**upstreams: UpstreamSettings) -> AsyncIterator[assembly.Upstreams]:
    async with assembly.assemble_upstreams(Settings(upstreams=upstreams)) as made:
        yield made


async def test_the_settings_of_the_local_model_count(configs: list[HttpUpstreamConfig]):
    """Profile, attempts, clocks, and the keys of all others, which no message may hold."""
    profile = ProfileSettings(finish_reason="optional", extra_body={"min_p": 0.1})
    clocks = {"connect_timeout": "2s", "first_token_timeout": "3s", "idle_timeout": "4s"}
    local = UpstreamSettings.model_validate({"dialect": "local", "profile": profile, "max_attempts": 1, **clocks})
    other = UpstreamSettings(dialect="openai-chat", base_url="http://127.0.0.1:9/v1", api_key=SecretStr("sk-1"))

    async with _assembled(local=local, other=other):
        [config] = [each for each in configs if each.name == "local"]

    assert not config.profile.finish_reason_required
    assert (config.max_attempts, config.secrets) == (1, ("sk-1",))
    assert (config.connect_seconds, config.first_token_seconds, config.idle_seconds) == (2.0, 3.0, 4.0)


async def test_fields_of_a_profile_are_added_to_those_of_its_default(configs: list[HttpUpstreamConfig]):
    """The local model goes on noticing a hang-up during the prompt; a preset keeps its own names of parameters."""
    fields = {"extra_body": {"min_p": 0.1}, "parameter_fields": {"seed": "s"}, "reasoning_history": "reasoning"}
    profile = ProfileSettings.model_validate(fields)
    local = UpstreamSettings(dialect="local", profile=profile)
    mistral = UpstreamSettings(dialect="openai-chat", preset="mistral", profile=profile)

    async with _assembled(local=local, mistral=mistral):
        found = {each.name: each.profile for each in configs}

    assert found["local"].extra_body == {**LOCAL_PROFILE.extra_body, "min_p": 0.1}
    assert found["mistral"].parameter_fields == {**PRESETS["mistral"].profile.parameter_fields, "seed": "s"}
    assert found["mistral"].reasoning_history == "reasoning"


async def test_what_a_stop_does_is_configured(configs: list[HttpUpstreamConfig]):
    """A hang-up, unless the profile says drain; then with caps. No preset drains: no provider says that one must."""
    profile = {"on_cancel": "drain", "drain_timeout": "90s", "drain_output_tokens": 5, "blocked_prompt_codes": ["no"]}
    endpoint = {"dialect": "openai-chat", "base_url": "http://127.0.0.1:9/v1"}
    drained = UpstreamSettings.model_validate({**endpoint, "profile": profile})

    async with _assembled(drained=drained, plain=UpstreamSettings.model_validate(endpoint)):
        found = {each.name: each.profile for each in configs}

    caps = [(each.on_cancel, each.drain_seconds, each.drain_output_tokens) for each in found.values()]
    assert caps == [("drain", 90.0, 5), ("abort", 60.0, 10_000)]
    assert found["drained"].blocked_prompt_codes == ("no",)
    assert {preset.profile.on_cancel for preset in PRESETS.values()} == {"abort"}


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (UpstreamSettings(dialect="openai-chat", preset="nobody"), "there is no preset nobody"),
        (UpstreamSettings(dialect="openai-chat", preset="azure"), "upstreams.x.base_url is missing"),
    ],
)
async def test_a_preset_that_leads_nowhere_is_told(settings: UpstreamSettings, word: str):
    """By the setting's name."""
    with pytest.raises(InvalidSettings) as caught:
        async with _assembled(x=settings):
            pass

    assert word in caught.value.message


def test_a_server_does_not_load_the_engine_of_the_local_model():
    """It is loaded in its own process: it is large, and a crash of it is not ours."""
    code = "import sys, midstream_server.app; print([name for name in ('xllamacpp', 'numpy') if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
