"""Finds the field because of which a request does not decode; the decoder itself names only the message."""

from collections.abc import Iterator
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from midstream_server.errors import FieldViolation
from midstream_server.rpc.violations import keyed

_PACKAGE = "midstream.v1"
_DELIMITED = 2
_MAX_SEARCHED_BYTES = 64 * 1024
"""In more than these, finding the field could hold up the loop for a second."""


def find_malformed(raw: bytes, kind: type[Message]) -> FieldViolation:
    """What is wrong with bytes that do not decode as this message. The field is empty if it is not known."""
    found = _find(raw, cast(Descriptor, kind.DESCRIPTOR), "") if len(raw) <= _MAX_SEARCHED_BYTES else None
    return found or FieldViolation("", "the request cannot be decoded")


def _find(raw: bytes, descriptor: Descriptor, path: str) -> FieldViolation | None:
    seen: dict[int, int] = {}
    for number, data in _delimited_fields(raw):
        field = descriptor.fields_by_number.get(number)
        if field is None:
            continue
        index = seen.get(number, 0)
        seen[number] = index + 1
        found = _check(data, field, _extended(path, field, index))
        if found is not None:
            return found
    return FieldViolation(path, "cannot be decoded") if path else None


def _delimited_fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    # A message without fields keeps all that it is given as unknown fields.
    holder = Empty()
    try:
        holder.ParseFromString(raw)
    except DecodeError:
        return
    fields = UnknownFieldSet(holder)
    for index in range(len(fields)):
        field = fields[index]
        if field.wire_type == _DELIMITED:
            yield field.field_number, field.data


def _extended(path: str, field: FieldDescriptor, index: int) -> str:
    name = f"{path}.{field.name}" if path else field.name
    return f"{name}[{index}]" if field.is_repeated and not _is_map(field) else name


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _check(data: bytes, field: FieldDescriptor, path: str) -> FieldViolation | None:
    if field.type == FieldDescriptor.TYPE_STRING:
        return None if _is_utf8(data) else FieldViolation(path, "is not valid UTF-8")
    if field.message_type is None:
        return None
    try:
        GetMessageClass(field.message_type).FromString(data)
    except DecodeError:
        if _is_map(field):
            return FieldViolation(_entry_path(data, path), "is not valid UTF-8")
        if field.message_type.file.package != _PACKAGE:
            return FieldViolation(path, "cannot be decoded")
        return _find(data, field.message_type, path)
    return None


def _entry_path(data: bytes, path: str) -> str:
    key = dict(_delimited_fields(data)).get(1, b"")
    return keyed(path, key.decode()) if _is_utf8(key) else path


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
