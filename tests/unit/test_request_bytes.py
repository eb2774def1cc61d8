"""Requests that do not decode, or not in full: INVALID_ARGUMENT with the field, never an internal error."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from midstream.v1 import generation_service_pb2 as wire
from midstream_server.errors import InvalidRequest
from request_rows import METHODS, read_generate


@dataclass(frozen=True)
class Place:
    """A string field's place in a request: its path, and the bytes of a request whose string there is `data`."""

    request_name: str
    path: str
    encode: Callable[[bytes], bytes]


Wrap = Callable[[bytes], bytes]


def _places(name: str, descriptor: Descriptor, path: str, wrap: Wrap, depth: int) -> Iterator[Place]:
    for field in descriptor.fields:
        inner = partial(_field_of, wrap, field.number)
        field_path = f"{path}.{field.name}" if path else field.name
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            yield Place(name, f'{field_path}["k"]', partial(_after, inner, b"\x0a\x01k\x12"))
            yield Place(name, field_path, partial(_after, inner, b"\x0a"))
            continue
        field_path += "[0]" if field.is_repeated else ""
        if field.type == FieldDescriptor.TYPE_STRING:
            yield Place(name, field_path, inner)
        elif kind is not None and kind.file.package == "midstream.v1" and depth:
            yield from _places(name, kind, field_path, inner, depth - 1)


def _field_of(wrap: Wrap, number: int, data: bytes) -> bytes:
    return wrap(_delimited(number, data))


def _after(wrap: Wrap, prefix: bytes, data: bytes) -> bytes:
    return wrap(prefix + _sized(data))


def _sized(data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([len(data)]) + data


def _delimited(number: int, data: bytes) -> bytes:
    tag = number << 3 | 2
    return (bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])) + _sized(data)


PLACES = [
    place
    for name, method in METHODS.items()
    for place in _places(name, cast(Descriptor, method.valid.DESCRIPTOR), "", lambda data: data, depth=4)
]


@pytest.mark.parametrize("place", PLACES, ids=[f"{place.request_name}.{place.path}" for place in PLACES])
def test_invalid_utf8_is_refused_by_its_path(place: Place):
    """Bytes that are no text are the caller's fault, wherever they stand; never an internal error."""
    with pytest.raises(InvalidRequest) as caught:
        METHODS[place.request_name].read(place.encode(b"\xff\xfe"))

    assert [violation.field for violation in caught.value.violations] == [place.path]


def test_invalid_utf8_within_provider_options_names_them():
    """Of a Struct the options as a whole are named."""
    raw = _delimited(15, _delimited(1, b"\x0a\x01k\x12" + _sized(b"\x1a\x02\xff\xfe")))

    with pytest.raises(InvalidRequest) as caught:
        read_generate(raw)

    assert [violation.field for violation in caught.value.violations] == ["provider_options"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "raw", [b"\x0a\x05ab", b"\xff\xff\xff", b"\x0b", b"\x0a"], ids=["cut", "varint", "group", "tag"]
)
def test_bytes_that_are_no_protobuf_are_refused(name: str, raw: bytes):
    """Damaged bytes are INVALID_ARGUMENT like any other wrong request."""
    with pytest.raises(InvalidRequest) as caught:
        METHODS[name].read(raw)

    assert [violation.field for violation in caught.value.violations] == [""]


def test_a_damaged_message_inside_is_refused_by_its_path():
    """The message that does not decode is named."""
    raw = METHODS["GenerateRequest"].valid.SerializeToString() + _delimited(3, b"\x08\x03") + _delimited(3, b"\x12\x7f")

    with pytest.raises(InvalidRequest) as caught:
        read_generate(raw)

    assert [violation.field for violation in caught.value.violations] == ["messages[2]"]


def test_a_large_request_that_does_not_decode_is_not_searched():
    """Finding the field must not hold up the others: beyond 64 KiB only the fact is told."""
    raw = _delimited(1, b"\xff") + b"\x22\x80\x80\x08" + b"\x00" * 131_072

    with pytest.raises(InvalidRequest) as caught:
        read_generate(raw)

    assert [violation.field for violation in caught.value.violations] == [""]


def test_values_nested_too_deeply_are_refused():
    """Deeper than the decoder goes is the caller's fault."""
    request = wire.GenerateRequest()
    options = request.provider_options
    for _ in range(60):
        options = options.fields["a"].struct_value
    options.SetInParent()

    with pytest.raises(InvalidRequest):
        read_generate(request.SerializeToString())


def test_a_request_of_more_than_4_mib_is_refused():
    """Whatever the transport lets through."""
    raw = METHODS["GenerateRequest"].valid.SerializeToString()
    padding = 4 * 1024 * 1024 - len(raw)

    with pytest.raises(InvalidRequest) as caught:
        read_generate(raw + b"\x00" * (padding + 1))

    assert "4194304 bytes" in caught.value.message


def test_all_that_is_wrong_is_told_at_once_up_to_50():
    """A caller need not mend a request one field at a time, and a huge wrong request makes a small answer."""
    request = wire.GenerateRequest(run_id="-", retention=Duration(seconds=-1))
    for _ in range(100):
        request.messages.add()

    with pytest.raises(InvalidRequest) as caught:
        read_generate(request.SerializeToString())

    fields = [violation.field for violation in caught.value.violations]
    assert len(fields) == 50
    assert fields[:4] == ["run_id", "model", "messages[0].role", "messages[0].parts"]


def test_unknown_fields_are_ignored():
    """A later client's request is read as far as it is known."""
    for method in METHODS.values():
        method.read(method.valid.SerializeToString() + b"\xf8\x7f\x01")
