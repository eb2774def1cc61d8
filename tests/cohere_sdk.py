"""Holds our Cohere requests against the types of Cohere's own client.

It needs the package `cohere`, which is no dependency of ours; so it stands alone::

    pip install cohere -e service
    PYTHONPATH=tests python tests/cohere_sdk.py

The tests hold the requests against `cohere_schema`, which was written from the documentation.
"""

import importlib
import inspect
import json
from typing import Any

import pydantic

from cohere_prompts import PROMPTS
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.cohere import CohereDialect

NOT_TYPED = {"stream", "model"}
"""The client sets the one itself; the other is plain."""


def main() -> None:
    """Prints what was understood; a request that is not, or not as a whole, raises."""
    client: Any = importlib.import_module("cohere.v2.raw_client")
    method = client.RawV2Client.chat_stream
    parameters = inspect.signature(method).parameters
    types = inspect.get_annotations(method, eval_str=True)
    for name, prompt in PROMPTS.items():
        body = json.loads(CohereDialect().build_request("m", prompt, Profile()).body)
        for field, value in body.items():
            if field in NOT_TYPED:
                continue
            if field not in parameters:
                raise ValueError(f"{name}: {field} is no field of the client")
            adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(types[field])
            understood = adapter.validate_python(value)
            lost = _lost(value, json.loads(adapter.dump_json(understood, exclude_none=True)))
            if lost or (lost := _unknown(understood)):
                raise ValueError(f"{name}: {field}: {lost} were not understood: {value}")
        print(f"accepted: {name}")


def _unknown(value: Any) -> list[str]:
    """The names of the fields that the client lets pass, but has no types for."""
    if isinstance(value, pydantic.BaseModel):
        return [*(value.model_extra or {}), *(each for _, inner in value for each in _unknown(inner))]
    return [each for inner in value for each in _unknown(inner)] if isinstance(value, list) else []


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
