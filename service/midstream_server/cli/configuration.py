"""Reads the settings: a TOML file, `MIDSTREAM_…` variables, and flags, the later over the earlier.

Each value keeps its origin, so that a message and `midstream config` can name the file, the variable or the flag.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError

from midstream_server.errors import InvalidSettings
from midstream_server.settings import NESTING, VARIABLE_PREFIX, Settings, UpstreamSettings

CONFIG_VARIABLE = "MIDSTREAM_CONFIG"
_OTHER_VARIABLES = frozenset({"config", "server", "shared_fixtures", "tls_ca", "tls_cert", "tls_name"})
"""Variables with our prefix that are not settings."""
_NEAR = 0.75
_WORDS = {
    "missing": "is missing",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list of texts",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The settings, where each came from (`log.level` to `MIDSTREAM_LOG__LEVEL`), and what is wrong but not fatal."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def load(config: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Configuration:
    """Reads what was configured; the file is `config`, or the one that MIDSTREAM_CONFIG names.

    Raises:
        InvalidSettings: says for each wrong setting which file, variable or flag it is in, and how to mend it.
    """
    origins: dict[Key, str] = {}
    merged: dict[str, Any] = {}
    if config is None and environment.get(CONFIG_VARIABLE):
        config = Path(environment[CONFIG_VARIABLE])
    if config is not None:
        _merge(merged, read_file(config), origins, lambda _: str(config))
    _merge(merged, _read_variables(environment), origins, lambda key: _variable_of(key, environment))
    _merge(merged, _nest(flags), origins, lambda key: _flag_of(key, flags))
    _refuse_written_keys(merged, origins)
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise InvalidSettings(_explain(error.errors(include_url=False), merged, origins)) from None
    return Configuration(settings=settings, origins={".".join(key): origin for key, origin in origins.items()})


def read_file(path: Path) -> dict[str, Any]:
    """A TOML file as a tree.

    Raises:
        InvalidSettings: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettings(f"cannot read the configuration {path}: {os.strerror(error.errno or 0)}") from error
    except UnicodeDecodeError as error:
        raise InvalidSettings(f"the configuration {path} is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(f"the configuration {path} is not valid TOML: {error}") from error


# --- The keys of upstreams --------------------------------------------------------------------------------------------


def read_key(name: str, upstream: UpstreamSettings, environment: Mapping[str, str]) -> SecretStr | None:
    """The key of an upstream; None if it needs none.

    Raises:
        InvalidSettings: the variable or the file that should hold it does not.
    """
    if upstream.api_key_env:
        if key := environment.get(upstream.api_key_env, "").strip():
            return SecretStr(key)
        raise InvalidSettings(f"upstreams.{name}: the variable {upstream.api_key_env} is not set; put the key there")
    if upstream.api_key_file:
        try:
            key = Path(upstream.api_key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "it is not text"
            raise InvalidSettings(f"upstreams.{name}: cannot read the key in {upstream.api_key_file}: {why}") from error
        if key:
            return SecretStr(key)
        raise InvalidSettings(f"upstreams.{name}: the key file {upstream.api_key_file} is empty")
    return None


def with_keys(configuration: Configuration, environment: Mapping[str, str]) -> Configuration:
    """Puts each upstream's key beside it. One that is missing is a warning: the other upstreams still work."""
    upstreams: dict[str, UpstreamSettings] = {}
    warnings: list[str] = []
    for name, upstream in configuration.settings.upstreams.items():
        try:
            key = read_key(name, upstream, environment)
        except InvalidSettings as error:
            key = None
            warnings.append(error.message)
        upstreams[name] = upstream.model_copy(update={"api_key": key})
    settings = configuration.settings.model_copy(update={"upstreams": upstreams})
    return replace(configuration, settings=settings, warnings=(*configuration.warnings, *warnings))


def check_routes(settings: Settings) -> None:
    """Checks that every route leads to upstreams that exist.

    Raises:
        InvalidSettings: one does not.
    """
    for alias, target in settings.models.items():
        for index, model in enumerate(target.route):
            upstream, slash, name = model.partition("/")
            where = f"models.{alias}.route[{index}]"
            if not slash or not name:
                raise InvalidSettings(f"{where}: must be UPSTREAM/NAME, such as 'openai/some-model' (it is '{model}')")
            if upstream not in settings.upstreams:
                raise InvalidSettings(
                    f"{where}: there is no upstream '{upstream}'{nearest(upstream, settings.upstreams)}"
                )


def _refuse_written_keys(merged: Mapping[str, Any], origins: Mapping[Key, str]) -> None:
    upstreams = merged.get("upstreams")
    for name, upstream in upstreams.items() if isinstance(upstreams, dict) else ():
        if isinstance(upstream, dict) and "api_key" in upstream:
            origin = origins.get(("upstreams", name, "api_key"), "")
            raise InvalidSettings(
                f"{origin}: upstreams.{name}.api_key: a key does not stand in a configuration; "
                "name the variable that holds it with api_key_env, or the file with api_key_file"
            )


# --- Three trees into one ---------------------------------------------------------------------------------------------


def _merge(into: dict[str, Any], tree: Mapping[str, Any], origins: dict[Key, str], origin: Any, at: Key = ()) -> None:
    for name, value in tree.items():
        key = (*at, name)
        if isinstance(value, Mapping):
            below = into.setdefault(name, {})
            if isinstance(below, dict):
                _merge(below, value, origins, origin, key)
                continue
        into[name] = value
        origins[key] = origin(key)


def _nest(flags: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for dotted, value in flags.items():
        if value is None:
            continue
        *parents, name = dotted.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = value
    return tree


def _read_variables(environment: Mapping[str, str]) -> dict[str, Any]:
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in environment.items() if value != ""}
    _refuse_misspelt_variables(environment)
    try:
        return source()
    except SettingsError as error:
        tables = [name for name, field in Settings.model_fields.items() if source.field_is_complex(field)]
        wrong = next((name for name in tables if f'"{name}"' in str(error)), "upstreams")
        variable = _variable_of((wrong,), environment)
        raise InvalidSettings(
            f"{variable}: must be a JSON object, or set {variable}{NESTING}… for each value"
        ) from None


def _refuse_misspelt_variables(environment: Mapping[str, str]) -> None:
    """A variable that is only almost one of ours is an error; others (a cluster adds some of its own) are none."""
    for name in environment:
        if not name.upper().startswith(VARIABLE_PREFIX):
            continue
        first = name[len(VARIABLE_PREFIX) :].lower().split(NESTING)[0]
        if first in Settings.model_fields or first in _OTHER_VARIABLES:
            continue
        if near := difflib.get_close_matches(first, Settings.model_fields, n=1, cutoff=_NEAR):
            raise InvalidSettings(f"{name}: unknown setting; did you mean {VARIABLE_PREFIX}{near[0].upper()}?")


def _flag_of(key: Key, flags: Mapping[str, Any]) -> str:
    name = "-".join(each for each in key if each != "enabled").replace("_", "-")
    return f"--no-{name}" if flags.get(".".join(key)) is False else f"--{name}"


def _variable_of(key: Key, environment: Mapping[str, str]) -> str:
    names = {name.upper(): name for name in environment}
    for length in range(len(key), 0, -1):
        if found := names.get(VARIABLE_PREFIX + NESTING.join(key[:length]).upper()):
            return found
    return VARIABLE_PREFIX + NESTING.join(key).upper()


# --- What is wrong, in words ------------------------------------------------------------------------------------------


def _explain(errors: Sequence[ErrorDetails], merged: Mapping[str, Any], origins: Mapping[Key, str]) -> str:
    lines = [_explain_one(error, origins) for error in errors]
    return (
        lines[0]
        if len(lines) == 1
        else "\n".join([f"{len(lines)} settings are wrong", *(f"  {each}" for each in lines)])
    )


def _explain_one(error: ErrorDetails, origins: Mapping[Key, str]) -> str:
    key = tuple(str(each) for each in error["loc"] if each != "[key]")
    place = ": ".join(each for each in (_origin(key, origins), _dotted(error["loc"])) if each)
    if error["type"] == "extra_forbidden":
        *parents, name = key
        return f"{place}: unknown setting{nearest(name, _names_at(parents))}"
    words = _WORDS.get(error["type"]) or error["msg"].removeprefix("Value error, ").replace(
        "Input should be", "must be"
    )
    return f"{place}: {words}{_shown(error)}"


def _shown(error: ErrorDetails) -> str:
    value = error["input"]
    plain = isinstance(value, str | int | float) and error["type"] != "missing" and "[key]" not in error["loc"]
    return f" (it is {value!r})" if plain and len(str(value)) <= 80 and "@" not in str(value) else ""


def _origin(key: Key, origins: Mapping[Key, str]) -> str:
    for length in range(len(key), 0, -1):
        found = {origin for each, origin in origins.items() if each[:length] == key[:length]}
        if found:
            return ", ".join(sorted(found))
    return ""


def _dotted(location: Sequence[int | str]) -> str:
    text = ""
    for each in location:
        text += f"[{each}]" if isinstance(each, int) else "" if each == "[key]" else f".{each}"
    return text.removeprefix(".")


def _names_at(parents: Sequence[str]) -> Iterator[str]:
    """The settings that a table knows; the tables of `upstreams` and `models` are named by the user."""
    model: type[BaseModel] | None = Settings
    names = list(parents)
    while names and model is not None:
        annotation = model.model_fields[names.pop(0)].annotation
        arguments = getattr(annotation, "__args__", ())
        if arguments and names:
            names.pop(0)
        inner = arguments[-1] if arguments else annotation
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    yield from (name for name in (model.model_fields if model else ()) if name != "api_key")


def nearest(name: str, known: Iterable[str]) -> str:
    """What to add to "unknown": the known name that was probably meant, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; there are {', '.join(names)}" if names else ""
