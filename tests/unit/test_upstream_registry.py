"""Names of models and where they lead; presets."""

from collections.abc import Sequence

import pytest
from typing_extensions import override

from midstream_server.assembly import DIALECTS
from midstream_server.errors import InvalidSettings, ModelNotFound, UpstreamUnavailable
from midstream_server.model import ModelInfo, Prompt
from midstream_server.upstreams.base import CallOptions, Upstream, UpstreamCall
from midstream_server.upstreams.http import HttpUpstream, HttpUpstreamConfig
from midstream_server.upstreams.http_exchange import HttpClient
from midstream_server.upstreams.profiles import PRESETS
from midstream_server.upstreams.registry import ConfiguredUpstreams


class _ListedUpstream(Upstream):
    """Knows its models, or cannot be asked."""

    def __init__(self, name: str, *models: str, is_away: bool = False) -> None:
        self.name = name
        self._models = models
        self._is_away = is_away

    @override
    def call(self, model: str, prompt: Prompt, options: CallOptions) -> UpstreamCall:
        raise AssertionError("nothing is called here")

    @property
    @override
    def supports_continue(self) -> bool:
        return self.name == "b"

    @override
    async def models(self) -> Sequence[ModelInfo]:
        if self._is_away:
            raise UpstreamUnavailable
        return [ModelInfo(name=f"{self.name}/{model}", upstream=self.name) for model in self._models]


A, B, AWAY = _ListedUpstream("a", "x", "y"), _ListedUpstream("b", "org/z"), _ListedUpstream("away", is_away=True)


def test_resolve():
    """By upstream and name, which may have slashes of its own, or by alias."""
    registry = ConfiguredUpstreams([A, B], {"fast": ["b/org/z:free", "a/x"]})

    assert registry.resolve("a/anything") == (A, "anything")
    assert registry.resolve("b/org/z") == (B, "org/z")
    alias, name = registry.resolve("fast")
    assert (alias.name, name) == ("fast", "fast")


@pytest.mark.parametrize("model", ["", "/", "a", "a/", "/x", "c/x", "slow", "fast/x"])
def test_unknown_models(model: str):
    """None of these leads anywhere, and all are told the same."""
    with pytest.raises(ModelNotFound) as caught:
        ConfiguredUpstreams([A, B], {"fast": ["a/x"]}).resolve(model)

    assert caught.value.message == ModelNotFound.default_message


async def test_models_of_all():
    """Aliases and models, and who did not answer."""
    registry = ConfiguredUpstreams([A, AWAY, B], {"fast": ["b/org/z", "a/x"]})

    models, away = await registry.models()

    assert [model.name for model in models] == ["fast", "a/x", "a/y", "b/org/z"]
    assert models[0] == ModelInfo(name="fast", route=("b/org/z", "a/x"), supports_continue=True)
    assert away == ["away"]


@pytest.mark.parametrize(
    ("upstreams", "routes"),
    [
        ([A, A], {}),
        ([A], {"fast": []}),
        ([A], {"fast": ["b/x"]}),
        ([A], {"fast": ["a/x", "fast"]}),
        ([A], {"a": ["a/x"]}),
        ([A], {"a/b": ["a/x"]}),
    ],
)
def test_routes_that_cannot_work(upstreams: list[Upstream], routes: dict[str, list[str]]):
    """Said when they are read, not when they are called."""
    with pytest.raises(InvalidSettings):
        ConfiguredUpstreams(upstreams, routes)


async def test_every_preset_makes_an_upstream():
    """The data is whole: a name that callers can write, and a base URL; Azure's is the resource's own."""
    client = HttpClient()
    for name, preset in PRESETS.items():
        base_url = preset.base_url or "https://resource.openai.azure.com/openai/v1"
        upstream = HttpUpstream(
            HttpUpstreamConfig(name=name, base_url=base_url, profile=preset.profile), DIALECTS[preset.dialect], client
        )

        assert upstream.supports_continue == (preset.profile.continue_prefix != "none")
        assert base_url.startswith(("https://", "http://localhost:"))
        assert not base_url.endswith("/")
        assert name == name.lower()
    await client.aclose()
