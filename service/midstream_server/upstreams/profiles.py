"""Well-known endpoints, as data: what a configuration need not say of them.

A preset is a start: whatever a configuration says of an upstream comes over it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from midstream_server.upstreams.base import Profile

_OPENAI_CHAT = "openai-chat"
_TOP_K = {"top_k": "top_k"}
_INCLUDE_REASONING = {"reasoning.include": "include_reasoning"}
_relative = partial(Profile, developer_role="system", reasoning_history="")
"""Of an endpoint that is not OpenAI's own."""
_OPENAI = Profile(reasoning_history="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """An endpoint that many use."""

    base_url: str
    """Empty: every user has another."""
    key_variables: tuple[str, ...] = ()
    """The environment variables that usually hold its key; the first that is set counts."""
    address_variable: str = ""
    """The environment variable that usually holds another address,"""
    address_path: str = ""
    """which lacks this to be a `base_url`."""
    dialect: str = _OPENAI_CHAT
    profile: Profile = Profile()


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # https://platform.openai.com/docs/api-reference/chat
        "openai": Preset(
            base_url="https://api.openai.com/v1",
            key_variables=("OPENAI_API_KEY",),
            address_variable="OPENAI_BASE_URL",
            profile=_OPENAI,
        ),
        # https://platform.openai.com/docs/api-reference/responses: the same key, so only a configuration chooses it.
        "openai-responses": Preset(
            base_url="https://api.openai.com/v1", key_variables=("OPENAI_API_KEY",), dialect="openai-responses"
        ),
        # https://platform.claude.com/docs/en/api/overview; models before 4.6 go on with a partial answer.
        "anthropic": Preset(
            base_url="https://api.anthropic.com",
            key_variables=("ANTHROPIC_API_KEY",),
            address_variable="ANTHROPIC_BASE_URL",
            dialect="anthropic",
            profile=Profile(continue_prefix="assistant_prefill"),
        ),
        # https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle: base_url is the resource's own.
        "azure": Preset(
            base_url="",
            key_variables=("AZURE_OPENAI_API_KEY",),
            address_variable="AZURE_OPENAI_ENDPOINT",
            address_path="/openai/v1",
            profile=_OPENAI,
        ),
        # https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
        "vllm": Preset(
            base_url="http://localhost:8000/v1",
            key_variables=("VLLM_API_KEY",),
            profile=_relative(
                running_usage="continuous_usage_stats",
                continue_prefix="continue_final_message",
                max_tokens_field="max_tokens",
                parameter_fields={**_TOP_K, **_INCLUDE_REASONING},
            ),
        ),
        # https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
        "llamacpp": Preset(
            base_url="http://localhost:8080/v1",
            key_variables=("LLAMA_API_KEY",),
            profile=_relative(
                running_usage="timings",
                continue_prefix="assistant_prefill",
                connection_close=True,
                max_tokens_field="max_tokens",
                parameter_fields=_TOP_K,
            ),
        ),
        # https://docs.sglang.io/docs/basic_usage/openai_api_completions: a server of one's own.
        "sglang": Preset(
            base_url="http://localhost:30000/v1",
            profile=_relative(
                running_usage="continuous_usage_stats",
                continue_prefix="continue_final_message",
                max_tokens_field="max_tokens",
                parameter_fields=_TOP_K,
            ),
        ),
        # https://console.groq.com/docs/api-reference#chat-create
        "groq": Preset(
            base_url="https://api.groq.com/openai/v1",
            key_variables=("GROQ_API_KEY",),
            profile=_relative(parameter_fields=_INCLUDE_REASONING),
        ),
        # https://openrouter.ai/docs/api-reference/parameters
        "openrouter": Preset(
            base_url="https://openrouter.ai/api/v1",
            key_variables=("OPENROUTER_API_KEY",),
            profile=_relative(
                max_tokens_field="max_tokens",
                parameter_fields={**_TOP_K, **_INCLUDE_REASONING},
                reasoning_history="reasoning_details",
            ),
        ),
        # https://api-docs.deepseek.com/guides/chat_prefix_completion: prefixes need the beta address; it has all.
        # https://api-docs.deepseek.com/guides/thinking_mode: calls whose reasoning does not come back are refused.
        "deepseek": Preset(
            base_url="https://api.deepseek.com/beta",
            key_variables=("DEEPSEEK_API_KEY",),
            profile=_relative(
                continue_prefix="prefix_flag",
                max_tokens_field="max_tokens",
                parameter_fields={"seed": ""},
                reasoning_history="reasoning_content",
            ),
        ),
        # https://docs.mistral.ai/api/: refuses fields that it does not know.
        "mistral": Preset(
            base_url="https://api.mistral.ai/v1",
            key_variables=("MISTRAL_API_KEY",),
            profile=_relative(
                usage_option=False,
                continue_prefix="prefix_flag",
                max_tokens_field="max_tokens",
                parameter_fields={"seed": "random_seed", "logprobs": "", "top_logprobs": ""},
            ),
        ),
        # https://docs.x.ai/docs/api-reference#chat-completions
        "xai": Preset(base_url="https://api.x.ai/v1", key_variables=("XAI_API_KEY",), profile=_relative()),
        # https://docs.together.ai/reference/chat-completions-1
        "together": Preset(
            base_url="https://api.together.xyz/v1",
            key_variables=("TOGETHER_API_KEY",),
            profile=_relative(max_tokens_field="max_tokens", parameter_fields=_TOP_K),
        ),
        # https://docs.fireworks.ai/api-reference/post-chatcompletions
        "fireworks": Preset(
            base_url="https://api.fireworks.ai/inference/v1",
            key_variables=("FIREWORKS_API_KEY",),
            profile=_relative(max_tokens_field="max_tokens", parameter_fields=_TOP_K),
        ),
        # https://docs.perplexity.ai/api-reference/chat-completions-post
        "perplexity": Preset(
            base_url="https://api.perplexity.ai",
            key_variables=("PERPLEXITY_API_KEY",),
            profile=_relative(
                usage_option=False,
                max_tokens_field="max_tokens",
                parameter_fields={**_TOP_K, "seed": "", "logprobs": "", "top_logprobs": ""},
            ),
        ),
        # https://lmstudio.ai/docs/developer/openai-compat
        "lmstudio": Preset(
            base_url="http://localhost:1234/v1",
            key_variables=("LM_API_TOKEN",),
            profile=_relative(max_tokens_field="max_tokens", parameter_fields=_TOP_K),
        ),
        # https://ai.google.dev/gemini-api/docs/api-key: of the two variables GOOGLE_API_KEY takes precedence.
        "gemini": Preset(
            dialect="gemini",
            base_url="https://generativelanguage.googleapis.com",
            key_variables=("GOOGLE_API_KEY", "GEMINI_API_KEY"),
        ),
        # https://docs.cohere.com/reference/about: its clients read these variables, the first as documented.
        "cohere": Preset(
            dialect="cohere",
            base_url="https://api.cohere.com",
            key_variables=("CO_API_KEY", "COHERE_API_KEY"),
            address_variable="CO_API_URL",
        ),
        # https://docs.ollama.com/api/introduction: a server of one's own needs no key, Ollama's own does.
        "ollama": Preset(dialect="ollama", base_url="http://localhost:11434"),
        "ollama-cloud": Preset(dialect="ollama", base_url="https://ollama.com", key_variables=("OLLAMA_API_KEY",)),
        # https://docs.ollama.com/api/openai-compatibility
        "ollama-v1": Preset(base_url="http://localhost:11434/v1", profile=_relative(max_tokens_field="max_tokens")),
    }
)
