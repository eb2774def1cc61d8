"""Holds our Ollama requests against the types of Ollama's own client.

It needs the package `ollama`, which is no dependency of ours; so it stands alone::

    pip install ollama -e service
    PYTHONPATH=tests python tests/ollama_sdk.py

The tests hold them against `ollama_schema`, which was written from the documentation.
"""

import importlib
import json
from typing import Any

from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.ollama import OllamaDialect
from ollama_prompts import PROMPTS

NEWER = {"id", "tool_call_id", "min_p", "truncate"}
"""Fields of the API that the client has no types for (0.6.3), and lets pass."""


def main() -> None:
    """Prints what was understood; a request that is not, or not as a whole, raises."""
    request_type: Any = importlib.import_module("ollama._types").ChatRequest
    for name, prompt in PROMPTS.items():
        request = OllamaDialect().build_request("m", prompt, Profile(continue_prefix="assistant_prefill"))
        body = json.loads(request.body)
        understood = json.loads(request_type.model_validate(body).model_dump_json(exclude_none=True))
        lost = set(_lost(body, understood))
        if lost - NEWER:
            raise ValueError(f"{name}: {lost} were not understood: {body}")
        print(f"accepted: {name}{f', but for {sorted(lost)}' if lost else ''}")


def _lost(said: Any, understood: Any) -> list[str]:
    """The names of the fields that are not there any more, or are something else."""
    if isinstance(said, dict):
        here = [name for name in said if name not in understood]
        return here + [each for name in said if name in understood for each in _lost(said[name], understood[name])]
    if isinstance(said, list):
        return [each for ours, theirs in zip(said, understood, strict=True) for each in _lost(ours, theirs)]
    return [] if said == understood else [f"{said} as {understood}"]


if __name__ == "__main__":
    main()
