"""How a command ends: its exit code, and one plain sentence if something went wrong."""

import socket
from collections.abc import Callable

from midstream_server.cli import terminal
from midstream_server.errors import InvalidSettings, MidstreamError

_CONNECT_SECONDS = 3.0


class CommandFailed(Exception):
    """A command cannot do what it was asked; the message says why. Not an error of the server's tree: never sent."""


def require_server(server: str) -> None:
    """Finds out at once what the client, which would go on trying, finds out late.

    Raises:
        CommandFailed: nothing accepts connections there.
    """
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        return  # A name of another kind, for gRPC to understand.
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise CommandFailed(
            f"there is no Midstream at {server}; start one with 'midstream serve', or name another with --server"
        ) from error


def outcome(command: Callable[[], int], server: str = "") -> int:
    """Runs a command and returns its exit code; says what went wrong on standard error."""
    try:
        return command()
    except KeyboardInterrupt:
        return terminal.INTERRUPTED
    except Exception as error:
        return _told(error, server)


def _told(error: Exception, server: str) -> int:
    cause = _sole_cause(error)
    match cause:
        case BrokenPipeError():
            terminal.abandon_output()
            return terminal.READER_GONE
        case InvalidSettings():
            terminal.complain(cause.message)
            return terminal.USAGE
        case MidstreamError() | CommandFailed():
            terminal.complain(str(cause))
            return terminal.FAILED
    return _told_by_client(cause, server, error)


def _told_by_client(cause: BaseException, server: str, error: Exception) -> int:
    from midstream_client.errors import MidstreamClientError

    if not isinstance(cause, MidstreamClientError):
        raise error
    terminal.complain(sentence(cause, server))
    return terminal.FAILED


def _sole_cause(error: BaseException) -> BaseException:
    """What a group of one error is about: one part of the server failed, and its group carried it here."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def sentence(error: BaseException, server: str) -> str:
    """What a failed call means, for a person."""
    from midstream_client.errors import ConnectionLost, InvalidRequest, MidstreamClientError

    match error:
        case ConnectionLost() if error.run_id:
            return f"the connection to {server} was lost; 'midstream watch {error.run_id}' goes on if the run does"
        case ConnectionLost():
            return f"the server at {server} does not answer; if it speaks TLS, name its authority with --tls-ca"
        case InvalidRequest() if error.field_violations:
            fields = "; ".join(f"{each.field}: {each.description}" for each in error.field_violations)
            return f"the request is not valid: {fields}"
        case MidstreamClientError() if error.reason:
            return f"{error.message} ({error.reason})"
    return str(error)
