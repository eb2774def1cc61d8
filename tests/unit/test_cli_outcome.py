"""What a command says when something went wrong, and with which exit code."""

import socket

import pytest

from midstream_client import errors as client_errors
from midstream_server.cli.endpoint import Endpoint
from midstream_server.cli.outcome import CommandFailed, outcome, require_server, sentence, silence
from midstream_server.errors import InvalidSettings, StoreLocked

HERE = Endpoint("127.0.0.1:50051")


def failing(error: BaseException) -> int:
    """The exit code of a command that fails so."""

    def command() -> int:
        raise error

    return outcome(command, HERE)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InvalidSettings("listen: taken; take another"), 2, "midstream: listen: taken; take another\n"),
        (StoreLocked("another process uses the store"), 1, "midstream: another process uses the store\n"),
        (CommandFailed("it cannot"), 1, "midstream: it cannot\n"),
        (ExceptionGroup("a task group", [ExceptionGroup("another", [CommandFailed("it")])]), 1, "midstream: it\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_went_wrong_is_one_sentence_and_an_exit_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
):
    """2 is for what a person can mend in the settings, 1 for the rest."""
    assert failing(error) == code
    assert capsys.readouterr() == ("", said)


def test_a_bug_of_ours_keeps_its_traceback():
    """Nothing is made of it that would hide where it is."""
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


def test_an_error_of_the_client_is_a_bug_where_nobody_is_called():
    """There is no server to speak of."""

    def command() -> int:
        raise client_errors.ModelNotFound("no such model")

    with pytest.raises(client_errors.ModelNotFound):
        outcome(command)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            client_errors.ModelNotFound("no such model", reason="MODEL_NOT_FOUND"),
            "no such model (MODEL_NOT_FOUND); 'midstream models' lists what there is",
        ),
        (client_errors.RunNotFound("no such run", reason="RUN_NOT_FOUND"), "no such run (RUN_NOT_FOUND)"),
        (client_errors.StreamGapError("a gap"), "a gap (STREAM_GAP)"),
        (
            client_errors.InvalidRequest(
                "invalid",
                reason="INVALID_REQUEST",
                field_violations=(
                    client_errors.FieldViolation("run_id", "must match"),
                    client_errors.FieldViolation("model", "is missing"),
                ),
            ),
            "the request is not valid: run_id: must match; model: is missing",
        ),
    ],
)
def test_a_call_that_failed_is_told_with_what_to_do(error: client_errors.MidstreamClientError, said: str):
    """By its reason."""
    assert sentence(error, HERE) == said


def test_a_lost_connection_names_the_run_if_it_was_seen_to_begin():
    """One that nobody has seen begin cannot be watched; the server is then what does not answer."""
    lost = client_errors.ConnectionLost()
    lost.run_id = "r"

    assert sentence(lost, HERE) == silence(HERE)
    lost.last_sequence = 1
    assert "'midstream watch r'" in sentence(lost, HERE)


def test_a_server_that_does_not_answer_may_speak_tls_or_not():
    """The advice is what was not tried yet."""
    plain, trusting = silence(HERE), silence(Endpoint(HERE.address, "ca.pem"))
    known = silence(Endpoint(HERE.address, "ca.pem", "me.pem"))

    assert "name its authority with --tls-ca" in plain
    assert "does it speak TLS" in trusting
    assert "does it ask for a certificate (--tls-cert)?" in trusting
    assert "does it speak TLS" in known
    assert "--tls-cert" not in known


@pytest.mark.parametrize("server", ["127.0.0.1", "nowhere", "50051"])
def test_a_server_without_a_port_is_told_the_form(server: str):
    """Not that nothing answers there."""
    with pytest.raises(CommandFailed, match=r"--server must be HOST:PORT, such as 127\.0\.0\.1:50051"):
        require_server(server)


@pytest.mark.parametrize("server", ["127.0.0.1:{port}", "localhost:{port}", "absent.invalid:50051", "127.0.0.1:99999"])
def test_where_nothing_listens_is_told_at_once(server: str):
    """With how to start one; a client would go on trying."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(CommandFailed, match="start one with 'midstream serve', or name another with --server"):
        require_server(server.format(port=port))


def test_a_server_that_accepts_is_there_and_other_names_are_for_grpc():
    """Nothing is raised; `unix:` names are not looked at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        require_server(f"127.0.0.1:{listener.getsockname()[1]}")
    require_server("unix:/run/midstream.sock")
