"""One frozen `Settings`, passed as a value. `cli.configuration` reads it from a file, variables and flags.

Durations are written as text (`1500ms`, `30s`, `5m`, `1h`, `7d`) and held as seconds. A key's value is not a setting:
a configuration names the variable or the file that holds it.
"""

import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

VARIABLE_PREFIX = "MIDSTREAM_"
NESTING = "__"
"""In a variable's name, what a dot is in a key: `MIDSTREAM_LOG__LEVEL`."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
_UPSTREAM_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
_STORE_SCHEMES = ("memory:", "sqlite:///path", "valkey://host:port/db", "valkeys://host:port/db")


def parse_duration(value: object) -> object:
    """Seconds from text such as `1500ms`, or from a timedelta.

    Raises:
        ValueError: it is not a duration.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a duration: a number and a unit, such as '1500ms', '30s', '5m' or '1h'")
    return float(match[1]) * _UNITS[match[2]]


def _check_upstream_name(name: str) -> str:
    if not _UPSTREAM_NAME.fullmatch(name):
        raise ValueError("a name is lower-case letters, digits, '_' and '-', begins with a letter or digit, at most 63")
    return name


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; an IPv6 host stands in brackets.

    Raises:
        ValueError: it is not an address.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address must stand in brackets, such as '[::1]:50051'")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, such as '127.0.0.1:50051' (port 0 picks a free one)")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


Seconds = Annotated[float, BeforeValidator(parse_duration)]
Timeout = Annotated[Seconds, Field(gt=0, le=3600)]
UpstreamName = Annotated[str, AfterValidator(_check_upstream_name)]
Text = Annotated[str, Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ProfileSettings(_Table):
    """What an endpoint does differently from its dialect's default. None: as the default."""

    finish_reason: Literal["required", "optional"] | None = None
    running_usage: Literal["none", "continuous_usage_stats", "timings"] | None = None
    usage_option: bool | None = None
    continue_prefix: Literal["none", "assistant_prefill", "continue_final_message", "prefix_flag"] | None = None
    remote_cancel: Annotated[str, Field(pattern=r"^(/\S*\{id\}\S*)?$")] | None = None
    on_cancel: Literal["abort", "drain"] | None = None
    drain_timeout: Timeout | None = None
    drain_output_tokens: Annotated[int, Field(ge=0)] | None = None
    blocked_prompt_codes: tuple[Text, ...] | None = None
    connection_close: bool | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    developer_role: Literal["developer", "system"] | None = None
    reasoning_history: Literal["", "reasoning_details", "reasoning_content", "reasoning"] | None = None
    parameter_fields: dict[str, str] | None = None
    extra_body: dict[str, Any] | None = None

    def overrides(self) -> dict[str, Any]:
        """What is set, by the names of `upstreams.base.Profile`."""
        values = self.model_dump(exclude_none=True)
        if finish_reason := values.pop("finish_reason", None):
            values["finish_reason_required"] = finish_reason == "required"
        if (drain_seconds := values.pop("drain_timeout", None)) is not None:
            values["drain_seconds"] = drain_seconds
        return values


class UpstreamSettings(_Table):
    """A configured endpoint. `api_key` is never read from a configuration, and shown nowhere."""

    dialect: Literal["openai-chat", "openai-responses", "anthropic", "gemini", "ollama", "cohere", "local"]
    preset: str = ""
    """The name of a set of defaults for a well-known endpoint, such as `groq`: see `upstreams.profiles`."""
    base_url: str = ""
    api_key_env: str = ""
    api_key_file: str = ""
    connect_timeout: Timeout = 10.0
    first_token_timeout: Timeout = 30.0
    idle_timeout: Timeout = 30.0
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    models: tuple[Text, ...] = ()
    """The models to list, where the endpoint cannot be asked for them."""
    profile: ProfileSettings = ProfileSettings()
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("must be an http or https address, such as 'https://api.openai.com/v1'")
        if parts.username or parts.password:
            raise ValueError("must not carry a user or a password; name the key with api_key_env or api_key_file")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _check_endpoint(self) -> Self:
        if self.dialect != "local" and not self.base_url and not self.preset:
            raise ValueError("base_url is missing")
        if self.api_key_env and self.api_key_file:
            raise ValueError("has both api_key_env and api_key_file; keep one")
        return self


class AliasSettings(_Table):
    """A name for a route of models, tried in order before the first delta."""

    route: Annotated[tuple[Text, ...], Field(min_length=1)]


class ReplicaSettings(_Table):
    """How replicas on one store notice each other's death."""

    lease: Timeout = 6.0
    heartbeat: Timeout = 2.0

    @model_validator(mode="after")
    def _check_heartbeat(self) -> Self:
        if self.heartbeat * 2 > self.lease:
            raise ValueError("lease must be at least twice heartbeat")
        return self


class LocalSettings(_Table):
    """The small model on this machine, `local/smollm2`."""

    enabled: bool = True
    threads: Annotated[int, Field(ge=1, le=64)] = 1


class TlsSettings(_Table):
    """Files in PEM that make the listener speak TLS. `cert_file` holds the certificate and what leads to its authority.

    With `client_ca_file` only clients with a certificate of these authorities are let in.
    """

    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        if bool(self.cert_file) != bool(self.key_file):
            missing = "key_file" if self.cert_file else "cert_file"
            raise ValueError(f"{missing} is missing; a server's certificate and its key come together")
        if self.client_ca_file and not self.cert_file:
            raise ValueError("client_ca_file needs cert_file and key_file")
        return self


class LogSettings(_Table):
    """What goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class Settings(BaseSettings):
    """All settings of a server. Making one reads no file and no variable."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=VARIABLE_PREFIX,
        env_nested_delimiter=NESTING,
        validate_default=False,
        hide_input_in_errors=True,
    )

    insecure: bool = False
    listen: str = "127.0.0.1:50051"
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """How many processes serve this address; more than one need a store that they share."""
    share_port: bool = False
    """Let other processes of this user listen on the same port."""
    store: str = Field(default="sqlite:///midstream.db", repr=False)
    durability: Literal["process", "disk", "replica"] = "process"
    drain_seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 30.0
    retention: Annotated[Seconds, Field(le=30 * 86400)] = 86400.0
    max_run_time: Annotated[Seconds, Field(gt=0, le=86400)] = 3600.0
    max_live_runs: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_drains: Annotated[int, Field(ge=0, le=10_000)] = 100
    local: LocalSettings = LocalSettings()
    log: LogSettings = LogSettings()
    tls: TlsSettings = TlsSettings()
    replica: ReplicaSettings = ReplicaSettings()
    upstreams: dict[UpstreamName, UpstreamSettings] = Field(default_factory=dict)
    models: dict[UpstreamName, AliasSettings] = Field(default_factory=dict)

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, address: str, info: ValidationInfo) -> str:
        host, _ = split_address(address)
        if not is_loopback(host) and not info.data.get("insecure", True):
            raise ValueError(
                "anybody who reaches this address could start and stop runs, as there is no authentication; "
                "listen on 127.0.0.1, or say --insecure (insecure = true) if you mean it"
            )
        return address

    @field_validator("store")
    @classmethod
    def _check_store(cls, store: str) -> str:
        scheme, _, rest = store.partition(":")
        known = store == "memory:" or (scheme == "sqlite" and rest.startswith("///") and len(rest) > 3)
        if not known and not (scheme in ("valkey", "valkeys") and urlsplit(store).hostname):
            raise ValueError(f"must be one of {', '.join(_STORE_SCHEMES)}")
        return store

    @field_validator("durability")
    @classmethod
    def _check_durability(cls, durability: str, info: ValidationInfo) -> str:
        store = info.data.get("store", "valkey")
        if durability == "replica" and not store.startswith("valkey"):
            raise ValueError("'replica' needs a valkey:// store; sqlite: can do 'process' and 'disk'")
        if durability == "disk" and store == "memory:":
            raise ValueError("'disk' needs a sqlite: or valkey:// store; memory: keeps nothing")
        return durability

    @property
    def listen_host(self) -> str:
        """The host to listen on, without brackets."""
        return split_address(self.listen)[0]

    @property
    def listen_port(self) -> int:
        """The port to listen on; 0 picks a free one."""
        return split_address(self.listen)[1]

    @property
    def store_shown(self) -> str:
        """The store without its password."""
        head, at, tail = self.store.rpartition("@")
        return f"{head.partition('://')[0]}://***@{tail}" if at and not self.sqlite_path else self.store

    @property
    def sqlite_path(self) -> Path | None:
        """The file of a `sqlite:///path` store; `sqlite:////path` is absolute."""
        return Path(self.store.removeprefix("sqlite:///")) if self.store.startswith("sqlite:") else None
