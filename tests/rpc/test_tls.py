"""TLS on the listener: who gets in, and what is said at the start of files that cannot be used."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives import serialization

from certificates import Authority, Identity
from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import generation_service_pb2_grpc
from midstream_client import AsyncClient, Client, RunState
from midstream_server.errors import InvalidSettings
from midstream_server.rpc.tls import TlsFiles, server_credentials
from midstream_server.settings import TlsSettings
from rpc.served import CALL_OPTIONS, PATIENCE_SECONDS, Service, settings_for, simulated_service


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Whom the clients trust."""
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Identity:
    """What the server shows."""
    return authority.issue("127.0.0.1")


def tls_of(server: Identity, clients: Authority | None = None) -> TlsSettings:
    """The settings of a listener that shows a certificate, and asks for one of `clients`."""
    client_ca_file = str(clients.file) if clients else ""
    return TlsSettings(cert_file=str(server.chain_file), key_file=str(server.key_file), client_ca_file=client_ca_file)


async def models(service: Service, credentials: grpc.ChannelCredentials | None) -> wire.ListModelsResponse:
    """A call with these credentials, or in plain text; raises AioRpcError if there is no connection."""
    target = service.target
    channel = (
        grpc.aio.secure_channel(target, credentials, options=CALL_OPTIONS)
        if credentials
        else grpc.aio.insecure_channel(target, options=CALL_OPTIONS)
    )
    async with channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        return await stub.ListModels(wire.ListModelsRequest(), timeout=PATIENCE_SECONDS)


async def refusal(service: Service, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """The status of a call that cannot connect."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models(service, credentials)
    return caught.value.code()


# --- Who gets in -----------------------------------------------------------------------------------------------------


async def test_a_client_that_trusts_the_authority_streams(authority: Authority, server: Identity):
    """Of both clients, a whole run."""
    async with simulated_service(tls=tls_of(server)) as service:
        async with AsyncClient(service.target, credentials=authority.credentials()) as client:
            run = await client.generate("sim/count-3", "hi").result()

        def threaded() -> str:
            with Client(service.target, credentials=authority.credentials()) as other:
                return other.generate("sim/count-4", "hi").result().message.parts[0].text.text

        text = await asyncio.to_thread(threaded)

    assert (RunState(run.state), run.message.parts[0].text.text) == (RunState.COMPLETED, "1 2 3")
    assert text == "1 2 3 4"


async def test_plain_text_and_strange_authorities_do_not_connect(
    authority: Authority, server: Identity, tmp_path: Path
):
    """Neither a client without TLS, nor one that trusts somebody else."""
    stranger = Authority(tmp_path, "stranger")

    async with simulated_service(tls=tls_of(server)) as service:
        assert await refusal(service, None) is grpc.StatusCode.UNAVAILABLE
        assert await refusal(service, stranger.credentials()) is grpc.StatusCode.UNAVAILABLE
        answer = await models(service, authority.credentials())

    assert answer.unreachable_upstreams == []


async def test_a_listener_with_client_authorities_lets_in_only_their_certificates(
    authority: Authority, server: Identity, tmp_path: Path
):
    """No certificate, or one of somebody else, does not connect."""
    clients, stranger = Authority(tmp_path, "clients"), Authority(tmp_path, "stranger")
    known, unknown = clients.issue("backend"), stranger.issue("intruder")

    async with simulated_service(tls=tls_of(server, clients)) as service:
        assert await refusal(service, authority.credentials()) is grpc.StatusCode.UNAVAILABLE
        assert await refusal(service, authority.credentials(unknown)) is grpc.StatusCode.UNAVAILABLE
        answer = await models(service, authority.credentials(known))

    assert answer.unreachable_upstreams == []


# --- Files that cannot be used ---------------------------------------------------------------------------------------


def test_no_certificate_is_plain_text():
    """The default."""
    assert server_credentials(TlsFiles()) is None


@pytest.mark.parametrize("setting", ["cert_file", "key_file", "client_ca_file"])
def test_a_file_that_is_not_there_is_named_with_its_setting(server: Identity, authority: Authority, setting: str):
    """Which setting, which file, and why."""
    files = {"cert_file": server.chain_file, "key_file": server.key_file, "client_ca_file": authority.file}
    files[setting] = Path("/nowhere/at.all")

    message = _complaint(**files)

    assert message == f"tls.{setting}: cannot read /nowhere/at.all: No such file or directory"


@pytest.mark.parametrize("setting", ["cert_file", "client_ca_file"])
def test_a_file_without_a_certificate_is_refused(server: Identity, authority: Authority, setting: str):
    """A key in its place would otherwise fail each handshake in silence. Nothing of it is shown."""
    files = {"cert_file": server.chain_file, "key_file": server.key_file, "client_ca_file": authority.file}
    files[setting] = server.key_file

    message = _complaint(**files)

    assert message == f"tls.{setting}: {server.key_file} holds no certificate in PEM"


def test_the_key_of_another_certificate_is_refused(authority: Authority, server: Identity):
    """Both files are in order; they do not belong together."""
    other = authority.issue("other")

    message = _complaint(cert_file=server.chain_file, key_file=other.key_file)

    assert message.startswith(f"tls.key_file: {other.key_file} is not the key")


def test_a_key_with_a_password_is_refused_without_asking(server: Identity):
    """OpenSSL would ask on the terminal, and the server would wait for ever."""
    key = serialization.load_pem_private_key(server.key_file.read_bytes(), None)
    server.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )

    message = _complaint(cert_file=server.chain_file, key_file=server.key_file)

    assert message.startswith("tls.key_file: the key is protected by a password")


async def test_a_server_with_such_files_does_not_open_its_store(server: Identity, tmp_path: Path):
    """It is said before anything else is done."""
    tls = TlsSettings(cert_file=str(server.chain_file), key_file=str(server.chain_file))
    store = tmp_path / "runs.db"

    with pytest.raises(InvalidSettings, match=r"^tls\.key_file: "):
        async with simulated_service(store=f"sqlite:///{store}", tls=tls):
            pytest.fail("it started")

    assert not store.exists()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"cert_file": "a"}, "key_file is missing"),
        ({"key_file": "a"}, "cert_file is missing"),
        ({"client_ca_file": "a"}, "client_ca_file needs cert_file and key_file"),
    ],
)
def test_settings_that_lack_a_file_are_refused(fields: dict[str, str], expected: str):
    """A certificate and its key come together; client certificates need a listener that has one."""
    with pytest.raises(ValueError, match=expected):
        TlsSettings(**fields)


def test_tls_does_not_stand_in_for_authentication():
    """A listener beyond this machine still wants `insecure`."""
    tls = TlsSettings(cert_file="a", key_file="b")

    with pytest.raises(ValueError, match="there is no authentication"):
        settings_for("http://127.0.0.1:1/v1", insecure=False, listen="0.0.0.0:0", tls=tls)


def _complaint(**files: Path) -> str:
    with pytest.raises(InvalidSettings) as caught:
        server_credentials(TlsFiles(**{name: str(path) for name, path in files.items()}))
    return caught.value.message
