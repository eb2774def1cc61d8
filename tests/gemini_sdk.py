"""Holds our Gemini requests against the types of the provider's own SDK.

It needs the package `google-genai`, which is no dependency of ours; so it stands alone::

    pip install google-genai -e service
    PYTHONPATH=tests python tests/gemini_sdk.py

The tests hold them against `gemini_schema`, which was written from the documentation.
"""

import importlib
import json
from typing import Any

from gemini_prompts import PROMPTS
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.gemini import GeminiDialect

TYPES = {
    "contents": "Content",
    "systemInstruction": "Content",
    "tools": "Tool",
    "toolConfig": "ToolConfig",
    "generationConfig": "GenerationConfig",
    "safetySettings": "SafetySetting",
}
"""Of the fields of a request; the SDK has no type for the whole. All forbid fields that they do not know."""


def main() -> None:
    """Prints what was accepted; a request that is not raises."""
    types: Any = importlib.import_module("google.genai.types")
    for name, prompt in PROMPTS.items():
        request = GeminiDialect().build_request("m", prompt, Profile(continue_prefix="assistant_prefill"))
        body = json.loads(request.body)
        for field in TYPES.keys() & body.keys():
            values = body[field] if isinstance(body[field], list) else [body[field]]
            for value in values:
                getattr(types, TYPES[field]).model_validate(value)
        print(f"accepted: {name}, {', '.join(sorted(TYPES.keys() & body.keys()))}")


if __name__ == "__main__":
    main()
