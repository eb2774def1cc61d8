"""What is wrong with a request, collected field by field, and the checks that many fields share."""

import enum
import functools
import json
import re
from typing import NoReturn

from google.protobuf.duration_pb2 import Duration

from midstream_server.errors import FieldViolation, InvalidRequest

MAX_VIOLATIONS = 50
"""Nobody reads more, and a request may hold ten thousand."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NANOSECONDS = 1_000_000_000
_SHOWN_KEY_LENGTH = 64


class Violations:
    """Collects violations. Field paths are 0-based snake case."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        """Notes that a field is wrong."""
        if len(self._found) < MAX_VIOLATIONS:
            self._found.append(FieldViolation(field, description))

    def raise_any(self) -> None:
        """Ends the check.

        Raises:
            InvalidRequest: something is wrong.
        """
        if self._found:
            raise InvalidRequest(*self._found)

    def require(self, field: str, value: str | bytes) -> None:
        """Checks that a value is there."""
        if not value:
            self.add(field, "is required")

    def identifier(self, field: str, value: str) -> None:
        """Checks an id; an empty one is left to `require`."""
        if value and not _IDENTIFIER.fullmatch(value):
            self.add(field, f"must match {_IDENTIFIER.pattern}")

    def function_name(self, field: str, value: str) -> None:
        """Checks the name of a tool or of a schema, which is required."""
        if not _FUNCTION_NAME.fullmatch(value):
            self.add(field, f"must match {_FUNCTION_NAME.pattern}" if value else "is required")

    def byte_length(self, field: str, value: str, *, minimum: int = 0, maximum: int) -> None:
        """Checks the length of a text in UTF-8."""
        if not minimum <= len(value.encode()) <= maximum:
            self.add(field, f"must have {minimum} to {maximum} bytes")

    def known(self, field: str, value: int, kind: type[enum.IntEnum]) -> None:
        """Checks an enum's number. 0 is known: it means the default."""
        if value and value not in _numbers(kind):
            self.add(field, f"has the unknown value {value}")

    def at_least_one(self, field: str, value: int) -> None:
        """Checks a count."""
        if value < 1:
            self.add(field, "must be at least 1")

    def between(self, field: str, value: float, minimum: float, maximum: float) -> None:
        """Checks a number. NaN is between nothing."""
        if not minimum <= value <= maximum:
            self.add(field, f"must be from {minimum:g} to {maximum:g}")

    def above_zero(self, field: str, value: float, maximum: float) -> None:
        """Checks a number that must not be 0. NaN is not above it."""
        if not 0 < value <= maximum:
            self.add(field, f"must be more than 0 and at most {maximum:g}")

    def duration(self, field: str, value: Duration, maximum_seconds: int) -> None:
        """Checks a duration that may be 0."""
        if not 0 <= _nanoseconds(value) <= maximum_seconds * _NANOSECONDS or not _is_whole(value):
            self.add(field, f"must be a duration from 0 to {maximum_seconds} seconds")

    def duration_above_zero(self, field: str, value: Duration, maximum_seconds: int) -> None:
        """Checks a duration that must not be 0."""
        if not 0 < _nanoseconds(value) <= maximum_seconds * _NANOSECONDS or not _is_whole(value):
            self.add(field, f"must be a duration of more than 0 and at most {maximum_seconds} seconds")

    def json_object(self, field: str, value: str) -> None:
        """Checks that a text is a JSON object."""
        try:
            is_object = isinstance(_JSON.decode(value), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            self.add(field, "must be a JSON object as text")


def keyed(field: str, key: str) -> str:
    """The path of a map's value: `labels["key"]`. A long key is shown in part."""
    shown = key if len(key) <= _SHOWN_KEY_LENGTH else key[:_SHOWN_KEY_LENGTH] + "…"
    return f"{field}[{json.dumps(shown, ensure_ascii=False)}]"


@functools.cache
def _numbers(kind: type[enum.IntEnum]) -> frozenset[int]:
    return frozenset(int(each) for each in kind)


def _nanoseconds(value: Duration) -> int:
    return value.seconds * _NANOSECONDS + value.nanos


def _is_whole(value: Duration) -> bool:
    """Whether a duration that is not negative has its two fields in range, and of one sign."""
    return value.seconds >= 0 and 0 <= value.nanos < _NANOSECONDS


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _same(number: str) -> str:
    return number


# Numbers stay text: only the shape counts, and a number of a million digits would cost seconds.
_JSON = json.JSONDecoder(parse_constant=_refuse, parse_int=_same, parse_float=_same)
