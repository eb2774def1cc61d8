"""All upstreams and aliases by the names that callers use."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from typing_extensions import override

from midstream_server.errors import InvalidSettings, ModelNotFound, RunFailure
from midstream_server.model import ModelInfo
from midstream_server.upstreams.base import Upstream, UpstreamRegistry
from midstream_server.upstreams.route import Route


class ConfiguredUpstreams(UpstreamRegistry):
    """A fixed set of upstreams, and aliases for routes through them.

    Args:
        upstreams: each under its own name.
        routes: alias → models as `<upstream>/<name>`, tried in order until one has said something.

    Raises:
        InvalidSettings: a name is used twice, or a route leads nowhere.
    """

    def __init__(self, upstreams: Iterable[Upstream], routes: Mapping[str, Sequence[str]] | None = None) -> None:
        self._upstreams: dict[str, Upstream] = {}
        for upstream in upstreams:
            if upstream.name in self._upstreams:
                raise InvalidSettings(f"there are two upstreams of the name {upstream.name}")
            self._upstreams[upstream.name] = upstream
        self._routes = {alias: Route(alias, self._stops(alias, route)) for alias, route in (routes or {}).items()}

    @override
    def resolve(self, model: str) -> tuple[Upstream, str]:
        """The upstream of `<upstream>/<name>` or of an alias, and the upstream's name for the model.

        Raises:
            ModelNotFound: there is none.
        """
        if (route := self._routes.get(model)) is not None:
            return route, model
        found = self._find(model)
        if found is None:
            raise ModelNotFound
        return found

    @override
    async def models(self) -> tuple[Sequence[ModelInfo], Sequence[str]]:
        """All models that are known by name, aliases first, and the upstreams that did not answer.

        Asks all upstreams at once; each has its own clock. Cancelling it ends their requests.
        """
        async with asyncio.TaskGroup() as group:
            asked = {
                name: group.create_task(_models_of(upstream), name=f"models of {name}")
                for name, upstream in self._upstreams.items()
            }
        answers = {name: task.result() for name, task in asked.items()}
        aliases = [model for route in self._routes.values() for model in await route.models()]
        known = [model for models in answers.values() for model in models or ()]
        return [*aliases, *known], [name for name, models in answers.items() if models is None]

    def _find(self, model: str) -> tuple[Upstream, str] | None:
        upstream_name, slash, name = model.partition("/")
        upstream = self._upstreams.get(upstream_name)
        return (upstream, name) if upstream is not None and slash and name else None

    def _stops(self, alias: str, route: Sequence[str]) -> list[tuple[Upstream, str]]:
        if "/" in alias or alias in self._upstreams:
            raise InvalidSettings(f"models.{alias}: the name of an alias has no slash and is no upstream's")
        if not route:
            raise InvalidSettings(f"models.{alias}.route is empty")
        stops: list[tuple[Upstream, str]] = []
        for model in route:
            found = self._find(model)
            if found is None:
                raise InvalidSettings(f"models.{alias}.route: there is no upstream for {model}")
            stops.append(found)
        return stops


async def _models_of(upstream: Upstream) -> Sequence[ModelInfo] | None:
    try:
        return await upstream.models()
    except RunFailure:
        return None
