"""Structured logs on standard error: a constant event, facts as keys, no text of a run."""

import asyncio
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TextIO, cast

import stamina
import structlog

_log = structlog.get_logger(__name__)


class _Lossy:
    """A stream on which a line that cannot be written is lost: a full disk, or a pipe that was closed, stops no run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def configure_logs(level: str, form: str) -> None:
    """Sets up the logs of this process, those of libraries too: `console` for people, `json` for machines."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_format_exception),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Lossy(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    of_libraries = logging.StreamHandler(sys.stderr)
    of_libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    # Never below: what a library tells of its work may hold a URL, a header or a body.
    logging.basicConfig(handlers=[of_libraries], level=logging.WARNING, force=True)
    stamina.instrumentation.set_on_retry_hooks([_log_retry])


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    """The library's own line names what is called, here always the same block."""
    wait = round(details.wait_for, 3)
    _log.info("upstream.retry", error=str(details.caused_by), attempt=details.retry_num, wait_seconds=wait)


def log_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An event loop's exception handler. The loop's own shows the exceptions' words."""
    _log.error("loop.error", what=context.get("message"), exc_info=context.get("exception"))


def _format_exception(exc_info: structlog.typing.ExcInfo) -> str:
    """The traceback without the exceptions' own words, which may quote a prompt, a completion or a key."""
    return "".join(_traceback(exc_info[1], set())).rstrip()


def _traceback(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen:
        yield from _traceback(cause, seen)
        yield "\nwhich led to\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}\n"
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield "\nof which a part is\n\n"
        yield from _traceback(part, seen)
