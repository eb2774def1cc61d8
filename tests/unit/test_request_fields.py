"""Every field of every request: what is refused, under which path, and what is accepted.

The rows cover the contract: a new field without a row fails the first test.
"""

from collections.abc import Iterator
from typing import cast

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from midstream_server.errors import InvalidRequest
from request_rows import ACCEPTED, ANYTHING_GOES, METHODS, REFUSED, Method


def test_every_field_of_every_request_has_rows():
    """A field that is added to the contract must be given rows here, and so a check, or be declared free."""
    fields = set(_all_fields())

    assert {field for field, _ in ACCEPTED} == fields
    assert {field for field, _, _ in REFUSED} | ANYTHING_GOES == fields
    assert not {field for field, _, _ in REFUSED} & ANYTHING_GOES


@pytest.mark.parametrize(("field", "text", "wrong"), REFUSED, ids=[f"{row[0]}-{row[1][:60]}" for row in REFUSED])
def test_a_wrong_field_is_refused_by_its_path(field: str, text: str, wrong: list[str]):
    """The violations name exactly the fields that are wrong."""
    method, request = _merged(field, text)

    with pytest.raises(InvalidRequest) as caught:
        method.read(request.SerializeToString())

    assert [violation.field for violation in caught.value.violations] == wrong


@pytest.mark.parametrize(("field", "text"), ACCEPTED, ids=[f"{row[0]}-{row[1][:60]}" for row in ACCEPTED])
def test_a_right_field_is_accepted(field: str, text: str):
    """Values at the limits, and one of each kind, pass."""
    method, request = _merged(field, text)

    method.read(request.SerializeToString())


@pytest.mark.parametrize(
    ("request_name", "field"),
    [("GenerateRequest", "model"), ("GenerateRequest", "messages")]
    + [(name, "run_id") for name in ("WatchRunRequest", "CancelRequest", "GetRunRequest", "DeleteRunRequest")],
)
def test_a_missing_field_is_refused_by_its_path(request_name: str, field: str):
    """What is required and absent is named."""
    request = type(METHODS[request_name].valid)()
    request.CopyFrom(METHODS[request_name].valid)
    request.ClearField(field)

    with pytest.raises(InvalidRequest) as caught:
        METHODS[request_name].read(request.SerializeToString())

    assert [violation.field for violation in caught.value.violations] == [field]


# --- Helpers ---------------------------------------------------------------------------------------------------------


def _all_fields() -> Iterator[str]:
    """The fields of all requests and of all our messages in them; maps and well-known types are values."""
    seen: set[str] = set()
    pending = [cast(Descriptor, method.valid.DESCRIPTOR) for method in METHODS.values()]
    while pending:
        descriptor = pending.pop()
        if descriptor.full_name in seen:
            continue
        seen.add(descriptor.full_name)
        for field in descriptor.fields:
            yield f"{descriptor.name}.{field.name}"
            kind = field.message_type
            if kind is not None and kind.file.package == "midstream.v1" and not kind.GetOptions().map_entry:
                pending.append(kind)


def _merged(field: str, text: str) -> tuple[Method, Message]:
    owner = field.partition(".")[0]
    method = METHODS.get(owner, METHODS["GenerateRequest"])
    request = type(method.valid)()
    request.CopyFrom(method.valid)
    text_format.Merge(text, request)
    return method, request
