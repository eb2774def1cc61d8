"""All upstreams and aliases by the names that callers use."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from typing_extensions import override

from midstream_server.errors import InvalidSettings, ModelNotFound, RunFailure
from midstream_server.model import ModelInfo
from midstream_server.upstreams.base import Upstream, UpstreamRegistry


class ConfiguredUpstreams(UpstreamRegistry):
    """A fixed set of upstreams, and aliases for routes through them.

    Args:
        upstreams: each under its own name.
        routes: alias → models as `<upstream>/<name>`, the first of which is called.

    Raises:
        InvalidSettings: a name is used twice, or a route leads nowhere.
    """

    def __init__(self, upstreams: Iterable[Upstream], routes: Mapping[str, Sequence[str]] | None = None) -> None:
        self._upstreams: dict[str, Upstream] = {}
        for upstream in upstreams:
            if upstream.name in self._upstreams:
                raise InvalidSettings(f"there are two upstreams of the name {upstream.name}")
            self._upstreams[upstream.name] = upstream
        self._routes = {alias: tuple(route) for alias, route in (routes or {}).items()}
        for alias, route in self._routes.items():
            self._check_route(alias, route)

    @override
    def resolve(self, model: str) -> tuple[Upstream, str]:
        """The upstream of `<upstream>/<name>` or of an alias, and the upstream's name for the model.

        Raises:
            ModelNotFound: there is none.
        """
        found = self._find(self._routes[model][0] if model in self._routes else model)
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
        known = [model for models in answers.values() for model in models or ()]
        return [*self._aliases(), *known], [name for name, models in answers.items() if models is None]

    def _aliases(self) -> list[ModelInfo]:
        return [
            ModelInfo(name=alias, route=route, supports_continue=self.resolve(alias)[0].supports_continue)
            for alias, route in self._routes.items()
        ]

    def _find(self, model: str) -> tuple[Upstream, str] | None:
        upstream_name, slash, name = model.partition("/")
        upstream = self._upstreams.get(upstream_name)
        return (upstream, name) if upstream is not None and slash and name else None

    def _check_route(self, alias: str, route: Sequence[str]) -> None:
        if "/" in alias or alias in self._upstreams:
            raise InvalidSettings(f"models.{alias}: the name of an alias has no slash and is no upstream's")
        if not route:
            raise InvalidSettings(f"models.{alias}.route is empty")
        for model in route:
            if self._find(model) is None:
                raise InvalidSettings(f"models.{alias}.route: there is no upstream for {model}")


async def _models_of(upstream: Upstream) -> Sequence[ModelInfo] | None:
    try:
        return await upstream.models()
    except RunFailure:
        return None
