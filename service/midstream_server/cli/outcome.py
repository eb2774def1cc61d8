"""How a command ends: its exit code, and one plain sentence if something went wrong."""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from midstream_server.cli import terminal
from midstream_server.errors import InvalidSettings, MidstreamError

if TYPE_CHECKING:
    from midstream_server.cli.endpoint import Endpoint

_CONNECT_SECONDS = 3.0


class CommandFailed(Exception):
    """A command cannot do what it was asked; the message says why. Not an error of the server's tree: never sent."""


def require_server(server: str) -> None:
    """Finds out at once what the client, which would go on trying, finds out late.

    Raises:
        CommandFailed: it is no address, or nothing accepts connections there.
    """
    host, colon, port = server.rpartition(":")
    if not colon:
        raise CommandFailed(f"--server must be HOST:PORT, such as 127.0.0.1:50051 (it is '{server}')")
    if not host or not port.isdigit():
        return  # A name of another kind, for gRPC to understand.
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise CommandFailed(
            f"there is no Midstream at {server}; start one with 'midstream serve', or name another with --server"
        ) from error


def outcome(command: Callable[[], int], endpoint: "Endpoint | None" = None) -> int:
    """Runs a command, which calls the endpoint, and returns its exit code; says on standard error what went wrong."""
    try:
        return command()
    except KeyboardInterrupt:
        return terminal.INTERRUPTED
    except Exception as error:
        return _told(error, endpoint)


def _told(error: Exception, endpoint: "Endpoint | None") -> int:
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
    return _told_by_client(cause, endpoint, error)


def _told_by_client(cause: BaseException, endpoint: "Endpoint | None", error: Exception) -> int:
    from midstream_client.errors import MidstreamClientError

    if not isinstance(cause, MidstreamClientError) or endpoint is None:
        raise error
    terminal.complain(sentence(cause, endpoint))
    return terminal.FAILED


def _sole_cause(error: BaseException) -> BaseException:
    """What a group of one error is about: one part of the server failed, and its group carried it here."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def sentence(error: BaseException, endpoint: "Endpoint") -> str:
    """What a failed call means, for a person."""
    from midstream_client.errors import ConnectionLost, InvalidRequest, MidstreamClientError, ModelNotFound

    match error:
        case ConnectionLost() if error.last_sequence:
            return (
                f"the connection to {endpoint.address} was lost; "
                f"'midstream watch {error.run_id}' goes on if the run does"
            )
        case ConnectionLost():
            return silence(endpoint)
        case InvalidRequest() if error.field_violations:
            fields = "; ".join(f"{each.field}: {each.description}" for each in error.field_violations)
            return f"the request is not valid: {fields}"
        case ModelNotFound():
            return f"{error.message} ({error.reason}); 'midstream models' lists what there is"
        case MidstreamClientError() if error.reason:
            return f"{error.message} ({error.reason})"
    return str(error)


def silence(endpoint: "Endpoint") -> str:
    """What it means that a server accepts connections and no call."""
    if endpoint.ca is None and endpoint.cert is None:
        return f"the server at {endpoint.address} does not answer; if it speaks TLS, name its authority with --tls-ca"
    wants = "" if endpoint.cert else ", and does it ask for a certificate (--tls-cert)?"
    return (
        f"the server at {endpoint.address} does not answer; does it speak TLS, with a certificate "
        f"for this name from an authority in --tls-ca{wants or '?'}"
    )
