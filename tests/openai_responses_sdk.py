"""Holds our Responses requests against the types of the provider's own SDK.

It needs the package `openai`, which is no dependency of ours; so it stands alone::

    pip install openai pydantic -e service
    PYTHONPATH=tests python tests/openai_responses_sdk.py

The tests hold them against `openai_responses_schema`, which was written from the documentation.
"""

import importlib
import json
from typing import Any

from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from openai_responses_prompts import PROMPTS


def main() -> None:
    """Prints what was accepted; a request that is not, or not as a whole, raises."""
    request_type = _adapter("response_create_params", "ResponseCreateParamsStreaming")
    item_type = _adapter("response_input_param", "ResponseInputItemParam")
    for name, prompt in PROMPTS.items():
        body = json.loads(OpenAIResponsesDialect().build_request("o4-mini", prompt, Profile()).body)
        for item in body["input"]:
            _check(name, item, _understood(item_type, item))
        understood = _understood(request_type, body)
        for field in body.keys() - {"input"}:
            _check(name, body[field], understood.get(field))
        print(f"accepted: {name}")


def _check(name: str, said: object, understood: object) -> None:
    if said != understood:
        raise ValueError(f"{name}: {said} was understood as {understood}")


def _adapter(module: str, name: str) -> Any:
    pydantic: Any = importlib.import_module("pydantic")
    return pydantic.TypeAdapter(getattr(importlib.import_module(f"openai.types.responses.{module}"), name))


def _understood(adapter: Any, value: object) -> Any:
    return json.loads(adapter.dump_json(adapter.validate_python(value)))


if __name__ == "__main__":
    main()
