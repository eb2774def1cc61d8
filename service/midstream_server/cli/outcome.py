"""How a command ends: its exit code, and one plain sentence if something went wrong."""

from collections.abc import Callable

from midstream_server.cli import terminal
from midstream_server.errors import InvalidSettings, MidstreamError


def outcome(command: Callable[[], int], server: str = "") -> int:
    """Runs a command and returns its exit code; says what went wrong on standard error."""
    try:
        return command()
    except BrokenPipeError:
        terminal.abandon_output()
        return terminal.READER_GONE
    except KeyboardInterrupt:
        return terminal.INTERRUPTED
    except InvalidSettings as error:
        terminal.complain(error.message)
        return terminal.USAGE
    except MidstreamError as error:
        terminal.complain(f"{error.message} ({error.reason})")
        return terminal.FAILED
    except Exception as error:
        return _client_outcome(error, server)


def _client_outcome(error: Exception, server: str) -> int:
    from midstream_client.errors import MidstreamClientError

    if not isinstance(error, MidstreamClientError):
        raise error
    terminal.complain(sentence(error, server))
    return terminal.FAILED


def sentence(error: Exception, server: str) -> str:
    """What a failed call means, for a person."""
    from midstream_client.errors import ConnectionLost, InvalidRequest, MidstreamClientError

    match error:
        case ConnectionLost() if not error.last_sequence:
            return f"there is no Midstream at {server}; start one with 'midstream serve', or name another with --server"
        case InvalidRequest() if error.field_violations:
            fields = "; ".join(f"{each.field}: {each.description}" for each in error.field_violations)
            return f"the request is not valid: {fields}"
        case MidstreamClientError() if error.reason:
            return f"{error.message} ({error.reason})"
    return str(error)
