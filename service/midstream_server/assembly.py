"""Upstreams from settings."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from midstream_server.errors import InvalidSettings
from midstream_server.settings import Settings, UpstreamSettings
from midstream_server.upstreams.anthropic import AnthropicDialect
from midstream_server.upstreams.base import Dialect, Profile, Upstream, UpstreamRegistry
from midstream_server.upstreams.cohere import CohereDialect
from midstream_server.upstreams.gemini import GeminiDialect
from midstream_server.upstreams.http import HttpUpstream, HttpUpstreamConfig
from midstream_server.upstreams.http_exchange import HttpClient
from midstream_server.upstreams.local import LocalEngine, LocalEngineOptions
from midstream_server.upstreams.local_upstream import LOCAL_PROFILE, LocalUpstream, UpstreamFactory
from midstream_server.upstreams.ollama import OllamaDialect
from midstream_server.upstreams.openai_chat import OpenAIChatDialect
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from midstream_server.upstreams.profiles import PRESETS, Preset
from midstream_server.upstreams.registry import ConfiguredUpstreams

DIALECTS: dict[str, Dialect] = {
    each.name: each
    for each in (
        OpenAIChatDialect(),
        OpenAIResponsesDialect(),
        AnthropicDialect(),
        GeminiDialect(),
        OllamaDialect(),
        CohereDialect(),
    )
}
"""Every wire grammar by the name that a configuration uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstreams:
    """All upstreams, and the engine of the local model, if it is configured."""

    registry: UpstreamRegistry
    local_engine: LocalEngine | None


@asynccontextmanager
async def assemble_upstreams(settings: Settings) -> AsyncIterator[Upstreams]:
    """The upstreams of these settings; leaving closes their connections and stops the local engine.

    Raises:
        InvalidSettings: a preset or a route leads nowhere.
    """
    secrets = tuple(each.api_key.get_secret_value() for each in settings.upstreams.values() if each.api_key)
    engine: LocalEngine | None = None
    upstreams: list[Upstream] = []
    async with AsyncExitStack() as stack:
        client = HttpClient()
        stack.push_async_callback(client.aclose)
        for name, each in settings.upstreams.items():
            if each.dialect == "local":
                engine = LocalEngine(LocalEngineOptions(threads=settings.local.threads), name=name)
                stack.push_async_callback(engine.close)
                upstreams.append(LocalUpstream(name, engine, _factory(name, each, client, secrets)))
            else:
                upstreams.append(HttpUpstream(_endpoint(name, each, secrets), DIALECTS[each.dialect], client))
        routes = {alias: each.route for alias, each in settings.models.items()}
        yield Upstreams(registry=ConfiguredUpstreams(upstreams, routes), local_engine=engine)


def _endpoint(name: str, settings: UpstreamSettings, secrets: tuple[str, ...]) -> HttpUpstreamConfig:
    preset = _preset(name, settings)
    base_url = settings.base_url or preset.base_url
    if not base_url:
        raise InvalidSettings(f"upstreams.{name}.base_url is missing; the preset {settings.preset} has none")
    return HttpUpstreamConfig(
        name=name,
        base_url=base_url,
        api_key=settings.api_key.get_secret_value() if settings.api_key else "",
        profile=_profile(preset.profile, settings),
        models=settings.models,
        connect_seconds=settings.connect_timeout,
        first_token_seconds=settings.first_token_timeout,
        idle_seconds=settings.idle_timeout,
        max_attempts=settings.max_attempts,
        secrets=secrets,
    )


def _preset(name: str, settings: UpstreamSettings) -> Preset:
    if not settings.preset:
        return Preset(base_url="")
    if settings.preset not in PRESETS:
        raise InvalidSettings(
            f"upstreams.{name}.preset: there is no preset {settings.preset}; there are {', '.join(sorted(PRESETS))}"
        )
    return PRESETS[settings.preset]


def _factory(name: str, settings: UpstreamSettings, client: HttpClient, secrets: tuple[str, ...]) -> UpstreamFactory:
    """Makes the upstream in front of the local engine, once its address is known."""

    def make(base_url: str, api_key: str) -> Upstream:
        config = HttpUpstreamConfig(
            name=name,
            base_url=base_url,
            api_key=api_key,
            profile=_profile(LOCAL_PROFILE, settings),
            connect_seconds=settings.connect_timeout,
            first_token_seconds=settings.first_token_timeout,
            idle_seconds=settings.idle_timeout,
            max_attempts=settings.max_attempts,
            secrets=secrets,
        )
        return HttpUpstream(config, DIALECTS["openai-chat"], client)

    return make


def _profile(default: Profile, settings: UpstreamSettings) -> Profile:
    """The default with what is configured; fields of the request are added to those that the default has."""
    overrides = settings.profile.overrides()
    if settings.profile.extra_body is not None:
        overrides["extra_body"] = {**default.extra_body, **settings.profile.extra_body}
    if settings.profile.parameter_fields is not None:
        overrides["parameter_fields"] = {**default.parameter_fields, **settings.profile.parameter_fields}
    return replace(default, **overrides)
