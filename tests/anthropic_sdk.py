"""Holds our Messages requests against the types of the provider's own SDK.

It needs the package `anthropic`, which is no dependency of ours; so it stands alone::

    pip install anthropic pydantic -e service
    PYTHONPATH=tests python tests/anthropic_sdk.py

The tests hold them against `anthropic_schema`, which was written from the documentation.
"""

import importlib
import json
from typing import Any

from anthropic_prompts import PROMPTS
from midstream_server.upstreams.anthropic import AnthropicDialect
from midstream_server.upstreams.base import Profile

OF_THE_OLDER_VERSION = {"temperature", "top_p", "top_k"}
"""Fields of the API version that we speak which the SDK's types have no longer since its release 2."""


def main() -> None:
    """Prints what was accepted; a request that is not, or not as a whole, raises."""
    request_type = _adapter("message_create_params", "MessageCreateParamsStreaming")
    block_type = _adapter("content_block_param", "ContentBlockParam")
    for name, prompt in PROMPTS.items():
        request = AnthropicDialect().build_request("m", prompt, Profile(continue_prefix="assistant_prefill"))
        body = json.loads(request.body)
        contents = [message["content"] for message in body["messages"]]
        for block in (block for content in contents if isinstance(content, list) for block in content):
            if block != (understood := _understood(block_type, block)):
                raise ValueError(f"{name}: {block} was understood as {understood}")
        understood = _understood(request_type, body)
        lost = {field for field in body.keys() - {"messages"} if body[field] != understood.get(field)}
        if lost - OF_THE_OLDER_VERSION:
            raise ValueError(f"{name}: {lost} were not understood: {body}")
        print(f"accepted: {name}{f', but for {sorted(lost)}' if lost else ''}")


def _adapter(module: str, name: str) -> Any:
    pydantic: Any = importlib.import_module("pydantic")
    return pydantic.TypeAdapter(getattr(importlib.import_module(f"anthropic.types.{module}"), name))


def _understood(adapter: Any, value: object) -> Any:
    return json.loads(adapter.dump_json(adapter.validate_python(value)))


if __name__ == "__main__":
    main()
