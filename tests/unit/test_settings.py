"""The settings, and how a file, variables and flags become them."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from midstream_server.cli.configuration import check_routes, load, with_keys
from midstream_server.cli.serve import tree_of
from midstream_server.errors import InvalidSettings
from midstream_server.settings import Settings, is_loopback, parse_duration, split_address

EXAMPLE = """
listen = "127.0.0.1:50051"
store = "sqlite:///midstream.db"
durability = "process"
drain_seconds = 30

[upstreams.openai]
dialect = "openai-chat"
base_url = "https://api.openai.com/v1"
api_key_env = "OPENAI_API_KEY"
first_token_timeout = "30s"
idle_timeout = "1500ms"
[upstreams.openai.profile]
finish_reason = "optional"

[upstreams.anthropic]
dialect = "anthropic"
base_url = "https://api.anthropic.com"

[replica]
lease = "6s"
heartbeat = "2s"

[models.fast]
route = ["openai/some-model", "anthropic/another"]
"""


@pytest.fixture
def config(tmp_path: Path):
    """Writes a configuration and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "midstream.toml"
        path.write_text(text)
        return path

    return write


def refusal(config: Path | None = None, environment: dict | None = None, flags: dict | None = None) -> str:
    """The message with which a configuration is refused."""
    with pytest.raises(InvalidSettings) as caught:
        load(config, environment or {}, flags or {})
    return caught.value.message


# --- Reading ----------------------------------------------------------------------------------------------------------


def test_nothing_configured_gives_safe_defaults():
    """No file, no variables, no flags: loopback, the embedded store, the documented numbers."""
    settings = load(None, {}, {}).settings

    assert (settings.listen, settings.store, settings.durability) == (
        "127.0.0.1:50051",
        "sqlite:///midstream.db",
        "process",
    )
    assert (settings.drain_seconds, settings.retention, settings.max_run_time) == (30.0, 86400.0, 3600.0)
    assert settings.insecure is False
    assert settings.local.enabled
    assert settings.local.threads == 1
    assert settings.upstreams == {}


def test_every_setting_of_the_documented_file_is_read(config):
    """The example of the documentation is understood in full."""
    settings = load(config(EXAMPLE), {}, {}).settings

    openai = settings.upstreams["openai"]
    assert (openai.dialect, openai.base_url, openai.api_key_env) == (
        "openai-chat",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
    )
    assert (openai.first_token_timeout, openai.idle_timeout) == (30.0, 1.5)
    assert openai.profile.overrides() == {"finish_reason_required": False}
    assert (settings.replica.lease, settings.replica.heartbeat) == (6.0, 2.0)
    assert settings.models["fast"].route == ("openai/some-model", "anthropic/another")


def test_flags_win_over_variables_and_variables_over_the_file(config):
    """The later source wins, value by value, and each value knows where it came from."""
    path = config('listen = "127.0.0.1:1"\nstore = "memory:"\n[log]\nlevel = "error"\nformat = "json"\n')

    loaded = load(
        path,
        {"MIDSTREAM_LISTEN": "127.0.0.1:2", "MIDSTREAM_LOG__LEVEL": "debug"},
        {"listen": "127.0.0.1:3", "store": None},
    )

    assert loaded.settings.listen == "127.0.0.1:3"
    assert loaded.settings.store == "memory:"
    assert (loaded.settings.log.level, loaded.settings.log.format) == ("debug", "json")
    assert loaded.origins == {
        "listen": "--listen",
        "store": str(path),
        "log.level": "MIDSTREAM_LOG__LEVEL",
        "log.format": str(path),
    }


def test_the_config_variable_names_the_file_and_the_flag_wins_over_it(config, tmp_path):
    """MIDSTREAM_CONFIG is used if --config is not."""
    path = config("drain_seconds = 7")
    other = tmp_path / "other.toml"
    other.write_text("drain_seconds = 8")

    assert load(None, {"MIDSTREAM_CONFIG": str(path)}, {}).settings.drain_seconds == 7
    assert load(other, {"MIDSTREAM_CONFIG": str(path)}, {}).settings.drain_seconds == 8


def test_a_whole_upstream_can_come_from_variables():
    """Containers configure by environment alone."""
    environment = {
        "MIDSTREAM_UPSTREAMS__GROQ__DIALECT": "openai-chat",
        "MIDSTREAM_UPSTREAMS__GROQ__BASE_URL": "http://127.0.0.1:9/v1/",
        "MIDSTREAM_UPSTREAMS__GROQ__MODELS": '["a", "b"]',
        "MIDSTREAM_UPSTREAMS__GROQ__IDLE_TIMEOUT": "5m",
    }

    upstream = load(None, environment, {}).settings.upstreams["groq"]

    assert upstream.base_url == "http://127.0.0.1:9/v1"
    assert upstream.models == ("a", "b")
    assert upstream.idle_timeout == 300.0


def test_an_empty_variable_is_as_if_unset():
    """`MIDSTREAM_LISTEN=` is how many shells unset a variable for one command."""
    assert load(None, {"MIDSTREAM_LISTEN": "", "MIDSTREAM_CONFIG": ""}, {}).settings.listen == "127.0.0.1:50051"


def test_variables_that_a_cluster_adds_are_not_settings():
    """A Kubernetes service named `midstream` adds variables with our prefix to every pod."""
    environment = {"MIDSTREAM_PORT": "tcp://10.0.0.1:50051", "MIDSTREAM_SERVICE_HOST": "10.0.0.1"}

    assert load(None, environment, {}).settings == Settings()


def test_settings_made_directly_read_no_variable(monkeypatch):
    """A test or a program that makes Settings gets what it said."""
    monkeypatch.setenv("MIDSTREAM_LISTEN", "127.0.0.1:9")

    assert Settings().listen == "127.0.0.1:50051"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1500ms", 1.5), ("30s", 30.0), ("5m", 300.0), ("1h", 3600.0), ("7d", 604800.0), ("0.5s", 0.5), (" 2s ", 2.0)],
)
def test_durations_have_a_number_and_a_unit(text, seconds):
    """Each unit counts what it says."""
    assert parse_duration(text) == seconds


def test_a_timedelta_is_a_duration():
    """For settings made in Python."""
    assert Settings(max_run_time=timedelta(seconds=2)).max_run_time == 2.0  # type: ignore[arg-type]  # parsed


@pytest.mark.parametrize("text", ["30", 30, "s", "1 s", "-1s", "1w", "", "٣s", None, True, "1e3s", "1s1s"])
def test_what_is_not_a_duration_is_refused(text):
    """A number without a unit is not guessed at."""
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:50051", ("::1", 50051)), ("localhost:65535", ("localhost", 65535))],
)
def test_addresses_are_host_and_port(address, parts):
    """Port 0 is allowed, IPv6 stands in brackets."""
    assert split_address(address) == parts
    assert Settings(listen=address).listen_host == parts[0]
    assert Settings(listen=address).listen_port == parts[1]


@pytest.mark.parametrize(
    "address", ["50051", ":50051", "::1:50051", "127.0.0.1:", "127.0.0.1:65536", "a:b", "h:-1", "h:٣"]
)
def test_what_is_not_an_address_is_refused(address):
    """The message shows the form."""
    message = refusal(flags={"listen": address})

    assert message.startswith("--listen: listen: ")
    assert "127.0.0.1:50051" in message or "[::1]:50051" in message


# --- Refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('lissten = "x"', "lissten: unknown setting; did you mean 'listen'?"),
        ("[upstream.openai]\ndialect = 'local'", "upstream: unknown setting; did you mean 'upstreams'?"),
        (
            "[upstreams.a]\ndialect = 'openai-chat'\nbase_url = 'http://x'\nidle_timout = '1s'",
            "upstreams.a.idle_timout: unknown setting; did you mean 'idle_timeout'?",
        ),
        (
            "[upstreams.a]\ndialect = 'local'\n[upstreams.a.profile]\nfinish_reson = 'optional'",
            "upstreams.a.profile.finish_reson: unknown setting; did you mean 'finish_reason'?",
        ),
        ("[replica]\nleese = '1s'", "replica.leese: unknown setting; did you mean 'lease'?"),
        ("[models.fast]\nroute = ['a/b']\nroutes = 1", "models.fast.routes: unknown setting; did you mean 'route'?"),
    ],
)
def test_an_unknown_setting_is_named_with_the_nearest_known(config, text, expected):
    """At every depth the file, the key, and what was probably meant."""
    path = config(text)

    message = refusal(path)

    assert message == f"{path}: {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen = 1", "listen: must be text (it is 1)"),
        ('drain_seconds = "soon"', "drain_seconds: must be a number (it is 'soon')"),
        ("drain_seconds = nan", "drain_seconds: must be a finite number"),
        ("drain_seconds = -1", "drain_seconds: must be greater than or equal to 0 (it is -1)"),
        ("max_live_runs = 0", "max_live_runs: must be greater than or equal to 1 (it is 0)"),
        ('store = "postgres://x"', "store: must be one of memory:, sqlite:///path,"),
        ('store = "sqlite:midstream.db"', "store: must be one of memory:, sqlite:///path,"),
        ('store = "sqlite:///"', "store: must be one of"),
        ('store = "valkey://"', "store: must be one of"),
        ('durability = "replica"\nstore = "memory:"', "durability: 'replica' needs a valkey:// store"),
        ('durability = "disk"\nstore = "memory:"', "durability: 'disk' needs a sqlite: or valkey:// store"),
        ('durability = "paper"', "durability: must be 'process', 'disk' or 'replica' (it is 'paper')"),
        ('retention = "31d"', "retention: must be less than or equal to 2592000"),
        ('max_run_time = "0s"', "max_run_time: must be greater than 0"),
        ("local = true", "local: must be a table"),
        ("[local]\nthreads = 0", "local.threads: must be greater than or equal to 1 (it is 0)"),
        ('[log]\nlevel = "loud"', "log.level: must be 'debug', 'info', 'warning' or 'error' (it is 'loud')"),
        ('[replica]\nlease = "3s"', "replica: lease must be at least twice heartbeat"),
        ("upstreams = 3", "upstreams: must be a table"),
        ("[upstreams.Big]\ndialect = 'local'", "upstreams.Big: a name is lower-case letters"),
        ("[upstreams.a]\nbase_url = 'http://x'", "upstreams.a.dialect: is missing"),
        ("[upstreams.a]\ndialect = 'anthropic'", "upstreams.a: base_url is missing"),
        ("[upstreams.a]\ndialect = 'openai'\nbase_url = 'http://x'", "upstreams.a.dialect: must be 'openai-chat'"),
        (
            "[upstreams.a]\ndialect = 'openai-chat'\nbase_url = 'api.openai.com'",
            "upstreams.a.base_url: must be an http or https address",
        ),
        (
            "[upstreams.a]\ndialect = 'openai-chat'\nbase_url = 'http://x'\nidle_timeout = 30",
            "upstreams.a.idle_timeout: must be a duration",
        ),
        (
            "[upstreams.a]\ndialect = 'openai-chat'\nbase_url = 'http://x'\napi_key_env = 'A'\napi_key_file = 'b'",
            "upstreams.a: has both api_key_env and api_key_file",
        ),
        (
            "[upstreams.a]\ndialect = 'openai-chat'\nbase_url = 'http://x'\nmodels = 'm'",
            "upstreams.a.models: must be a list of texts",
        ),
        ("[models.fast]\nroute = []", "models.fast.route: must not be empty"),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_key(config, text, expected):
    """Which file, which key, what it should be, what it is."""
    path = config(text)

    message = refusal(path)

    assert message.startswith(f"{path}: {expected}"), message


def test_a_wrong_variable_is_named_as_a_variable():
    """Not as a key in a file that does not exist."""
    message = refusal(
        environment={"MIDSTREAM_UPSTREAMS__A__DIALECT": "local", "MIDSTREAM_UPSTREAMS__A__IDLE_TIMEOUT": "x"}
    )

    assert message.startswith("MIDSTREAM_UPSTREAMS__A__IDLE_TIMEOUT: upstreams.a.idle_timeout: must be a duration")


def test_a_misspelt_variable_is_refused_with_the_nearest():
    """A typo in a variable's name must not be silent."""
    assert "MIDSTREAM_STORE?" in refusal(environment={"MIDSTREAM_STROE": "memory:"})
    assert "did you mean 'level'?" in refusal(environment={"MIDSTREAM_LOG__LEVL": "debug"})


def test_a_variable_that_should_be_json_and_is_not_is_named():
    """A table in one variable is JSON."""
    assert refusal(environment={"MIDSTREAM_UPSTREAMS": "{not json"}).startswith("MIDSTREAM_UPSTREAMS: must be a JSON")


def test_every_wrong_setting_is_told_at_once(config):
    """Nobody wants to mend them one start at a time."""
    message = refusal(config("max_live_runs = 0\nlissten = 1\n"))

    assert message.startswith("2 settings are wrong\n")
    assert "max_live_runs" in message
    assert "lissten" in message


def test_a_file_that_cannot_be_read_is_named(config, tmp_path):
    """Absent, not TOML, not text."""
    assert "No such file" in refusal(tmp_path / "absent.toml")
    assert "not valid TOML" in refusal(config("listen = "))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refusal(binary)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.0.0.1", "example.org"])
def test_an_exposed_listener_without_authentication_is_refused_unless_told(host):
    """Safe by default; said in words that tell what to do."""
    assert "--insecure" in refusal(flags={"listen": f"{host}:1"})
    assert load(None, {}, {"listen": f"{host}:1", "insecure": True}).settings.listen == f"{host}:1"


def test_loopback_is_what_only_this_machine_reaches():
    """All of 127/8, ::1 and localhost."""
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.1", "localhost.example.org"))


def test_settings_do_not_change():
    """A value that is passed around stays what it was."""
    with pytest.raises(ValidationError):
        Settings().listen = "127.0.0.1:1"


# --- Keys and routes --------------------------------------------------------------------------------------------------

KEYED = "[upstreams.a]\ndialect = 'openai-chat'\nbase_url = 'http://x'\n"


def test_a_key_comes_from_a_variable_or_a_file_and_is_shown_nowhere(config, tmp_path):
    """It is beside its upstream, but in no repr and no dump."""
    file = tmp_path / "key"
    file.write_text("file-secret\n")
    path = config(
        f"{KEYED}api_key_env = 'A_KEY'\n[upstreams.b]\ndialect = 'openai-chat'\nbase_url = 'http://x'\n"
        f"api_key_file = '{file}'\n"
    )

    loaded = with_keys(load(path, {}, {}), {"A_KEY": " env-secret\n"})

    keys = {name: each.api_key.get_secret_value() for name, each in loaded.settings.upstreams.items() if each.api_key}
    assert keys == {"a": "env-secret", "b": "file-secret"}
    assert loaded.warnings == ()
    assert "secret" not in repr(loaded) + str(loaded.settings.model_dump()) + loaded.settings.model_dump_json()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("api_key_env = 'A_KEY'", "upstreams.a: the variable A_KEY is not set"),
        ("api_key_file = '/nowhere/key'", "upstreams.a: cannot read the key in /nowhere/key: No such file"),
        ("api_key_file = '/dev/null'", "upstreams.a: the key file /dev/null is empty"),
    ],
)
def test_a_missing_key_is_a_warning_that_says_where_to_put_it(config, line, expected):
    """One upstream without its key does not take the others down."""
    loaded = with_keys(load(config(KEYED + line), {}, {}), {"A_KEY": "  "})

    assert len(loaded.warnings) == 1
    assert loaded.warnings[0].startswith(expected)
    assert loaded.settings.upstreams["a"].api_key is None


def test_a_key_written_into_the_configuration_is_refused_without_repeating_it(config):
    """The message tells where keys belong, and does not show the key."""
    path = config(KEYED + "api_key = 'sk-secret'")

    message = refusal(path)

    assert message.startswith(f"{path}: upstreams.a.api_key: ")
    assert "api_key_env" in message
    assert "sk-secret" not in message


def test_passwords_in_addresses_are_not_shown(config):
    """Neither a store's password nor one in a base_url that is refused for it."""
    settings = Settings(store="valkey://user:secret@host:6379/0")

    assert "secret" not in repr(settings) + settings.store_shown + str(tree_of(settings))
    assert settings.store_shown == "valkey://***@host:6379/0"
    refused = refusal(config("[upstreams.a]\ndialect = 'openai-chat'\nbase_url = 'http://u:secret@x'"))
    assert "secret" not in refused


def test_a_route_to_an_upstream_that_does_not_exist_is_refused(config):
    """With the alias, the place in the route, and the nearest name."""
    settings = load(config(KEYED.replace(".a]", ".openai]") + "[models.fast]\nroute = ['opnai/x']"), {}, {}).settings

    with pytest.raises(InvalidSettings, match=r"models\.fast\.route\[0\].*'opnai'.*did you mean 'openai'"):
        check_routes(settings)


def test_a_route_must_name_an_upstream_and_a_model(config):
    """An alias of an alias is not a model."""
    settings = load(config("[models.fast]\nroute = ['slow']"), {}, {}).settings

    with pytest.raises(InvalidSettings, match="must be UPSTREAM/NAME"):
        check_routes(settings)


def test_the_path_of_an_embedded_store_may_be_relative_or_absolute():
    """Three slashes are relative, four absolute."""
    assert Settings(store="sqlite:///runs.db").sqlite_path == Path("runs.db")
    assert Settings(store="sqlite:////var/runs.db").sqlite_path == Path("/var/runs.db")
    assert Settings(store="memory:").sqlite_path is None
