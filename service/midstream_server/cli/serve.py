"""`midstream serve` and `midstream config`: the settings in effect, and the server that they describe."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from midstream_server.cli import terminal
from midstream_server.cli.configuration import Configuration, check_routes, load, with_keys
from midstream_server.cli.discovery import discover
from midstream_server.cli.listening import find_obstacle
from midstream_server.errors import InvalidSettings
from midstream_server.settings import Settings, parse_duration

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def effective(config: Path | None, flags: Mapping[str, Any], environment: Mapping[str, str]) -> Configuration:
    """What is configured, the upstreams that this machine offers by itself, and the keys.

    Raises:
        InvalidSettings: says which setting is wrong.
    """
    configuration = discover(load(config, environment, flags), environment)
    check_routes(configuration.settings)
    return with_keys(configuration, environment)


def serve(config: Path | None, flags: Mapping[str, Any]) -> int:
    """Serves until SIGTERM or SIGINT."""
    configuration = effective(config, flags, os.environ)
    for warning in configuration.warnings:
        terminal.complain(f"warning: {warning}")
    _refuse_unusable_address(configuration.settings)
    if configuration.settings.workers > 1:
        from midstream_server.cli import workers

        return workers.serve(configuration.settings)
    from midstream_server import app

    return app.run(configuration.settings)


def _refuse_unusable_address(settings: Settings) -> None:
    """Finds out before anything is opened what gRPC, which tells no causes, would find out last."""
    if settings.share_port:
        return  # a worker: the address is its keeper's
    if obstacle := find_obstacle(settings.listen_host, settings.listen_port):
        raise InvalidSettings(f"listen: {obstacle.message}; {obstacle.advice}")


def show_config(config: Path | None, flags: Mapping[str, Any], as_json: bool) -> int:
    """Prints the settings in effect as TOML, each with its origin; no key's value."""
    configuration = effective(config, flags, os.environ)
    if as_json:
        tree = tree_of(configuration.settings)
        terminal.print_json(
            {"settings": tree, "origins": dict(configuration.origins), "warnings": list(configuration.warnings)}
        )
        return terminal.OK
    answers, remarks = terminal.answers(), terminal.remarks()
    for line, comment in toml_lines(configuration):
        answers.write(line)
        answers.write(f"{' ' * max(2, 48 - len(line))}# {comment}" if comment else "", terminal.DIM)
        answers.write("\n")
    for warning in configuration.warnings:
        remarks.line(f"warning: {warning}", terminal.YELLOW)
    return terminal.OK


def tree_of(table: BaseModel) -> dict[str, Any]:
    """The settings as a configuration would write them; passwords and keys left out."""
    tree: dict[str, Any] = {}
    for name, field in type(table).model_fields.items():
        value = getattr(table, name)
        if name == "store" and isinstance(table, Settings):
            tree[name] = table.store_shown
        elif isinstance(value, BaseModel):
            if table_tree := tree_of(value):
                tree[name] = table_tree
        elif any(getattr(each, "func", None) is parse_duration for each in field.metadata):
            tree[name] = _duration(value)
        elif field.exclude or value is None or value == "":
            continue
        else:
            tree[name] = _plain(value)
    return tree


def toml_lines(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """Lines of TOML, each with the comment that tells its origin."""
    yield from _table_lines(tree_of(configuration.settings), (), configuration)


def _table_lines(
    tree: Mapping[str, Any], at: tuple[str, ...], configuration: Configuration
) -> Iterator[tuple[str, str]]:
    values = {name: value for name, value in tree.items() if not isinstance(value, dict)}
    if at and values:
        yield "", ""
        yield f"[{'.'.join(at)}]", ""
    for name, value in values.items():
        origin = configuration.origins.get(".".join((*at, name)), "default")
        if name in ("api_key_env", "api_key_file"):
            key = configuration.settings.upstreams[at[1]].api_key
            origin = f"{origin}; the key is {'set' if key else 'MISSING'}"
        yield f"{name} = {_toml(value)}", origin
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _table_lines(value, (*at, name), configuration)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, dict):
        return {name: tree_of(each) if isinstance(each, BaseModel) else _plain(each) for name, each in value.items()}
    return value


def _duration(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds * 1000:g}ms" if seconds % 1 else "0s"


def _toml(value: Any) -> str:
    import json

    if isinstance(value, list):
        return f"[{', '.join(_toml(each) for each in value)}]"
    return json.dumps(value, ensure_ascii=False)
