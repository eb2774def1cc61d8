"""The page that lists what `provider_options` may set, held against the dialects."""

import re
from pathlib import Path

import pytest

from midstream_server.upstreams import ollama
from midstream_server.upstreams.anthropic import request as anthropic_request
from midstream_server.upstreams.cohere import request as cohere_request
from midstream_server.upstreams.gemini import request as gemini_request
from midstream_server.upstreams.openai_chat import request as openai_chat_request
from midstream_server.upstreams.openai_responses import request as openai_responses_request

PAGE = Path(__file__).parents[2] / "docs/provider-options.md"
LISTS = {
    "openai-chat": openai_chat_request._SHAPE,
    "openai-responses": openai_responses_request._OPTIONS,
    "anthropic": anthropic_request._OPTIONS,
    "gemini": gemini_request._OPTIONS | {"generationConfig", "candidateCount", "tools"},
    "ollama": ollama._OPTIONS,
    "cohere": cohere_request._OPTIONS,
}


@pytest.mark.parametrize("dialect", LISTS)
def test_the_page_lists_what_a_dialect_takes(dialect: str):
    """A field that is added to a dialect, or taken away, is on the page, or not."""
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{dialect}` |"))

    assert set(re.findall(r"`([^`]+)`", row)[1:]) == LISTS[dialect]
