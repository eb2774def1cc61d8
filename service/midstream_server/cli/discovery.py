"""Upstreams that nobody configured: the environment's usual variables, and the model on this machine."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from midstream_server.cli.configuration import Configuration, nearest
from midstream_server.errors import InvalidSettings
from midstream_server.settings import UpstreamSettings, is_loopback
from midstream_server.upstreams.profiles import PRESETS, Preset

AVAILABLE_DIALECTS = frozenset({"openai-chat", "openai-responses", "anthropic", "gemini", "ollama", "cohere", "local"})
LOCAL = "local"
_OLLAMA_PORT = 11434


def discover(
    configuration: Configuration, environment: Mapping[str, str], dialects: Iterable[str] = AVAILABLE_DIALECTS
) -> Configuration:
    """Adds `local`, if it is enabled, and what the environment offers, if no upstream is configured.

    Raises:
        InvalidSettings: a configured upstream has a dialect or a preset that this version does not know.
    """
    known = frozenset(dialects)
    settings = configuration.settings
    upstreams = {name: _completed(name, upstream, environment, known) for name, upstream in settings.upstreams.items()}
    origins = dict(configuration.origins)
    if not upstreams:
        for name, variable, upstream in _offered(environment, known):
            upstreams[name] = upstream
            origins.update({f"upstreams.{name}.{each}": variable for each in upstream.model_fields_set})
            address_variable = PRESETS[name].address_variable if upstream.preset else ""
            if environment.get(address_variable, "").strip():
                origins[f"upstreams.{name}.base_url"] = address_variable
    if settings.local.enabled and LOCAL not in upstreams:
        upstreams[LOCAL] = UpstreamSettings(dialect="local")
    return replace(configuration, settings=settings.model_copy(update={"upstreams": upstreams}), origins=origins)


def _completed(
    name: str, upstream: UpstreamSettings, environment: Mapping[str, str], known: frozenset[str]
) -> UpstreamSettings:
    """A configured upstream with what its preset says and it does not."""
    if upstream.dialect not in known:
        there = ", ".join(sorted(known))
        raise InvalidSettings(
            f"upstreams.{name}.dialect: '{upstream.dialect}' is not in this version; there are {there}"
        )
    if not upstream.preset:
        return upstream
    preset = PRESETS.get(upstream.preset)
    if preset is None:
        raise InvalidSettings(f"upstreams.{name}.preset: unknown{nearest(upstream.preset, PRESETS)}")
    base_url = upstream.base_url or preset.base_url or _address(preset, environment)
    if not base_url:
        raise InvalidSettings(f"upstreams.{name}: base_url is missing; every user of '{upstream.preset}' has another")
    has_key = upstream.api_key_env or upstream.api_key_file
    key = upstream.api_key_env if has_key else _key_variable(preset, environment)
    if not has_key and _is_ones_own(preset) and not environment.get(key, "").strip():
        key = ""  # such a server needs one only if it was told one
    return upstream.model_copy(update={"base_url": base_url, "api_key_env": key})


def _offered(environment: Mapping[str, str], known: frozenset[str]) -> Iterator[tuple[str, str, UpstreamSettings]]:
    """What the environment offers: name, variable, upstream. A key enables the first preset that it is usual for."""
    used: set[str] = set()
    for name, preset in PRESETS.items():
        key = _key_variable(preset, environment)
        address = _address(preset, environment)
        is_there = environment.get(key, "").strip() and address
        if is_there and preset.dialect in known and key not in used:
            used.add(key)
            fields = {"dialect": preset.dialect, "preset": name, "base_url": address, "api_key_env": key}
            yield name, key, UpstreamSettings.model_validate(fields)
    if host := environment.get("OLLAMA_HOST", "").strip():
        address = ollama_address(host)
        if "ollama" in known:
            yield "ollama", "OLLAMA_HOST", UpstreamSettings(dialect="ollama", base_url=address)
        elif "openai-chat" in known:
            upstream = UpstreamSettings(dialect="openai-chat", preset="ollama-v1", base_url=f"{address}/v1")
            yield "ollama", "OLLAMA_HOST", upstream


def _key_variable(preset: Preset, environment: Mapping[str, str]) -> str:
    """The variable that holds the key: of those that are usual the first that is set, or the first."""
    is_set = (name for name in preset.key_variables if environment.get(name, "").strip())
    return next(is_set, preset.key_variables[0] if preset.key_variables else "")


def _is_ones_own(preset: Preset) -> bool:
    """Whether it is for a server that users run themselves, where they like."""
    return is_loopback(urlsplit(preset.base_url).hostname or "")


def _address(preset: Preset, environment: Mapping[str, str]) -> str:
    """Where the owner of a key has its endpoint. Empty: nobody knows, as with a server of one's own.

    Raises:
        InvalidSettings: the environment says what is no address.
    """
    said = environment.get(preset.address_variable, "").strip().rstrip("/")
    if not said:
        return "" if _is_ones_own(preset) else preset.base_url
    if urlsplit(said).scheme not in ("http", "https") or not urlsplit(said).hostname:
        raise InvalidSettings(f"{preset.address_variable}: must be an http or https address (it is '{said}')")
    return said if said.endswith(preset.address_path) else said + preset.address_path


def ollama_address(host: str) -> str:
    """The address that OLLAMA_HOST means, which may lack scheme and port, and may be what a server listens on.

    Raises:
        InvalidSettings: it is no address.
    """
    try:
        parts = urlsplit(host if "://" in host else f"http://{host}")
        port = parts.port or (443 if parts.scheme == "https" else 80 if "://" in host else _OLLAMA_PORT)
    except ValueError as error:
        raise InvalidSettings(f"OLLAMA_HOST: must be an address, such as 127.0.0.1:11434 (it is '{host}')") from error
    name = {"0.0.0.0": "127.0.0.1", "::": "::1", None: "127.0.0.1"}.get(parts.hostname, parts.hostname)
    return f"{parts.scheme}://{f'[{name}]' if ':' in str(name) else name}:{port}{parts.path.rstrip('/')}"
