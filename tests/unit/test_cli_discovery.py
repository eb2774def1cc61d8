"""Upstreams that nobody configured."""

import pytest

from midstream_server.assembly import DIALECTS
from midstream_server.cli.configuration import Configuration
from midstream_server.cli.discovery import AVAILABLE_DIALECTS, discover, ollama_address
from midstream_server.errors import InvalidSettings
from midstream_server.settings import LocalSettings, Settings, UpstreamSettings
from midstream_server.upstreams.profiles import PRESETS


def found(environment: dict[str, str], settings: Settings | None = None, dialects: frozenset[str] | None = None):
    """The upstreams that there are then."""
    configuration = Configuration(settings=settings or Settings(), origins={})
    known = dialects or frozenset({"openai-chat", "local"})
    return discover(configuration, environment, known).settings.upstreams


def test_with_nothing_at_all_there_is_the_local_model():
    """So that everything can be tried with no key and no network."""
    assert {name: each.dialect for name, each in found({}).items()} == {"local": "local"}


def test_the_local_model_can_be_turned_off():
    """Where nobody wants it."""
    assert found({}, Settings(local=LocalSettings(enabled=False))) == {}


def test_a_usual_variable_enables_its_upstream_and_names_itself_as_the_key():
    """The key's value is not copied into the settings."""
    openai = found({"OPENAI_API_KEY": "secret"})["openai"]

    assert (openai.dialect, openai.api_key_env) == ("openai-chat", "OPENAI_API_KEY")
    assert "secret" not in repr(openai)


def test_each_key_enables_its_own_dialect():
    """A provider with a grammar of its own is spoken to in it."""
    anthropic = found({"ANTHROPIC_API_KEY": "secret"}, dialects=AVAILABLE_DIALECTS)["anthropic"]

    assert (anthropic.dialect, anthropic.base_url) == ("anthropic", "https://api.anthropic.com")
    assert anthropic.api_key_env == "ANTHROPIC_API_KEY"


def test_the_dialects_of_their_own_have_their_usual_variables():
    """Gemini and Cohere by a key; Ollama by the address of one's own server, or by the key of Ollama's."""
    environment = {"GEMINI_API_KEY": "x", "OLLAMA_API_KEY": "x", "OLLAMA_HOST": "", "COHERE_API_KEY": "x"}
    offered = found(environment, dialects=AVAILABLE_DIALECTS)

    assert {name: (each.dialect, each.base_url) for name, each in offered.items() if name != "local"} == {
        "gemini": ("gemini", "https://generativelanguage.googleapis.com"),
        "ollama-cloud": ("ollama", "https://ollama.com"),
        "cohere": ("cohere", "https://api.cohere.com"),
    }


def test_cohere_is_found_as_its_own_clients_find_it():
    """Of two variables the documented one counts; a deployment of one's own has an address."""
    environment = {"COHERE_API_KEY": "x", "CO_API_KEY": "y", "CO_API_URL": "https://cohere.example/"}

    cohere = found(environment, dialects=AVAILABLE_DIALECTS)["cohere"]

    assert (cohere.api_key_env, cohere.base_url) == ("CO_API_KEY", "https://cohere.example")


def test_a_key_enables_one_upstream():
    """OpenAI has two dialects and one key; the other must be configured."""
    dialects = frozenset({"openai-chat", "openai-responses", "local"})

    assert set(found({"OPENAI_API_KEY": "x"}, dialects=dialects)) == {"openai", "local"}
    chosen = Settings(upstreams={"o": UpstreamSettings(dialect="openai-responses", preset="openai-responses")})
    assert found({}, chosen, dialects)["o"].api_key_env == "OPENAI_API_KEY"


def test_an_empty_variable_enables_nothing():
    """As if it were not set."""
    assert "openai" not in found({"OPENAI_API_KEY": " "})


def test_a_dialect_that_this_version_lacks_enables_nothing():
    """A key is of no use before its dialect is there."""
    environment = {"GROQ_API_KEY": "x", "OLLAMA_HOST": "127.0.0.1"}

    assert set(found(environment)) == {"local", "groq", "ollama"}
    assert set(found(environment, dialects=frozenset({"anthropic", "local"}))) == {"local"}


def test_a_key_for_a_server_of_ones_own_enables_nothing():
    """Nobody knows whether one runs, or where."""
    assert set(found({"VLLM_API_KEY": "x", "AZURE_OPENAI_API_KEY": "x"})) == {"local"}


@pytest.mark.parametrize("preset", ["vllm", "llamacpp", "lmstudio"])
def test_a_server_of_ones_own_needs_no_key_unless_its_usual_variable_holds_one(preset: str):
    """Most run without; one that is named in the configuration must be there all the same."""
    variable = PRESETS[preset].key_variables[0]
    upstream = UpstreamSettings(dialect="openai-chat", preset=preset, base_url="http://10.0.0.5:8000/v1")
    named = upstream.model_copy(update={"api_key_env": "MY_KEY"})

    assert found({}, Settings(upstreams={"mine": upstream}))["mine"].api_key_env == ""
    assert found({variable: "x"}, Settings(upstreams={"mine": upstream}))["mine"].api_key_env == variable
    assert found({variable: "x"}, Settings(upstreams={"mine": named}))["mine"].api_key_env == "MY_KEY"


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"GEMINI_API_KEY": "x"}, "GEMINI_API_KEY"),
        ({"GOOGLE_API_KEY": "x"}, "GOOGLE_API_KEY"),
        ({"GEMINI_API_KEY": "x", "GOOGLE_API_KEY": "y"}, "GOOGLE_API_KEY"),
        ({"GEMINI_API_KEY": "x", "GOOGLE_API_KEY": " "}, "GEMINI_API_KEY"),
    ],
)
def test_of_two_usual_variables_the_provider_says_which_counts(environment: dict[str, str], variable: str):
    """Google's libraries prefer GOOGLE_API_KEY; so with a preset in the configuration, too."""
    chosen = Settings(upstreams={"g": UpstreamSettings(dialect="gemini", preset="gemini")})

    assert found(environment, dialects=AVAILABLE_DIALECTS)["gemini"].api_key_env == variable
    assert found(environment, chosen, AVAILABLE_DIALECTS)["g"].api_key_env == variable


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("openai", "OPENAI_API_KEY"),
        ("anthropic", "ANTHROPIC_API_KEY"),
        ("gemini", "GEMINI_API_KEY"),
        ("groq", "GROQ_API_KEY"),
        ("openrouter", "OPENROUTER_API_KEY"),
        ("deepseek", "DEEPSEEK_API_KEY"),
        ("mistral", "MISTRAL_API_KEY"),
        ("xai", "XAI_API_KEY"),
        ("together", "TOGETHER_API_KEY"),
        ("fireworks", "FIREWORKS_API_KEY"),
        ("perplexity", "PERPLEXITY_API_KEY"),
    ],
)
def test_every_provider_is_there_with_its_key(name: str, variable: str):
    """With no configuration at all; the address is the provider's own."""
    upstream = found({variable: "x"}, dialects=AVAILABLE_DIALECTS)[name]

    assert (upstream.api_key_env, upstream.preset) == (variable, name)
    assert upstream.base_url == PRESETS[name].base_url


@pytest.mark.parametrize(
    ("endpoint", "base_url"),
    [
        ("https://mine.openai.azure.com/", "https://mine.openai.azure.com/openai/v1"),
        ("https://mine.openai.azure.com/openai/v1/", "https://mine.openai.azure.com/openai/v1"),
    ],
)
def test_azure_is_there_with_its_key_and_its_address(endpoint: str, base_url: str):
    """Every resource has an address of its own, which its usual variable holds."""
    environment = {"AZURE_OPENAI_API_KEY": "x", "AZURE_OPENAI_ENDPOINT": endpoint}

    configured = Settings(upstreams={"mine": UpstreamSettings(dialect="openai-chat", preset="azure")})

    for azure in (found(environment)["azure"], found(environment, configured)["mine"]):
        assert (azure.base_url, azure.api_key_env) == (base_url, "AZURE_OPENAI_API_KEY")
    offered = discover(Configuration(settings=Settings(), origins={}), environment)
    assert offered.origins["upstreams.azure.base_url"] == "AZURE_OPENAI_ENDPOINT"


def test_a_key_goes_to_the_address_that_the_environment_names_for_it():
    """A proxy's key is not shown to the provider."""
    environment = {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": "http://proxy.example:4000/v1/"}

    assert found(environment)["openai"].base_url == "http://proxy.example:4000/v1"
    with pytest.raises(InvalidSettings, match="OPENAI_BASE_URL"):
        found(environment | {"OPENAI_BASE_URL": "proxy.example:4000"})


def test_a_preset_completes_what_is_configured():
    """Address and key variable come from it, unless the configuration has its own."""
    plain = Settings(upstreams={"g": UpstreamSettings(dialect="openai-chat", preset="groq")})
    own = Settings(
        upstreams={
            "g": UpstreamSettings(
                dialect="openai-chat", preset="groq", base_url="http://127.0.0.1:1", api_key_file="/key"
            )
        }
    )

    completed, kept = found({}, plain)["g"], found({}, own)["g"]

    assert (completed.base_url, completed.api_key_env) == ("https://api.groq.com/openai/v1", "GROQ_API_KEY")
    assert (kept.base_url, kept.api_key_env, kept.api_key_file) == ("http://127.0.0.1:1", "", "/key")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("grok", r"upstreams\.g\.preset: unknown; did you mean 'groq'"), ("azure", r"upstreams\.g: base_url is missing")],
)
def test_a_preset_that_cannot_complete_is_refused(preset, expected):
    """Unknown, or without an address that all share."""
    settings = Settings(upstreams={"g": UpstreamSettings(dialect="openai-chat", preset=preset)})

    with pytest.raises(InvalidSettings, match=expected):
        found({}, settings)


def test_the_better_dialect_of_an_upstream_is_taken_where_it_is_there():
    """Ollama speaks two."""
    environment = {"OLLAMA_HOST": "127.0.0.1:11434"}

    assert found(environment)["ollama"].base_url == "http://127.0.0.1:11434/v1"
    native = found(environment, dialects=frozenset({"ollama", "openai-chat", "local"}))["ollama"]
    assert (native.dialect, native.base_url) == ("ollama", "http://127.0.0.1:11434")


def test_configured_upstreams_are_the_only_ones():
    """Nothing is offered that the operator did not write down, but for the local model."""
    settings = Settings(upstreams={"mine": UpstreamSettings(dialect="openai-chat", base_url="http://127.0.0.1:1")})

    assert set(found({"OPENAI_API_KEY": "x"}, settings)) == {"mine", "local"}


def test_a_configured_upstream_named_local_is_kept():
    """The operator's word counts."""
    settings = Settings(upstreams={"local": UpstreamSettings(dialect="openai-chat", base_url="http://127.0.0.1:1")})

    assert found({}, settings)["local"].dialect == "openai-chat"


def test_a_configured_dialect_that_this_version_lacks_is_refused_by_name():
    """With what there is."""
    settings = Settings(upstreams={"mine": UpstreamSettings(dialect="gemini", base_url="http://127.0.0.1:1")})

    with pytest.raises(InvalidSettings, match=r"upstreams\.mine\.dialect: 'gemini'.*local, openai-chat"):
        found({}, settings)


def test_what_was_found_says_from_which_variable():
    """For `midstream config`."""
    configuration = Configuration(settings=Settings(), origins={})

    origins = discover(configuration, {"OPENAI_API_KEY": "x"}).origins

    assert origins["upstreams.openai.base_url"] == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000"),
        (":5000", "http://127.0.0.1:5000"),
        ("box.example", "http://box.example:11434"),
        ("http://box.example", "http://box.example:80"),
        ("https://box.example/", "https://box.example:443"),
        ("https://box.example:8443/ollama/", "https://box.example:8443/ollama"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("[::]", "http://[::1]:11434"),
    ],
)
def test_the_address_of_ollama_is_read_as_ollama_reads_it(host, address):
    """Scheme and port may be missing, and it may be what a server listens on."""
    assert ollama_address(host) == address


def test_an_address_of_ollama_that_is_none_is_refused_by_the_variables_name():
    """Not a traceback of somebody's URL parser."""
    with pytest.raises(InvalidSettings, match="OLLAMA_HOST"):
        ollama_address("127.0.0.1:port")


def test_the_dialects_that_are_offered_are_those_that_are_built():
    """Kept apart because `midstream config` need not load them."""
    assert frozenset({*DIALECTS, "local"}) == AVAILABLE_DIALECTS
